"""`flops run` from the command line, in this process and in one of its own."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from fl.bundle import load_bundle
from tests.server.hospitals import SIZES, write_hospitals

QUICK = ("run", "breast-cancer", "--rounds", 2)
ROOT = Path(__file__).parents[2]


def versions(folder, name="flops-breast-cancer"):
    """Count the versions that the embedded registry holds."""
    database = folder / "flops-registry" / "mlflow.db"
    if not database.exists():
        return 0
    with sqlite3.connect(database) as connection:
        return connection.execute("select count(*) from model_versions where name = ?", [name]).fetchone()[0]


def test_json_is_one_object_and_the_files_are_there(flops, here):
    ended = flops(*QUICK, "--clients", 3, "--json")

    assert ended.code == 0
    result = ended.json
    assert {
        *("task", "clients", "rounds", "seed", "strategy", "accuracy", "loss"),
        *("model", "run_id", "seconds", "train_seconds", "out"),
    } <= set(result)
    assert (result["task"], result["clients"], result["rounds"]) == ("breast-cancer", 3, 2)
    assert result["model"]["name"] == "flops-breast-cancer"
    assert result["model"]["version"] == 1
    out = Path(result["out"])
    assert json.loads((out / "result.json").read_text()) == result
    for picture in ("learning-curve.png", "partition.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_run_in_mlflow_holds_settings_metrics_per_round_and_hospital_and_pictures(flops, here):
    result = flops(*QUICK, "--clients", 3, "--json").json
    client = mlflow.MlflowClient(f"sqlite:///{here}/flops-registry/mlflow.db")

    run = client.get_run(result["run_id"])

    assert run.data.params["strategy"] == "fedavg"
    assert run.data.params["partition"] == "iid"
    assert run.data.params["lr"] == "0.05"
    assert [m.step for m in client.get_metric_history(result["run_id"], "accuracy")] == [1, 2]
    assert len(client.get_metric_history(result["run_id"], "hospital/hospital-3/accuracy")) == 2
    names = {artifact.path for artifact in client.list_artifacts(result["run_id"])}
    assert {"learning-curve.png", "partition.png", "result.json", "model"} <= names


def test_people_see_tables_and_where_to_look_next(flops, here):
    ended = flops(*QUICK, "--clients", 3, "--compare")

    assert ended.code == 0
    for words in (
        "hospital-3",
        "each hospital alone",
        "all data pooled",
        "flops-breast-cancer version 1",
        "learning-curve.png",
        "mlflow ui --backend-store-uri",
        "flops run breast-cancer --rounds 2 --clients 3 --continue",
    ):
        assert words in ended.out
    assert "round 2/2" in ended.err


def test_compare_adds_the_other_two_ways_to_the_json(flops, here):
    result = flops(*QUICK, "--compare", "--json").json

    assert 0 < result["local_accuracy"] <= 1
    assert 0 < result["pooled_accuracy"] <= 1


@pytest.mark.parametrize("options", [(), ("--partition", "dirichlet:0.5"), ("--fraction", 0.5)], ids=str)
def test_the_same_seed_makes_the_same_model_bit_for_bit(flops, here, options):
    command = ("run", "digits", "--rounds", 2, "--clients", 6, *options, "--json")

    digests = [flops(*command, "--seed", seed).json["model"]["digest"] for seed in (4, 4, 5)]

    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_continue_raises_the_version_and_starts_where_it_ended(flops, here):
    flops(*QUICK)
    first = flops("run", "breast-cancer", "--rounds", 25, "--json").json

    second = flops(*QUICK, "--continue", "--json").json

    assert (first["model"]["version"], second["model"]["version"]) == (2, 3)
    assert second["model"]["parent"] == 2
    assert abs(second["loss"] - first["loss"]) < 0.05


def test_four_files_with_missing_values_make_a_model_that_fills_them(flops, here):
    ended = flops("run", "tabular", *write_hospitals(here / "data"), "--json")

    assert ended.json["clients"] == len(SIZES)
    assert ended.json["partition"] == "natural"
    assert ended.json["accuracy"] > 0.9
    mlflow.set_tracking_uri(f"sqlite:///{here}/flops-registry/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/flops-tabular/1")
    patients = pd.DataFrame({"age": [80.0, 40.0, None], "lactate": [6.0, 0.8, 5.5], "ward": ["icu", "general", None]})
    assert list(model.predict(patients)["label"]) == ["yes", "no", "yes"]
    # Whole numbers do too, and columns that may be missing may be left out.
    assert list(model.predict(pd.DataFrame({"age": [80, 40], "lactate": [6, 1]}))["label"]) == ["yes", "no"]


def test_a_site_column_gives_the_same_federation_as_files(flops, here):
    files = flops("run", "tabular", *write_hospitals(here / "files"), "--rounds", 2, "--json").json
    column = flops("run", "tabular", *write_hospitals(here / "one", site_column=True), "--rounds", 2, "--json").json

    assert column["model"]["digest"] == files["model"]["digest"]


def test_files_can_be_dealt_out_anew(flops, here):
    data = write_hospitals(here / "data")

    result = flops("run", "tabular", *data, "--partition", "unequal:1", "--clients", 7, "--rounds", 1, "--json").json

    assert (result["clients"], result["partition"]) == (7, "unequal:1")


def test_continuing_a_table_keeps_its_statistics_and_refuses_another_schema(flops, here):
    data = write_hospitals(here / "data")
    flops("run", "tabular", *data, "--rounds", 1)

    assert flops("run", "tabular", *data, "--rounds", 1, "--continue", "--json").json["model"]["version"] == 2
    schema = here / "data" / "schema.toml"
    schema.write_text(schema.read_text().replace("max = 120", "max = 119"))
    ended = flops("run", "tabular", *data, "--rounds", 1, "--continue")

    assert ended.code == 2
    assert "was made for another task or schema" in ended.line


def test_a_task_of_ones_own(flops, here, monkeypatch):
    (here / "mine.py").write_text((ROOT / "examples" / "wine.py").read_text())
    monkeypatch.syspath_prepend(str(here))

    result = flops("run", "--task", "mine:task", "--clients", 3, "--json").json

    assert result["accuracy"] > 0.9
    assert result["model"]["name"] == "flops-mine-task"


def test_the_example_of_ones_own_is_short():
    assert len((ROOT / "examples" / "wine.py").read_text().splitlines()) < 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digitz",), "unknown task 'digitz' (did you mean 'digits'?)"),
        (("digits", "--strategy", "fedadm"), "unknown strategy 'fedadm' (did you mean 'fedadam'?)"),
        (("digits", "--strategy-option", "eta=1"), "strategy fedavg has no option 'eta'"),
        (("digits", "--clinets", "3"), "No such option '--clinets'. (Did you mean one of: '--clients'"),
        (("digits", "--clients", "2000"), "2000 clients cannot share 1797 examples"),
        (("digits", "--clients", "0"), "--clients 0: at least 1 hospital is needed"),
        (("digits", "--clients", "many"), "'many' is not a valid integer"),
        (("digits", "--partition", "dirichlet:0"), "alpha must be a number above 0"),
        (("digits", "--partition", "natural"), "does not say which hospital an example is from"),
        (("digits", "--rounds", "0"), "--rounds 0: at least 1 is needed"),
        (("digits", "--batch-size", "-1"), "--batch-size -1: at least 1 is needed"),
        (("digits", "--lr", "0"), "--lr 0: a number above 0 is needed"),
        (("digits", "--lr", "nan"), "--lr nan: a number above 0 is needed"),
        (("digits", "--momentum", "1"), "--momentum 1: a number from 0 to below 1"),
        (("digits", "--fraction", "0"), "--fraction 0: a number above 0 and up to 1"),
        (("digits", "--seed", "-1"), "--seed -1: a whole number from 0"),
        (("digits", "--seed", str(10**30)), "a whole number from 0 to 2^63 - 1"),
        (("digits", "--strategy", "fedadam", *("--strategy-option", "eta=inf")), "out of range"),
        (("digits", "--strategy", "fedadam", *("--strategy-option", "eta=1") * 2), "is given twice"),
        (("digits", "--data", "x.csv"), "'digits' brings its own data"),
        (("digits", "--schema", "x.toml"), "'digits' brings its own"),
        (("digits", "--continue"), "model 'flops-digits' has no version yet"),
        (("digits", "--task", "a:b"), "both TASK 'digits' and --task 'a:b' are given"),
        (("digits", "--model-name", "a/b"), "--model-name 'a/b': letters, digits"),
        (("digits", "--strategy", "bulyan", "--strategy-option", "num_malicious_nodes=3"), "needs at least 15"),
        (("tabular",), "needs --schema FILE"),
        (("--task", "nowhere:task"), "module 'nowhere' cannot be imported"),
        (("--task", "json:task"), "'task' does not exist; tasks in json: none"),
        (("--task", ":task"), "write package.module:task"),
        (("digits", "--engine", "rai"), "'rai' is not one of"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(flops, here, arguments, said):
    ended = flops("run", *arguments)

    assert ended.code == 2
    assert said in ended.line
    assert ended.out == ""
    assert versions(here) == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "south.csv",
            "age,",
            "agee,",
            "south.csv, row 1, column 'age': the column is missing (did you mean 'agee'?)",
        ),
        ("south.csv", "\n", "\nold,1.0,icu,no\n", "south.csv, row 2, column 'age': 'old' is not a number"),
        ("south.csv", "\n", "\n200,1.0,icu,no\n", "south.csv, row 2, column 'age': 200 is out of range (0 to 120)"),
        (
            "east.csv",
            "\n",
            "\n50,1.0,icuu,no\n",
            "row 2, column 'ward': unknown category 'icuu' (did you mean 'icu'?)",
        ),
        ("west.csv", "age,lactate", "age,age", "west.csv, row 1, column 'age': the header names this column twice"),
        (
            "schema.toml",
            "categories",
            "categorise",
            "columns.ward.categorise: unknown key (did you mean 'categories'?)",
        ),
    ],
)
def test_a_wrong_file_is_named_with_row_and_column(flops, here, file, old, new, said):
    data = write_hospitals(here / "data")
    path = here / "data" / file
    path.write_text(path.read_text().replace(old, new, 1))

    ended = flops("run", "tabular", *data)

    assert ended.code == 2
    assert said in ended.line


def test_an_empty_file_and_a_target_of_one_class(flops, here):
    data = write_hospitals(here / "data")
    for path in (here / "data").glob("*.csv"):
        path.write_text(path.read_text().replace("yes", "no"))
    assert "the target has one class only, 'no'" in flops("run", "tabular", *data).line

    (here / "data" / "north.csv").write_text("")
    ended = flops("run", "tabular", *data)
    assert (ended.code, "north.csv: the file is empty" in ended.line) == (2, True)


def test_one_file_without_a_site_column_is_one_hospital(flops, here):
    data = write_hospitals(here / "data")

    ended = flops("run", "tabular", *data[:4])

    assert ended.code == 2
    assert "one data file without a site column is one hospital" in ended.line


def test_an_output_folder_that_cannot_be_written(flops, here):
    (here / "taken").write_text("a file")

    ended = flops(*QUICK, "--out", here / "taken" / "out")

    assert ended.code == 2
    assert f"output folder {here}/taken/out cannot be written" in ended.line
    assert versions(here) == 0


def test_an_unreachable_tracking_server_fails_before_training(flops, here, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")

    ended = flops("run", "digits")

    assert ended.code == 2
    assert "does not answer" in ended.line
    assert "round" not in ended.err


def test_a_diverging_run_names_the_hospital_and_registers_nothing(flops, here):
    ended = flops(*QUICK, "--lr", "1e30")

    assert ended.code == 2
    assert "hospital-" in ended.line
    assert "Lower the learning rate" in ended.line
    assert versions(here) == 0


def test_debug_shows_the_traceback_wherever_it_stands(flops, here):
    assert "Traceback" in flops("run", "digitz", "--debug").err
    assert "Traceback" in flops("--debug", "run", "digitz").err


@pytest.mark.parametrize(
    ("engine", "sent", "code", "said"),
    [
        ("local", signal.SIGINT, 130, "interrupted"),
        ("local", signal.SIGTERM, 143, "terminated"),
        pytest.param("ray", signal.SIGINT, 130, "interrupted", marks=pytest.mark.ray),
    ],
    ids=str,
)
def test_an_end_in_the_middle_leaves_no_version(here, engine, sent, code, said):
    process = subprocess.Popen(
        [sys.executable, "-m", "fl.cli", "run", "digits", "--rounds", "500", "--engine", engine],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training"):
            break
    time.sleep(1.5 if engine == "local" else 8)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)

    assert process.returncode == code
    assert err.splitlines()[-1] == f"flops: {said}; nothing was registered"
    assert "Traceback" not in err
    assert versions(here, "flops-digits") == 0
    with sqlite3.connect(here / "flops-registry" / "mlflow.db") as connection:
        assert connection.execute("select status from runs").fetchall() == [("KILLED",)]
    assert out == ""


OWN = """
from torch import nn
from fl.tasks.breast_cancer import breast_cancer as base
from dataclasses import replace
import numpy as np
from fl.data.dataset import Dataset
from fl.data.schema import ArraySchema

