"""Both images: built from a commit through the engine, pushed, known by their digests."""

from __future__ import annotations

import re
import tarfile
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from pipeline.engine import SECONDS, EngineRefused, StreamFailed, account, explain, read_stream, remote_digest, said
from pipeline.heartbeat import Heartbeat
from pipeline.image_name import ImageName
from pipeline.record import SIDES, release_name
from pipeline.registry_http import layer_sizes
from pipeline.source import dockerfile
from pipeline.turns import reserve

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.engine import DockerClient
    from pipeline.settings import Settings
    from pipeline.source import Source

_LAST_LINES = 20
"""How much of a failed build's output is shown."""

_RETURNED = re.compile(r"returned a non-zero code: (\d+)$")
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")


class BuildFailed(FlopsError):  # noqa: N818 - a state, not a mistake
    """An image does not build.

    Attributes:
        lines: the last ones that the build printed.
    """

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self.lines = lines


@dataclass(frozen=True)
class Pushed:
    """An image in the registry.

    Attributes:
        image: with tag and digest.
        size: bytes of the layers that were transferred, as the registry stores them; those that were there are none.
        build_seconds: how long it was built.
        push_seconds: how long it was pushed.
    """

    image: ImageName
    size: int
    build_seconds: float
    push_seconds: float


def free_tag(client: DockerClient, settings: Settings, now: datetime) -> tuple[str, datetime]:
    """Return a tag that neither image has in the registry, and its time: now, or the next second that is free.

    Raises:
        RegistryRefused: the account or the registry's certificate is not accepted.
        TransferFailed: the registry does not answer.
    """
    for seconds in range(60):
        moment = now + timedelta(seconds=seconds)
        tag = release_name(moment)
        there = (
            remote_digest(client, f"{settings.image(side)}:{tag}", settings.registry, settings.secrets)
            for side in SIDES
        )
        if not any(there) and reserve(settings, tag):
            return tag, moment
    raise FlopsError(f"registry {settings.registry}: has all tags of this minute; is a release loop running?")


def build(
    client: DockerClient,
    source: Source,
    side: str,
    settings: Settings,
    tag: str,
    moment: datetime,
    say: Callable[[str], None],
    *,
    cached: bool = True,
) -> float:
    """Build a side's image from the commit, with the engine's cache; returns the seconds it took.

    Raises:
        BuildFailed: a step of the Dockerfile failed.
    """
    started = time.monotonic()
    tail: deque[str] = deque(maxlen=_LAST_LINES)
    step, instruction = ["before the first step"], [""]

    def each(line: dict[str, Any]) -> None:
        for text in str(line.get("stream") or line.get("status") or "").splitlines():
            if text.strip():
                tail.append(text.rstrip())
            if found := _STEP.match(text):
                step[0], instruction[0] = f"step {found[1]} of {found[2]}", found[3]
                heart.doing = f"{side} image: {step[0]}: {found[3][:80]}"

    with tempfile.TemporaryFile() as context, Heartbeat(say) as heart:
        write_context(source, side, settings, context)
        context.seek(0)
        try:
            stream = client.api.build(
                fileobj=context,
                custom_context=True,
                dockerfile=dockerfile(side),
                tag=f"{settings.image(side)}:{tag}",
                buildargs={
                    "BASE_IMAGE": settings.base_image,
                    "PIP_FLAGS": settings.pip_flags,
                    "REVISION": source.commit,
                    "CREATED": moment.astimezone(UTC).isoformat(timespec="seconds"),
                    "VERSION": tag,
                    "PROTOCOL": str(source.protocol),
                },
                network_mode=settings.network or None,
                nocache=not cached,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=SECONDS,
            )
            read_stream(stream, each)
        except StreamFailed as error:
            reason = str(error)
            # Of a command that failed, its exit code; the command is in the Dockerfile, its words are shown.
            if (code := _RETURNED.search(reason)) is not None:
                reason = f"the command ended with exit code {code[1]}"
            if instruction[0].startswith("FROM ${BASE_IMAGE}"):
                reason = f"the base image {settings.base_image} is not here and cannot be pulled: {reason}"
            raise BuildFailed(f"{dockerfile(side)} does not build, {step[0]}: {reason}", list(tail)) from error
        except EngineRefused as error:
            raise BuildFailed(f"{dockerfile(side)} does not build: {said(error)}", list(tail)) from error
    return time.monotonic() - started


