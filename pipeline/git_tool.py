"""Git, through GitPython: the only module that imports it.

Repositories of our own are bare: no working tree, so that no setting of this machine can change a line's end on its
way. What is written goes through git's own plumbing.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import FlopsError, SettingsError
from pipeline.git_environment import forget_callers, plain, without_account
from pipeline.git_words import SECONDS, RepositoryRefused, explain_refusal, explain_words, public

# Without git the import would fail; with this, the first use of it does.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

try:
    import git
    from git import Commit as Commit
    from git import Repo as Repo
except ModuleNotFoundError:
    raise
except ImportError as _error:
    raise SettingsError(
        "git does not start; is its configuration right? 'git version' says what it does not like"
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# It prints what failed, which is ours to say.
logging.getLogger("git").addHandler(logging.NullHandler())

_REMOTE = "flops-config"
"""A name that no setting of the user's is about."""

_FILE, _PROGRAM, _LINK, _MODULE = "100644", "100755", "120000", "160000"


class PushRaced(FlopsError):  # noqa: N818 - a state, not a mistake
    """Somebody else pushed meanwhile."""


def begin(address: str, folder: Path, environment: Mapping[str, str]) -> Repo:
    """Make an empty repository without a working tree that fetches from and pushes to an address.

    Raises:
        SettingsError: git is missing.
    """
    forget_callers()
    address, environment = without_account(address, environment)
    try:
        repository = Repo.init(folder, bare=True)
        repository.git.update_environment(**environment)
        repository.create_remote(_REMOTE, str(Path(address).resolve()) if Path(address).is_dir() else address)
    except git.GitCommandNotFound as error:
        raise _no_git() from error
    except git.UnsafeProtocolError as error:
        raise SettingsError(f"{public(address)}: git goes to no such address; git@… or ssh://… is needed") from error
    except git.GitError as error:
        raise _failed(error) from error
    return repository


def remote_branches(repository: Repo) -> list[str]:
    """Return the branches that the other side has.

    Raises:
        RepositoryUnreachable: it does not answer.
        RepositoryRefused: there is no such repository, or this key may not read it.
    """
    remote = repository.remote(_REMOTE)
    try:
        listed = repository.git.ls_remote("--heads", remote.name, kill_after_timeout=SECONDS)
    except git.GitError as error:
        raise _explain(error, remote.url, "") from error
    return [line.partition("refs/heads/")[2] for line in str(listed).splitlines()]


def remote_head(repository: Repo, branch: str) -> str:
    """Return the commit that a branch of the other side is at; see `fetch` for the errors."""
    remote = repository.remote(_REMOTE)
    try:
        listed = str(repository.git.ls_remote(remote.name, head(branch), kill_after_timeout=SECONDS))
    except git.GitError as error:
        raise _explain(error, remote.url, branch) from error
    if not listed:
        raise RepositoryRefused(f"{public(remote.url)}: has no branch '{branch}'")
    return listed.split(maxsplit=1)[0]


def fetch(repository: Repo, branch: str, *, depth: int | None) -> None:
    """Bring a branch to where the remote one is.

    Raises:
        RepositoryUnreachable: it does not answer.
        RepositoryRefused: there is no such repository or branch, or this key may not read it.
    """
    remote = repository.remote(_REMOTE)
    words = ["--no-tags", *([f"--depth={depth}"] if depth is not None else [])]
    try:
        repository.git.fetch(*words, remote.name, f"+{head(branch)}:{head(branch)}", kill_after_timeout=SECONDS)
    except git.GitError as error:
        raise _explain(error, remote.url, branch) from error


