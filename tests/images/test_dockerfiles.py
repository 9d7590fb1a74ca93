"""The Dockerfiles themselves; no Docker Engine is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.build import ROOT, SIDES


@pytest.mark.parametrize("side", SIDES)
def test_hadolint_finds_nothing(side):
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run((hadolint, ROOT / f"Dockerfile.{side}"), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_two_differ_in_their_side_alone():
    server, client = (
        (ROOT / f"Dockerfile.{side}").read_text().partition("# What to install")[2].replace(side, "SIDE").splitlines()
        for side in SIDES
    )
    assert {*server} ^ {*client} == {
        "    FLWR_TELEMETRY_ENABLED=0",
        "    FLWR_TELEMETRY_ENABLED=0 \\",
        "    MLFLOW_DISABLE_TELEMETRY=true",
        'CMD ["round"]',
        'CMD ["start"]',
    }
