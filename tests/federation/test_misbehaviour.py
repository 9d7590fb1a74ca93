"""Hospitals that answer wrongly, by mistake or on purpose: each is left out with the reason, and nobody else is."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import numpy as np
import pytest

from tests.federation.processes import NAMES, Registry

pytestmark = [pytest.mark.xdist_group("crowd-1"), pytest.mark.federation]

TRAIN = {
    "not-numbers": "returned weights that are not finite",
    "empty": "returned an empty answer",
    "no-weights": "returned no weights",
    "large": "times as much as the others (at most 20)",
    "shapes": "returned weights of another shape",
    "names": "returned weights of another model",
    "doubles": "float64",
    "boasts": "trained on 1e+06 examples and has",
    "endless": "trained on inf examples",
    "lists": "returned no 'loss'",
    "nonsense": "cannot be read",
    "nonsense-beside": "cannot be read",
    "pickle": "cannot be read",
    "metrics-as-config": "returned no metrics",
    "other-record": "returned no weights",
    "whole-other": "returned no metrics",
}
"""What is wrong with an answer to train, and a part of the reason that is given."""

EVALUATE = {
    "evaluates-nan": "measured loss nan",
    "evaluates-without-loss": "loss",
    "evaluates-without-accuracy": "accuracy",
    "evaluates-lists": "cannot be read",
    "evaluates-endless": "inf",
    "evaluates-negative": "evaluated -5 examples",
    "evaluates-perfectly": "1000000000",
    "evaluates-empty": "cannot be read",
}


def test_wrong_answers_are_left_out_and_change_nothing(crowd, registry, tmp_path, tables):
    marker = tmp_path / "unpickled"
    train, evaluate = list(TRAIN), list(EVALUATE)
    wrong = {"mallory": train[::2] + evaluate[::2], "trudy": train[1::2] + evaluate[1::2]}
    for name, replies in wrong.items():
        crowd.start_hospital(name, f"replies={','.join(replies)}", env={"MARKER": str(marker)})
    crowd.start_hospital("faulty", "nan")
    rounds = len(train) // 2
    config = {"rounds": rounds, "min_hospitals": 4}
    ended = crowd.run_job(registry, [*NAMES, *wrong, "faulty"], **config)
    assert ended.code == 0, ended.log
    assert ended.hospitals == list(NAMES), ended.log
    assert {h["rounds"] for h in ended.json["hospitals"]} == {rounds}
    told = {(row["hospital"], row["step"]): row["reason"] for row in ended.json["left_out"]}
    for name, replies in wrong.items():
        for number, reply in enumerate(filter(TRAIN.get, replies), start=1):
            assert TRAIN[reply] in told[name, f"round {number}"], reply
        for number, reply in enumerate(filter(EVALUATE.get, replies), start=1):
            assert EVALUATE[reply] in told[name, f"the evaluation of round {number}"], reply
    assert ended.left_out("faulty") == ["returned weights that are not finite"] * rounds
    assert not marker.exists()
    # Once more, and without the three: the weights are the same.
    other = Registry(tmp_path / "other", tables)
    again = crowd.run_job(other, NAMES, **config)
    assert again.code == 0, again.log
    assert again.json["left_out"] == []
    ours, theirs = registry.weights(1), other.weights(1)
    assert list(ours) == list(theirs)
    assert all(np.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    # What was wrong stands in the hospital's own receipts too.
    receipts = [entry for entry in crowd.receipts("faulty") if entry["kind"] == "train"]
    assert [entry["round"] for entry in receipts] == list(range(1, rounds + 1))
    assert {array["norm"] for entry in receipts for array in entry["sent"]} == {"nan"}


def test_what_is_sent_beyond_what_was_asked_for_harms_nobody(crowd, registry):
    extra = ["extra-list", "extra-number", "extra-arrays", "extra-metrics"]
    crowd.start_hospital("mallory", f"replies={','.join(extra)}")
    ended = crowd.run_job(registry, [*NAMES, "mallory"], rounds=len(extra), strategy="fedmedian")
    assert ended.code == 0, ended.log
    assert ended.json["rounds"] == len(extra)
    assert ended.json["left_out"] == []
    assert ended.hospitals == sorted([*NAMES, "mallory"])


def test_who_confirms_its_own_answers_removes_nothing(crowd, registry):
    mallory = crowd.start_hospital("mallory", "confirms")
    ended = crowd.run_job(registry, [*NAMES, "mallory"], rounds=3)
    assert ended.code == 0, ended.log
    assert "confirmed" in mallory.text
    assert ended.json["rounds"] == 3
    assert ended.hospitals == sorted([*NAMES, "mallory"])
    assert ended.json["left_out"] == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("grows=3000", r"returned an answer of 30\d+ bytes \(at most \d+\)"),
        ("floods=20000000", r"returned more than 8\d+ bytes, which is too much for an answer"),
    ],
)
def test_an_answer_that_is_too_large_costs_neither_memory_nor_disk(behaviour, reason, crowd, registry):
    mallory = crowd.start_hospital("mallory", behaviour)
    job = crowd.start_job(registry, [*NAMES, "mallory"], rounds=2)
    most = 0
    while job.ended is None:
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{job.pid}/status").read_text().splitlines()
            most = max(most, int(next(line for line in status if line.startswith("VmRSS")).split()[1]))
        time.sleep(0.02)
    ended = job.end()
    assert ended.code == 0, ended.log
    assert ended.hospitals == list(NAMES)
    assert len(ended.left_out("mallory")) == 2
    assert all(re.fullmatch(reason, told) for told in ended.left_out("mallory")), ended.left_out("mallory")
    assert 50_000 < most < 1_000_000  # Kilobytes; three gigabytes would be what the first makes of itself.
    assert mallory.ended is None


def test_a_full_disk_is_named_where_it_is(crowd, mlflow):
    # Room for the model that goes out, and for one answer at most.
    ended = crowd.run_job(mlflow.uri, NAMES, "small-files=60000", rounds=2, min_hospitals=4)
    assert ended.code == 1, ended.log
    assert "gave a usable answer" in ended.json["reason"]
    assert ended.log.count("answers cannot be stored in ") == 1
    assert "let TMPDIR name another folder" in ended.log
    reasons = {row["reason"] for row in ended.json["left_out"]}
    assert reasons == {"answered, and the server could not store it: file too large"}
