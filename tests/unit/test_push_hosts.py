"""Hosts that devices bring: one that is down or hangs takes nothing from the others."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from stopped_clock import SetClock

from providers.wire import Reason, Request, Response, TransportError
from relay.push.hosts import STRANGER_CALLS_MAX, PerHost
from relay.push.limits import CALLS_MIN, CLOSE_AFTER, PROBE_MS

STRANGERS_MAX = 10


class Web:
    """Hosts by name: what each answers, or that it hangs until it is let go."""

    def __init__(self) -> None:
        self.says: dict[str, Callable[[], Response]] = {}
        self.hang: set[str] = set()
        self.let_go = asyncio.Event()
        self.called: list[str] = []

    async def __call__(self, request: Request, /) -> Response:
        host = request.url.split("/")[2]
        self.called.append(host)
        if host in self.hang:
            await self.let_go.wait()
        return self.says.get(host, lambda: Response(status=201))()


def failing() -> Response:
    raise TransportError(Reason.TIMEOUT, sent=True)


class Scene:
    def __init__(self, *trusted: str, rate_per_s: float | None = None) -> None:
        self.clock = SetClock(1_000_000)
        self.web = Web()
        self.hosts = PerHost(self.web, self.clock, trusted=trusted, strangers_max=STRANGERS_MAX, rate_per_s=rate_per_s)

    async def call(self, host: str) -> Any:
        """A status, or why there is none."""
        try:
            return (await self.hosts(Request(url=f"https://{host}/x"))).status
        except TransportError as error:
            return error.reason

    async def started(self, *hosts: str) -> "list[asyncio.Task[Any]]":
        tasks = [asyncio.create_task(self.call(host)) for host in hosts]
        await asyncio.wait(tasks, timeout=0)
        return tasks


@pytest.mark.parametrize("bad", [failing, *(partial(Response, status=status) for status in (503, 429, 406))])
async def test_a_host_that_keeps_failing_is_left_alone_and_probed(bad: Callable[[], Response]) -> None:
    scene = Scene()
    scene.web.says["down.example"] = bad
    for _ in range(CALLS_MIN):
        await scene.call("down.example")
    assert await scene.call("down.example") is Reason.HELD_BACK
    assert await scene.call("well.example") == 201
    assert scene.web.called.count("down.example") == CALLS_MIN

    scene.clock.ms += PROBE_MS
    del scene.web.says["down.example"]
    assert [await scene.call("down.example") for _ in range(CLOSE_AFTER + 5)] == [201] * (CLOSE_AFTER + 5)


async def test_topics_that_nobody_reads_hold_back_nobody_else_of_their_host() -> None:
    """Sheet unifiedpush §5: ntfy's 507 is about its topic; CIRCUIT is for the other 5xx."""
    scene = Scene()
    scene.web.says["ntfy.example"] = lambda: Response(status=507)
    for _ in range(2 * CALLS_MIN):
        assert await scene.call("ntfy.example") == 507


async def test_what_is_held_back_was_certainly_not_sent() -> None:
    scene = Scene()
    scene.web.says["down.example"] = failing
    for _ in range(CALLS_MIN):
        await scene.call("down.example")
    with pytest.raises(TransportError) as caught:
        await scene.hosts(Request(url="https://down.example/x"))
    assert not caught.value.sent


async def test_a_stranger_that_hangs_holds_few_calls_and_no_other_host() -> None:
    scene = Scene()
    scene.web.hang.add("hangs.example")
    tasks = await scene.started(*["hangs.example"] * 20)
    assert sum(task.done() for task in tasks) == 20 - STRANGER_CALLS_MAX
    assert await scene.call("well.example") == 201
    scene.web.let_go.set()
    assert [await task for task in tasks].count(201) == STRANGER_CALLS_MAX
    scene.web.let_go.clear()
    tasks = await scene.started(*["hangs.example"] * 20)
    assert not any(task.done() for task in tasks), "it has answered: now it may have as many as it needs"
    scene.web.let_go.set()
    await asyncio.gather(*tasks)


async def test_a_thousand_names_of_one_stranger_share_what_strangers_have() -> None:
    scene = Scene("fcm.googleapis.com")
    assert await scene.call("well.example") == 201
    names = [f"{n}.evil.example" for n in range(100)]
    scene.web.hang.update(names)
    tasks = await scene.started(*names)
    assert sum(not task.done() for task in tasks) == STRANGERS_MAX
    assert await scene.call("well.example") == 201
    assert await scene.call("fcm.googleapis.com") == 201
    assert await scene.call("new.example") is Reason.HELD_BACK
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await scene.call("new.example") == 201, "calls that were given up give their room back"


async def test_a_host_that_hangs_after_it_was_well_is_a_stranger_again() -> None:
    scene = Scene()
    assert await scene.call("x.example") == 201
    scene.web.says["x.example"] = failing
    assert await scene.call("x.example") is Reason.TIMEOUT
    scene.web.hang.add("x.example")
    tasks = await scene.started(*["x.example"] * 20)
    assert sum(not task.done() for task in tasks) == STRANGER_CALLS_MAX
    scene.web.let_go.set()
    await asyncio.gather(*tasks)


async def test_nobody_aims_the_relay_at_a_host_faster_than_its_rate() -> None:
    """Sheet unifiedpush §6, §9; a host that the operator named takes what it takes, and so does each where there is no rate."""
    scene = Scene("named.example", rate_per_s=5)
    assert [await scene.call("x.example") for _ in range(12)] == [201] * 10 + [Reason.HELD_BACK] * 2
    assert await scene.call("y.example") == 201
    assert [await scene.call("named.example") for _ in range(30)] == [201] * 30
    scene.clock.ms += 1000
    assert [await scene.call("x.example") for _ in range(6)] == [201] * 5 + [Reason.HELD_BACK]
    scene = Scene()
    assert [await scene.call("x.example") for _ in range(1000)] == [201] * 1000


async def test_at_the_lowest_rate_too_a_call_can_be_made_again_at_once() -> None:
    """A server that takes a signature for a login is asked once more without it: with room for one, it had no push ever."""
    scene = Scene(rate_per_s=0.5)
    assert [await scene.call("x.example") for _ in range(3)] == [201] * 2 + [Reason.HELD_BACK]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.push.hosts.HOSTS_MAX", 3)
    scene = Scene()
    for n in range(10):
        await scene.call(f"{n}.example")
    assert len(scene.hosts._hosts) == 3
