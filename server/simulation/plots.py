"""The pictures of a run: how it learned, and who had which data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from fl.data.dataset import Site
    from server.records import RoundRecord
    from server.simulation.compare import Comparison

FEDERATED, POOLED, ALONE = "#0b6fb8", "#3a3a3a", "#c4561a"
NAMED_SITES = 30
"""Up to this many hospitals are named under the bars."""


def draw_learning_curve(path: Path, task: str, history: Sequence[RoundRecord], comparison: Comparison | None) -> None:
    """Draw loss and metrics over rounds.

    The line is the global model on all hold-out data, the band goes from the worst to the best hospital, and
    a comparison, where there is one, is drawn as levels.
    """
    names = ["loss", *history[-1].evaluation.metrics]
    figure = Figure(figsize=(5.2 * len(names), 4.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{task}: the global model, round by round")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        _curve(axes, name, history, comparison)
    figure.savefig(path)


def _curve(axes: Axes, name: str, history: Sequence[RoundRecord], comparison: Comparison | None) -> None:
    rounds = [record.round for record in history]
    whole = [record.evaluation.loss if name == "loss" else record.evaluation.metrics[name] for record in history]
    spread = [
        [e.loss if name == "loss" else e.metrics[name] for e in record.sites.values() if e.examples]
        for record in history
    ]
    axes.fill_between(
        rounds,
        [min(values) for values in spread],
        [max(values) for values in spread],
        color=FEDERATED,
        alpha=0.15,
        linewidth=0,
        label="worst to best hospital",
    )
    marker = "o" if len(rounds) < 40 else None
    axes.plot(rounds, whole, color=FEDERATED, marker=marker, markersize=3, label="federated, all hospitals")
    if comparison is not None:
        pooled = comparison.pooled
        local = [e.loss if name == "loss" else e.metrics[name] for e in comparison.local.values()]
        level = pooled.loss if name == "loss" else pooled.metrics[name]
        axes.axhline(level, color=POOLED, linestyle="--", label="all data pooled")
        axes.axhline(float(np.mean(local)), color=ALONE, linestyle=":", label="each alone, mean")
    axes.set_xlabel("round")
    axes.set_ylabel(f"{name} on hold-out data")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(rounds) == 1:
        axes.set_xlim(0.5, 1.5)
    if name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")


def draw_partition(path: Path, classes: Sequence[str], sites: Sequence[Site], partition: str) -> None:
    """Draw a bar a hospital: how many examples of each class it has, training and hold-out together."""
    if classes:
        counts = np.array(
            [np.bincount(np.concatenate([s.train.y, s.holdout.y]), minlength=len(classes)) for s in sites]
        )
    else:  # No classification: how many, not of what.
        classes, counts = ("examples",), np.array([[len(s.train) + len(s.holdout)] for s in sites])
    figure = Figure(figsize=(max(6.4, min(16, 2.4 + 0.32 * len(sites))), 4.4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bottom = np.zeros(len(sites))
    positions = np.arange(1, len(sites) + 1)
    colours = _colours(len(classes))
    for index, name in enumerate(classes):
        axes.bar(positions, counts[:, index], 0.85, bottom=bottom, color=colours[index], label=_plain(name))
        bottom += counts[:, index]
    axes.set_title(f"who has what: {len(sites)} hospitals, {int(counts.sum())} examples, {partition}")
    axes.set_ylabel("examples")
    if len(sites) <= NAMED_SITES:
        axes.set_xticks(positions, [_plain(site.name) for site in sites], rotation=35, ha="right", fontsize="small")
    else:
        axes.set_xlabel("hospitals, in order")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(title="class", bbox_to_anchor=(1.0, 1.0), loc="upper left", frameon=False, fontsize="small")
    figure.savefig(path)


def _plain(name: str) -> str:
    """Return a name as text that is drawn as it is, and that leaves room for the bars."""
    short = name if len(name) <= 24 else name[:23] + "…"
    return short.replace("$", r"\$")


def _colours(count: int) -> list[tuple[float, ...]]:
    import matplotlib as mpl

    if count <= 10:
        return [tuple(colour) for colour in mpl.colormaps["tab10"].colors[:count]]  # type: ignore[attr-defined]
    return [tuple(colour) for colour in mpl.colormaps["viridis"](np.linspace(0, 1, count))]
