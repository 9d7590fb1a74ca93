"""What `flops run` shows a person: progress on standard error, the outcome on standard output."""

from __future__ import annotations

import logging
import math
import shlex
import warnings
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fl.console import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl.training import Evaluation
    from server.rounds import RoundRecord
    from server.simulation.run import Outcome

LISTED = 12
"""Up to this many hospitals are listed one by one."""


def quiet_libraries(*, debug: bool) -> None:
    """Show the libraries' logs with --debug alone."""
    level = logging.DEBUG if debug else logging.ERROR
    for name in ("flwr", "mlflow", "alembic", "matplotlib", "ray", "flops"):
        logging.getLogger(name).setLevel(level)
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
    made = "first version" if outcome.parent is None else f"continues version {outcome.parent.version}"
    click.echo(
        f"{settings.task}: {len(outcome.sites)} hospitals, {settings.partition}, {settings.strategy}, "
        f"{settings.hyperparameters.rounds} rounds in {outcome.train_seconds:.1f} s of training "
        f"({outcome.seconds:.1f} s in all)"
    )
    click.echo(f"Global model: {_numbers(final.evaluation)} on all hospitals' hold-out data")
    click.echo(f"Registered:   {outcome.model.name} version {outcome.model.version} ({made})")
    click.echo(f"Pictures:     {settings.out}/learning-curve.png, {settings.out}/partition.png")
    click.echo(f"Look closer:  mlflow ui --backend-store-uri {_public_uri()}")
    click.echo(f"Go on:        {_again(arguments)} --continue")


def _public_uri() -> str:
    from server.registry import public_uri

    return public_uri()


def _again(arguments: Sequence[str]) -> str:
    """Return the command that was given, without what only shapes its output."""
    kept = [a for a in arguments if a not in ("--json", "--compare", "--continue", "--debug")]
    return shlex.join(["flops", *kept])


def _show_sites(outcome: Outcome, final: RoundRecord, metric: str) -> None:
    rows: list[tuple[object, ...]] = []
    shown = list(outcome.sites)
    if len(shown) > LISTED:
        shown = sorted(shown, key=lambda s: _score(final.sites[s.name], metric))[:LISTED]
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
    local = list(comparison.local.values())
    scores = [_score(evaluation, metric) for evaluation in local]
    rows: list[tuple[object, ...]] = [
        (
            "each hospital alone",
            f"{_mean(scores):.4f}",
            f"{min(scores):.4f} to {max(scores):.4f}",
            f"{_mean([e.loss for e in local]):.4f}",
        ),
        ("federated", *_compared(final.evaluation, metric)),
        ("all data pooled", *_compared(comparison.pooled, metric)),
    ]
    print_table(("trained", metric, "range", "loss"), rows, "what federating brings, on all hospitals' hold-out data")


def _compared(evaluation: Evaluation, metric: str) -> tuple[object, ...]:
    return f"{_score(evaluation, metric):.4f}", "", f"{evaluation.loss:.4f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _score(evaluation: Evaluation, metric: str) -> float:
    value = evaluation.metrics.get(metric, -evaluation.loss)
    return math.inf if math.isnan(value) else value


def _columns(metric: str) -> tuple[str, ...]:
    return (metric, "loss") if metric else ("loss",)


def _cells(evaluation: Evaluation, metric: str) -> tuple[object, ...]:
    numbers = [evaluation.metrics.get(metric, math.nan)] if metric else []
    return tuple("-" if math.isnan(value) else f"{value:.4f}" for value in (*numbers, evaluation.loss))
