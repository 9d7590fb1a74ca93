"""`flops strategies`: how models can be aggregated."""

from __future__ import annotations

import click


@click.command(epilog="Example: flops strategies --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def strategies(as_json: bool) -> None:
    """List the aggregation strategies, with options, defaults and source papers."""
    from server.strategies import STRATEGIES

    if as_json:
        import json

        listed = [
            {
                "name": spec.name,
                "title": spec.title,
                "paper": spec.paper,
                "keeps_all_replies": spec.needs_all,
                "options": {
                    name: {"default": option.default, "range": option.range, "help": option.help}
                    for name, option in spec.options.items()
                },
            }
            for spec in STRATEGIES.values()
        ]
        click.echo(json.dumps({"strategies": listed}))
        return
    from fl.console import print_table

    print_table(
        ("strategy", "what", "options (default)", "source"),
        [
            (
                spec.name,
                spec.title,
                "\n".join(f"{name}={o.default:g}  {o.help}; {o.range}" for name, o in spec.options.items()),
                spec.paper,
            )
            for spec in STRATEGIES.values()
        ],
    )
    click.echo("\nExample: flops run digits --strategy fedadam --strategy-option eta=0.01")
