"""A real SSH server on loopback that serves bare repositories to deploy keys."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.workers import free_port

PROGRAM = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

READ_ONLY = """\
case "$SSH_ORIGINAL_COMMAND" in
  git-upload-pack*|"git upload-pack"*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
  *) echo "ERROR: The key you are authenticating with has been marked as read only." >&2; exit 1 ;;
esac
"""


class SshServer:
    """One that runs until it is stopped; its repositories lie in a folder beside its keys."""

    def __init__(self, folder: Path) -> None:
        assert PROGRAM is not None
        self.folder = folder
        self.host_key = self.make_key("host")
        self.key, self.read_only_key = self.make_key("deploy"), self.make_key("reader")
        self.known_hosts = folder / "known_hosts"
        (folder / "read-only").write_text(READ_ONLY)
        reader = f'command="sh {folder / "read-only"}",restrict '
        allowed = folder / "authorized_keys"
        allowed.write_text(self.public(self.key) + reader + self.public(self.read_only_key))
        self.port = free_port()
        config = folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nAuthorizedKeysFile {allowed}\n"
            f"PidFile {folder}/sshd.pid\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            "StrictModes no\nMaxStartups 100\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # What it separates its rights in.
        self.know()
        with (folder / "log").open("wb") as log:
            command = [PROGRAM, "-D", "-e", "-f", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("sshd does not listen")

    def make_key(self, name: str) -> Path:
        """Make a pair of keys."""
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return path

    @staticmethod
    def public(key: Path) -> str:
        """Return a key's public half."""
        return key.with_name(f"{key.name}.pub").read_text()

    def know(self, key: Path | None = None) -> None:
        """Write the known hosts with the server's key, or another one."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.public(key or self.host_key)}")

    def url(self, repository: Path) -> str:
        """Return the address of a bare repository."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{shlex.quote(str(repository))}"

    def stop(self) -> None:
        """End it and what it started."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(10)
