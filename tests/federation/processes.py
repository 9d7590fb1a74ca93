"""A federation of real processes on this machine: hospitals, jobs, and what they leave behind."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.federation.forker import Forked, Forker
from tests.workers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PATIENCE = 90.0
"""Seconds in which whatever is waited for must happen; machines that run tests are slow at times."""

DRIVERS = Path(__file__).parent / "drivers"

NAMES = ("east", "north", "south", "west")
"""The hospitals that behave; each has its own data."""


CONFIG = {"task": "digits", "join_timeout": 80.0, "join_grace": 80.0, "training": {"local_epochs": 1}}
"""What jobs are told unless a test says otherwise: all hospitals that are listed are waited for."""


class WaitedTooLongError(AssertionError):
    """What was waited for did not happen."""


def wait_for(happened: Any, what: str, seconds: float = PATIENCE) -> Any:
    """Wait until a function returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            raise WaitedTooLongError(f"not within {seconds:g} s: {what}")
        time.sleep(0.03)
    return found


class Process:
    """A process in a session of its own, with its output in files.

    Args:
        arguments: those of Python.
        folder: where it works and its output goes.
        name: of the files of its output.
        env: variables to add to an environment in which nothing is configured.
        forked: whether it starts from the forker's libraries, or imports its own.
    """

    def __init__(
        self, arguments: Sequence[object], folder: Path, name: str, env: Mapping[str, str], *, forked: bool = True
    ) -> None:
        self.name = name
        self.log, self.out = folder / f"{name}.log", folder / f"{name}.out"
        program, environment = [str(argument) for argument in arguments], {**_environment(), **env}
        self._process: subprocess.Popen[bytes] | Forked
        self.log.touch()
        self.out.write_bytes(b"")
        if forked:
            self._process = _forker().start(
                program, folder=folder, environment=environment, out=self.out, log=self.log
            )
        else:
            with self.log.open("ab") as log, self.out.open("wb") as out:
                self._process = subprocess.Popen(
                    [sys.executable, *program],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=log,
                    cwd=folder,
                    env=environment,
                    start_new_session=True,
                )
        self.pid = self._process.pid
        self.seen = 0

    @property
    def text(self) -> str:
        """All that it has logged since it was looked away from."""
        return self.log.read_bytes()[self.seen :].decode()

    def look_away(self) -> None:
        """Forget what has been logged so far."""
        self.seen = self.log.stat().st_size

    @property
    def ended(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until a text stands in the log."""

        def happened() -> bool:
            if text in self.text:
                return True
            if self.ended is not None:
                assert text in self.text, f"{self.name} ended ({self.ended}) without '{text}':\n{self.text}"
            return False

        try:
            wait_for(happened, f"'{text}' in {self.name}'s log", seconds)
        except WaitedTooLongError as error:
            raise WaitedTooLongError(f"{error}:\n{self.text}") from None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise WaitedTooLongError(f"{self.name} still runs after {seconds:g} s:\n{self.text}") from None

    def terminate(self) -> None:
        """Send SIGTERM to the process alone, as container runtimes do."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process alone."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    def kill_tree(self) -> None:
        """Send SIGKILL to it and all its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)

    def family(self) -> dict[int, str]:
        """Return the command lines of the living processes of its session, by process id."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                state, *rest = (folder / "stat").read_text().rpartition(") ")[2].split()
                if int(rest[2]) == self.pid and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def training_process(self) -> int:
        """Return the process id of a hospital's training process."""
        return wait_for(
            lambda: next((p for p, line in self.family().items() if "spawn_main" in line), None), "it trains"
        )

    def clean_up(self) -> None:
        """End all of it, whatever has become of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)


@functools.cache
def _forker() -> Forker:
    """The forker of this test process, started when it is first wanted."""
    made = Forker(_environment())
    atexit.register(made.stop)
    return made


def _environment() -> dict[str, str]:
    """Return an environment in which nothing is configured."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOPS_", "MLFLOW_", "FLWR_", "RAY_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", "FLWR_TELEMETRY_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True)
