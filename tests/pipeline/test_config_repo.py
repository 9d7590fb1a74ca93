"""The config repository: one commit at a time, races, and what goes wrong on the way there over a real SSH server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fl.errors import FlopsError
from pipeline.config_repo import ATTEMPTS, Change, ConfigRepo
from pipeline.git_words import KeyRefused, RepositoryRefused, RepositoryUnreachable
from tests.pipeline.repositories import MANIFEST, add_commit, git, log, make_bare, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.settings import Settings
    from tests.pipeline.ssh_server import SshServer

Make = "Callable[..., Settings]"


def publish(settings: Settings, files: dict[str, bytes | None], before: Callable[[], object] = lambda: None) -> str:
    def make(_: ConfigRepo) -> Change:
        before()
        return Change(files, "dev: release\n\nWhat it is.", {"Source-Commit": "a" * 40})

    with ConfigRepo.open(settings) as repo:
        return repo.publish(make, say=lambda _: None)


def test_a_commit_changes_its_files_alone_and_carries_trailers(config: Path, settings_for: Make) -> None:
    made = publish(settings_for(config), {"dev/release.json": b"{}\r\n", "dev/cronjob.yaml": b"a: b\r\n"})
    assert git(config, "rev-parse", "main") == made
    assert git(config, "diff", "--name-status", "main~", "main").split() == [
        *("M", "dev/cronjob.yaml", "A", "dev/release.json"),
    ]
    assert show(config, "dev/release.json") == "{}\r\n"  # Line ends are the file's own.
    assert git(config, "log", "-1", "--format=%an %ae|%(trailers:key=Source-Commit,valueonly)") == (
        f"FLOps flops@localhost|{'a' * 40}"
    )
    publish(settings_for(config), {"dev/release.json": None, "dev/absent": None})
    assert git(config, "ls-tree", "-r", "--name-only", "main").split() == ["README.md", "dev/cronjob.yaml"]


def test_modes_and_other_files_stay(config: Path, settings_for: Make) -> None:
    blob = git(config, "rev-parse", "main:README.md")
    git(config, "update-ref", "refs/heads/main", _tree_with(config, f"100755 blob {blob}\tscript.sh"))
    publish(settings_for(config), {"script.sh": b"new"})
    assert git(config, "ls-tree", "main", "script.sh").startswith("100755")


def _tree_with(bare: Path, line: str) -> str:
    tree = git(bare, "mktree", text=git(bare, "ls-tree", "main") + f"\n{line}\n")
    return git(bare, "commit-tree", tree, "-p", "main", "-m", "mode")


def test_a_push_race_makes_the_change_again_from_what_is_there(config: Path, settings_for: Make) -> None:
    left = [1, 2, 3]

    def race() -> None:
        if left:
            add_commit(config, {"dev/other": str(left.pop())}, "somebody else")

    publish(settings_for(config), {"dev/release.json": b"{}"}, race)
    assert log(config) == ["dev: release", *["somebody else"] * 3, "first"]
    assert (show(config, "dev/other"), show(config, "dev/cronjob.yaml")) == ("1", MANIFEST)


def test_a_race_that_never_ends_is_given_up(
    config: Path, settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.config_repo.time.sleep", lambda _: None)
    count = iter(range(100))
    with pytest.raises(
        FlopsError, match=f"moved on during each of {ATTEMPTS} attempts; nothing was changed"
    ) as caught:
        publish(settings_for(config), {"a": b""}, lambda: add_commit(config, {"x": str(next(count))}, "else"))
    assert caught.value.exit_code == 1
    assert "dev: release" not in log(config)


def test_many_at_once_lose_nothing(config: Path, settings_for: Make) -> None:
    settings, failed = settings_for(config), []

    def one(number: int) -> None:
        try:
            publish(settings, {f"dev/{number}": b""})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(log(config)) == 7
    assert {f"dev/{n}" for n in range(6)} < set(git(config, "ls-tree", "-r", "--name-only", "main").split())


def test_what_a_hook_of_git_sets_is_not_taken_for_ours(
    config: Path, settings_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(make_bare(tmp_path / "hooked.git", {"a": "b"})))
    with ConfigRepo.open(settings_for(config)) as repo:
        assert repo.read("dev/cronjob.yaml") == MANIFEST.encode()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/nowhere/config.git", "there is no such repository|no git repository"),
        ("ssh://git@nowhere.invalid/config.git", "its host's name is not known here"),
        ("ssh://git@127.0.0.1:1/config.git", "nothing listens there"),
        ("https://user:secret@127.0.0.1:1/config.git", "nothing listens there"),
    ],
)
def test_a_repository_that_does_not_answer_is_one_line(settings_for: Make, address: str, message: str) -> None:
    with pytest.raises(FlopsError, match=message) as caught, ConfigRepo.open(settings_for(address)):
        pass
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("scheme", ["ssh", "http"])
def test_a_server_that_cuts_the_connection(settings_for: Make, scheme: str, reset: bool) -> None:
    def cut() -> None:
        connection, _ = listener.accept()
        connection.recv(100)  # Else what is unread makes a reset of each end.
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=cut)
        thread.start()
        address = f"{scheme}://git@127.0.0.1:{listener.getsockname()[1]}/config.git"
        with (
            pytest.raises(RepositoryUnreachable, match="the connection was cut from there"),
            ConfigRepo.open(settings_for(address)),
        ):
            pass
        thread.join()


@pytest.mark.parametrize("printed", ["", "notify-ci: not found", "curl: Connection refused", "error: 403"])
@pytest.mark.parametrize("reaches", [True, False])
def test_a_push_whose_answer_is_lost(config: Path, settings_for: Make, reaches: bool, printed: str) -> None:
    hook = config / "hooks" / ("post-receive" if reaches else "pre-receive")
    hook.write_text(f"#!/bin/sh\necho '{printed}' >&2\nsleep 0.3\nkill -9 $PPID\n")
    hook.chmod(0o755)
    if reaches:
        made = publish(settings_for(config), {"a": b""})
        assert git(config, "rev-parse", "main") == made
    else:
        with pytest.raises((RepositoryUnreachable, RepositoryRefused)) as caught:
            publish(settings_for(config), {"a": b""})
        assert "is not known" not in str(caught.value)
        assert log(config) == ["first"]


def test_a_push_of_which_nobody_knows_whether_it_arrived(
    config: Path, settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = config / "hooks" / "post-receive"
    hook.write_text(f"#!/bin/sh\nmv {config} {config}.away\nkill -9 $PPID\n")
    hook.chmod(0o755)
    with pytest.raises(
        RepositoryUnreachable, match=r"whether the change arrived .* is not known: look with 'flops st"
    ):
        publish(settings_for(config), {"a": b""})


def test_a_repository_that_somebody_works_in_takes_no_push(settings_for: Make, tmp_path: Path, config: Path) -> None:
    git(tmp_path, "clone", "-q", str(config), "work")
    with pytest.raises(RepositoryRefused, match="somebody works in it, on that branch; name a bare one"):
        publish(settings_for(tmp_path / "work"), {"a": b""})


def test_a_branch_that_is_not_there(config: Path, settings_for: Make) -> None:
    with (
        pytest.raises(RepositoryRefused, match="has no branch 'prod'"),
        ConfigRepo.open(settings_for(config, FLOPS_CONFIG_BRANCH="prod")),
    ):
        pass


def test_a_hook_that_refuses_a_push_is_quoted(config: Path, settings_for: Make) -> None:
    hook = config / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'main is protected' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(RepositoryRefused, match=r"does not take a push to 'main'.*main is protected"):
        publish(settings_for(config), {"a": b""})
    assert log(config) == ["first"]


@pytest.mark.ssh
class TestOverSsh:
    @pytest.fixture
    def reach(self, config: Path, ssh_server: SshServer, settings_for: Make) -> Callable[..., Settings]:
        ssh_server.know()

        def make(**variables: object) -> Settings:
            given = {"FLOPS_CONFIG_KEY": ssh_server.key, "FLOPS_KNOWN_HOSTS": ssh_server.known_hosts}
            return settings_for(ssh_server.url(config), **{**given, **variables})

        return make

    def test_with_a_key_from_a_file(self, reach: Callable[..., Settings], config: Path) -> None:
        publish(reach(), {"a": b"1"})
        assert show(config, "a") == "1"

    def test_with_a_key_from_the_environment(
        self, reach: Callable[..., Settings], ssh_server: SshServer, config: Path
    ) -> None:
        key = ssh_server.key.read_text().rstrip().replace("\n", "\r\n")  # As some forms of the web store secrets.
        known = ssh_server.known_hosts.read_text()
        variables = {
            "FLOPS_CONFIG_KEY": "",
            "FLOPS_KNOWN_HOSTS": "",
            "SSH_PRIVATE_KEY": key,
            "SSH_KNOWN_HOSTS": known,
        }
        publish(reach(**variables), {"a": b"1"})
        assert show(config, "a") == "1"

    def test_files_with_odd_names(
        self, reach: Callable[..., Settings], ssh_server: SshServer, config: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "100 % ours"
        folder.mkdir()
        key, known = (
            shutil.copy(ssh_server.key, folder / "key"),
            shutil.copy(ssh_server.known_hosts, folder / "known"),
        )
        publish(reach(FLOPS_CONFIG_KEY=key, FLOPS_KNOWN_HOSTS=known), {"a": b"1"})
        assert show(config, "a") == "1"

    def test_a_key_with_a_passphrase(self, reach: Callable[..., Settings], tmp_path: Path) -> None:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
        with pytest.raises(KeyRefused, match=r"config\.key: the deploy key has a passphrase"):
            publish(reach(FLOPS_CONFIG_KEY=key), {"a": b""})
        with pytest.raises(KeyRefused, match="SSH_PRIVATE_KEY: the deploy key has a passphrase"):
            publish(reach(FLOPS_CONFIG_KEY="", SSH_PRIVATE_KEY=key.read_text()), {"a": b""})

    def test_the_half_of_a_key_that_is_for_the_git_server(
        self, reach: Callable[..., Settings], ssh_server: SshServer
    ) -> None:
        public = ssh_server.public(ssh_server.key)
        with pytest.raises(KeyRefused, match="SSH_PRIVATE_KEY: is a key's public half"):
            publish(reach(FLOPS_CONFIG_KEY="", SSH_PRIVATE_KEY=public), {"a": b""})

    def test_a_killed_process_leaves_no_key(self, ssh_server: SshServer, tmp_path: Path) -> None:
        program = (
            "import os, time; from pipeline.git_environment import git_environment; "
            "from pipeline.settings import read_settings; made = git_environment(read_settings(None, os.environ)); "
            "print(made.__enter__()['GIT_SSH_COMMAND'], flush=True); time.sleep(600)"
        )
        given = {"SSH_PRIVATE_KEY": ssh_server.key.read_text(), "TMPDIR": str(tmp_path)}
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, **given}, text=True
        ) as holder:
            found = re.search('IdentityFile="(.*?)"', holder.stdout.readline())
            assert Path(found[1]).read_text() == ssh_server.key.read_text()
            holder.kill()
        assert not list(tmp_path.iterdir())

    def test_a_race_over_ssh(self, reach: Callable[..., Settings], config: Path) -> None:
        left = [1]
        publish(reach(), {"a": b""}, lambda: left and add_commit(config, {"b": str(left.pop())}, "else"))
        assert log(config)[:2] == ["dev: release", "else"]

    def test_the_right_to_push_is_there_although_the_branch_moved_on(
        self, reach: Callable[..., Settings], ssh_server: SshServer, config: Path
    ) -> None:
        with ConfigRepo.open(reach()) as repo:
            add_commit(config, {"b": "1"}, "else")
            assert repo.try_push() == "may push to branch main"
        with ConfigRepo.open(reach(FLOPS_CONFIG_KEY=ssh_server.read_only_key)) as repo:
            add_commit(config, {"b": "2"}, "else")
            with pytest.raises(RepositoryRefused, match="may read and not write"):
                repo.try_push()
        assert log(config) == ["else", "else", "first"]

    def test_a_key_that_may_not_write(
        self, reach: Callable[..., Settings], ssh_server: SshServer, config: Path
    ) -> None:
        with pytest.raises(RepositoryRefused, match="the deploy key may read and not write; give it write access"):
            publish(reach(FLOPS_CONFIG_KEY=ssh_server.read_only_key), {"a": b""})
        assert log(config) == ["first"]

    def test_a_key_that_nobody_knows(self, reach: Callable[..., Settings], ssh_server: SshServer) -> None:
        with (
            pytest.raises(RepositoryRefused, match="knows no key of ours"),
            ConfigRepo.open(reach(FLOPS_CONFIG_KEY=ssh_server.host_key)),
        ):
            pass

    def test_what_is_no_key(self, reach: Callable[..., Settings]) -> None:
        variables = {"FLOPS_CONFIG_KEY": "", "SSH_PRIVATE_KEY": "s3cret"}
        with (
            pytest.raises(RepositoryRefused, match="is no private key that ssh can read") as caught,
            ConfigRepo.open(reach(**variables)),
        ):
            pass
        assert "s3cret" not in str(caught.value)

    def test_a_host_key_that_changed(self, reach: Callable[..., Settings], ssh_server: SshServer) -> None:
        ssh_server.know(ssh_server.key)
        with (
            pytest.raises(RepositoryRefused, match="shows another host key than the known one"),
            ConfigRepo.open(reach()),
        ):
            pass

    def test_a_host_key_that_nobody_knows(self, reach: Callable[..., Settings], ssh_server: SshServer) -> None:
        ssh_server.known_hosts.write_text("")
        with pytest.raises(RepositoryRefused, match="host key is not known"), ConfigRepo.open(reach()):
            pass

    def test_a_repository_that_is_not_there(
        self, reach: Callable[..., Settings], ssh_server: SshServer, tmp_path: Path
    ) -> None:
        address = ssh_server.url(tmp_path / "none.git")
        with (
            pytest.raises(RepositoryRefused, match="there is no git repository"),
            ConfigRepo.open(reach(FLOPS_CONFIG_REPOSITORY=address)),
        ):
            pass


def test_an_unreachable_repository_is_a_failure_and_a_refusal_is_a_mistake() -> None:
    assert (RepositoryUnreachable("").exit_code, RepositoryRefused("").exit_code) == (1, 2)
