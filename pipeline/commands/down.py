"""`flops down`: the end of `flops up`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from fl.commands.params import FilePath
from pipeline.commands.common import pipeline_options

if TYPE_CHECKING:
    from pathlib import Path


@click.command(short_help="End what `flops up` runs, and remove it.", epilog="Example: flops down --purge")
@click.option("--environment", metavar="ENV", help="Whose loop is ended; default: config.environment, dev.")
@click.option("--state", "folder", type=FilePath(), metavar="FOLDER", help="As 'flops up' was given it.")
@click.option(
    "--purge", is_flag=True, help="Remove what is kept, too: models, demo hospitals' keys and data; secrets stay."
)
@pipeline_options
def down(environment: str | None, folder: Path | None, purge: bool, file: Path | None, as_json: bool) -> None:
    """End the `flops up` of an environment and remove its containers and network, also those that a killed one left.

    What is kept for the next start stays, unless --purge is given. Nothing else on the engine is touched.
    """
    from pipeline.commands.up import find_state
    from pipeline.loop.ending import end
    from pipeline.settings import check_environment, read_settings

    settings = read_settings(file, os.environ)
    state = find_state(folder, check_environment(environment) if environment else settings.environment)
    told = end(state, purge=purge)
    click.echo(json.dumps(told) if as_json else _line(told, state.folder))


def _line(told: dict[str, object], folder: Path) -> str:
    if not told["there"]:
        return f"no loop was started with {folder}; nothing to end"
    removed = f"{told['containers']} containers removed" if told["containers"] else "nothing was left"
    ended = "ended; " if told["ended"] else ""
    kept = f"{folder} is kept" if not told["purged"] else f"{folder} is removed, too"
    return f"{ended}{removed}; {kept}{', but for its secrets' if told['purged'] and folder.exists() else ''}"
