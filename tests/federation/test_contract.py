"""What both sides must agree on, what a hospital allows, and what it writes down of all of it."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.federation.conftest import invoke
from tests.federation.processes import NAMES, wait_for

pytestmark = [pytest.mark.xdist_group("crowd-1"), pytest.mark.federation]

COMMIT = "0ab35c0d" * 5


def policy(federation, name, text):
    path = federation.folder / f"{name}.toml"
    path.write_text(text)
    return "", "--policy", path


def test_no_hospital_runs_what_a_server_sends(crowd, registry, tmp_path):
    marker = tmp_path / "marker"
    before = {name: len(crowd.receipts(name)) for name in NAMES}
    ended = crowd.run_job(registry, NAMES, f"evil-bundle={marker}", min_hospitals=2, join_timeout=6.0)
    assert ended.code == 0, ended.log
    assert ended.json["outcome"] == "skipped"
    assert registry.versions() == []
    assert not marker.exists()
    assert not list(tmp_path.rglob("evil.py"))
    for name in NAMES:
        (receipt,) = crowd.receipts(name)[before[name] :]
        assert (receipt["kind"], receipt["result"], receipt["sent"]) == ("bundle", "refused", [])
        assert "carries more than a name: ../../evil.py, client/app.py, evil.py" in receipt["reason"]
        assert f"refused by {name} in the first question: the app bundle carries more than a name" in ended.log
        told = [row for row in ended.json["left_out"] if row["hospital"] == name]
        assert [(row["step"], row["refused"]) for row in told] == [("the first question", True)]
    # The next server is an honest one, and nobody bears a grudge.
    after = crowd.run_job(registry, NAMES, min_hospitals=4)
    assert (after.code, after.json["version"]) == (0, 1), after.log


def test_those_who_do_not_fit_are_refused_and_the_others_go_on(crowd, registry, tmp_path):
    """Protocols, tasks and models that differ; and what hospitals' policies say."""
    crowd.start_hospital("far", "protocol=3")
    near = crowd.start_hospital("near", "protocol=2")
    crowd.start_hospital("other-task", task="breast-cancer")
    crowd.start_hospital("other-model", "model")
    crowd.start_hospital("observer", *policy(crowd, "observer", "evaluation_only = true\n"))
    crowd.start_hospital("choosy", *policy(crowd, "choosy", 'tasks = ["tabular"]\n'))
    crowd.start_hospital("careful", *policy(crowd, "careful", f'releases = ["{COMMIT[:7]}"]\n'))
    crowd.start_hospital("wary", *policy(crowd, "wary", 'releases = ["fedcba9"]\n'))
    crowd.start_hospital("small", *policy(crowd, "small", "min_examples = 1000\n"))
    crowd.start_hospital("tired", *policy(crowd, "tired", "max_rounds_a_day = 1\n"))
    broken = crowd.start_hospital("broken-policy", *policy(crowd, "broken-policy", "evaluation_only = false\n"))
    broken.wait_for("waiting for it")
    (crowd.folder / "broken-policy.toml").write_text("evaluation_only = maybe\n")
    new = [process.name for process in crowd.running if process.name not in NAMES and "job" not in process.name]
    ended = crowd.run_job(registry, [*NAMES, *new], env={"FLOPS_COMMIT": COMMIT}, min_hospitals=6, rounds=2)
    assert ended.code == 0, ended.log
    trained = {told["name"]: told["rounds"] for told in ended.json["hospitals"]}
    assert trained == {**dict.fromkeys(NAMES, 2), "near": 2, "careful": 2, "tired": 1}
    assert "observer (76, evaluates only)" in ended.log

    refusals = {name: [row for row in ended.json["left_out"] if row["hospital"] == name] for name in new}
    assert all(row["refused"] for rows in refusals.values() for row in rows)
    for name, words in {
        "far": ("the server speaks protocol 1 (release 0.1.0 (", "the client 3", "upgrade the server"),
        "other-task": ("the server's task is 'digits', the client's 'breast-cancer'", "set the same task"),
        "other-model": ("the model of task 'digits' has other arrays", "upgrade the older of the two"),
        "choosy": ("policy: task 'digits' is not allowed here", '(tasks = ["tabular"])'),
        "wary": (f"policy: a server of commit '{COMMIT}' is not allowed here", '(releases = ["fedcba9"])'),
        "small": ("policy: 76 training examples are too few (min_examples = 1000)",),
        "broken-policy": ("the hospital's policy file cannot be read",),
    }.items():
        (row,) = refusals[name]
        assert row["step"] == "the first question"
        assert all(part in row["reason"] for part in words), row
        process = next(p for p in crowd.running if p.name == name)
        # The hospital's log says it too, once.
        assert process.text.count(f"refused: {row['reason']}") == 1, process.text
        (receipt,) = crowd.receipts(name)
        assert (receipt["kind"], receipt["result"], receipt["reason"]) == ("join", "refused", row["reason"])
        assert receipt["sent"] == []
        assert receipt["examples"] == 0
    assert [row["step"] for row in refusals["tired"]] == ["round 2"]
    assert "1 round trained today" in refusals["tired"][0]["reason"]
    assert [r["kind"] for r in crowd.receipts("tired") if r["result"] == "done"] == [
        *("join", "train", "evaluate", "evaluate")
    ]
    assert refusals["observer"] == refusals["near"] == refusals["careful"] == []
    assert [r["kind"] for r in crowd.receipts("observer")] == ["join", "evaluate", "evaluate"]
    assert "evaluation_only: " in broken.text or "broken-policy.toml" in broken.text
    near.wait_for("waiting for the next")


