"""How a job's end is said."""

import json

import pytest

from server.outcome import FAILED, MISCONFIGURED, REGISTERED, SKIPPED, TERMINATION_LIMIT, Outcome

GOOD = Outcome(
    REGISTERED,
    model="m",
    version=4,
    parent=3,
    rounds=2,
    hospitals={"north": {"examples": 10, "rounds": 2}},
    metrics={"accuracy": 0.98},
    champion=True,
    seconds=5.21,
)


@pytest.mark.parametrize(("outcome", "code"), [(REGISTERED, 0), (SKIPPED, 0), (FAILED, 1), (MISCONFIGURED, 2)])
def test_exit_codes(outcome, code):
    assert Outcome(outcome).exit_code == code


def test_the_line_says_what_was_made():
    assert GOOD.line == "registered m version 4 (parent 3): 2 rounds, 1 hospital, accuracy 0.980, champion (5.2 s)"


def test_the_line_says_why_nothing_was_made():
    assert Outcome(SKIPPED, "1 of 2 hospitals came within 60 s: north", seconds=60).line == (
        "skipped: 1 of 2 hospitals came within 60 s: north (60.0 s)"
    )


def test_the_document_is_one_line():
    document = GOOD.as_json()

    assert "\n" not in document
    assert json.loads(document)["hospitals"] == [{"name": "north", "examples": 10, "rounds": 2}]


def test_a_termination_message_that_is_too_long_stays_json(tmp_path):
    path = tmp_path / "termination-log"
    many = {f"hospital {i}": {"examples": i, "rounds": 1} for i in range(500)}
    left = tuple({"hospital": f"h{i}", "step": "round 1", "reason": "é" * 50, "refused": False} for i in range(500))

    Outcome(FAILED, "é" * 5000, hospitals=many, left_out=left).write_termination(path)

    assert len(path.read_bytes()) <= TERMINATION_LIMIT
    found = json.loads(path.read_text())
    assert (found["outcome"], found["hospitals"], found["left_out"]) == (FAILED, 500, 500)
