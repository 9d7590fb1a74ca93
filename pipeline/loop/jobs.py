"""When a CronJob's pods start and end, as in Kubernetes: a pure function of what there is and what time it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from pipeline.loop.desired import next_times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from pipeline.loop.objects import CronJob
    from pipeline.loop.pods import Pod

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=6)
"""Before another attempt; it doubles each time."""


@dataclass(frozen=True)
class Start:
    """Start a pod of the job that was due then."""

    due: datetime
    attempt: int


@dataclass(frozen=True)
class Missed:
    """A start that is too late and is left out."""

    due: datetime


@dataclass(frozen=True)
class Waits:
    """A job is due, and the one before still runs."""

    due: datetime


@dataclass(frozen=True)
class End:
    """A pod runs longer than its job may: ask it to end, and kill it when its grace is over."""

    pod: Pod


@dataclass(frozen=True)
class Forget:
    """A pod that ended and is not kept any longer."""

    pod: Pod


Step = Start | Missed | Waits | End | Forget


@dataclass(frozen=True)
class Run:
    """A job that was started: its pods by attempt, the last of which says how it goes."""

    pods: tuple[Pod, ...]

    @property
    def due(self) -> datetime:
        """When it was due."""
        found = self.pods[0].due
        if found is None:
            raise ValueError(f"{self.pods[0].name} is no job")
        return found

    @property
    def last(self) -> Pod:
        """Its newest pod."""
        return self.pods[-1]

    def over(self, cron_job: CronJob, now: datetime) -> bool:
        """Tell whether nothing more comes of it."""
        spec, last = cron_job.spec.job_template.spec, self.last
        if last.running:
            return False
        late = spec.active_deadline_seconds is not None and now - self.pods[0].started > timedelta(
            seconds=spec.active_deadline_seconds
        )
        return last.exit_code == 0 or late or last.attempt > spec.backoff_limit


def runs(pods: Sequence[Pod]) -> list[Run]:
    """Return the jobs that pods belong to, the oldest first."""
    jobs = sorted((pod for pod in pods if pod.due is not None), key=lambda pod: (pod.due, pod.attempt))
    return [Run(tuple(group)) for _, group in groupby(jobs, key=lambda pod: pod.due)]


def steps(cron_job: CronJob, pods: Sequence[Pod], since: datetime, plan: str, now: datetime) -> Iterator[Step]:
    """Yield what is to be done now.

    Args:
        cron_job: the CronJob.
        pods: its pods.
        since: up to when all that was due is dealt with.
        plan: the digest of the pod that would be started: a failed one of another plan is not tried again.
        now: the time.
    """
    spec, job = cron_job.spec, cron_job.spec.job_template.spec
    known = runs(pods)
    active = False
    for run in known:
        last = run.last
        if last.running:
            active = True
            limit = job.active_deadline_seconds
            if limit is not None and now - run.pods[0].started >= timedelta(seconds=limit):
                yield End(last)
        elif not run.over(cron_job, now) and last.plan == plan and run is known[-1]:
            active = True
            pause = min(_FIRST_PAUSE * 2 ** (last.attempt - 1), _LONGEST_PAUSE)
            if last.finished is not None and now - last.finished >= pause:
                yield Start(run.due, last.attempt + 1)
    due = newest_due(cron_job, max([since, *(run.due for run in known)]), now)
    if due is not None and not spec.suspend:
        late = now - due > timedelta(seconds=spec.starting_deadline_seconds or 10**9)
        yield Missed(due) if late else Waits(due) if active else Start(due, 1)
    yield from (Forget(pod) for pod in _too_many(cron_job, known, active, now))


def newest_due(cron_job: CronJob, since: datetime, now: datetime) -> datetime | None:
    """Return the newest time in (since, now] at which a CronJob is due; None where there is none."""
    found = None
    for moment in next_times(cron_job, since):
        if moment > now:
            break
        found = moment
    return found


def _too_many(cron_job: CronJob, known: Sequence[Run], active: bool, now: datetime) -> Iterator[Pod]:
    spec = cron_job.spec
    keep = {True: spec.successful_jobs_history_limit, False: spec.failed_jobs_history_limit}
    ttl = spec.job_template.spec.ttl_seconds_after_finished
    for run in reversed(known):
        last = run.last
        if last.running or (active and run is known[-1]):
            continue
        good = last.exit_code == 0
        old = ttl is not None and last.finished is not None and now - last.finished > timedelta(seconds=ttl)
        keep[good] -= 1
        if keep[good] < 0 or old:
            yield from run.pods
