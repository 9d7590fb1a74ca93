"""How long a release of a change of code takes, beside the bare commands that do the same: build, push, edit, commit.

Both sides have the same engine and cache, the same registry with TLS and a password, the same config repository over
SSH, the same base image and wheels; each release changes one line of the server. The smoke federation is left out,
for the bare commands have none. Then: how long `flops release` takes where nothing has changed. Needs Docker Engine,
root, Debian's docker-registry, OpenSSH's server, and debootstrap (or FLOPS_TEST_BASE_IMAGE).

    python benchmarks/release.py                # about five minutes once the libraries' layer is built
    python benchmarks/release.py --times 7 --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import docker

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.images.base import make_base
from tests.images.build import collect_wheels, commit
from tests.pipeline.registry_server import PASSWORD, USER, RegistryServer, this_machine
from tests.pipeline.repositories import git, make_bare, show
from tests.pipeline.ssh_server import SshServer

SIDES = ("server", "client")


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Bench:
    """A source, a registry, a config repository, and two ways to release."""

    def __init__(self, folder: Path, client: docker.DockerClient, ssh: SshServer, registry: RegistryServer) -> None:
        self.folder, self.ssh, self.registry = folder, ssh, registry
        base = make_base(client)
        say = "import sys; print('%d.%d' % sys.version_info[:2])"
        python = (
            client.containers.run(base, ["python3", "-c", say], remove=True, network_mode="none").decode().strip()
        )
        cache = Path.home() / ".cache" / "flops" / "benchmark-wheels"
        cache.mkdir(parents=True, exist_ok=True)
        self.base, self.wheels = base, collect_wheels(cache, python)
        self.source = folder / "source"
        git(folder, "clone", "-q", str(ROOT), str(self.source))
        git(self.source, "checkout", "-q", "-B", "main", commit())
        # Where `docker build` finds them.
        subprocess.run(["cp", "-al", str(self.wheels), str(self.source / "wheels")], check=True)
        (self.source / ".git" / "info" / "exclude").write_text("wheels\n")
        self.config = make_bare(folder / "config.git", {})
        self.environment = {
            **os.environ,
            "DOCKER_REGISTRY": registry.host,
            "IMAGE_REPO": "bench",
            "HARBOR_USERNAME": USER,
            "HARBOR_PASSWORD": PASSWORD,
            "FLOPS_CONFIG_REPOSITORY": ssh.url(self.config),
            "FLOPS_CONFIG_KEY": str(ssh.key),
            "FLOPS_KNOWN_HOSTS": str(ssh.known_hosts),
            "FLOPS_BASE_IMAGE": base,
            "FLOPS_PIP_FLAGS": "--no-index",
            "FLOPS_WHEELS": str(self.wheels),
            "FLOPS_BUILD_NETWORK": "none",
            "FLOPS_SMOKE": "false",
            "XDG_STATE_HOME": str(folder / "state"),
            "DOCKER_CONFIG": str(folder / "docker"),
            "DOCKER_BUILDKIT": "0",
            "GIT_SSH_COMMAND": f"ssh -i {ssh.key} -o IdentitiesOnly=yes -o UserKnownHostsFile={ssh.known_hosts}",
        }
        self.run("docker", "login", "-u", USER, "--password-stdin", registry.host, text=PASSWORD)
        self.flops("init-config")

    def run(self, *command: str, folder: Path | None = None, text: str | None = None) -> str:
        ended = subprocess.run(
            command,
            cwd=folder or self.source,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout[-1000:]}{ended.stderr[-2000:]}"
        return ended.stdout

    def flops(self, *words: str) -> Any:
        return json.loads(self.run(sys.executable, "-m", "fl.cli", *words, "--json"))

    def change(self) -> None:
        file = self.source / "server" / "job.py"
        file.write_text(f"{file.read_text()}# {time.time_ns()}\n")
        git(self.source, "commit", "-qam", "A change of the server")

    def ours(self) -> tuple[float, dict[str, Any]]:
        started = time.monotonic()
        told = self.flops("release")
        assert told["outcome"] == "released"
        return time.monotonic() - started, told

    def unchanged(self) -> float:
        started = time.monotonic()
        assert self.flops("release")["outcome"] == "unchanged"
        return time.monotonic() - started

    def bare(self) -> float:
        started = time.monotonic()
        now = datetime.now(UTC)
        tag = f"bare-{now:%Y-%m-%d-%H-%M-%S}"
        arguments = {
            "BASE_IMAGE": self.base,
            "PIP_FLAGS": "--no-index",
            "REVISION": git(self.source, "rev-parse", "HEAD"),
            "CREATED": now.isoformat(),
            "VERSION": tag,
        }
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        for side in SIDES:
            name = f"{self.registry.host}/bench/{side}:{tag}"
            self.run(
                "docker", "build", "-q", "--network", "none", *words, "-f", f"Dockerfile.{side}", "-t", name, "."
            )
        for side in SIDES:
            self.run("docker", "push", "-q", f"{self.registry.host}/bench/{side}:{tag}")
        with tempfile.TemporaryDirectory() as place:
            clone = Path(place) / "config"
            self.run("git", "clone", "-q", "--depth", "1", self.environment["FLOPS_CONFIG_REPOSITORY"], str(clone))
            image = f"{self.registry.host}/bench/server:{tag}"
            self.run("sed", "-i", f"s|image: .*/server:.*|image: {image}|", "dev/cronjob.yaml", folder=clone)
            who = ("-c", "user.name=bare", "-c", "user.email=bare@localhost")
            self.run("git", *who, "commit", "-qam", tag, folder=clone)
            self.run("git", "push", "-q", folder=clone)
        seconds = time.monotonic() - started
        assert tag in show(self.config, "dev/cronjob.yaml")
        return seconds


def measure(times: int) -> dict[str, Any]:
    client = docker.from_env(timeout=900)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("ssh", "registry"):
            (folder / name).mkdir()
        ssh = SshServer(folder / "ssh")
        registry = RegistryServer(folder / "registry", this_machine(client.networks.get("bridge")))
        try:
            bench = Bench(folder, client, ssh, registry)
            tell("the first release of each side fills the caches")
            bench.change()
            bench.bare()
            bench.ours()
            ours, bare, told = [], [], []
            for number in range(times):
                for side in ("ours", "bare") if number % 2 else ("bare", "ours"):
                    bench.change()
                    if side == "bare":
                        bare.append(bench.bare())
                        tell(f"bare commands {bare[-1]:.1f} s")
                        continue
                    seconds, result = bench.ours()
                    ours.append(seconds)
                    told.append(result)
                    steps = ", ".join(f"{step} {took}" for step, took in result["seconds"].items())
                    tell(f"flops release {seconds:.1f} s ({steps})")
            bench.change()
            bench.ours()
            unchanged = [bench.unchanged() for _ in range(times)]
        finally:
            registry.close()
            ssh.stop()
            client.close()
    return {
        "flops release": median(ours),
        "bare commands": median(bare),
        "ratio": median(ours) / median(bare),
        "nothing changed": median(unchanged),
        "bytes": {side: max(result["images"][side]["bytes"] for result in told) for side in SIDES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="releases of each side; default: 5")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measure(options.times)
    if options.json:
        print(json.dumps(found))
        return
    print(f"flops release    {found['flops release']:6.1f} s")
    print(f"bare commands    {found['bare commands']:6.1f} s")
    print(f"ratio            {found['ratio']:6.2f}")
    print(f"nothing changed  {found['nothing changed']:6.1f} s")
    for side, size in found["bytes"].items():
        print(f"{side} image transferred {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
