"""The small parts of the loop: its folder, what jobs say, what is watched."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fl.data.dataset import Dataset
from fl.data.dealing import deal_examples
from fl.data.partition import parse_partition
from fl.errors import FlopsError, SettingsError
from pipeline.loop.ending import end
from pipeline.loop.hospitals import Hospitals, allowed
from pipeline.loop.loop import Loop, Wishes
from pipeline.loop.manifests import build
from pipeline.loop.pods import Pod
from pipeline.loop.rounds import ended, is_made, line, release_of
from pipeline.loop.secrets import read_secrets
from pipeline.loop.state import State
from pipeline.loop.troubles import Troubles
from pipeline.loop.watch import Watch
from pipeline.yaml_text import ManifestError
from tests.pipeline.loop.environments import CRON_JOB, FILES, IMAGE, write
from tests.pipeline.repositories import add_commit, git, make_bare

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.settings import Settings

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
POD = Pod(
    id="1",
    name="pod",
    role="job",
    owner="global-server",
    plan="p",
    due=NOON,
    attempt=1,
    commit="c",
    image=IMAGE,
    running=False,
    exit_code=0,
    started=NOON,
    finished=NOON + timedelta(seconds=5),
)


class TestState:
    def test_a_folder_that_is_something_elses_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        tmp_path.chmod(0o755)
        with pytest.raises(SettingsError, match=r"holds thesis\.txt, and is the folder of no loop"):
            State(tmp_path).make()
        with pytest.raises(SettingsError, match="nothing in it is removed"):
            end(State(tmp_path), purge=True)
        assert (tmp_path / "thesis.txt").exists()
        assert tmp_path.stat().st_mode & 0o777 == 0o755

    def test_two_loops_are_never_one(self, tmp_path: Path) -> None:
        states = [State(tmp_path / name) for name in ("one", "two")]
        for state in states:
            state.make()
        assert len({state.loop for state in states}) == 2
        before = states[0].loop
        states[0].make()
        assert states[0].loop == before

    def test_a_start_on_a_full_disk_does_not_spoil_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, *_: object, **__: object) -> None:
            path.touch()
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            with pytest.raises(SettingsError, match="cannot be written: No space left on device"):
                State(tmp_path).make()
        State(tmp_path).make()
        assert State(tmp_path).loop
        (tmp_path / "file").touch()
        with pytest.raises(SettingsError, match="file: is no folder"):
            State(tmp_path / "file").make()

    def test_a_status_that_could_not_be_renewed_says_of_when_it_is(
        self, tmp_path: Path, flops: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_REGISTRY", "harbor.example.org")
        monkeypatch.setenv("IMAGE_REPO", "flops")
        monkeypatch.setenv("FLOPS_CONFIG_REPOSITORY", "config.git")
        state = State(tmp_path / "state")
        state.make()
        now = datetime.now(UTC)
        status = {"environment": "dev", "config_commit": "abc", "written": now.isoformat()}
        state.write_status(status)
        with state.held():
            ended = flops("up", "--status", "--state", state.folder)
            assert (ended.code, "as of" in ended.out) == (0, False), ended.err
            written = now - timedelta(seconds=90)
            state.write_status({**status, "written": written.isoformat()})
            said = flops("up", "--status", "--state", state.folder).out
        assert f"as of:    {written.astimezone():%H:%M:%S}; nothing newer" in said

    def test_an_idle_loop_says_every_ten_seconds_that_it_lives(self, tmp_path: Path) -> None:
        state = State(tmp_path)
        state.make()
        runner: Any = SimpleNamespace(pulls=SimpleNamespace(problems=list), rounds=[])
        watch: Any = SimpleNamespace(problem="")
        supplies: Any = SimpleNamespace(tracking="")
        loop = Loop(Wishes("dev"), state, print, watch, supplies, runner, Troubles(print))
        written = []
        for seconds in (0, 9, 10, 15):
            loop._write_status((), NOON + timedelta(seconds=seconds))
            written.append(state.status()["written"][-8:-6])
        assert written == ["00", "00", "10", "10"]
        watch.problem = "the config repository is away"
        loop._write_status((), NOON + timedelta(seconds=16))
        found = state.status()
        assert (found["problems"], found["written"][-8:-6]) == ([watch.problem], "16")

    def test_what_the_user_put_there_stays(self, tmp_path: Path) -> None:
        secret = tmp_path / "secrets" / "words"
        secret.mkdir(parents=True)
        (secret / "WORD").write_text("open")
        state = State(tmp_path)
        state.make()
        (tmp_path / "tracking").mkdir()
        state.remove()
        assert [path.name for path in tmp_path.iterdir()] == ["secrets"]
        assert read_secrets(tmp_path) == {"words": {"WORD": "open"}}

    def test_one_works_there_at_a_time(self, tmp_path: Path) -> None:
        state = State(tmp_path)
        state.make()
        with state.held():
            assert state.owner() == os.getpid()
            with pytest.raises(FlopsError, match=rf"process {os.getpid()}\) works with"), state.held():
                pass
        assert state.owner() is None


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "words",
        "[1]",
        '{"version": 1, "metrics": null}',
        '{"version": "x", "hospitals": 3, "metrics": {"a": "b", "c": 1}}',
        '{"outcome": null, "rounds": "many", "champion": "yes"}',
    ],
)
def test_whatever_a_job_prints_is_told(printed: str) -> None:
    for pod in (POD, replace(POD, exit_code=1)):
        assert line(ended(pod, printed, "last words", deadline=False)).endswith("(5.0 s)")
    assert "last words" in line(ended(replace(POD, exit_code=1), printed, "last words", deadline=False))


def test_releases_are_told_by_tag() -> None:
    assert (release_of(IMAGE), is_made(IMAGE)) == ("2026-01-31-14-05-09", True)
    assert is_made("harbor.example.org/flops/server:none") is False
    assert release_of(f"redis@{IMAGE.partition('@')[2]}") == "d" * 12


@pytest.mark.parametrize("count", [1, 3, 10, 25])
def test_hospitals_read_the_files_that_are_dealt(count: int) -> None:
    whole = Dataset(np.zeros((100, 1), np.float32), np.zeros(100, np.int64))
    names = list(deal_examples(whole, parse_partition("iid"), count, 0))
    hospitals = Hospitals(None, count)  # type: ignore[arg-type]
    assert [hospitals._file("digits", number) for number in range(1, count + 1)] == [f"{name}.npz" for name in names]


def test_demo_hospitals_are_let_in_beside_the_others() -> None:
    maps = {"hospitals-6ct5": {"st-mary.pub": "M"}, "federation-th86": {"federation.toml": ""}}
    found = allowed(maps, {"demo-1": "D"})
    assert found["hospitals-6ct5"] == {"st-mary.pub": "M", "demo-1.pub": "D"}
    assert found["federation-th86"] == maps["federation-th86"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cpu: 500m", 'cpu: "2 cores"', "is no number of cores"),
        ("memory: 2Gi", "memory: 512ki", "no amount of memory"),
        ("args: [round]", "args: [$(NAME)]", r"does not replace \$\(NAME\)"),
        (f"image: {IMAGE}", "image: redis:7", "has no digest; the loop runs images by digest"),
        ("activeDeadlineSeconds: 240", "activeDeadlineSeconds: 99999999999999", "activeDeadlineSeconds"),
        ("metadata.annotations['flops.io/config-commit']", "metadata.name", "fieldPath"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in CRON_JOB
    with pytest.raises(ManifestError, match=told):
        build(write(tmp_path, cronjob__yaml=CRON_JOB.replace(old, new)), "dev", "abc")


def test_numbers_are_quantities_too(tmp_path: Path) -> None:
    text = CRON_JOB.replace("memory: 2Gi, cpu: 500m", "memory: 1000000, cpu: 2")
    assert build(write(tmp_path, cronjob__yaml=text), "dev", "abc").cron_jobs


class TestWatch:
    @pytest.fixture
    def said(self) -> list[str]:
        return []

    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        return make_bare(tmp_path / "watched.git", {f"dev/{name}": text for name, text in FILES.items()})

    @pytest.fixture
    def watch(self, bare: Path, settings_for: Callable[..., Settings], tmp_path: Path, said: list[str]) -> Any:
        state = tmp_path / "state"
        state.mkdir()
        made = Watch(settings_for(bare), "dev", state, 0.05, said.append)
        yield made
        made.stop()

    @staticmethod
    def wait(what: Callable[[], Any]) -> None:
        end = time.monotonic() + 20
        while not what():
            assert time.monotonic() < end
            time.sleep(0.02)

    def test_it_follows_and_keeps_the_last_that_is_valid(self, watch: Watch, bare: Path, said: list[str]) -> None:
        watch.start()
        assert watch.seen is not None
        first = watch.seen.desired.commit
        assert first == git(bare, "rev-parse", "main")
        second = add_commit(bare, {"dev/federation.toml": "task = 1"}, "other")
        self.wait(lambda: watch.seen and watch.seen.desired.commit == second)
        add_commit(bare, {"dev/cronjob.yaml": CRON_JOB.replace("kind: CronJob", "kind: Job")}, "bad")
        self.wait(lambda: "kind 'Job' is not understood" in watch.problem)
        assert watch.seen.desired.commit == second
        bare.rename(bare.with_name("away"))
        self.wait(lambda: "repository" in watch.problem.partition(";")[0])
        bare.with_name("away").rename(bare)
        self.wait(lambda: "the config repository is read again" in said)
        assert "kind 'Job' is not understood" in watch.problem
        third = add_commit(bare, {"dev/cronjob.yaml": CRON_JOB}, "good")
        self.wait(lambda: watch.seen and watch.seen.desired.commit == third)
        self.wait(lambda: watch.problem == "")

    def test_a_link_that_leads_out_is_refused(self, watch: Watch, bare: Path, tmp_path: Path) -> None:
        watch.start()
        git(tmp_path, "clone", "-q", "-b", "main", str(bare), "clone")
        (tmp_path / "clone" / "dev" / "passwords").symlink_to("/etc/passwd")
        git(tmp_path / "clone", "add", ".")
        git(tmp_path / "clone", "commit", "-qm", "link")
        git(tmp_path / "clone", "push", "-q")
        self.wait(lambda: "a link in it leads out of it" in watch.problem)
        good = add_commit(bare, {"dev/passwords": "none"}, "good")
        self.wait(lambda: watch.seen and watch.seen.desired.commit == good)

    def test_what_fails_by_chance_is_tried_again(
        self, watch: Watch, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = subprocess.run, []

        def run(*words: Any, **options: Any) -> Any:
            if "kustomize" in words[0] and not calls:
                calls.append(words)
                raise subprocess.TimeoutExpired("kubectl", 60)
            return real(*words, **options)

        monkeypatch.setattr(subprocess, "run", run)
        watch.start()
        self.wait(lambda: watch.seen is not None)
        assert calls

    def test_what_cannot_work_is_told_at_the_start(
        self, settings_for: Callable[..., Settings], tmp_path: Path, bare: Path
    ) -> None:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret words", "-f", str(key)], check=True)
        watch = Watch(settings_for(bare, FLOPS_CONFIG_KEY=str(key)), "dev", tmp_path, 1, lambda _: None)
        with pytest.raises(SettingsError, match="has a passphrase"):
            watch.start()
        watch.stop()

    def test_a_repository_or_an_environment_that_is_not_there(
        self, settings_for: Callable[..., Settings], tmp_path: Path, bare: Path
    ) -> None:
        for place, environment, told in (
            (tmp_path / "none.git", "dev", "repository"),
            (make_bare(tmp_path / "empty.git", {}), "dev", "has no branch 'main'"),
            (bare, "test", r"test/kustomization\.yaml: is not there; the repository has dev"),
        ):
            watch = Watch(settings_for(place), environment, tmp_path, 1, lambda _: None)
            with pytest.raises(SettingsError, match=told):
                watch.start()
            watch.stop()


def test_a_problem_is_said_once_and_tried_again_later() -> None:
    said: list[str] = []
    troubles = Troubles(said.append)
    for _ in range(3):
        with troubles.about("thing"):
            raise ValueError("odd")
    assert said == ["thing: ValueError: odd (a bug)"]
    assert troubles.may("thing") is False
    assert troubles.clear("thing") is True
    assert troubles.all() == []
    with pytest.raises(OSError, match="disk"), troubles.about("thing"):
        raise OSError("disk")
