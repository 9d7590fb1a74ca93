"""The first version, fetched by a process of its own.

MLflow and PyTorch each take seconds to import, and Python imports one thing at a time: two processes are ready in
half the time. What is fetched later is fetched in this process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.bundle import read_bundle
from fl.errors import FlopsError
from server.registry_names import ModelVersion

if TYPE_CHECKING:
    from types import TracebackType

    from fl.model import ModelState
    from fl.tasks.base import Task

_SECONDS = 60.0


class Ahead:
    """A process that fetches a model's champion into a folder, which is gone when it is left."""

    def __init__(self, model: str, alias: str) -> None:
        """Start it.

        Raises:
            FlopsError: there is no folder to fetch into.
        """
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="flops-serve-")
        except OSError as error:
            raise FlopsError(f"there is no folder for temporary files: {error}; set TMPDIR to one") from error
        self._process = subprocess.Popen(  # noqa: S603 - this Python
            [sys.executable, "-P", "-m", __name__, model, alias, self._folder.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._process.communicate()
        self._folder.cleanup()

    def take(self) -> tuple[ModelVersion, Task, ModelState, dict[str, Any] | None] | None:
        """Wait for the process, and return what it fetched; None where that is nothing.

        Raises:
            FlopsError: it is no model; see `fl.bundle.read_bundle`.
        """
        try:
            told = self._process.communicate(timeout=_SECONDS)[0]
        except subprocess.TimeoutExpired:
            return None
        if self._process.returncode != 0:
            return None
        found = json.loads(told)
        return ModelVersion(**found["version"]), *read_bundle(Path(found["bundle"])), found["lineage"]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()


def main(model: str, alias: str, folder: str) -> int:
    """Fetch a champion into a folder and print which version it is; 1 where there is none."""
    # MLflow does without pandas where there is none, and it is a good part of what MLflow takes to import.
    sys.modules["pandas"] = None  # type: ignore[assignment]

    from server.models import lineage_if_any, open_registry

    registry = open_registry()
    found = registry.aliased(model, alias)
    if found is None:
        return 1
    bundle = registry.fetch(found, Path(folder))
    told = {"version": {**asdict(found), "tags": dict(found.tags)}, "lineage": lineage_if_any(registry, found)}
    sys.stdout.write(json.dumps({**told, "bundle": str(bundle)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
