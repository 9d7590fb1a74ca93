"""A federation in containers, put together as its documentation says: jobs of the server, hospitals, a registry.

Nothing is made on this machine but the model registry, which a federation has already: certificates come out of the
server's image, data and keys out of the client's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.images.network import container
from tests.workers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from docker import DockerClient
    from docker.models.networks import Network

    from tests.images.network import Box

NAMES = ("east", "north", "south")
"""The hospitals, as the allow-list calls them."""

PATIENCE = 240.0
"""Seconds in which whatever is waited for must happen."""

MODEL = "flops-digits"

WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""What MLflow's servers are told: eight more processes that nobody here asks anything would be slow to start."""

QUICK = """
import sys
from fl.cli import main
code = main(sys.argv[1:])
print(code, *sorted({"flwr", "numpy", "torch", "mlflow"} & {*sys.modules}))
"""
"""Runs a command and says which of the heavy libraries it imported: a health check runs for ever."""

_LIMITS: dict[str, Any] = {"tmpfs": {"/tmp": "size=64m,mode=1777"}, "pids_limit": 256}  # noqa: S108
_NODE: dict[str, Any] = {**_LIMITS, "mem_limit": "2g", "memswap_limit": "2g", "nano_cpus": 2 * 10**9}
_JOB: dict[str, Any] = {**_LIMITS, "mem_limit": "1g", "memswap_limit": "1g"}

_ROUND = re.compile(r"round (\d+): (\d+) hospitals, loss")


