"""What one connection is sent of its inbox and of the timelines that it follows, each in its turn (protocol 9.1, 9.2, 12.5)."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from house import House

from relay.inbox.batch import Batch
from relay.inbox.shared import Wanted
from relay.realtime.protocol import Close
from relay.realtime.pump import Pump
from relay.realtime.service import DeviceService
from relay.realtime.window import Window
from relay.store.engine import Engine

PHONE = "ann/phone"
ENOUGH = 20


class Client:
    """The far end of a connection: notes what comes, in order, and may do something about it."""

    closed = False

    def __init__(self, house: House, *, window: int = 200) -> None:
        self.house = house
        self.came: list[tuple[str, list[int]]] = []
        self.also: Callable[[str], Awaitable[None]] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._window = Window(entries=window, bytes_=1024 * 1024)

    async def begin(self) -> "Client":
        welcome = await self.house.hello(PHONE)
        self.pump = Pump(
            self,
            self.house.key(PHONE),
            cast(DeviceService, SimpleNamespace(inbox=self.house.inbox)),
            session=welcome.session,
            epoch=welcome.epoch,
            sent_seq=welcome.head_seq,
            head_seq=welcome.head_seq,
            window=self._window,
            spawn=self._spawn,
            full=lambda: None,
        )
        await self.follow("g", "h")
        self.pump.look()
        await self.rest()
        self.came.clear()
        return self

    async def follow(self, *names: str) -> None:
        for name in (await self.pump.follow(Wanted(names=names)))[0]:
            self.pump.look_at(name)

    def _spawn(self, what: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(what, name=name))
        return self._tasks[-1]

    async def rest(self) -> None:
        """Until nothing is on its way."""
        async with asyncio.timeout(20):
            while self._tasks:
                await self._tasks.pop()

    async def send(self, frame: dict[str, Any]) -> None:
        self.came.append((frame["type"], []))

    async def batch(self, batch: Batch, *, extra: dict[str, Any]) -> None:
        self.came.append((batch.timeline, [entry["seq"] for entry in json.loads(batch.json)["entries"]]))
        if self.also is not None:
            await self.also(batch.timeline)

    async def close(self, code: Close) -> None:
        raise AssertionError(code)


@pytest.fixture
async def house(engine: Engine, clock: Any) -> House:
    house = await House(engine, clock).begin()
    await house.register(PHONE)
    for name in ("g", "h"):
        await house.inbox.groups.change("shop", name, add=["ann"], remove=(), ultra=True)
    return house


async def post(house: House, group: str) -> None:
    await house.inbox.accept(house.message(users=(), group=group, conversation_id=group))


async def test_a_timeline_in_which_there_is_always_something_new_leaves_room_for_the_rest(house: House) -> None:
    """F83: fifty a second there, and what comes elsewhere is not late for it."""
    client = await Client(house).begin()

    async def goes_on(timeline: str) -> None:
        if timeline == "g" and len(client.came) < ENOUGH:
            await post(house, "g")
            client.pump.look_at("g")
        if len(client.came) == 1:
            await post(house, "h")
            client.pump.look_at("h")
            await house.send()
            client.pump.look()
            client.pump.withdrawn(["some"])

    client.also = goes_on
    await post(house, "g")
    client.pump.look_at("g")
    await client.rest()
    names = [name for name, _ in client.came]
    assert len(names) == ENOUGH
    assert {"inbox", "h", "withdraw"} <= set(names[:6])
    assert [seq for name, seqs in client.came for seq in seqs if name == "g"] == list(range(1, names.count("g") + 1))


async def test_of_a_timeline_that_is_followed_no_more_nothing_comes_that_was_being_read(house: House) -> None:
    client = await Client(house, window=2).begin()

    async def turns_away(_: str) -> None:
        client.also = None
        for _ in range(2):
            await post(house, "g")
        client.pump.unfollow("g")

    client.also = turns_away
    await post(house, "g")
    client.pump.look_at("g")
    await client.rest()
    assert client.came == [("g", [1])]
    assert not client.pump.shut, "no ack would open it again"


@pytest.mark.parametrize("how", ["unfollowed", "followed anew"])
async def test_room_that_a_timeline_gives_back_is_used_at_once(house: House, how: str) -> None:
    client = await Client(house, window=2).begin()
    for _ in range(2):
        await post(house, "g")
    client.pump.look_at("g")
    await client.rest()
    assert client.pump.shut
    await house.send()
    client.pump.look()
    await post(house, "h")
    client.pump.look_at("h")
    await client.rest()
    assert client.came == [("g", [1, 2])]
    if how == "unfollowed":
        client.pump.unfollow("g")
    else:
        await client.follow("g")
    await client.rest()
    assert client.came[1:] == [("inbox", [1]), ("h", [1])]
