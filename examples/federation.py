"""A federation of separate processes: a job of the global server and three hospitals, with TLS and keys.

Run it from the repository:  make federation  (or: python examples/federation.py --rounds 5 --port 8080)

All it does are commands of `flops`, printed before they run, in the folder ./flops-federation. Run again, it goes on
from the version that is there.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path("flops-federation")
HOSPITALS = ("hospital-1", "hospital-2", "hospital-3")
FLOPS = str(Path(sys.executable).with_name("flops"))
# What the shell says of another federation does not count here, nor does a proxy.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("FLOPS_", "MLFLOW_"))} | {"no_proxy": "*"}
STARTED: list[subprocess.Popen[str]] = []


def start(*words: str, home: str = "", **options: Any) -> subprocess.Popen[str]:
    """Print a command and start it in the folder."""
    print(f"$ {f'FLOPS_CLIENT_HOME={home} ' if home else ''}flops {' '.join(words)}", flush=True)
    environment = ENVIRONMENT | ({"FLOPS_CLIENT_HOME": home} if home else {})
    STARTED.append(subprocess.Popen([FLOPS, *words], cwd=FOLDER, env=environment, text=True, **options))
    return STARTED[-1]


def run(*words: str, **options: Any) -> None:
    """Run a command; end this program where it fails."""
    if code := start(*words, **options).wait():
        sys.exit(code)


def prepare(rounds: int) -> None:
    """Make what is not there yet: data, keys, allow-list, certificates, the federation's file."""
    (FOLDER / "hospitals").mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "data").exists():
        run("deal", "digits", "--clients", "3", "--out", "data")
    for name in HOSPITALS:
        if not (FOLDER / name).exists():
            run("client", "keygen", "--name", name, home=name, stdout=subprocess.DEVNULL)
        shutil.copy(FOLDER / name / f"{name}.pub", FOLDER / "hospitals")
    run("server", "certificate", "--host", "localhost")
    (FOLDER / "federation.toml").write_text(f'task = "digits"\nrounds = {rounds}\nmin_hospitals = 3\n')


def federate(port: int) -> int:
    """Start the hospitals' nodes, run one job of the server; returns its exit code."""
    for name in HOSPITALS:
        trust = ("--server", f"localhost:{port}", "--ca", "tls/ca.pem")
        with (FOLDER / f"{name}.log").open("w") as log:
            start("client", "start", *trust, "--task", "digits", "--data", f"data/{name}.npz", home=name, stderr=log)
    tls = ("--tls-cert", "tls/server.pem", "--tls-key", "tls/server.key")
    words = ("--hospitals", "hospitals", *tls, "--host", "127.0.0.1", "--port", str(port))
    return show(start("server", "round", *words, stdout=subprocess.PIPE))


def show(job: subprocess.Popen[str]) -> int:
    """Print what a job says; returns its exit code."""
    for line in job.stdout or ():
        if not line.startswith("{"):  # The JSON document is for machines.
            print(line, end="", flush=True)
    return job.wait()


def main() -> int:
    """Run the federation; returns the job's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="the server's port; default: a free one")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in the job; default: 3")
    chosen = parser.parse_args()
    try:
        with socket.create_server(("127.0.0.1", chosen.port)) as free:
            port = free.getsockname()[1]
    except (OSError, OverflowError) as error:
        sys.exit(f"--port {chosen.port}: {getattr(error, 'strerror', error)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        prepare(chosen.rounds)
        code = federate(port)
        start("client", "receipts", "--last", "7", home=HOSPITALS[0]).wait()
        start("client", "receipts", "--verify", home=HOSPITALS[0]).wait()
        return code
    except KeyboardInterrupt:  # In a terminal the job has been told too; it registers what is complete.
        STARTED[-1].terminate()
        show(STARTED[-1])
        return 130
    finally:
        for process in STARTED:
            process.terminate()
        for process in STARTED:
            process.wait()
        print(f"All processes have ended. Files and logs: {FOLDER}/", flush=True)


if __name__ == "__main__":
    sys.exit(main())
