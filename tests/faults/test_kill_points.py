"""The relay dies at every named point of its work, and now and then again while it recovers (safety CR-1 to CR-4). What is below
fails it there, and it stands still there.

Around it, in other processes or behind sockets: senders, devices with the real client in all its ways, phones that are off,
vendors that fail now and then, a webhook receiver. Afterwards a referee holds what everybody saw against what is stored: L1 to
L11. In a normal run it dies at half of the points on SQLite, and of the others at those that concern the store on PostgreSQL; it
fails and hangs at fewer. RELAY_ROUNDS has every point come so often on both; RELAY_SEED draws other moments.
"""

import asyncio
import itertools
import json
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from books import wrong_in_the_store
from failpoints import POINTS, Below, Point
from load import GONE, Ledger
from postgres_databases import fresh
from relay_process import RelayProcess
from scene import Answer, Neighbour, Scene, beside, eventually, scene

from relay.cli.exits import EX_CUT_OFF
from relay.client import Client, Way
from relay.clock import SystemClock, rfc3339
from relay.store.claims import ENDPOINT_IN_FLIGHT_MAX

SEED = int(os.environ.get("RELAY_SEED", "1"))
ROUNDS = int(os.environ.get("RELAY_ROUNDS", "0"))
USERS = [f"user-{n}" for n in range(4)]
OF_A_DISK = {Below.STORE, Below.COMMIT}  # on SQLite
ON, OFF = "tablet", "phone"  # a device that is always there; one that is off until the end, and is pushed to
PLANTED = "whispered"  # in each message
SENDERS = 4
PAUSE_S = 0.03
REACHED_S = (
    45  # within which the relay comes to a point: on PostgreSQL a dead relay's pushes are free after half a minute
)
FATAL_S = 3.0  # within which it ends when its disk has failed: 2 (safety DUR-8), and what the machine takes
HANG_S = 7  # longer than its claims of pushes, and than the wait for an ack
CLAIM_S = 5
SECOND_DEATH = 0.2  # how often it dies again while it recovers
CONVERGED_S = 60
# On PostgreSQL a dead relay's pushes are free after half a minute, not at once: points that need one come too late there.
OF_THE_STORE = ("accept.", "batch.", "fanout.", "plan.", "ack.", "expire.", "events.", "register.", "start.", "rescue.")
TERMINAL = frozenset(f"delivery.{word}" for word in ("acked", "expired", "failed", "cancelled", "superseded"))
BESIDE = ("accept.", "batch.", "ack.", "sock.", "claim.", "vendor.")  # what another node does not do in its place
HERE = os.pathsep.join((str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])))


class HarmedRelay(RelayProcess):
    def arm(self, point: str, nth: int, action: str = "kill") -> None:
        """From the next start on this happens when it comes to this point for the nth time; `none` is no point."""
        self.program = ("-m", "failpoints", f"{point}:{nth}:{action}")

    async def comes_to(self, point: str) -> None:
        """Waits until what it was armed with has happened."""
        said = self.log().count(f"failpoint {point} ")
        async with asyncio.timeout(REACHED_S):
            while self.log().count(f"failpoint {point} ") == said:
                await asyncio.sleep(0.02)  # noqa: TID251 - looks again

    async def dies(self, within_s: float) -> bool:
        """Whether it killed itself. Anything else that ends it is wrong."""
        assert self.child is not None
        try:
            async with asyncio.timeout(within_s):
                code = await self.child.wait()
        except TimeoutError:
            return False
        assert code == -signal.SIGKILL, self.log()[-2000:]
        return True

    async def lives(self) -> bool:
        """Starts it; whether it came as far as being ready."""
        try:
            await self.start()
        except AssertionError:  # it said nothing more
            return False
        return True


def on_sqlite(relay: RelayProcess) -> bool:
    return relay.environ["RELAY_STORE__URL"].startswith("sqlite")


class Hasty(random.Random):
    """Chance for clients that never wait long for the next try."""

    def uniform(self, a: float, b: float) -> float:
        return super().uniform(a, min(b, 0.5))


