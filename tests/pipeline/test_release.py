"""What a release decides and commits, with images that are not built; the containers' tests build them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fl.errors import FlopsError, SettingsError
from pipeline.moves import promote, resume, rollback
from tests.pipeline.repositories import CLIENT, MANIFEST, SERVER, add_commit, git, log, make_bare, show
from tests.pipeline.sources import change

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.settings import Settings
    from pipeline.verdict import Verdict
    from tests.pipeline.unbuilt import Setting, Unbuilt


def test_a_release_is_one_commit_of_one_line_and_its_record(setting: Setting) -> None:
    verdict = setting.release()
    commit = git(setting.source, "rev-parse", "HEAD")
    image = f"{SERVER}:{verdict.record.release}@sha256:{commit.zfill(64)}"
    assert verdict.outcome == "released"
    assert show(setting.config, "dev/cronjob.yaml") == MANIFEST.replace(f"{SERVER}:none", image)
    record = setting.record()
    assert record["commit"] == commit
    assert record["images"]["server"]["image"] == image
    assert record["images"]["client"]["image"].startswith(f"{CLIENT}:{verdict.record.release}@sha256:")
    assert (record["protocol"], record["previous"], record["smoke"], record["by"]) == (1, "", "not run", "tester")
    assert git(setting.config, "rev-parse", "main") == verdict.config_commit
    assert git(setting.config, "log", "-1", "--format=%(trailers:key=Source-Commit,valueonly)") == commit
    assert git(setting.config, "diff", "--numstat", "main~", "main", "--", "dev/cronjob.yaml").split()[:2] == [
        "1",
        "1",
    ]


def test_the_next_release_names_the_one_before(setting: Setting) -> None:
    first = setting.release()
    setting.change("2")
    setting.release()
    assert setting.record()["previous"] == first.record.release


def test_where_no_image_would_change_nothing_is_committed(setting: Setting) -> None:
    setting.release()
    before = log(setting.config, "%H")
    change(setting.source, {"docs/other.md": "words"}, "docs")
    verdict = setting.release()
    assert (verdict.outcome, log(setting.config, "%H")) == ("unchanged", before)
    assert "both images would hold what release" in verdict.line


def test_another_base_image_is_another_release(setting: Setting, settings_for: Callable[..., Settings]) -> None:
    setting.release()
    setting.settings = settings_for(setting.config, FLOPS_BASE_IMAGE="python:3.12-slim")
    assert setting.release().outcome == "released"


def test_an_older_commit_never_replaces_a_newer_one(setting: Setting) -> None:
    first = git(setting.source, "rev-parse", "HEAD")
    setting.change("2")
    setting.release()
    verdict = setting.release(first)
    assert verdict.outcome == "superseded"
    assert setting.record()["commit"] == git(setting.source, "rev-parse", "HEAD")


def test_a_newer_release_that_comes_while_an_older_one_is_pushed_wins(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = git(setting.source, "rev-parse", "HEAD")
    second = setting.change("2")
    older = setting.make(first)
    ship = older._ship

    def slow(*words: object) -> object:
        setting.release(second)  # From another machine: no turn is waited for.
        return ship()

    object.__setattr__(older, "_ship", slow)
    monkeypatch.setattr("pipeline.turns.gone", lambda _: True)
    verdict = older.run()
    assert (verdict.outcome, setting.record()["commit"]) == ("superseded", second)
    assert verdict.pushed  # It says what it had made.


def test_a_commit_of_another_history_needs_a_word(setting: Setting) -> None:
    first = git(setting.source, "rev-parse", "HEAD")
    setting.change("2")
    setting.release()
    git(setting.source, "checkout", "-q", "-b", "side", first)
    setting.change("3")
    with pytest.raises(
        SettingsError, match="is no ancestor of this one; release one that follows it, or say --replace"
    ):
        setting.release()
    assert setting.release(replaces=True).outcome == "released"
    git(setting.source, "checkout", "-q", "--orphan", "new")
    git(setting.source, "branch", "-D", "side", "main")


def test_a_shallow_checkout_that_cannot_know_the_order_says_so(setting: Setting, tmp_path: Path) -> None:
    setting.release()
    setting.change("2")
    git(tmp_path, "clone", "-q", "--depth", "1", setting.source.as_uri(), "shallow")
    setting.source = tmp_path / "shallow"
    with pytest.raises(SettingsError, match=r"history ends before commit .* fetch all of it .*fetch-depth: 0"):
        setting.release()


def test_ten_at_once_end_in_the_order_of_commits_and_none_is_lost(setting: Setting) -> None:
    commits = [setting.change(str(number)) for number in range(10)]
    made = [setting.make(commit) for commit in commits]
    ended: dict[str, Verdict | Exception] = {}
    all_there = threading.Barrier(10)

    def one(release: Unbuilt) -> None:
        ship = release._ship

        def together(*_: object) -> object:
            all_there.wait(60)
            return ship()

        object.__setattr__(release, "_ship", together)
        try:
            ended[release.source.commit] = release.run()
        except Exception as error:
            ended[release.source.commit] = error

    threads = [threading.Thread(target=one, args=(release,)) for release in reversed(made)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print([repr(ended[c])[:300] for c in commits])
    assert [getattr(ended[commit], "outcome", ended[commit]) for commit in commits] == ["released"] * 10
    assert log(setting.config, "%(trailers:key=Source-Commit,valueonly)")[::-1][-10:] != []
    deployed = [line for line in log(setting.config, "%(trailers:key=Source-Commit,valueonly)") if line]
    assert deployed[::-1] == commits


def test_a_release_that_was_killed_is_not_waited_for(setting: Setting, tmp_path: Path) -> None:
    first = git(setting.source, "rev-parse", "HEAD")
    program = (
        "import sys, time; from pathlib import Path; from pipeline.turns import take_turn; "
        "from pipeline.source import Source; from pipeline.settings import read_settings; "
        f"settings = read_settings(None, {{'FLOPS_CONFIG_REPOSITORY': {str(setting.config)!r}}}); "
        f"turn = take_turn(settings, 'dev', Source.open(Path({str(setting.source)!r}), {first!r})); "
        "turn.__enter__(); print('here', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True
    ) as other:
        assert other.stdout.readline() == "here\n"
        setting.change("2")
        done: list[Verdict] = []
        waiting = threading.Thread(target=lambda: done.append(setting.release()))
        waiting.start()
        end = time.monotonic() + 30
        while not any("waiting for the release of the older commit" in line for line in setting.said):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert not done
        other.send_signal(signal.SIGKILL)
        waiting.join(30)
    assert done[0].outcome == "released"
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


def test_a_dry_run_shows_the_commit_and_makes_none(setting: Setting) -> None:
    verdict = setting.make().plan()
    assert verdict.outcome == "planned"
    assert f"-              image: {SERVER}:none  # set by flops release\n" in verdict.diff
    assert (
        f"+              image: {SERVER}:{verdict.record.release}@sha256:known-after-the-build  # set" in verdict.diff
    )
    assert "+++ b/dev/release.json" in verdict.diff
    assert log(setting.config) == ["first"]
    setting.release()
    assert setting.make().plan().outcome == "unchanged"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"dev/cronjob.yaml": "a: [\n"}, r"dev/cronjob\.yaml, line 2: is not YAML"),
        ({"dev/cronjob.yaml": MANIFEST.replace("- name: global-server", "- name: x")}, "has no container named"),
        ({"dev/cronjob.yaml": f"{MANIFEST}---\n{MANIFEST}"}, "has 2 containers named"),
        (
            {"dev/cronjob.yaml": MANIFEST.replace("flops/server", "other/server")},
            "runs harbor.example.org/other/server",
        ),
        ({"dev/release.json": "{"}, r"dev/release\.json: is not JSON"),
        ({"dev/release.json": '{"schema": 9}'}, r"dev/release\.json: schema 9 is not known here"),
        ({"dev/release.json": '{"schema": 1}'}, r"dev/release\.json: release: None: a text is needed"),
    ],
)
def test_a_config_repository_that_cannot_be_changed_is_left_as_it_was(
    setting: Setting, files: dict[str, str], message: str
) -> None:
    head = add_commit(setting.config, files, "odd")
    with pytest.raises(SettingsError, match=message):
        setting.release()
    assert git(setting.config, "rev-parse", "main") == head


def test_a_config_repository_without_the_environment(
    tmp_path: Path, setting: Setting, settings_for: Callable[..., Settings]
) -> None:
    setting.settings = settings_for(make_bare(tmp_path / "bare.git", {"README.md": ""}))
    with pytest.raises(SettingsError, match=r"has no dev/cronjob\.yaml; 'flops init-config' fills an empty one"):
        setting.release()


class TestMoves:
    @pytest.fixture
    def three(self, setting: Setting) -> list[str]:
        names = []
        for number in range(3):
            setting.change(str(number))
            names.append(setting.release().record.release)
        return names

    def back(self, setting: Setting, to: str | None = None) -> object:
        return rollback(setting.settings, "dev", to, "rounds fail", "tester", setting.said.append)

    def test_a_rollback_brings_the_one_before_back_and_holds(self, setting: Setting, three: list[str]) -> None:
        manifest = show(setting.config, "dev/cronjob.yaml", "main~")
        record = show(setting.config, "dev/release.json", "main~")
        move = self.back(setting)
        assert (move.record.release, move.before) == (three[1], three[2])
        assert show(setting.config, "dev/cronjob.yaml") == manifest
        assert show(setting.config, "dev/release.json") == record
        hold = json.loads(show(setting.config, "dev/hold.json"))
        assert (hold["reason"], hold["by"], hold["left"]) == ("rounds fail", "tester", three[2])
        assert len(log(setting.config)) == 5

    def test_a_release_respects_the_hold_until_it_is_lifted(self, setting: Setting, three: list[str]) -> None:
        self.back(setting)
        setting.change("new")
        head = git(setting.config, "rev-parse", "main")
        verdict = setting.release()
        assert (verdict.outcome, git(setting.config, "rev-parse", "main")) == ("held", head)
        assert "rounds fail; 'flops resume dev' lets releases go on" in verdict.line
        assert resume(setting.settings, "dev", "tester", print).outcome == "moved"
        assert resume(setting.settings, "dev", "tester", print).outcome == "unchanged"
        assert setting.release().outcome == "released"
        assert setting.record()["previous"] == three[1]

    def test_a_hold_that_comes_while_images_are_built_is_respected(self, setting: Setting, three: list[str]) -> None:
        setting.change("new")
        release = setting.make()
        ship = release._ship
        object.__setattr__(release, "_ship", lambda *_: (self.back(setting), ship())[1])
        assert release.run().outcome == "held"
        assert setting.record()["release"] == three[1]

    def test_two_rollbacks_go_back_twice_and_any_can_be_named(self, setting: Setting, three: list[str]) -> None:
        self.back(setting)
        assert self.back(setting).record.release == three[0]
        assert self.back(setting, three[2]).record.release == three[2]
        commit = setting.record()["commit"]
        assert self.back(setting, three[1]).record.release == three[1]
        assert self.back(setting, commit[:10]).record.release == three[2]

    @pytest.mark.parametrize(
        ("to", "message"),
        [
            ("2020-01-01-00-00-00", "never ran a release '2020-01-01-00-00-00'; the newest are "),
            ("abc", "never ran a release 'abc'"),
        ],
    )
    def test_a_release_that_never_was(self, setting: Setting, three: list[str], to: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            self.back(setting, to)

    def test_there_is_nothing_to_go_back_to(self, setting: Setting) -> None:
        with pytest.raises(SettingsError, match="dev has no release yet"):
            self.back(setting)
        name = setting.release().record.release
        with pytest.raises(SettingsError, match=f"dev runs its first release, {name}; there is none before it"):
            self.back(setting)
        with pytest.raises(SettingsError, match=f"dev runs release {name} already"):
            self.back(setting, name)

    @pytest.fixture
    def prod(self, setting: Setting) -> None:
        add_commit(setting.config, {"prod/cronjob.yaml": MANIFEST}, "prod")

    def on(self, setting: Setting, check: Callable[..., None] = lambda *_: None) -> object:
        return promote(setting.settings, "dev", "prod", "tester", setting.said.append, check)

    @pytest.mark.usefixtures("prod")
    def test_a_promotion_takes_the_exact_digests(self, setting: Setting, three: list[str]) -> None:
        move = self.on(setting)
        assert show(setting.config, "prod/cronjob.yaml") == show(setting.config, "dev/cronjob.yaml")
        dev, prod = setting.record("dev"), setting.record("prod")
        assert prod["images"] == dev["images"]
        assert (prod["previous"], prod["promoted_from"]) == ("", "dev")
        assert move.record.release == three[2]
        assert self.on(setting).outcome == "unchanged"

    @pytest.mark.usefixtures("prod")
    def test_a_promotion_never_goes_back_and_respects_the_hold(self, setting: Setting, three: list[str]) -> None:
        self.on(setting)
        self.back(setting)
        with pytest.raises(
            SettingsError, match=r"prod runs release .* newer than dev's .*; to go back, say 'flops roll"
        ):
            self.on(setting)
        resume(setting.settings, "dev", "tester", print)
        setting.change("4")
        setting.release()
        add_commit(setting.config, {"prod/hold.json": show(setting.config, "dev/hold.json", "main~2")}, "hold")
        with pytest.raises(SettingsError, match=r"prod is held by tester since .*: rounds fail; lift it with"):
            self.on(setting)

    @pytest.mark.usefixtures("prod")
    def test_what_is_asked_before_a_promotion_may_refuse_it(self, setting: Setting, three: list[str]) -> None:
        def refuse(*_: object) -> None:
            raise FlopsError("not enough rounds")

        head = git(setting.config, "rev-parse", "main")
        with pytest.raises(FlopsError, match="not enough rounds"):
            self.on(setting, refuse)
        assert git(setting.config, "rev-parse", "main") == head

    def test_environments_that_are_not_there(self, setting: Setting, three: list[str]) -> None:
        with pytest.raises(SettingsError, match=r"the config repository has no prod/cronjob\.yaml"):
            self.on(setting)
        with pytest.raises(SettingsError, match="the config repository has no stage/cronjob"):
            resume(setting.settings, "stage", "tester", print)
        with pytest.raises(SettingsError, match="are the same environment"):
            promote(setting.settings, "dev", "dev", "tester", print, lambda *_: None)
