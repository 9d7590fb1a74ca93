"""What git gets from its surroundings: the way to the config repository, and nothing that would change what it does.

The user's settings may name proxies, mirrors and credentials, and those count; what would change how a bare clone is
read, written or pushed does not.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cryptography.hazmat.primitives import serialization

from pipeline.git_words import KeyRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.settings import Settings

_KEPT = (
    "GIT_CEILING_DIRECTORIES",
    "GIT_CONFIG_",
    "GIT_CURL",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_EXEC_PATH",
    "GIT_HTTP_",
    "GIT_PROXY_",
    "GIT_PYTHON_",
    "GIT_SSL_",
    "GIT_TRACE",
)
"""How variables of git begin that are about the machine. The others are about the repository and the commit that a
hook, or whoever called, had in hand."""

_TOKEN = re.compile(r"(?:gh[a-z]_|github_pat_|gl[a-z]+-)\S+|[0-9A-Fa-f]{40,}")
"""What git servers give out as tokens. One may stand where the name does, without a password."""

_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "gc.auto": "0",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "maintenance.auto": "false",
    "push.followTags": "false",
    "push.gpgSign": "false",
    "push.recurseSubmodules": "no",
    "safe.bareRepository": "all",
}
"""Which settings of the user's make way."""


def forget_callers() -> None:
    """Drop what a hook of git, or a script, has set for a repository of its own."""
    for name in list(os.environ):
        if name.startswith("GIT_") and not name.startswith(_KEPT):
            del os.environ[name]


def plain() -> dict[str, str]:
    """Return variables for any use of git: its messages in English, no question, our settings before the user's."""
    given = os.environ.get("GIT_CONFIG_COUNT", "")
    first = int(given) if given.isdigit() else 0
    variables = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C"}
    for number, (key, value) in enumerate(_SETTINGS.items(), first):
        variables[f"GIT_CONFIG_KEY_{number}"], variables[f"GIT_CONFIG_VALUE_{number}"] = key, value
    return {**variables, "GIT_CONFIG_COUNT": str(first + len(_SETTINGS))}


def without_account(address: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Take name and password out of an address, which stands in git's arguments, where all of the machine see it.

    Args:
        address: as git takes it.
        environment: variables for git.

    Returns:
        The address, and the variables with a setting that sends the account along.
    """
    found = re.fullmatch(r"(https?://)([^/@:\s]*)(?::([^/\s]*))?@([^/@\s]+)(.*)", address)
    if found is None or (found[3] is None and not _TOKEN.fullmatch(found[2])):
        return address, dict(environment)
    scheme, user, password, host, rest = found.groups()
    account = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    number = int(environment.get("GIT_CONFIG_COUNT", "0"))
    setting = {
        f"GIT_CONFIG_KEY_{number}": f"http.{scheme}{host}/.extraHeader",
        f"GIT_CONFIG_VALUE_{number}": f"Authorization: Basic {account}",
        "GIT_CONFIG_COUNT": str(number + 1),
    }
    return f"{scheme}{host}{rest}", {**environment, **setting}


def by_ssh(address: str) -> bool:
    """Tell whether git goes to an address by SSH, which is what deploy key and known hosts are for."""
    scheme, found, _ = address.partition("://")
    if found:
        return scheme in ("ssh", "git+ssh", "ssh+git")
    host, colon, _ = address.partition(":")
    return bool(colon) and "/" not in host


@contextmanager
def git_environment(settings: Settings) -> Iterator[dict[str, str]]:
    """Yield the variables that let git reach the config repository, and ask nobody anything.

    A key that is given as text is in memory while the block runs, readable for this user alone, and goes with the
    process, however that ends.

    Raises:
        KeyRefused: the key has a passphrase, is a public one, or its file cannot be read.
    """
    with ExitStack() as stack:
        words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"]
        words += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        key, known = settings.key, settings.known_hosts
        if key is None and settings.secrets.ssh_key:
            key = _in_memory(stack, settings.secrets.ssh_key)
        if known is None and settings.secrets.known_hosts:
            known = _in_memory(stack, settings.secrets.known_hosts)
        if key is not None:
            _check_key(key, "config.key" if settings.key else "SSH_PRIVATE_KEY")
            words += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", f'IdentityFile="{_path(key)}"']
        if known is not None:
            words += ["-o", "GlobalKnownHostsFile=/dev/null", "-o", f'UserKnownHostsFile="{_path(known)}"']
        yield {**plain(), "GIT_SSH_COMMAND": shlex.join(words)}


def _check_key(key: Path, where: str) -> None:
    """Find out what ssh would not say: that the key waits for a passphrase, or is the half for the git server."""
    try:
        content = key.read_bytes()
    except OSError as error:
        raise KeyRefused(f"{where}: {key}: cannot be read: {error.strerror}") from error
    if content.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        raise KeyRefused(f"{where}: is a key's public half, which stands in a file *.pub; the other one is needed")
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            load(content, None)
        except TypeError as error:
            raise KeyRefused(
                f"{where}: the deploy key has a passphrase, and nobody is there to type it; make one without"
            ) from error
        except Exception:  # noqa: S112 - what it is worth, ssh decides
            continue


def _in_memory(stack: ExitStack, text: str) -> Path:
    """Return the path of a text that ssh can read; no disk holds it where the system has files in memory."""
    # Secrets come with other line ends, or without the last one, and ssh wants both right.
    content = (text.strip().replace("\r\n", "\n") + "\n").encode(errors="surrogateescape")
    with contextlib.suppress(AttributeError, OSError):
        descriptor = os.memfd_create("flops")
        stack.callback(os.close, descriptor)
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, content)
        path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        if path.read_bytes() == content:
            return path
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flops-ssh-")))
    descriptor = os.open(folder / "text", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return folder / "text"


def _path(path: Path) -> str:
    """Write a path as ssh reads it: a percent sign stands for itself only twice."""
    return str(path if path.is_relative_to("/proc") else path.resolve()).replace("%", "%%")
