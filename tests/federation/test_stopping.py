"""SIGTERM, as container runtimes send it: to servers in all states, and to hospitals."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from client.receipts import Receipts
from tests.federation.processes import NAMES, wait_for

pytestmark = [pytest.mark.xdist_group("crowd-2"), pytest.mark.federation]

GRACE = 20.0
"""Seconds after which a pod is killed."""


def stop(job):
    began = time.monotonic()
    job.terminate()
    ended = job.end()
    assert time.monotonic() - began < GRACE
    return ended


def test_a_server_that_is_stopped_registers_the_complete_rounds(crowd, registry):
    job = crowd.start_job(registry, NAMES, rounds=500, min_hospitals=4)
    job.wait_for("round 2: ")
    ended = stop(job)
    assert ended.code == 0, ended.log
    rounds = ended.json["rounds"]
    assert 2 <= rounds < 500
    assert ended.json["reason"] == f"stopped after {rounds} of 500 rounds"
    assert registry.versions() == [1]
    assert registry.tags(1)["rounds"] == str(rounds)
    # Nobody minds: the next job is as any other.
    after = crowd.run_job(registry, NAMES, min_hospitals=4)
    assert (after.code, after.json["version"], after.json["parent"]) == (0, 2, 1), after.log


@pytest.mark.parametrize("pause", [0.0, 0.0003, 0.001, 0.1])
def test_a_server_that_is_told_twice_at_once_registers_the_complete_rounds(pause, crowd, registry):
    job = crowd.start_job(registry, NAMES, rounds=500, min_hospitals=4)
    job.wait_for("round 2: ")
    os.kill(job.pid, signal.SIGINT)  # As a terminal does, and whoever started the job.
    time.sleep(pause)
    ended = stop(job)
    assert ended.code == 0, ended.log
    assert ended.json["reason"] == f"stopped after {ended.json['rounds']} of 500 rounds"
    assert registry.versions() == [1]


def test_a_server_that_is_stopped_before_a_round_is_complete_registers_nothing(crowd, registry):
    slow = crowd.start_hospital("slow", "slow=60")
    job = crowd.start_job(registry, [*NAMES, "slow"], min_hospitals=5)
    slow.wait_for("training begins")
    ended = stop(job)
    assert ended.code == 1, ended.log
    assert ended.json["outcome"] == "failed"
    assert ended.json["reason"].startswith("stopped ")
    assert "nothing is registered" in ended.json["reason"]
    assert registry.versions() == []


@pytest.mark.parametrize(
    "place",
    [
        "server.settings:read_federation",
        "server.superlink.link:make_bundle",
        "server.superlink.link:create_api",
        "server.registry_names:default_uri",
        "fl.model:initial_state",
    ],
)
def test_a_server_that_is_stopped_while_it_starts_says_so(place, federation, registry):
    ended = federation.run_job(registry, ["east"], f"stopped-in={place}", min_hospitals=1)
    assert ended.code == 1, ended.log
    assert ended.json["reason"] == "stopped before a round was complete; nothing is registered"
    assert registry.versions() == []


def handles_sigterm(pid):
    """Tell whether a process has set a handler."""
    from pathlib import Path

    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return bool(int(status["SigCgt"], 16) & 1 << 14)


def test_a_server_that_is_stopped_while_it_waits_for_hospitals(federation, registry):
    job = federation.start_job(registry, ["east"], join_timeout=300.0, min_hospitals=1)
    job.wait_for("from the task's first weights")
    ended = stop(job)
    assert ended.code == 1, ended.log
    assert ended.json["reason"] == "stopped after 0 of 1 rounds; nothing is registered"


def test_a_server_that_is_stopped_while_the_registry_is_away_ends_in_time(crowd, mlflow, tmp_path):
    folder = tmp_path / "go"
    folder.mkdir()
    job = crowd.start_job(mlflow.uri, NAMES, f"hold-record={folder}:300", min_hospitals=4)
    wait_for(lambda: job.ended is not None or list(folder.glob("reached-*")), "the rounds are done")
    mlflow.kill()
    (folder / "go").touch()
    job.wait_for("trying again")
    ended = stop(job)
    assert ended.code == 1, ended.log
    assert ended.json["version"] is None
    assert mlflow.registry.versions() == []


def test_a_hospital_that_is_stopped_leaves_nothing_behind(federation, registry):
    waiting = federation.start_hospital("east")
    training = federation.start_hospital("north", "slow=60")
    waiting.wait_for("waiting for it")
    job = federation.start_job(registry, ["east", "north"], min_hospitals=2, join_timeout=60.0)
    training.wait_for("training begins")
    for hospital in (waiting, training):
        began = time.monotonic()
        hospital.terminate()
        assert hospital.wait() == 0, hospital.text
        assert time.monotonic() - began < 10
        assert hospital.text.endswith("stopped\n")
        assert "Traceback" not in hospital.text
        wait_for(lambda hospital=hospital: not hospital.family(), "no process is left", 10)
    job.kill_tree()
    early = federation.start_hospital("south")
    wait_for(lambda: handles_sigterm(early.pid), "Python handles signals")
    early.terminate()
    assert early.wait() in (0, 143), early.text
    assert "Traceback" not in early.text
    wait_for(lambda: not early.family(), "no process is left", 10)


def test_a_second_node_with_the_same_folder_is_refused(crowd):
    ended = crowd.start_hospital("east")
    assert ended.wait() == 2, ended.text
    assert "another node runs with this folder; stop it, or give each node its own folder and key" in ended.text
    assert crowd.running[0].ended is None


def test_a_node_says_at_its_start_that_receipts_were_changed(federation):
    first = federation.start_hospital("east")
    first.wait_for("waiting for it")
    first.terminate()
    first.wait()
    receipts = Receipts(federation.home("east") / "receipts.jsonl")
    for number in range(3):
        receipts.append({"kind": "train", "examples": number})
    receipts.path.write_text(receipts.path.read_text().replace('"examples":1', '"examples":7'))
    again = federation.start_hospital("east")
    again.wait_for("the chain is not whole (line 2: receipt 2 was changed); flops client receipts --verify tells all")
    again.wait_for("waiting for it")


def test_in_plain_text_no_proxy_is_asked(federation, registry):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.1)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        node = federation.start_hospital(
            "east", plain_text=True, env={"http_proxy": address, "all_proxy": address, "no_proxy": ""}
        )
        node.wait_for("(connection refused); waiting for it")
        with pytest.raises(TimeoutError):
            proxy.accept()
