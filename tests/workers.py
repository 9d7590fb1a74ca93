"""Test processes that run side by side, and the parts of the machine that they share.

pytest-xdist runs the tests in several worker processes. Files are a worker's own (`tmp_path`); the Docker Engine,
`/etc/hosts` and ports are shared. A worker takes names and ports of its own where it can, and a lock where it cannot.
"""

from __future__ import annotations

import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
"""This worker's name: gw0, gw1, …, or main where the tests run in one process."""

_FIRST_PORT, _PORTS, _RANGES = 15_000, 2_000, 8
"""Ports of tests lie below the range that the kernel takes ports of outgoing connections from (32768 and up)."""


def lock(name: str) -> FileLock:
    """Return a lock that all test processes on this machine share, to be used in a ``with`` statement."""
    return FileLock(Path(tempfile.gettempdir()) / f"flops-test-{name}.lock")


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port of this worker's own range that nothing listens on."""
    number = int(WORKER.removeprefix("gw")) if WORKER != "main" else _RANGES - 1
    first = _FIRST_PORT + number % _RANGES * _PORTS
    while True:
        port = random.randrange(first, first + _PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port
