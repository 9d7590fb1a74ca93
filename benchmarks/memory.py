"""How much memory a server needs for a model of 50 MB, with 4 hospitals and with 32, beside Flower's own runtime.

The server is the real one, in processes of its own: FLOps' job, or Flower's SuperLink with FedAvg as its app.
Hospitals are threads of a few processes that speak the same protocol, send the received weights back, each changed
otherwise, and do not import PyTorch; they are the same for both. The memory is the most that all processes of the
server had resident together, before the rounds and in them, in megabytes and in models. Seconds a round are told too:
with hospitals that take no time a round is the transfer of the weights there and back, and the server's own work.

    python benchmarks/memory.py                       # 4 and 32 hospitals at FLOps' server: about two minutes
    python benchmarks/memory.py --sides ours,stock    # and Flower's: three more, and 8 GB of memory
    python benchmarks/memory.py --hospitals 4 --rounds 3 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

from deployment import LARGE
from runtimes import HERE, Memory, Ours, Stock, Workplace, answers, wait_until, workplace

PROCESSES, AT_ONCE = 4, 8
"""The hospitals' processes, and how many of each one's hospitals are busy at a time."""


def hospitals(address: str, folder: Path, first: int, count: int) -> None:
    """Be some of the hospitals, until the process is ended."""
    import numpy as np
    from idle import task

    from client.link import Link, NotAdmitted, ServerGone
    from fl import messages
    from fl.keys import read_private
    from fl.messages import SiteDescription
    from fl.model import ModelState
    from fl.protocol import this_contract
    from fl.training import Evaluation, TrainResult

    contract, places = this_contract(task), threading.Semaphore(AT_ONCE)
    ca = (folder / "tls" / "ca.pem").read_bytes()

    def answer(message: Any, number: int) -> Any:
        kind, name = message.metadata.message_type, f"hospital-{number}"
        if kind == messages.DESCRIBE:
            return messages.describe_reply(message, SiteDescription(name, 1, 1, contract=contract))
        if kind == messages.EVALUATE:
            return messages.evaluate_reply(message, name, Evaluation(1, 0.0, {}))
        change = np.float32(1e-3 * (1 + number))
        arrays = {k: v + change for k, v in messages.read_state(message).arrays.items()}
        return messages.train_reply(message, name, TrainResult(ModelState(arrays, {}), 1, 0.0))

    def hospital(number: int) -> None:
        key = read_private(folder / f"node-{number}" / "node.key")
        while True:
            link = Link(address, key, ca)
            try:
                link.join()
                while True:
                    work = link.ask()
                    if work is None:
                        time.sleep(0.2)  # Flower's server answers at once that there is none.
                        continue
                    with places:
                        if (run := getattr(work, "run_id", None)) is not None:
                            link.bundle(run)
                        link.reply(answer(link.fetch(work), number))
                    del work
            except (ServerGone, NotAdmitted):
                time.sleep(0.5)
            finally:
                link.leave()

    threads = [threading.Thread(target=hospital, args=(n,)) for n in range(first, first + count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start_hospitals(place: Workplace, port: int) -> None:
    share = -(-place.hospitals // PROCESSES)
    for first in range(0, place.hospitals, share):
        count = min(share, place.hospitals - first)
        words = [f"localhost:{port}", str(place.folder), str(first), str(count)]
        command = [sys.executable, str(HERE / "memory.py"), "--be", *words]
        place.start(f"hospitals-{first}", command, {"PYTHONPATH": f"{HERE}:{HERE.parent}"})


def measure(side: str, count: int, rounds: int) -> dict[str, Any]:
    """Run one job and return its memory in bytes and its rounds' seconds."""
    with tempfile.TemporaryDirectory() as name, workplace(Path(name), count) as place:
        if side == "ours":
            ours = Ours(place, elements=LARGE)
            server = ours.start_server(rounds)
            memory = Memory(server.child.pid)
            server.wait_said("first weights")
            idle = memory.now()
            start_hospitals(place, ours.port)
            server.wait()
            assert '"registered"' in "".join(server.output), (server.output, [p.lines[-5:] for p in place.processes])
            return {"idle": idle, "peak": memory.end(), "seconds": ours.seconds(server)}
        stock = Stock(place, LARGE)
        server = stock.start_server()
        memory = Memory(server.child.pid)
        wait_until(lambda: answers(stock.port), "the SuperLink")
        stock.register()
        idle = memory.now()
        start_hospitals(place, stock.port)
        seconds = stock.run(rounds)
        return {"idle": idle, "peak": memory.end(), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospitals", default="4,32", help="numbers of hospitals (default 4,32)")
    parser.add_argument("--sides", default="ours", help="ours, stock, or both (default ours)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of a job (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--be", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be:
        address, folder, first, count = arguments.be
        hospitals(address, Path(folder), int(first), int(count))
        return
    model = 4 * LARGE
    report: dict[str, dict[str, Any]] = {}
    for side in arguments.sides.split(","):
        report[side] = {}
        for count in (int(n) for n in arguments.hospitals.split(",")):
            print(f"{side}, {count} hospitals …", file=sys.stderr, flush=True)
            found = measure(side, count, arguments.rounds)
            found["models"] = (found["peak"] - found["idle"]) / model
            report[side][str(count)] = found
        few, *_, many = [*report[side].values()] * 2
        report[side]["growth_in_models"] = (many["peak"] - few["peak"]) / model
    if arguments.json:
        print(json.dumps(report))
        return
    for side, found in report.items():
        for count, told in found.items():
            if count == "growth_in_models":
                print(f"{side}: from the fewest to the most hospitals {told:.1f} models more")
                continue
            idle, peak = (told[name] / 1e6 for name in ("idle", "peak"))
            print(
                f"{side:<6} {count:>3} hospitals: {idle:6.0f} MB idle, {peak:6.0f} MB at most "
                f"(+ {told['models']:.1f} models); {median(told['seconds']):.1f} s a round"
            )


if __name__ == "__main__":
    main()
