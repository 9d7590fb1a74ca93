"""`flops server verify`: is the newest global model sound?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from server.commands.common import federation_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    short_help="Load the newest model and look at its weights.",
    epilog="Example: flops server verify --config federation.toml",
)
@federation_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(config: Path, as_json: bool) -> int:
    """Load the newest version of the federation's model: all values finite, and other than it started from?

    MLFLOW_TRACKING_URI names the registry. The exit code is 1 where the answer is no.
    """
    from fl.errors import FlopsError
    from server.settings import read_federation

    settings = read_federation(config)
    from server.registry import Registry
    from server.verifying import verify_newest

    found = verify_newest(Registry(), settings)
    if as_json:
        click.echo(found.as_json())
        return 1 if found.problem else 0
    if found.problem:
        raise FlopsError(found.problem)
    origin = "the first weights" if found.parent is None else f"version {found.parent}"
    click.echo(f"model {found.model} version {found.version} is sound; it moved by {found.change:.4g} from {origin}")
    return 0
