"""The lineage as a graph: which version was trained on from which, the newest at the top; where each node stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from server.serving.overview import Entry, Overview

MOST_ANCESTORS = 8
"""The champion and its parents, as many as these; then a count."""

MOST_ASIDE = 8
"""Versions that the champion does not come from: refused, taken back, or newer."""

MOST_LANES = 4
"""More lines side by side than these share the last."""

ROW, LANE, LEFT, TOP = 46, 22, 18, 24
"""Distances in the picture."""

WIDTH = 360


@dataclass(frozen=True)
class Node:
    """A version in the picture."""

    entry: Entry
    x: int
    y: int
    line: bool
    """Whether the champion comes from it, or it is the champion."""


@dataclass(frozen=True)
class Edge:
    """From a version down to its parent: an SVG path."""

    path: str
    line: bool


@dataclass(frozen=True)
class Graph:
    """The picture.

    Attributes:
        nodes: from top to bottom.
        edges: between them.
        text: where the nodes' words begin.
        width: of the picture.
        height: of the picture.
        older: how many further ancestors there are, at least; they are not in it.
        aside: how many further versions beside the line.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    text: int
    width: int
    height: int
    older: int
    aside: int


def draw_lineage(overview: Overview) -> Graph:
    """Lay out the champion, its ancestors and what hangs off them; without a champion the newest that stands."""
    entries = {entry.number: entry for entry in overview.versions}
    standing = (entry for entry in overview.versions if entry.state != "taken back")
    tip = overview.champion or next(standing, None) or next(iter(overview.versions), None)
    line: list[Entry] = []
    while tip is not None and tip not in line:
        line.append(tip)
        tip = entries.get(tip.parent)
    shown, older = line[:MOST_ANCESTORS], line[MOST_ANCESTORS:]
    oldest = shown[-1].number if shown else 0
    beside = [entry for entry in overview.versions if entry not in line and entry.number > oldest]
    numbers = {entry.number for entry in shown} | {entry.number for entry in beside[:MOST_ASIDE]}
    rows = [entry for entry in sorted(overview.versions, key=lambda entry: -entry.number) if entry.number in numbers]
    lanes = _lanes(rows, {entry.number for entry in shown})
    nodes = {
        entry.number: Node(entry, LEFT + LANE * lanes[entry.number], TOP + ROW * row, entry in shown)
        for row, entry in enumerate(rows)
    }
    edges = tuple(
        Edge(_path(node, nodes[node.entry.parent]), node.line)
        for node in nodes.values()
        if node.entry.parent in nodes and nodes[node.entry.parent].y > node.y
    )
    text = LEFT + LANE * max(lanes.values(), default=0) + 20
    height = TOP + ROW * len(rows)
    return Graph(tuple(nodes.values()), edges, text, WIDTH, height, len(older), max(0, len(beside) - MOST_ASIDE))


def _lanes(rows: Sequence[Entry], line: set[int]) -> dict[int, int]:
    """Return a column for each version: 0 for the champion's line, beside it wherever no other edge passes."""
    place = {entry.number: row for row, entry in enumerate(rows)}
    taken: dict[int, list[tuple[int, int]]] = {}
    lanes: dict[int, int] = {}
    for entry in reversed(rows):  # From the oldest on: a child goes on in its parent's lane if that is free.
        if entry.number in line:
            lanes[entry.number] = 0
            continue
        top, bottom = place[entry.number], place.get(entry.parent, place[entry.number] + 1)
        before = lanes.get(entry.parent, 0)
        lanes[entry.number] = next(
            (lane for lane in (before, *range(1, MOST_LANES)) if lane and _free(taken, lane, top, bottom)), MOST_LANES
        )
        taken.setdefault(lanes[entry.number], []).append((top, bottom))
    return lanes


def _free(taken: Mapping[int, Sequence[tuple[int, int]]], lane: int, top: int, bottom: int) -> bool:
    return all(bottom <= first or last <= top for first, last in taken.get(lane, ()))


def _path(node: Node, parent: Node) -> str:
    if node.x == parent.x:
        return f"M{node.x} {node.y}V{parent.y}"
    turn = parent.y - 34  # Straight down to the row before the parent, and then over to it.
    bend = f"C{node.x} {parent.y - 8} {parent.x} {parent.y - 22} {parent.x} {parent.y}"
    return f"M{node.x} {node.y}V{turn}{bend}"
