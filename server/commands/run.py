"""`flops run`: a federation on one machine."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from fl.commands.params import FilePath

_EXAMPLES = """\b
Examples:
  flops run digits
  flops run digits --clients 100 --strategy fedadam --partition dirichlet:0.3
  flops run breast-cancer --clients 5 --compare
  flops run tabular --schema schema.toml --data north.csv --data south.csv
  flops run --task mypackage.tasks:sepsis --rounds 10
"""


@click.command(epilog=_EXAMPLES)
@click.argument("task_name", metavar="[TASK]", required=False)
@click.option("--task", "own_task", metavar="MODULE:TASK", help="A task of one's own, package.module:task.")
@click.option("--clients", type=int, help="Hospitals; default: the task's, or as many as the data has.")
@click.option("--rounds", type=int, help="Federated rounds; default: the task's.")
@click.option("--fraction", type=float, default=1.0, show_default=True, help="Part of the hospitals in a round.")
@click.option("--local-epochs", type=int, help="Passes over a hospital's data in a round; default: the task's.")
@click.option("--batch-size", type=int, help="Examples a step; default: the task's.")
@click.option("--lr", type=float, help="Learning rate at the hospitals; default: the task's.")
@click.option("--momentum", type=float, help="Momentum at the hospitals; default: the task's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Fixes everything that is drawn.")
@click.option("--strategy", default="fedavg", show_default=True, help="How to aggregate; see flops strategies.")
@click.option(
    "--strategy-option",
    "strategy_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the strategy.",
)
@click.option(
    "--partition",
    metavar="HOW",
    help="iid, dirichlet:ALPHA (label skew), unequal:SIGMA (sizes) or natural; default: natural with --data, "
    "else iid.",
)
@click.option(
    "--data",
    multiple=True,
    type=FilePath(),
    help="CSV or Parquet file; once for each hospital.",
)
@click.option("--schema", type=FilePath(), help="TOML file that describes the data's columns.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--continue", "continued", is_flag=True, help="Start from the model's newest version.")
@click.option("--compare", is_flag=True, help="Also train each hospital alone, and all data pooled.")
@click.option("--model-name", help="The registered model; default: flops-TASK.")
@click.option("--out", type=FilePath(), help="Output folder; default: flops-out/TASK.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def run(
    context: click.Context, /, task_name: str | None, own_task: str | None, as_json: bool, **options: Any
) -> None:
    """Run a federation on this machine and register its global model.

    TASK is digits, breast-cancer or tabular (default: digits). The global model becomes a version in MLflow:
    in ./flops-registry, or on the server that MLFLOW_TRACKING_URI names.
    """
    from fl.errors import SettingsError

    if task_name and own_task:
        raise SettingsError(f"both TASK '{task_name}' and --task '{own_task}' are given; give one")

    from server.commands.report import ConsoleReporter, quiet_libraries, show_outcome
    from server.simulation.run import simulate
    from server.simulation.settings import settle

    quiet_libraries(debug=context.obj["debug"])
    # Standard output is for the result alone, whatever a task of one's own prints.
    with contextlib.redirect_stdout(sys.stderr):
        task, settings = settle(own_task or task_name or "digits", **options)
        with ConsoleReporter() as reporter:
            outcome = simulate(task, settings, reporter)
    if as_json:
        import json

        click.echo(json.dumps(outcome.as_json(), allow_nan=False))
    else:
        show_outcome(outcome, context.obj["arguments"])
