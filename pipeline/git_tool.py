"""Git, through GitPython: the only module that imports it, and what its errors mean.

Clones are bare: no working tree, so that no setting of this machine can change a line's end on its way.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Without git the import would fail; with this, the first use of it does.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import git
from git import Actor
from git import Commit as Commit
from git import Repo as Repo
from git.index import IndexFile
from git.index.typ import BaseIndexEntry
from gitdb import IStream

from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.settings import Settings

GitError = git.GitError
"""What the library raises."""

_SECONDS = 120
"""After so long a transfer of a config repository is given up."""


class RepositoryUnreachable(FlopsError):  # noqa: N818 - a state, not a mistake
    """A repository does not answer, or the way to it broke."""


class RepositoryRefused(SettingsError):  # noqa: N818 - a state, not a mistake
    """A repository answers, and lets this key, user or branch not do what is wanted."""


class PushRaced(FlopsError):  # noqa: N818 - a state, not a mistake
    """Somebody else pushed meanwhile."""


def forget_hook() -> None:
    """Drop what a hook of Git sets: it is about the repository that the hook runs in, not those named here."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_QUARANTINE_PATH"):
        os.environ.pop(name, None)


@contextmanager
def git_environment(settings: Settings) -> Iterator[dict[str, str]]:
    """Yield the variables that let git reach the config repository, and ask nobody anything.

    A key that is given as text is a file while the block runs, readable for this user alone.
    """
    with tempfile.TemporaryDirectory(prefix="flops-ssh-", dir=_memory()) as folder:
        words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=10"]
        words += ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
        key, known = settings.key, settings.known_hosts
        if key is None and settings.secrets.ssh_key:
            key = _write(Path(folder) / "key", settings.secrets.ssh_key)
        if known is None and settings.secrets.known_hosts:
            known = _write(Path(folder) / "known_hosts", settings.secrets.known_hosts)
        if key is not None:
            words += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", _quoted(key)]
        if known is not None:
            words += ["-o", "GlobalKnownHostsFile=/dev/null", "-o", _quoted(f"UserKnownHostsFile={known.resolve()}")]
        yield {"GIT_SSH_COMMAND": " ".join(words), "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C"}


def clone(address: str, branch: str, folder: Path, environment: Mapping[str, str], *, depth: int | None) -> Repo:
    """Clone one branch without a working tree.

    Raises:
        RepositoryUnreachable: it does not answer.
        RepositoryRefused: there is no such repository or branch, or this key may not read it.
    """
    options: dict[str, Any] = {"bare": True, "branch": branch, "single_branch": True, "kill_after_timeout": _SECONDS}
    if depth is not None:
        options["depth"] = depth
        if Path(address).is_dir():  # Git makes no shallow clone of a path.
            address = Path(address).resolve().as_uri()
    try:
        repository = Repo.clone_from(address, folder, env=dict(environment), **options)
    except GitError as error:
        raise explain(error, address, branch) from error
    repository.git.update_environment(**environment)
    return repository


def begin(address: str, folder: Path, environment: Mapping[str, str]) -> Repo:
    """Make an empty repository without a working tree that pushes to an address."""
    forget_hook()
    repository = Repo.init(folder, bare=True)
    repository.git.update_environment(**environment)
    repository.create_remote("origin", str(Path(address).resolve()) if Path(address).is_dir() else address)
    return repository


def remote_branches(repository: Repo) -> list[str]:
    """Return the branches that the other side has.

    Raises:
        RepositoryUnreachable: it does not answer.
        RepositoryRefused: there is no such repository, or this key may not read it.
    """
    remote = repository.remote()
    try:
        listed = repository.git.ls_remote("--heads", remote.name, kill_after_timeout=_SECONDS)
    except GitError as error:
        raise explain(error, remote.url, "") from error
    return [line.partition("refs/heads/")[2] for line in str(listed).splitlines()]


def fetch(repository: Repo, branch: str, *, depth: int | None) -> None:
    """Bring a clone's branch to where the remote one is; see `clone` for the errors."""
    options: dict[str, Any] = {"kill_after_timeout": _SECONDS, **({"depth": depth} if depth is not None else {})}
    remote = repository.remote()
    try:
        remote.fetch(f"+refs/heads/{branch}:refs/heads/{branch}", **options)
    except GitError as error:
        raise explain(error, remote.url, branch) from error


