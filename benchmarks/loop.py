"""How fast `flops up` follows a push, and what it costs while nothing happens.

Two releases are put in charge by turns, each by one push to the config repository over SSH; a round is due every
minute. Measured is from the end of the push to the end of the first round on that server. Then the schedule is
suspended, and what the process and its children use is read from /proc. Needs what `benchmarks/release.py` needs.

    python benchmarks/loop.py                 # about ten minutes
    python benchmarks/loop.py --times 6 --json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import docker

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.images.base import make_base
from tests.images.build import collect_wheels
from tests.images.site import Site
from tests.pipeline.loop.process import Up
from tests.pipeline.registry_server import RegistryServer, this_machine
from tests.pipeline.repositories import add_commit, git, show
from tests.pipeline.ssh_server import SshServer

IDLE_SECONDS = 60


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def used(process: int) -> tuple[float, float]:
    """Return the seconds of a core that a process and its ended children used, and its memory in MB."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    seconds = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    (resident,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if "VmRSS" in line)
    return seconds, int(resident.split()[1]) / 1024


def schedule(site: Site, **changes: str) -> None:
    text = show(site.config, "dev/cronjob.yaml") + "\n"
    for key, value in changes.items():
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        text = text.replace(line, f"{line[: len(line) - len(line.lstrip())]}{key}: {value}")
    add_commit(site.config, {"dev/cronjob.yaml": text}, "schedule")


def follow(site: Site, up: Up, releases: list[str], times: int) -> dict[str, Any]:
    """Put two releases in charge by turns; returns how long each took until its first round was over."""
    took = []
    for number in range(times):
        release = releases[number % 2]
        site.flops("rollback", "dev", "--to", release, "--reason", "by turns")
        pushed = time.monotonic()
        up.wait(f"config [0-9a-f]+: server {release}")
        seen = time.monotonic() - pushed
        up.wait(f"starts with server {release}")
        started = time.monotonic() - pushed
        up.wait("registered")
        took.append((time.monotonic() - pushed, seen, started))
        tell(f"{took[-1][0]:.1f} s (seen after {seen:.1f} s, the round started after {started:.1f} s)")
        time.sleep(7 * (number + 1) % 50)  # At other seconds of the minute.
    return {
        "push to the end of the first round, seconds": {
            "median": median(total for total, *_ in took),
            "most": max(total for total, *_ in took),
        },
        "seen after, seconds": median(seen for _, seen, _ in took),
        "round, seconds": median(total - started for total, _, started in took),
    }


def idle(site: Site, up: Up) -> dict[str, Any]:
    """Suspend the schedule; returns what is used while nothing happens."""
    text = show(site.config, "dev/cronjob.yaml").replace("\nspec:\n", "\nspec:\n  suspend: true\n", 1)
    add_commit(site.config, {"dev/cronjob.yaml": f"{text}\n"}, "suspend")
    up.wait("suspended")
    time.sleep(15)
    before, _ = used(up.process.pid)
    time.sleep(IDLE_SECONDS)
    after, memory = used(up.process.pid)
    return {"idle, percent of a core": 100 * (after - before) / IDLE_SECONDS, "idle, MB": memory}


def measure(times: int, folder: Path) -> dict[str, Any]:
    client = docker.from_env(timeout=900)
    base = make_base(client)
    say = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = client.containers.run(base, ["python3", "-c", say], remove=True, network_mode="none").decode().strip()
    cache = Path.home() / ".cache" / "flops" / "benchmark-wheels"
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("ssh", "registry"):
        (folder / name).mkdir()
    ssh = SshServer(folder / "ssh")
    registry = RegistryServer(folder / "registry", this_machine(client.networks.get("bridge")))
    site = Site(folder, registry, ssh, base, collect_wheels(cache, python))
    site.environment["FLOPS_SMOKE"] = "false"
    up: Up | None = None
    try:
        site.flops("init-config")
        with socket.create_server(("127.0.0.1", 0)) as free:  # Another loop may have the usual one.
            port = free.getsockname()[1]
        service = show(site.config, "dev/service.yaml").replace("nodePort: 30880", f"nodePort: {port}")
        add_commit(site.config, {"dev/service.yaml": f"{service}\n"}, "port")
        schedule(site, schedule='"* * * * *"', activeDeadlineSeconds="50")
        releases = []
        for number in range(2):
            file = site.source / "server" / "job.py"
            file.write_text(f"{file.read_text()}# {number}\n")
            git(site.source, "commit", "-qam", "A change of the server")
            site.flops("release")
            releases.append(site.record()["release"])
            tell(f"release {releases[-1]}")
        words = ("--hospitals", "3")
        up = Up(site.source, folder / "loop", *words, environment={**site.environment, **site.secrets})
        up.wait("registered")
        found = {**follow(site, up, releases, times), **idle(site, up)}
    finally:
        if up is not None:
            up.stop()
            up.down("--purge")
        registry.close()
        ssh.stop()
        client.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="pushes; default: 5")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Which a shell has ignored in the background.
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(options.times, Path(scratch))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        told = ", ".join(f"{k} {v:.1f}" for k, v in value.items()) if isinstance(value, dict) else f"{value:.2f}"
        print(f"{name:<45} {told}")


if __name__ == "__main__":
    main()
