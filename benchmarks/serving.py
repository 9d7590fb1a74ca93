"""The prediction API beside `mlflow models serve`, with the same version of a model.

Both get the same bodies at /invocations, in turns, from a process of its own that keeps its connections. Then: how
long each takes from its process' start to the first answer, what it keeps in memory, and what happens to requests
while the alias is moved five times.

    python benchmarks/serving.py
    python benchmarks/serving.py --tasks digits --seconds 5 --rounds 5 --json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
SIDES = ("flops", "mlflow")
CASES = [(connections, rows) for rows in (1, 256) for connections in (1, 32)]


class Asking(asyncio.Protocol):
    """One connection: the next request goes when the last one is answered."""

    def __init__(self, request: bytes, note: Any) -> None:
        self.request, self.note = request, note
        self.got, self.size, self.body = bytearray(), 0, 0
        self.over = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.got.clear()
        self.size = 0
        self.started = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.got += data
        if not self.size:
            end = self.got.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.got[:end]).lower()
            self.body = end + 4
            self.size = self.body + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(self.got) >= self.size:
            status = int(self.got[9:12])
            self.note(status, time.perf_counter() - self.started, bytes(self.got[self.body : self.size]))
            if not self.over:
                self.ask()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self.over:
            self.note(0, time.perf_counter() - self.started, b"")


async def load(port: int, path: str, body: bytes, connections: int, seconds: float) -> dict[str, Any]:
    """Ask for some seconds on some connections; returns what came."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    taken: list[float] = []
    statuses: Counter[int] = Counter()
    versions: Counter[int] = Counter()

    def note(status: int, spent: float, answer: bytes) -> None:
        statuses[status] += 1
        taken.append(spent)
        if path == "/predict" and status == 200:
            versions[json.loads(answer)["version"]] += 1

    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    made = [Asking(request, note) for _ in range(connections)]
    for asking in made:
        await loop.create_connection(lambda one=asking: one, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(seconds)
    for asking in made:
        asking.over = True
    done = time.perf_counter() - started
    await asyncio.sleep(0)
    for asking in made:
        asking.transport.close()
    taken.sort()
    return {
        "per_second": statuses[200] / done,
        "p50_ms": 1000 * taken[len(taken) // 2] if taken else None,
        "p99_ms": 1000 * taken[min(len(taken) - 1, int(len(taken) * 0.99))] if taken else None,
        "answered": statuses[200],
        "failed": sum(count for status, count in statuses.items() if status != 200),
        "versions": dict(versions),
    }


def ask_aside(port: int, path: str, body: Path, connections: int, seconds: float) -> dict[str, Any]:
    """Ask from another process."""
    return json.loads(start_load(port, path, body, connections, seconds).communicate()[0])  # type: ignore[no-any-return]


def start_load(port: int, path: str, body: Path, connections: int, seconds: float) -> subprocess.Popen[bytes]:
    words = [port, path, body, connections, seconds]
    return subprocess.Popen([sys.executable, __file__, "--load", *map(str, words)], stdout=subprocess.PIPE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def serving(side: str, model: str, folder: Path) -> Iterator[tuple[int, int, float]]:
    """Run a server; yields its port, its process and the seconds until it was ready."""
    port = free_port()
    script = Path(sys.executable).parent
    # Neither side may ask the other's: MLflow's server runs `uvicorn` from the path.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{script}:{os.environ['PATH']}"}
    commands = {
        "flops": ["-m", "fl.cli", "server", "serve", "--model", model, "--host", "127.0.0.1", "--port", str(port)],
        "mlflow": ["-m", "mlflow", "models", "serve", "-m", f"models:/{model}@champion", "--env-manager", "local",
                   "--host", "127.0.0.1", "--port", str(port)],
    }  # fmt: skip
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/flops-registry/mlflow.db"
    log = folder / f"{side}-{model}.log"
    path = {"flops": "/health/ready", "mlflow": "/ping"}[side]
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *commands[side]],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while not _is_ready(port, path):
            if process.poll() is not None or time.perf_counter() - started > 120:
                raise SystemExit(f"{side} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.02)
        yield port, process.pid, time.perf_counter() - started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _is_ready(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def resident(leader: int) -> float:
    """Return the MiB that a server's processes keep in memory together."""
    total = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                status = (entry / "status").read_text()
                total += int(status.partition("VmRSS:")[2].split()[0])
    return total / 1024


def make_versions(folder: Path, task_name: str) -> str:
    """Register two versions, of other weights; the first is the champion. Returns the model's name."""
    from fl.model import initial_state
    from fl.protocol import CHAMPION
    from fl.tasks import find_task
    from server.registry import Registry

    task = find_task(task_name)
    registry = Registry(f"sqlite:///{folder}/flops-registry/mlflow.db")
    for seed in (1, 2):
        with registry.run("benchmark", {}) as log:
            made = registry.register(log, f"bench-{task_name}", task, initial_state(task, seed), {})
        if seed == 1:
            registry.move_alias(made, CHAMPION, 0)
    return f"bench-{task_name}"


def bodies(folder: Path, task_name: str) -> dict[int, Path]:
    """Write requests of the task's own data, by their number of rows."""
    from fl.data.schema import TableSchema
    from fl.tasks import find_task

    task = find_task(task_name)
    assert task.load is not None
    x = task.load().x
    made = {}
    for rows in (1, 256):
        part = x[:rows].tolist()
        if isinstance(task.schema, TableSchema):
            names = [column.name for column in task.schema.columns]
            body: dict[str, Any] = {"dataframe_split": {"columns": names, "data": part}}
        else:
            body = {"inputs": part}
        made[rows] = folder / f"{task_name}-{rows}.json"
        made[rows].write_text(json.dumps(body))
    return made


def compare(folder: Path, task: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Ask both servers in turns."""
    model, sent = make_versions(folder, task), bodies(folder, task)
    with contextlib.ExitStack() as stack:
        up = {side: stack.enter_context(serving(side, model, folder)) for side in SIDES}
        report: dict[str, Any] = {"ready_seconds": {side: up[side][2] for side in SIDES}, "cases": []}
        for side in SIDES:
            for rows in sent:
                ask_aside(up[side][0], "/invocations", sent[rows], 4, 1.0)
        for connections, rows in CASES:
            found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
            for turn in range(rounds):
                for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                    found[side].append(ask_aside(up[side][0], "/invocations", sent[rows], connections, seconds))
            case: dict[str, Any] = {"connections": connections, "rows": rows}
            for side, results in found.items():
                middle = {k: statistics.median(r[k] for r in results) for k in ("per_second", "p50_ms", "p99_ms")}
                case[side] = {**middle, "failed": sum(r["failed"] for r in results)}
            ratios = [a["per_second"] / b["per_second"] for a, b in zip(found["flops"], found["mlflow"], strict=True)]
            case["times_as_fast"] = statistics.median(ratios)
            report["cases"].append(case)
        report["resident_mib"] = {side: resident(up[side][1]) for side in SIDES}
    return report


def reload(folder: Path, task: str, seconds: float) -> dict[str, Any]:
    """Move the alias five times while requests come."""
    from fl.protocol import CHAMPION
    from server.registry import Registry

    registry = Registry(f"sqlite:///{folder}/flops-registry/mlflow.db")
    body = folder / "predict.json"
    body.write_text(bodies(folder, task)[1].read_text().replace("dataframe_split", "inputs"))
    if task != "digits":
        split = json.loads(body.read_text())["inputs"]
        body.write_text(json.dumps({"inputs": [dict(zip(split["columns"], split["data"][0], strict=True))]}))
    delays: list[float] = []
    with serving("flops", f"bench-{task}", folder) as (port, _, _):
        asking = start_load(port, "/predict", body, 8, seconds)
        for turn in range(5):
            time.sleep(seconds / 6)
            seen = registry.aliased(f"bench-{task}", CHAMPION)
            assert seen is not None
            moved = registry.find(f"bench-{task}", 2 - turn % 2)
            registry.move_alias(moved, CHAMPION, seen.version)
            delays.append(until_served(port, moved.version))
        return {"moves": 5, "delays": delays, **json.loads(asking.communicate()[0])}


def until_served(port: int, version: int) -> float:
    """Return how many seconds it takes until a version is served."""
    started = time.perf_counter()
    while time.perf_counter() - started < 60:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10) as answer:
            if json.load(answer)["version"] == version:
                return time.perf_counter() - started
        time.sleep(0.05)
    raise TimeoutError(f"version {version} is not served after a minute")


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        import uvloop

        port, path, body, connections, seconds = sys.argv[2:]
        told = uvloop.run(load(int(port), path, Path(body).read_bytes(), int(connections), float(seconds)))
        print(json.dumps(told))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="digits,breast-cancer", help="built-in tasks (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="a measurement takes so long (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="so often in turns (default: 3)")
    parser.add_argument("--reload", type=float, default=60.0, help="seconds under load with moves; 0 for none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    report: dict[str, Any] = {}
    os.environ["MLFLOW_LOGGING_LEVEL"] = "ERROR"
    with tempfile.TemporaryDirectory() as name:
        for task in arguments.tasks.split(","):
            report[task] = compare(Path(name), task, arguments.seconds, arguments.rounds)
        if arguments.reload:
            report["reload"] = reload(Path(name), arguments.tasks.split(",")[0], arguments.reload)
    if arguments.json:
        print(json.dumps(report))
        return
    for task in arguments.tasks.split(","):
        told = report[task]
        ready, memory = _both(told["ready_seconds"], ".1f"), _both(told["resident_mib"], ".0f")
        print(f"\n{task}: ready after {ready} s; {memory} MiB")
        print("connections rows  requests/s  times  p50 ms          p99 ms          failed   (flops / mlflow)")
        for case in told["cases"]:
            rate, middle, slow, failed = (
                f"{case['flops'][what]:{form}} / {case['mlflow'][what]:{form}}"
                for what, form in (("per_second", ".0f"), ("p50_ms", ".1f"), ("p99_ms", ".1f"), ("failed", "d"))
            )
            print(
                f"{case['connections']:>11} {case['rows']:>4}  {rate:<11} {case['times_as_fast']:>5.1f}  "
                f"{middle:<15} {slow:<15} {failed}"
            )
    if "reload" in report:
        found = report["reload"]
        print(
            f"\nthe alias moved {found['moves']} times under load: {found['failed']} of "
            f"{found['answered'] + found['failed']} requests failed; answered by version: {found['versions']}; "
            f"served after {', '.join(f'{delay:.1f}' for delay in found['delays'])} s"
        )


def _both(values: dict[str, float], form: str) -> str:
    return " / ".join(f"{side} {values[side]:{form}}" for side in SIDES)


if __name__ == "__main__":
    main()
