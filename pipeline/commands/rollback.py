"""`flops rollback`: an earlier release again."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import ALL, pipeline_options, sayer, who

if TYPE_CHECKING:
    from pathlib import Path

_EXAMPLES = """\b
Examples:
  flops rollback dev --reason "rounds fail since this morning"
  flops rollback dev --with-model --reason "it learned from wrong labels"
  flops rollback prod --to 2026-01-31-14-05-09 --reason "as it was in January"
"""


@click.command(short_help="Bring back an earlier release, and hold automatic ones.", epilog=_EXAMPLES)
@click.argument("environment", metavar="ENV")
@click.option("--to", metavar="RELEASE", help="A release's name or its commit; default: the one before.")
@click.option("--reason", required=True, help="Why; whoever meets the hold reads it.")
@click.option(
    "--with-model",
    is_flag=True,
    help="Let the newest model version that the earlier release made be served and trained on from, too.",
)
@pipeline_options
def rollback(
    environment: str, to: str | None, reason: str, with_model: bool, file: Path | None, as_json: bool
) -> None:
    """Bring back an earlier release of an environment in one commit, and hold automatic ones until `flops resume`.

    Nothing is built: the manifest gets the earlier image's digest. With --with-model the model goes back, too, in the
    registry of MLFLOW_TRACKING_URI.
    """
    from fl.errors import SettingsError
    from pipeline.moves import rollback as roll_back
    from pipeline.settings import check_environment, read_settings

    if not reason.strip():
        raise SettingsError("--reason is empty; say why, so that whoever meets the hold knows")
    if to is not None and not to.strip():
        raise SettingsError("--to is empty; name a release, or leave it out for the one before")
    settings = read_settings(file, os.environ, needs=ALL)
    reason = " ".join(reason.split())
    name = check_environment(environment)
    if with_model:
        from pipeline.moves import check_model, restore_model

        model = check_model(settings, name, os.environ)
    move = roll_back(settings, name, to, reason, who(), sayer(), again=with_model)
    told, line = move.as_dict(), move.line
    if with_model:
        version, left = restore_model(settings, move, model, reason, os.environ)
        told |= {"model": model, "model_version": version, "taken_back": sorted(left)}
        again = (
            f"version {version} is the champion again" if version else "stays as it is, the release made none of it"
        )
        line += f"; model {model} {again}"
    click.echo(json.dumps(told) if as_json else line)
