"""What a run writes to the model registry beside its version: settings, numbers by round, files."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from mlflow.entities import Metric, Param

from server.registry_names import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlflow import MlflowClient

_BATCH = 1000
"""How many metrics MLflow takes at a time."""


class RunLog:
    """Where a run writes its numbers and files. Numbers are buffered, and written a few times a minute."""

    FLUSH_SECONDS = 10.0

    def __init__(self, client: MlflowClient, run_id: str, artifact_uri: str) -> None:
        self.run_id, self.artifact_uri = run_id, artifact_uri
        self._client = client
        self._metrics: list[Metric] = []
        self._flushed = time.monotonic()

    def settings(self, values: Mapping[str, Any]) -> None:
        """Store what the run was told."""
        self._client.log_batch(self.run_id, params=[Param(k, str(v)[:6000]) for k, v in values.items()])

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note numbers of one round; hospitals' names go through `metric_path`."""
        now = int(time.time() * 1000)
        self._metrics += [Metric(name, value, now, step) for name, value in values.items()]
        if time.monotonic() - self._flushed > self.FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the numbers noted so far."""
        while self._metrics:
            batch, self._metrics = self._metrics[:_BATCH], self._metrics[_BATCH:]
            self._client.log_batch(self.run_id, metrics=batch)
        self._flushed = time.monotonic()

    def file(self, path: Path) -> None:
        """Store a file with the run."""
        self._client.log_artifact(self.run_id, str(path))

    def close(self, status: str) -> None:
        """End the run; what was noted before a failure is kept where the registry still answers."""
        try:
            self.flush()
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # What the run made is registered by now, or never will be.
            logger = logging.getLogger("flops.registry")
            logger.debug("the run could not be closed", exc_info=True)
            if status == "FINISHED":
                logger.warning("the run %s stays open in the registry: %s", self.run_id, reason_of(error))