print("loaded")

def fails(outputs, targets):
    if len(outputs) > 2:
        raise ValueError("no such lesion")
    return base.loss(outputs, targets)

failing = replace(base, loss=fails)
mean = replace(base, loss=lambda o, t: base.loss(o, t).mean())
wide = replace(base, load=lambda: Dataset(np.zeros((40, 7)), np.zeros(40, dtype=np.int64)))

def numbers():
    x = np.random.default_rng(0).random((60, 4), dtype=np.float32)
    return Dataset(x, x.sum(axis=1))

regression = replace(
    base, schema=ArraySchema((4,), 0, 1), model=lambda: nn.Linear(4, 1), metrics={}, load=numbers,
    loss=lambda o, t: (o[:, 0] - t) ** 2,
)
"""


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_task_that_fails_in_training_names_the_hospital(flops, here, monkeypatch, engine):
    (here / "own_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))

    ended = flops("run", "--task", "own_tasks:failing", "--engine", engine)

    assert ended.code == 1
    assert ended.line == "hospital-1 failed in round 1: ValueError: no such lesion"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mean", "the loss must be one number an example, shape [2], but has shape []"),
        ("wide", "examples have shape [7], the schema says [30]"),
    ],
)
def test_a_task_that_does_not_fit_is_known_before_training(flops, here, monkeypatch, name, said):
    (here / "own_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))

    ended = flops("run", "--task", f"own_tasks:{name}")

    assert ended.code == 2
    assert said in ended.line


def test_a_task_without_classes_and_metrics_that_prints_still_gives_pure_json(flops, here, monkeypatch):
    (here / "own_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(sys.modules, "own_tasks", raising=False)

    ended = flops("run", "--task", "own_tasks:regression", "--rounds", 3, "--compare", "--json")

    assert ended.json["accuracy"] is None
    assert ended.json["loss"] > 0
    assert "loaded" in ended.err
    mlflow.set_tracking_uri(f"sqlite:///{here}/flops-registry/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/flops-own_tasks-regression/1")
    assert len(model.predict(np.full((2, 4), 0.3, dtype=np.float32))["prediction"]) == 2


def test_people_see_a_task_without_metrics_too(flops, here, monkeypatch):
    (here / "own_tasks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(here))

    ended = flops("run", "--task", "own_tasks:regression", "--rounds", 2, "--compare")

    assert ended.code == 0
    assert "each hospital alone" in ended.out


def test_a_result_that_cannot_be_written_is_known_before_training(flops, here):
    (here / "out" / "result.json").mkdir(parents=True)

    ended = flops(*QUICK, "--out", here / "out")

    assert ended.code == 2
    assert "cannot be written" in ended.line
    assert versions(here) == 0


def test_the_trained_model_is_in_the_output_folder_too(flops, here):
    result = flops(*QUICK, "--json").json

    _, state = load_bundle(Path(result["out"]) / "model")

    assert state.digest() == result["model"]["digest"]


def test_as_many_hospitals_as_patients_leave_nothing_to_evaluate_on(flops, here):
    ended = flops("run", "breast-cancer", "--clients", 569)

    assert ended.code == 2
    assert "nothing is left to evaluate on; lower --clients" in ended.line


@pytest.mark.ray
def test_the_ray_engine_trains_the_same_apps(flops, here):
    options = ("--clients", 4, "--rounds", 3, "--json")

    local, on_ray = (flops("run", "breast-cancer", *options, "--engine", engine).json for engine in ("local", "ray"))

    assert on_ray["engine"] == "ray"
    assert abs(on_ray["loss"] - local["loss"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "least"),
    [
        (("digits", "--clients", 10, "--compare"), 0.97),
        (("digits", "--clients", 10, "--partition", "dirichlet:0.3"), 0.95),
        (("breast-cancer", "--clients", 5), 0.95),
    ],
    ids=str,
)
def test_the_documented_accuracy_is_reached_with_defaults(flops, here, options, least):
    result = flops("run", *options, "--json").json

    assert result["accuracy"] >= least
    if "pooled_accuracy" in result:
        assert result["accuracy"] >= result["pooled_accuracy"] - 0.01
