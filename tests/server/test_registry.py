import contextlib
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest

from fl.errors import FlopsError, RegistryUnreachable
from fl.model import initial_state
from fl.tasks import find_task
from server.certificates import CERTIFICATE, KEY, make_certificates
from server.registry import Registry
from server.registry_names import metric_path, public_uri
from tests.pipeline.http_server import Answers, served

DIGITS = find_task("digits")


@pytest.fixture
def registry(here):
    return Registry()


def register(registry, seed=0, **tags):
    state = initial_state(DIGITS, seed)
    with registry.run("test", {"lr": 0.1}) as log:
        log.metrics(1, {"accuracy": 0.5, f"hospital/{metric_path('Gießen: süd')}/loss": 1.0})
        return registry.register(log, "flops-digits", DIGITS, state, tags), state


def test_versions_count_up_and_come_back_bit_for_bit(registry):
    first, _ = register(registry, 1)
    second, state = register(registry, 2, parent="1")

    latest = registry.latest("flops-digits")
    task, loaded = registry.load(latest)

    assert (first.version, second.version, latest) == (1, 2, second)
    assert task is DIGITS
    assert loaded.digest() == state.digest()


def test_a_registry_that_answers_in_pages_is_read_to_the_end(registry, monkeypatch):
    made = [register(registry, seed)[0] for seed in range(3)]
    registry.abandon(made[2], "bad")
    honest = registry._client.search_model_versions

    def oldest_first(words, page_token=None):
        return honest(words, max_results=1, order_by=["version_number ASC"], page_token=page_token)

    monkeypatch.setattr(registry._client, "search_model_versions", oldest_first)
    assert registry.latest("flops-digits") == made[1]
    assert registry.made_by("flops-digits", made[2].run_id).version == 3
    assert [version.version for version in registry.versions("flops-digits")] == [3, 2, 1]


def test_an_unknown_model_has_no_version(registry):
    assert registry.latest("flops-nothing") is None


def test_a_run_keeps_settings_numbers_and_tags(tables_made_anew, registry, here):
    version, _ = register(registry, 1, parent="7")
    client = mlflow.MlflowClient(registry.uri)

    run = client.get_run(version.run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1"}
    assert run.data.metrics["accuracy"] == 0.5
    assert f"hospital/{metric_path('Gießen: süd')}/loss" in run.data.metrics
    assert client.get_model_version("flops-digits", "1").tags["parent"] == "7"
    assert (here / "flops-registry" / "mlflow.db").exists()


def test_a_failed_run_is_marked_and_registers_nothing(registry):
    runs = []

    def diverge():
        with registry.run("test", {}) as log:
            runs.append(log.run_id)
            log.metrics(1, {"loss": 1.0})
            raise FlopsError("diverged")

    with pytest.raises(FlopsError, match="diverged"):
        diverge()

    run = mlflow.MlflowClient(registry.uri).get_run(runs[0])
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"loss": 1.0}
    assert registry.latest("flops-digits") is None


