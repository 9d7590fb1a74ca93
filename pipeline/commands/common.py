"""What the pipeline's commands share: options, and who gives the command."""

from __future__ import annotations

import getpass
import os
import socket
import time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fl.commands.params import FilePath

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Command = TypeVar("Command", bound="Callable[..., Any]")

CONFIG = ("config.repository",)
"""The settings without which no config repository is found."""

ALL = (*CONFIG, "registry.host", "registry.project")
"""The settings that a release needs."""


def pipeline_options(command: Command) -> Command:
    """Give a command the options that all of the pipeline have."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."),
        click.option(
            "--settings",
            "file",
            type=FilePath(),
            envvar="FLOPS_SETTINGS",
            show_envvar=True,
            metavar="FILE",
            help="The settings; default: flops.toml here, if there is one.",
        ),
    ):
        command = option(command)
    return command


def who() -> str:
    """Return who gives the command: the workflow's actor, else the user of this machine."""
    if actor := os.environ.get("GITHUB_ACTOR"):
        return actor
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user that no list knows.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def sayer() -> Callable[[str], None]:
    """Return what tells people, on standard error, what happens, with the seconds since the start."""
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - started:6.1f} s  {text}", err=True)

    return say


def append(path: Path, text: str) -> None:
    """Add a text to a file, such as GitHub's step summary; one that cannot be written is no failure."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"flops: {path} cannot be written: {error.strerror}", err=True)
