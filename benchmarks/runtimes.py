"""Both runtimes as processes, for the benchmarks: FLOps' server and nodes, and Flower's SuperLink and SuperNodes.

TLS and node keys are on in both. What is started here is stopped here, whatever happens in between.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
PATIENCE = 400.0
"""Seconds after which whatever is waited for counts as failed."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(reached: Callable[[], bool], what: str, pause: float = 0.01) -> None:
    """Wait for something.

    Raises:
        RuntimeError: it did not happen in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE:g} s in vain for {what}")
        time.sleep(pause)


@dataclass
class Process:
    """A process and those it started, with its log as lines and the times they came."""

    name: str
    child: subprocess.Popen[str]
    log: Path
    started: float
    lines: list[tuple[float, str]] = field(default_factory=list)
    output: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Read standard error and output as they come."""

        def errors() -> None:
            with self.log.open("w") as log:
                for line in self.child.stderr or ():
                    self.lines.append((time.monotonic(), line.rstrip()))
                    log.write(line)
                    log.flush()

        def output() -> None:
            self.output += list(self.child.stdout or ())

        self.threads = [threading.Thread(target=read, daemon=True) for read in (errors, output)]
        for thread in self.threads:
            thread.start()

    def said(self, text: str) -> bool:
        """Tell whether a line holds this text."""
        return any(text in line for _, line in self.lines)

    def wait_said(self, text: str) -> None:
        """Wait for a line; fails at once when the process has ended without it."""

        def reached() -> bool:
            ended = self.child.poll() is not None
            return self.said(text) or (ended and self._failed(f"'{text}'"))

        wait_until(reached, f"{self.name} to say '{text}'")

    def wait(self) -> float:
        """Wait for its end and return the seconds from its start."""
        try:
            code = self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = 1
        if code:
            self._failed("exit code 0 in time")
        ended = time.monotonic() - self.started
        for thread in self.threads:
            thread.join(5)
        return ended

    def _failed(self, wanted: str) -> bool:
        time.sleep(0.3)
        tail = "\n".join(line for _, line in self.lines[-25:])
        raise RuntimeError(f"{self.name} ended without {wanted}:\n{tail}\n{''.join(self.output[-5:])}")

    def stop(self) -> None:
        """End it and what it started."""
        pids = tree(self.child.pid)
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                self.child.kill()
        for pid in pids:  # Flower's helpers outlive their parent for a while.
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self.child.wait()


def tree(root: int) -> list[int]:
    """Return a process and all below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def resident(pid: int, what: str = "VmRSS") -> int:
    """Return a process's resident memory in bytes; ``VmHWM`` is the most it ever had. 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(what)), 0)


class Memory:
    """Samples the resident memory of a process tree until it is told to stop."""

    def __init__(self, root: int, pause: float = 0.02) -> None:
        self._root, self._pause = root, pause
        self._stop = threading.Event()
        self.peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Return what the tree has now."""
        return sum(resident(pid) for pid in tree(self._root))

    def end(self) -> int:
        """Stop and return the most there was."""
        self._stop.set()
        self._thread.join()
        return self.peak

    def _sample(self) -> None:
        while not self._stop.wait(self._pause):
            # The kernel's own mark of the root misses no moment between two samples.
            self.peak = max(self.peak, self.now(), resident(self._root, "VmHWM"))


@dataclass
class Workplace:
    """A folder with certificates, keys and the allow-list of hospitals."""

    folder: Path
    hospitals: int
    processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        from fl import keys
        from server.certificates import make_certificates

        make_certificates(self.tls, ["localhost", "127.0.0.1"], 30)
        self.allowed.mkdir()
        for number in range(self.hospitals):
            home = self.home(number)
            home.mkdir()
            public = self.allowed / f"hospital-{number}.pub"
            keys.write_pair(keys.generate(), home / "node.key", public, name=f"hospital-{number}", overwrite=False)

    @property
    def tls(self) -> Path:
        """Where the certificates are."""
        return self.folder / "tls"

    @property
    def allowed(self) -> Path:
        """The allow-list."""
        return self.folder / "hospitals"

    def home(self, number: int) -> Path:
        """Return a hospital's folder."""
        return self.folder / f"node-{number}"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start a process in the folder."""
        settings = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        started = time.monotonic()
        child = subprocess.Popen(
            list(command),
            cwd=self.folder,
            env=settings,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process = Process(name, child, self.folder / f"{name}.log", started)
        process.follow()
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Stop all that was started."""
        for process in reversed(self.processes):
            process.stop()
        self.processes.clear()


