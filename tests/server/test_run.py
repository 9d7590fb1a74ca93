"""`flops run` from the command line: what it gives."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from fl.bundle import load_bundle
from fl.cli import main
from tests.server.federations import OWN, QUICK
from tests.server.hospitals import SIZES, write_hospitals

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quick(tmp_path_factory, empty_tables):
    """The folder and the result of one run that several tests look at."""
    folder, printed = tmp_path_factory.mktemp("quick"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.setattr("server.registry._make_database", lambda database: shutil.copyfile(empty_tables, database))
        patch.chdir(folder)
        code = main([str(word) for word in (*QUICK, "--clients", 3, "--json")])
    assert code == 0
    (line,) = printed.getvalue().splitlines()
    return folder, json.loads(line)


def test_json_is_one_object_and_the_files_are_there(quick):
    folder, result = quick

    assert {
        *("task", "clients", "rounds", "seed", "strategy", "accuracy", "loss"),
        *("model", "run_id", "seconds", "train_seconds", "out"),
    } <= set(result)
    assert (result["task"], result["clients"], result["rounds"]) == ("breast-cancer", 3, 2)
    assert result["model"]["name"] == "flops-breast-cancer"
    assert result["model"]["version"] == 1
    out = folder / result["out"]
    assert json.loads((out / "result.json").read_text()) == result
    for picture in ("learning-curve.png", "partition.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_the_version_is_served_and_tells_what_made_it(quick, monkeypatch, flops):
    folder, result = quick
    assert result["model"]["champion"] is True
    monkeypatch.chdir(folder)
    (told,) = flops("models", "show", "champion", "--json").json["history"]
    assert (told["model"], told["parent"], told["rounds"]) == ("flops-breast-cancer version 1", 0, 2)
    assert told["settings"]["clients"] == "3"
    assert told["digest"] == result["model"]["digest"]
    assert list(told["hospitals"]) == ["hospital-1", "hospital-2", "hospital-3"]
    assert {hospital["rounds"] for hospital in told["hospitals"].values()} == {2}
    assert told["metrics"]["accuracy"] == pytest.approx(result["accuracy"])


def test_what_a_servers_registry_serves_is_not_for_a_run_to_say(quick):
    from fl.protocol import CHAMPION
    from server.registry import Registry
    from server.simulation.run import _serve_it

    folder, _ = quick
    registry = Registry(f"sqlite:///{folder}/flops-registry/mlflow.db")
    (version,) = registry.versions("flops-breast-cancer")
    registry._database = None  # As a server's.
    registry._client.delete_registered_model_alias(version.name, CHAMPION)
    assert _serve_it(registry, version) is False
    assert registry.aliased(version.name, CHAMPION) is None
    registry.move_alias(version, CHAMPION, 0)


def test_the_run_in_mlflow_holds_settings_metrics_per_round_and_hospital_and_pictures(quick):
    folder, result = quick
    client = mlflow.MlflowClient(f"sqlite:///{folder}/flops-registry/mlflow.db")

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


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--partition", "dirichlet:0.5"), marks=pytest.mark.slow),
        pytest.param(("--fraction", 0.5), marks=pytest.mark.slow),
    ],
    ids=str,
)
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


def test_the_trained_model_is_in_the_output_folder_too(quick):
    folder, result = quick

    _, state = load_bundle(folder / result["out"] / "model")

    assert state.digest() == result["model"]["digest"]


@pytest.mark.ray
@pytest.mark.slow
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
        # One point, and another for chance: two accuracies on the same 338 examples differ by 0.009 without a reason,
        # and processors round differently.
        assert result["accuracy"] >= result["pooled_accuracy"] - 0.02
