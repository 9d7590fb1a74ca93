"""Jobs of the global server, one after the other, and hospitals that stay."""

from __future__ import annotations

import json

import pytest

from tests.federation.processes import NAMES, toml

pytestmark = [pytest.mark.xdist_group("crowd-1"), pytest.mark.federation]


@pytest.mark.quick
def test_jobs_continue_from_each_other_and_hospitals_stay(crowd, registry, tmp_path):
    message = tmp_path / "termination"
    first = crowd.run_job(registry, NAMES, "", "--termination-message", message, min_hospitals=4)
    assert first.code == 0, first.log
    told = first.json
    assert (told["outcome"], told["model"], told["version"], told["parent"]) == ("registered", "flops-digits", 1, 0)
    assert told["champion"] is True
    assert first.hospitals == list(NAMES)
    assert all(hospital["rounds"] == 1 and hospital["examples"] > 50 for hospital in told["hospitals"])
    assert set(told["metrics"]) == {"loss", "accuracy"}
    assert json.loads(message.read_text()) == told
    assert first.out.splitlines()[0].startswith("registered flops-digits version 1 (parent none): 1 round, 4 hosp")
    assert "from the task's first weights" in first.log
    # Nobody does anything, and the next job goes on.
    second = crowd.run_job(registry, NAMES, "", "--json", rounds=2, min_hospitals=4)
    assert second.code == 0, second.log
    assert len(second.out.splitlines()) == 1
    assert [json.loads(line)["message"] for line in second.log.splitlines()]
    assert (second.json["version"], second.json["parent"], second.json["rounds"]) == (2, 1, 2)
    assert second.hospitals == list(NAMES)
    assert registry.versions() == [1, 2]
    tags = registry.tags(2)
    assert tags["hospitals"] == "east, north, south, west"
    assert tags["parent"] == "1"
    assert tags["rounds"] == "2"
    assert registry.rows("select alias, version from registered_model_aliases") == [("champion", 2)]
    # What the receipts say is what was done, and the chain is whole.
    for name in NAMES:
        process = next(p for p in crowd.running if p.name == name)
        process.wait_for("waiting for the next")
        assert process.text.count("joined ") == 2


def test_too_few_hospitals_are_no_failure(crowd, registry):
    ended = crowd.run_job(
        registry, [*NAMES, "late", "later"], min_hospitals=5, join_timeout=8.0, join_grace=0.1, rounds=3
    )
    assert ended.code == 0, ended.log
    assert ended.json["outcome"] == "skipped"
    assert ended.json["version"] is None
    assert ended.json["reason"] == "4 of 5 hospitals came within 8 s: east, north, south, west"
    assert registry.versions() == []
    assert registry.rows("select * from runs") == []


def test_a_killed_server_costs_its_own_rounds_alone(crowd, registry):
    first = crowd.run_job(registry, NAMES, min_hospitals=4)
    assert first.code == 0, first.log
    killed = crowd.start_job(registry, NAMES, min_hospitals=4, rounds=500)
    killed.wait_for("round 2: ")
    killed.kill_tree()
    after = crowd.run_job(registry, NAMES, min_hospitals=4)
    assert after.code == 0, after.log
    assert (after.json["version"], after.json["parent"]) == (2, 1)
    assert after.hospitals == list(NAMES)
    assert after.json["left_out"] == []
    assert registry.versions() == [1, 2]
    assert {status for (status,) in registry.rows("select status from runs")} == {"FINISHED"}


WRONG = {
    "unknown key": ({"min_hospital": 2}, "unknown key 'min_hospital' (did you mean 'min_hospitals'?)"),
    "unknown inner key": ({"training": {"learning_rate": 0.1}}, "unknown key 'training.learning_rate'"),
    "wrong type": ({"rounds": "many"}, "rounds: 'many': a whole number of at least 1 is needed"),
    "truth as a number": ({"rounds": True}, "rounds: True: a whole number"),
    "out of range": ({"fraction": 1.5}, "fraction: 1.5: a number above 0 and at most 1 is needed"),
    "strategy": ({"strategy": "fedavgg"}, "strategy: unknown strategy 'fedavgg' (did you mean 'fedavg'?)"),
    "option": ({"strategy_options": {"mu": 1}}, "strategy_options"),
    "task": ({"task": "digit"}, "task: "),
    "no table": ({"training": 3}, "training: 3: a table is needed"),
    "gate": ({"gate": {"metric": "beauty", "at_least": 1}}, "gate.metric: 'beauty'"),
    "too few for the strategy": ({"strategy": "krum", "min_hospitals": 2}, "min_hospitals: "),
}


