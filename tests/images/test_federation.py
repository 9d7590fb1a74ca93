"""A federation in containers: jobs that come and go, hospitals that stay, and what may happen to either of them."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack

import pytest

from tests.images.build import build_image, commit
from tests.images.federation import MODEL, NAMES, PATIENCE, QUICK

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.docker, pytest.mark.timeout(900)]

OTHER = "0123456789abcdef0123456789abcdef01234567"
"""The commit that another release says it was built from."""

CUT_SECONDS = 12.0
"""Longer than a question for work is held open, so that one is surely lost."""

LONG = {
    "rounds": 10_000,
    "min_hospitals": 1,
    "join_grace": 60.0,
    "round_deadline": 10.0,
    "training": {"local_epochs": 3},
}
"""A job that lasts until it is stopped, in rounds of about a second; whoever is silent is soon left out."""

WITHOUT_TORCH = """
import json, sys
from fl.cli import main
code = main(sys.argv[1:])
print(json.dumps({name: name in sys.modules for name in ("mlflow", "torch")}))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def hospitals(federation):
    """Three hospitals, started once for all tests here."""
    with ExitStack() as stack:
        for name in NAMES:
            federation.make_key(name)
        yield {name: stack.enter_context(federation.hospital(name)) for name in NAMES}


@pytest.fixture(scope="module")
def waiting(federation):
    """A hospital whose server never comes; it waits while the other tests run."""
    federation.furnish("stranger")
    federation.make_key("stranger")
    with federation.hospital("stranger", environment={"FLOPS_SERVER": "door:8080"}) as box:
        yield box


@pytest.fixture(autouse=True)
def steady(waiting, hospitals):
    """Nobody touches the hospitals but the test itself, and none of them says anything that is not meant to be."""
    yield
    for box in (waiting, *hospitals.values()):
        assert box.state()["Running"]
        assert "Traceback" not in box.logs()


def receipts(box):
    code, printed = box.execute("flops", "client", "receipts", "--json", "--last", "10000")
    assert code == 0, printed
    return json.loads(printed)["receipts"]


def test_a_job_registers_a_version_and_ends(federation, hospitals):
    ended = federation.run_job(rounds=2)
    assert ended.code == 0
    told = json.loads(ended.out.splitlines()[-1])
    assert told == ended.told == ended.message
    assert (told["outcome"], told["model"], told["version"], told["parent"]) == ("registered", MODEL, 1, 0)
    assert told["rounds"] == 2
    assert ended.hospitals == list(NAMES)
    assert told["left_out"] == []
    assert told["seconds"] < 120
    assert federation.tracker.champion() == 1
    tags = federation.tracker.versions()[1]
    assert tags["commit"] == commit()
    assert tags["image"] == federation.images["server"]
    assert tags["hospitals"] == ", ".join(NAMES)
    for box in hospitals.values():
        entries = receipts(box)
        assert [entry["kind"] for entry in entries] == ["join", *["train", "evaluate"] * 2]
        assert {entry["server"]["commit"] for entry in entries} == {commit()}
        assert {entry["server"]["image"] for entry in entries} == {federation.images["server"]}


def test_a_server_that_goes_on_from_a_version_never_imports_pytorch(federation):
    ended = federation.run_job(driver=WITHOUT_TORCH)
    assert (ended.code, ended.told["parent"], ended.told["version"]) == (0, 1, 2)
    assert json.loads(ended.out.splitlines()[-1]) == {"mlflow": True, "torch": False}


def test_the_next_release_with_a_new_certificate_finds_the_same_hospitals(
    federation, hospitals, docker_client, base_image, wheels
):
    before = {name: box.state()["StartedAt"] for name, box in hospitals.items()}
    old = (federation.tls / "server.pem").read_bytes()
    federation.make_certificate()
    assert (federation.tls / "server.pem").read_bytes() != old
    tag = "flops-test-server:other"
    other, _ = build_image(docker_client, "server", base_image, wheels, tag, revision=OTHER)
    try:
        ended = federation.run_job(image=other.id)
    finally:
        docker_client.images.remove(tag)
    assert ended.code == 0
    assert ended.hospitals == list(NAMES)
    assert federation.tracker.versions()[ended.told["version"]]["commit"] == OTHER
    assert {name: box.state()["StartedAt"] for name, box in hospitals.items()} == before
    for box in hospitals.values():
        newest = receipts(box)[-1]
        assert (newest["server"]["commit"], newest["server"]["image"]) == (OTHER, other.id)


def test_a_hospital_is_stopped_and_started_between_jobs(federation, hospitals):
    box = hospitals["east"]
    box.stop()
    assert box.exit_code() == 0
    assert "stopped" in box.logs().splitlines()[-1]
    box.start()
    ended = federation.run_job()
    assert ended.hospitals == list(NAMES)


def test_a_cut_network_costs_a_hospital_its_rounds_and_nobody_else(federation, hospitals):
    box = hospitals["south"]
    before = box.state()["StartedAt"]
    with federation.job(**LONG) as job:
        job.wait_for_round(hospitals=3, after=1)
        box.cut()
        end = time.monotonic() + CUT_SECONDS
        without = job.wait_for_round_without("south")
        time.sleep(max(0.0, end - time.monotonic()))
        box.join()
        job.wait_for_round(hospitals=3, after=without)
        job.box.stop(grace=60)
        ended = job.end()
    assert ended.code == 0
    assert ended.hospitals == list(NAMES)
    assert box.state()["StartedAt"] == before
    assert federation.run_job().hospitals == list(NAMES)


def test_a_hospital_without_a_server_is_healthy(waiting):
    health = waiting.state()["Health"]
    end = time.monotonic() + PATIENCE
    while health["Status"] == "starting" and time.monotonic() < end:
        time.sleep(1)
        health = waiting.state()["Health"]
    assert health["Status"] == "healthy", health
    assert health["FailingStreak"] == 0
    assert "waiting" in health["Log"][-1]["Output"]
    code, printed = waiting.execute("python", "-c", QUICK, "client", "health")
    assert (code, printed.splitlines()[-1]) == (0, "0")