@contextmanager
def workplace(folder: Path, hospitals: int) -> Iterator[Workplace]:
    """Make a workplace; all processes are stopped at its end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Or what was started would live on.
    place = Workplace(folder, hospitals)
    try:
        yield place
    finally:
        place.stop()


def answers(port: int) -> bool:
    """Tell whether a server's health check answers."""
    context = ssl._create_unverified_context()  # noqa: S323 - whether it lives is asked, on loopback
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Ours:
    """FLOps' server and nodes."""

    def __init__(self, place: Workplace, task: str = "idle:task", elements: int = 10) -> None:
        self.place, self.port, self._task = place, free_port(), task
        self._environment = {"FLOPS_BENCH_ELEMENTS": str(elements)}
        self._jobs = 0

    def start_nodes(self) -> None:
        """Start `flops client start` for each hospital and wait until all wait for the server."""
        nodes = []
        for number in range(self.place.hospitals):
            data = self.place.folder / f"hospital-{number}.npz"
            if not data.exists():
                idle.write_data(data, number)
            command = [sys.executable, "-m", "fl.cli", "client", "start", "--server", f"localhost:{self.port}"]
            command += ["--task", self._task, "--data", str(data), "--home", str(self.place.home(number))]
            command += ["--ca", str(self.place.tls / "ca.pem")]
            nodes.append(self.place.start(f"node-{number}", command, self._environment))
        for node in nodes:
            node.wait_said("waiting for it")
            # Their training processes import PyTorch ahead of the first message, minutes before a job as a rule.
            pid = node.child.pid
            wait_until(lambda pid=pid: _settled(pid), "a training process", 0.2)  # type: ignore[misc]

    def start_server(self, rounds: int = 1, **settings: Any) -> Process:
        """Start one job."""
        lines = {
            "task": self._task,
            "rounds": rounds,
            "min_hospitals": self.place.hospitals,
            "join_timeout": 30.0,
            "round_deadline": PATIENCE,
            **settings,
        }
        config = self.place.folder / "federation.toml"
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
        tls = self.place.tls
        command = [sys.executable, "-m", "fl.cli", "server", "round", "--config", str(config)]
        command += ["--hospitals", str(self.place.allowed), "--port", str(self.port), "--host", "127.0.0.1"]
        command += ["--tls-cert", str(tls / "server.pem"), "--tls-key", str(tls / "server.key")]
        self._jobs += 1
        return self.place.start(f"server-{self._jobs}", command, self._environment)

    def seconds(self, server: Process) -> list[float]:
        """Return how long each round of a job took, by the lines of its log."""
        moments = [moment for moment, line in server.lines if " hospitals: hospital-" in line or " round " in line]
        return [after - before for before, after in pairwise(moments)]

    def forget(self) -> None:
        """Remove the registry."""
        shutil.rmtree(self.place.folder / "flops-registry", ignore_errors=True)


def _settled(pid: int) -> bool:
    """Tell whether a node's training process is there and has nothing more to do."""
    below = [child for child in tree(pid) if child != pid and resident(child) > 150e6]
    if not below:
        return False
    before = [_ticks(child) for child in below]
    time.sleep(0.4)
    return [_ticks(child) for child in below] == before


def _ticks(pid: int) -> int:
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(parts[11]) + int(parts[12])


class Stock:
    """Flower's SuperLink, SuperNodes and `flwr run`."""

    def __init__(self, place: Workplace, elements: int = 10, *, torch: bool = False) -> None:
        self.place, self.port, self._torch = place, free_port(), torch
        self._shape = idle.shape(elements)
        self._times = place.folder / "times"
        home = place.folder / "flower"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "localhost:{self.port}"\n'
            f'root-certificates = "{place.tls / "ca.pem"}"\n'
        )
        shutil.copytree(HERE / "stock", place.folder / "stock", ignore=shutil.ignore_patterns("__pycache__"))

    def start_server(self) -> Process:
        """Start the SuperLink."""
        tls = self.place.tls
        command = ["flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), "--enable-supernode-auth"]
        command += ["--ssl-certfile", str(tls / "server.pem"), "--ssl-keyfile", str(tls / "server.key")]
        command += ["--ssl-ca-certfile", str(tls / "ca.pem"), "--disable-runtime-dependency-installation"]
        return self.place.start("superlink", command)

    def register(self) -> None:
        """Put the hospitals' keys on the list."""

        def one(number: int) -> None:
            key = self.place.allowed / f"hospital-{number}.pub"
            self.place.start(f"register-{number}", ["flwr", "supernode", "register", str(key), "bench"]).wait()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, range(self.place.hospitals)))

    def start_nodes(self) -> None:
        """Start `flower-supernode` for each hospital and wait until all have joined."""
        nodes = []
        for number in range(self.place.hospitals):
            command = ["flower-supernode", "--superlink", f"localhost:{self.port}", "--port", str(free_port())]
            command += ["--root-certificates", str(self.place.tls / "ca.pem")]
            command += ["--auth-supernode-private-key", str(self.place.home(number) / "node.key")]
            nodes.append(self.place.start(f"supernode-{number}", command))
        for node in nodes:
            node.wait_said("SuperNode ID")

    def run(self, rounds: int) -> list[float]:
        """Run the app and return how long each round took."""
        self._times.unlink(missing_ok=True)
        arrays, elements = self._shape
        config = {"rounds": rounds, "nodes": self.place.hospitals, "arrays": arrays, "elements": elements}
        words = " ".join(f"{name}={value}" for name, value in config.items())
        words += f" torch={int(self._torch)} times='{self._times}'"
        self.place.start("run", ["flwr", "run", "stock", "bench", "-c", words]).wait()
        wait_until(lambda: len(self._moments()) > rounds, "the rounds to end")
        moments = self._moments()
        return [after - before for before, after in pairwise(moments)]

    def _moments(self) -> list[float]:
        return [float(line) for line in self._times.read_text().split()] if self._times.exists() else []
