"""A tracking server of the loop's own, on this machine: it ends with the loop, what it holds stays."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from fl.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

_FIRST_PAUSE, _GOOD = 5.0, 120.0
"""Seconds before another start; what ran for the second is well."""

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""It tells nobody, and has no processes for jobs of language models' makers: they are most of its memory."""

_RUN = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: the kernel ends it when who started it ends.
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class TrackingServer:
    """`mlflow server` at an address that containers reach."""

    def __init__(self, folder: Path, address: str) -> None:
        """Start it.

        Raises:
            SettingsError: MLflow is not installed here.
        """
        # MLflow's client alone, which the server's image has, comes without a database.
        if importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("sqlalchemy") is None:
            raise SettingsError(
                "a tracking server needs MLflow, which is not installed here: 'make .venv/.run' in the source's "
                "folder brings it; or name one that there is: --tracking URL"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._address = folder, address
        try:
            self.port = self._choose_port()
        except OSError as error:
            raise SettingsError(
                f"the engine's network reaches this machine at {address}, which is none of its addresses "
                f"({error.strerror}); name a tracking server that containers reach: --tracking URL"
            ) from error
        self._started, self._pause = 0.0, _FIRST_PAUSE
        self._process = self._start()

    @property
    def uri(self) -> str:
        """Where it is."""
        return f"http://{self._address}:{self.port}"

    @property
    def log(self) -> Path:
        """What it says."""
        return self._folder / "mlflow.log"

    def keep(self) -> str:
        """Start it again where it has ended, later each time that it does so soon; returns what is to be told."""
        now = time.monotonic()
        if self._process.poll() is None:
            if now - self._started > _GOOD:
                self._pause = _FIRST_PAUSE
            return ""
        if now < self._started + self._pause:
            return ""
        self._pause = min(2 * self._pause, _GOOD)
        self._process = self._start()
        return f"the tracking server had ended and is started again; its log: {self.log}"

    def stop(self) -> None:
        """End it with all its children."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
                return

    def _choose_port(self) -> int:
        """Take the port of last time, so that what was told it still holds; another one where it is taken."""
        kept = self._folder / "port"
        with suppress(OSError, ValueError):
            port = int(kept.read_text())
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self._address, port))
                return port
        with socket.socket() as probe:
            probe.bind((self._address, 0))
            port = int(probe.getsockname()[1])
        kept.write_text(f"{port}\n")
        return port

    def _start(self) -> subprocess.Popen[bytes]:
        self._started = time.monotonic()
        folder = self._folder.resolve()
        words = [
            *(
                sys.executable,
                "-c",
                _RUN,
                "-m",
                "mlflow",
                "server",
                "--host",
                self._address,
                "--port",
                str(self.port),
            ),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        scratch = folder / "tmp"  # It leaves files there, which would stay.
        scratch.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - a program and words of ours
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**clean, **_QUIET, "TMPDIR": str(scratch)},
                start_new_session=True,
            )
