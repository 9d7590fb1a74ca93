"""`flops resume`: releases go on."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import CONFIG, pipeline_options, sayer, who

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="Lift the hold of a rollback.", epilog="Example: flops resume dev")
@click.argument("environment", metavar="ENV")
@pipeline_options
def resume(environment: str, file: Path | None, as_json: bool) -> None:
    """Let automatic releases of an environment go on after a rollback."""
    from pipeline.moves import resume as lift
    from pipeline.settings import check_environment, read_settings

    settings = read_settings(file, os.environ, needs=CONFIG)
    move = lift(settings, check_environment(environment), who(), sayer())
    click.echo(json.dumps(move.as_dict()) if as_json else move.line)
