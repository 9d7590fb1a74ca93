"""The federated rounds of a job, whatever the grid is.

One round is: choose hospitals, send weights, take their answers, aggregate, evaluate. `Federation.run` reads
as these steps. It keeps nothing on disk and knows no registry: observers are told of each round.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fl import messages
from fl.arrays import to_record
from fl.console import count
from fl.data.schema import TableSchema
from fl.data.statistics import add_sums, normalisation
from fl.errors import ClientFailure, DivergenceError, FlopsError
from fl.model import ModelState, conform
from fl.protocol import disagreement, read_contract
from fl.training import Evaluation, TrainSettings
from server.aggregation import Everything, Mean
from server.exchange import Answer, exchange
from server.grid import ChosenNodes
from server.intake import Checked, Rejected, check_description, check_evaluation, check_training
from server.norms import NormJudge, TooLarge, model_norms
from server.plan import cohort_size
from server.records import LeftOut, RoundRecord, TooFewHospitals, pool_evaluations
from server.sums import outlying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg

    from fl.messages import SiteDescription
    from server.aggregation import Aggregation
    from server.plan import Plan
    from server.records import Observer


_POLL_SECONDS = 0.02

_Found = TypeVar("_Found")

_log = logging.getLogger("flops.server")


@dataclass
class Federation:
    """A job's rounds over a grid.

    Attributes:
        plan: what to do.
        strategy: Flower's strategy.
        state: the model; after a round its aggregate.
        observer: is told of each step.
        report_initial_loss: hospitals report the received weights' loss too.
        keep_all: the strategy compares answers, so all are kept until the last has come.
        names: the hospitals' names by node where the runtime knows them; else they say them.
        on_left_out: is told whom the job goes on without.
        champion: returns the served model, which hospitals compare the last round's with; None for no comparison.
    """

    plan: Plan
    strategy: FedAvg
    state: ModelState
    observer: Observer
    report_initial_loss: bool = False
    keep_all: bool = False
    names: Mapping[int, str] | None = None
    on_left_out: Callable[[LeftOut], None] = lambda _: None
    champion: Callable[[], ModelState | None] = lambda: None
    _sites: dict[int, SiteDescription] = field(default_factory=dict)
    _asked: set[int] = field(default_factory=set)
    _silent: set[int] = field(default_factory=set)
    _settled: bool = False

    def run(self, grid: Grid) -> ModelState:
        """Run all rounds and return the global model.

        Raises:
            ClientFailure: a hospital answered with an error, or not in time.
            DivergenceError: a loss or weight is not finite; names the hospital.
            TooFewHospitals: fewer came than the plan needs.
        """
        # 1. Who is here, and what the statistics of all their data are.
        self._gather(grid)
        self.observer.joined(list(self._sites.values()))
        for number in range(1, self.plan.rounds + 1):
            started = time.perf_counter()
            # 2. Whom to ask in this round.
            if number > 1 and self.plan.tolerant:
                self._admit(grid)
            self._silent.clear()
            chosen = self._choose(number, grid)
            # 3. Weights out, local training, weights back: each answer checked and folded in as it comes.
            aggregation, used = self._train(grid, number, chosen)
            # 4. The aggregate is the new global model.
            state = self._aggregate(number, aggregation)
            trained = time.perf_counter()
            # 5. How good it is on what each hospital held out; at the end beside the model that is served now.
            measured = self._evaluate(grid, number, state, self.champion() if number == self.plan.rounds else None)
            sites = {name: found for name, (found, _) in measured.items()}
            self.state = state
            self.observer.round_done(
                RoundRecord(
                    number,
                    {self._name(c.node): c.loss for c in used},
                    pool_evaluations(sites.values()),
                    sites,
                    trained - started,
                    time.perf_counter() - started,
                    {self._name(c.node): c.examples for c in used},
                    {name: compared for name, (_, compared) in measured.items() if compared is not None},
                )
            )
        return self.state

    def _name(self, node: int) -> str:
        if self.names is not None:
            return self.names.get(node, f"node {node}")
        return self._sites[node].name if node in self._sites else f"node {node}"

    def _gather(self, grid: Grid) -> None:
        """Wait for hospitals, ask them to join, and settle the statistics."""
        joining, began = self.plan.joining, time.monotonic()
        newest, timed_out = began, False
        while True:
            before = len(self._sites)
            self._admit(grid)
            if len(self._sites) > before:
                newest = time.monotonic()
            enough = self._trainers() >= self.plan.hospitals
            all_here = joining.expected is not None and len(self._asked) >= joining.expected
            if enough and (all_here or timed_out or time.monotonic() - newest >= joining.grace):
                break
            if timed_out or (all_here and self.plan.tolerant):  # Nobody is left to come.
                wanted = count(self.plan.hospitals, "hospital")
                when = (
                    f"came within {joining.timeout:g} s"
                    if timed_out
                    else "take part, and all on the list have answered"
                )
                raise TooFewHospitals(f"{self._trainers()} of {wanted} {when}: {self._who_came()}")
            time.sleep(_POLL_SECONDS)
            timed_out = time.monotonic() - began > joining.timeout
        # By name, because a runtime may number its nodes at random.
        self._sites = dict(sorted(self._sites.items(), key=lambda item: item[1].name))
        if len({site.name for site in self._sites.values()}) < len(self._sites):
            raise FlopsError("two hospitals have the same name")
        self._leave_out_outlying()
        self._settle_statistics()

    def _leave_out_outlying(self) -> None:
        """Go on without hospitals whose columns are of another order than the others'."""
        schema = self.plan.task.schema
        if not (self.plan.tolerant and self.plan.settle_statistics and isinstance(schema, TableSchema)):
            return
        found = {node: site.sums for node, site in self._sites.items() if site.sums is not None}
        for node, reason in outlying(found, schema).items():
            self._leave_out(node, "the first question", reason)
            del self._sites[node]
        if self._trainers() < self.plan.hospitals:
            wanted = count(self.plan.hospitals, "hospital")
            raise TooFewHospitals(f"{self._trainers()} of {wanted} can take part: {self._who_came()}")

    def _who_came(self) -> str:
        """List who is here, and who was and does not take part."""
        came = [site.name if site.trains else f"{site.name} (evaluates only)" for site in self._sites.values()]
        came += [f"{self._name(node)} (left out)" for node in self._asked if node not in self._sites]
        return ", ".join(sorted(came)) or "nobody"

    def _trainers(self) -> int:
        return sum(site.trains for site in self._sites.values())

    def _admit(self, grid: Grid) -> None:
        """Ask those who are new to join."""
        new = sorted(set(grid.get_node_ids()) - self._asked)
        if not new or (not self.plan.tolerant and len(new) < self.plan.hospitals):
            return
        self._asked.update(new)
        config = ConfigRecord({**self.plan.entries, "statistics": self.plan.settle_statistics and not self._settled})
        content = RecordDict({messages.CONFIG: config})
        requests = [Message(content, dst_node_id=node, message_type=messages.DESCRIBE) for node in new]
        schema = self.plan.task.schema
        table = schema if config["statistics"] and isinstance(schema, TableSchema) else None
        seconds = self.plan.joining.timeout if self.plan.tolerant else self.plan.timeout
        read = partial(check_description, schema=table) if self.plan.tolerant else messages.read_description
        for node, told in self._replies(grid, requests, "the first question", read, seconds):
            described = told if self.names is None else replace(told, name=self._name(node))
            # A client that is too old to know that it does not fit is found here.
            ours, theirs = read_contract(self.plan.entries), described.contract
            reason = None if ours is None or theirs is None else disagreement(ours, theirs)
            if reason is not None:
                self._leave_out(node, "the first question", reason, refused=True)
                continue
            self._sites[node] = described

    def _settle_statistics(self) -> None:
        schema = self.plan.task.schema
        if self.plan.settle_statistics and isinstance(schema, TableSchema) and self.state.frozen:
            sums = add_sums(site.sums for site in self._sites.values() if site.sums is not None)
            self.state = replace(self.state, frozen=conform(normalisation(sums, schema), self.state.frozen))
        self._settled = True

    def _choose(self, number: int, grid: Grid) -> list[int]:
        nodes = [node for node, site in self._sites.items() if site.trains]
        if self.plan.tolerant and self.plan.fraction < 1:
            # Where a part of them is asked, not those that are known to be gone; where all are, it is said who is.
            here = set(grid.get_node_ids())
            nodes = [node for node in nodes if node in here] or nodes
        size = cohort_size(len(nodes), self.plan.fraction)
        if self.plan.tolerant:
            size = max(size, min(self.plan.hospitals, len(nodes)))
        if size == len(nodes):
            return nodes
        rng = np.random.default_rng([self.plan.seed, number])
        return [nodes[i] for i in sorted(rng.choice(len(nodes), size, replace=False))]

    def _train_messages(self, grid: Grid, number: int, chosen: Sequence[int]) -> list[Message]:
        h = self.plan.hyperparameters
        settings = TrainSettings(
            number,
            self.plan.seed,
            h.local_epochs,
            h.batch_size,
            h.lr,
            h.momentum,
            h.weight_decay,
            report_initial_loss=self.report_initial_loss,
        )
        config = ConfigRecord({**messages.train_config(settings), **self.plan.entries})
        configured = self.strategy.configure_train(
            number, to_record(self.state.arrays), config, ChosenNodes(grid, chosen)
        )
        order = {node: position for position, node in enumerate(chosen)}
        ready = sorted(configured, key=lambda message: order[message.metadata.dst_node_id])
        records = messages.state_records(self.state)
        for message in ready:
            for name in records.keys() - {messages.ARRAYS}:  # The strategy has set these.
                message.content[name] = records[name]
        return ready

    def _train(self, grid: Grid, number: int, chosen: Sequence[int]) -> tuple[Aggregation, list[Checked]]:
        """Have the chosen hospitals train; returns what their answers make and what is known of those used."""
        step = f"round {number}"
        requests = self._train_messages(grid, number, chosen)
        rank = list(self._sites).index
        aggregation: Aggregation = Everything(self.state, rank) if self.keep_all else Mean(self.state, requests[0])
        ratio = self.plan.norm_ratio
        judge = NormJudge(len(requests), ratio, {} if math.isinf(ratio) else model_norms(self.state))
        waiting: list[tuple[Checked, Answer]] = []
        used: list[Checked] = []

        def fold(*, last: bool) -> None:
            known = [(checked, answer) for checked, answer in waiting if last or judge.certain(checked.node)]
            for item in known:
                waiting.remove(item)
                checked, answer = item
                try:
                    judge.judge(checked.node)
                    reply = self._reread(answer)
                except (TooLarge, Rejected) as error:
                    self._leave_out(checked.node, step, str(error))
                else:
                    aggregation.add(checked, reply)
                    used.append(checked)
                answer.drop()

        def check(reply: Message) -> Checked:
            most = self._sites[reply.metadata.src_node_id].examples
            return check_training(reply, self.state, most, initial_loss=self.report_initial_loss)

        answers = exchange(grid, requests, self.plan.timeout)
        del requests  # The weights are with the grid now; here they would be held twice.
        for answer in answers:
            try:
                checked = self._read(answer, step, check)
            except _Ignored:
                judge.asked -= 1
                continue
            answer.release()
            judge.note(checked.node, checked.norms)
            waiting.append((checked, answer))
            fold(last=False)
        fold(last=True)
        if len(used) < self.plan.hospitals and self.plan.tolerant:
            raise FlopsError(
                f"{step}: {count(len(used), 'hospital')} gave a usable answer, {self.plan.hospitals} are needed"
            )
        used.sort(key=lambda checked: rank(checked.node))
        return aggregation, used

    @staticmethod
    def _reread(answer: Answer) -> Message:
        """Return a checked answer's message once more."""
        try:
            return answer.read()
        except Exception as error:
            _log.debug("an answer could not be read again", exc_info=True)
            raise Rejected(f"returned an answer that was gone when it counted: {type(error).__name__}") from error

    def _aggregate(self, number: int, aggregation: Aggregation) -> ModelState:
        parameters, buffers = aggregation.result(self.strategy, number)
        arrays = conform(parameters, self.state.arrays)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise DivergenceError(
                f"round {number}: the strategy made weights that are not finite; nothing is registered. "
                "Lower its learning rate"
            )
        return ModelState(arrays, self.state.frozen, conform(buffers, self.state.buffers))

    def _evaluate(
        self, grid: Grid, number: int, state: ModelState, champion: ModelState | None
    ) -> dict[str, tuple[Evaluation, Evaluation | None]]:
        """Have all hospitals measure the model, and the served one beside it; returns both by hospital."""
        config = ConfigRecord({**self.plan.entries, "server-round": number})
        beside = {} if champion is None else messages.state_records(champion, messages.CHAMPION)
        content = RecordDict({**messages.state_records(state), **beside, messages.CONFIG: config})
        step = f"the evaluation of round {number}"
        # Who kept silent in training is not waited for once more.
        asked = [node for node in self._sites if node not in self._silent]
        requests = [Message(content, dst_node_id=node, message_type=messages.EVALUATE) for node in asked]

        compares = champion is not None

        def read(reply: Message) -> tuple[Evaluation, Evaluation | None]:
            compared = self._compared(reply) if compares else None
            if not self.plan.tolerant:
                return messages.read_evaluation(reply), compared
            most = self._sites[reply.metadata.src_node_id].holdout
            return check_evaluation(reply, self.plan.task, most), compared

        # Two models take twice the time to be measured; the grid has them now, and here they need not stay.
        seconds = self.plan.timeout if champion is None else 2 * self.plan.timeout
        del champion, beside, content
        found = dict(self._replies(grid, requests, step, read, seconds))
        if self.plan.tolerant and not found:
            raise FlopsError(f"{step}: no hospital gave a usable answer")
        for node, (evaluation, _) in found.items():
            if evaluation.examples and not math.isfinite(evaluation.loss):
                raise self._diverged(number, f"the global model's loss at {self._name(node)} is {evaluation.loss:g}")
        return {self._name(node): found[node] for node in self._sites if node in found}

    def _compared(self, reply: Message) -> Evaluation | None:
        """Return what a hospital measured of the served model; None where it did not, or cannot have."""
        node = reply.metadata.src_node_id
        reason = "its client may be of an older release"
        try:
            if messages.CHAMPION + messages.METRICS in reply.content:
                found = check_evaluation(reply, self.plan.task, self._sites[node].holdout, messages.CHAMPION)
                return found if found.examples else None
        except Exception as error:  # That hospital compares nothing then; what it measured of the candidate counts.
            _log.debug("a comparison could not be read", exc_info=True)
            reason = f"it {error}" if isinstance(error, Rejected) else type(error).__name__
        _log.warning("%s did not measure the champion: %s", self._name(node), reason)
        return None

    def _replies(
        self, grid: Grid, requests: Sequence[Message], step: str, read: Callable[[Message], _Found], seconds: float
    ) -> Iterator[tuple[int, _Found]]:
        """Send small questions and yield who answered, and what, for the answers that can be used."""
        for answer in exchange(grid, requests, seconds):
            try:
                yield answer.node, self._read(answer, step, read)
            except _Ignored:
                continue
            finally:
                answer.drop()

    def _read(self, answer: Answer, step: str, read: Callable[[Message], _Found]) -> _Found:
        """Return what an answer says; raises `_Ignored` when it is left out."""
        try:
            return read(self._usable(answer, step))
        except (_Ignored, FlopsError):
            raise
        except Rejected as error:
            rejected = error
        except Exception as error:  # Whatever a hospital can make up.
            _log.debug("an answer could not be read", exc_info=True)
            rejected = Rejected(f"returned an answer that cannot be read: {error}")
        self._reject(answer, step, rejected)
        raise _Ignored

    def _usable(self, answer: Answer, step: str) -> Message:
        """Return an answer's reply if it is a result; raises `_Ignored` when it is left out."""
        reply, node = answer.message, answer.node
        if reply is None:
            self._silent.add(node)
            if answer.anew:
                self._asked.discard(node)
            self._leave_out(node, step, answer.problem)
        elif reply.has_error():
            self._leave_out(node, step, f"failed: {reply.error.reason}", str(reply.error.reason))
        elif (reason := messages.read_refusal(reply)) is not None:
            self._leave_out(node, step, reason, refused=True)
        else:
            return reply
        answer.drop()
        raise _Ignored

    def _reject(self, answer: Answer, step: str, error: Rejected) -> None:
        answer.drop()
        if error.diverged and not self.plan.tolerant:
            raise self._diverged(int(step.rsplit(maxsplit=1)[-1]), f"{self._name(answer.node)} {error}")
        self._leave_out(answer.node, step, str(error))

    def _leave_out(self, node: int, step: str, problem: str, failed: str = "", *, refused: bool = False) -> None:
        """Go on without an answer, or end the job where that is not wanted."""
        name, problem = self._name(node), " ".join(problem.split())[:500]
        if not self.plan.tolerant:
            if failed:
                raise ClientFailure(f"{name} failed in {step}: {failed}")
            if refused:
                raise ClientFailure(f"{name} refused {step}: {problem}")
            raise ClientFailure(f"{name}, {step}: it {problem}")
        self.on_left_out(LeftOut(name, step, problem, refused))

    def _diverged(self, number: int, what: str) -> DivergenceError:
        return DivergenceError(
            f"round {number}: {what}; nothing is registered. "
            f"Lower the learning rate (now {self.plan.hyperparameters.lr:g})"
        )


class _Ignored(Exception):  # noqa: N818 - never leaves this module
    """An answer was left out."""
