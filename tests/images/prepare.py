"""Make what the tests of images start from: the base image, the libraries' wheels, both images of the last commit.

``python -m tests.images.prepare`` makes them ahead of the tests, which wait for what is being made.
"""

from __future__ import annotations

import docker

from tests.images.base import make_base
from tests.images.build import SIDES, build_once, collect_wheels, python_version


def prepare() -> None:
    """Make all of it, unless it is there."""
    client = docker.from_env(timeout=900)
    try:
        base = make_base(client)
        wheels = collect_wheels(python_version(client, base))
        for side in SIDES:
            build_once(client, side, base, wheels)
    finally:
        client.close()


if __name__ == "__main__":
    prepare()
