"""The loop: what the config repository says and what the engine has, compared every second, and made one.

Nothing is remembered that the engine does not know: pods carry in their labels what they are, so that a loop which
was killed is gone on with by the next.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from pipeline.engine import ENGINE_ERRORS, engine, no_engine
from pipeline.git_words import public
from pipeline.loop.desired import next_times
from pipeline.loop.plan import PodPlan, plan
from pipeline.loop.pods import Pod, Pods
from pipeline.loop.pulls import Pulls
from pipeline.loop.rounds import is_made, release_of
from pipeline.loop.runner import HOSPITAL, JOB, SERVING, Runner, clock, stay
from pipeline.loop.supplies import Supplies
from pipeline.loop.troubles import Troubles
from pipeline.loop.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.loop.desired import Desired
    from pipeline.loop.objects import PodTemplate
    from pipeline.loop.state import State
    from pipeline.loop.watch import Seen
    from pipeline.settings import Settings

_TICK = 1.0
_ENGINE_SECONDS = 30
"""The engine may be silent for so long."""

_TROUBLE = "what a problem says"
"""What is waited for where something could not be made."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_SIGN_OF_LIFE = timedelta(seconds=10)
"""How it goes is written down when it changes, and so often where it does not."""

_GRACE = 20.0
"""Seconds that a pod has to end where no manifest says more."""


@dataclass(frozen=True)
class Wishes:
    """What the user asked for.

    Attributes:
        environment: the folder of the config repository.
        hospitals: how many demo hospitals.
        tracking: the address of a tracking server; empty for one of the loop's own.
        seconds: between two looks at the config repository.
    """

    environment: str
    hospitals: int = 0
    tracking: str = ""
    seconds: float = 8.0


def run(settings: Settings, wishes: Wishes, state: State, say: Callable[[str], None]) -> None:
    """Run until somebody interrupts; then end and remove what was started.

    Args:
        settings: where the config repository is, and the registry's account.
        wishes: what the user asked for.
        state: the loop's folder.
        say: told what happens, a line each.

    Raises:
        FlopsError: the engine does not answer at the start, or another loop has the folder.
    """
    state.make()
    with state.held(), engine(_ENGINE_SECONDS) as client:
        pods, pulls = Pods(client, state.loop), Pulls(settings.secrets, say)
        supplies = Supplies(pods, state, pods.network(), wishes.tracking, wishes.hospitals, pulls.ready)
        watch = Watch(settings, wishes.environment, state.folder, wishes.seconds, say)
        troubles = Troubles(say)
        loop = Loop(wishes, state, say, watch, supplies, Runner(pods, pulls, troubles, say), troubles)
        try:
            watch.start()
            supplies.start()
            loop.runner.adopt(pods.list())
            while True:
                started = time.monotonic()
                loop.tick()
                time.sleep(max(0.05, _TICK - (time.monotonic() - started)))
        finally:
            with hurrying() as hurry:
                watch.stop()
                loop.close(hurry)


