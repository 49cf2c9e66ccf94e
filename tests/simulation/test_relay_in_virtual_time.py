"""The real services on one virtual-time loop: accept, presence, push and sync, everything drawn from a seed.

The world is small: users with a phone each, a vendor that fails now and then, phones that vanish, come back, lose their
answers, and are upgraded. At the end everything heals, and every accepted message must have been kept by its phone.
"""

import asyncio
import hashlib
import json
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Verdict
from relay.bus.local import LocalBus
from relay.inbox.accept import Send
from relay.inbox.ack import AckRequest
from relay.inbox.addresses import NewAddress
from relay.inbox.cursor import CursorKeys
from relay.inbox.handshake import Hello
from relay.inbox.registry import Registration
from relay.inbox.service import InboxService
from relay.model import DeviceKey, Facts, Policy
from relay.presence.service import PresenceService, Rhythm
from relay.push.accounts import Account, Accounts
from relay.push.limits import Bucket
from relay.push.worker import PushWorker
from relay.store import meta
from relay.store.engine import InlineEngine
from relay.store.schema import metadata

START_MS = 1_764_000_000_000
MINUTES = 20


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer when nothing is ready."""

    def __init__(self) -> None:
        super().__init__(_NoWaiting())
        self._virtual_s = 0.0
        self._selector.loop = self  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._virtual_s

    def jump(self, seconds: float) -> None:
        self._virtual_s += seconds


class _NoWaiting(selectors.SelectSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is scheduled")
        if timeout > 0:
            self.loop.jump(timeout)
        return super().select(0)


class VirtualClock:
    def now_ms(self) -> int:
        return START_MS + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # noqa: TID251 - virtual seconds


class Vendor:
    """Takes pushes, or fails as the seed says."""

    name: ClassVar[str] = "vendor"
    Config: ClassVar[type[ProviderConfig]] = ProviderConfig
    capabilities: ClassVar[Capabilities] = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.healed = False
        self.told: dict[str, int] = {}

    @classmethod
    def check_overrides(cls, overrides: Any) -> list[str]:
        return []

    async def send(self, push: Push) -> Outcome:
        await asyncio.sleep(self.rng.uniform(0.01, 2))  # noqa: TID251
        if not self.healed and self.rng.random() < 0.3:
            return Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="503")
        self.told[push.token] = self.told.get(push.token, 0) + 1
        return Outcome(verdict=Verdict.ACCEPTED)

    async def aclose(self) -> None:
        return None


@dataclass
class Phone:
    """What a client does right: one store with its cursor inside, acks only what is stored, dedupes by id."""

    key: DeviceKey
    store_id: str
    cursor: str | None = None
    session: int = 0
    version: int = 1
    kept: dict[str, int] = field(default_factory=dict)


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.log: list[str] = []
        self.clock = VirtualClock()
        self.engine = InlineEngine(self.clock)
        self.vendor = Vendor(random.Random(seed + 1))
        policy = Policy()
        self.accounts = Accounts(
            [Account(app_id="a", name="v", provider=self.vendor, bucket=Bucket(100, 100))]  # type: ignore[arg-type]
        )
        self.inbox = InboxService(
            engine=self.engine,
            clock=self.clock,
            rng=random.Random(seed + 2),
            policy_of=lambda _: policy,
            keys=CursorKeys(1, {1: b"k" * 32}),
            hints=LocalBus(),
            node_id="n",
        )
        self.presence = PresenceService(self.inbox, self.clock, Rhythm())
        self.push = PushWorker(
            self.engine,
            self.clock,
            random.Random(seed + 3),
            self.accounts,
            lambda _: policy,
            node_id="n",
            open_token=lambda _, sealed: sealed.decode(),
        )
        self.phones = [Phone(DeviceKey("a", f"u{n}", "phone"), f"s{n}-0") for n in range(5)]
        self.accepted: dict[str, set[str]] = {f"u{n}": set() for n in range(5)}
        self.sent = 0

    async def begin(self) -> None:
        await self.engine.write(lambda conn, _: metadata.create_all(conn))
        await self.engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, random.Random(9)))
        for phone in self.phones:
            token = phone.key.user_id.encode()
            address = NewAddress(account="v", kind="token", token_sealed=token, token_hash=token)
            await self.inbox.register(Registration(device=phone.key, addresses=(address,)))

    async def run(self) -> None:
        await self.begin()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.push.run(stop))
            group.create_task(self.presence.run(stop))
            lives = [group.create_task(self.live(phone)) for phone in self.phones]
            await self.send_for(MINUTES * 60)
            for life in lives:
                life.cancel()
            self.vendor.healed = True
            await self.clock.sleep(120)
            self.check_told()
            for phone in self.phones:
                await self.come_back(phone)
                assert await self.fetch(phone, lossy=False)
            stop.set()
        for phone in self.phones:
            assert set(phone.kept) == self.accepted[phone.key.user_id], "a message was lost"
        words = {line.split()[1] for line in self.log}
        assert {"sent", "gone", "delta", "resync"} <= words, "the seed was too quiet to prove anything"
        assert self.vendor.told
        self.check_reports()

    async def send_for(self, seconds: float) -> None:
        end = self.clock.monotonic_ms() + seconds * 1000
        while self.clock.monotonic_ms() < end:
            await self.clock.sleep(self.rng.expovariate(1 / 10))
            self.sent += 1
            user = f"u{self.rng.randrange(5)}"
            await self.inbox.accept(
                Send(
                    app_id="a",
                    message_id=f"01900000-0000-7000-8000-{self.sent:012d}",
                    id_from_key=False,
                    key=f"k{self.sent}",
                    body_hash=b"h",
                    nonce=str(self.sent),
                    users=(user,),
                    type="text",
                    body="1",
                    h="00",
                    push='{"title":"t"}',
                    ttl_s=604_800,
                )
            )
            self.accepted[user].add(f"01900000-0000-7000-8000-{self.sent:012d}")
            self.note("sent", user)

    async def live(self, phone: Phone) -> None:
        """Comes, stays a while, goes without a word; now and then upgraded, wiped, or rolled back."""
        while True:
            await self.clock.sleep(self.rng.uniform(1, 60))
            what = self.rng.random()
            if what < 0.2:
                phone.version += 1
            elif what < 0.3:  # reinstalled: the store is gone, a new one has another id
                phone.store_id, phone.cursor = f"{phone.store_id}+", None
            await self.come_back(phone)
            for _ in range(self.rng.randrange(8)):
                await self.fetch(phone, lossy=True)
                await self.clock.sleep(self.rng.uniform(0.5, 15))
                self.presence.renew(phone.key, phone.session)
            if self.rng.random() < 0.7:
                await self.presence.closed(phone.key, phone.session, goodbye=self.rng.random() < 0.3)
            self.note("gone", phone.key.user_id)

    async def come_back(self, phone: Phone) -> None:
        welcome = await self.inbox.hello(
            Hello(
                device=phone.key,
                node_id="n",
                cursor=phone.cursor,
                store_id=phone.store_id,
                app_version=f"{phone.version}.0",
            )
        )
        self.note(str(welcome.verdict), phone.key.user_id)
        phone.session = welcome.session
        self.presence.connected(phone.key, welcome.session, self.presence.beat(), Facts())
        if self.rng.random() < 0.9:  # else the answer is lost: the old cursor stays
            phone.cursor = welcome.cursor

    async def fetch(self, phone: Phone, *, lossy: bool) -> bool:
        """Pages until caught up; a page's messages and its cursor are stored together, or not at all."""
        while True:
            at = None if phone.cursor is None else self.inbox.unseal(phone.cursor, phone.key)
            reading = await self.inbox.read(phone.key, at, limit=7)
            batch = reading.batch
            assert batch is not None
            if lossy and self.rng.random() < 0.2:
                return False
            for entry in json.loads(batch.json)["entries"]:
                phone.kept.setdefault(entry["id"], entry["seq"])
            phone.cursor = batch.cursor
            if not (lossy and self.rng.random() < 0.2):
                await self.inbox.ack(AckRequest(device=phone.key, cursor=self.inbox.unseal(batch.cursor, phone.key)))
            if not batch.more:
                return True

    def check_told(self) -> None:
        """(P): with a healed vendor, nobody who lacks something has not been told of it."""
        stranded = self.engine.conn.exec_driver_sql(
            "SELECT d.user_id FROM device d JOIN inbox i ON i.user_id = d.user_id JOIN push_job j ON j.user_id = d.user_id "
            "WHERE d.acked_seq < i.head_seq AND d.pushed_seq < i.head_seq AND j.due_ms IS NULL"
        ).all()
        assert stranded == []

    def check_reports(self) -> None:
        """One final report for each delivery, and none for what was never sent."""
        told: list[str] = []
        for type_, data in self.engine.conn.exec_driver_sql("SELECT type, data FROM event").all():
            if type_ == "delivery.acked":
                told += [one["message_id"] for one in json.loads(data)["deliveries"]]
        assert len(told) == len(set(told))
        assert set(told) <= set().union(*self.accepted.values())

    def note(self, what: str, who: str) -> None:
        self.log.append(f"{self.clock.monotonic_ms()} {what} {who}")


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, str]]) -> str:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def history(seed: int) -> str:
    async def main() -> str:
        world = World(seed)
        await world.run()
        await world.engine.close()
        return hashlib.sha256("\n".join(world.log).encode()).hexdigest()

    return in_virtual_time(main)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_whatever_the_seed_brings(seed: int) -> None:
    history(seed)


def test_the_same_seed_gives_the_same_history() -> None:
    assert history(3) == history(3)
