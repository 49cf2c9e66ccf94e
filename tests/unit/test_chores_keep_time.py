"""Chores go on when the machine's clock is set back (protocol 6.7): APScheduler by itself would wait until it is where it was."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from apscheduler.schedulers import base
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers import interval
from apscheduler.triggers.interval import IntervalTrigger

from relay.jobs import plan_anew

EVERY_S = {"often": 1, "hourly": 3600}


class Wall(datetime):
    """The machine's clock, as APScheduler reads it."""

    back = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return super().now(tz) - cls.back


@pytest.fixture
async def scheduler(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncIOScheduler]:
    for module in (base, interval):
        monkeypatch.setattr(module, "datetime", Wall)
    monkeypatch.setattr(Wall, "back", timedelta())
    scheduler = AsyncIOScheduler(timezone="UTC")
    for name, seconds in EVERY_S.items():
        scheduler.add_job(print, IntervalTrigger(seconds=seconds), id=name)
    scheduler.start(paused=True)
    yield scheduler
    scheduler.shutdown(wait=False)


def waits_s(scheduler: AsyncIOScheduler) -> dict[str, float]:
    return {job.id: (job.next_run_time - Wall.now(UTC)).total_seconds() for job in scheduler.get_jobs()}


async def test_after_the_clock_was_set_back_each_waits_no_longer_than_its_time(scheduler: AsyncIOScheduler) -> None:
    planned = plan_anew(scheduler, None)
    Wall.back = timedelta(hours=5)
    assert min(waits_s(scheduler).values()) > 17_900
    plan_anew(scheduler, planned)
    waits = waits_s(scheduler)
    assert all(waits[name] <= seconds for name, seconds in EVERY_S.items())
    assert waits["hourly"] > 3500


async def test_while_their_times_come_they_are_left_as_they_are(scheduler: AsyncIOScheduler) -> None:
    planned = plan_anew(scheduler, None)
    often, hourly = scheduler.get_job("often"), scheduler.get_job("hourly")
    later = often.next_run_time + timedelta(seconds=5)
    hour = hourly.next_run_time
    for _ in range(3):
        often.modify(next_run_time=later)
        planned = plan_anew(scheduler, planned)
        assert planned == later
        assert scheduler.get_job("hourly").next_run_time == hour
        later += timedelta(seconds=5)


async def test_where_nothing_is_planned_nothing_is_done() -> None:
    empty = AsyncIOScheduler(timezone="UTC")
    assert plan_anew(empty, plan_anew(empty, None)) is None
