"""`flops status`: what runs, and what ran."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from pipeline.commands.common import ALL, pipeline_options

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.status import EnvironmentStatus

_EXAMPLES = """\b
Examples:
  flops status
  flops status prod --limit 20
"""


@click.command(short_help="What environments run, ran, and whether it works.", epilog=_EXAMPLES)
@click.argument("environments", nargs=-1, metavar="[ENV]...")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="The newest releases of each."
)
@pipeline_options
def status(environments: tuple[str, ...], limit: int, file: Path | None, as_json: bool) -> None:
    """List the releases of environments, newest first: commit, time, digests, who, and whether releases are held.

    Where a cluster can be reached with this user's kubeconfig, it tells whether a Job has completed with the image
    since it was put in charge.
    """
    from pipeline.settings import read_settings
    from pipeline.status import read_status

    found = read_status(read_settings(file, os.environ, needs=ALL), environments)
    if as_json:
        click.echo(json.dumps({"environments": [one.as_dict(limit) for one in found]}))
        return
    for one in found:
        _show(one, limit)


def _show(one: EnvironmentStatus, limit: int) -> None:
    from fl.console import print_table

    rows = [
        (
            event.record.release,
            event.record.commit[:12],
            event.what,
            event.time[:19].replace("T", " "),
            event.record.images["server"].digest[7:19],
            event.record.images["client"].digest[7:19] if "client" in event.record.images else "",
            event.by,
        )
        for event in one.events[:limit]
    ]
    if rows:
        print_table(("release", "commit", "what", "time", "server", "client", "by"), rows, title=one.name)
    else:
        click.echo(f"{one.name}: no release yet")
    click.echo(f"  manifest: {one.image or 'cannot be read'}")
    if one.problem:
        click.echo(f"  problem:  {one.problem}")
    if one.hold:
        click.echo(f"  held:     by {one.hold.by} since {one.hold.since}: {one.hold.reason}")
    if one.runs:
        last = f"; the last at {one.runs.last}" if one.runs.last else ""
        told = f"{one.runs.completed} Jobs completed with this image since, {one.runs.failed} failed{last}"
        click.echo(f"  cluster:  {one.runs.context}/{one.runs.namespace}: {told}")
    else:
        click.echo(f"  cluster:  not asked: {one.cluster}")
