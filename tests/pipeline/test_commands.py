"""The pipeline's small commands, as people type them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.commands.common import who
from pipeline.settings import read_settings
from tests.pipeline.repositories import MANIFEST, REGISTRY, add_commit, git, log, make_bare, show
from tests.pipeline.sources import change, make_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Ended

RECORD = {
    "schema": 1,
    "release": "2026-01-01-00-00-00",
    "commit": "a" * 40,
    "subject": "The first",
    "committed": "2026-01-01T00:00:00+00:00",
    "protocol": 1,
    "smoke": "passed in 20 s",
    "by": "octo",
    "previous": "",
    "images": {
        side: {"image": f"{REGISTRY}/flops/{side}:2026-01-01-00-00-00@sha256:{n * 64}", "content": n}
        for side, n in (("server", "1"), ("client", "2"))
    },
}


def recorded(number: int) -> dict[str, str]:
    """Return dev's two files with the release of a number."""
    name = f"2026-01-0{number}-00-00-00"
    text = json.dumps(RECORD).replace("2026-01-01-00-00-00", name).replace("a" * 40, str(number) * 40)
    previous = f"2026-01-0{number - 1}-00-00-00" if number > 1 else ""
    text = text.replace('"previous": ""', f'"previous": "{previous}"')
    image = json.loads(text)["images"]["server"]["image"]
    return {"dev/release.json": text, "dev/cronjob.yaml": MANIFEST.replace(f"{REGISTRY}/flops/server:none", image)}


@pytest.fixture
def environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_REGISTRY", REGISTRY)
    monkeypatch.setenv("IMAGE_REPO", "flops")
    monkeypatch.setenv("FLOPS_CONFIG_REPOSITORY", str(config))
    monkeypatch.setenv("KUBECONFIG", "/nowhere")


@pytest.fixture
def two(config: Path) -> None:
    for number in (1, 2):
        add_commit(config, recorded(number), f"dev: release {number}")


class TestInit:
    def test_the_file_can_be_used_at_once(self, flops: Callable[..., Ended], here: Path) -> None:
        ended = flops("init", "--registry", "h.example.org", "--project", "p", "--repository", "ssh://git@g/c")
        assert ended.code == 0
        assert ended.out.startswith("flops.toml is written\n")
        settings = read_settings(None, {}, needs=("registry.host", "config.repository"))
        assert (settings.image("client"), settings.repository) == ("h.example.org/p/client", "ssh://git@g/c")

    def test_what_is_an_example_is_named(self, flops: Callable[..., Ended]) -> None:
        assert flops("init", "--json").json == {
            "file": "flops.toml",
            "examples_to_change": ["registry.host", "registry.project", "config.repository"],
        }

    def test_a_file_that_is_there_stays(self, flops: Callable[..., Ended], here: Path) -> None:
        here.joinpath("flops.toml").write_text("mine")
        ended = flops("init")
        assert (ended.code, ended.line) == (2, "flops.toml is there already; --force overwrites it")
        assert here.joinpath("flops.toml").read_text() == "mine"
        assert flops("init", "--force").code == 0

    def test_a_folder_that_is_not_there(self, flops: Callable[..., Ended]) -> None:
        ended = flops("init", "--out", "none/flops.toml")
        assert (ended.code, ended.line) == (2, "--out none/flops.toml: cannot be written: No such file or directory")


