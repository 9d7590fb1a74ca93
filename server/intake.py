"""What is checked of a hospital's answer before it can touch the global model.

Names, shapes and dtypes must be the model's, every number finite, the number of examples plausible; `server.norms`
compares the sizes of changes. An answer that fails is left out and named, never averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fl import messages
from fl.arrays import from_record
from fl.training import Evaluation
from server.norms import BUFFERS, WEIGHTS, squared_norm
from server.sums import impossible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import ArrayRecord, Message

    from fl.data.schema import TableSchema
    from fl.messages import SiteDescription
    from fl.model import ModelState
    from fl.tasks.base import Task


class Rejected(Exception):  # noqa: N818 - the answer is, the server is not in error
    """An answer cannot be used; the message is the reason, to be read after the hospital's name.

    Attributes:
        diverged: numbers are not finite, which a lower learning rate may mend.
    """

    def __init__(self, reason: str, *, diverged: bool = False) -> None:
        super().__init__(reason)
        self.diverged = diverged


@dataclass(frozen=True)
class Checked:
    """What is known of an answer that can be used.

    Attributes:
        node: who answered.
        examples: how many examples it trained on.
        loss: its mean training loss.
        norms: the L2 norms of its changes, of all parameters together and of all buffers.
    """

    node: int
    examples: int
    loss: float
    norms: Mapping[str, float]


def check_training(reply: Message, base: ModelState, most_examples: float, *, initial_loss: bool = False) -> Checked:
    """Check the answer to a train message.

    Args:
        reply: the answer.
        base: the weights that were sent.
        most_examples: how many examples the hospital said it has.
        initial_loss: the received weights' loss was asked for too.

    Raises:
        Rejected: it cannot be used.
    """
    content = reply.content
    metrics = messages.metrics_of(content)
    if metrics is None:
        raise Rejected("returned an empty answer" if not content else "returned no metrics")
    losses = (messages.LOSS, *([messages.INITIAL_LOSS] if initial_loss else []))
    for name in (messages.EXAMPLES, *losses):
        if not isinstance(metrics.get(name), int | float):
            raise Rejected(f"returned no '{name}'")
    examples, loss = float(metrics[messages.EXAMPLES]), float(metrics[messages.LOSS])  # type: ignore[arg-type]
    if not (examples >= 1 and examples.is_integer()):
        raise Rejected(f"trained on {examples:g} examples")
    if examples > most_examples:
        raise Rejected(f"trained on {examples:g} examples and has {most_examples:g}")
    norms = {
        WEIGHTS: _change(messages.arrays_of(content, messages.ARRAYS), base.arrays, WEIGHTS),
        BUFFERS: _change(messages.arrays_of(content, messages.BUFFERS), base.buffers, BUFFERS),
    }
    for value in (float(metrics[name]) for name in losses):  # type: ignore[arg-type]
        if not math.isfinite(value):
            raise Rejected(f"returned loss {value:g}", diverged=True)
    return Checked(reply.metadata.src_node_id, int(examples), loss, norms)


def check_evaluation(reply: Message, task: Task, most_examples: float, prefix: str = "") -> Evaluation:
    """Check the answer to an evaluate message.

    Args:
        reply: the answer.
        task: says what is measured, and in which range.
        most_examples: how many examples the hospital said it holds out.
        prefix: of the part that is checked; see `fl.messages.read_evaluation`.

    Raises:
        Rejected: it cannot be used.
    """
    evaluation = messages.read_evaluation(reply, prefix)
    if not 0 <= evaluation.examples <= most_examples:
        raise Rejected(f"evaluated {evaluation.examples} examples and holds out {most_examples:g}")
    if not evaluation.examples:
        return Evaluation(0, math.nan, {})
    odd = set(task.metrics) ^ set(evaluation.metrics)
    if odd:
        raise Rejected(f"measured something else: {', '.join(sorted(odd)[:3])}")
    for name, value in {"loss": evaluation.loss, **evaluation.metrics}.items():
        if not math.isfinite(value):
            raise Rejected(f"measured {name} {value:g}", diverged=True)
        low, high = task.ranges.get(name, (-math.inf, math.inf))
        if not low <= value <= high:
            raise Rejected(f"measured {name} {value:g}, which is not from {low:g} to {high:g}")
    return evaluation


def check_description(reply: Message, schema: TableSchema | None) -> SiteDescription:
    """Check the answer to the first question.

    Args:
        reply: the answer.
        schema: a table's, where sums were asked for.

    Raises:
        Rejected: it cannot be used.
    """
    described = messages.read_description(reply)
    if described.examples < 0 or described.holdout < 0:
        raise Rejected("has fewer examples than none")
    if described.trains and not described.examples:
        raise Rejected("has no examples to train on")
    if schema is not None and described.trains:
        if described.sums is None:
            raise Rejected("returned no column sums")
        reason = impossible(described.sums, described.examples, schema)
        if reason is not None:
            raise Rejected(reason)
    return described


def _change(record: ArrayRecord | None, base: Mapping[str, np.ndarray], what: str) -> float:
    """Check arrays against what was sent and return the L2 norm of their change."""
    if record is None:
        if base:
            raise Rejected(f"returned no {what}")
        return 0.0
    if list(record) != list(base):
        odd = sorted(set(record) ^ set(base)) or list(record)
        raise Rejected(f"returned {what} of another model: {', '.join(odd[:3])}")
    try:
        arrays = from_record(record)
    except Exception as error:
        raise Rejected(f"returned {what} that cannot be read: {type(error).__name__}") from error
    total = 0.0
    for name, array in arrays.items():
        sent = base[name]
        if array.shape != sent.shape or array.dtype != sent.dtype:
            raise Rejected(
                f"returned {what} of another shape: {name} is {list(array.shape)} {array.dtype}, "
                f"not {list(sent.shape)} {sent.dtype}"
            )
        if not np.isfinite(array).all():
            raise Rejected(f"returned {what} that are not finite", diverged=True)
        total += squared_norm(array, sent)
    return math.sqrt(total)
