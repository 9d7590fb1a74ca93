"""Programs that start at once: copies of one process that has imported their libraries already.

A hospital's node and a job of the server import Flower, MLflow and PyTorch for five seconds before they do anything,
and the tests here start some hundred of them. Run as a script, this file imports the libraries once and forks itself
for each program. From there on a program runs as ``python`` would run it: in a session of its own, with its own
arguments, environment, working folder and output, and it ends as the interpreter ends. What starting itself takes
and imports is proven elsewhere: by the images and by the examples.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIBRARIES = (
    *("alembic.command", "mlflow", "mlflow.store.db.utils", "mlflow.store.model_registry.sqlalchemy_store"),
    *("mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects", "torch"),
    *("flwr.app", "flwr.clientapp", "flwr.serverapp"),
    *("uvicorn.lifespan.on", "uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.websockets.auto"),
    *("client.commands.start", "client.node", "server.commands.round", "server.job", "server.recording"),
    *("server.registry", "server.superlink.api", "server.superlink.link"),
)
"""What is imported before the first program starts."""


class Forker:
    """The process that forks, seen from a test."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()], start_new_session=True
            )
        self._lines = self._ours.makefile("rw", encoding="utf-8")

    def start(
        self, program: Sequence[str], *, folder: Path, environment: Mapping[str, str], out: Path, log: Path
    ) -> Forked:
        """Start a program: ``-m`` and a module, or a file, and then its arguments.

        Args:
            program: as behind ``python``.
            folder: the working folder.
            environment: all of its variables.
            out: the file for its standard output.
            log: the file for its standard error; both are there, and appended to.
        """
        wanted = {"program": program, "folder": str(folder), "environment": dict(environment)}
        return Forked(self, int(self.ask(start={**wanted, "out": str(out), "log": str(log)})))

    def ask(self, **question: Any) -> Any:
        """Ask the forking process; returns its answer."""
        print(json.dumps(question), file=self._lines, flush=True)
        return json.loads(self._lines.readline())

    def stop(self) -> None:
        """End the forking process, and the programs that still run."""
        self._lines.close()
        self._ours.close()
        self._process.wait(10)


class Forked:
    """A forked program, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, forker: Forker, pid: int) -> None:
        self._forker, self.pid, self.returncode = forker, pid, None

    def poll(self) -> int | None:
        """Return the exit code, minus a signal's number where one ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._forker.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _serve(lines: Any) -> dict[str, Any] | None:
    """Answer until the test has gone, and end what it left; in a fork, return what it is to run."""
    running: set[int] = set()
    for line in lines:
        question = json.loads(line)
        if "start" in question:
            pid = os.fork()
            if pid == 0:
                return question["start"]
            running.add(pid)
            answer: int | None = pid
        else:
            pid, status = os.waitpid(question["poll"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), file=lines, flush=True)
    for pid in running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return None


def _become(wanted: Mapping[str, Any], imported: Mapping[str, str]) -> list[str]:
    """Make this process what was asked for; returns the program.

    Args:
        wanted: program, working folder, environment and files of its output.
        imported: the variables that the libraries set when they were imported, unless the environment has them.
    """
    import tempfile

    os.setsid()
    for path, number in ((wanted["out"], 1), (wanted["log"], 2)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update({**imported, **wanted["environment"]})
    tempfile.tempdir = None  # TMPDIR may have changed.
    program: list[str] = wanted["program"]
    return program


def _main() -> None:
    import importlib

    sys.path.pop(0)  # This file's folder.
    before = dict(os.environ)
    for name in LIBRARIES:
        importlib.import_module(name)
    imported = {name: value for name, value in os.environ.items() if name not in before}
    connection = socket.socket(fileno=int(sys.argv[1]))
    lines = connection.makefile("rw", encoding="utf-8")
    wanted = _serve(lines)
    if wanted is None:
        return
    connection.detach()
    lines.detach()
    os.close(int(sys.argv[1]))
    program = _become(wanted, imported)
    if program[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    _main()
