"""The command as a whole: what it knows, how fast it answers, that it is documented."""

import dataclasses
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from fl import cli

ROOT = Path(__file__).parents[1]
PIPELINE = ("doctor", "init", "init-config", "promote", "release", "resume", "rollback", "status")
LOOP = ("down", "up")
COMMANDS = ("deal", "run", "models", "strategies", "tasks", *PIPELINE, *LOOP)
CLIENT = ("check", "health", "keygen", "receipts", "start")
MODELS = ("diff", "rollback", "show")
SERVER = ("certificate", "health", "key", "round", "serve", "verify")
EVERY = (*COMMANDS, *(f"client {name}" for name in CLIENT), *(f"server {name}" for name in SERVER))
EVERY = (*EVERY, *(f"models {name}" for name in MODELS))
PAGES = {"run": "run.md", "deal": "data.md", "client": "hospital.md", "server": "server.md", "models": "models.md"}
PAGES |= dict.fromkeys(PIPELINE, "releases.md") | dict.fromkeys(LOOP, "loop.md")
"""Where the options of a command, or of a group's, are documented."""


def _command(name: str) -> click.Command:
    context = click.Context(cli.flops)
    command: click.Command = cli.flops
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None, name
        command = found
    return command


def test_the_commands_are_those_of_the_installed_parts(flops):
    ended = flops("--help")

    assert ended.code == 0
    for name in (*COMMANDS, "client", "server"):
        assert f"  {name} " in ended.out


@pytest.mark.parametrize(("group", "names"), [("client", CLIENT), ("server", SERVER)])
def test_a_groups_commands_are_listed_with_a_whole_line_each(flops, group, names):
    ended = flops(group, "--help")
    listed = ended.out.split("Commands:\n")[1].split("\n\n")[0].splitlines()

    assert ended.code == 0
    assert [line.split()[0] for line in listed] == list(names)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_research_needs_server_and_client(flops, monkeypatch):
    monkeypatch.setattr(cli, "installed", lambda package: package != "client")

    ended = flops("--help")

    assert "tasks" in ended.out
    assert "server" in ended.out
    assert "strategies" not in ended.out
    assert "  client" not in ended.out
    assert flops("run", "digits").code == 2


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_help_with_an_example_and_json(flops, name):
    ended = flops(*name.split(), "--help")

    assert ended.code == 0
    assert f"flops {name}" in " ".join(ended.out.rsplit("Example", 1)[1].split())
    assert "--json" in ended.out


@pytest.mark.parametrize("name", EVERY)
def test_every_command_is_in_the_documentation(name):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]

    assert any(f"flops {name}" in page.read_text() for page in pages)


@pytest.mark.parametrize("name", [name for name in EVERY if name.split()[0] in PAGES])
def test_every_option_and_variable_is_documented(name):
    text = (ROOT / "docs" / PAGES[name.split()[0]]).read_text()

    for parameter in _command(name).params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert f"`{option}" in text, option
        if isinstance(parameter, click.Option) and isinstance(parameter.envvar, str):
            assert f"`{parameter.envvar}`" in text, parameter.envvar


@pytest.mark.parametrize("text", [path.read_text() for path in (ROOT / "docs").glob("*.md")])
def test_the_documentation_names_no_command_that_is_not_there(text):
    for words in re.findall(r"flops ((?:client|server) [a-z]+)", text):
        _command(words)


def test_every_key_of_a_federations_file_is_documented():
    from server.settings import read_federation

    text = (ROOT / "docs" / "server.md").read_text()
    keys = inspect.getsource(sys.modules[read_federation.__module__])

    for key in re.findall(r"""(?:file|table)\.(?:text|whole|number|table|has)\("([a-z_]+)\"""", keys):
        assert f"`{key}`" in text or f"`[{key}]`" in text, key


def test_every_key_of_a_policy_is_documented():
    from client.policy import Policy

    text = (ROOT / "docs" / "hospital.md").read_text()

    for field in dataclasses.fields(Policy):
        assert f"| `{field.name}` |" in text


def test_an_unknown_command_suggests_the_nearest(flops):
    ended = flops("strategeis")

    assert ended.code == 2
    assert "unknown command 'strategeis' (did you mean 'strategies'?)" in ended.line


def test_no_arguments_show_the_help(flops):
    ended = flops()

    assert ended.code == 0
    assert "Usage: flops" in ended.out


def test_version(flops):
    assert importlib.metadata.version("flops") in flops("--version").out


def test_a_bug_is_one_line_that_says_so(flops, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("server.simulation.settings.settle", broken)
    ended = flops("run", "digits")

    assert ended.code == 1
    assert ended.line == "ZeroDivisionError: oh (a bug; --debug shows where)"


@pytest.mark.parametrize(
    ("words", "library", "part"),
    [
        (["release"], "git", "pipeline"),
        (["server", "certificate", "--host", "a.example.org"], "cryptography", "server"),
        (["client", "keygen"], "cryptography", "client"),
        (["run", "digits"], "torch", "research"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_the_part_that_brings_it(words, library, part, here):
    script = f"import sys; sys.modules['{library}'] = None; from fl.cli import main; sys.exit(main({words}))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.endswith(
        f"the library '{library}' is not installed; pip install '.[{part}]' in the source's folder brings it\n"
    )


def test_help_imports_nothing_heavy():
    script = "import sys; from fl.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    loaded = {name.strip("'[] ").split(".")[0] for name in ended.stderr.split(",")}
    assert not loaded & {"torch", "mlflow", "flwr", "numpy", "pandas", "sklearn", "matplotlib", "rich", "ray"}


def test_lists_are_json_for_machines(flops):
    tasks = flops("tasks", "--json").json["tasks"]
    strategies = flops("strategies", "--json").json["strategies"]

    assert [task["name"] for task in tasks] == ["digits", "breast-cancer", "tabular"]
    assert len(strategies) == 12
    assert all(strategy["paper"] for strategy in strategies)
    assert strategies[3]["options"]["eta"]["default"] == 0.01


def test_lists_for_people_name_everything(flops):
    text = flops("strategies").out

    for words in ("fedadam", "tau=0.001", "arXiv:1703.02757"):
        assert words in text
    assert "breast-cancer" in flops("tasks").out


def test_a_closed_pipe_is_no_error():
    # A pipe that nobody reads any more: the first write to it fails.
    command = f"set -o pipefail; (sleep 0.5; {sys.executable} -u -m fl.cli strategies) | true"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)

    assert "Traceback" not in ended.stderr
    assert "bug" not in ended.stderr
    assert ended.returncode in (0, 1)


def test_nothing_is_sent_anywhere_by_the_libraries():
    script = (
        "import fl, os, json;"
        "print(json.dumps({k: v for k, v in os.environ.items() if k[:4] in ('FLWR', 'MLFL', 'RAY_')}))"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR", "MLFLOW", "RAY"))}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=clean)

    assert json.loads(ended.stdout) == {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": "1048576",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
