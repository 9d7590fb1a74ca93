"""`flops tasks`: what can be learned."""

from __future__ import annotations

import click


@click.command(epilog="Example: flops tasks --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tasks(as_json: bool) -> None:
    """List the tasks that are built in, with their defaults."""
    from fl.tasks.breast_cancer import breast_cancer
    from fl.tasks.digits import digits
    from fl.tasks.tabular import DESCRIPTION, HYPERPARAMETERS

    rows = [
        (digits.name, digits.description, digits.clients, digits.hyperparameters),
        (breast_cancer.name, breast_cancer.description, breast_cancer.clients, breast_cancer.hyperparameters),
        ("tabular", DESCRIPTION, None, HYPERPARAMETERS),
    ]
    if as_json:
        import json
        from dataclasses import asdict

        listed = [
            {"name": name, "description": text, "clients": clients, **asdict(h)} for name, text, clients, h in rows
        ]
        click.echo(json.dumps({"tasks": listed}))
        return
    from fl.console import print_table

    print_table(
        ("task", "what", "hospitals", "rounds", "epochs", "batch", "lr"),
        [
            (
                name,
                text,
                "one a file" if clients is None else clients,
                h.rounds,
                h.local_epochs,
                h.batch_size,
                h.lr,
            )
            for name, text, clients, h in rows
        ],
    )
    click.echo("\nOne's own: flops run --task package.module:task (docs/tasks.md)")
