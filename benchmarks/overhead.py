"""What a round costs when hospitals do nothing, and how fast `flops --help` answers.

The client answers every message with the weights it received: what remains is the federation itself, with
sampling, messages, checks and aggregation. The digits model is sent; a bare Python start is the baseline of
`--help`.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --json
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import time
from typing import Any


def round_overhead(clients: int, rounds: int = 20) -> float:
    """Return milliseconds a client and round: training and evaluation messages of a do-nothing client."""
    from flwr.clientapp import ClientApp

    from fl import messages
    from fl.messages import SiteDescription
    from fl.model import initial_state
    from fl.tasks.base import Hyperparameters
    from fl.tasks.digits import digits
    from fl.training import Evaluation, TrainResult
    from server.app import create_server_app
    from server.plan import Plan
    from server.rounds import Federation
    from server.simulation.local import run_local
    from server.strategies import find_strategy, make_strategy

    logging.getLogger("flwr").setLevel(logging.ERROR)
    app = ClientApp()

    def name(context: Any) -> str:
        return f"hospital-{context.node_config['partition-id']}"

    @app.query("describe")
    def describe(message: Any, context: Any) -> Any:
        return messages.describe_reply(message, SiteDescription(name(context), 1, 1))

    @app.train()
    def train(message: Any, context: Any) -> Any:
        return messages.train_reply(message, name(context), TrainResult(messages.read_state(message), 1, 0.0))

    @app.evaluate()
    def evaluate(message: Any, context: Any) -> Any:
        return messages.evaluate_reply(message, name(context), Evaluation(1, 0.0, {"accuracy": 1.0}))

    class Watch:
        seconds: list[float]

        def joined(self, sites: Any) -> None:  # noqa: ARG002 - the observer's signature
            self.seconds = []

        def round_done(self, record: Any) -> None:
            self.seconds.append(record.seconds)

    watch, hyperparameters = Watch(), Hyperparameters()
    plan = Plan(digits, rounds, hyperparameters)
    strategy = make_strategy(find_strategy("fedavg"), {}, hyperparameters)
    federation = Federation(plan, strategy, initial_state(digits, 0), watch)
    run_local(create_server_app(federation), app, clients)
    return statistics.median(watch.seconds) / clients * 1000


def start(command: list[str], times: int = 7) -> float:
    """Return the median seconds that a command takes."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    help_seconds, bare = start(["-m", "fl.cli", "--help"]), start(["-c", "pass"])
    report = {
        "overhead_ms_per_client": {str(n): round_overhead(n) for n in (10, 100)},
        "help_seconds": help_seconds,
        "help_to_bare_python": help_seconds / bare,
    }
    if arguments.json:
        print(json.dumps(report))
        return
    for clients, milliseconds in report["overhead_ms_per_client"].items():  # type: ignore[attr-defined]
        print(f"a round with {clients:>3} do-nothing hospitals: {milliseconds:.3f} ms a hospital")
    print(f"flops --help: {help_seconds:.2f} s, {report['help_to_bare_python']:.1f} times a bare Python")


if __name__ == "__main__":
    main()
