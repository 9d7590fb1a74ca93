"""`flops models`: the versions there are, and the commands that look closer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from fl.commands.group import LazyGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXAMPLES = """\b
Examples:
  flops models
  flops models --commit 3f2a1c
  flops models show champion
  flops models diff 3 4
  flops models rollback --reason "wrong labels at st-mary"
"""


@click.group(
    "models",
    cls=LazyGroup,
    places={
        "diff": "server.commands.models.diff:diff",
        "rollback": "server.commands.models.rollback:rollback",
        "show": "server.commands.models.show:show",
    },
    invoke_without_command=True,
    short_help="List versions of the global model, with what made them.",
    epilog=_EXAMPLES,
)
@click.option("--model", metavar="NAME", help="The registered model; default: the only one that there is.")
@click.option("--commit", metavar="COMMIT", default="", help="Only versions that this source commit made.")
@click.option("--digest", metavar="DIGEST", default="", help="Only versions that this server image made.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The newest versions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def models(context: click.Context, model: str | None, commit: str, digest: str, limit: int, as_json: bool) -> None:
    """List the versions of the global model, newest first: parent, release, hospitals, metrics, gate.

    MLFLOW_TRACKING_URI names the registry; without it, it is flops-registry/ in this folder.
    """
    context.obj = {**(context.obj or {}), "model": model}
    if context.invoked_subcommand is not None:
        return
    from server.models import choose_model, find, open_registry

    registry = open_registry()
    name = choose_model(registry, model)
    found = find(registry, name, commit=commit, digest=digest)
    if as_json:
        rows = [{"version": v.version, "champion": champion, "tags": dict(v.tags)} for v, champion in found[:limit]]
        click.echo(json.dumps({"model": name, "versions": rows}))
        return
    if not found:
        click.echo(f"{name}: no version {'that it made' if commit or digest else 'yet'}")
        return
    from fl.console import print_table

    table = [
        (
            version.version,
            "champion" if champion else "taken back" if version.abandoned else "",
            version.tags.get("parent", "") or "none",
            version.tags.get("release", ""),
            version.tags.get("commit", "")[:12],
            version.tags.get("rounds", ""),
            _hospitals(version.tags),
            version.tags.get("metrics", ""),
            version.tags.get("gate", ""),
        )
        for version, champion in found[:limit]
    ]
    header = ("version", "alias", "parent", "release", "commit", "rounds", "hospitals", "metrics", "gate")
    print_table(header, table, title=name)


def _hospitals(tags: Mapping[str, str]) -> str:
    """Name them where they are few, else say how many they are."""
    names, number = tags.get("hospitals", ""), tags.get("clients", "")
    return names if names and names.count(",") < 4 else number
