"""What keeps a pod running."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.loop.keep import Begin, Drop, Replace, pause_after, steps
from pipeline.loop.pods import Pod

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
RUNNING = Pod(
    id="1",
    name="pod",
    role="serving",
    owner="serving",
    plan="new",
    due=None,
    attempt=1,
    commit="c",
    image="server",
    running=True,
    exit_code=None,
    started=NOON,
    finished=None,
)


def ended(seconds: float, *, attempt: int = 1, plan: str = "new", name: str = "2") -> Pod:
    """One that ran so long, from noon on."""
    finished = NOON + timedelta(seconds=seconds)
    return replace(RUNNING, id=name, running=False, exit_code=1, attempt=attempt, plan=plan, finished=finished)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_what_is_missing_begins_and_what_runs_runs_on() -> None:
    assert list(steps("new", [], NOON)) == [Begin(1)]
    assert list(steps("new", [RUNNING], NOON)) == []


def test_what_is_another_is_replaced_and_only_then_the_new_one_begins() -> None:
    old = replace(RUNNING, plan="old")
    assert list(steps("new", [old], NOON)) == [Replace(old)]
    assert list(steps("new", [ended(5, plan="old")], after(5))) == [Begin(1)]


def test_what_nobody_wants_ends_and_goes() -> None:
    assert list(steps(None, [RUNNING], NOON)) == [Replace(RUNNING)]
    assert list(steps(None, [ended(5)], after(5))) == [Drop(ended(5))]


def test_what_ends_at_once_waits_longer_each_time() -> None:
    assert list(steps("new", [ended(1)], after(5))) == []
    assert list(steps("new", [ended(1)], after(6))) == [Begin(2)]
    assert list(steps("new", [ended(1, attempt=4)], after(40))) == []
    assert list(steps("new", [ended(1, attempt=4)], after(41))) == [Begin(5)]
    assert pause_after(30) == timedelta(minutes=5)


def test_what_ran_long_begins_at_once() -> None:
    assert list(steps("new", [ended(700, attempt=4)], after(700))) == [Begin(1)]


@pytest.mark.parametrize("running", [True, False])
def test_of_those_that_ended_the_newest_is_kept_until_another_runs(running: bool) -> None:
    older, newer = ended(1, name="2"), replace(ended(9, name="3"), started=after(8))
    found = list(steps("new", [older, newer, *([RUNNING] if running else [])], after(9)))
    assert found == ([Drop(older), Drop(newer)] if running else [Drop(older)])