class JobEnded:
    """How a job ended: its exit code, its lines, its log."""

    code: int
    out: str
    log: str

    @property
    def json(self) -> dict[str, Any]:
        """The JSON document, which is the last line."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    @property
    def hospitals(self) -> list[str]:
        """The names of those who took part."""
        return [told["name"] for told in self.json["hospitals"]]

    def left_out(self, name: str) -> list[str]:
        """Why steps went on without a hospital."""
        return [told["reason"] for told in self.json["left_out"] if told["hospital"] == name]


class Job(Process):
    """A job that runs."""

    def end(self, seconds: float = PATIENCE) -> JobEnded:
        """Wait for the job's end; no job ends with a traceback, and every one says in JSON how it ended."""
        code = self.wait(seconds)
        ended = JobEnded(code, self.out.read_text(), self.text)
        assert "Traceback" not in ended.log, ended.log
        assert ended.out.strip(), ended.log
        assert ended.json["outcome"] in {0: ("registered", "skipped"), 1: ("failed",), 2: ("misconfigured",)}[code]
        return ended


class Registry:
    """The embedded registry's files, looked at behind its back."""

    def __init__(self, folder: Path, tables: Path) -> None:
        folder.mkdir()
        self.folder, self.database = folder, folder / "mlflow.db"
        shutil.copyfile(tables, self.database)
        self.uri = f"sqlite:///{self.database}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def versions(self) -> list[int]:
        """Return the versions that are registered, of all models."""
        return [
            n for (n,) in self.rows("select version from model_versions where current_stage <> 'Deleted_Internal'")
        ]

    def tags(self, version: int) -> dict[str, str]:
        """Return a version's tags."""
        return dict(self.rows(f"select key, value from model_version_tags where version = {version}"))  # noqa: S608

    def weights(self, version: int) -> dict[str, Any]:
        """Return the arrays of a version."""
        from safetensors.numpy import load_file

        ((source,),) = self.rows(f"select source from model_versions where version = {version}")  # noqa: S608
        folder = Path(source.removeprefix("file://"))
        found: dict[str, Any] = {}
        for file in sorted(folder.rglob("*.safetensors")):
            found |= load_file(file)
        assert found
        return found