def test_receipts_say_what_was_done_and_show_tampering(crowd, registry):
    from click.testing import CliRunner

    from client.commands.receipts import receipts as command

    before = len(crowd.receipts("west"))
    started = crowd.run_job(registry, NAMES, min_hospitals=4, rounds=2, env={"FLOPS_COMMIT": COMMIT})
    assert started.code == 0, started.log
    told = crowd.receipts("west")[before:]
    assert [(r["kind"], r["round"]) for r in told] == [
        *(("join", 0), ("train", 1), ("evaluate", 1), ("train", 2), ("evaluate", 2))
    ]
    assert {(r["result"], r["reason"]) for r in told} == {("done", "")}
    assert {json.dumps(r["server"], sort_keys=True) for r in told} == {
        json.dumps({"address": f"localhost:{crowd.port}", "commit": COMMIT, "image": "", "version": "0.1.0"})
    }
    assert {(r["model"]["name"], r["model"]["version"]) for r in told} == {("flops-digits", 0)}
    join, train, evaluate, _, _ = told
    assert join["received"] == join["sent"] == evaluate["sent"] == []
    received = [(a["name"], a["shape"], a["dtype"], a["bytes"], a["record"]) for a in train["received"]]
    assert received == [(a["name"], a["shape"], a["dtype"], a["bytes"], a["record"]) for a in train["sent"]]
    assert len(received) > 2
    assert all(a["norm"] > 0 for a in train["sent"])
    assert train["examples"] == 76
    assert evaluate["examples"] == 24
    assert evaluate["metrics"]["loss"] > 0
    assert train["seconds"] >= 0
    file = crowd.home("west") / "receipts.jsonl"
    invoke("client", "receipts", "--file", file, "--verify")
    # A number is changed, in a copy: it shows.
    copy = crowd.folder / "copy.jsonl"
    shutil.copy(file, copy)
    shutil.copy(file.with_name("receipts.jsonl.head"), copy.with_name("copy.jsonl.head"))
    invoke("client", "receipts", "--file", copy, "--verify")
    copy.write_text(file.read_text().replace('"examples":76', '"examples":75', 1))
    assert copy.read_text() != file.read_text()
    found = CliRunner().invoke(command, ["--file", str(copy), "--verify"])
    assert found.exit_code != 0
    assert "was changed" in found.output
    wait_for(lambda: "waiting for the next" in crowd.running[0].text, "they wait again")
