"""How fast a federation trains on one machine: FLOps beside a hand-written loop and Flower on Ray.

The job is the digits task: conv 1-16-32 and two dense layers, SGD, batch 16, one local epoch, every hospital in
every round, 20 rounds. Each side is run in turns, several times, in a process of its own, and the best training
time of each counts. Training time is the rounds alone: weights out, local training, weights back, aggregation.
Making data and models, the hand loop's optimizer and the start of Ray are outside of it.

    python benchmarks/simulation.py                 # 10 and 100 hospitals, all sides
    python benchmarks/simulation.py --sides hand,ours --repeat 5
    python benchmarks/simulation.py --json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, BATCH, LR = 20, 16, 0.1
SIDES = ("hand", "ours", "ray")


def _federation(clients: int, engine: str) -> dict[str, Any]:
    """Run FLOps' own apps on an engine, without registry and pictures; return training seconds."""
    from fl.model import initial_state
    from fl.training.threads import suitable_threads
    from server.simulation.federate import make_federation, run_engine
    from server.simulation.settings import settle
    from server.simulation.sites import make_sites

    class Watch:
        seconds, accuracy = 0.0, 0.0

        def joined(self, sites: Any) -> None:
            """Need nothing."""

        def round_done(self, record: Any) -> None:
            self.seconds += record.train_seconds
            self.accuracy = record.evaluation.metrics["accuracy"]

    task, settings = settle(
        "digits",
        clients=clients,
        engine=engine,
        device="cpu",
        rounds=ROUNDS,
        local_epochs=1,
        batch_size=BATCH,
        lr=LR,
        momentum=0.0,
    )
    sites, watch = make_sites(task, settings), Watch()
    federation = make_federation(task, settings, len(sites), initial_state(task, 0), watch)
    with suitable_threads(task):
        run_engine(task, settings, federation, sites)
    return {"seconds": watch.seconds, "accuracy": watch.accuracy}


def run_ours(clients: int) -> dict[str, Any]:
    return _federation(clients, "local")


def run_ray(clients: int) -> dict[str, Any]:
    return _federation(clients, "ray")


def run_hand(clients: int) -> dict[str, Any]:
    """Run the loop that a researcher would write: one model, refilled for each hospital in turn."""
    import torch

    from fl.model import initial_state
    from fl.tasks.digits import digits
    from server.simulation.settings import settle
    from server.simulation.sites import make_sites

    task, settings = settle("digits", clients=clients, device="cpu")
    sites = make_sites(task, settings)
    shards = [(torch.from_numpy(s.train.x), torch.from_numpy(s.train.y)) for s in sites]
    model = digits.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    weights = {k: torch.from_numpy(v.copy()) for k, v in initial_state(task, 0).arrays.items()}
    total = sum(len(y) for _, y in shards)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        mean = {k: torch.zeros_like(v) for k, v in weights.items()}
        for x, y in shards:
            model.load_state_dict(weights)
            for batch in torch.randperm(len(y)).split(BATCH):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            for k, v in model.state_dict().items():
                mean[k] += v * (len(y) / total)
        weights = mean
    seconds = time.perf_counter() - started
    model.load_state_dict(weights)
    x, y = (torch.cat([torch.from_numpy(getattr(s.holdout, name)) for s in sites]) for name in ("x", "y"))
    with torch.inference_mode():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    return {"seconds": seconds, "accuracy": accuracy}


RUNNERS: dict[str, Callable[[int], dict[str, Any]]] = {"hand": run_hand, "ours": run_ours, "ray": run_ray}


def measure(side: str, clients: int) -> dict[str, Any]:
    """Run one side in a process of its own; the second run in it counts, the first warms up."""
    command = [sys.executable, __file__, "--one", side, "--clients", str(clients)]
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if ended.returncode:
        sys.exit(f"{side} with {clients} hospitals failed:\n{ended.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="10,100", help="numbers of hospitals (default 10,100)")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"which sides (default {','.join(SIDES)})")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each side; Ray gets one (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import logging
        import warnings

        warnings.simplefilter("ignore")
        logging.getLogger("flwr").setLevel(logging.ERROR)
        runner, clients = RUNNERS[arguments.one], int(arguments.clients)
        if arguments.one != "ray":
            runner(clients)
        print(json.dumps(runner(clients)))
        return
    sides = arguments.sides.split(",")
    report: dict[str, Any] = {}
    for clients in (int(n) for n in arguments.clients.split(",")):
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(arguments.repeat):
            for side in sides:
                if side == "ray" and turn:
                    continue
                print(f"{clients} hospitals, turn {turn + 1}: {side} …", file=sys.stderr)
                runs[side].append(measure(side, clients))
        best = {side: min(results, key=lambda r: r["seconds"]) for side, results in runs.items()}
        base = best.get("hand", {}).get("seconds")
        report[str(clients)] = {
            side: {**result, "ratio_to_hand": result["seconds"] / base if base else None}
            for side, result in best.items()
        }
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{'hospitals':>9}  {'side':<5} {'train s':>8}  {'to hand':>8}  {'accuracy':>8}")
    for clients, results in report.items():
        for side, result in results.items():
            ratio = f"{result['ratio_to_hand']:.2f}" if result["ratio_to_hand"] else "-"
            print(f"{clients:>9}  {side:<5} {result['seconds']:8.2f}  {ratio:>8}  {result['accuracy']:8.3f}")


if __name__ == "__main__":
    main()