class Tracker:
    """A real MLflow server on this machine that the containers of one network reach; artifacts go through it."""

    def __init__(self, folder: Path, address: str) -> None:
        port = free_port(address)
        self.uri = f"http://{address}:{port}"
        self._log = folder / "mlflow.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", address, "--port", str(port)),
                    *("--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                    *("--artifacts-destination", str(folder / "artifacts")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}, **WITHOUT_JOBS},
                start_new_session=True,
            )
        # What the shell says of proxies is not about this machine.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), self._open(f"{self.uri}/health", timeout=5):
                return
            said = self._log.read_text(errors="replace")
            assert self._process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.2)

    def ask(self, what: str, **words: str) -> dict[str, Any]:
        """Ask its REST API."""
        with self._open(f"{self.uri}/api/2.0/mlflow/{what}?{urlencode(words)}", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def versions(self) -> dict[int, dict[str, str]]:
        """Return the tags of the model's versions."""
        found = self.ask("model-versions/search", filter=f"name = '{MODEL}'").get("model_versions", [])
        return {int(v["version"]): {tag["key"]: tag["value"] for tag in v.get("tags", [])} for v in found}

    def champion(self) -> int:
        """Return the version that is served."""
        return int(self.ask("registered-models/alias", name=MODEL, alias="champion")["model_version"]["version"])

    def stop(self) -> None:
        """End it with all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


@dataclass(frozen=True)
class Ended:
    """How a container ended that did one thing."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class JobEnded(Ended):
    """How a job ended; its JSON document, from its output and from its termination message."""

    told: dict[str, Any]
    message: dict[str, Any]

    @property
    def hospitals(self) -> list[str]:
        """Who took part."""
        return [hospital["name"] for hospital in self.told["hospitals"]]


@dataclass(frozen=True)
class Job:
    """A job of the server that runs in a container."""

    box: Box
    outcome: Path

    def rounds(self) -> list[tuple[int, int]]:
        """Return the rounds that are complete: number, hospitals."""
        return [(int(number), int(count)) for number, count in _ROUND.findall(self.box.logs())]

    def wait_for_round(self, *, hospitals: int, after: int = 0) -> int:
        """Wait for a round with so many hospitals after another one; returns its number."""
        end = time.monotonic() + PATIENCE
        while True:
            running = self.box.state()["Running"]
            found = next((n for n, count in self.rounds() if n > after and count == hospitals), None)
            if found is not None:
                return found
            assert running, f"the job ended without a round of {hospitals} hospitals after round {after}"
            assert time.monotonic() < end, f"no round of {hospitals} hospitals after round {after}"
            time.sleep(0.1)

    def wait_for_round_without(self, name: str) -> int:
        """Wait for a round that goes on without a hospital; returns its number."""
        printed = self.box.wait_for(f"{name} is left out of round", PATIENCE)
        return int(re.findall(f"{name} is left out of round ([0-9]+)", printed)[0])

    def end(self) -> JobEnded:
        """Wait for its end."""
        code = self.box.exit_code(timeout=PATIENCE)
        out, err = self.box.output(), self.box.output(errors=True)
        assert not self.box.state()["OOMKilled"]
        assert "Traceback" not in err
        told = next(json.loads(line) for line in reversed(out.splitlines()) if line.startswith('{"outcome"'))
        return JobEnded(code, out, err, told, json.loads(self.outcome.read_text()))


@dataclass
class Federation:
    """Certificates, data, keys and a network; starts jobs and hospitals on it.

    Attributes:
        engine: Docker Engine.
        images: the two images' ids by side.
        net: where all meet.
        folder: of all files.
        tracker: the model registry.
    """

    engine: DockerClient
    images: Mapping[str, str]
    net: Network
    folder: Path
    tracker: Tracker
    _jobs: int = field(default=0, init=False)

    def prepare(self) -> None:
        """Make certificates and data."""
        self.make_certificate()
        dealt = self._folder("dealt")
        self.run("client", "deal", "digits", "--clients", "3", "--out", "/out", "--force", writes={"/out": dealt})
        for number, name in enumerate(NAMES, start=1):
            self.furnish(name, number)

    def furnish(self, name: str, number: int = 1) -> None:
        """Give a hospital its examples, or those of one of the three, and the CA's certificate."""
        data, config = self._folder(f"{name}/data"), self._folder(f"{name}/config")
        shutil.copy(self._folder("dealt") / f"hospital-{number}.npz", data / "digits.npz")
        shutil.copy(self.tls / "ca.pem", config)

    @property
    def tls(self) -> Path:
        """The folder with CA and certificate."""
        return self._folder("tls")

    def make_certificate(self) -> None:
        """Make the server's certificate, and the CA where there is none yet."""
        hosts = ("--host", "server", "--host", "door")
        self.run("server", "server", "certificate", *hosts, "--out", "/tls", writes={"/tls": self.tls})

    def make_key(self, name: str) -> dict[str, Any]:
        """Make a hospital's pair of keys in its own container; returns what the command said."""
        for inside in ("data", "config"):
            self._folder(f"{name}/{inside}")
        made = self.run("client", "client", "keygen", "--json", **self.place(name))
        found: dict[str, Any] = json.loads(made.out)
        return found

    def place(self, name: str) -> dict[str, Any]:
        """Return what a hospital's container is given: settings as environment variables, and three folders."""
        return {
            "environment": {
                "FLOPS_SERVER": "server:8080",
                "FLOPS_TASK": "digits",
                "FLOPS_DATA": "/data/digits.npz",
                "FLOPS_CA": "/etc/flops/ca.pem",
                "FLOPS_CLIENT_HOME": "/node",
            },
            "reads": {"/data": self.folder / name / "data", "/etc/flops": self.folder / name / "config"},
            "writes": {"/node": self._folder(f"{name}/node")},
            **_NODE,
        }

    @contextmanager
    def hospital(self, name: str, **further: Any) -> Iterator[Box]:
        """Start a hospital's node and keep it running."""
        place = self.place(name)
        place["environment"] = {**place["environment"], **further.pop("environment", {})}
        with container(self.engine, self.images["client"], alias=name, on=self.net, **{**place, **further}) as box:
            yield box

    @contextmanager
    def job(
        self,
        *,
        image: str | None = None,
        hospitals: Sequence[str] = NAMES,
        alias: str = "server",
        driver: str | None = None,
        healthcheck: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        **config: Any,
    ) -> Iterator[Job]:
        """Start a job of the server.

        Args:
            image: the server's image, where it is another one than the tests' own.
            hospitals: the allow-list.
            alias: the server's name on the network.
            driver: a Python program to run in place of `flops`, with the same arguments.
            healthcheck: what to change of the image's check.
            environment: further variables.
            config: the federation's file.
        """
        self._jobs += 1
        folder = self._folder(f"job-{self._jobs}")
        allowed, out = self._folder(f"{folder.name}/hospitals"), self._folder(f"{folder.name}/out")
        for name in hospitals:  # The federation says what hospitals are called, whatever they call themselves.
            shutil.copy(self.folder / name / "node" / "hospital.pub", allowed / f"{name}.pub")
        values = {"task": "digits", "min_hospitals": len(hospitals), "join_timeout": PATIENCE, **config}
        lines = [f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict)]
        for table in (k for k, v in values.items() if isinstance(v, dict)):
            lines += [f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in values[table].items())]
        (folder / "federation.toml").write_text("\n".join(lines) + "\n")
        image = image or self.images["server"]
        program = {} if driver is None else {"entrypoint": ["python", "-c", driver, "server"]}
        check = {} if healthcheck is None else {"healthcheck": healthcheck}
        with container(
            self.engine,
            image,
            ["round"],
            alias=alias,
            on=self.net,
            environment={
                "FLOPS_FEDERATION": "/etc/flops/federation.toml",
                "FLOPS_HOSPITALS": "/etc/flops/hospitals",
                "FLOPS_TLS_CERT": "/tls/server.pem",
                "FLOPS_TLS_KEY": "/tls/server.key",
                "FLOPS_TERMINATION_MESSAGE": "/out/message",
                "FLOPS_IMAGE": image,
                "MLFLOW_TRACKING_URI": self.tracker.uri,
                **(environment or {}),
            },
            reads={
                "/etc/flops/federation.toml": folder / "federation.toml",
                "/etc/flops/hospitals": allowed,
                "/tls/server.pem": self.tls / "server.pem",
                "/tls/server.key": self.tls / "server.key",
            },
            writes={"/out": out},
            **_JOB,
            **program,
            **check,
        ) as box:
            yield Job(box, out / "message")

    def run_job(self, **named: Any) -> JobEnded:
        """Run a job to its end."""
        with self.job(**named) as job:
            return job.end()

    def run(self, side: str, *arguments: str, code: int = 0, **further: Any) -> Ended:
        """Run a command of `flops`, or another program, to its end; without a network unless one is named."""
        further = {"entrypoint": ["flops"], "alias": "once", **further}
        with container(self.engine, self.images[side], arguments, **further) as box:
            ended = Ended(box.exit_code(timeout=PATIENCE), box.output(), box.output(errors=True))
            assert ended.code == code, ended
            return ended

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
