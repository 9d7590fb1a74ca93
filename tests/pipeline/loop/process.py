"""`flops up` as a process, and what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PATIENCE = 120.0


class Up:
    """One `flops up`, from its start to its end."""

    def __init__(self, folder: Path, state: Path, *words: str, environment: Mapping[str, str] | None = None) -> None:
        self.state, self._folder, self._words = state, folder, words
        self.environment = {**os.environ, **(environment or {})}
        self.log = folder / "up.log"
        self.start()

    def start(self) -> None:
        """Start it, or start it again; its words go on in the same file."""
        self._seen = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "fl.cli", "up", "--state", str(self.state), *self._words]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All that it said so far."""
        return self.log.read_text(errors="replace")

    def wait(self, pattern: str, *, seconds: float = PATIENCE) -> re.Match[str]:
        """Wait until it says something that it had not said before; returns that."""
        end = time.monotonic() + seconds
        while True:
            text = self.log.read_bytes()[self._seen :].decode(errors="replace")
            found = re.search(pattern, text)
            if found is not None:
                self._seen += len(text[: found.end()].encode())
                return found
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < end, f"not said: {pattern}\n{self.said[-3000:]}"
            time.sleep(0.1)

    def status(self) -> dict[str, Any]:
        """Return what `flops up --status --json` tells."""
        command = [sys.executable, "-m", "fl.cli", "up", "--state", str(self.state), "--status", "--json"]
        ended = subprocess.run(command, cwd=self._folder, env=self.environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    def shows(self, what: Callable[[dict[str, Any]], Any], *, seconds: float = 20) -> None:
        """Wait until the status shows something: it follows what is said by a second."""
        end = time.monotonic() + seconds
        while not what(found := self.status()):
            assert time.monotonic() < end, found

    def kill(self) -> None:
        """End it as nobody would want it to."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """End it as Ctrl-C does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def down(self, *words: str) -> str:
        """Run `flops down`; returns what it printed."""
        command = [sys.executable, "-m", "fl.cli", "down", "--state", str(self.state), *words]
        ended = subprocess.run(command, cwd=self._folder, env=self.environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
