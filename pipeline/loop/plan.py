"""A pod as it is to be started: all references resolved, and a digest that tells whether it changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from pipeline.loop.manifests import container_port
from pipeline.loop.objects import read_cpu, read_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.loop.desired import Desired
    from pipeline.loop.objects import ConfigMapVolume, EmptyDir, KeyToPath, PodTemplate, SecretVolume, Variable

SCRATCH = "1g"
"""How large a folder in memory may become where nobody says."""


class Missing(FlopsError):  # noqa: N818 - a state, not a mistake
    """Something that a pod needs is not there yet."""


@dataclass(frozen=True)
class Files:
    """A folder of files that a pod reads.

    Attributes:
        path: where it sees them.
        content: text by name.
        modes: a file's rights by name, where they differ from `mode`.
        mode: the files' rights.
        group: whose they are.
    """

    path: str
    content: Mapping[str, str]
    mode: int = 0o644
    group: int = 0
    modes: Mapping[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest of all of it but the place."""
        told = [dict(self.content), self.mode, self.group, dict(self.modes)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PodPlan:
    """A container to be.

    Attributes:
        role: job, serving or hospital.
        owner: the name of what it belongs to.
        image: what it runs.
        entrypoint: in place of the image's; None leaves it.
        command: behind the entry point; None leaves the image's.
        environment: its variables.
        files: folders that it reads.
        scratch: folders in memory, with their size in bytes or as text.
        volumes: the engine's volumes by their name: where they are seen.
        user: number of user and group; empty leaves the image's.
        groups: further groups of the user.
        read_only: whether its root is.
        drop: rights of root that are taken away.
        escalates: whether a program may get more rights than it was started with.
        memory: bytes at most; None for no limit.
        cores: at most; None for no limit.
        aliases: its names on the network.
        publish: ports of this machine, on loopback, by the container's port.
        grace: seconds that it has to end.
        checks: whether the image's own health check runs.
        commit: of the config repository. It is no part of the digest: what only says it is no reason to start anew.
    """

    role: str
    owner: str
    image: str
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Files, ...] = ()
    scratch: Mapping[str, int | str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    groups: tuple[int, ...] = ()
    read_only: bool = False
    drop: tuple[str, ...] = ()
    escalates: bool = True
    memory: int | None = None
    cores: float | None = None
    aliases: tuple[str, ...] = ()
    publish: Mapping[int, int] = field(default_factory=dict)
    grace: int = 30
    checks: bool = False
    commit: str = ""

    @property
    def digest(self) -> str:
        """Tells one plan from another."""
        told = asdict(self)
        commit = told.pop("commit")
        told["environment"] = {name: value for name, value in self.environment.items() if value != commit}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def plan(
    desired: Desired, role: str, owner: str, pod: PodTemplate, secrets: Mapping[str, Mapping[str, str]]
) -> PodPlan:
    """Resolve a pod.

    Args:
        desired: the environment.
        role: what the pod is here.
        owner: the name of what it belongs to.
        pod: its template.
        secrets: files by name, by the secret's name.

    Raises:
        Missing: a secret, a config map or a key of one is not there.
    """
    spec, container = pod.spec, pod.spec.container
    maps = {"config map": desired.config_maps, "secret": secrets}
    environment: dict[str, str] = {}
    for source in container.env_from:
        for kind, reference in (("config map", source.config_map_ref), ("secret", source.secret_ref)):
            if reference is not None:
                environment |= _whole(maps[kind], kind, reference.name, reference.optional)
    for variable in container.env:
        found = _variable(variable, pod, maps)
        if found is not None:
            environment[variable.name] = found
    group = spec.security_context.fs_group or 0
    files, scratch = [], {}
    volumes = {volume.name: volume for volume in spec.volumes}
    for mount in container.volume_mounts:
        volume = volumes[mount.name]
        if volume.empty_dir is not None:
            scratch[mount.mount_path] = _size(volume.empty_dir)
        elif volume.config_map is not None:
            name = volume.config_map.name
            files.append(_files(volume.config_map, maps["config map"], "config map", name, mount.mount_path, group))
        elif volume.secret is not None:
            name = volume.secret.secret_name
            files.append(_files(volume.secret, maps["secret"], "secret", name, mount.mount_path, group))
    services = desired.reached_by(pod)
    publish = {}
    for service in services:
        for port in service.spec.ports:
            if port.node_port is not None and (there := container_port(container, port.target_port or port.port)):
                publish[there] = port.node_port
    security, user = container.security_context, spec.security_context
    numbers = [str(number) for number in (user.run_as_user, user.run_as_group) if number is not None]
    limits = container.resources.limits
    return PodPlan(
        role=role,
        owner=owner,
        image=container.image,
        entrypoint=tuple(container.command) if container.command is not None else None,
        command=tuple(container.args) if container.args is not None else None,
        environment=environment,
        files=tuple(files),
        scratch=scratch,
        user=":".join(numbers) if user.run_as_user is not None else "",
        groups=(group,) if group else (),
        read_only=security.read_only_root_filesystem,
        drop=tuple(security.capabilities.drop),
        escalates=security.allow_privilege_escalation,
        memory=read_memory(limits.memory) if limits.memory else None,
        cores=read_cpu(limits.cpu) if limits.cpu else None,
        aliases=tuple(sorted(service.metadata.name for service in services)),
        publish=publish,
        grace=spec.termination_grace_period_seconds,
        commit=desired.commit,
    )


def _size(folder: EmptyDir) -> int | str:
    return read_memory(folder.size_limit) if folder.size_limit else SCRATCH


def _whole(there: Mapping[str, Mapping[str, str]], kind: str, name: str, optional: bool) -> Mapping[str, str]:
    found = there.get(name)
    if found is None:
        if optional:
            return {}
        raise Missing(f"{kind} '{name}' is missing")
    return found


def _files(
    volume: ConfigMapVolume | SecretVolume,
    there: Mapping[str, Mapping[str, str]],
    kind: str,
    name: str,
    path: str,
    group: int,
) -> Files:
    found = _whole(there, kind, name, volume.optional)
    if volume.items is None or (volume.optional and name not in there):
        return Files(path, dict(found), volume.default_mode, group)
    items: list[KeyToPath] = volume.items
    for item in items:
        if item.key not in found and not volume.optional:
            raise Missing(f"{kind} '{name}' has no key '{item.key}'")
    modes = {item.path: item.mode for item in items if item.mode is not None}
    return Files(
        path, {item.path: found[item.key] for item in items if item.key in found}, volume.default_mode, group, modes
    )


def _variable(
    variable: Variable, pod: PodTemplate, maps: Mapping[str, Mapping[str, Mapping[str, str]]]
) -> str | None:
    source = variable.value_from
    if source is None:
        return variable.value
    if source.field_ref is not None:
        what, _, key = source.field_ref.field_path.removeprefix("metadata.").partition("['")
        told = pod.metadata.annotations if what == "annotations" else pod.metadata.labels
        return told.get(key.removesuffix("']"), "")
    for kind, reference in (("config map", source.config_map_key_ref), ("secret", source.secret_key_ref)):
        if reference is not None:
            found = _whole(maps[kind], kind, reference.name, reference.optional)
            if reference.key not in found:
                if reference.optional:
                    return None
                raise Missing(f"{kind} '{reference.name}' has no key '{reference.key}'")
            return found[reference.key]
    return ""
