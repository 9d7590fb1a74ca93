"""What the two images hold, what they leave out, and what a change of code adds to them."""

from __future__ import annotations

import json
import re

import pytest

from fl.protocol import PROTOCOL
from tests.images.build import SIDES, build_image, commit, commit_date
from tests.images.network import container

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

MOST_ADDED = 1_000_000
"""Bytes that a change of code may add to an image, before compression."""


@pytest.fixture(params=SIDES)
def side(request):
    return request.param


@pytest.fixture
def image(request, side):
    return request.getfixturevalue(f"{side}_image")


@pytest.fixture
def run(docker_client, image):
    """Run a program in the image on a read-only root file system without a network; return what it printed."""

    def run(*command, code=0, **further):
        with container(docker_client, image.id, command[1:], entrypoint=[command[0]], **further) as box:
            assert box.exit_code() == code
            return box.logs()

    return run


def python(run, text):
    return json.loads(run("python", "-c", text).splitlines()[-1])


def test_labels_say_which_code_it_is(image, side):
    labels = image.attrs["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"flops-{side}"
    assert labels["org.opencontainers.image.revision"] == commit()
    assert labels["org.opencontainers.image.created"] == commit_date()
    assert labels["org.opencontainers.image.version"]
    assert labels["io.flops.protocol"] == str(PROTOCOL)
    assert f"FLOPS_COMMIT={commit()}" in image.attrs["Config"]["Env"]


def test_starts_its_side_and_asks_it_for_its_health(image, side):
    config = image.attrs["Config"]
    assert config["Entrypoint"] == ["flops", side]
    assert config["Cmd"] == [{"server": "round", "client": "start"}[side]]
    assert config["Healthcheck"]["Test"] == ["CMD", "flops", side, "health"]


def test_user_is_nobody_in_particular(image, run):
    assert image.attrs["Config"]["User"] == "10001:10001"
    assert run("id", "-u").strip() == "10001"


def test_holds_its_own_side_and_no_other(run, side):
    found = python(
        run,
        "import importlib.util as u, json; "
        "print(json.dumps([p for p in ('fl', 'server', 'client', 'pipeline', 'tests') if u.find_spec(p)]))",
    )
    assert found == ["fl", side]
    names = run("find", "/opt/code", "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\\n").split()
    assert {name for name in names if not name.endswith(".dist-info")} == {"bin", "fl", side}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["tasks"], ["SIDE", "--help"]])
def test_commands_answer_with_a_read_only_root(run, side, arguments):
    assert run("flops", *(side if word == "SIDE" else word for word in arguments))


def test_help_imports_nothing_heavy(run, side):
    text = f"import json, sys; from fl.cli import main; main([{side!r}, '--help']); print(json.dumps([*sys.modules]))"
    assert not set(python(run, text)) & {"torch", "mlflow", "pandas", "pyarrow"}


def test_imports_what_its_side_needs(run, side):
    needs = {"server": "server.app, server.registry", "client": "client.app"}[side]
    assert python(run, f"import {needs}; print(1)") == 1


def test_nothing_calls_home_or_installs(image):
    environment = dict(line.split("=", 1) for line in image.attrs["Config"]["Env"])
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


def test_left_out_are_compilers_installers_caches_pictures_and_pages(run, side):
    tools = ("cc", "gcc", "g++", "c++", "clang", "make", "uv", "git", "curl", "wget")
    assert python(run, f"import json, shutil; print(json.dumps([t for t in {tools!r} if shutil.which(t)]))") == []
    modules = ("pip", "matplotlib", "ray", "pytest", "flask", *(("mlflow",) if side == "client" else ()))
    found = python(
        run,
        "import importlib.util as u, json, sys; "
        f"print(json.dumps([m for m in {modules!r} if (s := u.find_spec(m)) and s.origin.startswith('/opt')]))",
    )
    assert found == []
    left = ("-name", "*.whl", "-o", "-name", ".cache", "-o", "-path", "*/torch/test")
    assert run("find", "/opt", "/root", "/home", *left, user="0") == ""


def test_a_change_of_code_adds_kilobytes_and_installs_nothing(docker_client, base_image, wheels, image, side):
    tag = f"flops-test-{side}:changed"
    appended = {"fl/cli.py": "\n# Changed.\n"}
    changed, printed = build_image(docker_client, side, base_image, wheels, tag, appended=appended)
    try:
        before = set(image.attrs["RootFS"]["Layers"])
        new = [i for i, layer in enumerate(changed.attrs["RootFS"]["Layers"]) if layer not in before]
        known = {entry["CreatedBy"] for entry in image.history()}  # A copy's step names the digest of its content.
        sizes = [entry["Size"] for entry in changed.history() if entry["CreatedBy"] not in known]
    finally:
        docker_client.images.remove(tag)
    assert len(new) == 2  # Our package list with its hashes, and fl.
    assert len(sizes) == 2
    assert 0 < sum(sizes) < MOST_ADDED
    installed = re.findall(r"Successfully installed (.*)", printed)
    assert all(re.fullmatch(r"flops-\S+", names) for names in installed)