def test_an_interruption_before_the_last_call_leaves_no_version(registry, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry._client, "create_registered_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        register(registry)

    assert registry.latest("flops-digits") is None


def test_the_version_predicts_in_a_process_without_our_training_code(registry):
    version, _ = register(registry, 3)
    script = f"""
        import sys
        import mlflow, numpy as np
        mlflow.set_tracking_uri({registry.uri!r})
        model = mlflow.pyfunc.load_model("models:/flops-digits/{version.version}")
        frame = model.predict(np.zeros((2, 1, 8, 8), dtype=np.float32))
        ours = {{name.split(".")[0] + "." + name.partition(".")[2].split(".")[0] for name in sys.modules
                if name.split(".")[0] in ("fl", "server", "client")}}
        assert not any(name.startswith(("server", "client")) for name in ours), ours
        assert "fl.training.sequential" not in sys.modules
        assert "flwr" not in sys.modules
        print(list(frame.columns)[0], len(frame))
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["label", "2"]


def test_the_stored_model_holds_no_pickle(registry, here):
    register(registry)

    stored = [path for path in (here / "flops-registry" / "artifacts").rglob("*") if path.is_file()]

    assert {"weights.safetensors", "MLmodel", "model.json"} <= {path.name for path in stored}
    assert not [path for path in stored if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")]


def test_an_unreachable_server_is_known_in_seconds(here, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://someone:secret@127.0.0.1:{taken.getsockname()[1]}"
    started = time.monotonic()

    with pytest.raises(RegistryUnreachable) as caught:
        Registry(uri)

    assert time.monotonic() - started < 30
    assert "does not answer" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_whose_ca_is_not_trusted_is_told_with_the_mend(here):
    make_certificates(here / "tls", ("localhost",), 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(here / "tls" / CERTIFICATE, here / "tls" / KEY)

    with served(Answers, context) as port, pytest.raises(RegistryUnreachable) as caught:
        Registry(f"https://localhost:{port}")

    assert str(caught.value).endswith("MLFLOW_TRACKING_SERVER_CERT_PATH names that CA's file")


def test_what_is_no_uri_is_refused(here):
    with pytest.raises(RegistryUnreachable, match="'ftp' is no kind of tracking URI"):
        Registry("ftp://example.org")


@pytest.mark.parametrize("name", ["北京", "A//B", "../x", "x" * 300, "a:b", " ", ".."])
def test_mlflow_takes_any_hospitals_name_and_keeps_them_apart(registry, name):
    with registry.run("test", {}) as log:
        log.metrics(1, {f"hospital/{metric_path(n)}/loss": 1.0 for n in (name, name + "/")})

    assert len(mlflow.MlflowClient(registry.uri).get_run(log.run_id).data.metrics) == 2


def test_training_from_a_version_that_is_no_longer_the_newest_is_refused(registry):
    first, state = register(registry, 1)
    second, _ = register(registry, 2)

    with registry.run("late", {}) as log, pytest.raises(FlopsError, match="version 1 is no longer the newest"):
        registry.register(log, "flops-digits", DIGITS, state, {}, parent=first)

    assert registry.latest("flops-digits") == second


@pytest.mark.slow
def test_several_first_runs_at_once_all_find_their_registry(here):
    script = "from server.registry import Registry; Registry()"
    started = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    ended = [process.communicate(timeout=120)[1] for process in started]

    assert [process.returncode for process in started] == [0, 0, 0], ended


def test_what_a_process_left_half_made_is_made_anew(tables_made_anew, empty_tables, here):
    (here / "flops-registry").mkdir()
    half = here / "flops-registry" / ".mlflow.db.new"
    half.write_bytes(empty_tables.read_bytes()[:20_000])

    assert Registry().latest("flops-nothing") is None
    assert not half.exists()


def test_copied_tables_are_those_that_the_registry_makes(tables_made_anew, empty_tables, here):
    Registry()

    def tables(path):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            things = sorted(connection.execute("select type, name from sqlite_master"))
            columns = {name: connection.execute(f"pragma table_info({name})").fetchall() for _, name in things}
            return things, columns, connection.execute("select version_num from alembic_version").fetchall()

    assert tables(here / "flops-registry" / "mlflow.db") == tables(empty_tables)


def test_a_relative_database_is_in_the_working_folder(tables_made_anew, here):
    registry = Registry("sqlite:///sub/mlflow.db")
    register(registry)

    assert (here / "sub" / "mlflow.db").exists()
    assert list((here / "sub" / "artifacts").iterdir())


def test_a_deleted_experiment_is_one_line(registry):
    client = mlflow.MlflowClient(registry.uri)
    client.delete_experiment(client.get_experiment_by_name("flops").experiment_id)

    with pytest.raises(RegistryUnreachable, match="experiment 'flops' is deleted; restore it"):
        Registry()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("https://me:pw@mlflow.example.org/x", "https://mlflow.example.org/x"),
        ("http://me:p@ss@host:5000", "http://host:5000"),
        ("postgresql+psycopg2://me:pw@host/db", "postgresql+psycopg2://host/db"),
    ],
)
def test_a_uri_is_shown_without_its_password(uri, shown):
    assert public_uri(uri) == shown


@pytest.mark.slow
def test_a_real_tracking_server_serves_as_registry(here):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{here}/m.db", "--artifacts-destination", f"{here}/artifacts"),
            *("--workers", "1"),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        registry = _wait_for(f"http://127.0.0.1:{port}")
        version, state = register(registry, 5)
        _, loaded = registry.load(registry.latest("flops-digits"))

        assert version.version == 1
        assert loaded.digest() == state.digest()
        np.testing.assert_array_equal(loaded.arrays["0.bias"], state.arrays["0.bias"])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait_for(uri):
    deadline = time.monotonic() + 90
    while True:
        try:
            return Registry(uri)
        except RegistryUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
