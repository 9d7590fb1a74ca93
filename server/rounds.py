"""The aggregation rounds: what the global server does with a grid, whatever the grid is.

One round is: choose hospitals, send weights, take their answers, aggregate, evaluate. `Federation.run` reads
as these steps. It keeps nothing on disk and knows no registry: observers are told of each round.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from fl import messages
from fl.arrays import from_record, to_record
from fl.data.schema import TableSchema
from fl.data.statistics import add_sums, normalisation
from fl.errors import ClientFailure, DivergenceError, FlopsError
from fl.model import ModelState, conform
from fl.training import Evaluation, TrainSettings
from server.grid import ChosenNodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg
    from numpy.typing import NDArray

    from fl.messages import SiteDescription
    from fl.tasks.base import Hyperparameters, Task


_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class RoundRecord:
    """What one round gave.

    Attributes:
        round: from 1.
        train_loss: each participating site's mean training loss.
        evaluation: over all sites' hold-out data together.
        sites: each site's own evaluation.
        train_seconds: from the first weights sent to the aggregate.
        seconds: the whole round, evaluation included.
    """

    round: int
    train_loss: Mapping[str, float]
    evaluation: Evaluation
    sites: Mapping[str, Evaluation]
    train_seconds: float
    seconds: float


class Observer(Protocol):
    """Is told what happens; may raise to stop the rounds."""

    def joined(self, sites: Sequence[SiteDescription]) -> None:
        """All hospitals have described themselves."""

    def round_done(self, record: RoundRecord) -> None:
        """A round is complete."""


@dataclass(frozen=True)
class Plan:
    """What to do in a job.

    Attributes:
        task: what is learned.
        rounds: how many federated rounds.
        hyperparameters: how hospitals train.
        fraction: the part of the hospitals that trains in a round, above 0 to 1; at least one does.
        seed: fixes who is chosen and how they shuffle.
        settle_statistics: ask for column sums and derive the model's statistics; for the very first weights.
        hospitals: how many must be there before the first round.
        timeout: seconds to wait for hospitals, and for a round's answers.
    """

    task: Task
    rounds: int
    hyperparameters: Hyperparameters
    fraction: float = 1.0
    seed: int = 0
    settle_statistics: bool = False
    hospitals: int = 1
    timeout: float = 3600.0


def cohort_size(sites: int, fraction: float) -> int:
    """Return how many of the sites take part in a round."""
    return max(1, round(sites * fraction))


@dataclass
class Federation:
    """A job's rounds over a grid.

    Attributes:
        plan: what to do.
        strategy: Flower's strategy.
        state: the model; after `run` the last round's aggregate.
        observer: is told of each step.
    """

    plan: Plan
    strategy: FedAvg
    state: ModelState
    observer: Observer
    report_initial_loss: bool = False
    _names: dict[int, str] = field(default_factory=dict)

    def run(self, grid: Grid) -> ModelState:
        """Run all rounds and return the global model.

        Raises:
            ClientFailure: a hospital answered with an error, or not in time.
            DivergenceError: a loss or weight is not finite; names the hospital.
        """
        # 1. Who is here, and what the statistics of all their data are.
        descriptions = self._describe(grid)
        self.observer.joined(descriptions)
        for number in range(1, self.plan.rounds + 1):
            started = time.perf_counter()
            # 2. Whom to ask in this round.
            chosen = self._choose(number)
            # 3. Weights out, local training, weights back.
            replies = self._exchange(grid, self._train_messages(grid, number, chosen), f"round {number}")
            losses = self._check(number, replies)
            # 4. The aggregate is the new global model.
            self.state = self._aggregate(number, replies)
            trained = time.perf_counter()
            # 5. How good it is on what each hospital held out.
            sites = self._evaluate(grid, number)
            self.observer.round_done(
                RoundRecord(
                    number,
                    losses,
                    pool_evaluations(sites.values()),
                    sites,
                    trained - started,
                    time.perf_counter() - started,
                )
            )
        return self.state

    def _describe(self, grid: Grid) -> list[SiteDescription]:
        config = ConfigRecord({"statistics": self.plan.settle_statistics})
        content = RecordDict({messages.CONFIG: config})
        nodes = self._wait_for_nodes(grid)
        replies = self._exchange(
            grid,
            [Message(content, dst_node_id=node, message_type=messages.DESCRIBE) for node in nodes],
            "the first question",
        )
        described = {r.metadata.src_node_id: messages.read_description(r) for r in replies}
        # By name, because a runtime may number its nodes at random.
        self._names = {node: site.name for node, site in sorted(described.items(), key=lambda item: item[1].name)}
        if len(set(self._names.values())) < len(self._names):
            raise FlopsError("two hospitals have the same name")
        descriptions = [described[node] for node in self._names]
        schema = self.plan.task.schema
        if self.plan.settle_statistics and isinstance(schema, TableSchema):
            sums = add_sums(d.sums for d in descriptions if d.sums is not None)
            frozen = conform(normalisation(sums, schema), self.state.frozen) if self.state.frozen else {}
            self.state = replace(self.state, frozen=frozen)
        return descriptions

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        deadline = time.monotonic() + self.plan.timeout
        while len(nodes := sorted(grid.get_node_ids())) < self.plan.hospitals:
            if time.monotonic() > deadline:
                raise FlopsError(
                    f"{len(nodes)} of {self.plan.hospitals} hospitals came within {self.plan.timeout:g} s"
                )
            time.sleep(_POLL_SECONDS)
        return nodes

    def _choose(self, number: int) -> list[int]:
        nodes = list(self._names)
        size = cohort_size(len(nodes), self.plan.fraction)
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
        configured = self.strategy.configure_train(
            number, to_record(self.state.arrays), messages.train_config(settings), ChosenNodes(grid, chosen)
        )
        order = {node: position for position, node in enumerate(chosen)}
        ready = sorted(configured, key=lambda message: order[message.metadata.dst_node_id])
        records = messages.state_records(self.state)
        for message in ready:
            for name in records.keys() - {messages.ARRAYS}:  # The strategy has set these.
                message.content[name] = records[name]
        return ready

    def _exchange(self, grid: Grid, requests: Sequence[Message], what: str) -> list[Message]:
        """Send messages and return the replies in the same order."""
        replies = {
            reply.metadata.src_node_id: reply for reply in grid.send_and_receive(requests, timeout=self.plan.timeout)
        }
        ordered = []
        for request in requests:
            node = request.metadata.dst_node_id
            name = self._names.get(node, f"node {node}")
            reply = replies.get(node)
            if reply is None:
                raise ClientFailure(f"{name} did not answer {what} within {self.plan.timeout:g} s")
            if reply.has_error():
                raise ClientFailure(f"{name} failed in {what}: {reply.error.reason}")
            ordered.append(reply)
        return ordered

    def _check(self, number: int, replies: Sequence[Message]) -> dict[str, float]:
        losses = {}
        for reply in replies:
            name, metrics = messages.site_name(reply), messages.read_metrics(reply)
            losses[name] = metrics[messages.LOSS]
            finite = all(np.isfinite(array).all() for array in messages.read_state(reply).merged().values())
            if not finite or not math.isfinite(losses[name]):
                what = f"loss {losses[name]:g}" if finite else "weights that are not finite"
                raise DivergenceError(
                    f"round {number}: {name} returned {what}; nothing is registered. "
                    f"Lower the learning rate (now {self.plan.hyperparameters.lr:g})"
                )
        return losses

    def _aggregate(self, number: int, replies: Sequence[Message]) -> ModelState:
        buffers = self._average_buffers(replies)
        aggregated, _ = self.strategy.aggregate_train(number, replies)
        if aggregated is None:
            raise FlopsError(f"round {number}: the strategy could not aggregate {len(replies)} answers")
        arrays = conform(from_record(aggregated), self.state.arrays)
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise DivergenceError(
                f"round {number}: the strategy made weights that are not finite; nothing is registered. "
                "Lower its learning rate"
            )
        return ModelState(arrays, self.state.frozen, buffers)

    def _average_buffers(self, replies: Sequence[Message]) -> dict[str, NDArray[Any]]:
        """Average buffers by examples, and take them out of the replies: a strategy expects parameters alone."""
        if not self.state.buffers:
            return {}
        examples = [messages.read_metrics(reply)[messages.EXAMPLES] for reply in replies]
        received = [from_record(reply.content.array_records[messages.BUFFERS]) for reply in replies]
        for reply in replies:
            del reply.content[messages.BUFFERS]
        means = {
            name: np.average([arrays[name] for arrays in received], axis=0, weights=examples)
            for name in self.state.buffers
        }
        return conform(means, self.state.buffers)

    def _evaluate(self, grid: Grid, number: int) -> dict[str, Evaluation]:
        content = RecordDict(
            {**messages.state_records(self.state), messages.CONFIG: ConfigRecord({"server-round": number})}
        )
        requests = [Message(content, dst_node_id=node, message_type=messages.EVALUATE) for node in self._names]
        replies = self._exchange(grid, requests, f"the evaluation of round {number}")
        sites = {messages.site_name(reply): messages.read_evaluation(reply) for reply in replies}
        for name, evaluation in sites.items():
            if evaluation.examples and not math.isfinite(evaluation.loss):
                raise DivergenceError(
                    f"round {number}: the global model's loss at {name} is {evaluation.loss:g}; nothing is "
                    f"registered. Lower the learning rate (now {self.plan.hyperparameters.lr:g})"
                )
        return sites


def pool_evaluations(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Combine sites' evaluations as if their examples were one data set; sites without examples are left out."""
    counted = [e for e in evaluations if e.examples]
    total = sum(e.examples for e in counted)
    if not total:
        return Evaluation(0, float("nan"), {})

    def mean(values: Iterable[float]) -> float:
        return sum(v * e.examples for v, e in zip(values, counted, strict=True)) / total

    return Evaluation(
        total,
        mean(e.loss for e in counted),
        {name: mean(e.metrics[name] for e in counted) for name in counted[0].metrics},
    )
