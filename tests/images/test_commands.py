"""Commands in the two images: those that are there, and what they say of a hospital's container put up wrongly."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.images.federation import PATIENCE

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hospital(federation):
    """A hospital's place: settings and folders with a key."""
    federation.furnish("west")
    federation.make_key("west")
    place = federation.place("west")
    data = place["reads"]["/data"]
    (data / "closed").mkdir()
    for copy in (data / "secret.npz", data / "closed" / "digits.npz"):
        shutil.copy(data / "digits.npz", copy)
    (data / "secret.npz").chmod(0)
    (data / "closed").chmod(0o700)
    return place


@pytest.fixture
def start(federation, hospital):
    """Start a hospital's container that something is wrong with, after a shell command; returns what is said."""

    def start(prepare="true", command="start", code=2, **environment):
        place = {**hospital, "environment": {**hospital["environment"], **environment}}
        script = f"{prepare} && exec flops client {command}"
        ended = federation.run("client", script, entrypoint=["sh", "-c"], code=code, on=federation.net, **place)
        return _line(ended) if command == "start" else ended.out

    return start


def _line(ended):
    (line,) = ended.err.splitlines()
    return line.removeprefix("flops: ")


@pytest.mark.parametrize(("side", "other"), [("client", "server"), ("server", "client")])
def test_an_image_has_the_commands_of_its_side_alone(federation, side, other):
    said = _line(federation.run(side, other, "--help", code=2))
    assert said.startswith(f"unknown command '{other}'")
    more = {"client": [], "server": ["models"]}[side]
    assert said.endswith(f"known: {', '.join(sorted(['deal', side, 'tasks', *more]))}")


def test_check_finds_all_well(federation, hospital):
    with federation.job(hospitals=["west"]) as job:
        job.box.wait_for("listening", PATIENCE)
        ended = federation.run("client", "client", "check", on=federation.net, **hospital)
    rows = [line.split(maxsplit=2) for line in ended.out.splitlines() if line.strip()][2:]
    found = {row[0]: row[1] for row in rows}
    well = ("task", "data", "key", "CA", "server")
    assert found == {**dict.fromkeys(well, "passed"), "policy": "skipped", "receipts": "skipped"}
    assert "server:8080 is there, TLSv1.3, certificate accepted" in ended.out


DENIED = "cannot be read: Permission denied"

WRONG = {
    "FLOPS_KEY": {
        "/node/none.key": "key /node/none.key: there is no such file",
        "/root/node.key": f"key /root/node.key: {DENIED}",
        "/node/hospital.pub": "key /node/hospital.pub: this is a public key",
    },
    "FLOPS_CA": {
        "/etc/flops/none.pem": "/etc/flops/none.pem: cannot be read: No such file or directory",
        "/root/ca.pem": f"/root/ca.pem: {DENIED}",
        "/data/digits.npz": "/data/digits.npz: no certificate in PEM format",
    },
    "FLOPS_DATA": {
        "/data/none.npz": "/data/none.npz: no such file",
        "/data/secret.npz": f"/data/secret.npz: {DENIED}",
        "/data/closed/digits.npz": f"/data/closed/digits.npz: {DENIED}",
    },
    "FLOPS_POLICY": {"/root/policy.toml": f"policy /root/policy.toml: {DENIED}"},
}


EACH = """
import contextlib, io, json, os, sys
from fl.cli import main
own = dict(os.environ)
for wrong in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update({**own, **wrong})
    for words in (["client", "start"], ["client", "check", "--json"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
        print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""
"""Run `flops client start` and `check` for each of some environments, and print how they ended."""


def test_a_wrong_file_is_named_in_a_line_by_start_and_check(federation, hospital):
    cases = [(variable, path, problem) for variable, wrong in WRONG.items() for path, problem in wrong.items()]
    words = ["-c", EACH, json.dumps([{variable: path} for variable, path, _ in cases])]
    ended = federation.run("client", *words, entrypoint=["python"], on=federation.net, **hospital)
    answers = iter(json.loads(line) for line in ended.out.splitlines())
    for variable, path, problem in cases:
        code, out, err = next(answers)
        assert (code, out) == (2, ""), (variable, path)
        (line,) = err.splitlines()
        assert problem in line
        code, out, _ = next(answers)
        told = json.loads(out)
        assert (code, told["passed"]) == (1, False), (variable, path)
        assert [check for check in told["checks"] if check["result"] == "FAILED" and problem in check["found"]], path


def test_a_key_that_others_may_read_is_refused(start):
    problem = "key /node/node.key: others than its owner can read or change it (mode 0644)"
    try:
        assert problem in start(prepare="chmod 644 /node/node.key")
        assert problem in json.loads(start(command="check --json", code=1))["checks"][3]["found"]
    finally:
        start(prepare="chmod 600 /node/node.key", command="receipts --help", code=0)


def test_a_home_that_cannot_be_written_is_named(start):
    place = {"FLOPS_CLIENT_HOME": "/srv/node", "FLOPS_KEY": "/node/node.key"}
    problem = "--home /srv/node: cannot be written: Read-only file system"
    assert start(code=2, **place).startswith(problem)
    found = json.loads(start(command="check --json", code=1, **place))["checks"][4]["found"]
    assert found == "/srv/node: cannot be written by this user; a node keeps its receipts there"


def test_a_job_that_may_not_read_its_key_says_so_in_its_document(federation):
    with federation.job(hospitals=["west"], environment={"FLOPS_TLS_KEY": "/etc/shadow"}) as job:
        ended = job.end()
    assert ended.code == 2
    assert ended.told == ended.message
    reason = "--tls-key /etc/shadow: cannot be read: Permission denied"
    assert (ended.told["outcome"], ended.told["reason"]) == ("misconfigured", reason)
    assert ended.err == f"flops: {reason}\n"
