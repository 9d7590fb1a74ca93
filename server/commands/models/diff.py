"""`flops models diff`: how two versions differ."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import click


@click.command(
    short_help="Show how two versions differ.",
    epilog="Example: flops models diff 3 champion",
)
@click.argument("one")
@click.argument("other")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def diff(context: click.Context, one: str, other: str, as_json: bool) -> None:
    """Show what changed from one version to another: settings, release, hospitals, metrics, weights."""
    from server.models import choose_model, difference, number_of, open_registry

    registry = open_registry()
    name = choose_model(registry, context.obj["model"])
    a, b = number_of(registry, name, one), number_of(registry, name, other)
    found = difference(registry, a, b)
    if as_json:
        told = asdict(found)
        told |= {key: None for key in ("distance", "relative") if not math.isfinite(told[key])}
        click.echo(json.dumps({"model": name, "from": a.version, "to": b.version, **told}))
        return
    from fl.console import print_table

    rows = [(what, key, *pair) for what in ("release", "settings") for key, pair in getattr(found, what).items()]
    rows += [("hospital", hospital, *(("", how) if how == "joined" else (how, "")))
             for hospital, how in found.hospitals.items()]  # fmt: skip
    rows += [("all hospitals", key, *map(_number, pair)) for key, pair in found.metrics.items()]
    rows += [
        (hospital, key, *map(_number, pair))
        for hospital, metrics in found.by_hospital.items()
        for key, pair in metrics.items()
    ]
    if rows:
        print_table(("what", "", f"version {a.version}", f"version {b.version}"), rows, title=name)
    if math.isfinite(found.distance):
        click.echo(f"weights: {found.distance:.4g} apart, {found.relative:.2%} of version {a.version}'s norm")
    else:
        click.echo("weights: the two have other arrays")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
