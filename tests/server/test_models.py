"""Looking back on versions: lists, histories, differences."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fl.errors import FlopsError
from fl.model import ModelState
from fl.training import Evaluation
from server import lineage_form
from server.gate import Verdict
from server.job import Progress
from server.lineage import FILE, SCHEMA, Lineage, read_lineage
from server.recording import Recorder
from server.records import LeftOut, RoundRecord
from server.registry import ParentReplaced, Registry
from server.settings import read_federation

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.registry import ModelVersion
    from tests.conftest import Ended

MODEL = "flops-digits"


def record(
    folder: Path, patch: pytest.MonkeyPatch, *, number: int, hospitals: tuple[str, ...], **settings: Any
) -> ModelVersion:
    """Register a version as a job of some release does."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"task": "digits", **settings}.items()]
    (folder / "federation.toml").write_text("\n".join(lines) + "\n")
    patch.setenv("FLOPS_COMMIT", f"{number}" * 40)
    patch.setenv("FLOPS_IMAGE", f"harbor.example.org/flops/server:2026-01-0{number}-00-00-00@sha256:{number:064d}")
    patch.setenv("FLOPS_CONFIG_COMMIT", "c" * 40)
    recorder = Recorder(read_federation(folder / "federation.toml"))
    parent, state = recorder.parent()
    moved = {name: array + np.float32(0.5) for name, array in state.arrays.items()}
    state = replace(state, arrays=moved)
    assert isinstance(state, ModelState)
    evaluation = Evaluation(10, 0.1 * number, {"accuracy": 0.9})
    done = RoundRecord(
        1, dict.fromkeys(hospitals, 0.1), evaluation, dict.fromkeys(hospitals, evaluation), 1.0, 1.0,
        dict.fromkeys(hospitals, 10),
    )  # fmt: skip
    progress = Progress([done], [LeftOut("late", "round 1", "did not answer within 30 s")], state=state)
    return recorder.record(progress, parent, lambda: 5.0)[0]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry of three versions, of three releases."""
    folder = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        record(folder, patch, number=1, hospitals=("a", "b"))
        record(folder, patch, number=2, hospitals=("a", "b"))
        record(folder, patch, number=3, hospitals=("b", "d"), rounds=2)
    return folder


@pytest.fixture
def three(here: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in that folder, and only look."""
    monkeypatch.chdir(kept)


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions that a test may change."""
    record(here, monkeypatch, number=1, hospitals=("a", "b"))
    record(here, monkeypatch, number=2, hospitals=("a", "b"))


@pytest.mark.usefixtures("three")
class TestCommands:
    def test_versions_are_listed_newest_first(self, flops: Callable[..., Ended]) -> None:
        told = flops("models", "--json").json
        assert told["model"] == MODEL
        assert [(row["version"], row["champion"]) for row in told["versions"]] == [(3, True), (2, False), (1, False)]
        tags = told["versions"][0]["tags"]
        assert (tags["parent"], tags["release"], tags["config_commit"]) == ("2", "2026-01-03-00-00-00", "c" * 40)
        assert tags["metrics"] == "loss 0.3000, accuracy 0.9000"
        assert tags["contributions"].startswith("b: 10 examples, client ")
        assert tags["left_out"] == "late: left out of round 1: did not answer within 30 s"
        assert float(tags["seconds"]) > 0
        shown = flops("models", "--limit", "1").out
        assert "champion" in shown
        assert "2026-01-03-00-00-00" in shown
        assert "2026-01-02-00-00-00" not in shown

    def test_what_a_release_made_is_found(self, flops: Callable[..., Ended]) -> None:
        for words in (("--commit", "2222"), ("--digest", f"{2:064d}"), ("--digest", f"sha256:{2:064d}")):
            assert [row["version"] for row in flops("models", *words, "--json").json["versions"]] == [2]
        assert flops("models", "--commit", "9").out == f"{MODEL}: no version that it made\n"

    def test_a_history_goes_to_the_root(self, flops: Callable[..., Ended]) -> None:
        told = flops("models", "show", "champion", "--json").json["history"]
        assert [(one["model"], one["parent"]) for one in told] == [
            (f"{MODEL} version 3", 2),
            (f"{MODEL} version 2", 1),
            (f"{MODEL} version 1", 0),
        ]
        first = told[0]
        assert first["hospitals"]["b"]["metrics"] == {"loss": 0.3, "accuracy": 0.9}
        assert first["left_out"][0]["hospital"] == "late"
        assert (first["image"], first["protocol"], first["schema"]) == (f"sha256:{3:064d}", 1, SCHEMA)
        assert first["settings"]["rounds"] == "2"
        shown = flops("models", "show", "3").out
        assert "late: left out of round 1: did not answer within 30 s" in shown
        assert f"from {MODEL} version 2: release 2026-01-02-00-00-00, 1 rounds" in shown
        assert shown.endswith("from the task's first weights\n")

    def test_two_versions_are_compared(self, flops: Callable[..., Ended]) -> None:
        told = flops("models", "diff", "2", "3", "--json").json
        assert told["settings"]["rounds"] == ["1", "2"]
        assert told["release"]["release"] == ["2026-01-02-00-00-00", "2026-01-03-00-00-00"]
        assert told["hospitals"] == {"a": "left", "d": "joined"}
        assert told["metrics"]["loss"] == [0.2, 0.3]
        assert told["by_hospital"] == {"b": {"accuracy": [0.9, 0.9], "loss": [0.2, 0.3]}}
        count = sum(array.size for array in Registry().load(Registry().find(MODEL, 3))[1].arrays.values())
        assert told["distance"] == pytest.approx(0.5 * count**0.5, rel=1e-3)
        shown = flops("models", "diff", "2", "3").out
        assert "joined" in shown
        assert "apart" in shown
        assert flops("models", "diff", "2", "2").out.endswith("weights: 0 apart, 0.00% of version 2's norm\n")

    def test_what_is_not_there_is_named(self, flops: Callable[..., Ended]) -> None:
        for words, told in (
            (("models", "show", "9"), "model flops-digits has no version 9; the newest is 3"),
            (("models", "diff", "1", "9"), "model flops-digits has no version 9"),
            (("models", "rollback", "--to", "9", "--reason", "x"), "model flops-digits has no version 9"),
            (("models", "show", "newest"), "has no version or alias 'newest'"),
            (("models", "--model", "none"), "the registry has no model 'none'; it has flops-digits"),
            (("models", "nothing"), "unknown command 'nothing'"),
        ):
            ended = flops(*words)
            assert ended.code == 2
            assert told in ended.line


@pytest.mark.usefixtures("own")
def test_a_rollback_restores_marks_and_is_trained_on_from(
    flops: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = flops("models", "rollback", "--to", "1", "--reason", "wrong  labels", "--json").json
    assert told == {"model": MODEL, "champion": 1, "taken_back": [2]}
    assert "taken back" in flops("models").out
    registry = Registry()
    assert registry.find(MODEL, 2).tags["abandoned"] == "wrong labels"
    assert registry.latest(MODEL) == registry.find(MODEL, 1)
    made = record(here, monkeypatch, number=3, hospitals=("a",))
    assert (made.version, made.tags["parent"]) == (3, "1")
    rows = flops("models", "--json").json["versions"]
    assert [row["version"] for row in rows if row["champion"]] == [3]
    again = flops("models", "rollback", "--reason", "again")
    assert again.out.startswith(f"{MODEL}: version 1 is the champion, and the next job goes on from it")
    ended = flops("models", "rollback", "--to", "2", "--reason", "x")
    assert (ended.code, "version 2 was taken back itself: wrong labels" in ended.line) == (2, True)
    ended = flops("models", "rollback", "--reason", "x")
    assert (ended.code, "has no version before 1 to go back to" in ended.line) == (2, True)
    assert "\ntaken back: wrong labels\n" in flops("models", "show", "2").out
    assert flops("models", "show", "2", "--json").json["taken_back"] == "wrong labels"
    assert flops("models", "show", "1", "--json").json["taken_back"] is None
    assert flops("models", "rollback", "--reason", " ").code == 2


@pytest.mark.usefixtures("own")
def test_nothing_is_taken_back_for_a_version_that_cannot_be_served(flops: Callable[..., Ended], here: Path) -> None:
    registry = Registry()
    stored = Path(registry.find(MODEL, 1).source.removeprefix("file://"))
    (weights,) = (stored / "data").rglob("*.safetensors")
    weights.write_bytes(b"damaged")
    ended = flops("models", "rollback", "--to", "1", "--reason", "wrong labels")
    assert ended.code == 1
    assert [row["champion"] for row in flops("models", "--json").json["versions"]] == [True, False]
    assert not registry.find(MODEL, 2).abandoned


@pytest.mark.usefixtures("own")
def test_a_job_that_is_under_way_registers_nothing_after_a_rollback(
    flops: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(read_federation(here / "federation.toml"))
    parent, state = recorder.parent()
    flops("models", "rollback", "--to", "1", "--reason", "bad")
    evaluation = Evaluation(10, 0.1, {"accuracy": 0.9})
    done = RoundRecord(1, {"a": 0.1}, evaluation, {"a": evaluation}, 1.0, 1.0, {"a": 10})
    with pytest.raises(ParentReplaced):
        recorder.record(Progress([done], state=state), parent, lambda: 5.0)
    assert flops("models", "--json").json["versions"][0]["version"] == 2


def test_several_models_want_a_name(here: Path, monkeypatch: pytest.MonkeyPatch, flops: Callable[..., Ended]) -> None:
    record(here, monkeypatch, number=1, hospitals=("a",))
    record(here, monkeypatch, number=2, hospitals=("a",), model="other")
    assert flops("models").line == "the registry has several models: flops-digits, other; name one: --model"
    assert flops("models", "--model", "other", "show", "1", "--json").json["model"] == "other"


def test_no_registry_is_made_by_looking(here: Path, flops: Callable[..., Ended]) -> None:
    ended = flops("models")
    assert ended.code == 2
    assert "there is no model registry at" in ended.line
    assert list(here.iterdir()) == []


def test_a_version_without_lineage_is_told_by_its_tags(here: Path, flops: Callable[..., Ended]) -> None:
    from fl.model import initial_state
    from fl.tasks import find_task

    registry, task = Registry(), find_task("digits")
    with registry.run("test", {}) as log:
        tags = {"parent": "7", "rounds": "4", "commit": "e" * 40}
        made = registry.register(log, MODEL, task, initial_state(task, 0), tags)
    assert registry.text(made, FILE) is None
    shown = flops("models", "show", "1").out
    assert "e" * 40 in shown
    assert shown.endswith("from version 7, which is gone\n")


DAMAGED = '{"schema": 1, "model": "m", "task": "t", "signature": "s", "digest": "d", %s}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read: no JSON object"),
        ('{"schema": 99}', "is of schema 99, this release knows 1: upgrade it"),
        ('{"schema": 1}', "cannot be read"),
        (DAMAGED % '"parent": "1"', "cannot be read: parent: Input should be a valid integer"),
        (DAMAGED % '"rounds": true', "cannot be read: rounds: "),
        (DAMAGED % '"hospitals": []', "cannot be read: hospitals: "),
        (DAMAGED % '"hospitals": {"a": 1}', "cannot be read: hospitals.a: "),
        (DAMAGED % '"hospitals": {"a": {"metrics": [1]}}', "cannot be read: hospitals.a.metrics: "),
        (DAMAGED % '"left_out": ["a"]', "cannot be read: left_out.0: "),
        (DAMAGED % '"metrics": {"loss": "x"}', "cannot be read: metrics.loss: "),
        (DAMAGED % '"gate": {"hospitals": {"a": {"candidate": 1}}}', "cannot be read: gate.hospitals.a.champion: "),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_lineage_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(FlopsError, match=told):
        read_lineage(text, "version 3")


def test_a_lineage_comes_back_as_it_was() -> None:
    gate = Verdict("worse", "accuracy", 1, 0.5, None, {"a": {"candidate": 0.5, "champion": math.nan}}).as_dict()
    left = [{"hospital": "b", "step": "round 1", "reason": "late", "refused": False}]
    made = Lineage(
        "m", "digits", "s", "d", 3, metrics={"loss": 0.1}, hospitals={"a": {"examples": 3}}, left_out=left, gate=gate,
        settings={"rounds": "1"}, seconds=3.5,
    )  # fmt: skip
    assert read_lineage(made.as_json(), "here").as_json() == made.as_json()
    more = json.dumps(json.loads(made.as_json()) | {"to come": 1})
    assert read_lineage(more, "here").as_json() == made.as_json()


def test_the_lineages_form_is_published() -> None:
    published = json.loads((Path(__file__).parents[2] / "docs" / "lineage.schema.json").read_text())
    assert published == lineage_form.json_schema()
