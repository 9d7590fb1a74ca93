"""Building an image from what is committed, with every library handed in: a build here reaches no network."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import APIError, ImageNotFound

from tests.workers import lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from docker import DockerClient
    from docker.models.images import Image

ROOT = Path(__file__).parents[2]
SIDES = ("server", "client")


def git(*arguments: str) -> bytes:
    """Return what git says of this repository."""
    return subprocess.run(("git", "-C", str(ROOT), *arguments), capture_output=True, check=True).stdout


@functools.cache
def commit() -> str:
    """Return the commit that is built: one for all tests, should another be made meanwhile."""
    return git("rev-parse", "HEAD").decode().strip()


def committed(path: str) -> bytes:
    """Return a file as committed."""
    return git("show", f"{commit()}:{path}")


def commit_date() -> str:
    """Return when it was committed; taken for when an image was made, so that the same commit is the same image."""
    return git("log", "-1", "--format=%cI", commit()).decode().strip()


def python_version(client: DockerClient, base: str) -> str:
    """Return the version of a base image's Python, such as 3.11."""
    say = "import sys; print('%d.%d' % sys.version_info[:2])"
    printed: bytes = client.containers.run(base, ["python3", "-c", say], remove=True, network_mode="none")
    return printed.decode().strip()


def collect_wheels(python: str) -> Path:
    """Download the wheels of both images with this machine's pip, however that reaches its index.

    They stay in the user's cache, by what is wanted; test processes that want them meanwhile wait.

    Args:
        python: the version of the image's Python, such as 3.11.

    Returns:
        The folder that holds them.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flops-test-wheels"
    folder.mkdir(parents=True, exist_ok=True)
    with lock("wheels"):
        return _download_wheels(folder, python)


def _download_wheels(folder: Path, python: str) -> Path:
    project = tomllib.loads(committed("pyproject.toml").decode())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    wanted = sorted({*wanted, *(line for side in SIDES for line in extras[side])})
    constraints = committed("constraints.txt")
    key = hashlib.sha256(json.dumps([python, wanted, constraints.decode()]).encode()).hexdigest()[:16]
    wheels = folder / key
    if not wheels.exists():
        for old in folder.iterdir():
            shutil.rmtree(old)
        unfinished = folder / f"{key}.part"
        unfinished.mkdir()
        (unfinished / "constraints").write_bytes(constraints)
        command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(unfinished), "--only-binary=:all:"]
        command += ["--python-version", python, "-c", str(unfinished / "constraints"), *wanted]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-2000:]
        (unfinished / "constraints").unlink()
        unfinished.rename(wheels)
    return wheels


def build_image(
    client: DockerClient,
    side: str,
    base: str,
    wheels: Path,
    tag: str,
    *,
    appended: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> tuple[Image, str]:
    """Build one side's image from the last commit.

    Args:
        client: of Docker Engine.
        side: server or client.
        base: the base image's name.
        wheels: all libraries.
        tag: the new image's name.
        appended: text to add to the end of files, by path: a change of code.
        revision: what the image says of its commit; default: the truth.

    Returns:
        The image and what the build printed.
    """
    arguments = {
        "BASE_IMAGE": base,
        "PIP_FLAGS": "--no-index",
        "REVISION": revision or commit(),
        "CREATED": commit_date(),
        "VERSION": tomllib.loads(committed("pyproject.toml").decode())["project"]["version"],
    }
    with tempfile.TemporaryFile() as context:
        _write_context(context, side, wheels, appended or {})
        context.seek(0)
        lines = client.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=f"Dockerfile.{side}",
            tag=tag,
            buildargs=arguments,
            network_mode="none",
            rm=True,
            forcerm=True,
            decode=True,
        )
        printed = "".join(_checked(lines))
    return client.images.get(tag), printed


def build_once(client: DockerClient, side: str, base: str, wheels: Path) -> Image:
    """Return one side's image of the last commit, built unless this machine has it already.

    The same commit, base and libraries give the same image, so its name says which these are, and all test
    processes share one build. Images of other commits are removed after a day.
    """
    recipe = hashlib.sha256("\n".join([commit(), client.images.get(base).id, wheels.name]).encode()).hexdigest()
    repository = f"flops-test-{side}"
    tag = f"{repository}:{recipe[:16]}"
    with lock(f"image-{side}"):
        try:
            return client.images.get(tag)
        except ImageNotFound:
            built, _ = build_image(client, side, base, wheels, tag)
            yesterday = datetime.now(UTC) - timedelta(days=1)
            for old in client.images.list(repository):
                if datetime.fromisoformat(old.attrs["Created"]) < yesterday:
                    with contextlib.suppress(APIError):  # A container may still use it.
                        client.images.remove(old.tags[0])
            return built


def _write_context(target: object, side: str, wheels: Path, appended: Mapping[str, str]) -> None:
    paths = ("fl", side, "pyproject.toml", "LICENSE", "constraints.txt", f"Dockerfile.{side}")
    archive = io.BytesIO(git("archive", "--format=tar", commit(), *paths))
    with tarfile.open(fileobj=archive) as source, tarfile.open(fileobj=target, mode="w") as context:  # type: ignore[call-overload]
        for member in source:
            content = source.extractfile(member)
            data = content.read() + appended.get(member.name, "").encode() if content else b""
            member.size = len(data)
            context.addfile(member, io.BytesIO(data))
        context.add(wheels, arcname="wheels")


def _checked(lines: Iterator[dict[str, str]]) -> Iterator[str]:
    """Yield what a build prints. A failed build is a line in its stream, no exception of the library's."""
    printed = []
    for line in lines:
        assert "error" not in line, f"{line['error']}; before it:\n{''.join(printed)[-3000:]}"
        printed.append(line.get("stream", ""))
        yield printed[-1]
