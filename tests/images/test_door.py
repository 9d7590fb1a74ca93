"""What a job of the server shows to whoever reaches its port, and what it tells of its own health."""

from __future__ import annotations

import json
import time

import pytest
from flwr.supercore.routers.runtime.router import router as runtime
from flwr.superlink.routers.control.router import router as control

from tests.images.federation import PATIENCE, QUICK
from tests.images.network import container

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.docker, pytest.mark.timeout(900)]

ASK = """
import http.client, json, ssl, sys
answers = {}
for line in sys.argv[1:]:
    method, path = line.split()
    trusted = ssl.create_default_context(cafile="/tls/ca.pem")
    connection = http.client.HTTPSConnection("door", 8080, timeout=20, context=trusted)
    try:
        connection.request(method, path, body=b"" if method == "POST" else None)
        answers[line] = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        answers[line] = type(error).__name__
    connection.close()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def job(federation):
    """A job that waits for a hospital which never comes."""
    federation.make_key("absent")
    with federation.job(hospitals=["absent"], alias="door", healthcheck={"interval": 2 * 10**9}) as job:
        job.box.wait_for("listening", PATIENCE)
        yield job


@pytest.fixture
def ask(federation, job, docker_client, base_image):
    """Ask the server from another container; returns the statuses."""

    def ask(*lines):
        reads = {"/tls/ca.pem": federation.tls / "ca.pem"}
        with container(
            docker_client, base_image, ["python3", "-c", ASK, *lines], on=federation.net, reads=reads
        ) as box:
            assert box.exit_code(PATIENCE) == 0
            return json.loads(box.output())

    return ask


def test_nothing_but_health_and_the_fleet_is_there(ask):
    flower = [f"POST {route.path}" for router in (control, runtime) for route in router.routes]
    assert len(flower) > 40
    others = [
        "GET /",
        "GET /docs",
        "GET /openapi.json",
        "GET /v1/fleet/pull-messages",
        "POST /health",
        "PUT /v1/fleet/x",
    ]
    assert set(ask(*flower, *others).values()) == {404}
    assert ask("GET /health", "POST /v1/fleet/activate-node") == {
        "GET /health": 200,
        "POST /v1/fleet/activate-node": 403,
    }


def test_a_job_that_waits_is_healthy(job):
    assert job.box.execute("flops", "server", "health") == (0, "port 8080 answers 200\n")
    code, printed = job.box.execute("python", "-c", QUICK, "server", "health")
    assert (code, printed.splitlines()[-1]) == (0, "0")
    check_healthy(job.box)


def test_a_prediction_api_is_healthy_too(docker_client, server_image):
    words = ["serve", "--model", "flops-digits"]
    where = {"MLFLOW_TRACKING_URI": "sqlite:////tmp/mlflow.db"}
    often = {"healthcheck": {"interval": 2 * 10**9}}
    with container(docker_client, str(server_image.id), words, environment=where, **often) as box:
        check_healthy(box)


def check_healthy(box):
    """Wait until the engine says that a container is well."""
    end = time.monotonic() + PATIENCE
    while (health := box.state()["Health"])["Status"] == "starting" and time.monotonic() < end:
        time.sleep(1)
    assert health["Status"] == "healthy", (health, box.logs())


def test_a_job_is_stopped_while_it_waits(federation):
    federation.make_key("late")
    with federation.job(hospitals=["late"], alias="other") as job:
        job.box.wait_for("listening", PATIENCE)
        job.box.stop(grace=60)
        ended = job.end()
    assert ended.code == 1
    assert ended.told["reason"].startswith("stopped before a round was complete")
