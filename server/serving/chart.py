"""The chart of a metric over versions: where its dots, lines and ticks stand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.serving.overview import Entry, Overview

WIDTH, HEIGHT = 520, 280
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 34, 48
"""Room for the axes' words."""

MOST_NUMBERS = 12
"""So many version numbers fit below the axis."""


@dataclass(frozen=True)
class Dot:
    """A version's value."""

    entry: Entry
    value: float
    x: float
    y: float


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its words."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """The picture.

    Attributes:
        metric: what is drawn.
        dots: from the oldest version to the newest; those without a value are not there.
        line: the points of the line through those that may be served, as SVG writes them.
        across: ticks of the versions.
        up: ticks of the metric.
    """

    metric: str
    dots: tuple[Dot, ...]
    line: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def tell(metric: str, value: float) -> str:
    """Return a metric's value for people."""
    if metric == "accuracy":
        return f"{100 * value:.1f} %"
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"


def draw_metric(overview: Overview) -> Chart | None:
    """Lay out the metric that versions are compared by; None where no version tells one."""
    metric = overview.metric
    entries = [entry for entry in reversed(overview.versions) if metric in entry.metrics]
    if not entries:
        return None
    entries.sort(key=lambda entry: entry.number)
    values = [entry.metrics[metric] for entry in entries]
    steps = _steps(min(values), max(values), most=1.0 if metric == "accuracy" else math.inf)
    low, high = steps[0], steps[-1]

    def across(place: int) -> float:
        part = place / (len(entries) - 1) if len(entries) > 1 else 0.5
        return round(LEFT + 22 + part * (WIDTH - LEFT - RIGHT - 44), 1)

    def up(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP), 1)

    dots = tuple(
        Dot(entry, value, across(place), up(value))
        for place, (entry, value) in enumerate(zip(entries, values, strict=True))
    )
    every = math.ceil(len(dots) / MOST_NUMBERS)
    return Chart(
        metric,
        dots,
        " ".join(f"{dot.x},{dot.y}" for dot in dots if dot.entry.state in ("champion", "passed")),
        tuple(Tick(dot.x, str(dot.entry.number)) for dot in dots[(len(dots) - 1) % every :: every]),
        tuple(Tick(up(step), _told(metric, step, steps)) for step in steps),
    )


def _told(metric: str, step: float, steps: list[float]) -> str:
    scale = 100 if metric == "accuracy" else 1
    gap = (steps[1] - steps[0]) * scale
    places = max(0, -math.floor(math.log10(gap) + 1e-9))
    return f"{step * scale:.{places}f}{' %' if scale == 100 else ''}"


def _steps(low: float, high: float, most: float) -> list[float]:
    """Return round numbers, evenly apart, that hold the values."""
    span = high - low or abs(high) * 0.1 or 1.0
    raw = span / 3
    size = 10.0 ** math.floor(math.log10(raw))
    gap = next(size * times for times in (1, 2, 5, 10) if size * times >= raw)
    first = math.floor(low / gap + 1e-9)
    last = math.ceil(high / gap - 1e-9)
    if last == first:
        first, last = (first - 1, last) if (first + 1) * gap > most else (first, last + 1)
    return [round(step * gap, 12) for step in range(first, last + 1)]
