"""The trial federation: the images of a release run one federated round before anything is bumped."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.sandbox import PLACE, Sandbox, SandboxFailed, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.engine import DockerClient

HOSPITALS = ("east", "west")

IN_USE = "in-use"
"""The folder for the federation file of the model in use."""

FEDERATION = """\
task = "digits"
model = "flops-smoke"
rounds = 1
min_hospitals = 2
join_timeout = {seconds}
join_grace = 1
round_deadline = {seconds}
"""

_PREPARE = f"""
import json, os, pathlib
place = pathlib.Path("{PLACE}")
for name, text in json.loads(os.environ["FILES"]).items():
    (place / name).parent.mkdir(exist_ok=True)
    (place / name).write_text(text)
for folder in ("tls", "data", "allowed", "registry", *{HOSPITALS}):
    (place / folder).mkdir(exist_ok=True)
    os.chown(place / folder, int(os.environ["OWNER"]), -1)
"""
"""Runs as root: a new volume is root's."""

_ALLOW = f"""
import pathlib, shutil
place = pathlib.Path("{PLACE}")
for name in {HOSPITALS}:
    shutil.copy(place / name / "hospital.pub", place / "allowed" / f"{{name}}.pub")
"""

_PYTHON = ["python", "-c"]


@dataclass(frozen=True)
class SmokeResult:
    """How the trial ended; it passed, or an error was raised.

    Attributes:
        seconds: how long all of it took.
        current: whether the client image of the current release took part too.
        model: the version of the model in use that the new server loaded; None where there is none, or no registry
            is named.
    """

    seconds: float
    current: bool
    model: int | None

    def __str__(self) -> str:
        """Say it in a line."""
        more = [", with the current client too" if self.current else ""]
        more += [f", model version {self.model} loads" if self.model is not None else ""]
        return f"passed in {self.seconds:.0f} s{''.join(more)}"


@dataclass(frozen=True)
class InUse:
    """The model in use, which the new server must be able to go on with.

    Attributes:
        files: its federation file, ``in-use/federation.toml``, and what that names.
        environment: how its registry is reached.
    """

    files: Mapping[str, str]
    environment: Mapping[str, str]


