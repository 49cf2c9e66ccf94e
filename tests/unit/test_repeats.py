"""Warnings that callers can cause by the thousand fill no log."""

import asyncio
from typing import Any

import pytest

from relay.telemetry.repeats import Repeats


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event} | fields)


async def a_while() -> None:
    await asyncio.sleep(0)  # noqa: TID251 - the loop turns
    await asyncio.sleep(0)  # noqa: TID251


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def repeats(log: Log) -> Repeats:
    return Repeats(log.warning, "http.unavailable", together_s=0)


async def test_the_first_is_told_at_once_and_as_it_is(log: Log, repeats: Repeats) -> None:
    repeats.tell("a", request_id="1")
    assert log.lines == [{"event": "http.unavailable", "request_id": "1"}]


async def test_all_others_of_a_while_are_one_line_that_counts_them(log: Log, repeats: Repeats) -> None:
    for n in range(1000):
        repeats.tell("a", request_id=str(n))
    assert len(log.lines) == 1
    await a_while()
    assert log.lines[1:] == [{"event": "http.unavailable", "request_id": "999", "count": 999}]
    for n in range(5):
        repeats.tell("a", request_id=str(n))
    await a_while()
    assert [line["count"] for line in log.lines[1:]] == [999, 5]


async def test_after_a_while_without_any_the_next_is_a_first_one(log: Log, repeats: Repeats) -> None:
    repeats.tell("a", request_id="1")
    await a_while()
    assert len(log.lines) == 1
    repeats.tell("a", request_id="2")
    assert log.lines[1:] == [{"event": "http.unavailable", "request_id": "2"}]


async def test_kinds_are_told_apart(log: Log, repeats: Repeats) -> None:
    for _ in range(3):
        repeats.tell(("draining", "/a"), route="/a")
        repeats.tell(("draining", "/b"), route="/b")
    await a_while()
    told = [(line["route"], line.get("count")) for line in log.lines]
    assert told == [("/a", None), ("/b", None), ("/a", 2), ("/b", 2)]