def write_commit(
    repository: Repo,
    branch: str,
    files: Mapping[str, bytes | None],
    message: str,
    trailers: Mapping[str, str],
    author: tuple[str, str],
) -> Commit:
    """Put a commit on a branch of a clone without a working tree.

    Args:
        repository: the clone.
        branch: gets the commit on top.
        files: the new content by path; None takes a file away.
        message: subject and body.
        trailers: the lines behind the body.
        author: name and mail address.
    """
    parents = [repository.commit(branch)] if has_branch(repository, branch) else []
    index = IndexFile.from_tree(repository, parents[0].tree) if parents else IndexFile(repository)
    modes = {path: entry.mode for (path, _), entry in index.entries.items()}
    for path, content in files.items():
        if content is None:
            index.entries.pop((path, 0), None)
            continue
        stored = repository.odb.store(IStream("blob", len(content), io.BytesIO(content)))
        index.add([BaseIndexEntry((modes.get(path, 0o100644), stored.binsha, 0, path))], write=False)
    actor = Actor(*author)
    made = git.Commit.create_from_tree(
        repository,
        index.write_tree(),
        "\n".join([message.rstrip(), "", *(f"{name}: {value}" for name, value in trailers.items())]) + "\n",
        parent_commits=parents,
        author=actor,
        committer=actor,
    )
    repository.create_head(branch, made, force=True)
    return made


def push(repository: Repo, branch: str, *, dry_run: bool = False) -> None:
    """Push a branch, never by force; a dry run asks for the right to, and changes nothing.

    Raises:
        PushRaced: somebody else was faster.
        RepositoryRefused: this key may not write, or the server's rules forbid it.
        RepositoryUnreachable: the way to it broke.
    """
    remote, heard = repository.remote(), git.RemoteProgress()
    try:
        pushed = remote.push(
            f"refs/heads/{branch}:refs/heads/{branch}", progress=heard, kill_after_timeout=_SECONDS, dry_run=dry_run
        )
    except GitError as error:
        raise explain(error, remote.url, branch, heard.other_lines) from error
    for info in pushed:
        if info.flags & info.REJECTED:
            raise PushRaced(f"{public(remote.url)}: branch '{branch}' moved on")
        if info.flags & (info.REMOTE_REJECTED | info.REMOTE_FAILURE | info.ERROR):
            said = _remote_words("\n".join(heard.other_lines))
            if any(sign in f"{info.summary} {said}" for sign in _RACES):
                raise PushRaced(f"{public(remote.url)}: branch '{branch}' moved on")
            raise RepositoryRefused(
                f"{public(remote.url)}: does not take a push to '{branch}': {' '.join(info.summary.split())}"
                f"{f' ({said})' if said else ''}; give the deploy key the right to write there"
            )
    try:
        pushed.raise_if_error()
    except GitError as error:
        raise explain(error, remote.url, branch, heard.other_lines) from error


