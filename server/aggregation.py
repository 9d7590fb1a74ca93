"""From answers to the next global model, in memory that does not grow with the hospitals where that can be.

Most strategies need only the weighted mean of the answers: `Mean` folds each into it and lets it go, and hands the
strategy the mean as if one hospital had sent it. Those that compare answers with each other need `Everything`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.serverapp.strategy import FedAvg

from fl import messages
from fl.arrays import from_record, to_record
from fl.errors import FlopsError
from fl.model import conform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from fl.model import ModelState
    from server.intake import Checked

    Arrays = Mapping[str, NDArray[Any]]


class Aggregation(Protocol):
    """Collects a round's answers."""

    def add(self, checked: Checked, reply: Message) -> None:
        """Take an answer that was checked."""

    def result(self, strategy: FedAvg, number: int) -> tuple[Arrays, Arrays]:
        """Return the new parameters and buffers; they may have other dtypes than the model.

        Raises:
            FlopsError: the strategy made nothing of them.
        """


class WeightedMean:
    """A mean of arrays weighted by examples, kept in double precision."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._weight = 0.0

    def add(self, arrays: Arrays, weight: float) -> None:
        """Fold arrays in."""
        for name, array in arrays.items():
            if name not in self._sums:
                self._sums[name] = np.zeros(array.shape, np.float64)
            flat, total = array.reshape(-1), self._sums[name].reshape(-1)
            for start in range(0, flat.size, _PIECE):
                piece = slice(start, start + _PIECE)
                total[piece] += weight * flat[piece].astype(np.float64)
        self._weight += weight

    def take(self, like: Arrays) -> Arrays:
        """Return the mean with the dtypes of the model, and forget it."""
        means: dict[str, NDArray[Any]] = {}
        for name in list(self._sums):
            total = self._sums.pop(name)
            total /= self._weight
            means |= conform({name: total}, {name: like[name]})
        return means


_PIECE = 2**15
"""Elements that are folded at a time."""


class Mean:
    """Folds answers into their mean as they come."""

    def __init__(self, base: ModelState, request: Message) -> None:
        """Begin with nothing.

        Args:
            base: the model that was sent.
            request: one of the round's messages, which the mean pretends to answer.
        """
        # Without its content: the weights would be held for as long as the answers are awaited.
        self._base, self._request = base, remove_content_from_message(request)
        self._parameters, self._buffers = WeightedMean(), WeightedMean()
        self._metrics, self._examples = WeightedMean(), 0

    def add(self, checked: Checked, reply: Message) -> None:
        """Fold an answer in."""
        content = reply.content
        for mean, name in ((self._parameters, messages.ARRAYS), (self._buffers, messages.BUFFERS)):
            record = messages.arrays_of(content, name)
            if record is not None:
                mean.add(from_record(record), checked.examples)
        self._metrics.add({messages.LOSS: np.asarray(checked.loss)}, checked.examples)
        self._examples += checked.examples

    def result(self, strategy: FedAvg, number: int) -> tuple[Arrays, Arrays]:
        """Hand the mean to the strategy; see `Aggregation`."""
        if type(strategy).aggregate_train is FedAvg.aggregate_train:
            # The mean of one is that one, and Flower would make three copies to find out.
            return self._parameters.take(self._base.arrays), self._buffers.take(self._base.buffers)
        loss = float(self._metrics.take({messages.LOSS: np.asarray(0.0)})[messages.LOSS])
        content = RecordDict(
            {
                messages.ARRAYS: to_record(self._parameters.take(self._base.arrays)),
                messages.METRICS: MetricRecord({messages.EXAMPLES: self._examples, messages.LOSS: loss}),
                messages.SITE: ConfigRecord({"name": "mean"}),
            }
        )
        mean = Message(content, reply_to=self._request)
        made = _aggregate(strategy, number, [mean])
        content.clear()  # Strategies leave it in a circle of references; see `fl.messages.arrays_of`.
        return made, self._buffers.take(self._base.buffers)


class Everything:
    """Keeps all answers, for a strategy that compares them."""

    def __init__(self, base: ModelState, rank: Callable[[int], int]) -> None:
        """Begin with nothing.

        Args:
            base: the model that was sent.
            rank: the place of a node; answers are aggregated in this order, so that sums round alike.
        """
        self._base, self._rank = base, rank
        self._replies: list[Message] = []
        self._buffers = WeightedMean()

    def add(self, checked: Checked, reply: Message) -> None:
        """Keep an answer."""
        buffers = messages.arrays_of(reply.content, messages.BUFFERS)
        if buffers is not None:
            self._buffers.add(from_record(buffers), checked.examples)
        self._replies.append(reply)

    def result(self, strategy: FedAvg, number: int) -> tuple[Arrays, Arrays]:
        """Hand all answers to the strategy; see `Aggregation`."""
        replies = sorted(self._replies, key=lambda reply: self._rank(reply.metadata.src_node_id))
        told = [reply.content.metric_records[messages.METRICS] for reply in replies]
        # What all have told: with a record or a number that one alone sends, strategies aggregate nobody's answer.
        common = [name for name in _NUMBERS if all(isinstance(record.get(name), int | float) for record in told)]
        bare = [
            make_message(
                reply.metadata,
                RecordDict(
                    {
                        messages.ARRAYS: reply.content.array_records[messages.ARRAYS],
                        messages.METRICS: MetricRecord({name: record[name] for name in common}),
                    }
                ),
            )
            for reply, record in zip(replies, told, strict=True)
        ]
        return _aggregate(strategy, number, bare), self._buffers.take(self._base.buffers)


_NUMBERS = (messages.EXAMPLES, messages.LOSS, messages.INITIAL_LOSS)
"""What strategies use of an answer's numbers."""


def _aggregate(strategy: FedAvg, number: int, replies: list[Message]) -> Arrays:
    aggregated, _ = strategy.aggregate_train(number, replies)
    if aggregated is None:
        raise FlopsError(f"round {number}: the strategy could not aggregate {len(replies)} answers")
    return from_record(aggregated)
