"""The helpers for containers, in the base image: quick, and before anything else breaks on them."""

from __future__ import annotations

import pytest

from tests.images.network import LABELS, container, network

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SERVE = ["python3", "-u", "-m", "http.server", "8000"]
ASK = "import urllib.request as r; print(r.urlopen('http://web:8000/', timeout=2).status)"


@pytest.fixture
def alone(docker_client):
    yield
    assert not docker_client.containers.list(all=True, filters={"label": [f"{k}={v}" for k, v in LABELS.items()]})


def test_a_container_reads_and_writes_only_what_it_is_given(docker_client, base_image, tmp_path, alone):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "word").write_text("hello")
    script = "cp /in/word /out/word; touch /in/x || touch /x || exit $((7 + GIVEN))"
    given = {"reads": {"/in": tmp_path / "in"}, "writes": {"/out": tmp_path / "out"}, "environment": {"GIVEN": "1"}}
    with container(docker_client, base_image, ["sh", "-c", script], user="10001", **given) as box:
        assert box.exit_code() == 8
    assert (tmp_path / "out" / "word").read_text() == "hello"


def test_containers_meet_lose_and_find_each_other(docker_client, base_image, alone):
    with (
        network(docker_client) as net,
        container(docker_client, base_image, SERVE, alias="web", on=net) as web,
        container(docker_client, base_image, ["sleep", "600"], alias="asker", on=net) as asker,
    ):
        web.wait_for("Serving")
        assert asker.execute("python3", "-c", ASK) == (0, "200\n")
        web.cut()
        assert asker.execute("python3", "-c", ASK)[0] == 1
        web.join()
        assert asker.execute("python3", "-c", ASK) == (0, "200\n")
        web.kill()
        assert web.exit_code() == 137
        assert web.state()["Status"] == "exited"
        web.start()
        web.wait_for("Serving")
        assert asker.execute("python3", "-c", ASK) == (0, "200\n")
        asker.stop(grace=0)
        assert asker.exit_code() == 137


def test_a_failing_test_shows_what_the_container_printed(docker_client, base_image, capsys, alone):
    with (
        pytest.raises(AssertionError, match=r"box ended before it printed 'more'"),
        container(docker_client, base_image, ["echo", "so far"]) as box,
    ):
        box.wait_for("more")
    assert "so far" in capsys.readouterr().out


def test_waiting_for_the_end_has_an_end(docker_client, base_image, alone):
    with (
        container(docker_client, base_image, ["sleep", "600"]) as box,
        pytest.raises(AssertionError, match=r"box still runs after 0.5 s"),
    ):
        box.exit_code(timeout=0.5)
