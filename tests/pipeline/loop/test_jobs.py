"""When a CronJob's pods start and end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.loop.desired import next_times
from pipeline.loop.jobs import End, Forget, Missed, Start, Step, Waits, newest_due, steps
from pipeline.loop.objects import CronJob
from pipeline.loop.pods import Pod

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
PLAN = "plan"


def cron_job(**changes: Any) -> CronJob:
    """One that is due every five minutes."""
    job = {"activeDeadlineSeconds": 240, "backoffLimit": 1, "template": {"spec": pod_spec()}}
    job |= {name: changes.pop(name) for name in list(changes) if name in ("activeDeadlineSeconds", "backoffLimit")}
    job |= {name: changes.pop(name) for name in list(changes) if name == "ttlSecondsAfterFinished"}
    spec = {
        "schedule": "*/5 * * * *",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 200,
        "successfulJobsHistoryLimit": 2,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": {"spec": job},
        **changes,
    }
    return CronJob.model_validate(
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "global-server"}, "spec": spec}
    )


def pod_spec() -> dict[str, Any]:
    return {"restartPolicy": "Never", "containers": [{"name": "global-server", "image": "server"}]}


def pod(due: datetime, *, attempt: int = 1, code: int | None = None, seconds: float = 10, plan: str = PLAN) -> Pod:
    """A pod that started when it was due, and has ended where a code is given."""
    return Pod(
        id=f"{due:%H%M}-{attempt}",
        name="pod",
        role="job",
        owner="global-server",
        plan=plan,
        due=due,
        attempt=attempt,
        commit="c",
        image="server",
        running=code is None,
        exit_code=code,
        started=due,
        finished=None if code is None else due + timedelta(seconds=seconds),
    )


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def do(job: CronJob, pods: list[Pod], now: datetime, since: datetime = NOON - timedelta(seconds=1)) -> list[Step]:
    return list(steps(job, pods, since, PLAN, now))


def test_nothing_before_it_is_due() -> None:
    assert do(cron_job(), [], NOON - timedelta(seconds=0.5)) == []


def test_it_starts_when_it_is_due_and_once() -> None:
    assert do(cron_job(), [], NOON) == [Start(NOON, 1)]
    assert do(cron_job(), [pod(NOON)], after(30)) == []
    assert do(cron_job(), [], after(30), since=NOON) == []


def test_of_several_missed_starts_the_newest_counts() -> None:
    assert do(cron_job(), [], after(11 * 60)) == [Start(after(600), 1)]


def test_a_start_that_is_too_late_is_left_out() -> None:
    assert do(cron_job(), [], after(200)) == [Start(NOON, 1)]
    assert do(cron_job(), [], after(201)) == [Missed(NOON)]
    assert do(cron_job(startingDeadlineSeconds=None), [], after(299)) == [Start(NOON, 1)]


def test_two_never_run_at_once() -> None:
    running = pod(NOON)
    assert do(cron_job(activeDeadlineSeconds=None), [running], after(301)) == [Waits(after(300))]
    ended = pod(NOON, code=0, seconds=320)
    assert do(cron_job(activeDeadlineSeconds=None), [ended], after(321)) == [Start(after(300), 1)]


def test_a_suspended_one_starts_nothing() -> None:
    assert do(cron_job(suspend=True), [], NOON) == []


def test_a_failed_one_is_tried_again_after_a_pause_as_often_as_it_may() -> None:
    failed = pod(NOON, code=1)
    assert do(cron_job(), [failed], after(19)) == []
    assert do(cron_job(), [failed], after(20)) == [Start(NOON, 2)]
    again = replace(pod(NOON, attempt=2, code=1), started=after(20), finished=after(30))
    assert do(cron_job(), [failed, again], after(100)) == []
    assert do(cron_job(backoffLimit=0), [failed], after(100)) == []
    assert do(cron_job(backoffLimit=2), [failed, again], after(49)) == []
    assert do(cron_job(backoffLimit=2), [failed, again], after(50)) == [Start(NOON, 3)]


def test_a_failed_one_of_an_older_manifest_is_not_tried_again() -> None:
    assert do(cron_job(), [pod(NOON, code=1, plan="older")], after(60)) == []


def test_while_one_waits_to_be_tried_again_the_next_does_not_start() -> None:
    failed = pod(after(-300), code=1, seconds=299)
    assert do(cron_job(activeDeadlineSeconds=None), [failed], NOON) == [Waits(NOON)]


def test_one_that_runs_too_long_is_ended_and_not_tried_again() -> None:
    running = pod(NOON)
    assert do(cron_job(), [running], after(239)) == []
    assert do(cron_job(), [running], after(240)) == [End(running)]
    assert do(cron_job(), [pod(NOON, code=143, seconds=245)], after(260)) == []


def test_the_deadline_counts_from_the_first_attempt() -> None:
    failed = pod(NOON, code=1)
    again = replace(pod(NOON, attempt=2), started=after(20))
    assert do(cron_job(), [failed, again], after(240)) == [End(again)]


def test_so_many_of_the_past_are_kept() -> None:
    good = [pod(after(-300 * n), code=0) for n in (4, 3, 2)]
    bad = [pod(after(-300 * n), code=2, seconds=270) for n in (6, 5)]
    found = do(cron_job(), [*good, *bad], after(-1), since=after(-300))
    assert sorted(step.pod.id for step in found if isinstance(step, Forget)) == ["1130-1", "1140-1"]


def test_what_is_too_old_is_forgotten() -> None:
    old = pod(after(-3600), code=0)
    assert do(cron_job(ttlSecondsAfterFinished=3000), [old], after(-1)) == [Forget(old)]
    assert do(cron_job(ttlSecondsAfterFinished=4000), [old], after(-1)) == []


@pytest.mark.parametrize(
    ("zone", "schedule", "due"),
    [
        ("Etc/UTC", "30 4 * * *", datetime(2026, 2, 1, 4, 30, tzinfo=UTC)),
        ("Europe/Berlin", "30 4 * * *", datetime(2026, 2, 1, 3, 30, tzinfo=UTC)),
        ("America/New_York", "0 0 1 * *", datetime(2026, 2, 1, 5, 0, tzinfo=UTC)),
    ],
)
def test_schedules_are_of_their_time_zone(zone: str, schedule: str, due: datetime) -> None:
    job = cron_job(schedule=schedule, timeZone=zone)
    assert next(next_times(job, NOON)) == due
    assert newest_due(job, NOON, due) == due
    assert newest_due(job, NOON, due - timedelta(seconds=1)) is None


def test_an_hour_that_comes_twice_and_one_that_does_not_come() -> None:
    job = cron_job(schedule="30 2 * * *", timeZone="Europe/Berlin")
    autumn = datetime(2026, 10, 24, 12, 0, tzinfo=UTC)
    times = next_times(job, autumn)
    assert [next(times).day for _ in range(2)] == [25, 26]
    spring = next_times(job, datetime(2026, 3, 28, 12, 0, tzinfo=UTC))
    assert (next(spring) - datetime(2026, 3, 29, 0, 30, tzinfo=UTC)) <= timedelta(hours=1)
