"""What a user wants to be told of, and when not: levels, mutes, quiet hours in local time (protocol 7.1, 7.2). Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from relay.model import Policy

_CHAIN_MAX = 20  # quiet hours that follow each other; more than a week of them never ends


class Level(StrEnum):
    """Of what a user wants to be told."""

    ALL = "all"
    MENTIONS = "mentions"
    NONE = "none"


class Quiet(Struct, frozen=True):
    """From one minute of the day to another, in local time; over midnight if the end is not after the start."""

    start_min: int
    end_min: int
    days: tuple[int, ...] = ()  # of the start: 0 is Monday; none named: every day


class Conversation(Struct, frozen=True):
    """One conversation's own settings. What came while it was muted is not told afterwards either."""

    level: Level | None = None
    muted_until_ms: int = 0
    mute_mentions: bool = False


class Preferences(Struct, frozen=True):
    """A user's. `zone`: an IANA name; None: each device's own."""

    zone: str | None = None
    quiet: tuple[Quiet, ...] = ()
    urgent_breaks: bool = True  # what is urgent is told in quiet hours as well
    level: Level = Level.ALL
    elsewhere_ms: int | None = None  # how long other devices wait while one is in use; None: as the app says
    conversations: dict[str, Conversation] = {}


NOTHING_SAID = Preferences()
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Preferences)


def of_user(policy: Policy, preferences: Preferences) -> Policy:
    """The app's policy with what the user wants otherwise."""
    if preferences.elsewhere_ms is None:
        return policy
    return replace(policy, elsewhere_ms=preferences.elsewhere_ms)


def stored(preferences: Preferences) -> str:
    return _encode(preferences).decode()


def from_store(text: str | None) -> Preferences:
    return NOTHING_SAID if text is None else _decoder.decode(text)


def wanted(preferences: Preferences, conversation: str | None, *, mention: bool, accepted_ms: int) -> bool:
    """Whether the user wants to be told of what came then in this conversation."""
    own = preferences.conversations.get(conversation or "")
    if own is not None and accepted_ms < own.muted_until_ms and (own.mute_mentions or not mention):
        return False
    level = preferences.level if own is None or own.level is None else own.level
    return level is Level.ALL or (level is Level.MENTIONS and mention)


@lru_cache(maxsize=512)
def zone_of(*names: str | None) -> tzinfo:
    """The first of these that is a time zone; UTC if none is."""
    for name in names:
        if name:
            try:
                return ZoneInfo(name)
            except (KeyError, ValueError, OSError):  # a device may say anything
                continue
    return UTC


def is_zone(name: str) -> bool:
    """Whether this is an IANA name of a time zone."""
    return zone_of(name) is not UTC or name in {"UTC", "Etc/UTC"}


def quiet_until(preferences: Preferences, device_zone: str | None, now_ms: int) -> int | None:
    """When the quiet hours end that it is in now; None outside of them."""
    if not preferences.quiet:
        return None
    zone = zone_of(preferences.zone, device_zone)
    at_ms = now_ms
    for _ in range(_CHAIN_MAX):
        end_ms = max((_end(one, zone, at_ms) or 0 for one in preferences.quiet), default=0)
        if end_ms <= at_ms:
            break
        at_ms = end_ms
    return at_ms if at_ms > now_ms else None


def _end(one: Quiet, zone: tzinfo, now_ms: int) -> int | None:
    """When these hours end, if `now` lies in them. They begin and end when a clock on the wall shows it."""
    now = datetime.fromtimestamp(now_ms / 1000, zone)
    minute = now.hour * 60 + now.minute
    over_midnight = one.end_min <= one.start_min
    if over_midnight and minute < one.end_min:
        begun, ends = now.date() - timedelta(days=1), now.date()
    elif minute >= one.start_min and (over_midnight or minute < one.end_min):
        begun, ends = now.date(), now.date() + timedelta(days=1 if over_midnight else 0)
    else:
        return None
    if one.days and begun.weekday() not in one.days:
        return None
    hour, rest = divmod(one.end_min, 60)
    wall = datetime(ends.year, ends.month, ends.day, hour, rest, tzinfo=zone)
    return next(end_ms for end_ms in _shown(wall, zone) if end_ms > now_ms)


def _shown(wall: datetime, zone: tzinfo) -> list[int]:
    """When a clock on the wall shows this: twice in an hour that is repeated; when it jumps over it, in one left out."""
    first, second = (wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    if first > second:  # there is no such time: in between, the clock is put forward
        at = second
        while at.astimezone(zone).utcoffset() == second.astimezone(zone).utcoffset():
            at += timedelta(minutes=1)
        return [int(at.timestamp() * 1000)]
    return [int(one.timestamp() * 1000) for one in (first, second)]


def minutes(text: str) -> int:
    """Minutes of the day of `HH:MM`. Raises ValueError."""
    hour, colon, minute = text.partition(":")
    if not (colon and len(text) == 5 and hour.isdecimal() and minute.isdecimal()):
        raise ValueError("must have the form HH:MM")
    at = int(hour) * 60 + int(minute)
    if int(hour) > 23 or int(minute) > 59:
        raise ValueError("must lie between 00:00 and 23:59")
    return at


def clock_text(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


DAYS: Sequence[str] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
