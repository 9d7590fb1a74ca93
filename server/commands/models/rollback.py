"""`flops models rollback`: an earlier version again."""

from __future__ import annotations

import json

import click


@click.command(
    short_help="Serve an earlier version again, and train on from it.",
    epilog='Example: flops models rollback --to 3 --reason "wrong labels at st-mary"',
)
@click.option("--to", metavar="VERSION", help="The version; default: the newest before the champion that passed.")
@click.option("--reason", required=True, help="Why; it stays with the versions that are taken back.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def rollback(context: click.Context, to: str | None, reason: str, as_json: bool) -> None:
    """Make an earlier version the champion. All that came after it is marked, and the next job goes on from it."""
    from fl.errors import SettingsError
    from server.models import choose_model, number_of, open_registry, roll_back

    reason = " ".join(reason.split())
    if not reason:
        raise SettingsError("--reason is empty; say why, so that whoever looks at the versions knows")
    registry = open_registry()
    name = choose_model(registry, context.obj["model"])
    made, left = roll_back(registry, name, number_of(registry, name, to) if to is not None else None, reason)
    if as_json:
        click.echo(json.dumps({"model": name, "champion": made.version, "taken_back": sorted(left)}))
        return
    gone = f"; taken back: {', '.join(map(str, sorted(left)))}" if left else ""
    click.echo(f"{name}: version {made.version} is the champion, and the next job goes on from it{gone}")