@pytest.mark.usefixtures("environment")
class TestInitConfig:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        files = {
            "dev/cronjob.yaml": "image: harbor.example.org/flops/server:none",
            "argocd/dev.yaml": "repoURL: git@git.example.org:flops/config.git\ntargetRevision: main",
        }
        return make_source(tmp_path / "source", {f"config-repo/{name}": text for name, text in files.items()})

    def test_an_empty_repository_is_filled_in_one_commit(
        self, flops: Callable[..., Ended], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_REGISTRY", "other.example.org:8443")
        empty = make_bare(tmp_path / "empty.git", {})
        ended = flops("init-config", empty, "--source", source, "--json")
        assert ended.json["files"] == ["argocd/dev.yaml", "dev/cronjob.yaml"]
        assert git(empty, "rev-parse", "main") == ended.json["config_commit"]
        assert show(empty, "dev/cronjob.yaml") == "image: other.example.org:8443/flops/server:none"
        assert show(empty, "argocd/dev.yaml") == f"repoURL: {empty}\ntargetRevision: main"
        again = flops("init-config", empty, "--source", source)
        assert again.code == 2
        assert "is not empty: it has the branch main; take an empty one" in again.line
        assert len(log(empty)) == 1

    def test_the_houses_names_may_hold_the_examples(
        self, flops: Callable[..., Ended], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_REGISTRY", "harbor.example.org:8443")
        empty = make_bare(tmp_path / "empty.git", {})
        assert flops("init-config", empty, "--source", source).code == 0
        assert show(empty, "dev/cronjob.yaml") == "image: harbor.example.org:8443/flops/server:none"
        (source / "config-repo" / "dev" / "link").symlink_to("nowhere")
        change(source, {}, "link")
        ended = flops("init-config", make_bare(tmp_path / "other.git", {}), "--source", source)
        assert (ended.code, ended.line) == (2, "config-repo/dev/link: is a symbolic link; a file is needed")

    def test_wrong_places(self, flops: Callable[..., Ended], source: Path, tmp_path: Path) -> None:
        ended = flops("init-config", tmp_path / "none.git", "--source", source)
        assert ended.code == 2
        assert "there is no git repository" in ended.line or "no such repository" in ended.line
        empty = make_bare(tmp_path / "empty.git", {})
        git(source, "rm", "-rq", "config-repo")
        change(source, {}, "without")
        ended = flops("init-config", empty, "--source", source)
        assert (ended.code, ended.line[-29:]) == (2, "has no config-repo/ to fill it with"[-29:])


@pytest.mark.usefixtures("environment", "two")
class TestMoves:
    def test_rollback_and_resume(self, flops: Callable[..., Ended], config: Path) -> None:
        ended = flops("rollback", "dev", "--reason", "rounds  fail\nsince today")
        assert ended.code == 0, ended.err
        assert ended.out == (
            "dev runs release 2026-01-01-00-00-00 again, and not 2026-01-02-00-00-00; automatic releases are held "
            "until 'flops resume dev'\n"
        )
        assert json.loads(show(config, "dev/hold.json"))["reason"] == "rounds fail since today"
        assert show(config, "dev/cronjob.yaml") == recorded(1)["dev/cronjob.yaml"]
        assert flops("resume", "dev", "--json").json["outcome"] == "moved"
        assert flops("resume", "dev").out == "dev is not held\n"

    def test_promote(self, flops: Callable[..., Ended], config: Path) -> None:
        add_commit(config, {"prod/cronjob.yaml": MANIFEST}, "prod")
        told = flops("promote", "dev", "prod", "--json").json
        assert (told["outcome"], told["environment"], told["release"]) == ("moved", "prod", "2026-01-02-00-00-00")
        assert show(config, "prod/cronjob.yaml") == show(config, "dev/cronjob.yaml")
        assert flops("promote", "dev", "prod").out == "prod runs release 2026-01-02-00-00-00 already\n"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["rollback", "dev"], "Missing option '--reason'."),
            (
                ["rollback", "dev", "--reason", " "],
                "--reason is empty; say why, so that whoever meets the hold knows",
            ),
            (
                ["rollback", "Dev!", "--reason", "x"],
                "'Dev!' is no environment: a folder's name in small letters is needed",
            ),
            (["rollback", "stage", "--reason", "x"], "the config repository has no stage/cronjob.yaml; there is dev"),
            (
                ["rollback", "dev", "--to", "never", "--reason", "x"],
                "dev never ran a release 'never'; the newest are 2026",
            ),
            (["resume", "stage"], "the config repository has no stage/cronjob.yaml; there is dev"),
            (["resume"], "Missing argument 'ENV'."),
            (["promote", "dev"], "Missing argument 'TO'."),
            (["promote", "dev", "prod"], "the config repository has no prod/cronjob.yaml"),
            (["promote", "stage", "dev"], "the config repository has no stage/cronjob.yaml; there is dev"),
            (
                ["promote", "dev", "prod", "--require-rounds", "3"],
                "--require-rounds asks the model registry; set MLFLOW",
            ),
            (["promote", "dev", "prod", "--require-rounds", "0"], "Invalid value for '--require-rounds'"),
            (["status", "stage"], "the config repository has no environment 'stage'; there is dev"),
            (["status", "--settings", "none.toml"], "none.toml: no such file"),
        ],
    )
    def test_a_mistake_is_one_line(
        self, flops: Callable[..., Ended], config: Path, words: list[str], message: str
    ) -> None:
        head = git(config, "rev-parse", "main")
        ended = flops(*words)
        assert ended.code == 2
        assert message in ended.line
        assert git(config, "rev-parse", "main") == head


