"""The message contract: what server and hospital say to each other, and under which keys.

==================  ===========================================================================
message             content
==================  ===========================================================================
``query.describe``  asks a site for its name and sizes and, where wanted, its column sums
``train``           weights, statistics and settings; answered by weights and metrics
``evaluate``        weights and statistics; answered by loss and metrics on the hold-out data. At a job's end with
                    the served model's weights besides, under names of their own; answered by its numbers, too
==================  ===========================================================================

Requests carry ``arrays`` (parameters), ``buffers``, ``frozen`` (statistics) and ``config``; replies ``arrays`` and
``buffers``, or ``sums``, with ``metrics`` and ``site``. Buffers are left out where the model has none. A site that
will not answers with ``refusal`` alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl.arrays import from_record, to_record
from fl.data.statistics import ColumnSums
from fl.model import ModelState
from fl.protocol import Contract, contract_entries, read_contract
from fl.training import Evaluation, TrainResult, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIBE = "query.describe"
TRAIN = "train"
EVALUATE = "evaluate"

ARRAYS, BUFFERS, FROZEN, SUMS = "arrays", "buffers", "frozen", "sums"
CONFIG, METRICS, SITE = "config", "metrics", "site"
REFUSAL = "refusal"
CHAMPION = "champion-"
"""Before the names of what belongs to the served model, which a candidate is compared with."""
EXAMPLES = "num-examples"
LOSS = "loss"
INITIAL_LOSS = "initial-loss"
ERROR = 0
"""The code of an error reply: its reason says what happened."""

_PROXIMAL = "proximal-mu"
_ROUND = "server-round"


@dataclass(frozen=True)
class SiteDescription:
    """What a site says of itself when it joins.

    Attributes:
        name: what it calls itself; a server that knows its key knows better.
        examples: how many examples it can train on.
        holdout: how many it holds out.
        sums: of its columns, where they were asked for.
        trains: it takes part in training, not in evaluation alone.
        contract: what its side says of itself; None where both sides are one process.
    """

    name: str
    examples: int
    holdout: int
    sums: ColumnSums | None = None
    trains: bool = True
    contract: Contract | None = None


def train_config(settings: TrainSettings) -> ConfigRecord:
    """Write training settings. The round and FedProx's term are Flower's to add."""
    record = ConfigRecord()
    for name, value in asdict(settings).items():
        if name not in ("round", "proximal_mu"):
            record[name.replace("_", "-")] = value
    return record


def read_train_config(record: Mapping[str, Any]) -> TrainSettings:
    """Read training settings, Flower's additions included."""
    known = {field.name for field in fields(TrainSettings)}
    values = {name.replace("-", "_"): value for name, value in record.items()}
    values["round"] = record[_ROUND]
    values["proximal_mu"] = record.get(_PROXIMAL, 0.0)
    return TrainSettings(**{name: value for name, value in values.items() if name in known})


def arrays_of(content: RecordDict, name: str) -> ArrayRecord | None:
    """Return one part of a message's arrays, or None.

    Flower's ``content.array_records``, and its like for other records, make a circle of references: the message
    would stay in memory until Python looks for circles, which it does by number of objects and not by their size.
    """
    record = content.get(name)
    return record if isinstance(record, ArrayRecord) else None


def metrics_of(content: RecordDict, name: str = METRICS) -> MetricRecord | None:
    """Return a message's numbers, or None; see `arrays_of`."""
    record = content.get(name)
    return record if isinstance(record, MetricRecord) else None


def settings_of(content: RecordDict, name: str = CONFIG) -> ConfigRecord | None:
    """Return a message's settings, or None; see `arrays_of`."""
    record = content.get(name)
    return record if isinstance(record, ConfigRecord) else None


def read_state(message: Message, prefix: str = "") -> ModelState:
    """Read the weights and statistics of a request; those of the served model have a prefix."""
    records = (arrays_of(message.content, prefix + name) for name in (ARRAYS, FROZEN, BUFFERS))
    return ModelState(*({} if record is None else from_record(record) for record in records))


def read_champion(message: Message) -> ModelState | None:
    """Read the served model of an evaluate message; None where the message asks for no comparison."""
    return read_state(message, CHAMPION) if CHAMPION + ARRAYS in message.content else None


