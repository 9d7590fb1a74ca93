"""What make does, read from what it would run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def would_run(folder: Path, target: str) -> str:
    """Return the commands that make would run."""
    command = ["make", "--no-print-directory", "-n", "-C", str(folder), target]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_libraries_are_installed_anew_where_their_list_changes_and_not_for_a_new_date(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    first = would_run(tmp_path, "release-setup")
    assert "pip install" in first
    (stamp,) = re.findall(r"^touch (\S+)$", first, flags=re.MULTILINE)
    (tmp_path / stamp).touch()
    assert "pip install" not in would_run(tmp_path, "release-setup")
    for name in ("pyproject.toml", "constraints.txt"):  # As a checkout writes them again.
        os.utime(tmp_path / name, (2e9, 2e9))
    assert "pip install" not in would_run(tmp_path, "release-setup")
    with (tmp_path / "constraints.txt").open("a") as constraints:
        constraints.write("another==1\n")
    assert "pip install" in would_run(tmp_path, "release-setup")
