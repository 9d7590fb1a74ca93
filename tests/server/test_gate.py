"""The gate: whether a candidate may become the champion, from what hospitals measured of both."""

import pytest

from fl.protocol import CHAMPION
from fl.training import Evaluation
from server.gate import Gate, Opponent, judge
from server.job import Progress
from server.recording import Recorder
from server.records import RoundRecord, pool_evaluations
from server.registry import AliasMoved, Registry
from server.settings import read_federation

CHAMPIONS = Opponent(version=3, hospitals=2)


def measured(**values):
    """Evaluations by hospital: accuracy, or accuracy and examples, of each."""
    pairs = {name: value if isinstance(value, tuple) else (value, 10) for name, value in values.items()}
    return {name: Evaluation(n, 1 - accuracy, {"accuracy": accuracy}) for name, (accuracy, n) in pairs.items()}


def record(sites, champion=None):
    return RoundRecord(1, {"a": 0.1}, pool_evaluations(sites.values()), sites, 1.0, 1.0, {"a": 10}, champion or {})


@pytest.mark.parametrize(
    ("gate", "sites", "champion", "said"),
    [
        (Gate("accuracy"), {"a": 0.9, "b": 0.8}, {"a": 0.9, "b": 0.8}, ""),
        (
            Gate("accuracy"),
            {"a": 0.9, "b": 0.8},
            {"a": 0.9, "b": 0.9},
            "accuracy 0.8500 against 0.9000 of the champion",
        ),
        (Gate("accuracy", gain=-0.05), {"a": 0.9, "b": 0.8}, {"a": 0.9, "b": 0.9}, ""),
        (Gate("accuracy", gain=-0.04), {"a": 0.9, "b": 0.8}, {"a": 0.9, "b": 0.9}, "may be worse by at most 0.04"),
        (Gate("accuracy", gain=0.1), {"a": 0.9, "b": 0.9}, {"a": 0.8, "b": 0.8}, ""),
        (Gate("accuracy", gain=0.1), {"a": 0.9, "b": 0.8}, {"a": 0.8, "b": 0.8}, "must be better by 0.1"),
        (
            Gate("accuracy", hospital_loss=0.1),
            {"a": 0.9, "b": 0.7},
            {"a": 0.5, "b": 0.9},
            "at b accuracy 0.7000 against",
        ),
        (Gate("accuracy", hospital_loss=0.2), {"a": 0.9, "b": 0.7}, {"a": 0.5, "b": 0.9}, ""),
        (Gate("accuracy", least=0.9), {"a": 0.9, "b": 0.8}, {"a": 0.1, "b": 0.1}, "accuracy 0.8500 is below 0.9"),
        (Gate("loss", lower=True), {"a": 0.9, "b": 0.8}, {"a": 0.9, "b": 0.9}, "loss 0.1500 against 0.1000"),
        (Gate("loss", lower=True), {"a": 0.9, "b": 0.9}, {"a": 0.9, "b": 0.8}, ""),
        (Gate("loss", lower=True, least=0.1), {"a": 0.9, "b": 0.8}, {"a": 0.1, "b": 0.1}, "loss 0.1500 is above 0.1"),
        (Gate("accuracy"), {"a": (0.8, 90), "b": (0.9, 10)}, {"a": (0.7, 90), "b": (1.0, 10)}, ""),
        (
            Gate("accuracy"),
            {"a": 0.9, "b": 0.9},
            {"a": 0.1},
            "1 hospital compared it with the champion (version 3), which 2",
        ),
        (Gate("accuracy", fewer=True), {"a": 0.9, "b": 0.9}, {"a": 0.1}, ""),
        (Gate("accuracy", hospitals=2, fewer=True), {"a": 0.9, "b": 0.9}, {"a": 0.1}, "2 are needed"),
        (Gate("accuracy", hospitals=3), {"a": 0.9, "b": 0.9}, {}, "2 hospitals measured it, 3 are needed"),
        (Gate("accuracy"), {"a": (0.9, 0), "b": (0.9, 0)}, {}, "no hospital measured accuracy"),
        (Gate("accuracy"), {"a": 0.9, "b": 0.9}, {"a": (0.1, 5), "b": 0.1}, "1 hospital compared it"),
    ],
)
def test_the_rule(gate, sites, champion, said):
    verdict = judge(gate, record(measured(**sites), measured(**champion)), CHAMPIONS)
    assert said in verdict.reason
    assert verdict.passed == (not said)
    assert verdict.reason == "" or verdict.reason.endswith("; it does not become the champion")


def test_a_first_version_is_judged_by_itself():
    assert judge(Gate("accuracy", least=0.8), record(measured(a=0.9)), Opponent()).passed
    assert not judge(Gate("accuracy", least=0.95), record(measured(a=0.9)), Opponent()).passed


