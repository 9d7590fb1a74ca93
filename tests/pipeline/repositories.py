"""Real repositories: a config repository with the manifest of an environment, a source with the files of images."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REGISTRY = "harbor.example.org"
SERVER, CLIENT = f"{REGISTRY}/flops/server", f"{REGISTRY}/flops/client"

MANIFEST = f"""\
# The global server: every five minutes a job.
apiVersion: batch/v1
kind: CronJob
metadata:
  name: global-server
spec:
  schedule: "*/5 * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - name: global-server
              image: {SERVER}:none  # set by flops release
          restartPolicy: Never
"""

IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *words: str, text: str | None = None) -> str:
    """Run git in a folder; return what it printed."""
    command = ["git", "-C", str(folder), *IDENTITY, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, input=text)
    assert ended.returncode == 0, f"{command}: {ended.stderr}"
    return ended.stdout.strip()


def make_bare(folder: Path, files: dict[str, str]) -> Path:
    """Make a bare repository whose branch main holds some files in one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "--bare", "-b", "main")
    if files:
        add_commit(folder, files, "first")
    return folder


def add_commit(bare: Path, files: Mapping[str, str | bytes | None], message: str) -> str:
    """Put a commit on main of a bare repository, as somebody else would; None takes a file away. Returns its id."""
    index = {"GIT_INDEX_FILE": str(bare / "tests-index")}
    head = subprocess.run(
        ["git", "-C", str(bare), "rev-parse", "-q", "--verify", "refs/heads/main"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()

    def run(*words: str, text: bytes | None = None) -> str:
        ended = subprocess.run(
            ["git", "-C", str(bare), *IDENTITY, *words],
            input=text,
            capture_output=True,
            check=True,
            env={**os.environ, **index},
        )
        return ended.stdout.decode().strip()

    run("read-tree", *([head] if head else ["--empty"]))
    for path, content in files.items():
        if content is None:
            run("update-index", "--index-info", text=f"0 {'0' * 40}\t{path}\n".encode())
            continue
        blob = run("hash-object", "-w", "--stdin", text=content.encode() if isinstance(content, str) else content)
        run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    made = run("commit-tree", run("write-tree"), *(["-p", head] if head else []), "-m", message)
    git(bare, "update-ref", "refs/heads/main", made)
    return made


def show(bare: Path, path: str, revision: str = "main") -> str:
    """Return a file as committed."""
    ended = subprocess.run(["git", "-C", str(bare), "show", f"{revision}:{path}"], capture_output=True, check=True)
    return ended.stdout.decode()


def log(bare: Path, form: str = "%s") -> list[str]:
    """Return a line for each commit of main, newest first."""
    return git(bare, "log", f"--format={form}", "main").splitlines()
