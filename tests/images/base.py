"""The image that the tests build on: one that is named, or a small Debian made from its packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from docker.errors import ImageNotFound

from tests.workers import lock

if TYPE_CHECKING:
    from docker import DockerClient

NAMED = "FLOPS_TEST_BASE_IMAGE"
"""The variable that names another base image, such as python:3.11-slim-bookworm."""

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
LEFT_OUT = ("./var/cache/apt/*", "./var/lib/apt/lists/*", "./usr/share/doc", "./usr/share/locale", "./usr/share/man")


class MissingPartError(Exception):
    """This machine cannot make a base image."""


def make_base(client: DockerClient) -> str:
    """Return the name of a base image, made where it is not there yet.

    Raises:
        MissingPartError: debootstrap, or root's rights, which it needs, are missing.
    """
    if named := os.environ.get(NAMED):
        try:
            client.images.get(named)
        except ImageNotFound:
            client.images.pull(*named.partition(":")[::2])
        return named
    recipe = hashlib.sha256(repr((SUITE, PACKAGES, LEFT_OUT)).encode()).hexdigest()[:8]
    tag = f"{SUITE}-{recipe}"
    with lock("base-image"):
        if not client.images.list(f"flops-test-base:{tag}"):
            _bootstrap(client, tag)
    return f"flops-test-base:{tag}"


def base_or_skip(client: DockerClient) -> str:
    """Return the name of a base image; where none can be made, skip or fail the test."""
    import pytest  # Here, because images are also prepared in an environment without it.

    try:
        return make_base(client)
    except MissingPartError as missing:
        if os.environ.get("FLOPS_TEST_REQUIRE", "") not in ("", "0"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def _bootstrap(client: DockerClient, tag: str) -> None:
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        raise MissingPartError(
            f"a base image needs debootstrap, run as root; or name one: {NAMED}=python:3.11-slim-bookworm"
        )
    with tempfile.TemporaryDirectory() as scratch:
        root, archive = Path(scratch) / "root", Path(scratch) / "base.tar"
        _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root, _mirror())
        _run("tar", "-cf", archive, "-C", root, *(f"--exclude={path}" for path in LEFT_OUT), ".")
        client.api.import_image_from_file(str(archive), repository="flops-test-base", tag=tag)


def _mirror() -> str:
    """Return the package archive that this machine installs the same release from, else Debian's own."""
    layout = "$(CODENAME) $(COMPONENT) $(REPO_URI)"
    listed = subprocess.run(
        ("apt-get", "indextargets", "--format", layout, "Created-By: Packages"),
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for suite, component, address in (line.split() for line in listed.splitlines()):
        if (suite, component) == (SUITE, "main"):
            return address
    return "http://deb.debian.org/debian"


def _run(*command: object) -> None:
    ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{command[0]}: {(ended.stdout + ended.stderr)[-2000:]}"
