"""Git, whatever this user's settings are: what is built is what is committed, what is written is what was meant."""

from __future__ import annotations

import base64
import http.server
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

from fl.errors import FlopsError, SettingsError
from pipeline.config_repo import Change, ConfigRepo
from pipeline.git_environment import by_ssh, plain, without_account
from pipeline.git_tool import begin, remote_branches
from pipeline.git_words import (
    RepositoryAway,
    RepositoryRefused,
    RepositoryUnreachable,
    explain_words,
    public,
    without_secrets,
)
from pipeline.source import Source
from tests.images.site import told_in_arguments
from tests.pipeline.repositories import add_commit, git, log, show
from tests.pipeline.sources import make_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.settings import Settings
    from tests.pipeline.unbuilt import Setting


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder


@pytest.mark.parametrize(
    "text",
    [
        "[core]\n autocrlf = true\n eol = crlf",
        "[feature]\n manyFiles = true\n[index]\n version = 4",
        "[clone]\n defaultRemoteName = upstream",
        "[safe]\n bareRepository = explicit",
        "[core]\n hooksPath = HOME/hooks",
        "[init]\n templateDir = HOME/template\n defaultBranch = other",
        "[push]\n gpgSign = true\n followTags = true\n[commit]\n gpgSign = true",
        '[remote "origin"]\n mirror = true\n pushurl = /nowhere',
        "[fetch]\n prune = true\n[transfer]\n fsckObjects = true",
    ],
)
def test_the_users_settings_change_nothing(setting: Setting, home: Path, text: str) -> None:
    for folder in (home / "hooks", home / "template" / "hooks"):
        folder.mkdir(parents=True)
        (folder / "pre-push").write_text("#!/bin/sh\nexit 1\n")
        (folder / "pre-push").chmod(0o755)
    (home / ".gitconfig").write_text(text.replace("HOME", str(home)) + "\n")
    source = Source.open(setting.source)
    with tarfile.open(fileobj=source.archive("server")) as archive:
        assert archive.extractfile("server/round.py").read() == b"print('server')\n"
    assert setting.release().outcome == "released"
    (home / ".gitconfig").unlink()
    assert "\r" not in show(setting.config, "dev/cronjob.yaml")


def test_attributes_that_are_not_committed_leave_nothing_out(tmp_path: Path) -> None:
    tree = make_source(tmp_path / "source", {".gitattributes": "LICENSE export-ignore\n"})
    (tree / ".git" / "info" / "attributes").write_text("server/round.py export-ignore\n")
    with tarfile.open(fileobj=Source.open(tree).archive("server")) as archive:
        assert {"server/round.py", "LICENSE"} <= set(archive.getnames())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIT_AUTHOR_DATE", "yesterday"),
        ("GIT_COMMITTER_DATE", "2001-01-01T00:00:00"),
        ("GIT_INDEX_VERSION", "4"),
        ("GIT_NAMESPACE", "other"),
        ("GIT_COMMON_DIR", "/nowhere"),
        ("GIT_SHALLOW_FILE", "/nowhere"),
        ("GIT_DIR", "/nowhere"),
    ],
)
def test_what_a_caller_left_in_the_environment_changes_nothing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    setting.make()
    assert setting.release().outcome == "released"
    monkeypatch.delenv(name, raising=False)
    assert not git(setting.config, "log", "-1", "--format=%ci").startswith("2001")


def test_a_tag_of_the_branchs_name_is_not_the_branch(setting: Setting) -> None:
    first = git(setting.config, "rev-parse", "main")
    setting.release()
    git(setting.config, "tag", "main", first)
    assert setting.make().plan().outcome == "unchanged"


def test_names_that_are_no_utf8_stay(setting: Setting) -> None:
    blob = git(setting.config, "hash-object", "-w", "--stdin", text="x")
    listed = git(setting.config, "ls-tree", "main")
    import subprocess

    made = subprocess.run(
        ["git", "-C", str(setting.config), "mktree"],
        input=f"{listed}\n100644 blob {blob}\tlat\udce9.txt\n".encode(errors="surrogateescape"),
        capture_output=True,
        check=True,
    ).stdout.decode()
    commit = git(setting.config, "commit-tree", made.strip(), "-p", "main", "-m", "odd")
    git(setting.config, "update-ref", "refs/heads/main", commit)
    assert setting.release().outcome == "released"
    assert "\\351" in git(setting.config, "ls-tree", "--name-only", "main")


@pytest.mark.parametrize("file", ["dev/release.json", "dev/cronjob.yaml", "dev/hold.json"])
def test_a_folder_in_a_files_place(setting: Setting, file: str) -> None:
    tree = {path: show(setting.config, path) for path in ("dev/cronjob.yaml", "README.md")}
    tree.pop(file, None)
    bare = setting.config
    git(bare, "update-ref", "-d", "refs/heads/main")
    add_commit(bare, {**tree, f"{file}/inside": "x"}, "odd")
    with pytest.raises(SettingsError, match=rf"{file}: is a folder in the repository; a file is needed"):
        setting.release()
    assert log(bare) == ["odd"]


def test_a_hook_that_speaks_of_what_it_expected_is_no_race(
    config: Path, settings_for: Callable[..., Settings]
) -> None:
    hook = config / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'but expected a review: cannot lock ref'\nexit 1\n")
    hook.chmod(0o755)
    with (
        ConfigRepo.open(settings_for(config)) as repo,
        pytest.raises(RepositoryRefused, match=r"a rule of the git server's forbids it .*expected a review"),
    ):
        repo.publish(lambda _: Change({"x": b"y"}, "x", {}), say=print)