def test_without_a_comparison_the_gate_stays_closed():
    seen = record(measured(a=0.9, b=0.9))
    assert "the job ended before it was compared" in judge(Gate("accuracy"), seen, CHAMPIONS, complete=False).reason
    gone = judge(Gate("accuracy"), seen, Opponent(3, 2, "it cannot be loaded"))
    assert "the champion (version 3) cannot be compared with: it cannot be loaded" in gone.reason
    assert (
        "the champion cannot be compared with: away" in judge(Gate("accuracy"), seen, Opponent(problem="away")).reason
    )


def test_the_verdict_tells_both_by_hospital():
    told = judge(Gate("accuracy"), record(measured(a=0.9, b=0.7), measured(a=0.8, b=0.8)), CHAMPIONS).as_dict()
    assert told["hospitals"] == {
        "a": {"candidate": 0.9, "champion": 0.8},
        "b": {"candidate": 0.7, "champion": 0.8},
    }
    assert (told["passed"], told["champion"]) == (True, 3)
    assert (told["candidate_value"], told["champion_value"]) == pytest.approx((0.8, 0.8))


@pytest.fixture
def job(here):
    """Records a version of digits that two hospitals measured; as a job of a release would, with this gate."""
    (here / "federation.toml").write_text('task = "digits"\n[gate]\nmetric = "accuracy"\n')

    def made(accuracy, champion=None, between=lambda: None, hospitals=("a", "b")):
        recorder = Recorder(read_federation(here / "federation.toml"))
        parent, state = recorder.parent()
        served = recorder.champion()
        sites = measured(**dict.fromkeys(hospitals, accuracy))
        compared = {} if served is None else measured(**dict.fromkeys(hospitals, champion))
        between()
        return recorder.record(Progress([record(sites, compared)], state=state), parent, lambda: 5.0)

    return made


def champion():
    found = Registry().aliased("flops-digits", CHAMPION)
    return None if found is None else found.version


def test_a_worse_candidate_stays_and_says_why(job, flops):
    assert job(0.9)[1:] == (True, "")
    made, moved, reason = job(0.8, champion=0.9)
    assert (made.version, moved, champion()) == (2, False, 1)
    assert reason.startswith("gate: accuracy 0.8000 against 0.9000 of the champion (version 1), and may not be worse")
    assert job(0.95, champion=0.9)[1:] == (True, "")
    assert champion() == 3

    listed = flops("models", "--json").json["versions"]
    assert [version["tags"]["gate"] for version in listed] == ["passed", reason, "passed"]
    shown = flops("models", "show", "2").out
    assert "accuracy at" in shown
    assert "version 1, the champion then" in shown
    assert "all of them" in shown
    (told,) = [one for one in flops("models", "show", "2", "--json").json["history"] if one["model"].endswith(" 2")]
    assert told["gate"]["hospitals"]["a"] == {"candidate": 0.8, "champion": 0.9}


def test_fewer_hospitals_than_the_champion_had_do_not_decide(job):
    job(0.9)
    assert "which 2 had measured" in job(0.99, champion=0.9, hospitals=("a",))[2]
    assert champion() == 1


def test_who_moves_the_champion_first_wins(job):
    job(0.9)
    job(0.8, champion=0.9)

    def other():
        registry = Registry()
        registry.move_alias(registry.find("flops-digits", 2), CHAMPION, 1)

    made, moved, reason = job(0.95, champion=0.9, between=other)
    assert (made.version, moved, champion()) == (3, False, 2)
    assert "the alias champion was moved by somebody else meanwhile and names version 2" in reason
    assert Registry().find("flops-digits", 3).tags["gate"] == reason


def test_a_champion_that_cannot_be_loaded_is_no_obstacle_to_rounds(job, here):
    job(0.9)
    (here / "flops-registry" / "artifacts").rename(here / "elsewhere")
    recorder = Recorder(read_federation(here / "federation.toml"))
    assert recorder.champion() is None
    assert "cannot be loaded" in recorder._opponent.problem


def test_an_alias_that_is_moved_in_the_same_moment_on_a_server_is_noticed(job, monkeypatch):
    job(0.9)
    job(0.95, champion=0.9)
    registry = Registry()
    registry._database = None  # As a server, which has no lock of a file.
    one, two = (registry.find("flops-digits", number) for number in (1, 2))
    moving = registry._client.set_registered_model_alias

    def both(name, alias, version):
        moving(name, alias, version)
        moving(name, alias, "1")

    monkeypatch.setattr(registry._client, "set_registered_model_alias", both)
    registry.move_alias(one, CHAMPION, 2)
    with pytest.raises(AliasMoved, match="names version 1"):
        registry.move_alias(two, CHAMPION, 1)