def state_records(state: ModelState, prefix: str = "") -> dict[str, ArrayRecord]:
    """Wrap a model for a request or a reply; parts without arrays are left out, the parameters never."""
    parts = {ARRAYS: state.arrays, BUFFERS: state.buffers, FROZEN: state.frozen}
    return {prefix + name: to_record(arrays) for name, arrays in parts.items() if arrays or name == ARRAYS}


def read_config(message: Message) -> ConfigRecord:
    """Return a request's settings."""
    record = message.content[CONFIG]
    if not isinstance(record, ConfigRecord):
        raise TypeError("the message's config is not a ConfigRecord")
    return record


def _reply(message: Message, site: str, **records: ArrayRecord | MetricRecord) -> Message:
    content = RecordDict({**records, SITE: ConfigRecord({"name": site})})
    return Message(content, reply_to=message)


def train_reply(message: Message, site: str, result: TrainResult) -> Message:
    """Answer a train message."""
    metrics = MetricRecord({EXAMPLES: result.examples, LOSS: result.loss})
    if result.initial_loss is not None:
        metrics[INITIAL_LOSS] = result.initial_loss
    weights = state_records(ModelState(result.state.arrays, {}, result.state.buffers))
    return _reply(message, site, **weights, **{METRICS: metrics})


def evaluate_reply(
    message: Message, site: str, evaluation: Evaluation, champion: Evaluation | None = None
) -> Message:
    """Answer an evaluate message; with the served model's evaluation where it was sent, too."""
    found = {METRICS: evaluation} if champion is None else {METRICS: evaluation, CHAMPION + METRICS: champion}
    records = {
        name: MetricRecord({EXAMPLES: one.examples, LOSS: one.loss, **one.metrics}) for name, one in found.items()
    }
    return _reply(message, site, **records)


def describe_reply(message: Message, description: SiteDescription) -> Message:
    """Answer a describe message."""
    metrics = MetricRecord(
        {EXAMPLES: description.examples, "num-holdout": description.holdout, "trains": int(description.trains)}
    )
    records: dict[str, ArrayRecord | MetricRecord] = {METRICS: metrics}
    if description.sums is not None:
        records[SUMS] = to_record(asdict(description.sums))
    reply = _reply(message, description.name, **records)
    if description.contract is not None:
        reply.content.config_records[SITE].update(contract_entries(description.contract))
    return reply


def refusal_reply(message: Message, reason: str) -> Message:
    """Answer that the site will not do what it is asked: its right, and no error."""
    return Message(RecordDict({REFUSAL: ConfigRecord({"reason": reason})}), reply_to=message)


def read_refusal(reply: Message) -> str | None:
    """Return why a site refused, in one line, or None where it did not."""
    record = settings_of(reply.content, REFUSAL)
    return None if record is None else " ".join(str(record.get("reason", "no reason given")).split())[:500]


def error_reply(message: Message, error: Exception) -> Message:
    """Answer a message that could not be handled: one line says what was raised."""
    return Message(Error(ERROR, f"{type(error).__name__}: {error}"), reply_to=message)


def site_name(reply: Message) -> str:
    """Return the name of the site that replied."""
    return str(reply.content.config_records[SITE]["name"])


def read_metrics(reply: Message, record: str = METRICS) -> dict[str, float]:
    """Return a reply's numbers by name."""
    return {name: float(value) for name, value in reply.content.metric_records[record].items()}  # type: ignore[arg-type]


def read_description(reply: Message) -> SiteDescription:
    """Read the answer to a describe message."""
    metrics = read_metrics(reply)
    sums = reply.content.array_records.get(SUMS)
    return SiteDescription(
        site_name(reply),
        int(metrics[EXAMPLES]),
        int(metrics["num-holdout"]),
        None if sums is None else ColumnSums(**from_record(sums)),
        bool(metrics.get("trains", 1)),
        read_contract(reply.content.config_records[SITE]),
    )


def read_evaluation(reply: Message, prefix: str = "") -> Evaluation:
    """Read the answer to an evaluate message; the served model's part of it has a prefix."""
    metrics = read_metrics(reply, prefix + METRICS)
    examples, loss = int(metrics.pop(EXAMPLES)), metrics.pop(LOSS)
    return Evaluation(examples, loss, metrics)
