"""The gate between real jobs: hospitals measure candidate and champion in one message."""

from __future__ import annotations

import pytest

from tests.federation.processes import NAMES

pytestmark = [pytest.mark.xdist_group("crowd-1"), pytest.mark.federation]

CHAMPION = "select alias, version from registered_model_aliases"


LEARNING = {"rounds": 8, "norm_ratio": 1e9, "training": {"local_epochs": 6, "lr": 0.03}}
"""Steady steps, and no hospital is left out because the others have learned all there is."""


def test_a_worse_model_is_registered_and_not_served(crowd, registry):
    rule = {"metric": "accuracy", "allowed_loss": 0.05, "allowed_hospital_loss": 0.2, "min_hospitals": 4}
    first = crowd.run_job(registry, NAMES, "", min_hospitals=4, gate=rule)
    assert (first.code, first.json["champion"]) == (0, True), first.log
    gate = {**rule, "allowed_hospital_loss": 1}
    better = crowd.run_job(registry, NAMES, "", min_hospitals=4, gate=gate, **LEARNING)
    assert (better.code, better.json["champion"]) == (0, True), better.log
    assert better.json["metrics"]["accuracy"] > 0.5
    # Hospitals that let the weights fade make a model that knows nothing.
    broken = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.9}
    worse = crowd.run_job(registry, NAMES, "", min_hospitals=4, norm_ratio=1e9, gate=rule, training=broken)
    assert worse.code == 0, worse.log
    assert (worse.json["outcome"], worse.json["version"], worse.json["champion"]) == ("registered", 3, False), (
        worse.log,
        worse.out,
    )
    assert worse.json["reason"].startswith("gate: accuracy 0.")
    assert "of the champion (version 2), and may be worse by at most 0.05" in worse.json["reason"]
    assert registry.tags(3)["gate"] == worse.json["reason"]
    assert registry.tags(2)["gate"] == "passed"
    assert registry.rows(CHAMPION) == [("champion", 2)]
    # What a hospital measured of the served model stands in its receipt, as all that leaves it.
    for name in NAMES:
        told = [receipt for receipt in crowd.receipts(name) if receipt["kind"] == "evaluate"]
        compared = [receipt for receipt in told if "champion_metrics" in receipt]
        assert compared[-1] is told[-1]
        assert compared[-1]["champion_metrics"]["accuracy"] > compared[-1]["metrics"]["accuracy"]
        assert {array["record"] for array in compared[-1]["received"]} >= {"arrays", "champion-arrays"}


def test_one_hospital_that_loses_keeps_the_gate_closed(crowd, registry):
    rule = {"metric": "loss", "allowed_loss": 100.0, "allowed_hospital_loss": 0.0, "min_hospitals": 5}
    never = crowd.run_job(registry, NAMES, "", min_hospitals=4, gate=rule)
    assert (never.code, never.json["outcome"]) == (2, "misconfigured")
    assert "gate.min_hospitals: 5, and the allow-list" in never.json["reason"]
    first = crowd.run_job(registry, [*NAMES, "late"], "", min_hospitals=4, join_grace=0.1, gate=rule)
    assert (first.code, first.json["champion"]) == (0, False), first.log
    assert "gate: 4 hospitals measured it, 5 are needed" in first.json["reason"]
    assert registry.rows(CHAMPION) == []
    rule["min_hospitals"] = 4
    second = crowd.run_job(registry, NAMES, "", min_hospitals=4, gate=rule, **LEARNING)
    assert second.json["champion"] is True, second.log
    worse = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.9}
    closed = crowd.run_job(registry, NAMES, "", min_hospitals=4, norm_ratio=1e9, gate=rule, training=worse)
    assert closed.json["reason"].startswith("gate: at ")
    assert ", and may not be worse; it does not become the champion" in closed.json["reason"]
    assert registry.rows(CHAMPION) == [("champion", 2)]
