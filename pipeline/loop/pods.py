"""The pods of one loop on the engine: seen, started, ended and removed. All of them carry its label."""

from __future__ import annotations

import contextlib
import io
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from pipeline.engine import ENGINE_ERRORS, ENGINE_TIMEOUTS, EngineRefused, said

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.engine import DockerClient
    from pipeline.loop.plan import Files, PodPlan

LABEL = "io.flops.up"
"""On everything that a loop made; its value says which loop."""

_ROLE, _OWNER, _PLAN, _DUE, _ATTEMPT, _COMMIT, _IMAGE = (
    f"{LABEL}.{name}" for name in ("role", "owner", "plan", "due", "attempt", "commit", "image")
)
_FILES = "files"
"""The role of what only hands files over."""

_ONCE_SECONDS = 120
"""A command that prepares something may take so long."""

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pod:
    """A container of the loop.

    Attributes:
        id: the engine's.
        name: for people.
        role: job, serving or hospital.
        owner: the name of what it belongs to.
        plan: the digest of what it was started from.
        due: when a job was due; None for others.
        attempt: counted from 1.
        commit: of the config repository.
        image: as the manifest names it.
        running: whether it runs.
        exit_code: None while it runs.
        started: when.
        finished: when; None while it runs.
    """

    id: str
    name: str
    role: str
    owner: str
    plan: str
    due: datetime | None
    attempt: int
    commit: str
    image: str
    running: bool
    exit_code: int | None
    started: datetime
    finished: datetime | None