def find_commit(repository: Repo, revision: str) -> Commit | None:
    """Return the commit that a revision names; None where there is none.

    Raises:
        SettingsError: git does not trust the repository, because it belongs to another user.
    """
    try:
        name = repository.git.rev_parse("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except GitError as error:
        if "dubious ownership" in str(error):
            place = repository.working_tree_dir or repository.git_dir
            raise SettingsError(
                f"{place} belongs to another user; say that you trust it: git config --global --add safe.directory "
                f"{place}"
            ) from error
        return None
    return repository.commit(name)


def has_branch(repository: Repo, branch: str) -> bool:
    """Tell whether a repository has a branch."""
    return any(head.name == branch for head in repository.heads)


def read_file(repository: Repo, revision: str, path: str) -> bytes | None:
    """Return a file's bytes at a revision; None where it is not there."""
    try:
        blob = repository.commit(revision).tree / path
    except KeyError:
        return None
    return bytes(blob.data_stream.read()) if blob.type == "blob" else None


def public(address: str) -> str:
    """Return an address without a password."""
    return re.sub(r"//[^/@]*:[^/@]*@", "//…@", address)


_RACES = ("cannot lock ref", "incorrect old value", "but expected", "reference already exists", "stale info")
"""What servers say when two pushes meet while the refs are written."""

_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        RepositoryRefused,
        "the git server shows another host key than the known one: it was replaced, or somebody stands between; ask "
        "its administrator, and renew the known hosts only then",
    ),
    (
        "Host key verification failed",
        RepositoryRefused,
        "the git server's host key is not known; get it from its administrator and name it: config.known_hosts",
    ),
    ("UNPROTECTED PRIVATE KEY", RepositoryRefused, "others may read the deploy key's file; chmod 600 it"),
    ("marked as read only", RepositoryRefused, "the deploy key may read and not write; give it write access there"),
    ("invalid format", RepositoryRefused, "the deploy key is no private key that ssh can read"),
    ("error in libcrypto", RepositoryRefused, "the deploy key is no private key that ssh can read"),
    (
        "Permission denied (",
        RepositoryRefused,
        "the git server knows no key of ours; add the deploy key's public half there, and name the key: config.key",
    ),
    ("Could not resolve host", RepositoryUnreachable, "its host's name is not known here"),
    ("Connection refused", RepositoryUnreachable, "nothing listens there (connection refused)"),
    ("Connection timed out", RepositoryUnreachable, "it does not answer (timed out)"),
    ("Operation timed out", RepositoryUnreachable, "it does not answer (timed out)"),
    ("No route to host", RepositoryUnreachable, "no way leads to its host"),
    ("Network is unreachable", RepositoryUnreachable, "no way leads to its host"),
    ("Timeout: the command", RepositoryUnreachable, f"it did not answer within {_SECONDS} s"),
    ("Remote branch", RepositoryRefused, "has no branch '{branch}'; 'flops init-config' fills an empty repository"),
    ("couldn't find remote ref", RepositoryRefused, "has no branch '{branch}' any more"),
    ("does not appear to be a git repository", RepositoryRefused, "there is no git repository"),
    ("not found", RepositoryRefused, "there is no such repository, or this key may not read it"),
    ("does not exist", RepositoryRefused, "there is no such repository, or this key may not read it"),
    ("insufficient permission", RepositoryRefused, "this user may not write there"),
)


def explain(error: Exception, address: str, branch: str, heard: Iterable[str] = ()) -> FlopsError:
    """Say in a line what an error of git means, and what to do.

    Args:
        error: the library's.
        address: the repository's.
        branch: the branch it was about.
        heard: what git printed besides, where the library keeps that apart.
    """
    text = "\n".join([*heard, str(getattr(error, "stderr", "") or error)])
    if isinstance(error, git.GitCommandNotFound):
        return SettingsError("git is missing; install it, on Debian: apt-get install git openssh-client")
    for sign, kind, meaning in _MEANINGS:
        if sign in text:
            return kind(f"{public(address)}: {meaning.format(branch=branch)}")
    said = _remote_words(text) or " ".join(text.split())[-300:]
    return RepositoryUnreachable(f"{public(address)}: git failed: {public(said)}")


def _remote_words(text: str) -> str:
    """Return what the other side said to people, and git's own last complaint."""
    lines = [line.strip().removeprefix("stderr: '").strip("'") for line in text.splitlines()]
    told = [
        line.removeprefix("remote:").strip() for line in lines if line.startswith(("remote:", "fatal:", "ERROR:"))
    ]
    return "; ".join(line for line in told if line)[-300:]


def _write(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", newline="\n") as file:
        # Secrets come with other line ends, or without the last one, and ssh wants both right.
        file.write(text.strip().replace("\r\n", "\n") + "\n")
    return path


def _memory() -> str | None:
    """Return a folder that is no disk, where there is one: what a kill leaves there ends with the machine."""
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):  # noqa: S108 - a folder of one's own is made in it
        if folder and os.access(folder, os.W_OK):
            return folder
    return None


def _quoted(value: object) -> str:
    import shlex

    return shlex.quote(str(value.resolve() if isinstance(value, Path) else value))


def archive(repository: Repo, revision: str, paths: tuple[str, ...]) -> io.BytesIO:
    """Return a tar archive of paths as they are committed."""
    target = io.BytesIO()
    repository.archive(target, revision, path=list(paths), format="tar")
    target.seek(0)
    return target


def open_repository(folder: Path) -> Repo:
    """Open the repository that a folder is in.

    Raises:
        SettingsError: it is in none.
    """
    try:
        return Repo(folder, search_parent_directories=True)
    except git.NoSuchPathError as error:
        raise SettingsError(f"{folder}: no such folder") from error
    except git.InvalidGitRepositoryError as error:
        raise SettingsError(f"{folder.resolve()} is in no git repository; go to the source's folder") from error
