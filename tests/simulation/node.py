"""One relay process in the simulation: the real services, put together as `relay.app` does it, on virtual clocks and links.

Killed, it loses all tasks and all memory; what was committed is in the store, and the next start finds it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any, TypeVar

from providers.guard import Target, parse_target
from relay.api.device_sends import DeviceSends
from relay.api.sends import Sends
from relay.bus.local import LocalBus
from relay.errors import Problem
from relay.inbox.cursor import CursorKeys
from relay.inbox.fanout_worker import FanoutWorker
from relay.inbox.service import InboxService
from relay.jobs import Chores
from relay.keys import KeyRing
from relay.message_logs import MessageLogs
from relay.model import DeviceKey, Policy, TimelineKey, UserKey
from relay.presence.service import Rhythm
from relay.push.accounts import Account, Accounts
from relay.push.limits import Bucket
from relay.push.mending import mend_all
from relay.push.worker import PushWorker
from relay.realtime import protocol
from relay.realtime.addresses import AddressBook
from relay.realtime.comparing import Comparer
from relay.realtime.hub import Credential, Hub
from relay.realtime.rate import Unlimited
from relay.realtime.service import DeviceService
from relay.realtime.session import Session
from relay.store import apps as app_rows
from relay.store import devices as device_rows
from relay.store import meta
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id, emit
from relay.store.outage import StoreWatch
from relay.store.vault import address_place
from relay.webhooks.post import Post
from relay.webhooks.service import WebhookService
from relay.webhooks.worker import Pace, WebhookWorker

from .clocks import NodeClock
from .heartbeats import Heartbeats
from .loop import NODE, sleep
from .net import Link
from .presence import HeardPresence
from .silence import Silence
from .store import NodeEngine
from .vendors import Vendor

T = TypeVar("T")
RECONNECT_S_MAX = 15.0
DRAIN_S = 10.0
LOGS_KEPT_MS = 72 * 3_600_000
APP_SECRET = b"s" * 32
SECRETS = [(1, b"k" * 32)]


class LossyBus(LocalBus):
    """Hints that may be lost."""

    def __init__(self, lost: Callable[[], bool]) -> None:
        super().__init__()
        self._lost = lost

    def wake(self, users: Iterable[UserKey]) -> None:
        super().wake([user for user in users if not self._lost()])

    def posted(self, timelines: Iterable[TimelineKey]) -> None:
        super().posted([one for one in timelines if not self._lost()])

    def close(self, device: DeviceKey, newer_than: int) -> None:
        if not self._lost():
            super().close(device, newer_than)


class Node:
    """A process from its start to its end."""

    def __init__(
        self,
        name: str,
        *,
        engine: NodeEngine,
        clock: NodeClock,
        rng: random.Random,
        apps: Iterable[str],
        vendors: Iterable[Vendor],
        post: Post,
        policy: Policy,
        pace: Pace,
        hint_lost: Callable[[], bool],
        silence: Silence,
        logs: Path,
        watches: bool,
        witness: meta.Witness | None,
    ) -> None:
        """`watches`: it looks every second whether its store is there, which is a transaction each time."""
        self.name = name
        self.engine = engine
        self.clock = clock
        self.up = False
        self.witness = witness
        self._watches = watches
        self._apps = tuple(apps)
        self._rng = rng
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a set would order them by their addresses
        self._stop = asyncio.Event()
        self.connections: dict[Session, Link] = {}
        self.on_broken: Callable[[BaseException], None] = lambda _: None
        self._context = copy_context()
        self._context.run(NODE.set, name)
        ring = KeyRing(SECRETS, rng)
        newest, cursor_keys = ring.cursor_keys()
        self.bus = LossyBus(hint_lost)
        boot_ms = clock.now_ms()
        self.accounts = Accounts(
            Account(app_id=app_id, name=vendor.account, provider=vendor, bucket=Bucket(100, 100))
            for app_id in self._apps
            for vendor in vendors
        )
        self.inbox = InboxService(
            engine=engine,
            clock=clock,
            rng=rng,
            policy_of=lambda _: policy,
            keys=CursorKeys(newest, cursor_keys),
            hints=self.bus,
            node_id=name,
            reseal=lambda old, new, account, sealed: ring.seal(
                ring.open(sealed, address_place(old, account)), address_place(new, account)
            ),
            push_due=lambda due_ms: self.push.nudge(due_ms),
            facts_told=lambda: self.webhook_worker.nudge(),
            fanout_due=lambda due_ms: self.fanout.nudge(due_ms),
        )
        beats = Heartbeats(engine.store, lambda error: self.on_broken(error))
        engine.asked, engine.done = beats.asked, beats.done
        self.presence = HeardPresence(
            self.inbox, clock, Rhythm(), silence=silence, heartbeats=beats, dead=lambda: engine.killed
        )
        self.logs = MessageLogs(engine, clock, logs, keep_ms=LOGS_KEPT_MS)
        self.store_watch = StoreWatch(engine, clock, away=self._store_away, back=self._store_back)
        self.devices = DeviceService(
            inbox=self.inbox,
            presence=self.presence,
            addresses=AddressBook(
                accounts=self.accounts,
                seal_token=lambda device, account, token: (
                    ring.seal(token.encode(), address_place(device, account)),
                    ring.token_hash(device.app_id, account, token),
                ),
            ),
            comparer=Comparer(inbox=self.inbox, clock=clock),
            clock=clock,
            policy_of=lambda _: policy,
            node_id=name,
        )
        self.sends = Sends(
            clock=clock,
            rng=rng,
            policy_of=lambda _: policy,
            id_secret=lambda _: APP_SECRET,
            check_push=lambda *_: [],
        )
        self.device_sends = DeviceSends(
            inbox=self.inbox, sends=self.sends, policy_of=lambda _: policy, rate=Unlimited(), clock=clock
        )
        self.push = PushWorker(
            engine,
            clock,
            rng,
            self.accounts,
            lambda _: policy,
            node_id=name,
            open_token=lambda place, sealed: ring.open(sealed, place).decode(),
            boot_ms=boot_ms,
            poll_s=pace.poll_s,
        )
        self.fanout = FanoutWorker(self.inbox.fan_out, clock, begin=self.inbox.begin_fan_out, poll_s=pace.poll_s)
        self.hub = Hub(clock, rng, self.inbox.reader.heads, timeline_heads=self.inbox.shared.heads)
        self.bus.on_wake(self.hub.wake)
        self.bus.on_post(self.hub.posted)
        self.bus.on_withdrawn(self.hub.withdrawn)
        self.bus.on_close(self.hub.close)
        self.webhook_worker = WebhookWorker(engine, post, ring, clock=clock, rng=rng, owner=name, pace=pace)
        self.webhooks = WebhookService(engine, ring, _any_url, rng=rng, nudge=self.webhook_worker.nudge)
        self.chores = Chores(
            engine=engine,
            inbox=self.inbox,
            clock=clock,
            node_id=name,
            witness=None,
            dormant_ms=policy.dormant_ms,
            gone_ms=policy.gone_ms,
            history_ms=policy.history_ms,
            prune_events=self.webhooks.tidy,
        )

    # --- life ---

    def spawn(self, what: Coroutine[Any, Any, T], *, name: str = "request") -> "asyncio.Task[T]":
        """Runs `what` as part of this process; cancelled if there is none."""
        if self.engine.killed:
            what.close()
            what = _nobody()
        task = asyncio.get_running_loop().create_task(what, name=name, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._ended, context=Context())
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or self.engine.killed:
            return
        error = task.exception()
        if error is not None and not isinstance(error, Problem):
            self.on_broken(error)  # SIM-I17: nothing but a problem may come out of the relay

    async def start(self) -> None:
        """Opens the store and serves. Raises Problem if the store is away."""
        await self.engine.write(lambda conn, now_ms: meta.prepare(conn, now_ms, self._rng))
        await self.engine.write(self._begin)
        await mend_all(self.engine, self.accounts)
        self.presence.resume(await self.engine.read(lambda conn, _: device_rows.online_devices(conn)))
        for worker in (self.push.run, self.presence.run, self.hub.run, self.webhook_worker.run, self.fanout.run):
            self.worker(worker(self._stop), worker.__qualname__)
        self.worker(self.hub.run_windows(self._stop), "windows")
        if self._watches:
            self.worker(self.store_watch.run(self._stop), "store-watch")
        self.worker(self.hub.run_pings(self._stop, every_s=protocol.PING_S), "pings")
        for chore, seconds in (
            (self.tick, meta.TICK_S),
            (self.chores.expire, 5),
            (self.chores.escalate, 1),
            (self.chores.mend, 5),
            (self.chores.prune, 60),
            (self.chores.silence, 600),
            (self.chores.forget, 600),
        ):
            self.worker(self._every(chore, seconds), f"chore-{chore.__name__}")
        self.up = True

    def _store_away(self) -> None:
        self.presence.store_away()
        self.hub.store_away()

    def _store_back(self, outage_ms: int) -> None:
        self.presence.store_back(outage_ms)
        self.hub.store_back()

    def worker(self, what: Coroutine[Any, Any, None], name: str) -> None:
        """A task that may only end with its node."""
        self.spawn(what, name=name)

    def _begin(self, conn: Conn, now_ms: int) -> None:
        """As `relay.app` does it: a store that is behind its witness was set back."""
        for app_id in self._apps:
            app_rows.create_app(conn, now_ms, app_id=app_id, id_secret=APP_SECRET)
        if not meta.behind(conn, self.witness):
            return
        old, new = meta.begin_epoch(conn, now_ms, self._rng)
        for app_id in self._apps:
            event_id = derived_id("evt_", "store.rolled_back", app_id, new)
            data = {"old_epoch": old, "new_epoch": new}
            emit(conn, now_ms, [NewEvent(app_id=app_id, event_id=event_id, type="store.rolled_back", data=data)])

    async def tick(self) -> None:
        self.witness = await self.engine.write(lambda conn, now_ms: meta.tick(conn, now_ms, self.name))

    async def _every(self, chore: Callable[[], Awaitable[None]], seconds: float) -> None:
        while True:
            await sleep(seconds)
            try:
                await chore()
            except Problem:
                continue

    async def drain(self) -> None:
        """A planned end: tells everybody, gives what is under way its time, and goes."""
        self.up = False
        self._stop.set()
        self.spawn(_call(lambda: self.hub.drain(reconnect_s_max=RECONNECT_S_MAX)))
        await sleep(DRAIN_S)
        self.kill()

    def kill(self) -> None:
        """kill -9."""
        self.up = False
        self.engine.killed = True
        asyncio.get_running_loop().resume(self.name)  # type: ignore[attr-defined]
        for task in sorted(self._tasks, key=lambda one: one.get_name()):
            task.cancel()

    def serve(self, device: DeviceKey, link: Link, first: dict[str, Any]) -> None:
        """A device's socket, with its hello already read."""
        session = Session(
            link.socket,  # type: ignore[arg-type]
            device,
            self.devices,
            self.hub,
            self.clock,
            self._rng,
            credential=Credential("simulated"),
            next_token=_no_token,
            send=self.device_sends.over_socket,
            cut=link.reset,
        )
        self.spawn(self._serve(session, link, first), name=f"session {device}")

    async def _serve(self, session: Session, link: Link, first: dict[str, Any]) -> None:
        self.connections[session] = link
        try:
            await session.run(first)
        finally:
            del self.connections[session]
            link.node_ended()


async def _no_token() -> dict[str, Any]:
    return {"token": None, "expires_at": None, "renew_at": None}


async def _nobody() -> Any:
    raise asyncio.CancelledError


async def _call(what: Callable[[], None]) -> None:
    what()


async def _any_url(url: str) -> Target:
    return parse_target(url)