@dataclass
class Crowd:
    """Everybody around the relay, and what they saw."""

    at: Scene
    relay: HarmedRelay
    ledger: Ledger
    rng: random.Random
    harms: int = 0  # deaths, errors, stalls
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    clients: dict[tuple[str, str], Client] = field(default_factory=dict)
    ended_early: set[str] = field(default_factory=set)  # keys of messages that may end before a device has them
    over: asyncio.Event = field(default_factory=asyncio.Event)
    beside: list[Scene] = field(
        default_factory=list
    )  # the same scene as seen from other nodes, to which nothing happens

    async def settle_in(self, home: Path, stack: AsyncExitStack) -> str:
        """Devices, a webhook, whose id it gives, and clients: one of each way."""
        hook = await self.at.hook("*")
        for user, account in zip(USERS, itertools.cycle(self.at.vendors), strict=False):
            self.tokens[user, OFF] = await self.at.device(user, account)
            status, _ = await self.at.call("PUT", f"/v1/users/{user}/devices/{ON}", {})
            assert status == 201
            _, answer = await self.at.call("POST", f"/v1/users/{user}/devices/{ON}/token")
            self.tokens[user, ON] = answer["token"]
        for user, way in zip(USERS, Way, strict=True):
            await self.connect(home, stack, user, ON, ways=[way])
        return hook

    async def connect(self, home: Path, stack: AsyncExitStack, user: str, device: str, **more: Any) -> None:
        rng = Hasty(f"{SEED} {user} {device}")
        nodes = [self.at, *self.beside]
        url = nodes[len(self.clients) % len(nodes)].relay.url
        client = Client(url, self.tokens[user, device], cache=home / f"{user}.{device}.db", rng=rng, **more)
        self.clients[user, device] = await stack.enter_async_context(client)

    # --- senders ---

    def message(self, key: str) -> dict[str, Any]:
        """To one user or two; some end before their devices have them: expired, superseded, taken back."""
        rng = self.rng
        to = rng.sample(USERS, rng.choice([1, 1, 2]))
        body: dict[str, Any] = {"to": {"users": to}, "body": {"key": key, "text": PLANTED + "é" * rng.randint(0, 40)}}
        kind = rng.random()
        if kind < 0.1:
            body["ttl_s"] = 1
        elif kind < 0.2:
            body["collapse_key"] = f"c{rng.randint(0, 3)}"
        elif kind < 0.5:
            body["push"] = {"title": f"{key} {PLANTED}"}
        elif kind < 0.55:
            body["deliver_at"] = rfc3339(SystemClock().now_ms() + 500)
        if kind < 0.2:
            self.ended_early.add(key)
        return body

    async def keep_sending(self, name: str) -> None:
        """Repeats each send until it is answered, as its sender must."""
        for number in itertools.count():
            if self.over.is_set():
                return
            key = f"{name}-{number}"
            body = self.message(key)
            recalled = self.rng.random() < 0.05 and "deliver_at" not in body  # that would have had no delivery yet
            if recalled:
                self.ended_early.add(key)
            self.ledger.mean(key, body)
            answer = await self.sent(key, body)
            self.ledger.accepted(key, answer)
            if recalled:
                await self.patiently("DELETE", f"/v1/messages/{answer['id']}", None)
            await asyncio.sleep(PAUSE_S)  # noqa: TID251

    async def keep_registering(self) -> None:
        """The backend names a device's facts again and again: it stays the same device."""
        while not self.over.is_set():
            path = f"/v1/users/{self.rng.choice(USERS)}/devices/{OFF}"
            status, answer = await self.patiently("PUT", path, {"app_version": f"1.{self.harms}"})
            assert (status, answer["device"]) == (200, OFF), answer
            await asyncio.sleep(0.2)  # noqa: TID251

    async def sent(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        status, answer = await self.patiently("POST", "/v1/messages", body, **{"Idempotency-Key": key})
        assert status in {200, 202}, answer
        return dict(answer)

    async def patiently(self, method: str, path: str, body: Any, **headers: str) -> Any:
        """The answer, whatever becomes of the relay meanwhile."""
        while True:
            try:
                node = self.rng.choice([self.at, *self.beside])
                status, answer = await node.call(method, path, body, **headers)
            except (*GONE, json.JSONDecodeError):
                await asyncio.sleep(PAUSE_S)  # noqa: TID251
                continue
            if status != 503:
                return status, answer
            await asyncio.sleep(PAUSE_S)  # noqa: TID251

    async def vary_the_vendors(self) -> None:
        """One answer in ten is an error."""
        while not self.over.is_set():
            bad = self.rng.random() < 0.1
            for vendor in self.at.vendors.values():
                vendor.answer = Answer(503) if bad else Answer()
            await asyncio.sleep(0.05)  # noqa: TID251

    # --- deaths ---

    async def die_at(self, name: str, point: Point) -> None:
        """Starts the relay and has it die there; then, at times, again before it is ready."""
        relay = self.relay
        relay.arm(name, self.rng.randint(1, point.most))
        if await relay.lives() and point.by is not None:
            await asyncio.sleep(self.rng.uniform(0.2, 1))  # noqa: TID251
            relay.tell(point.by)
        assert await relay.dies(REACHED_S), f"{name} was not reached"
        self.harms += 1
        if self.rng.random() < SECOND_DEATH:
            relay.arm("none", 0)
            again = asyncio.create_task(relay.lives())
            await asyncio.sleep(self.rng.uniform(0.2, 2))  # noqa: TID251 - the moment of the kill is the test
            relay.tell(signal.SIGKILL)
            await again
            assert await relay.dies(REACHED_S)
            self.harms += 1

    async def fail_at(self, name: str, point: Point) -> None:
        """Starts the relay and has what is below fail it there. It ends then if that was its disk, or before it was ready:
        whatever watches over it starts it again. Anything else it outlives."""
        relay = self.relay
        if not await self.meets(name, point, "error"):
            assert await relay.ended() == (os.EX_IOERR if on_sqlite(relay) else os.EX_UNAVAILABLE), relay.log()[-2000:]
        elif point.below in OF_A_DISK and on_sqlite(relay):
            async with asyncio.timeout(FATAL_S):
                assert await relay.ended() == os.EX_IOERR, relay.log()[-2000:]
        elif point.by is not None:
            assert await relay.ended() == 0, relay.log()[-2000:]
        else:
            await self.goes_on()

    async def hang_at(self, name: str, point: Point) -> None:
        """Starts the relay and has it stand still there for longer than its claims last."""
        assert await self.meets(name, point, f"hang:{HANG_S}")
        await asyncio.sleep(HANG_S)  # noqa: TID251
        if point.by is None:
            await self.goes_on()
        else:
            assert await self.relay.ended() in {0, EX_CUT_OFF}  # by then its drain has taken too long

    async def meets(self, name: str, point: Point, action: str) -> bool:
        """Starts the relay and waits until this has happened to it; whether it came as far as being ready."""
        self.harms += 1
        relay = self.relay
        relay.arm(name, self.rng.randint(1, point.most), action)
        async with asyncio.TaskGroup() as both:
            both.create_task(relay.comes_to(name))
            ready = both.create_task(relay.lives())
            if point.by is not None and await ready:
                relay.tell(point.by)
        return ready.result()

    async def goes_on(self) -> None:
        """It is alive and takes messages; then it is ended, in one way or the other."""
        relay = self.relay
        taken = self.ledger.answers
        await eventually(lambda: self.more_than(taken), within_s=REACHED_S)
        how = self.rng.choice([signal.SIGTERM, signal.SIGKILL])
        assert await relay.end(how) == (0 if how is signal.SIGTERM else -signal.SIGKILL), relay.log()[-2000:]

    async def more_than(self, answers: int) -> bool:
        return self.ledger.answers > answers

    # --- the referee ---

    def nothing_is_told_that_is_secret(self, relay: RelayProcess) -> None:
        """L11: no credential, address or word of a message is in the log."""
        log = relay.log()
        secrets = [
            relay.key,
            PLANTED,
            *self.tokens.values(),
            *(f"{user}.{name}" for user in USERS for name in self.at.vendors),
        ]
        assert not [secret for secret in secrets if secret in log], "L11"

    async def ends(self) -> dict[tuple[str, str, str], list[str]]:
        """How each delivery ended: message, user, device."""
        found = defaultdict(list)
        for event in await self.at.reports():
            if event["type"] in TERMINAL:
                for one in event["data"]["deliveries"]:
                    place = (one["message_id"], event["data"]["user"], event["data"]["device"])
                    found[place].append(event["type"].partition(".")[2])
        return found

    def expected(self) -> dict[tuple[str, str, str], str]:
        """Every delivery that was promised, with its message's key."""
        meant = self.ledger.read("mean")
        return {
            (answer["id"], user, device): key
            for key, answer in self.ledger.read("accepted").items()
            for user in meant[key]["to"]["users"]
            for device in (ON, OFF)
        }

    async def every_event_is_told(self, hook: str) -> None:
        """What two deaths cut off waits for minutes, by the plan of the webhooks: the operator has it sent now."""
        told = {event["id"] for event in await self.at.reports()}
        if late := sorted(told - self.at.receiver.taken.keys()):
            status, answer = await self.at.call("POST", f"/v1/webhooks/{hook}/replay", {"events": late[:500]})
            assert status == 202, answer
        for id_ in late:
            await eventually(lambda id_=id_: self.was_told(id_), within_s=CONVERGED_S)  # type: ignore[misc]

    async def was_told(self, event_id: str) -> bool:
        return self.at.receiver.taken[event_id] > 0

    async def all_were_told(self) -> bool:
        """Whether a vendor has heard of each device that is off."""
        told = {call["data"]["token"] for vendor in self.at.vendors.values() for call in vendor.calls}
        return len(told) == len(USERS)

    async def all_have_ended(self) -> bool:
        return self.expected().keys() <= (await self.ends()).keys()


Harm = Callable[[Crowd, str, Point], Awaitable[None]]


def repeats(neighbour: Neighbour) -> int:
    """What it had taken already."""
    return sum(times - 1 for times in neighbour.taken.values() if times)


def judged(crowd: Crowd, ends: dict[tuple[str, str, str], list[str]], kept: dict[tuple[str, str], list[Any]]) -> None:
    """L1 to L7, of what everybody saw."""
    meant, expected = crowd.ledger.read("mean"), crowd.expected()
    assert crowd.ledger.read("accepted").keys() == meant.keys(), "each send was repeated until it had its answer"
    several = {place: how for place, how in ends.items() if len(how) > 1}
    assert not several, f"L5: {several}"
    assert ends.keys() == expected.keys(), "L1, L2: there is what was accepted, and nothing else"
    for (message_id, user, device), key in expected.items():
        if key not in crowd.ended_early:
            assert ends[message_id, user, device] == ["acked"], f"L6: {key} at {user}'s {device}"
    for (user, device), messages in kept.items():
        keys = [message.body["key"] for message in messages]
        assert len(keys) == len(set(keys)), f"{user}'s {device} shows something twice"
        for message in messages:
            body = meant[message.body["key"]]
            assert message.body == body["body"], "L4"
            assert user in body["to"]["users"]
        missing = {
            key
            for (_, who, where), key in expected.items()
            if (who, where) == (user, device) and key not in crowd.ended_early
        } - set(keys)
        assert not missing, f"L7: {user}'s {device} lacks {missing}"


def share(names: Iterable[str], sqlite: bool, *, every: int) -> list[str]:
    """The points of a normal run on this store."""
    some = list(names)
    return some[::every] if sqlite else [name for name in some[1::every] if name.startswith(OF_THE_STORE)]


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The settings that name an empty store of each kind."""
    if request.param == "sqlite":
        yield {"RELAY_STORE__URL": f"sqlite:///{tmp_path}/relay.db"}
    else:
        async with fresh(request.getfixturevalue("postgres_server"), "template1") as url:
            yield {"RELAY_STORE__URL": url}


HARMS: dict[str, tuple[Harm, list[str], int]] = {
    "kill": (Crowd.die_at, list(POINTS), 2),
    "error": (Crowd.fail_at, [name for name, point in POINTS.items() if point.below is not Below.NOTHING], 3),
    "hang": (
        Crowd.hang_at,
        [name for name in POINTS if not name.startswith("rescue.")],
        8,
    ),  # before it listens: a slow start
}


@pytest.mark.parametrize("what", HARMS)
async def test_wherever_it_dies_fails_or_hangs_nothing_is_lost_and_every_delivery_ends_once(
    what: str, store: dict[str, str], tmp_path: Path
) -> None:
    harm, names, every = HARMS[what]
    points = names * ROUNDS or share(names, store["RELAY_STORE__URL"].startswith("sqlite"), every=every)
    claims = {"RELAY_PUSH__CLAIM_S": f"{CLAIM_S}"} if what == "hang" else {}
    await play(tmp_path, store | claims, harm, points)


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_beside_another_node_one_dies_again_and_again_and_nothing_is_lost(
    store: dict[str, str], tmp_path: Path
) -> None:
    """Senders and devices are at either, and a send is repeated at either, as behind a balancer."""
    points = [name for name in POINTS if name.startswith(BESIDE)]
    await play(tmp_path, store, Crowd.die_at, points * ROUNDS or points[::6], nodes=2)


async def play(tmp_path: Path, store: dict[str, str], harm: Harm, points: list[str], *, nodes: int = 1) -> None:
    """Has the first of the nodes harmed at these points under load; then everything is judged."""
    rng = random.Random(SEED)
    rng.shuffle(points)
    async with AsyncExitStack() as stack:
        HarmedRelay.program = ("-m", "failpoints", "none:0:kill")
        at = await stack.enter_async_context(scene(tmp_path, {"PYTHONPATH": HERE} | store, process=HarmedRelay))
        assert isinstance(at.relay, HarmedRelay)
        crowd = Crowd(at, at.relay, stack.enter_context(closing(Ledger(tmp_path / "ledger"))), rng)
        for n in range(1, nodes):
            crowd.beside.append(await stack.enter_async_context(beside(at, tmp_path / f"node-{n}")))
        hook = await crowd.settle_in(tmp_path, stack)
        async with asyncio.TaskGroup() as busy:
            for n in range(SENDERS):
                busy.create_task(crowd.keep_sending(str(n)))
            busy.create_task(crowd.keep_registering())
            busy.create_task(crowd.vary_the_vendors())
            await crowd.ledger.warm.wait()
            assert await at.relay.end(signal.SIGKILL) == -signal.SIGKILL
            for name in points:
                await harm(crowd, name, POINTS[name])
            at.relay.arm("none", 0)
            await at.relay.start()
            crowd.over.set()
        for vendor in at.vendors.values():
            vendor.answer = Answer()
        # On PostgreSQL what a dead relay was pushing is free only after half a minute: it may have told nobody so far.
        await eventually(crowd.all_were_told, within_s=CONVERGED_S)
        for user in USERS:
            await crowd.connect(tmp_path, stack, user, OFF)
        await eventually(crowd.all_have_ended, within_s=CONVERGED_S)
        for client in crowd.clients.values():
            await client.caught_up(CONVERGED_S)

        ends = await crowd.ends()
        kept = {}
        for place, client in crowd.clients.items():
            kept[place] = []
            while more := await client.history(after=kept[place][-1].place if kept[place] else 0):
                kept[place] += more
        judged(crowd, ends, kept)

        assert repeats(at.receiver) <= crowd.harms * ENDPOINT_IN_FLIGHT_MAX, "L8"
        assert sum(map(repeats, at.vendors.values())) <= crowd.harms * len(USERS), "L8"
        await crowd.every_event_is_told(hook)
        for node in (at, *crowd.beside):
            assert await node.relay.end(signal.SIGTERM) == 0
            crowd.nothing_is_told_that_is_secret(node.relay)
        how = Counter(word for words in ends.values() for word in words)
        print(f"harmed {crowd.harms} times, seed {SEED}: {len(crowd.ledger.read('accepted'))} accepted, {dict(how)}")
    assert not await wrong_in_the_store(store, USERS)


@pytest.mark.parametrize("point", ["batch.before_commit", "start.ticking", "drain.before_release"])
async def test_a_store_that_fails_while_the_relay_starts_or_goes_ends_it_in_words(
    point: str, store: dict[str, str], tmp_path: Path
) -> None:
    """With 74 if the disk failed; else what waits for a server is no reason to stay, and no start is one without it."""
    relay = HarmedRelay(
        tmp_path, {"PYTHONPATH": HERE, "RELAY_SERVER__DRAIN_S": "3", "RELAY_SERVER__QUIET_S": "0"} | store
    )
    async with aclosing(relay):
        relay.arm(point, 1, "errors")  # a connection that broke once is made anew
        goes = POINTS[point].by is not None
        assert await relay.lives() == goes
        if goes:
            relay.tell(signal.SIGTERM)
        assert await relay.ended() == (os.EX_IOERR if on_sqlite(relay) else 0 if goes else os.EX_UNAVAILABLE)
        assert f"failpoint {point} " in relay.log()
        assert "Traceback" not in relay.log()