@contextlib.contextmanager
def hurrying() -> Iterator[threading.Event]:
    """Hear who interrupts again while all is being ended: it goes on, and faster."""
    hurry = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield hurry
        return
    before = {number: signal.signal(number, lambda *_: hurry.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield hurry
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class Loop:
    """One environment on one machine."""

    wishes: Wishes
    state: State
    say: Callable[[str], None]
    watch: Watch
    supplies: Supplies
    runner: Runner
    troubles: Troubles
    _seen: Seen | None = None
    _waits: str = ""
    _there: Sequence[Pod] = ()
    _status: dict[str, Any] = field(default_factory=dict)
    _written: datetime = _NEVER

    def tick(self) -> None:
        """Compare once, and do what is to be done; what fails is said, and tried again the next time."""
        pods, now = self.runner.pods, datetime.now(UTC)
        try:
            there = self._there = pods.list()
            if self.troubles.clear("engine"):
                self.runner.pulls.forget()
                self.say("Docker Engine answers again")
            if told := self.supplies.keep():
                self.say(told)
            self.runner.insist(there)
            if self.watch.seen is not None:
                with self.troubles.about("loop"):
                    self._make_true(self.watch.seen, there, now)
                    self.troubles.clear("loop")
            with self.troubles.about("status"):
                self._write_status(there, now)
        except ENGINE_ERRORS as error:
            self.troubles.add("engine", f"what runs is not followed: {no_engine(error)}")
            with contextlib.suppress(OSError):
                self._write_status(self._there, now)
        except OSError as error:  # A disk that is full, say.
            self.troubles.add("disk", f"{error.filename or self.state.folder}: {error.strerror}")
        else:
            self.troubles.clear("disk")

    def close(self, hurry: threading.Event) -> None:
        """End all pods, with the grace of a job or until somebody hurries, and remove them."""
        pods = self.runner.pods
        try:
            running = [pod for pod in pods.list() if pod.running]
            if running:
                self.say("ends what it started")
            for pod in running:
                pods.signal(pod, "SIGTERM")
            end = time.monotonic() + _GRACE
            while any(pod.running for pod in pods.list()) and time.monotonic() < end and not hurry.is_set():
                time.sleep(0.3)
            pods.clear(volumes=False)
            with contextlib.suppress(OSError):
                self.state.write_status({})
        except ENGINE_ERRORS as error:
            self.say(f"'flops down' removes what is left: {no_engine(error)}")
        finally:
            self.supplies.stop()

    def _make_true(self, seen: Seen, there: Sequence[Pod], now: datetime) -> None:
        runner = self.runner
        if seen is not self._seen:
            self._tell(seen, now)
            self._seen, runner.commit = seen, seen.desired.commit
            released = [str(image) for image in seen.release.images.values()] if seen.release else []
            runner.pulls.keep([*seen.desired.images, *released])
            self.troubles.clear_all("engine", "disk")
            runner.pods.sweep()
        waits = self._waits = self._prepare(seen)
        desired = self.supplies.admit(seen.desired)
        runner.report(there)

        def of(role: str, name: str) -> list[Pod]:
            owners.add((role, name))
            return [pod for pod in there if (pod.role, pod.owner) == (role, name)]

        owners: set[tuple[str, str]] = set()
        for name, cron_job in desired.cron_jobs.items():
            ours = of(JOB, name)
            with self.troubles.about(f"{JOB} {name}"):
                made = self._plan(desired, JOB, name, cron_job.pod, waits)
                runner.run_jobs(cron_job, made, ours, now)
        for name, deployment in desired.deployments.items():
            spec, ours = deployment.pod.spec, of(SERVING, name)
            with self.troubles.about(f"{SERVING} {name}"):
                made = self._plan(desired, SERVING, name, deployment.pod, waits)
                runner.keep(name, made, ours, now, wanted=deployment.spec.replicas > 0)
                runner.probe(spec.container, ours, spec.termination_grace_period_seconds)
        if waits:
            return
        for name, hospital in self.supplies.hospital_plans(seen).items():
            ours = of(HOSPITAL, name)
            with self.troubles.about(f"{HOSPITAL} {name}"):
                runner.keep(name, stay(hospital, ours), ours, now)
        for pod in there:
            if (pod.role, pod.owner) not in owners:
                runner.retire(pod, _GRACE)

    def _tell(self, seen: Seen, now: datetime) -> None:
        desired, head = seen.desired, f"config {seen.desired.commit[:8]}"
        for cron_job in desired.cron_jobs.values():
            image = cron_job.pod.spec.container.image
            told = f"server {release_of(image)}" if is_made(image) else "no release yet ('flops release' makes one)"
            due = next(next_times(cron_job, now))
            self.say(f"{head}: {told}: {'suspended' if cron_job.spec.suspend else f'next round at {clock(due)}'}")
        if not desired.cron_jobs:
            self.say(f"{head}: there is no CronJob")

    def _prepare(self, seen: Seen) -> str:
        """Make what pods need and nobody wrote down; returns what is waited for."""
        if not self.troubles.may("supplies"):
            return _TROUBLE
        jobs = seen.desired.cron_jobs.values()
        if jobs and not any(is_made(job.pod.spec.container.image) for job in jobs):
            return "a release"
        try:
            waits = self.supplies.wants(seen)
        except FlopsError as error:
            self.troubles.add("supplies", str(error))
            return _TROUBLE
        self.troubles.clear("supplies")
        return waits

    def _plan(self, desired: Desired, role: str, name: str, pod: PodTemplate, waits: str) -> PodPlan | None:
        """Resolve a pod; None while something that it needs is missing."""
        about = f"{role} {name}"
        if waits or not is_made(pod.spec.container.image):
            return None
        try:
            made = plan(desired, role, name, pod, self.supplies.secrets())
        except FlopsError as error:
            hint = f"; put its files into {self.state.folder}/secrets" if "secret" in str(error) else ""
            self.troubles.add(about, f"{name} waits: {error}{hint}")
            return None
        self.troubles.clear(about)
        return made

    def _write_status(self, there: Sequence[Pod], now: datetime) -> None:
        seen = self._seen
        jobs = seen.desired.cron_jobs if seen else {}
        status = {
            "environment": self.wishes.environment,
            "config_commit": seen.desired.commit if seen else "",
            "tracking": public(self.supplies.tracking),
            "waits": self._waits,
            "problems": [p for p in (self.watch.problem, *self.troubles.all(), *self.runner.pulls.problems()) if p],
            "next_rounds": {
                name: next(next_times(job, now)).isoformat() for name, job in jobs.items() if not job.spec.suspend
            },
            "pods": [
                self.runner.row(pod, now) for pod in sorted(there, key=lambda pod: (pod.role, pod.owner, pod.started))
            ],
            "rounds": self.runner.rounds,
        }
        if status != self._status or now - self._written >= _SIGN_OF_LIFE:
            self.state.write_status({**status, "written": now.isoformat(timespec="seconds")})
            self._status, self._written = status, now