@dataclass
class Pods:
    """The engine, as one loop sees it."""

    client: DockerClient
    loop: str
    _ended: dict[str, Pod] = field(default_factory=dict)
    _filled: set[str] = field(default_factory=set)
    """The volumes that are known to be there."""

    @property
    def prefix(self) -> str:
        """How the names of all that is made begin."""
        return f"flops-up-{self.loop}"

    @property
    def labels(self) -> dict[str, str]:
        """The label of all that is made."""
        return {LABEL: self.loop}

    @property
    def _ours(self) -> dict[str, Any]:
        return {"label": f"{LABEL}={self.loop}"}

    def network(self) -> str:
        """Make the network where it is missing; returns the address at which containers reach this machine."""
        found = self.client.networks.list(filters=self._ours)
        made = found[0] if found else self.client.networks.create(self.prefix, driver="bridge", labels=self.labels)
        made.reload()
        return next(
            str(place["Gateway"]) for place in made.attrs["IPAM"]["Config"] if "." in place.get("Gateway", "")
        )

    def list(self) -> list[Pod]:
        """Return the pods that there are; what a killed start left half made is removed."""
        found = []
        for row in self.client.api.containers(all=True, filters=self._ours):
            labels, state = row["Labels"], row["State"]
            if labels.get(_ROLE) == _FILES or state in ("created", "dead"):
                self._discard(row["Id"])
            elif state in ("exited", "removing"):
                if row["Id"] not in self._ended:
                    with contextlib.suppress(EngineRefused):  # Gone meanwhile.
                        self._ended[row["Id"]] = self._inspect(row["Id"])
                if row["Id"] in self._ended:
                    found.append(self._ended[row["Id"]])
            else:
                started = datetime.fromtimestamp(row["Created"], UTC)
                found.append(_pod(row["Id"], row["Names"][0].lstrip("/"), labels, None, started, None))
        return found

    def start(self, plan: PodPlan, *, commit: str, attempt: int = 1, due: datetime | None = None) -> str:
        """Start a pod; returns its name.

        Raises:
            FlopsError: the engine will not.
        """
        moment = due or datetime.now(UTC)
        name = f"{self.prefix}-{plan.owner}-{moment:%m%d-%H%M%S}-{attempt}"
        labels = {
            **self.labels,
            _ROLE: plan.role,
            _OWNER: plan.owner,
            _PLAN: plan.digest,
            _DUE: due.isoformat() if due else "",
            _ATTEMPT: str(attempt),
            _COMMIT: commit,
            _IMAGE: plan.image,
        }
        try:
            self.network()  # Somebody may have pruned it.
            volumes = [f"{self._hand_over(plan.image, files)}:{files.path}:ro" for files in plan.files]
            volumes += [f"{volume}:{path}:rw" for volume, path in plan.volumes.items()]
            with contextlib.suppress(EngineRefused):
                self.client.api.remove_container(name, force=True)
            made = self.client.containers.create(
                plan.image,
                list(plan.command) if plan.command is not None else None,
                name=name,
                labels=labels,
                volumes=volumes,
                network=self.prefix,
                networking_config={self.prefix: self.client.api.create_endpoint_config(aliases=list(plan.aliases))},
                **_settings(plan),
            )
            try:
                made.start()
            except EngineRefused:
                self._discard(made.id)
                raise
        except EngineRefused as error:
            raise FlopsError(_why(said(error))) from error
        return name

    def signal(self, pod: Pod, name: str) -> None:
        """Send a signal to a pod; one that has ended meanwhile is no failure."""
        with contextlib.suppress(EngineRefused):
            self.client.api.kill(pod.id, name)

    def remove(self, pod: Pod) -> None:
        """Remove a pod, running or not."""
        self._discard(pod.id)
        self._ended.pop(pod.id, None)

    def logs(self, pod: Pod, *, errors: bool = True, lines: int = 40) -> str:
        """Return the last lines that a pod printed."""
        with contextlib.suppress(EngineRefused):
            printed: bytes = self.client.api.logs(pod.id, stdout=True, stderr=errors, tail=lines)
            return printed.decode(errors="replace")
        return ""

    def address(self, pod: Pod) -> str:
        """Return a pod's address on the network; an empty one where it has none."""
        with contextlib.suppress(EngineRefused):
            networks = self.client.api.inspect_container(pod.id)["NetworkSettings"]["Networks"]
            return str(networks.get(self.prefix, {}).get("IPAddress") or "")
        return ""

    def sweep(self) -> None:
        """Remove handed-over files that no pod mounts any more."""
        for volume in self.client.volumes.list(filters=self._ours):
            if volume.name.startswith(f"{self.prefix}-files-"):
                with contextlib.suppress(*ENGINE_ERRORS):  # One that is in use stays.
                    volume.remove()
                    self._filled.discard(volume.name)

    def clear(self, *, volumes: bool) -> None:
        """Remove all that the loop made; the volumes that outlive it only where that is wanted."""
        for row in self.client.api.containers(all=True, filters=self._ours):
            self._discard(row["Id"])
        for network in self.client.networks.list(filters=self._ours):
            with contextlib.suppress(*ENGINE_ERRORS):
                network.remove()
        if volumes:
            for volume in self.client.volumes.list(filters=self._ours):
                with contextlib.suppress(*ENGINE_ERRORS):
                    volume.remove()
        else:
            self.sweep()

    def volume(self, name: str) -> str:
        """Make a volume that outlives pods, where it is missing; returns its whole name."""
        whole = f"{self.prefix}-{name}"
        if whole not in self._filled:
            self.client.volumes.create(whole, labels=self.labels)
            self._filled.add(whole)
        return whole

    def once(
        self,
        image: str,
        words: Sequence[str],
        volumes: Mapping[str, str],
        *,
        entrypoint: Sequence[str] = ("flops",),
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command of an image to its end, without a network; returns what it printed.

        Raises:
            FlopsError: it failed.
        """
        with self._finished(image, words, volumes, entrypoint, environment) as container:
            printed: bytes = self.client.api.logs(container, stdout=True, stderr=False)
            return printed.decode(errors="replace")

    def files_of(self, image: str, words: Sequence[str], volumes: Mapping[str, str], folder: str) -> dict[str, str]:
        """Run a command likewise; returns the files that it left in a folder, by name."""
        with self._finished(image, words, volumes, ("flops",), None) as container:
            stream, _ = self.client.api.get_archive(container, folder)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                members = [(member.name.rpartition("/")[2], archive.extractfile(member)) for member in archive]
                return {name: file.read().decode() for name, file in members if file is not None}

    @contextmanager
    def _finished(
        self,
        image: str,
        words: Sequence[str],
        volumes: Mapping[str, str],
        entrypoint: Sequence[str],
        environment: Mapping[str, str] | None,
    ) -> Iterator[str]:
        try:
            made = self.client.containers.create(
                image,
                list(words),
                entrypoint=list(entrypoint),
                environment=dict(environment or {}),
                labels={**self.labels, _ROLE: _FILES},
                volumes={name: {"bind": path, "mode": "rw"} for name, path in volumes.items()},
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": "mode=1777"},  # noqa: S108 - the container's own
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
            )
            try:
                made.start()
                code = int(made.wait(timeout=_ONCE_SECONDS)["StatusCode"])
                if code != 0:
                    last = made.logs(stdout=False, stderr=True, tail=1).decode(errors="replace").strip()
                    raise FlopsError(f"'{' '.join(words[:2])}' of {image} ended with exit code {code}: {last[:300]}")
                yield str(made.id)
            finally:
                self._discard(made.id)
        except EngineRefused as error:
            raise FlopsError(f"Docker Engine: {said(error)}") from error
        except ENGINE_TIMEOUTS as error:
            raise FlopsError(f"'{' '.join(words[:2])}' of {image} does not end within {_ONCE_SECONDS} s") from error

    def _hand_over(self, image: str, files: Files) -> str:
        """Make a volume that holds files; it is named by what they are."""
        name = f"{self.prefix}-files-{files.digest[:20]}"
        if name in self._filled and any(self.client.volumes.list(filters={"name": name})):
            return name
        self.client.volumes.create(name, labels=self.labels)
        # A volume is filled through a container, which need not run.
        helper = self.client.api.create_container(
            image,
            ["nothing"],
            labels={**self.labels, _ROLE: _FILES},
            volumes=[files.path],
            host_config=self.client.api.create_host_config(binds={name: {"bind": files.path, "mode": "rw"}}),
        )["Id"]
        try:
            self.client.api.put_archive(helper, files.path, _archive(files))
        finally:
            self._discard(helper)
        self._filled.add(name)
        return name

    def _discard(self, container: str) -> None:
        with contextlib.suppress(EngineRefused):
            self.client.api.remove_container(container, force=True, v=True)

    def _inspect(self, container: str) -> Pod:
        found = self.client.api.inspect_container(container)
        state = found["State"]
        started, finished = _moment(state["StartedAt"]), _moment(state["FinishedAt"])
        code = int(state["ExitCode"])
        return _pod(container, found["Name"].lstrip("/"), found["Config"]["Labels"], code, started, finished)


def _settings(plan: PodPlan) -> dict[str, Any]:
    """Return how the engine is told what a pod may do."""
    return {
        **({"entrypoint": list(plan.entrypoint)} if plan.entrypoint is not None else {}),
        **({"user": plan.user} if plan.user else {}),
        **({"group_add": list(plan.groups)} if plan.groups else {}),
        **({"mem_limit": plan.memory, "memswap_limit": plan.memory} if plan.memory else {}),
        **({"nano_cpus": int(plan.cores * 1e9)} if plan.cores else {}),
        **({} if plan.checks else {"healthcheck": {"test": ["NONE"]}}),
        "environment": dict(plan.environment),
        "read_only": plan.read_only,
        "cap_drop": list(plan.drop),
        "security_opt": [] if plan.escalates else ["no-new-privileges"],
        "tmpfs": {path: f"mode=1777,size={size}" for path, size in plan.scratch.items()},
        "ports": {f"{inside}/tcp": ("127.0.0.1", outside) for inside, outside in plan.publish.items()},
        "pids_limit": 512,
        "stop_signal": "SIGTERM",
        "log_config": {"type": "json-file", "config": {"max-size": "10m"}},
    }


def _archive(files: Files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, mode, content in _members(files):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.gid, entry.size = mode, files.group, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _members(files: Files) -> Iterator[tuple[str, int, bytes]]:
    for name, text in files.content.items():
        yield name, files.modes.get(name, files.mode), text.encode()


def _pod(
    container: str,
    name: str,
    labels: Mapping[str, str],
    code: int | None,
    started: datetime,
    finished: datetime | None,
) -> Pod:
    due = labels.get(_DUE, "")
    return Pod(
        id=container,
        name=name,
        role=labels.get(_ROLE, ""),
        owner=labels.get(_OWNER, ""),
        plan=labels.get(_PLAN, ""),
        due=datetime.fromisoformat(due) if due else None,
        attempt=int(labels.get(_ATTEMPT, "1")),
        commit=labels.get(_COMMIT, ""),
        image=labels.get(_IMAGE, ""),
        running=code is None,
        exit_code=code,
        started=started,
        finished=finished,
    )


def _moment(text: str) -> datetime:
    """Read the engine's time, which has nanoseconds."""
    head, _, rest = text.rstrip("Z").partition(".")
    try:
        return datetime.fromisoformat(f"{head}.{(rest + '000000')[:6]}+00:00")
    except ValueError:
        return _NEVER


def _why(text: str) -> str:
    """Say in a line what the engine's words about a start mean."""
    if "port is already allocated" in text or "address already in use" in text:
        return f"a port of this machine is taken by somebody else ({text.rpartition(':: ')[2] or text})"
    return f"Docker Engine: {text}"
