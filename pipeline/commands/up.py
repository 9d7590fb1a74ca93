"""`flops up`: the config repository's environment, run on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from fl.commands.params import FilePath
from pipeline.commands.common import CONFIG, pipeline_options

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.loop.state import State

_STALE = 60
"""A loop says every ten seconds how it goes; after so many without a word something is wrong, in seconds."""

_EXAMPLES = """\b
Examples:
  flops up --hospitals 3
  flops up git@git.example.org:flops/config.git --environment prod
  flops up --status
"""


@click.command(short_help="Run an environment of the config repository on this machine.", epilog=_EXAMPLES)
@click.argument("repository", metavar="[REPOSITORY]", required=False)
@click.option("--environment", metavar="ENV", help="The folder that is run; default: config.environment, dev.")
@click.option(
    "--hospitals",
    type=click.IntRange(0, 50),
    default=0,
    metavar="N",
    help="Run so many demo hospitals, too, with parts of a built-in task's data.",
)
@click.option(
    "--tracking", metavar="URL", default="", help="A tracking server that there is; default: one of its own."
)
@click.option(
    "--every",
    type=click.FloatRange(0.5, 3600),
    default=8.0,
    show_default=True,
    metavar="SECONDS",
    help="Look at the config repository so often.",
)
@click.option(
    "--state",
    "folder",
    type=FilePath(),
    metavar="FOLDER",
    help="What is kept between two starts; default: $XDG_STATE_HOME/flops/up/ENV.",
)
@click.option("--status", "show", is_flag=True, help="Show how it goes with what runs, and end.")
@pipeline_options
def up(  # noqa: PLR0913 - one for each option
    repository: str | None,
    *,
    environment: str | None,
    hospitals: int,
    tracking: str,
    every: float,
    folder: Path | None,
    show: bool,
    file: Path | None,
    as_json: bool,
) -> None:
    """Watch the config repository and make it true on this machine, with Docker Engine and nothing else.

    The CronJob's jobs start on their schedule, the Deployment's container runs, config maps and secrets are mounted,
    and what the branch gets is followed. It is a development loop and no cluster; a manifest that it does not
    understand is refused. Ctrl-C, or 'flops down' elsewhere, ends and removes what it started.
    """
    from fl.errors import SettingsError
    from pipeline.loop.loop import Wishes, run
    from pipeline.settings import check_environment, read_settings

    settings = read_settings(file, os.environ, needs=() if repository or show else CONFIG)
    name = check_environment(environment) if environment else settings.environment
    state = find_state(folder, name)
    if show:
        _show(state, as_json)
        return
    address = urlsplit(tracking)
    if tracking and not (address.scheme in ("http", "https") and address.hostname):
        raise SettingsError(
            f"--tracking {tracking}: the address of a server that containers reach is needed, http://…"
        )
    settings = replace(settings, repository=repository or settings.repository)
    run(settings, Wishes(name, hospitals, tracking, every), state, _sayer(as_json))


def find_state(folder: Path | None, environment: str) -> State:
    """Return the state in a folder, or where an environment's is by default."""
    from pipeline.locks import state_folder
    from pipeline.loop.state import State

    return State(folder if folder is not None else state_folder("up") / environment)


def _sayer(as_json: bool) -> Callable[[str], None]:
    """Return what tells what happens, a line each, on standard output: it is what the command is for."""
    lock = threading.Lock()

    def say(text: str) -> None:
        now = datetime.now().astimezone()
        line = json.dumps({"time": now.isoformat(timespec="seconds"), "message": text}) if as_json else ""
        # A reader that has gone, or a full disk, is no reason to stop, and above all none to leave things running.
        with lock, contextlib.suppress(OSError, ValueError):
            click.echo(line or f"{now:%H:%M:%S} {text}")

    return say


def _show(state: State, as_json: bool) -> None:
    from pipeline.loop.runner import clock

    status = state.status()
    running = state.owner() is not None
    if as_json:
        click.echo(json.dumps({"running": running, "state": str(state.folder), **status}))
        return
    if not running:
        left = "; it was killed: 'flops up' goes on with what it left, 'flops down' removes it" if status else ""
        click.echo(f"nothing runs in {state.folder}{left}")
        if not status:
            return
    click.echo(f"{status.get('environment')}: config {status.get('config_commit', '')[:8] or 'not read yet'}")
    written = status.get("written", "")
    if running and written and (datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds() > _STALE:
        click.echo(
            f"  as of:    {_time(written)}; nothing newer could be written: is the disk of {state.folder} full?"
        )
    for owner, due in status.get("next_rounds", {}).items():
        click.echo(f"  next:     {owner} at {clock(datetime.fromisoformat(due))}")
    if status.get("tracking"):
        click.echo(f"  tracking: {status['tracking']}")
    if status.get("waits"):
        click.echo(f"  waits:    for {status['waits']}")
    for problem in status.get("problems", ()):
        click.echo(f"  problem:  {problem}")
    _tables(status)


def _tables(status: dict[str, Any]) -> None:
    from fl.console import print_table
    from pipeline.loop.rounds import line, release_of

    rows = [
        (
            pod["owner"],
            pod["role"],
            pod["state"],
            _time(pod["started"]),
            release_of(pod["image"]),
            pod.get("address", ""),
        )
        for pod in status.get("pods", ())
    ]
    if rows:
        print_table(("what", "role", "state", "since", "release", "address"), rows)
    rounds = [(_time(row["due"]), release_of(row["image"]), line(row)) for row in status.get("rounds", ())]
    if rounds:
        print_table(("round", "release", "how it ended"), rounds[-10:])


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%H:%M:%S}" if text else ""