def write_context(source: Source, side: str, settings: Settings, target: Any) -> None:
    """Write a build context: what the commit holds of the image's paths, and the wheels that are handed in."""
    with tarfile.open(fileobj=target, mode="w", dereference=True) as context:  # Wheels may be links to wheels.
        with tarfile.open(fileobj=source.archive(side)) as archive:
            for member in archive:
                context.addfile(member, archive.extractfile(member) if member.isfile() else None)
        if settings.wheels is not None:
            context.add(settings.wheels, arcname="wheels", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Take off what says who laid a wheel there and when: the engine's cache would see another file."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


@dataclass
class _Progress:
    """What the lines of a push add up to."""

    pushed: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    digest: str = ""

    @property
    def total(self) -> int:
        """Bytes that went out, before they are compressed."""
        return sum(self.pushed.values())

    def __str__(self) -> str:
        """Say it in a few words."""
        sent = f"{self.total / 1e6:.0f} MB so far (before compression)"
        return f"{sent}; the registry broke off, and the engine tries again" if self.broken else sent

    def __call__(self, line: dict[str, Any]) -> None:
        layer, detail = line.get("id"), line.get("progressDetail") or {}
        status = str(line.get("status"))
        if layer and status.startswith("Retrying"):  # The engine does so some times, for a minute in all.
            self.pushed[layer] = 0
            self.broken.add(layer)
        if layer and status in ("Pushing", "Pushed"):
            self.pushed[layer] = max(self.pushed.get(layer, 0), int(detail.get("current") or 0))
            self.broken.discard(layer)
        self.digest = str((line.get("aux") or {}).get("Digest") or self.digest)


def push(
    client: DockerClient, side: str, settings: Settings, tag: str, build_seconds: float, say: Callable[[str], None]
) -> Pushed:
    """Push a side's image.

    Raises:
        RegistryRefused: the account or the registry's certificate is not accepted.
        TransferFailed: the registry does not answer, broke the connection, or has no space.
    """
    started, progress = time.monotonic(), _Progress()
    repository = settings.image(side)
    stream = client.api.push(repository, tag=tag, stream=True, decode=True, auth_config=account(settings.secrets))

    def each(line: dict[str, Any]) -> None:
        progress(line)
        heart.doing = f"{side} image: pushing, {progress}"

    try:
        with Heartbeat(say) as heart:
            heart.doing = f"{side} image: pushing"
            read_stream(stream, each)
    except StreamFailed as error:
        raise explain(
            str(error), settings.registry, settings.project, logged_in=bool(settings.secrets.username)
        ) from error
    if not progress.digest:
        raise FlopsError(f"registry {settings.registry}: said no digest of {repository}:{tag}; nothing was changed")
    image = ImageName(repository, tag, progress.digest)
    size = _transferred(client, settings, image, progress)
    say(f"{side} image: pushed {size / 1000:.0f} kB, {progress.digest[:19]}")
    return Pushed(image, size, build_seconds, time.monotonic() - started)


def _transferred(client: DockerClient, settings: Settings, image: ImageName, progress: _Progress) -> int:
    """Return how many bytes went over the line. The engine counts before it compresses; the registry knows."""
    if not progress.pushed:
        return 0
    names = client.images.get(f"{image.repository}:{image.tag}").attrs["RootFS"]["Layers"]
    try:
        layers = layer_sizes(settings, image)
    except FlopsError:  # Behind a proxy that only the engine knows, say; then more than it was.
        return progress.total
    # Engines name a layer by what it unpacks to, or by what is stored.
    pushed = {layer.removeprefix("sha256:")[:12] for layer in progress.pushed}
    return sum(
        size for name, (digest, size) in zip(names, layers, strict=False) if {name[7:19], digest[7:19]} & pushed
    )
