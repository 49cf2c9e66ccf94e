"""When a vendor's day begins, and when it takes pushes at all. Pure; times in wall-clock milliseconds."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
MINUTES = 24 * 60
EARLY_MS = 300_000
KNOWN = {"Asia/Shanghai": timezone(timedelta(hours=8))}


def offset(text: str) -> tzinfo:
    """The zone of `+08:00`: the vendors that count by days all sit in one without summer time."""
    hours, minutes = int(text[1:3]), int(text[4:6])
    return timezone(timedelta(hours=hours, minutes=minutes) * (-1 if text[0] == "-" else 1))


def zone_named(name: str) -> tzinfo:
    """A provider's zone, like `Asia/Shanghai`. On a machine without the tables of zones, only those of KNOWN; else UTC."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return KNOWN.get(name, UTC)


def day_of(now_ms: int, zone: tzinfo) -> str:
    """The vendor's day, as `2026-11-26`: what its quota is counted by."""
    return _local(now_ms, zone).date().isoformat()


def is_early(now_ms: int, zone: tzinfo) -> bool:
    """Whether the vendor's day has just begun: its clock may be behind ours, or its books still those of the day before."""
    return day_of(now_ms - EARLY_MS, zone) != day_of(now_ms, zone)


def next_day_ms(now_ms: int, zone: tzinfo) -> int:
    """The vendor's next midnight."""
    return _midnight_ms(_local(now_ms, zone).date() + timedelta(days=1), zone)


@dataclass(frozen=True, slots=True)
class Hours:
    """A daily span in whole minutes, from `begin` up to but without `end`; it may pass midnight."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `07:00-23:00`; the end may be `24:00`. Raises ValueError with a sentence."""
        found = _HOURS.fullmatch(text)
        begin, end = (int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])) if found else (0, 0)
        if begin == end or end > MINUTES:
            raise ValueError(f"{text!r} is no span of a day: write it as 07:00-23:00.")
        return cls(begin, end)

    def opens_ms(self, now_ms: int, zone: tzinfo) -> int:
        """When the vendor takes pushes again; `now_ms` itself if it does now."""
        local = _local(now_ms, zone)
        minute = local.hour * 60 + local.minute
        if self._covers(minute):
            return now_ms
        day = local.date() if minute < self.begin else local.date() + timedelta(days=1)
        return _midnight_ms(day, zone, minute=self.begin)

    def _covers(self, minute: int) -> bool:
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


def _local(now_ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(zone)


def _midnight_ms(day: date, zone: tzinfo, *, minute: int = 0) -> int:
    at = datetime.combine(day, time(minute // 60, minute % 60), tzinfo=zone)
    return int(at.timestamp() * 1000)
