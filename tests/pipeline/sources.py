"""A source repository with the files that images are built of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.pipeline.repositories import git

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "fl/protocol.py": "PROTOCOL = 1\n",
    "server/round.py": "print('server')\n",
    "client/node.py": "print('client')\n",
    "pyproject.toml": "[project]\nname = 'flops'\n",
    "README.md": "# FLOps\n",
    "LICENSE": "free\n",
    "constraints.txt": "\n",
    "Dockerfile.server": "FROM scratch\n",
    "Dockerfile.client": "FROM scratch\n",
    "docs/other.md": "not in an image\n",
}


def make_source(folder: Path, files: dict[str, str] | None = None) -> Path:
    """Make a working tree with one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    change(folder, {**FILES, **(files or {})}, "first")
    return folder


def change(folder: Path, files: dict[str, str], message: str) -> str:
    """Commit files; returns the commit's id."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)
    return git(folder, "rev-parse", "HEAD")
