"""What `jobs` and `keep` decide, done on the engine, and said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from pipeline.loop import jobs, keep
from pipeline.loop.probes import Asked
from pipeline.loop.rounds import ended, line, release_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.loop.objects import Container, CronJob
    from pipeline.loop.plan import PodPlan
    from pipeline.loop.pods import Pod, Pods
    from pipeline.loop.pulls import Pulls
    from pipeline.loop.troubles import Troubles

JOB, SERVING, HOSPITAL = "job", "serving", "hospital"

_KEPT_ROUNDS = 20

_MOMENT = 2.0
"""Seconds in which it is known whether an image is here."""


@dataclass
class Runner:
    """The hands of a loop.

    Attributes:
        pods: the engine.
        pulls: the images.
        troubles: what did not work.
        say: told what happens.
        commit: of the config repository, for what is started now.
        rounds: how the last jobs ended, the oldest first.
    """

    pods: Pods
    pulls: Pulls
    troubles: Troubles
    say: Callable[[str], None]
    commit: str = ""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    _since: dict[str, datetime] = field(default_factory=dict)
    _ending: dict[str, float] = field(default_factory=dict)
    _late: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _addresses: dict[str, str] = field(default_factory=dict)
    _places: dict[str, str] = field(default_factory=dict)
    _wanted: dict[str, float] = field(default_factory=dict)

    def adopt(self, there: Sequence[Pod]) -> None:
        """Take over what a loop that was killed left; what ended meanwhile is no news."""
        self._told |= {pod.id for pod in there if not pod.running}
        running = sorted(pod.owner for pod in there if pod.running)
        if running:
            self.say(f"goes on with what runs already: {', '.join(running)}")

    def run_jobs(self, cron_job: CronJob, made: PodPlan | None, ours: Sequence[Pod], now: datetime) -> None:
        """Start and end the pods of a CronJob.

        Args:
            cron_job: it.
            made: the pod that would be started; None while something that it needs is missing.
            ours: its pods.
            now: the time.
        """
        name = cron_job.metadata.name
        since = self._since.setdefault(name, now)
        for step in jobs.steps(cron_job, ours, since, made.digest if made else "", now):
            match step:
                case jobs.Start(due, attempt):
                    if made is not None and self._start(made, attempt=attempt, due=due):
                        self._since[name] = max(self._since[name], due)
                        again = f", attempt {attempt}" if attempt > 1 else ""
                        self.say(f"round {clock(due)}: starts with server {release_of(made.image)}{again}")
                case jobs.Missed(due):
                    self._since[name] = due
                    self.say(f"round {clock(due)}: left out, it is too late for it (startingDeadlineSeconds)")
                case jobs.Waits(due):
                    self._once(
                        f"{name} waits {due}", f"round {clock(due)}: waits, the one before is not over (Forbid)"
                    )
                case jobs.End(pod):
                    if pod.id not in self._late:
                        self.say(f"round {clock(pod.due)}: runs longer than activeDeadlineSeconds, and is ended")
                        self._late.add(pod.id)
                    self.end(pod, cron_job.pod.spec.termination_grace_period_seconds)
                case jobs.Forget(pod):
                    self.pods.remove(pod)

    def keep(
        self, name: str, made: PodPlan | None, ours: Sequence[Pod], now: datetime, *, wanted: bool = True
    ) -> None:
        """Keep a pod running.

        Args:
            name: of what it belongs to.
            made: the pod as it shall be; None while something that it needs is missing: what runs, runs on.
            ours: its pods.
            now: the time.
            wanted: whether it shall run at all.
        """
        if made is None and wanted:
            return
        for step in keep.steps(made.digest if made is not None and wanted else None, ours, now):
            match step:
                case keep.Begin(attempt):
                    if made is not None and self._start(made, attempt=attempt):
                        again = self._again(ours, attempt) if attempt > 1 else ""
                        self.say(f"{name}: starts with {release_of(made.image)}{again}")
                case keep.Replace(pod):
                    if made is not None and wanted and pod.id not in self._ending and not self._here(made):
                        continue  # What runs is better than what cannot be had.
                    if pod.id not in self._ending:
                        self.say(f"{name}: is replaced" if wanted else f"{name}: is ended")
                    self.end(pod, made.grace if made else 20)
                case keep.Drop(pod):
                    self.pods.remove(pod)

    def probe(self, container: Container, ours: Sequence[Pod], grace: float) -> None:
        """Ask the pods of a Deployment how they are."""
        for pod in ours:
            if not pod.running or pod.id in self._ending:
                continue
            if not self._addresses.get(pod.id):
                self._addresses[pod.id] = self.pods.address(pod)
            asked = self._asked.setdefault(pod.id, Asked())
            before = asked.ready
            if self._addresses[pod.id] and asked.dead(container, self._addresses[pod.id]):
                self.say(f"{pod.owner}: {asked.said}; it is started anew")
                self.end(pod, grace)
            if asked.ready != before:
                where = f" at {found}" if (found := self._address(pod, container)) else ""
                self._places[pod.id] = found
                self.say(f"{pod.owner}: ready{where}" if asked.ready else f"{pod.owner}: not ready: {asked.said}")

    def _address(self, pod: Pod, container: Container) -> str:
        """Return where a pod answers HTTP: its network is one of this machine's. Empty where it says no port."""
        host, http = self._addresses.get(pod.id), [port for port in container.ports if port.name == "http"]
        return f"http://{host}:{http[0].container_port}/" if host and http else ""

    def end(self, pod: Pod, grace: float) -> None:
        """Ask a pod to end; `insist` kills it once its grace is over."""
        if pod.id not in self._ending:
            self._ending[pod.id] = time.monotonic() + grace
            self.pods.signal(pod, "SIGTERM")

    def retire(self, pod: Pod, grace: float) -> None:
        """End and remove a pod that no manifest has any more."""
        if not pod.running:
            self.pods.remove(pod)
            return
        if pod.id not in self._ending:
            self.say(f"{pod.owner}: is ended, for nothing asks for it any more")
        self.end(pod, grace)

    def insist(self, there: Sequence[Pod]) -> None:
        """Kill what was asked to end, and whose grace is over."""
        for pod in there:
            if pod.running and time.monotonic() > self._ending.get(pod.id, float("inf")):
                self.pods.signal(pod, "SIGKILL")

    def report(self, there: Sequence[Pod]) -> None:
        """Say how jobs ended."""
        for pod in there:
            if pod.running or pod.id in self._told:
                continue
            self._told.add(pod.id)
            if pod.role == JOB:
                printed, last = self.pods.logs(pod, errors=False), self.pods.logs(pod, lines=1)
                row = ended(pod, printed, last, deadline=pod.id in self._late)
                self.rounds = [*self.rounds, row][-_KEPT_ROUNDS:]
                again = f" (attempt {pod.attempt})" if pod.attempt > 1 else ""
                self.say(f"round {clock(pod.due)}{again}: {line(row)}")

    def row(self, pod: Pod, now: datetime) -> dict[str, Any]:
        """Return how a pod is, for the status."""
        asked = self._asked.get(pod.id)
        state = "running" if pod.running else f"ended ({pod.exit_code})"
        if pod.running and pod.id in self._ending:
            state = "ending"
        elif pod.running and asked is not None:
            state = "ready" if asked.ready else f"not ready: {asked.said or 'not asked yet'}"
        elif pod.role != JOB and pod.finished is not None:
            wait = (pod.finished + keep.pause_after(pod.attempt) - now).total_seconds()
            state += f", starts again in {max(0, 10 * round(wait / 10)):.0f} s"
        return {
            "owner": pod.owner,
            "role": pod.role,
            "name": pod.name,
            "state": state,
            "address": self._places.get(pod.id, ""),
            "attempt": pod.attempt,
            "started": pod.started.isoformat(timespec="seconds"),
            "image": pod.image,
            "config_commit": pod.commit,
        }

    def _start(self, made: PodPlan, *, attempt: int, due: datetime | None = None) -> bool:
        about = f"start {made.owner}"
        if not self._here(made) or not self.troubles.may(about):
            return False
        try:
            self.pods.start(made, commit=self.commit, attempt=attempt, due=due)
        except FlopsError as error:
            self.pulls.forget()  # The image may have been removed.
            self.troubles.add(about, f"{made.owner} cannot be started: {error}")
            return False
        self.troubles.clear(about)
        return True

    def _here(self, made: PodPlan) -> bool:
        """Tell whether a pod's image is here; where it is not, it is fetched."""
        if self.pulls.ready(made.image):
            self._wanted.pop(made.image, None)
            return True
        # Whether an image is here is known in a moment; what takes longer is fetched.
        since = self._wanted.setdefault(made.image, time.monotonic())
        if time.monotonic() - since > _MOMENT and not self.pulls.problem(made.image):
            self._once(f"pull {made.image}", f"{made.owner}: fetches {made.image}")
        return False

    def _again(self, ours: Sequence[Pod], attempt: int) -> str:
        """Say why something starts again, and how long the next start would wait."""
        last = max(ours, key=lambda pod: pod.started)
        words = self.pods.logs(last, lines=1).strip()[-200:]
        told = f"exit code {last.exit_code}{f': {words}' if words else ''}"
        pause = keep.pause_after(attempt).total_seconds()
        return f" again, for it ended with {told}; should it end at once, the next start waits {pause:.0f} s"

    def _once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.say(text)


def stay(hospital: PodPlan, pods: Sequence[Pod]) -> PodPlan:
    """Let a hospital that runs stay with its image: in reality whoever owns it renews it, and not the server."""
    for pod in pods:
        older = replace(hospital, image=pod.image)
        if pod.running and older.digest == pod.plan:
            return older
    return hospital


def clock(moment: datetime | None) -> str:
    """Return a time of day, of this machine's zone, with the day where it is another one."""
    if moment is None:
        return "?"
    near = abs(moment - datetime.now(UTC)) < timedelta(hours=24)
    return f"{moment.astimezone():{'%H:%M:%S' if near else '%Y-%m-%d %H:%M:%S'}}"
