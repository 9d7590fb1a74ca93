"""A round's numbers under the names that the registry shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.registry_names import metric_path

if TYPE_CHECKING:
    from server.records import RoundRecord


def hospital_metric(hospital: str, metric: str) -> str:
    """Return the name of one hospital's number."""
    return f"hospital/{metric_path(hospital)}/{metric}"


def round_metrics(record: RoundRecord) -> dict[str, float]:
    """Return a round's numbers: over all hospitals, and each one's; those that nobody measured are left out."""
    values = {"train_seconds": record.train_seconds, "seconds": record.seconds}
    if record.evaluation.examples:
        values |= {"loss": record.evaluation.loss, **record.evaluation.metrics}
    for name, loss in record.train_loss.items():
        values[hospital_metric(name, "train_loss")] = loss
    for name, evaluation in record.sites.items():
        if evaluation.examples:
            values[hospital_metric(name, "loss")] = evaluation.loss
            values |= {hospital_metric(name, metric): v for metric, v in evaluation.metrics.items()}
    return values