def push(repository: Repo, branch: str, *, dry_run: bool = False) -> None:
    """Push a branch, never by force; a dry run asks for the right to, and changes nothing.

    Raises:
        PushRaced: somebody else was faster.
        RepositoryRefused: this key may not write, or the server's rules forbid it.
        RepositoryUnreachable: the way to it broke.
    """
    remote, heard = repository.remote(_REMOTE), git.RemoteProgress()
    try:
        pushed = remote.push(
            f"{head(branch)}:{head(branch)}", progress=heard, kill_after_timeout=SECONDS, dry_run=dry_run
        )
    except git.GitError as error:
        raise _explain(error, remote.url, branch, heard.other_lines) from error
    for info in pushed:
        raced = PushRaced(f"{public(remote.url)}: branch '{branch}' moved on")
        if info.flags & info.REJECTED:
            raise raced
        if info.flags & (info.REMOTE_REJECTED | info.REMOTE_FAILURE | info.ERROR):
            words = "\n".join(heard.other_lines)
            raise explain_refusal(info.summary, words, remote.url, branch) or raced
    try:
        pushed.raise_if_error()
    except git.GitError as error:
        raise _explain(error, remote.url, branch, heard.other_lines) from error


def write_commit(
    repository: Repo,
    branch: str,
    files: Mapping[str, bytes | None],
    message: str,
    author: tuple[str, str],
) -> Commit:
    """Put a commit on a branch of a repository without a working tree.

    Args:
        repository: ours.
        branch: gets the commit on top.
        files: the new content by path; None takes a file away. A file keeps its mode.
        message: subject, body and trailers.
        author: name and mail address.

    Raises:
        SettingsError: a path is a folder or a symbolic link there.
        FlopsError: git does not make it.
    """
    parent = find_commit(repository, head(branch))
    with tempfile.TemporaryDirectory() as folder:
        name, mail = author
        variables = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        for role in ("AUTHOR", "COMMITTER"):
            variables |= {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": mail}

        def run(*words: str, text: bytes = b"") -> str:
            with tempfile.TemporaryFile() as given:
                given.write(text)
                given.seek(0)
                try:
                    return str(repository.git.execute(["git", *words], istream=given, env=variables))
                except git.GitError as error:
                    raise _failed(error) from error

        run("read-tree", *([parent.hexsha] if parent else ["--empty"]))
        lines = []
        for path, content in files.items():
            there = _blob(parent, path)
            if content is None:
                lines.append(f"0 {'0' * 40}\t{path}")
            else:
                mode = f"{there.mode:o}" if there else _FILE
                lines.append(f"{mode} {run('hash-object', '-w', '--stdin', text=content)}\t{path}")
        run("update-index", "-z", "--index-info", text="\0".join([*lines, ""]).encode())
        clean = message.replace("\0", " ").encode(errors="replace")
        before = ["-p", parent.hexsha] if parent else []
        made = run("commit-tree", run("write-tree"), *before, "-F", "-", text=clean)
        repository.git.update_ref(head(branch), made)
    return repository.commit(made)


def head(branch: str) -> str:
    """Return a branch's full name, which no tag can have."""
    return f"refs/heads/{branch}"


def find_commit(repository: Repo, revision: str) -> Commit | None:
    """Return the commit that a revision names; None where there is none.

    Raises:
        SettingsError: git is missing, or does not trust the repository, because it belongs to another user.
    """
    try:
        name = repository.git.rev_parse("--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except git.GitCommandNotFound as error:
        raise _no_git() from error
    except git.GitError as error:
        if "dubious ownership" in str(error):
            place = repository.working_tree_dir or repository.git_dir
            raise SettingsError(
                f"{place} belongs to another user; say that you trust it: git config --global --add safe.directory "
                f"{place}"
            ) from error
        return None
    return repository.commit(name)


def read_file(repository: Repo, revision: str, path: str) -> bytes | None:
    """Return a file's bytes at a revision; None where it is not there.

    Raises:
        SettingsError: a folder or a symbolic link is there.
    """
    found = _blob(repository.commit(revision), path)
    return bytes(found.data_stream.read()) if found else None


def folders(repository: Repo, revision: str, file: str) -> list[str]:
    """Return the folders at the top that hold a file of a name, in order."""
    return sorted(
        tree.name for tree in repository.commit(revision).tree.trees if any(b.name == file for b in tree.blobs)
    )


def changes(repository: Repo, revision: str, path: str) -> Iterator[tuple[Commit, bytes | None]]:
    """Yield the commits that changed a file, newest first, and what it held after each; a link or folder is none."""
    for commit in repository.iter_commits(revision, paths=path):
        try:
            yield commit, read_file(repository, commit.hexsha, path)
        except SettingsError:
            yield commit, None


def differs(repository: Repo, paths: tuple[str, ...]) -> bool:
    """Tell whether the working tree holds something else under paths than what is committed."""
    return bool(repository.git.status("--porcelain", "--untracked-files=normal", "--", *paths))


def listing(repository: Repo, revision: str, paths: tuple[str, ...]) -> bytes:
    """Return what is committed under paths, by mode, name and digest of each file, in git's own form."""
    listed = repository.git.ls_tree("-r", "-z", revision, "--", *paths, stdout_as_string=False)
    return bytes(listed)


def archive(repository: Repo, revision: str, paths: tuple[str, ...]) -> io.BytesIO:
    """Return a tar archive of paths, byte for byte as they are committed, whatever attributes and settings say.

    Raises:
        SettingsError: a submodule is among them.
    """
    commit = repository.commit(revision)
    target, made = io.BytesIO(), set[str]()

    def add(entry: tarfile.TarInfo, content: bytes = b"") -> None:
        entry.mtime, entry.size = commit.committed_date, len(content)
        archived.addfile(entry, io.BytesIO(content))

    with tarfile.open(fileobj=target, mode="w") as archived:
        for line in listing(repository, revision, paths).split(b"\0")[:-1]:
            told, _, name = line.partition(b"\t")
            mode, _, digest = told.decode().split(" ")
            path = os.fsdecode(name)
            if mode == _MODULE:
                raise SettingsError(f"{path} is a submodule, and images are built of what is committed here")
            for folder in reversed(Path(path).parents[:-1]):
                if str(folder) not in made:
                    made.add(str(folder))
                    entry = tarfile.TarInfo(str(folder))
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    add(entry)
            content = repository.odb.stream(bytes.fromhex(digest)).read()
            entry = tarfile.TarInfo(path)
            if mode == _LINK:
                entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(content)
                add(entry)
            else:
                entry.mode = 0o755 if mode == _PROGRAM else 0o644
                add(entry, content)
    target.seek(0)
    return target


def open_repository(folder: Path) -> Repo:
    """Open the repository that a folder is in.

    Raises:
        SettingsError: it is in none.
    """
    forget_callers()
    try:
        repository = Repo(folder, search_parent_directories=True)
    except git.NoSuchPathError as error:
        raise SettingsError(f"{folder}: no such folder") from error
    except git.InvalidGitRepositoryError as error:
        raise SettingsError(f"{folder.resolve()} is in no git repository; go to the source's folder") from error
    repository.git.update_environment(**plain())
    return repository


def _blob(commit: Commit | None, path: str) -> git.Blob | None:
    """Return a file of a commit; None where there is none."""
    try:
        found = commit.tree / path if commit is not None else None
    except KeyError:
        return None
    if found is None or (found.type == "blob" and f"{found.mode:o}" != _LINK):
        return found
    what = "a symbolic link" if found.type == "blob" else "a folder"
    raise SettingsError(f"{path}: is {what} in the repository; a file is needed")


def _explain(error: Exception, address: str, branch: str, heard: Iterable[str] = ()) -> FlopsError:
    """Say in a line what an error of git about another repository means, and what to do."""
    if isinstance(error, git.GitCommandNotFound):
        return _no_git()
    return explain_words("\n".join([*heard, str(getattr(error, "stderr", "") or error)]), address, branch)


def _failed(error: Exception) -> FlopsError:
    """Say in a line what git said of our own repository."""
    words = " ".join(str(getattr(error, "stderr", "") or error).removeprefix("\n  stderr: ").strip("'\n ").split())
    return FlopsError(f"git failed: {public(words)[-300:]}")


def _no_git() -> SettingsError:
    return SettingsError("git is missing; install it, on Debian: apt-get install git openssh-client")
