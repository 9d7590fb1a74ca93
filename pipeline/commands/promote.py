"""`flops promote`: one environment's release in another."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import ALL, pipeline_options, sayer, who

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config_repo import ConfigRepo
    from pipeline.record import ReleaseRecord

_EXAMPLES = """\b
Examples:
  flops promote dev prod
  flops promote dev prod --require-rounds 20
"""


@click.command(short_help="Put one environment's release into another.", epilog=_EXAMPLES)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--require-rounds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only when FROM has registered so many model versions with this release; MLFLOW_TRACKING_URI says where.",
)
@pipeline_options
def promote(source: str, target: str, require_rounds: int | None, file: Path | None, as_json: bool) -> None:
    """Put the release that one environment runs into another: the exact digests, in one commit, never a rebuild."""
    from fl.errors import FlopsError, SettingsError
    from pipeline.model_registry import count_versions, model_name
    from pipeline.moves import promote as move_on
    from pipeline.settings import check_environment, read_settings

    settings = read_settings(file, os.environ, needs=ALL)
    if require_rounds and not settings.tracking:
        raise SettingsError("--require-rounds asks the model registry; set MLFLOW_TRACKING_URI")

    def check(repo: ConfigRepo, record: ReleaseRecord) -> None:
        if not require_rounds:
            return
        path = f"{source}/federation.toml"
        model = model_name(repo.read(path), path)
        count = count_versions(settings.tracking, model, record, os.environ)
        if count < require_rounds:
            raise FlopsError(
                f"release {record.release} has registered {count} versions of {model} in {source}, and "
                f"{require_rounds} are required; wait for more rounds"
            )

    move = move_on(settings, check_environment(source), check_environment(target), who(), sayer(), check)
    click.echo(json.dumps(move.as_dict()) if as_json else move.line)