class Trial:
    """The federations of one release, in one sandbox."""

    def __init__(self, box: Sandbox, server: str, seconds: int, say: Callable[[str], None]) -> None:
        self._box, self._server, self._seconds, self._say = box, server, seconds, say

    def prepare(self, client: str, files: Mapping[str, str]) -> None:
        """Make a certificate, keys and data with the commands that people use.

        Args:
            client: the image of hospitals.
            files: further files that later steps read, by their names.

        Raises:
            SandboxFailed: one of them failed.
        """
        box, seconds = self._box, float(self._seconds)
        federation = FEDERATION.format(seconds=min(self._seconds, 60))
        user = str(box.client.images.get(self._server).attrs["Config"].get("User") or "0").partition(":")[0]
        box.run(
            "prepare",
            self._server,
            [_PREPARE],
            seconds=seconds,
            entrypoint=_PYTHON,
            user="0",
            cap_add=["CHOWN"],
            environment={"OWNER": user, "FILES": json.dumps({**files, "federation.toml": federation})},
        )
        flops = ["flops"]
        with ThreadPoolExecutor(4) as pool:
            waiting = [
                pool.submit(
                    box.run,
                    "certificate",
                    self._server,
                    ["server", "certificate", "--host", "server", "--out", f"{PLACE}/tls"],
                    seconds=seconds,
                    entrypoint=flops,
                ),
                pool.submit(
                    box.run,
                    "deal",
                    client,
                    ["deal", "digits", "--clients", str(len(HOSPITALS)), "--out", f"{PLACE}/data"],
                    seconds=seconds,
                    entrypoint=flops,
                ),
                *(
                    pool.submit(
                        box.run,
                        f"keygen-{name}",
                        client,
                        ["client", "keygen"],
                        seconds=seconds,
                        entrypoint=flops,
                        environment={"FLOPS_CLIENT_HOME": f"{PLACE}/{name}"},
                    )
                    for name in HOSPITALS
                ),
            ]
            for future in waiting:
                future.result()
        box.run("allow", self._server, [_ALLOW], seconds=seconds, entrypoint=_PYTHON)

    def federate(self, client: str) -> dict[str, Any]:
        """Run one job of the server with hospitals of a client image; returns the job's JSON document.

        Raises:
            SandboxFailed: no version was registered, a hospital was missing, or the weights are not sound.
        """
        box = self._box
        for number, name in enumerate(HOSPITALS, start=1):
            box.start(
                name,
                client,
                environment={
                    "FLOPS_SERVER": "server:8080",
                    "FLOPS_TASK": "digits",
                    "FLOPS_DATA": f"{PLACE}/data/hospital-{number}.npz",
                    "FLOPS_CA": f"{PLACE}/tls/ca.pem",
                    "FLOPS_CLIENT_HOME": f"{PLACE}/{name}",
                },
            )
        place = {
            "FLOPS_FEDERATION": f"{PLACE}/federation.toml",
            "FLOPS_HOSPITALS": f"{PLACE}/allowed",
            "FLOPS_TLS_CERT": f"{PLACE}/tls/server.pem",
            "FLOPS_TLS_KEY": f"{PLACE}/tls/server.key",
            "MLFLOW_TRACKING_URI": f"sqlite:///{PLACE}/registry/mlflow.db",
        }
        job = box.start("server", self._server, ["round"], environment=place)
        code = box.wait("server", job, self._seconds)
        told = _last_object(job.logs(stdout=True, stderr=False, tail=50).decode(errors="replace"))
        names = {hospital.get("name") for hospital in told.get("hospitals", [])}
        if code != 0 or told.get("outcome") != "registered" or names != set(HOSPITALS):
            reason = told.get("reason") or told.get("outcome") or "it said nothing"
            logs = box.logs()
            if not told:
                reason = _last_words(logs.get("server", "")) or reason
            raise SandboxFailed(f"the server's job ended with exit code {code}: {reason}", logs)
        printed = box.run("verify", self._server, ["verify", "--json"], seconds=self._seconds, environment=place)
        found = _last_object(printed)
        if found.get("problem") != "" or found.get("finite") is not True or not found.get("change"):
            raise SandboxFailed(f"the model is not sound: {found.get('problem') or printed.strip()}", box.logs())
        return told

    def load_current(self, environment: Mapping[str, str]) -> int | None:
        """Load the newest version of the model in use with the new server; None where there is none yet.

        Args:
            environment: how its registry is reached.

        Raises:
            SandboxFailed: it does not load.
        """
        made = self._box.start(
            "current-model",
            self._server,
            ["verify", "--json"],
            outside=True,
            environment={**environment, "FLOPS_FEDERATION": f"{PLACE}/{IN_USE}/federation.toml"},
        )
        self._box.wait("current-model", made, self._seconds)
        found = _last_object(made.logs(stdout=True, stderr=False, tail=50).decode(errors="replace"))
        if "version" not in found:
            printed = self._box.logs("current-model")
            reason = _last_words(printed.get("current-model", ""))
            raise SandboxFailed(
                "the model in use cannot be loaded with the new server" + (f": {reason}" if reason else ""), printed
            )
        version: int | None = found["version"]
        return version


def smoke(
    client: DockerClient,
    images: Mapping[str, str],
    current: str | None,
    seconds: int,
    say: Callable[[str], None],
    in_use: InUse | None = None,
) -> SmokeResult:
    """Run the trial.

    Args:
        client: the engine.
        images: the two new images by side, with digests.
        current: the client image that hospitals run today, with its digest; None where there is none.
        seconds: how long each step may take.
        say: told what happens.
        in_use: the model in use; None where no registry is named.

    Raises:
        SandboxFailed: the release must not go on.
    """
    started = time.monotonic()
    with sandbox(client) as box:
        trial = Trial(box, images["server"], seconds, say)
        say("smoke federation: certificate, keys, data")
        trial.prepare(images["client"], in_use.files if in_use else {})
        say("smoke federation: a round with the new client")
        trial.federate(images["client"])
        if current is not None:
            say("smoke federation: a round with the client of the current release")
            trial.federate(current)
        model = None
        if in_use is not None:
            say("smoke federation: the model in use with the new server")
            model = trial.load_current(in_use.environment)
    return SmokeResult(time.monotonic() - started, current is not None, model)


def _last_words(printed: str) -> str:
    """Return the last line that a container printed for people."""
    lines = [line.removeprefix("flops: ").strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _last_object(printed: str) -> dict[str, Any]:
    """Return the last line that is a JSON object; an empty one where there is none."""
    for line in reversed(printed.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}
