"""What git's words about a repository elsewhere mean, and what to do."""

from __future__ import annotations

import re

from fl.errors import FlopsError, SettingsError

SECONDS = 120
"""After so long a transfer of a config repository is given up."""


class RepositoryUnreachable(FlopsError):  # noqa: N818 - a state, not a mistake
    """A repository does not answer, or the way to it broke."""


class RepositoryAway(RepositoryUnreachable):
    """No connection was made, so that nothing was sent."""


class RepositoryRefused(SettingsError):  # noqa: N818 - a state, not a mistake
    """A repository answers, and lets this key, user or branch not do what is wanted."""


class HostRefused(RepositoryRefused):
    """The git server is not known, or not the known one."""


class KeyRefused(RepositoryRefused):
    """The deploy key cannot be used, or the git server does not know it."""


_RACES = ("cannot lock ref", "failed to update ref", "incorrect old value", "reference already exists", "stale info")

_CUT = "the connection was cut from there; ask the git server's administrator whether it lets this machine in"
_READ_ONLY = "the deploy key may read and not write; give it write access there"
_NONE = "there is no such repository, or this key may not read it"
_CA = (
    "its server's certificate is not of a CA that this machine trusts; put the CA to the machine's, or name its "
    "file: git config --global http.sslCAInfo FILE"
)
_ACCOUNT = (
    "its server does not accept the account; SSH with a deploy key is best, else check name and token in "
    "the address, or git's credential helper"
)
_REFUSED = "nothing listens there (connection refused)"

_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        HostRefused,
        "the git server shows another host key than the known one: it was replaced, or somebody stands between; ask "
        "its administrator, and renew the known hosts only then",
    ),
    (
        "Host key verification failed",
        HostRefused,
        "the git server's host key is not known; get it from its administrator and name it: config.known_hosts or "
        "SSH_KNOWN_HOSTS",
    ),
    ("UNPROTECTED PRIVATE KEY", KeyRefused, "others may read the deploy key's file; chmod 600 it"),
    # As GitHub, GitLab and Gitea say it.
    ("marked as read only", RepositoryRefused, _READ_ONLY),
    ("does not have write access", RepositoryRefused, _READ_ONLY),
    ("is not authorized to write", RepositoryRefused, _READ_ONLY),
    ("invalid format", KeyRefused, "the deploy key is no private key that ssh can read"),
    ("error in libcrypto", KeyRefused, "the deploy key is no private key that ssh can read"),
    (
        "Permission denied (",
        KeyRefused,
        "the git server knows no key of ours; add the deploy key's public half there, and name the key: "
        "config.key or SSH_PRIVATE_KEY",
    ),
    (
        "certificate has expired",
        RepositoryRefused,
        "its server's certificate has expired; its administrator renews it",
    ),
    (
        "certificate is not yet valid",
        RepositoryRefused,
        "its server's certificate is not valid yet; is the clock right?",
    ),
    ("SSL certificate problem", RepositoryRefused, _CA),
    ("certificate verification failed", RepositoryRefused, _CA),
    ("Authentication failed", RepositoryRefused, _ACCOUNT),
    ("could not read Username", RepositoryRefused, _ACCOUNT),
    ("could not read Password", RepositoryRefused, _ACCOUNT),
    (
        "error: 403",
        RepositoryRefused,
        "its server forbids that to this account; give it the rights to read and write",
    ),
    ("Could not resolve host", RepositoryAway, "its host's name is not known here"),
    ("Connection refused", RepositoryAway, _REFUSED),
    ("Couldn't connect to server", RepositoryAway, _REFUSED),
    ("Connection timed out", RepositoryUnreachable, "it does not answer (timed out)"),
    ("Operation timed out", RepositoryUnreachable, "it does not answer (timed out)"),
    ("Operation too slow", RepositoryUnreachable, "it does not answer (timed out)"),
    ("Connection reset", RepositoryUnreachable, _CUT),
    ("Connection closed by", RepositoryUnreachable, _CUT),
    ("No route to host", RepositoryAway, "no way leads to its host"),
    ("Network is unreachable", RepositoryAway, "no way leads to its host"),
    ("Timeout: the command", RepositoryUnreachable, f"it did not answer within {SECONDS} s"),
    ("because it timed out", RepositoryUnreachable, f"it did not answer within {SECONDS} s"),
    (
        "couldn't find remote ref",
        RepositoryRefused,
        "has no branch '{branch}'; 'flops init-config' fills an empty repository, config.branch names another branch",
    ),
    ("does not appear to be a git repository", RepositoryRefused, "there is no git repository"),
    ("not found", RepositoryRefused, _NONE),
    ("could not be found", RepositoryRefused, _NONE),
    ("Cannot find repository", RepositoryRefused, _NONE),
    ("does not exist", RepositoryRefused, _NONE),
    (
        "Failed to traverse parents",
        RepositoryRefused,
        "its own history is cut off, and the releases' history with it; git fetch --unshallow in it mends that",
    ),
    ("mismatched algorithms", RepositoryRefused, "it is a repository of SHA-256; one of SHA-1 is needed"),
    ("insufficient permission", RepositoryRefused, "this user may not write there"),
)


