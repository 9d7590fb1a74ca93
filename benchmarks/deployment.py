"""How long a round and a job's start take with real processes, beside Flower's own deployment runtime.

TLS and node keys are on, on both sides; all processes run on this machine. What is measured:

    rounds      a round (training and evaluation) of two hospitals that do nothing, with a model of ten weights
    start       from the server's start until it answers /health, and until a job of one round of the digits task is
                registered, with two hospitals that wait: into a new registry and into one that is there
    throughput  a round of four hospitals that do next to nothing, with a model of 50 MB

The stock side sends the same number of weights. Its hospitals do not import PyTorch, unless they are called `torch`:
an app that trains imports it, and Flower starts a process for each message.

    python benchmarks/deployment.py                     # all, about three minutes each
    python benchmarks/deployment.py rounds
    python benchmarks/deployment.py throughput --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from runtimes import Ours, Stock, answers, wait_until, workplace

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = 12_500_000
"""Weights of a model of 50 MB."""


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def our_rounds(folder: Path, hospitals: int, elements: int, rounds: int) -> list[float]:
    with workplace(folder, hospitals) as place:
        ours = Ours(place, elements=elements)
        ours.start_nodes()
        server = ours.start_server(rounds)
        server.wait()
        return ours.seconds(server)


def stock_rounds(folder: Path, hospitals: int, elements: int, rounds: int, *, torch: bool) -> list[float]:
    with workplace(folder, hospitals) as place:
        stock = Stock(place, elements, torch=torch)
        server = stock.start_server()
        wait_until(lambda: answers(stock.port), "the SuperLink")
        stock.register()
        stock.start_nodes()
        assert server.child.poll() is None
        return stock.run(rounds)


def compare_rounds(
    hospitals: int, elements: int, ours: int, stock: int, sides: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Return seconds a round for each side; the first round of a side does not count where there are others."""
    found: dict[str, dict[str, Any]] = {}
    for side in sides:
        tell(f"{side}, {hospitals} hospitals, {elements:,} weights …")
        with tempfile.TemporaryDirectory() as folder:
            taken = (
                our_rounds(Path(folder), hospitals, elements, ours)
                if side == "ours"
                else stock_rounds(Path(folder), hospitals, elements, stock, torch=side == "stock torch")
            )
        warm = taken[1:] or taken
        found[side] = {"median": median(warm), "rounds": [round(seconds, 3) for seconds in taken]}
        found[side]["ratio"] = found[side]["median"] / found["ours"]["median"] if "ours" in found else None
    return found


def rounds() -> dict[str, dict[str, Any]]:
    return compare_rounds(2, 10, 10, 3, ("ours", "stock", "stock torch"))


def throughput() -> dict[str, dict[str, Any]]:
    return compare_rounds(4, LARGE, 4, 2, ("ours", "stock"))


def start(times: int = 3) -> dict[str, dict[str, Any]]:
    """Return the seconds from a server's start to its health and to the end of a job of one round."""
    taken: dict[str, list[tuple[float, float]]] = {"ours, new registry": [], "ours, old registry": [], "stock": []}
    with tempfile.TemporaryDirectory() as folder, workplace(Path(folder), 2) as place:
        _digits(place.folder)
        ours = Ours(place, "digits")
        ours.start_nodes()
        for turn in range(times):
            for what in ("ours, new registry", "ours, old registry"):
                tell(f"{what}, turn {turn + 1} …")
                if what == "ours, new registry":
                    ours.forget()
                server = ours.start_server()
                wait_until(lambda: answers(ours.port), "the server", 0.005)
                healthy = time.monotonic() - server.started
                taken[what].append((healthy, server.wait()))
                assert server.said("digits") or server.output, server.lines
    for turn in range(times - 1):
        tell(f"stock, turn {turn + 1} …")
        with tempfile.TemporaryDirectory() as folder, workplace(Path(folder), 2) as place:
            stock = Stock(place, torch=True)
            server = stock.start_server()
            wait_until(lambda port=stock.port: answers(port), "the SuperLink", 0.005)
            healthy = time.monotonic() - server.started
            stock.register()
            stock.start_nodes()
            stock.run(1)
            taken["stock"].append((healthy, time.monotonic() - server.started))
    return {
        what: {
            "health": median(healthy for healthy, _ in pairs),
            "end": median(end for _, end in pairs),
            "turns": [[round(seconds, 2) for seconds in pair] for pair in pairs],
        }
        for what, pairs in taken.items()
    }


def _digits(folder: Path) -> None:
    from fl.data.dealing import deal_files
    from fl.data.partition import parse_partition
    from fl.tasks import find_task

    files = deal_files(find_task("digits"), parse_partition("iid"), 2, 0, folder / "dealt", force=True)
    for number, path in enumerate(files):
        path.rename(folder / f"hospital-{number}.npz")


PARTS: dict[str, Callable[[], dict[str, dict[str, Any]]]] = {
    "rounds": rounds,
    "start": start,
    "throughput": throughput,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(PARTS)}; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    report = {}
    for part in arguments.parts or PARTS:
        if part not in PARTS:
            parser.error(f"unknown part '{part}'")
        report[part] = PARTS[part]()
    if arguments.json:
        print(json.dumps(report))
        return
    for part, found in report.items():
        print(part)
        for what, told in found.items():
            if part == "start":
                print(
                    f"  {what:<20} {told['health']:6.2f} s to health {told['end']:6.2f} s to the end  {told['turns']}"
                )
            else:
                ratio = f"{told['ratio']:6.1f} times ours"
                print(f"  {what:<20} {told['median']:7.3f} s a round {ratio}  {told['rounds']}")


if __name__ == "__main__":
    main()
