"""What `flops run` shows a person: progress on standard error, the outcome on standard output."""

from __future__ import annotations

import logging
import math
import os
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fl.console import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl.training import Evaluation
    from server.records import RoundRecord
    from server.simulation.outcome import Outcome

LISTED = 12
"""Up to this many hospitals are listed one by one."""


def quiet_libraries(*, debug: bool) -> None:
    """Show the libraries' logs with --debug alone."""
    level = logging.DEBUG if debug else logging.ERROR
    for name in ("flwr", "mlflow", "alembic", "matplotlib", "ray", "flops"):
        logging.getLogger(name).setLevel(level)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", logging.getLevelName(level))  # It sets its own when it is imported.
    if not debug:
        warnings.simplefilter("ignore")


class ConsoleReporter:
    """A progress bar on standard error; a line a phase where that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> ConsoleReporter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, text: str, steps: int | None = None) -> None:
        """Begin a part of the run."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        if not self._console.is_terminal:
            self._console.print(f"{text} …")
        self._task = self._progress.add_task(text, total=steps, numbers="")

    def step(self) -> None:
        """Advance by one."""
        self._progress.advance(self._task)

    def round_done(self, record: RoundRecord, rounds: int) -> None:
        """Show a round's loss and accuracy."""
        numbers = _numbers(record.evaluation)
        self._progress.update(self._task, advance=1, numbers=numbers)
        if not self._console.is_terminal and (record.round % max(1, rounds // 5) == 0 or record.round == rounds):
            self._console.print(f"  round {record.round}/{rounds}  {numbers}")


def _numbers(evaluation: Evaluation) -> str:
    parts = [f"loss {evaluation.loss:.4f}"]
    parts += [f"{name} {value:.4f}" for name, value in evaluation.metrics.items()]
    return "  ".join(parts)


def show_outcome(outcome: Outcome, arguments: Sequence[str]) -> None:
    """Print the tables and where to look next."""
    settings, final = outcome.settings, outcome.history[-1]
    metric = "accuracy" if "accuracy" in final.evaluation.metrics else next(iter(final.evaluation.metrics), "")
    click.echo()
    _show_sites(outcome, final, metric)
    if outcome.comparison is not None:
        _show_comparison(outcome, metric)
    made = (
        "from the task's first weights" if outcome.parent is None else f"continues version {outcome.parent.version}"
    )
    click.echo(
        f"{settings.task}: {len(outcome.sites)} hospitals, {settings.partition}, {settings.strategy}, "
        f"{settings.hyperparameters.rounds} rounds in {outcome.train_seconds:.1f} s of training "
        f"({outcome.seconds:.1f} s in all)"
    )
    click.echo(f"Global model: {_numbers(final.evaluation)} on all hospitals' hold-out data")
    served = ", champion" if outcome.champion else ""
    click.echo(f"Registered:   {outcome.model.name} version {outcome.model.version} ({made}{served})")
    click.echo(f"Pictures:     {settings.out}/learning-curve.png, {settings.out}/partition.png")
    click.echo(f"Look closer:  {_browse()}")
    click.echo(f"Go on:        {_again(arguments)}")


def _browse() -> str:
    """Return where the registry can be looked at: the server's address, or the command that starts one."""
    from server.registry_names import public_uri

    uri = public_uri()
    if uri.startswith("http"):
        return uri
    return shlex.join([_program("mlflow"), "ui", "--backend-store-uri", uri])


def _again(arguments: Sequence[str]) -> str:
    """Return the command that goes on with the model: the one given, without what only shapes its output."""
    kept = [a for a in arguments if a not in ("--json", "--compare", "--continue", "--debug")]
    return shlex.join([_program("flops"), *kept, "--continue"])


def _program(name: str) -> str:
    """Return how to call a program of this environment: by its name where the shell finds it, else by its path."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not ours.exists() or (found and Path(found).resolve() == ours.resolve()):
        return name
    return str(ours.relative_to(Path.cwd())) if ours.is_relative_to(Path.cwd()) else str(ours)


def _show_sites(outcome: Outcome, final: RoundRecord, metric: str) -> None:
    rows: list[tuple[object, ...]] = []
    shown = list(outcome.sites)
    if len(shown) > LISTED:
        shown = sorted(shown, key=lambda s: (_score(final.sites[s.name], metric), -final.sites[s.name].loss))[:LISTED]
    for site in shown:
        evaluation = final.sites[site.name]
        rows.append((site.name, len(site.train), len(site.holdout), *_cells(evaluation, metric)))
    title = None
    if len(shown) < len(outcome.sites):
        title = f"the {LISTED} of {len(outcome.sites)} hospitals that the global model fits least"
    print_table(("hospital", "trains on", "holds out", *_columns(metric)), rows, title)


def _show_comparison(outcome: Outcome, metric: str) -> None:
    comparison = outcome.comparison
    assert comparison is not None  # noqa: S101 - the caller asked
    final = outcome.history[-1]
    columns = [metric, "loss"] if metric else ["loss"]
    ways = {
        "each hospital alone": list(comparison.local.values()),
        "federated": [final.evaluation],
        "all data pooled": [comparison.pooled],
    }
    rows = [
        (way, *(_spread([e.loss if c == "loss" else e.metrics[c] for e in evaluations]) for c in columns))
        for way, evaluations in ways.items()
    ]
    print_table(("trained", *columns), rows, "what federating brings, on all hospitals' hold-out data")


def _spread(values: Sequence[float]) -> str:
    """Return a number, or a mean with its range."""
    mean = f"{sum(values) / len(values):.4f}"
    return mean if len(values) == 1 else f"{mean}  ({min(values):.4f} to {max(values):.4f})"


def _score(evaluation: Evaluation, metric: str) -> float:
    value = evaluation.metrics.get(metric, -evaluation.loss)
    return math.inf if math.isnan(value) else value


def _columns(metric: str) -> tuple[str, ...]:
    return (metric, "loss") if metric else ("loss",)


def _cells(evaluation: Evaluation, metric: str) -> tuple[object, ...]:
    numbers = [evaluation.metrics.get(metric, math.nan)] if metric else []
    return tuple("-" if math.isnan(value) else f"{value:.4f}" for value in (*numbers, evaluation.loss))