def explain_words(text: str, address: str, branch: str) -> FlopsError:
    """Say in a line what git printed when it failed.

    Args:
        text: what it printed.
        address: the repository's.
        branch: the branch it was about.
    """
    if "No space left on device" in text and "remote:" not in text:
        return FlopsError(f"this machine's disk is full: git could not store what {public(address)} has")
    # What a hook printed there is not about the way there.
    ours = "\n".join(line for line in text.splitlines() if not _of_remote(line))
    for sign, kind, meaning in _MEANINGS:
        if sign in (ours if issubclass(kind, RepositoryUnreachable) else text):
            return kind(f"{public(address)}: {meaning.format(branch=branch)}")
    said = remote_words(text) or " ".join(text.split())[-300:]
    return RepositoryUnreachable(f"{public(address)}: git failed: {public(said)}")


def explain_refusal(summary: str, text: str, address: str, branch: str) -> FlopsError | None:
    """Say why the other side did not take a push; None where it was only a race.

    Args:
        summary: git's word behind the branch, such as ``[remote rejected] (pre-receive hook declined)``.
        text: what the other side printed besides.
        address: the repository's.
        branch: the branch that was pushed.
    """
    said = remote_words(text)
    told, place = f" ({said})" if said else "", f"{public(address)}: does not take a push to '{branch}'"
    if "hook declined" in summary:
        return RepositoryRefused(f"{place}: a rule of the git server's forbids it{told}")
    if "checked out" in summary:
        return RepositoryRefused(
            f"{place}: somebody works in it, on that branch; name a bare one: git clone --bare makes it"
        )
    if any(sign in f"{summary} {text}" for sign in _RACES):
        return None
    return RepositoryRefused(
        f"{place}: {' '.join(summary.split())}{told}; give the deploy key the right to write there"
    )


def public(text: str) -> str:
    """Return a text, such as an address, without what may be a secret in addresses: passwords and tokens."""
    return re.sub(r"(ssh://)[^/@\s]*:[^/@\s]*@", r"\1…@", re.sub(r"(https?://)\S*@", r"\1…@", text))


def without_secrets(address: str) -> str:
    """Return an address that leads to the same place and holds no password, token, or name that goes with one."""
    return re.sub(r"^(https?://)[^/\s]*@", r"\1", re.sub(r"^(ssh://[^/@\s:]*):[^/@\s]*@", r"\1@", address))


def _bare(line: str) -> str:
    """Take off what GitPython puts around a line."""
    return line.strip().removeprefix("stderr: '").strip("'")


def _of_remote(line: str) -> bool:
    return _bare(line).startswith("remote:")


def remote_words(text: str) -> str:
    """Return what the other side said to people, and git's own last complaint."""
    lines = [_bare(line) for line in text.splitlines()]
    told = [
        line.removeprefix("remote:").strip() for line in lines if line.startswith(("remote:", "fatal:", "ERROR:"))
    ]
    return "; ".join(line for line in told if line)[-300:]
