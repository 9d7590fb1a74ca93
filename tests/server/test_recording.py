"""What a job leaves in the registry when an answer of it is lost on its way."""

import contextlib
import sqlite3

import pytest
from mlflow.exceptions import MlflowException

from fl.errors import SettingsError
from fl.training import Evaluation
from server.job import Progress
from server.recording import Recorder
from server.records import RoundRecord
from server.registry import ParentReplaced
from server.settings import read_federation


@pytest.fixture
def recorder(here):
    (here / "federation.toml").write_text('task = "digits"\n')
    return Recorder(read_federation(here / "federation.toml"))


@pytest.fixture
def client(recorder):
    """MLflow's client, which a test may change; the registry is treated as a server, which has no lock of a file."""
    recorder._registry._database = None
    return recorder._registry._client


def record(recorder, progress=None):
    parent, state = recorder.parent()
    evaluation = Evaluation(10, 0.1, {"accuracy": 0.9})
    done = RoundRecord(1, {"a": 0.1}, evaluation, {"a": evaluation}, 1.0, 1.0, {"a": 10})
    return recorder.record(Progress([done], state=state), parent, lambda: 5.0)


def versions(client):
    return {v.version: v.tags.get("who", "ours") for v in client.search_model_versions("name = 'flops-digits'")}


def test_a_run_that_cannot_be_closed_costs_no_version(recorder, client, caplog):
    def fails(*_):
        raise MlflowException("connection refused")

    caplog.set_level("WARNING", logger="flops")  # Commands that ran before in this process may have set another.
    client.set_terminated = fails
    made, champion, gate = record(recorder)

    assert (made.version, champion, gate) == (1, True, "")
    assert client.get_model_version_by_alias("flops-digits", "champion").version == 1
    assert "stays open in the registry: MlflowException: connection refused" in caplog.text


def lose_an_answer(client, *, other_first):
    """Have the registry make a version, and another's before it, and break off instead of answering."""
    honest = client.create_model_version

    def lost(name, source, run_id, **named):
        client.create_model_version = honest
        if other_first:
            other = client.create_run(client.search_experiments()[0].experiment_id)
            honest(name, source, other.info.run_id, tags={"who": "other"}, await_creation_for=0)
        honest(name, source, run_id, **named)
        raise MlflowException("read timed out")

    client.create_model_version = lost


def test_a_version_whose_making_was_not_answered_is_found_again(recorder, client):
    lose_an_answer(client, other_first=False)

    assert record(recorder)[0].version == 1
    assert versions(client) == {1: "ours"}


def test_and_it_is_taken_back_where_another_job_was_first(recorder, client):
    lose_an_answer(client, other_first=True)

    with pytest.raises(ParentReplaced, match="parent version 0 is no longer the newest, version 1 is"):
        record(recorder)
    assert versions(client) == {1: "other"}


def test_the_parent_is_asked_for_again(recorder, client):
    honest, calls = client.search_model_versions, []

    def hesitates(*words, **named):
        calls.append(1)
        if len(calls) == 1:
            raise MlflowException("connection refused")
        return honest(*words, **named)

    client.search_model_versions = hesitates

    assert recorder.parent()[0] is None
    assert len(calls) == 2


def test_a_registry_that_is_no_database_is_named_at_once(recorder, here, monkeypatch):
    (here / "odd.db").write_text("no database, and long enough to be looked at as one" * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///odd.db")

    with pytest.raises(
        SettingsError, match=r"the model registry .*odd.db cannot be used: DatabaseError: .*not a database"
    ):
        Recorder(recorder._settings)
    with contextlib.closing(sqlite3.connect(here / "flops-registry" / "mlflow.db")) as connection:
        assert connection.execute("select count(*) from model_versions").fetchall() == [(0,)]
