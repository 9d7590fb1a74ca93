"""The examples work as the documentation says."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "federation.py"


def _start(folder: Path, *options: str) -> subprocess.Popen[str]:
    # What another federation has set must not reach this one.
    environment = {**os.environ, "FLOPS_PORT": "1", "MLFLOW_TRACKING_URI": "http://localhost:1"}
    return subprocess.Popen(
        [sys.executable, SCRIPT, *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_example_of_a_federations_file_is_one():
    from server.settings import read_federation

    path = ROOT / "examples" / "federation.toml"
    settings = read_federation(path)

    assert settings.task_name == "digits"
    assert settings.model == "flops-digits"
    assert settings.gate is not None


def test_the_example_of_a_federations_file_has_every_key_with_its_default(tmp_path):
    from server.settings import read_federation

    text = (ROOT / "examples" / "federation.toml").read_text()
    bare = tmp_path / "bare.toml"
    bare.write_text('task = "digits"\n')
    default = read_federation(bare).as_parameters()
    # Lines that are commented out name the default, unless a key needs another one beside it.
    keys = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and " = " in line]
    told = dict(line.partition("#")[0].split(" = ") for line in keys if "schema" not in line)

    assert told
    for key, value in told.items():
        if key != "join_grace":  # Not a parameter of a run.
            assert float(value) == default[key], key


@pytest.mark.federation
def test_a_federation_of_processes_goes_on_from_its_last_version(tmp_path):
    for version, parent, receipts in ((1, "none", 3), (2, "1", 6)):
        process = _start(tmp_path, "--rounds", "1", "--port", "0")
        out, err = process.communicate(timeout=240)

        assert process.returncode == 0, err
        assert f"registered flops-digits version {version} (parent {parent}): 1 round, 3 hospitals" in out
        assert "round 1: 3 hospitals" in err
        assert "bytes sent" in out
        assert f"{receipts} receipts, chain whole" in out
        assert out.endswith("All processes have ended. Files and logs: flops-federation/\n")
        assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["flops-federation"]
    assert "joined localhost" in (tmp_path / "flops-federation" / "hospital-3.log").read_text()


@pytest.mark.federation
@pytest.mark.parametrize("group", [True, False], ids=["terminal", "alone"])
def test_ctrl_c_ends_all_processes_and_keeps_complete_rounds(group, tmp_path):
    process = _start(tmp_path, "--rounds", "500")
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stderr:
        if "round 2: 3 hospitals" in line:
            break
    # A terminal tells all of them, and the script passes it on besides.
    os.killpg(process.pid, signal.SIGINT) if group else process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130
    assert re.search(r"registered flops-digits version 1 \(parent none\): [0-9]+ rounds, 3 hospitals", out), out + err
    assert "of 500 rounds" in out
    assert "(a bug" not in out + err
    assert "All processes have ended" in out
    for name in ("hospital-1", "hospital-2", "hospital-3"):
        assert '"stopped"' in (tmp_path / "flops-federation" / name / "state.json").read_text()


def test_a_port_that_is_taken_is_said_at_once(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = _start(tmp_path, "--port", str(taken.getsockname()[1]))
        _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert err.startswith("--port ")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_none_is_said_at_once(tmp_path):
    process = _start(tmp_path, "--port", "99999")
    _, err = process.communicate(timeout=60)

    assert process.returncode == 1
    assert err.startswith("--port 99999: ")
    assert "Traceback" not in err


def test_the_federation_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 110