@pytest.mark.quick
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_named_with_its_key(what, tmp_path, flops, materials):
    values, problem = WRONG[what]
    file = tmp_path / "federation.toml"
    file.write_text(toml({"task": "digits", **values}))
    tls = materials / "tls"
    ended = flops(
        *("server", "round", "--config", file, "--hospitals", materials / "keys" / "east"),
        *("--tls-cert", tls / "server.pem", "--tls-key", tls / "server.key", "--port", 0),
    )
    assert ended.code == 2
    assert ended.line.startswith(f"{file}: {problem}")
    told = json.loads(ended.out)
    assert (told["outcome"], told["reason"]) == ("misconfigured", ended.line)


def _place(tmp_path, materials):
    tls = materials / "tls"
    (tmp_path / "federation.toml").write_text('task = "digits"\nmin_hospitals = 1\n')
    return {
        "--hospitals": materials / "keys" / "east",
        "--tls-cert": tls / "server.pem",
        "--tls-key": tls / "server.key",
        "--config": tmp_path / "federation.toml",
        "--port": 0,
    }


PLACES = {
    "no allow-list": ({"--hospitals": None}, "--hospitals is missing"),
    "missing allow-list": ({"--hospitals": "nowhere"}, "allow-list nowhere: there is no such folder"),
    "empty allow-list": ({"--hospitals": "."}, "holds no key"),
    "no certificate": ({"--tls-cert": None, "--tls-key": None}, "--tls-cert and --tls-key are needed"),
    "missing certificate": ({"--tls-cert": "no.pem"}, "--tls-cert no.pem: cannot be read"),
    "no certificate at all": ({"--tls-cert": "federation.toml"}, "federation.toml: holds no certificate"),
    "another's key": ({"--tls-key": "other.key"}, "--tls-key other.key: is not the key of the first certificate in"),
    "too few on the list": ({"--config": "two.toml"}, "two.toml: min_hospitals: 2, and the allow-list"),
    "no port": ({"--port": "abc"}, "--port 'abc': a number from 0 to 65535 is needed"),
    "another's address": ({"--host": "203.0.113.7"}, "--host 203.0.113.7: is no address of this machine"),
    "no address": ({"--host": "no such host"}, "--host no such host: is no address of this machine"),
    "missing file": ({"--config": "no.toml"}, "no.toml: no such file"),
    "no TOML": ({"--config": "odd.toml"}, "odd.toml: is not TOML"),
    "plain text everywhere": (
        {"--tls-cert": None, "--tls-key": None, "--plain-text": True, "--host": "0.0.0.0"},  # noqa: S104
        "--plain-text: 0.0.0.0 can be reached from other machines",
    ),
}


@pytest.mark.quick
@pytest.mark.parametrize("what", PLACES)
def test_a_wrong_place_is_named(what, tmp_path, flops, materials):
    changed, problem = PLACES[what]
    (tmp_path / "odd.toml").write_text("task = = 3\n")
    (tmp_path / "two.toml").write_text('task = "digits"\n')
    (tmp_path / "other.key").write_bytes((materials / "tls" / "ca.key").read_bytes())
    options = {**_place(tmp_path, materials), **changed}
    words = [w for k, v in options.items() if v is not None for w in ([k] if v is True else [k, v])]
    ended = flops("server", "round", *words)
    assert ended.code == 2, ended
    assert problem in ended.line
    assert json.loads(ended.out)["outcome"] == "misconfigured"


@pytest.mark.thorough
def test_twenty_jobs_in_a_row_without_help(crowd, registry):
    for number in range(1, 21):
        ended = crowd.run_job(registry, NAMES, min_hospitals=4)
        assert ended.code == 0, ended.log
        assert (ended.json["version"], ended.json["parent"]) == (number, number - 1)
        assert ended.hospitals == list(NAMES)
        assert ended.json["left_out"] == []
    assert registry.versions() == list(range(1, 21))