def test_a_repository_that_never_answers_is_given_up(
    settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setattr("pipeline.git_tool.SECONDS", 2)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(RepositoryUnreachable, match="it did not answer within"),
        ConfigRepo.open(settings_for(f"http://127.0.0.1:{listener.getsockname()[1]}/config.git")),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ghp_token@host/x.git", "https://…@host/x.git"),
        ("https://user:p/a@ss@host/x.git", "https://…@host/x.git"),
        ("ssh://git:secret@host/x.git", "ssh://…@host/x.git"),
        ("ssh://git@host/x.git", "ssh://git@host/x.git"),
        ("git@host:x.git", "git@host:x.git"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert public(address) == shown


def test_an_account_in_an_address_is_sent_and_stands_in_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host = f"127.0.0.1:{server.server_port}"
        repository = begin(f"http://releases:p%40ss@{host}/config.git", tmp_path / "config", plain())
        with told_in_arguments("p@ss", "p%40ss") as told, pytest.raises(FlopsError):
            remote_branches(repository)
        server.shutdown()
        thread.join()
    assert base64.b64decode(str(seen[0]).removeprefix("Basic ")).decode() == "releases:p@ss"
    assert [remote.url for remote in repository.remotes] == [f"http://{host}/config.git"]
    assert not told
    repository.close()


@pytest.mark.parametrize(
    "address",
    [
        "git@host:a.git",
        "ssh://u:p@host/a",
        "https://host/a@b:c",
        "http://u@host",
        "https://jane.doe%40hospital.example@host/a",  # A name, however long, whose password a helper knows.
        "https://svc-flops-release-bot@host/a",
    ],
)
def test_other_addresses_stay(address: str) -> None:
    assert without_account(address, {"A": "b"}) == (address, {"A": "b"})


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (
            "ERROR: The key you are authenticating with has been marked as read only.",
            RepositoryRefused,
            "may read and",
        ),
        ("ERROR: This deploy key does not have write access to this project.", RepositoryRefused, "may read and not"),
        (
            "Gitea: Unauthorized\nDeploy Key: 3:k is not authorized to write to a/b.",
            RepositoryRefused,
            "may read and",
        ),
        ("ERROR: The project you were looking for could not be found", RepositoryRefused, "there is no such repos"),
        ("Gitea: Cannot find repository a/b", RepositoryRefused, "there is no such repository"),
        ("fatal: unable to access 'u': server certificate verification failed.", RepositoryRefused, "http.sslCAInfo"),
        ("fatal: unable to access 'u': SSL certificate problem: unable to get", RepositoryRefused, "http.sslCAInfo"),
        (
            "fatal: SSL certificate problem: certificate has expired",
            RepositoryRefused,
            "certificate has expired; its",
        ),
        (
            "remote: curl: Could not resolve host: ci\nfatal: the remote end hung up",
            RepositoryUnreachable,
            "git failed",
        ),
        ("fatal: Authentication failed for 'https://h/x.git/'", RepositoryRefused, "does not accept the account"),
        (
            "fatal: could not read Username for 'https://h': terminal",
            RepositoryRefused,
            "does not accept the account",
        ),
        (
            "error: RPC failed; The requested URL returned error: 403",
            RepositoryRefused,
            "forbids that to this account",
        ),
        ("ssh: connect to host h port 22: Connection refused", RepositoryAway, "nothing listens there"),
        ("fatal: Failed to traverse parents of commit 1", RepositoryRefused, "git fetch --unshallow"),
    ],
)
def test_git_servers_words(words: str, kind: type[FlopsError], told: str) -> None:
    error = explain_words(words, "git@h:a/b.git", "main")
    assert type(error) is kind
    assert told in str(error)


@pytest.mark.parametrize(
    ("address", "plain_one"),
    [
        ("https://ci:s3cret@host/x@y.git", "https://host/x@y.git"),
        ("https://token@host:8443/x.git", "https://host:8443/x.git"),
        ("ssh://git:s3cret@host/x.git", "ssh://git@host/x.git"),
        ("ssh://git@host/x.git", "ssh://git@host/x.git"),
        ("git@host:x.git", "git@host:x.git"),
    ],
)
def test_addresses_for_others_lead_there_without_secrets(address: str, plain_one: str) -> None:
    assert without_secrets(address) == plain_one


def test_a_token_alone_in_an_address_is_sent_and_stands_in_no_argument() -> None:
    token = "ghp_" + "x" * 36
    address, variables = without_account(f"https://{token}@host/x.git", {})
    assert address == "https://host/x.git"
    sent = variables["GIT_CONFIG_VALUE_0"].removeprefix("Authorization: Basic ")
    assert base64.b64decode(sent).decode() == f"{token}:"


def test_nobody_is_asked_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_ASKPASS", "/opt/ask")
    assert plain()["GIT_ASKPASS"] == "true"


@pytest.mark.parametrize(
    ("address", "over_ssh"),
    [
        ("git@git.example.org:flops/config.git", True),
        ("git.example.org:config.git", True),
        ("ssh://git@git.example.org:2222/flops/config.git", True),
        ("git+ssh://git.example.org/config.git", True),
        ("https://git.example.org/flops/config.git", False),
        ("file:///srv/config.git", False),
        ("/srv/config.git", False),
        ("./odd:name.git", False),
    ],
)
def test_the_way_to_an_address(address: str, over_ssh: bool) -> None:
    assert by_ssh(address) is over_ssh
