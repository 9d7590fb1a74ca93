"""`flops models show`: how a version came to be."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.lineage import Lineage


@click.command(
    short_help="Show one version's history, to the root.",
    epilog="Example: flops models show 4",
)
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def show(context: click.Context, version: str, as_json: bool) -> None:
    """Show what made a version, a number or an alias such as champion, and its parents, to the root."""
    from fl.protocol import ABANDONED
    from server.models import choose_model, history, number_of, open_registry

    registry = open_registry()
    name = choose_model(registry, context.obj["model"])
    chosen = number_of(registry, name, version)
    found, taken_back = list(history(registry, chosen)), chosen.tags.get(ABANDONED)
    if as_json:
        told = {"model": name, "taken_back": taken_back, "history": [asdict(one) for one in found]}
        click.echo(json.dumps(told))
        return
    _tell(found[0])
    if taken_back is not None:
        click.echo(f"taken back: {taken_back}")
    for one in found[1:]:
        made = f"release {one.release}" if one.release else f"commit {one.commit[:12]}" if one.commit else "by hand"
        measured = _measured(one.metrics)
        click.echo(f"from {one.model}: {made}, {one.rounds} rounds{f', {measured}' if measured else ''}")
    last = found[-1]
    click.echo(f"from version {last.parent}, which is gone" if last.parent else "from the task's first weights")


def _tell(one: Lineage) -> None:
    from fl.console import print_table
    from server.lineage import left_out_line

    rows = [
        ("task", one.task),
        ("commit", one.commit),
        ("image", one.image),
        ("release", one.release),
        ("config commit", one.config_commit),
        ("protocol", one.protocol or ""),
        ("rounds", one.rounds),
        ("metrics", _measured(one.metrics)),
        ("seconds", f"{one.seconds:.1f}" if one.seconds else ""),
        ("signature", one.signature),
        ("weights", one.digest),
        *((f"  {name}", value) for name, value in one.settings.items()),
    ]
    print_table(("", one.model), [(name, str(value)) for name, value in rows if value != ""])
    hospitals = [
        (name, str(told.get("examples", "")), str(told.get("rounds", "")), str(told.get("release", "")),
         _measured(told.get("metrics", {})))
        for name, told in one.hospitals.items()
    ]  # fmt: skip
    if hospitals:
        print_table(("hospital", "examples", "rounds", "client", "on its hold-out data"), hospitals)
    if one.gate:
        _tell_gate(one.gate)
    for left in one.left_out:
        click.echo(left_out_line(left))


def _tell_gate(gate: Mapping[str, Any]) -> None:
    from fl.console import print_table

    metric, champion, hospitals = gate.get("metric", ""), gate.get("champion", 0), gate.get("hospitals", {})
    if hospitals:
        pairs = {
            **hospitals,
            "all of them": {"candidate": gate["candidate_value"], "champion": gate["champion_value"]},
        }
        print_table(
            (f"{metric} at", "this version", f"version {champion}, the champion then"),
            [(name, f"{both['candidate']:.4f}", f"{both['champion']:.4f}") for name, both in pairs.items()],
        )
    click.echo(gate.get("reason") or "gate: passed")


def _measured(metrics: object) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()) if isinstance(metrics, dict) else ""
