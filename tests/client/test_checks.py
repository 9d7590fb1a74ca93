"""`flops client check`: each thing that can be wrong is a row."""

import json
import socket

import numpy as np
import pytest


@pytest.fixture
def hospital(flops, here):
    """A hospital for which all is well, and its options."""
    np.savez(
        here / "data.npz",
        x=np.zeros((20, 1, 8, 8), np.float32) + np.arange(20).reshape(-1, 1, 1, 1) / 20,
        y=np.arange(20) % 10,
    )
    flops("client", "keygen", "--out", "home")
    flops("server", "certificate", "--host", "localhost")
    options = {"server": "localhost:1", "task": "digits", "data": "data.npz", "ca": "tls/ca.pem", "home": "home"}

    def check(**changed):
        arguments = [word for name, value in {**options, **changed}.items() for word in (f"--{name}", value)]
        ended = flops("client", "check", *arguments, "--json")
        assert ended.code in (0, 1), ended.err
        found = json.loads(ended.out)
        assert found["passed"] == (ended.code == 0)
        return {row["what"]: (row["result"], row["found"]) for row in found["checks"]}

    return check


def test_all_is_well_where_the_server_is_not_there_yet(hospital):
    rows = hospital()

    assert {what: result for what, (result, _) in rows.items()} == {
        "task": "passed",
        "data": "passed",
        "policy": "skipped",
        "key": "passed",
        "receipts": "skipped",
        "CA": "passed",
        "server": "skipped",
    }
    assert "examples to train on" in rows["data"][1]
    assert rows["key"][1].count("SHA256:") == 1


def test_data_that_does_not_fit_is_named_with_its_place(hospital, here):
    np.savez(here / "data.npz", x=np.full((5, 1, 8, 8), 3.0, np.float32), y=np.zeros(5, np.int64))

    result, found = hospital()["data"]

    assert result == "FAILED"
    assert "data.npz" in found
    assert "row 0" in found


def test_an_unknown_task_fails_once_and_the_data_is_skipped(hospital):
    rows = hospital(task="digit")

    assert rows["task"] == ("FAILED", rows["task"][1])
    assert rows["data"] == ("skipped", "the task is not known")


def test_a_policy_that_forbids_the_task_fails(hospital, here):
    (here / "policy.toml").write_text('tasks = ["tabular"]')

    assert hospital(policy="policy.toml")["policy"][0] == "FAILED"
    (here / "policy.toml").write_text('tasks = ["digits"]\nmax_rounds_a_day = 3')
    assert hospital(policy="policy.toml")["policy"] == (
        "passed",
        "policy.toml: tasks digits, any release, up to 3 rounds a day",
    )


def test_a_key_that_others_can_read_fails(hospital, here):
    (here / "home" / "node.key").chmod(0o644)

    result, found = hospital()["key"]

    assert result == "FAILED"
    assert "chmod" in found


def test_changed_receipts_fail(hospital, here):
    from client.receipts import Receipts

    receipts = Receipts(here / "home" / "receipts.jsonl")
    for number in range(3):
        receipts.append({"kind": "train", "examples": number})
    path = here / "home" / "receipts.jsonl"
    path.write_text(path.read_text().replace('"examples":1', '"examples":7'))

    assert hospital()["receipts"][0] == "FAILED"


def test_a_server_without_tls_is_told_from_none(hospital):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        import threading

        def hang_up():
            connection, _ = listener.accept()
            connection.recv(10)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        result, found = hospital(server=f"127.0.0.1:{listener.getsockname()[1]}")["server"]
        thread.join(5)

    assert result == "FAILED"
    assert "no TLS connection" in found


def test_people_get_a_table(flops, hospital):
    ended = flops("client", "check", "--server", "localhost:1", "--task", "digits", "--data", "none.npz")

    assert ended.code == 1
    assert "no such file" in ended.out


def test_a_policy_that_wants_more_examples_fails_as_a_job_would(hospital, here):
    (here / "policy.toml").write_text("min_examples = 17")
    assert hospital(policy="policy.toml")["policy"] == (
        "FAILED",
        "policy: 16 training examples are too few (min_examples = 17)",
    )
    (here / "policy.toml").write_text("min_examples = 16")
    assert hospital(policy="policy.toml")["policy"][0] == "passed"


def test_square_brackets_are_shown(flops, hospital, here):
    (here / "d[old]").mkdir()
    ended = flops("client", "check", "--server", "localhost:1", "--task", "digits", "--data", "d[old]/none.npz")

    assert "d[old]/none.npz" in ended.out


def test_a_policy_names_tasks_as_the_server_does(hospital, here):
    (here / "own.py").write_text(
        "from dataclasses import replace\nfrom fl.tasks.digits import digits\ntask = replace(digits, name='mine')\n"
    )
    (here / "policy.toml").write_text('tasks = ["mine"]')

    assert hospital(task="own:task", policy="policy.toml")["policy"][0] == "passed"
    (here / "policy.toml").write_text('tasks = ["own:task"]')
    assert hospital(task="own:task", policy="policy.toml")["policy"][0] == "FAILED"


def test_a_servers_certificate_is_no_ca(hospital):
    result, found = hospital(ca="tls/server.pem")["CA"]

    assert result == "FAILED"
    assert "holds a server's certificate, not a CA's" in found
