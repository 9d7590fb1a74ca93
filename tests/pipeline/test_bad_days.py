"""Releases and moves when other things happen at the same time, or somebody has been there by hand."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from typing import TYPE_CHECKING

import pytest

from fl.errors import SettingsError
from pipeline.images import write_context
from pipeline.moves import promote, resume, rollback
from pipeline.status import read_status
from tests.pipeline.repositories import MANIFEST, SERVER, add_commit, git, log, show
from tests.pipeline.sources import change

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.settings import Settings
    from tests.pipeline.unbuilt import Setting


def test_a_commit_that_takes_one_back_is_released_after_it(setting: Setting) -> None:
    """The bad one is under way when the one that takes it back has nothing to change yet."""
    setting.change("good")
    setting.release()
    bad = setting.change("bad")
    good = setting.change("good")
    slow, begun, go = setting.make(bad), threading.Event(), threading.Event()
    ship = slow._ship

    def wait(*_: object) -> object:
        begun.set()
        assert go.wait(60)
        return ship()

    object.__setattr__(slow, "_ship", wait)
    first = threading.Thread(target=slow.run)
    first.start()
    assert begun.wait(60)
    done: list[object] = []
    second = threading.Thread(target=lambda: done.append(setting.release(good)))
    second.start()
    end = time.monotonic() + 30
    while not any("waiting for the release of the older commit" in line for line in setting.said):
        assert time.monotonic() < end
        time.sleep(0.05)
    go.set()
    first.join(60)
    second.join(60)
    assert [line for line in log(setting.config, "%(trailers:key=Source-Commit,valueonly)") if line][:2] == [
        good,
        bad,
    ]


def test_a_commit_that_was_taken_back_is_not_released_later(setting: Setting) -> None:
    setting.change("good")
    setting.release()
    bad = setting.change("bad")
    setting.change("good")
    assert setting.release().outcome == "unchanged"
    verdict = setting.release(bad)
    assert verdict.outcome == "superseded"
    assert "was found to change nothing in dev; --replace releases this one nevertheless" in verdict.line
    assert setting.release(bad, replaces=True).outcome == "released"


def test_an_amended_commit_does_not_stand_in_the_way_of_the_next(setting: Setting) -> None:
    setting.change("1")
    setting.release()
    git(setting.source, "commit", "-q", "--amend", "-m", "said better")
    assert setting.release().outcome == "unchanged"
    setting.change("2")
    assert setting.release().outcome == "released"


def test_a_manifest_that_was_changed_by_hand_is_set_again(setting: Setting) -> None:
    name = setting.release().record.release
    manifest = show(setting.config, "dev/cronjob.yaml")
    other = manifest.replace(name, "2020-01-01-00-00-00")
    add_commit(setting.config, {"dev/cronjob.yaml": other, "prod/cronjob.yaml": MANIFEST}, "by hand")
    with pytest.raises(SettingsError, match=r"dev/cronjob\.yaml was changed by hand: .*; release or roll back first"):
        promote(setting.settings, "dev", "prod", "tester", print, lambda *_: None)
    assert rollback(setting.settings, "dev", name, "by hand", "tester", print).record.release == name
    assert show(setting.config, "dev/cronjob.yaml") == manifest
    resume(setting.settings, "dev", "tester", print)
    add_commit(setting.config, {"dev/cronjob.yaml": other}, "by hand")
    assert setting.release().outcome == "released"


def test_another_registry_is_another_release(setting: Setting, settings_for: Callable[..., Settings]) -> None:
    setting.release()
    manifest = show(setting.config, "dev/cronjob.yaml").replace("harbor.example.org", "new.example.org")
    add_commit(setting.config, {"dev/cronjob.yaml": manifest}, "moved")
    setting.settings = settings_for(setting.config, DOCKER_REGISTRY="new.example.org")
    assert setting.release().outcome == "released"


def test_other_wheels_are_another_release(
    setting: Setting, settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "a-1.whl").write_text("1")
    setting.settings = settings_for(setting.config, FLOPS_WHEELS=wheels)
    setting.release()
    assert setting.release().outcome == "unchanged"
    (wheels / "a-1.whl").rename(wheels / "a-2.whl")
    assert setting.release().outcome == "released"


def test_wheels_may_be_links_to_wheels(
    setting: Setting, settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    real, linked = tmp_path / "real", tmp_path / "linked"
    for folder in (real, linked):
        folder.mkdir()
    (real / "a-1.whl").write_text("1")
    (linked / "a-1.whl").symlink_to(real / "a-1.whl")
    (tmp_path / "wheels").symlink_to(linked)
    settings = settings_for(setting.config, FLOPS_WHEELS=tmp_path / "wheels")
    context = io.BytesIO()
    write_context(setting.make().source, "server", settings, context)
    context.seek(0)
    with tarfile.open(fileobj=context) as archive:
        assert archive.extractfile("wheels/a-1.whl").read() == b"1"
    setting.settings = settings
    setting.release()
    (real / "a-1.whl").unlink()
    with pytest.raises(SettingsError, match=r"build\.wheels: .*a-1\.whl: No such file or directory"):
        setting.release()


def test_what_changed_nothing_is_remembered_for_the_release_that_ran_then(setting: Setting) -> None:
    setting.change("a")
    first = setting.release().record.release
    second = setting.change("b")
    setting.release()
    change(setting.source, {"README.md": "words"}, "words")
    assert setting.release().outcome == "unchanged"
    rollback(setting.settings, "dev", None, "bad", "tester", print)
    assert setting.record()["release"] == first
    resume(setting.settings, "dev", "tester", print)
    assert setting.make(second).plan().outcome == "planned"
    assert setting.release(second).outcome == "released"


def test_a_dry_run_remembers_what_changed_nothing_too(setting: Setting) -> None:
    setting.change("a")
    setting.release()
    other = setting.change("b")
    change(setting.source, {"server/round.py": "a"}, "server: taken back")
    assert setting.release().outcome == "unchanged"
    assert setting.make(other).plan().outcome == setting.release(other).outcome == "superseded"


def test_a_promotion_over_a_hand_does_not_forget_what_was_before(setting: Setting) -> None:
    add_commit(setting.config, {"prod/cronjob.yaml": MANIFEST}, "prod")
    names = []
    for text in ("1", "2"):
        setting.change(text)
        names.append(setting.release().record.release)
        promote(setting.settings, "dev", "prod", "tester", print, lambda *_: None)
    add_commit(setting.config, {"prod/cronjob.yaml": show(setting.config, "prod/cronjob.yaml", "main~2")}, "by hand")
    promote(setting.settings, "dev", "prod", "tester", print, lambda *_: None)
    assert setting.record("prod")["previous"] == names[0]
    assert rollback(setting.settings, "prod", None, "bad", "tester", print).record.release == names[0]


def test_of_several_records_of_a_release_the_newest_counts(setting: Setting) -> None:
    add_commit(setting.config, {"prod/cronjob.yaml": MANIFEST}, "prod")

    def deploy(text: str) -> str:
        setting.change(text)
        return setting.release().record.release

    def move_on() -> None:
        promote(setting.settings, "dev", "prod", "tester", print, lambda *_: None)

    first = deploy("1")
    move_on()
    second, third = deploy("2"), deploy("3")
    move_on()  # The third, after the first.
    rollback(setting.settings, "prod", first, "bad", "tester", print)
    resume(setting.settings, "prod", "tester", print)
    rollback(setting.settings, "dev", second, "bad", "tester", print)
    move_on()
    rollback(setting.settings, "dev", third, "good", "tester", print)
    move_on()  # The third again, after the second.
    resume(setting.settings, "dev", "tester", print)
    deploy("4")
    move_on()
    for expected in (third, second):
        assert rollback(setting.settings, "prod", None, "bad", "tester", print).record.release == expected


def test_a_record_that_is_gone_is_brought_back_by_name(setting: Setting) -> None:
    name = setting.release().record.release
    setting.change("2")
    setting.release()
    add_commit(setting.config, {"dev/release.json": None}, "gone")
    with pytest.raises(SettingsError, match=r"dev/release\.json is gone, .* --to 2026"):
        rollback(setting.settings, "dev", None, "x", "tester", print)
    (found,) = read_status(setting.settings, ("dev",))
    assert found.problem.startswith("dev/release.json is gone; 'flops rollback dev --to'")
    assert rollback(setting.settings, "dev", name, "x", "tester", print).record.release == name


def test_a_manifest_that_a_hand_changed_is_brought_back_as_it_was(setting: Setting) -> None:
    name = setting.release().record.release
    add_commit(setting.config, {"dev/cronjob.yaml": MANIFEST}, "by hand")
    move = rollback(setting.settings, "dev", name, "x", "tester", print)
    assert move.line.startswith(f"dev runs release {name} again, and not what a hand had put into its manifest;")
    assert json.loads(show(setting.config, "dev/hold.json"))["left"] == ""


def test_reasons_that_no_encoding_knows_are_kept_as_far_as_they_go(setting: Setting) -> None:
    setting.release()
    setting.change("2")
    setting.release()
    rollback(setting.settings, "dev", None, "bad \udcff", "\udcff", print)
    assert json.loads(show(setting.config, "dev/hold.json"))["reason"] == "bad ?"


def test_a_schema_that_is_no_text_is_named(setting: Setting, settings_for: Callable[..., Settings]) -> None:
    add_commit(setting.config, {"dev/federation.toml": 'schema = "s.toml"\n', "dev/s.toml": b"\xff"}, "odd")
    setting.settings = settings_for(setting.config, MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"^dev/s\.toml of the config repository: is no text in UTF-8"):
        setting.release(smoke=True)


def test_what_did_not_change_is_built_again_on_demand(setting: Setting) -> None:
    setting.release()
    assert setting.release(rebuild=True).outcome == "released"


def test_a_rollback_that_meets_a_release_does_not_bring_the_bad_one_back(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("good", "bad"):
        setting.change(text)
        setting.release()
    fast = iter([True])

    def events(repo: object, environment: str) -> object:
        found = real(repo, environment)
        if next(fast, False):
            setting.change("newer")
            setting.release()
        return found

    from pipeline import moves

    real = moves.events
    monkeypatch.setattr(moves, "events", events)
    with pytest.raises(SettingsError, match=r"dev meanwhile runs release .* say which one to bring back: --to"):
        rollback(setting.settings, "dev", None, "bad", "tester", print)
    assert log(setting.config)[0].startswith("dev: release ")


@pytest.mark.parametrize(
    ("change_it", "message"),
    [
        (lambda record: record["images"].pop("server"), r"images\.server: an object is needed"),
        (lambda record: record["images"]["client"].update(image="a/b:c"), "tag and digest are needed"),
        (lambda record: record.update(commit="--help"), r"commit: '--help': a commit's whole id is needed"),
        (lambda record: record.update(release="1\n2"), r"release: '1 2': a time such as"),
        (lambda record: record.update(by="x" * 200_000), "bytes, and no such file has more than"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_and_can_be_rolled_back(
    setting: Setting, change_it: Callable[[dict[str, object]], object], message: str
) -> None:
    name = setting.release().record.release
    setting.change("2")
    setting.release()
    record = setting.record()
    change_it(record)
    add_commit(setting.config, {"dev/release.json": json.dumps(record)}, "odd")
    for what in (
        setting.release,
        lambda: rollback(setting.settings, "dev", None, "x", "tester", print),
        lambda: promote(setting.settings, "dev", "prod", "tester", print, lambda *_: None),
    ):
        with pytest.raises(SettingsError, match=message):
            what()
    assert rollback(setting.settings, "dev", name, "x", "tester", print).record.release == name


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_hold_that_cannot_be_read_holds(setting: Setting, content: str) -> None:
    setting.release()
    setting.change("2")
    add_commit(setting.config, {"dev/hold.json": content}, "hold")
    assert setting.release().outcome == "held"
    resume(setting.settings, "dev", "tester", print)
    assert setting.release().outcome == "released"


def test_a_federations_file_that_is_none_is_told_before_anything_is_built(
    setting: Setting, settings_for: Callable[..., Settings]
) -> None:
    add_commit(setting.config, {"dev/federation.toml": "task = \n"}, "odd")
    setting.settings = settings_for(setting.config, MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"dev/federation\.toml of the config repository: is not TOML: "):
        setting.release(smoke=True)


@pytest.mark.parametrize("home", ["file", "/proc/none"])
def test_a_state_folder_that_cannot_be_made(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / home))
    with pytest.raises(SettingsError, match="name another place by XDG_STATE_HOME"):
        setting.release()


def test_a_shallow_checkout_replaces_nothing_it_does_not_know(setting: Setting, tmp_path: Path) -> None:
    first = git(setting.source, "rev-parse", "HEAD")
    setting.change("2")
    setting.release()
    git(setting.source, "branch", "old", first)
    git(tmp_path, "clone", "-q", "--depth", "1", "-b", "old", setting.source.as_uri(), "shallow")
    setting.source = tmp_path / "shallow"
    with pytest.raises(SettingsError, match="history ends before commit"):
        setting.release(replaces=True)


def test_a_shallow_checkout_that_knows_both_ends_and_not_the_way_says_so(setting: Setting, tmp_path: Path) -> None:
    setting.change("2")
    setting.release()
    git(tmp_path, "clone", "-q", "--depth", "1", setting.source.as_uri(), "shallow")
    setting.change("3")
    setting.change("4")
    git(tmp_path / "shallow", "fetch", "-q", "--depth", "1")
    git(tmp_path / "shallow", "reset", "-q", "--hard", "FETCH_HEAD")
    setting.source = tmp_path / "shallow"
    with pytest.raises(SettingsError, match="history ends before commit"):
        setting.release()


def test_words_of_a_commit_that_are_no_text_do_not_break_the_record(setting: Setting) -> None:
    change(setting.source, {"server/round.py": "x"}, "long " * 200)
    setting.release()
    assert show(setting.config, "dev/cronjob.yaml").count(f"{SERVER}:") == 1
    assert git(setting.config, "log", "-1", "--format=%(trailers:key=Source-Commit,valueonly)")
