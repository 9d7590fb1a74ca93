"""`flops run` where something is wrong: options, files, tasks, and an end in the middle."""

import itertools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.federations import OWN, QUICK, versions
from tests.server.hospitals import write_hospitals

ROOT = Path(__file__).parents[2]


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
        (("tabular",), "needs a schema"),
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
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # How long it tries is tested with the registry.

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


def test_a_result_that_cannot_be_written_is_known_before_training(flops, here):
    (here / "out" / "result.json").mkdir(parents=True)

    ended = flops(*QUICK, "--out", here / "out")

    assert ended.code == 2
    assert "cannot be written" in ended.line
    assert versions(here) == 0


def test_as_many_hospitals_as_patients_leave_nothing_to_evaluate_on(flops, here):
    ended = flops("run", "breast-cancer", "--clients", 569)

    assert ended.code == 2
    assert "nothing is left to evaluate on; lower --clients" in ended.line


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
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


@pytest.mark.parametrize(
    ("engine", "sent", "code", "said"),
    [
        ("local", signal.SIGINT, 130, "interrupted"),
        pytest.param("local", signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGINT, 130, "interrupted", marks=[pytest.mark.ray, pytest.mark.slow]),
    ],
    ids=str,
)
def test_an_end_in_the_middle_leaves_no_version(here, engine, sent, code, said):
    # Long rounds, and a line after each: the signal comes in the second of nine.
    options = ("--rounds", "9", "--local-epochs", "10" if engine == "local" else "3", "--engine", engine)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_LOGGING_LEVEL"}
    process = subprocess.Popen(
        [sys.executable, "-m", "fl.cli", "run", "digits", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=here,
        env={**environment, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    before = list(itertools.takewhile(lambda line: not line.startswith("  round 1/9"), process.stderr))
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)

    assert process.returncode == code
    assert engine == "ray" or before == ["opening the model registry …\n", "training …\n"]
    assert err.splitlines()[-1] == f"flops: {said}; nothing was registered"
    assert "Traceback" not in err
    assert versions(here, "flops-digits") == 0
    with sqlite3.connect(here / "flops-registry" / "mlflow.db") as connection:
        assert connection.execute("select status from runs").fetchall() == [("KILLED",)]
    assert out == ""
