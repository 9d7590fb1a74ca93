"""Hospitals that die, dawdle or fail in the middle of a round."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.federation.conftest import invoke
from tests.federation.processes import NAMES, wait_for

pytestmark = [pytest.mark.xdist_group("crowd-2"), pytest.mark.federation]


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_round_ends_without_those_who_are_killed_silent_or_failing(crowd, registry):
    killed = crowd.start_hospital("killed", "slow=600")
    silent = crowd.start_hospital("silent", "slow=600")
    crowd.start_hospital("failing", "fails")
    started = crowd.start_job(registry, [*NAMES, "killed", "silent", "failing"], min_hospitals=4, round_deadline=12.0)
    killed.wait_for("training begins")
    killed.kill_tree()
    silent.wait_for("training begins")
    ended = started.end()
    assert ended.code == 0, ended.log
    assert ended.hospitals == list(NAMES)
    assert ended.left_out("failing") == ["failed: RuntimeError; the hospital's own log and receipts say more"]
    assert ended.left_out("silent")[0] == "did not answer within 12 s"
    assert ended.left_out("killed")[0] == "did not answer within 12 s"
    assert {row["step"] for row in ended.json["left_out"]} <= {"round 1", "the evaluation of round 1"}
    assert registry.versions() == [1]
    # The silent one stops what nobody waits for, and waits for the next server.
    silent.wait_for("waiting for the next")
    (failed,) = [entry for entry in crowd.receipts("failing") if entry["kind"] == "train"]
    assert (failed["result"], failed["reason"]) == ("failed", "RuntimeError: the scanner\nis on fire")


def test_a_training_process_that_dies_costs_one_answer(federation, registry):
    hospital = federation.start_hospital("east", "slow=2")
    job = federation.start_job(registry, ["east", "north"], min_hospitals=1, rounds=3)
    federation.start_hospital("north")
    hospital.wait_for("training begins")
    os.kill(hospital.training_process(), signal.SIGKILL)
    ended = job.end()
    assert ended.code == 0, ended.log
    (reason,) = ended.left_out("east")
    assert reason.startswith("failed: WorkerFailed: the training process ended: it was killed")
    assert {h["name"]: h["rounds"] for h in ended.json["hospitals"]} == {"east": 2, "north": 3}
    assert "Traceback" not in hospital.text


@pytest.mark.parametrize("how", ["terminate", "kill_tree"])
def test_a_hospital_that_ends_in_a_round_takes_part_again_once_it_is_started(how, crowd, registry):
    job = crowd.start_job(registry, [*NAMES, "leaver"], min_hospitals=4, rounds=10_000, round_deadline=12.0)
    leaver = crowd.start_hospital("leaver")
    wait_for(lambda: rounds_with(job, 5), "a round of all five")
    getattr(leaver, how)()
    job.wait_for("leaver is left out of round")
    before = len(rounds_with(job, 5))
    again = crowd.start_hospital("leaver")
    wait_for(lambda: len(rounds_with(job, 5)) > before, "another round of all five")
    job.terminate()
    ended = job.end()
    assert ended.code == 0, ended.log
    assert ended.json["outcome"] == "registered"
    assert ended.hospitals == sorted([*NAMES, "leaver"])
    invoke("client", "receipts", "--file", crowd.home("leaver") / "receipts.jsonl", "--verify")
    assert "Traceback" not in leaver.text + again.text


def rounds_with(job, count):
    """Return the rounds that were complete with so many hospitals."""
    assert job.ended is None, job.text
    return re.findall(rf"round (\d+): {count} hospitals, loss", job.text)


def test_fewer_usable_answers_than_needed_register_nothing(crowd, registry):
    crowd.start_hospital("broken", "nan")
    ended = crowd.run_job(registry, [*NAMES, "broken"], min_hospitals=5, rounds=2)
    assert ended.code == 1, ended.log
    assert ended.json["outcome"] == "failed"
    assert ended.json["reason"] == "round 1: 4 hospitals gave a usable answer, 5 are needed"
    assert ended.left_out("broken") == ["returned weights that are not finite"]
    assert registry.versions() == []
    assert registry.rows("select * from runs") == []


def test_a_killed_node_leaves_no_process_behind(federation):
    hospital = federation.start_hospital("east")
    hospital.wait_for("waiting for it")
    training = hospital.training_process()
    hospital.kill()
    wait_for(lambda: gone(training), "the training process ends with its node")
    wait_for(lambda: not hospital.family(), "nothing is left")
