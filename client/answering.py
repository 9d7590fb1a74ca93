"""How a hospital answers a message: first what it must not do, then the work, then the receipt, then the answer.

Nothing of a message is carried out before bundle, contract and policy have been looked at, and no answer leaves
before its receipt is on the disk. A refusal is an answer like others; the server goes on without this hospital.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Error, Message, RecordDict

from client.policy import Policy, read_policy
from client.receipts import describe_arrays, trained_today
from client.worker import WorkerFailed
from fl import messages
from fl.appbundle import refuse_bundle
from fl.arrays import from_record
from fl.errors import FlopsError, SettingsError
from fl.protocol import Contract, disagreement, read_contract

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from client.link import Link, Work
    from client.receipts import Receipts
    from client.worker import Worker

_log = logging.getLogger("flops.client")

KINDS = {messages.DESCRIBE: "join", messages.TRAIN: "train", messages.EVALUATE: "evaluate"}
"""Kinds of receipts by type of message."""


@dataclass
class _Job:
    """What is known of the job that messages come from.

    Attributes:
        bundle: why its bundle is refused, or None.
        policy: what the hospital allows, as its file said when the job began.
        problem: why everything is refused, or None.
    """

    bundle: str | None
    policy: Policy
    problem: str | None = None
    told: set[str] = field(default_factory=set)


class Answering:
    """Answers the messages of one job after the other.

    Args:
        contract: what this node says of itself, without the model's signature.
        worker: does the work.
        receipts: where all is written down.
        policy: the policy file, read anew for each job.
        server: the server's address, for the receipts.
    """

    def __init__(
        self, contract: Contract, worker: Worker, receipts: Receipts, policy: Path | None, server: str
    ) -> None:
        self._contract, self._worker, self._receipts = contract, worker, receipts
        self._policy_file, self._server = policy, server
        self._jobs: dict[int, _Job] = {}

    def answer(self, link: Link, work: Work) -> None:
        """Answer one message.

        Raises:
            ServerGone: the server ended meanwhile.
            FlopsError: the receipt cannot be written; nothing is sent.
        """
        job = self._job(link, work)
        if job.bundle is not None:
            # Its content is not even fetched.
            self._finish(
                link, work.message, {}, None, messages.refusal_reply(work.message, job.bundle), "bundle", 0.0
            )
            self._tell(job, job.bundle)
            return
        started, message = time.monotonic(), work.message
        config: Mapping[str, Any] = {}
        contract: Contract | None = None
        try:
            message = link.fetch(work)
            config = messages.settings_of(message.content) or {}
            contract = read_contract(config)
            reply = self._decide(link, job, message, contract)
        except FlopsError:
            raise
        except Exception as error:  # Whatever a server can make up; the node stays.
            _log.debug("the message could not be answered", exc_info=True)
            reply = messages.error_reply(message, error)
        self._announce(message, config, contract, reply)
        self._finish(link, message, config, contract, reply, None, time.monotonic() - started)

    def _decide(self, link: Link, job: _Job, message: Message, contract: Contract | None) -> Message:
        """Return the answer: a refusal, or what the work gave."""
        reason = (
            job.problem or disagreement(contract, self._contract) or self._not_allowed(link, job, message, contract)
        )
        if reason is None:
            reply = self._work(link, message)
            reason = self._keep_back(job, reply, contract)
            if reason is not None:
                reply = messages.refusal_reply(message, reason)
            elif not reply.has_error():
                reason = messages.read_refusal(reply)  # The training process knows the model, and may refuse too.
        else:
            reply = messages.refusal_reply(message, reason)
        if reason is not None:
            self._tell(job, reason)
        self._describe(job, message, reply)
        return reply

    def _job(self, link: Link, work: Work) -> _Job:
        if work.run_id not in self._jobs:
            problem, policy = None, Policy()
            if self._policy_file is not None:
                try:
                    policy = read_policy(self._policy_file)
                except SettingsError as error:
                    problem = "the hospital's policy file cannot be read"
                    _log.error("%s; everything is refused until it is mended", error)
            _, bundle = link.bundle(work.run_id)
            self._jobs = {work.run_id: _Job(refuse_bundle(bundle), policy, problem)}  # The last job's is forgotten.
        return self._jobs[work.run_id]

    def _not_allowed(self, link: Link, job: _Job, message: Message, contract: Contract | None) -> str | None:
        """Say why the policy forbids a message before anything is done about it."""
        kind = message.metadata.message_type
        if kind not in KINDS:
            return f"this node answers no messages of type '{kind}'"
        if contract is not None:
            joining = kind == messages.DESCRIBE or not job.policy.min_examples
            # Whoever joins learns it from the answer; a server that passes joining over must not get around it.
            most = 2**62 if joining else self._count_examples(link, message)
            reason = job.policy.refuse_join(contract.task, contract.release.commit, contract.release.image, most)
            if reason is not None:
                return reason
        if kind == messages.TRAIN:
            return job.policy.refuse_training(trained_today(self._receipts.path))
        return None

    def _count_examples(self, link: Link, message: Message) -> int:
        config = ConfigRecord({**messages.read_config(message), "statistics": False})
        question = Message(
            RecordDict({messages.CONFIG: config}),
            dst_node_id=message.metadata.dst_node_id,
            message_type=messages.DESCRIBE,
            ttl=message.metadata.ttl,
        )
        reply = self._work(link, question)
        if reply.has_error() or messages.read_refusal(reply) is not None:
            return 0
        return int(messages.read_metrics(reply)[messages.EXAMPLES])

    def _keep_back(self, job: _Job, reply: Message, contract: Contract | None) -> str | None:
        """Say why a result does not leave: the hospital has too few examples."""
        if reply.has_error() or reply.metadata.message_type == messages.EVALUATE or contract is None:
            return None
        if messages.read_refusal(reply) is not None:
            return None
        examples = int(messages.read_metrics(reply)[messages.EXAMPLES])
        return job.policy.refuse_join(contract.task, contract.release.commit, contract.release.image, examples)

    def _work(self, link: Link, message: Message) -> Message:
        link.working(True)
        try:
            return self._worker.call(message, message.metadata.ttl, unwanted=link.replaced.is_set)
        except WorkerFailed as error:
            return messages.error_reply(message, error)
        finally:
            link.working(False)

    def _describe(self, job: _Job, message: Message, reply: Message) -> None:
        """Tell the server where this hospital evaluates alone."""
        joined = message.metadata.message_type == messages.DESCRIBE and not reply.has_error()
        if joined and job.policy.evaluation_only and messages.METRICS in reply.content:
            reply.content.metric_records[messages.METRICS]["trains"] = 0

    def _announce(
        self, message: Message, config: Mapping[str, Any], contract: Contract | None, reply: Message
    ) -> None:
        """Log what this hospital takes part in, and what it did."""
        if reply.has_error():
            _log.warning("%s failed: %s", KINDS.get(message.metadata.message_type, "?"), reply.error.reason)
        elif message.metadata.message_type == messages.DESCRIBE and messages.read_refusal(reply) is None:
            examples = int(messages.read_metrics(reply)[messages.EXAMPLES])
            _log.info(
                "takes part with %d examples: task %s, model %s version %s, server release %s",
                examples,
                self._contract.task,
                config.get("model", "?"),
                config.get("model-version", 0) or "none yet",
                contract.release if contract else "?",
            )

    def _finish(
        self,
        link: Link,
        message: Message,
        config: Mapping[str, Any],
        contract: Contract | None,
        reply: Message,
        kind: str | None,
        seconds: float,
    ) -> None:
        """Write the receipt, then send the reply."""
        refused = None if reply.has_error() else messages.read_refusal(reply)
        entry: dict[str, Any] = {
            "kind": kind or KINDS.get(message.metadata.message_type, message.metadata.message_type),
            "server": {
                "address": self._server,
                "commit": contract.release.commit if contract else "",
                "image": contract.release.image if contract else "",
                "version": contract.release.version if contract else "",
            },
            "model": {"name": _plain(config.get("model", "")), "version": _plain(config.get("model-version", 0))},
            "round": _plain(config.get("server-round", 0)),
            "received": _arrays(message),
            "sent": [] if reply.has_error() else _arrays(reply),
            "examples": 0,
            "result": "done",
            "reason": "",
            "seconds": round(seconds, 3),
        }
        if reply.has_error():
            entry |= {"result": "failed", "reason": reply.error.reason or ""}
        elif refused is not None:
            entry |= {"result": "refused", "reason": refused}
        else:
            metrics = messages.read_metrics(reply)
            entry |= {"examples": int(metrics.get(messages.EXAMPLES, 0)), "metrics": metrics}
            if messages.CHAMPION + messages.METRICS in reply.content:
                entry["champion_metrics"] = messages.read_metrics(reply, messages.CHAMPION + messages.METRICS)
        self._receipts.append(entry)
        link.reply(_discreet(message, reply))

    @staticmethod
    def _tell(job: _Job, reason: str) -> None:
        if reason not in job.told:
            job.told.add(reason)
            _log.warning("refused: %s", reason)


def _discreet(message: Message, reply: Message) -> Message:
    """Return what of a reply may leave: of an error its kind alone. Its words may quote a cell of a patient's row."""
    if not reply.has_error():
        return reply
    kind, _, words = (reply.error.reason or "error").partition(":")
    ours = kind == WorkerFailed.__name__  # Says how the process ended, and nothing of what it worked on.
    told = f"{kind}:{words}" if ours else f"{kind}; the hospital's own log and receipts say more"
    return Message(Error(reply.error.code, told), reply_to=message)


def _arrays(message: Message) -> list[dict[str, Any]]:
    """List a message's arrays: names, shapes, dtypes, bytes, L2 norms; what cannot be read is listed as that."""
    if not message.has_content():
        return []
    found: list[dict[str, Any]] = []
    for record, arrays in message.content.array_records.items():
        try:
            found += [{**entry, "record": record} for entry in describe_arrays(from_record(arrays))]
        except Exception as error:
            found.append({"name": "", "record": record, "unreadable": type(error).__name__})
    return found


def _plain(value: Any) -> str | int:
    """Return what a server said as a receipt can hold it."""
    return value if isinstance(value, int) else str(value)[:200]


__all__ = ["KINDS", "Answering"]