class Federation:
    """A folder with all that a federation needs: certificates, keys, data; and the processes that run in it."""

    def __init__(self, folder: Path, materials: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.materials = folder, materials
        self.port = free_port()
        self.tls, self.ca = materials / "tls", materials / "tls" / "ca.pem"
        self.running: list[Process] = []
        self._jobs = 0

    def data(self, name: str) -> Path:
        """Return a hospital's file; one that misbehaves has the first one's."""
        number = NAMES.index(name) + 1 if name in NAMES else 1
        return self.materials / "data" / f"hospital-{number}.npz"

    def key(self, name: str) -> Path:
        """Return the folder with a hospital's pair of keys, made where there is none yet."""
        return make_key(self.materials, name)

    def home(self, name: str) -> Path:
        """Return the folder that a hospital's node writes to."""
        return self.folder / name

    def allow_list(self, names: Iterable[str]) -> Path:
        """Make a folder with the public keys of these hospitals."""
        self._jobs += 1
        folder = self.folder / f"hospitals-{self._jobs}"
        folder.mkdir()
        for name in names:
            shutil.copy(self.key(name) / f"{name}.pub", folder)
        return folder

    def start_hospital(
        self,
        name: str,
        behaviour: str = "",
        *arguments: object,
        task: str = "digits",
        data: Path | None = None,
        port: int | None = None,
        ca: Path | None = None,
        plain_text: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a hospital's node; `behaviour` names what a driver does to it."""
        trust: tuple[object, ...] = ("--plain-text",) if plain_text else ("--ca", ca or self.ca)
        process = Process(
            [
                *(["-m", "fl.cli"] if not behaviour else [DRIVERS / "changed_hospital.py"]),
                *("client", "start", "--server", f"localhost:{port or self.port}", "--task", task),
                *("--data", data or self.data(name), *trust, "--key", self.key(name) / "node.key"),
                *("--home", self.home(name), *arguments),
            ],
            self.folder,
            name,
            {"BEHAVIOUR": behaviour, **(env or {})},
        )
        self.running.append(process)
        return process

    def start_job(
        self,
        registry: Registry | str,
        hospitals: Iterable[str] | Path,
        behaviour: str = "",
        *arguments: object,
        port: int | None = None,
        tls: Path | None = None,
        env: Mapping[str, str] | None = None,
        **config: Any,
    ) -> Job:
        """Start a job of the global server with a federation's file of these values."""
        allowed = hospitals if isinstance(hospitals, Path) else self.allow_list(hospitals)
        self._jobs += 1
        file = self.folder / f"federation-{self._jobs}.toml"
        file.write_text(toml({**CONFIG, **config}))
        tls = tls or self.tls
        job = Job(
            [
                *(["-m", "fl.cli"] if not behaviour else [DRIVERS / "changed_server.py"]),
                *("server", "round", "--config", file, "--hospitals", allowed, "--port", port or self.port),
                *("--host", "127.0.0.1", "--tls-cert", tls / "server.pem", "--tls-key", tls / "server.key"),
                *arguments,
            ],
            self.folder,
            f"job-{self._jobs}",
            {
                "MLFLOW_TRACKING_URI": registry if isinstance(registry, str) else registry.uri,
                "BEHAVIOUR": behaviour,
                **(env or {}),
            },
        )
        self.running.append(job)
        return job

    def run_job(
        self, registry: Registry | str, hospitals: Iterable[str] | Path, *arguments: Any, **named: Any
    ) -> JobEnded:
        """Run a job to its end."""
        return self.start_job(registry, hospitals, *arguments, **named).end()

    def receipts(self, name: str) -> list[dict[str, Any]]:
        """Return a hospital's receipts."""
        path = self.home(name) / "receipts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def clean_up(self) -> None:
        """End whatever still runs."""
        for process in self.running:
            process.clean_up()


def toml(values: Mapping[str, Any]) -> str:
    """Write plain values and tables of them as TOML."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
    tables = [f"[{k}]\n{toml(v)}" for k, v in values.items() if isinstance(v, dict)]
    return "\n".join([*plain, *tables]) + "\n"


def make_key(materials: Path, name: str) -> Path:
    """Make a pair of keys; returns its folder."""
    from click.testing import CliRunner

    from client.commands.keygen import keygen

    folder = materials / "keys" / name
    if not folder.exists():
        made = CliRunner().invoke(keygen, ["--out", str(folder), "--name", name], catch_exceptions=False)
        assert made.exit_code == 0, made.output
    return folder


class MlflowServer:
    """A real MLflow server over one database; may be killed and started again at the same place."""

    def __init__(self, folder: Path, tables: Path) -> None:
        self.registry = Registry(folder, tables)
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: Process | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = Process(
            [
                *("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.port, "--workers", 1),
                *("--backend-store-uri", self.registry.uri),
                *("--artifacts-destination", self.registry.folder / "artifacts"),
            ],
            self.registry.folder,
            "mlflow",
            {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            forked=False,
        )
        wait_for(self._answers, f"MLflow answers: {self._process.text}")

    def _answers(self) -> bool:
        import urllib.request

        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it with all its children."""
        if self._process is not None:
            self._process.clean_up()
            self._process = None


@contextlib.contextmanager
def cleaned(federation: Federation) -> Iterator[Federation]:
    """Give a federation, and end all that it has started."""
    try:
        yield federation
    finally:
        federation.clean_up()