@pytest.mark.usefixtures("environment")
class TestStatus:
    @pytest.mark.usefixtures("two")
    def test_releases_newest_first(self, flops: Callable[..., Ended], config: Path) -> None:
        flops("rollback", "dev", "--reason", "bad rounds")
        (told,) = flops("status", "dev", "--json").json["environments"]
        assert [release["release"][:10] for release in told["releases"]] == ["2026-01-01", "2026-01-02", "2026-01-01"]
        assert [release["by"] for release in told["releases"][1:]] == ["octo", "octo"]
        assert told["releases"][0]["by"] == who()
        assert told["releases"][0]["what"] == "dev: roll back to release 2026-01-01-00-00-00"
        assert told["hold"]["reason"] == "bad rounds"
        assert told["image"] == RECORD["images"]["server"]["image"]
        assert told["problem"] is None
        ended = flops("status")
        assert "held:     by" in ended.out
        assert "bad rounds" in ended.out
        assert "cluster:  not asked: no kubeconfig that can be used" in ended.out
        assert len(flops("status", "--limit", "1", "--json").json["environments"][0]["releases"]) == 1

    def test_no_release_yet(self, flops: Callable[..., Ended]) -> None:
        ended = flops("status")
        assert ended.out.startswith("dev: no release yet\n  manifest: harbor.example.org/flops/server:none\n")

    @pytest.mark.usefixtures("two")
    def test_a_change_by_hand_is_named(self, flops: Callable[..., Ended], config: Path) -> None:
        add_commit(config, {"dev/cronjob.yaml": MANIFEST}, "by hand")
        (told,) = flops("status", "--json").json["environments"]
        assert told["problem"].startswith(
            "the manifest was changed by hand: the record says harbor.example.org/flops/"
        )
        add_commit(config, {"dev/cronjob.yaml": "a: ["}, "broken")
        (told,) = flops("status", "--json").json["environments"]
        assert told["problem"].startswith("dev/cronjob.yaml, line 1: is not YAML")


def test_release_without_settings_or_source(flops: Callable[..., Ended], here: Path) -> None:
    assert "'registry.host' is missing" in flops("release").line
    here.joinpath("flops.toml").write_text(
        f'[registry]\nhost = "{REGISTRY}"\nproject = "flops"\n[config]\nrepository = "/nowhere"\n'
    )
    assert "is in no git repository" in flops("release", "--source", here).line
    assert "no such folder" in flops("release", "--source", here / "none").line
    source = make_source(here / "source")
    assert "there is no commit 'v9'" in flops("release", "--source", source, "--commit", "v9").line
    ended = flops("release", "--source", source, "--dry-run")
    assert ended.code == 2
    assert "there is no such repository" in ended.line or "no git repository" in ended.line


def test_a_mistake_before_the_start_is_told_to_machines_too(
    environment: None,
    flops: Callable[..., Ended],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    ended = flops("release", "--json", "--source", make_source(here / "source"), "--commit", "v9")
    assert (ended.code, ended.json["outcome"], ended.json["commit"]) == (2, "failed", None)
    assert "there is no commit 'v9'" in ended.json["reason"]
    monkeypatch.setenv("DOCKER_REGISTRY", "x")
    ended = flops("release", "--json")
    assert (ended.code, ended.json["outcome"], ended.json["environment"]) == (2, "failed", None)
    assert (here / "summary.md").read_text().count("### failed: ") == 2


def test_a_dry_run_prints_the_diff(
    environment: None, flops: Callable[..., Ended], tmp_path: Path, config: Path
) -> None:
    ended = flops("release", "--dry-run", "--source", make_source(tmp_path / "source"))
    assert ended.code == 0
    assert ended.out.startswith("--- a/dev/cronjob.yaml\n+++ b/dev/cronjob.yaml\n")
    assert ended.out.splitlines()[-1] == "planned: nothing was built"
    assert log(config) == ["first"]
