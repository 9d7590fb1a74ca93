"""A clone of what is committed, with all that a release of it needs, on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.images.build import ROOT, commit
from tests.pipeline.registry_server import PASSWORD, USER
from tests.pipeline.repositories import git, make_bare, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.pipeline.registry_server import RegistryServer
    from tests.pipeline.ssh_server import SshServer


_LOOKS = 5
"""How often a program's arguments are looked at: a new process has its parent's at first."""


@contextmanager
def told_in_arguments(*secrets: str) -> Iterator[set[str]]:
    """Look at all programs' arguments while the block runs; yields those that hold a secret."""
    found: set[str] = set()
    over = threading.Event()
    looks: Counter[str] = Counter()

    def look() -> None:
        looked = False
        while not (looked and over.is_set()):
            looked = True
            there = {name for name in os.listdir("/proc") if name.isdigit()}
            for gone in looks.keys() - there:  # Its number may be given out again.
                del looks[gone]
            for process in there:
                if looks[process] < _LOOKS:
                    looks[process] += 1
                    with contextlib.suppress(OSError):
                        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
                        found.update(words for secret in secrets if secret in words)
            over.wait(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


class Site:
    """A clone of what is committed, a config repository behind SSH, and the environment of a runner."""

    def __init__(
        self, folder: Path, registry: RegistryServer, ssh: SshServer, build_settings: Mapping[str, str]
    ) -> None:
        self.folder, self.registry = folder, registry
        self.source = folder / "source"
        git(folder, "clone", "-q", str(ROOT), str(self.source))
        git(self.source, "checkout", "-q", "-B", "main", commit())
        self.config = make_bare(folder / "config.git", {})
        ssh.know()
        self.secrets = {
            "DOCKER_REGISTRY": registry.host,
            "IMAGE_REPO": "flops",
            "HARBOR_USERNAME": USER,
            "HARBOR_PASSWORD": PASSWORD,
            "FLOPS_CONFIG_REPOSITORY": ssh.url(self.config),
            "SSH_PRIVATE_KEY": ssh.key.read_text(),
            "SSH_KNOWN_HOSTS": ssh.known_hosts.read_text(),
        }
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLOPS_", "GITHUB_", "MLFLOW_", "GIT_DIR"))}
        self.environment = {
            **clean,
            **build_settings,
            "FLOPS_VENV": str(folder / "venv"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def flops(self, *words: str) -> str:
        command = [sys.executable, "-m", "fl.cli", *words]
        ended = subprocess.run(
            command, cwd=self.source, env={**self.environment, **self.secrets}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def push(self) -> str:
        """Run the workflow as a push to main does; returns what the runner printed."""
        secrets = self.folder / "secrets"
        # Such files replace variables in values, too.
        quoted = {name: json.dumps(value).replace("$", "\\$") for name, value in self.secrets.items()}
        secrets.write_text("".join(f"{name}={value}\n" for name, value in quoted.items()))
        command = [str(Path(sys.executable).with_name("act")), "push", "-P", "self-hosted=-self-hosted"]
        with told_in_arguments(PASSWORD, *self.secrets["SSH_PRIVATE_KEY"].splitlines()[1:-1]) as told:
            ended = subprocess.run(
                [*command, "--secret-file", str(secrets)],
                cwd=self.source,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        assert ended.returncode == 0, ended.stdout[-6000:]
        assert PASSWORD not in ended.stdout
        assert not told
        return ended.stdout

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(show(self.config, "dev/release.json"))
        return found
