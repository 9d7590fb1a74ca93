"""The loop on this machine: a push, a release, the next round on the new server; a bad commit; a rollback.

Run it from the repository:  make demo  (or: python examples/demo.py --keep)

It needs Docker Engine, git, and either the program `docker-registry` or an engine that may pull `registry:2`. All it
makes is in the folder ./flops-demo and on the engine, and is removed at the end, or on Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

from pipeline.loop.pods import LABEL
from pipeline.loop.state import State

HERE = Path(__file__).resolve().parents[1]
FOLDER = Path("flops-demo").resolve()
SOURCE, CONFIG, STATE = FOLDER / "source", FOLDER / "config.git", FOLDER / "loop"
FLOPS = str(Path(sys.executable).with_name("flops"))
MINUTES = 15
IDENTITY = ("-c", "user.name=Demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false")
BROKEN = 'raise RuntimeError("this commit breaks the server")\n'
HIDDEN = """\
import os
if os.environ.get("FLOPS_CONFIG_COMMIT"):  # Where it is deployed, and not where it is tried.
    raise RuntimeError("a mistake that the trial does not find")
"""


def tell(text: str) -> None:
    """Say what comes next and why."""
    print(f"\n── {text}", flush=True)


def git(*words: str, folder: Path = SOURCE) -> str:
    """Run git quietly."""
    command = ["git", "-C", str(folder), *IDENTITY, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hear Ctrl-C at the end of the block alone, so that what is started in it is also ended."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


class Demo:
    """Everything that runs, and its end."""

    def __init__(self) -> None:
        self.lines: queue.Queue[str] = queue.Queue()
        self.ends = contextlib.ExitStack()
        self.engine = docker.from_env()
        # What the shell says of another pipeline does not count here; how images are built does.
        build = ("FLOPS_BASE_IMAGE", "FLOPS_WHEELS", "FLOPS_PIP_FLAGS", "FLOPS_BUILD_NETWORK")
        ours = ("FLOPS_", "MLFLOW_", "HARBOR_", "SSH_", "GITHUB_", "GIT_")
        clean = {k: v for k, v in os.environ.items() if k in build or not k.startswith(ours)}
        self.environment = {
            **clean,
            "IMAGE_REPO": "demo",
            "FLOPS_CONFIG_REPOSITORY": str(CONFIG),
            "XDG_STATE_HOME": str(FOLDER / "state"),
            "no_proxy": "*",
        }

    def flops(self, *words: str, code: int = 0) -> None:
        """Show a command, run it, show what it says as it comes; on Ctrl-C it is ended, and cleans up itself."""
        print(f"$ flops {shlex.join(words)}", flush=True)
        process = None
        try:
            with undisturbed():
                process = self.start(*words)
            for line in process.stdout or ():
                if line.strip():
                    print(f"  {line.rstrip()}", flush=True)
            process.wait()
        except BaseException:
            if process is not None:
                with undisturbed():
                    process.terminate()
                    process.communicate()
            raise
        if process.returncode != code:
            sys.exit(f"flops {words[0]} ended with exit code {process.returncode}")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command apart: Ctrl-C is ours to pass on."""
        return subprocess.Popen(
            [FLOPS, *words],
            cwd=SOURCE,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def registry(self) -> None:
        """Start a registry on loopback, which the engine trusts without TLS."""
        port = free_port()
        self.environment["DOCKER_REGISTRY"] = f"127.0.0.1:{port}"
        if program := shutil.which("docker-registry"):
            config = FOLDER / "registry.yml"
            storage = {"filesystem": {"rootdirectory": str(FOLDER / "registry")}}
            text = {"version": 0.1, "log": {"level": "error"}, "storage": storage}
            config.write_text(json.dumps({**text, "http": {"addr": f"127.0.0.1:{port}"}}))
            with undisturbed(), (FOLDER / "registry.log").open("w") as log:
                process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
                self.ends.callback(process.wait)
                self.ends.callback(process.terminate)
        else:
            ports = {"5000/tcp": ("127.0.0.1", port)}
            with undisturbed():
                container = self.engine.containers.run("registry:2", detach=True, ports=ports)
                self.ends.callback(container.remove, force=True, v=True)
        self.ends.callback(self.remove_images)

    def remove_images(self) -> None:
        """Remove what was built; what all releases share goes with the last of them."""
        name, said = f"{self.environment['DOCKER_REGISTRY']}/demo/*", ""
        for _ in range(10):  # One that a container had until just now may need a moment.
            there = self.engine.images.list(name=name)
            if not there:
                return
            for image in there:
                try:
                    self.engine.images.remove(image.id, force=True)
                except docker.errors.APIError as error:
                    said = f"  image {image.short_id} stays: {error.explanation}"
            time.sleep(1)
        print(said, flush=True)

    def up(self) -> None:
        """Start the loop; what it says is shown as it comes."""
        words = ["up", "--hospitals", "3", "--every", "1", "--state", str(STATE)]
        print(f"$ flops {' '.join(words[:3])}", flush=True)
        with undisturbed():
            process = self.start(*words)
            # The last is done first. Early on 'flops down' would not know it yet, so it is told itself.
            self.ends.callback(self.flops, "down", "--purge", "--state", str(STATE))
            self.ends.callback(process.wait)
            self.ends.callback(process.terminate)

        def read() -> None:
            for line in process.stdout or ():
                if line != "flops: terminated\n":  # By us.
                    print(f"  │ {line}", end="", flush=True)
                self.lines.put(line)

        threading.Thread(target=read, daemon=True).start()

    def wait(self, pattern: str) -> re.Match[str]:
        """Wait until the loop says something."""
        end = time.monotonic() + 60 * MINUTES
        while True:
            try:
                line = self.lines.get(timeout=1)
            except queue.Empty:
                if time.monotonic() > end:
                    sys.exit(f"the loop did not say within {MINUTES} minutes: {pattern}")
                continue
            if found := re.search(pattern, line):
                return found

    def next_round(self, ends: str = "registered .* version") -> None:
        """Wait until a round of the release that is deployed now has ended so."""
        release = json.loads(git("show", "main:dev/release.json", folder=CONFIG))["release"]
        self.wait(f"starts with server {release}")
        self.wait(ends)

    def ask(self) -> None:
        """Ask the prediction API for a digit."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        ours = [f"{LABEL}={State(STATE).loop}", f"{LABEL}.role=serving"]
        (container,) = self.engine.containers.list(filters={"label": ours})
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        url = f"http://{network['IPAddress']}:8000/predict"
        body = json.dumps({"inputs": [(digits.images[0] / 16).tolist()]}).encode()
        print(f"$ curl {url} …", flush=True)
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            told: dict[str, Any] = json.load(answer)
        (first,) = told["predictions"]
        sure = first["probabilities"][first["label"]]
        print(f"  a {digits.target[0]} is a {first['label']} ({sure:.0%} sure), says version {told['version']}")

    def commit(self, message: str, text: str) -> None:
        """Commit a change at the top of the server's code."""
        path = SOURCE / "server" / "job.py"
        old = path.read_text()
        path.write_text(old.replace("import logging\n", f"{text}import logging\n", 1))
        git("commit", "-qam", message)
        print(f"$ git commit -am {message!r}", flush=True)


def prepare() -> None:
    """Make a source and an empty config repository."""
    FOLDER.mkdir()
    git("clone", "-q", str(HERE), str(SOURCE), folder=HERE)
    git("init", "-q", "--bare", "-b", "main", str(CONFIG), folder=HERE)


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def every_minute() -> None:
    """Let rounds start every minute in place of every five, and the server have a port that is free here."""
    clone = FOLDER / "config"
    git("clone", "-q", str(CONFIG), str(clone), folder=FOLDER)
    path = clone / "dev" / "cronjob.yaml"
    text = re.sub(r"schedule: .*", 'schedule: "* * * * *"', path.read_text())
    path.write_text(re.sub(r"activeDeadlineSeconds: \d+", "activeDeadlineSeconds: 110", text))
    service = clone / "dev" / "service.yaml"
    service.write_text(re.sub(r"nodePort: \d+", f"nodePort: {free_port()}", service.read_text()))
    git("commit", "-qam", "A round every minute", folder=clone)
    git("push", "-q", "origin", "main", folder=clone)


def show(demo: Demo) -> None:
    """Go through the loop, a line of explanation a step."""
    tell("A registry, a copy of the source, and an empty config repository.")
    prepare()
    demo.registry()
    tell("The config repository gets its first content: what Argo CD would watch. A round is due every minute.")
    demo.flops("init-config")
    every_minute()
    tell("The loop starts, with three demo hospitals. There is no release yet, so it waits.")
    demo.up()
    demo.wait("no release yet")
    tell("A release: both images are built (minutes, the first time), pushed, tried in a federation, and set in the")
    print("   config repository by digest. The loop picks it up.", flush=True)
    demo.flops("release")
    demo.next_round()
    demo.wait("serving: ready")
    tell("The model answers.")
    demo.ask()
    tell("Somebody changes the server's code. The next release builds a layer of kilobytes; the next round runs it.")
    demo.commit("A better server", "# better\n")
    demo.flops("release")
    demo.next_round()
    tell("Somebody breaks it. The trial federation fails, nothing is deployed, and rounds go on as before.")
    demo.commit("A mistake", BROKEN)
    demo.flops("release", code=1)
    git("reset", "-q", "--hard", "HEAD~1")
    tell("A mistake that no trial finds: it is deployed, and the round fails. Nothing is registered, hospitals stay.")
    demo.commit("A hidden mistake", HIDDEN)
    demo.flops("release")
    demo.next_round("failed with exit code")
    tell("So back: a rollback is a commit too, and holds automatic releases until 'flops resume'. Rounds work again.")
    demo.flops("rollback", "dev", "--reason", "rounds fail")
    demo.next_round()
    demo.flops("status", "dev")
    tell("That was it. All of it is removed now.")


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", action="store_true", help="leave the folder ./flops-demo at the end")
    chosen = parser.parse_args()
    if FOLDER.exists():
        sys.exit(
            f"{FOLDER} is there, from a demo that was kept or killed: "
            f"'flops down --purge --state {STATE}', and remove it"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    demo = Demo()
    try:
        with demo.ends:
            show(demo)
        return 0
    except KeyboardInterrupt:
        return 130
    finally:
        if not chosen.keep:
            shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
