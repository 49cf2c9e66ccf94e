"""The world of a run: its node, vendors, backends and phones, what befalls them, and how it all ends (safety SIM-2, SIM-7)."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from providers.contract import Push
from relay.errors import Missing, Problem
from relay.inbox.registry import Registration
from relay.model import DeviceKey, Policy, UserKey
from relay.store.meta import Witness
from relay.webhooks.post import Answer
from relay.webhooks.worker import Pace

from . import past_words
from .backend import Backend, until_quiet
from .client import Broken
from .clocks import NodeClock, Wall
from .delays import Delays
from .doubles import Doubles
from .draws import Draws
from .faults import Faults
from .hour_logs import HourLogs
from .invariants import Referee
from .loop import now_s, sleep
from .moves import Moves
from .net import Link, Lost, Net
from .node import Node
from .phone import Phone
from .scenario import Scenario
from .store import NodeEngine, Store
from .story import Story
from .town import Town
from .vendors import Vendor
from .wishes import Wishes

T = TypeVar("T")
VENDORS = 3
CONVERGE_S = 15 * 60.0
HEALED_S = 30 * 60.0
NUMBERED_MS = 5_000
INBOX_MAX = 10_000
INSTALLS_MAX = 4


class World:
    """Everything, from the first registration to the last check."""

    def __init__(self, scenario: Scenario, story: Story, folder: Path) -> None:
        """`folder`: for what the relay keeps beside its store."""
        self.scenario = scenario
        self.story = story
        self.draws = Draws(scenario.seed, scenario.zeroed)
        self.faults = Faults(self.draws, scenario.without, scenario.rates)
        self.wall = Wall()
        self.store = Store()
        self.policy = Policy(device_sends=True, shared_tail=8, inbox_max=scenario.inbox_max)
        self.referee = Referee(
            self.store, lambda user: self.moves.current(user), window_ms=self.policy.replay_window_ms
        )
        self.store.after_commit = self._committed
        self.net = Net(self.faults, self.draws.stream("net"))
        self.set_backs = 0
        self.doubles = Doubles()
        self.delays = Delays()
        self.copying = False  # an operator has a backup, and will restore it
        self.moves = Moves(self)
        self.hour_logs = HourLogs(self, folder)
        self.node: Node | None = None
        self._clock = NodeClock(self.wall)
        self._starts = 0
        self._witness: Witness | None = None
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restarting = False
        self._group: asyncio.TaskGroup
        self.vendors = [
            Vendor(
                f"v{n}",
                faults=self.faults,
                draws=self.draws.stream(f"vendor/{n}"),
                story=story,
                wall=self.wall,
                unwanted=self._unwanted,
                names=self.moves.names,
                said_dead=self.referee.deaths.said,
            )
            for n in range(VENDORS)
        ]
        self.backends: list[Backend] = []
        self.phones: list[Phone] = []
        self.clones: list[Phone] = []
        self.wishes = Wishes(self)
        self._clones = 0
        for n in range(scenario.apps):
            app_id = f"app{n}"
            share = max(1, scenario.users // scenario.apps)
            users = tuple(f"u{n}-{m}" for m in range(share))
            self.backends.append(Backend(self, app_id, users))
            for d in range(max(share, scenario.devices // scenario.apps)):
                self.phones.append(
                    Phone(self, app_id, users[d % share], f"d{d // share}", self._vendor(len(self.phones)))
                )

        self.towns = [Town(self, backend.app_id) for backend in self.backends] if scenario.town else []

    def _vendor(self, n: int) -> Vendor:
        return self.vendors[n % VENDORS]

    def _committed(self, users: set[tuple[str, str]]) -> None:
        self.referee.now_ms = self._clock.now_ms()
        try:
            self.referee.committed(users)
            if self.node is not None and self.node.up:
                self.delays.look(self.node.connections.items(), self.referee.inboxes, self.faults.fired)
        except Broken as broken:
            self.fail(broken)

    def _unwanted(self, push: Push, user: UserKey) -> None:
        """Raises Broken for a push that this user should not get."""
        self.wishes.check(push, user)
        self.referee.pushed(DeviceKey(*user, push.relay["device"]), push.relay["ids"])

    def fail(self, error: BaseException) -> None:
        """An invariant does not hold: the run ends here."""
        if not self._broken.done():
            self._broken.set_exception(error)

    # --- the way to the relay ---

    async def reach(self) -> Node:
        """The node, if something answers there. Raises Lost."""
        await sleep(self.net.delay_s())
        if self.node is None or not self.node.up:
            raise Lost
        return self.node

    async def call(self, ask: Callable[[Node], Coroutine[Any, Any, T]]) -> T:
        """One request. Raises Lost, Problem."""
        node = await self.reach()
        return await self.net.call(node.spawn, lambda: ask(node))

    def later(self, what: Coroutine[Any, Any, Any], name: str) -> None:
        self._group.create_task(what, name=name)

    # --- the node ---

    async def start_node(self) -> None:
        """Starts the relay, again and again until it is up. Nobody else starts one meanwhile: there is one at a time."""
        self._restarting = True
        while True:
            self._starts += 1
            clock = self._clock = NodeClock(self.wall)
            engine = NodeEngine(self.store, clock, self.faults, self.draws.stream("latency"), self.story)
            node = Node(
                f"n{self._starts}",
                engine=engine,
                clock=clock,
                rng=self.draws.ids(f"node/{self._starts}"),
                apps=[backend.app_id for backend in self.backends],
                vendors=self.vendors,
                post=self._post,
                policy=self.policy,
                pace=Pace(poll_s=self.scenario.look_s),
                hint_lost=lambda: self.faults.strikes("hint_lost"),
                silence=self.referee.silence,
                logs=self.hour_logs.folder,
                watches="store_away" in self.faults.rates,
                witness=self._witness,
            )
            node.on_broken = self.fail
            engine.on_failed = lambda: self.later(self.restart(planned=False), "restart")
            self.node = node
            try:
                await node.spawn(node.start(), name="start")
            except (Problem, asyncio.CancelledError):
                node.kill()
                await sleep(1)
                continue
            if engine.failed:
                node.kill()
                await sleep(1)
                continue
            self._restarting = False
            self.referee.epochs.up()
            self.referee.silence.began()
            self.story.tell("node.up", node.name)
            return

    async def restart(self, *, planned: bool, before_start: Callable[[], None] = lambda: None) -> None:
        """The node ends, by a kill or by a drain, and comes back after a while, whatever becomes of who wanted it."""
        restarting = self._restart(planned=planned, before_start=before_start)
        await asyncio.shield(self._group.create_task(restarting, name="restart"))

    async def _restart(self, *, planned: bool, before_start: Callable[[], None]) -> None:
        if self._restarting or self.node is None:
            return
        self._restarting = True
        node = self.node
        self.story.tell("node.drain" if planned else "node.kill", node.name)
        if planned:
            await node.drain()
        else:
            node.kill()
        self.referee.silence.away("relay")
        self.referee.silence.back(node.name)
        self._witness = node.witness
        for phone in (*self.phones, *self.clones):
            if phone.link is not None:
                phone.link.reset()
        await sleep(self.draws.stream("restart").between(0.5, 30))
        if abs(self.wall.off_ms) > 60_000:
            self.wall.off_ms = 0  # the machine's clock was put right before anything was started on it
        before_start()
        await self.start_node()

    async def _post(self, *, url: str, headers: Any, body: bytes, timeout_s: float, answer_bytes_max: int) -> Answer:
        backend = self.backends[int(url.rsplit("/", 1)[1])]
        return await backend.post(headers, body)

    # --- the run ---

    async def run(self) -> None:
        """Raises Broken, or whatever else an invariant's failure is."""
        life = asyncio.create_task(self._run(), name="world")
        done, _ = await asyncio.wait([life, self._broken], return_when=asyncio.FIRST_COMPLETED)
        if self.node is not None:
            self.node.kill()
        if self._broken in done:
            life.cancel()
            await asyncio.wait([life])
        elif life in done and life.exception() is not None:
            error = life.exception()
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert error is not None
            raise error
        if self._broken.done():
            await self._broken

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            await self.start_node()
            await self._begin()
            stop = asyncio.Event()
            sending = [group.create_task(one.run(stop), name=f"backend {one.app_id}") for one in self.backends]
            lives = [group.create_task(one.live(), name=f"phone {one.name}") for one in self.phones]
            sending += [group.create_task(one.run(stop), name=f"town {one.app_id}") for one in self.towns]
            lives += [group.create_task(one.live(), name="resident") for town in self.towns for one in town.readers]
            lives.append(group.create_task(self.hour_logs.run(), name="logs"))
            befalls = [group.create_task(one, name="fate") for one in self._fates()]
            await sleep(self.scenario.minutes * 60)
            stop.set()
            for one in befalls:
                one.cancel()
            try:
                async with asyncio.timeout(HEALED_S):
                    await self._heal()
                    await asyncio.gather(*sending)
            except TimeoutError:
                raise Broken("all faults have ended, but the relay does not come up, or takes nothing") from None
            await self._converge()
            for one in lives:
                one.cancel()
            await self.hour_logs.converged()
            for town in self.towns:
                await town.converge()

    async def _begin(self) -> None:
        """Endpoints, users and devices, without faults: a run is about what comes after."""
        faults, self.faults.healed = self.faults.healed, True
        for n, backend in enumerate(self.backends):
            await self.call(partial(_endpoint, n, backend))
            await self.call(backend.groups.make)
        for phone in self.phones:
            await self.call(partial(_register, phone))
        for town in self.towns:
            await town.begin()
        self.faults.healed = faults

    async def _heal(self) -> None:
        """All faults end; a parked account is mended by a restart, as an operator does it."""
        self.story.tell("healed")
        self.faults.heal()
        self._store_back()
        self.wall.off_ms = 0
        self.wall.drifts(0)
        for vendor in self.vendors:
            vendor.outage = vendor.misconfigured = False
        for backend in self.backends:
            backend.down = False
        for clone in self.clones:
            clone.leave()
        while self._restarting:
            await sleep(1)
        self.policy = replace(self.policy, inbox_max=INBOX_MAX)  # an operator sees that inboxes are full
        await self.restart(planned=True)
        for phone in self.phones:
            phone.stay = True
            if phone.client.database.rotten:
                phone.cut_off()  # a visit that began before would last, and mend nothing
            phone.wake()

    async def _converge(self) -> None:
        await until_quiet(self.backends, CONVERGE_S)
        later_ms = max(self.referee.due_ms.values(), default=0) - self.wall.true_ms()
        await sleep(max(0, later_ms / 1000 + self.scenario.look_s))  # what is due is found by the next look
        end_s = now_s() + CONVERGE_S
        while True:
            await sleep(20)
            try:
                self.referee.converged(self.phones)
                self.referee.balanced(self.wall.true_ms())
                break
            except Broken:
                if now_s() > end_s:
                    raise
        await sleep(5)  # the last events get their numbers
        for backend in self.backends:
            await backend.pull()
            backend_check(self, backend)
            self.referee.accepted(backend.app_id, backend.by_id.values(), self.moves.must_have)

    # --- what befalls it ---

    def _fates(self) -> list[Coroutine[Any, Any, None]]:
        fates: dict[str, Callable[[], Awaitable[None]]] = {
            "node_crash": lambda: self.restart(planned=False),
            "node_restart": lambda: self.restart(planned=True),
            "node_pause": self._pause,
            "clock_step": self._step,
            "clock_drift": self._drift,
            "vendor_outage": self._outage,
            "vendor_misconfigured": self._misconfigured,
            "receiver_outage": self._receiver_down,
            "storm": self._storm,
            "half_open": self._half_open,
            "one_way": self._one_way,
            "slow_reader": self._slow_reader,
            "said_again": self._said_again,
            "store_restored": self._set_back,
            "store_away": self._store_away,
            "upgrade": lambda: self._to_a_phone(Phone.upgrade),
            "downgrade": lambda: self._to_a_phone(Phone.downgrade),
            "wipe": lambda: self._to_a_phone(Phone.wipe),
            "restored_backup": lambda: self._to_a_phone(Phone.set_back),
            "cloned": self._clone,
            "user_switch": self._switch,
            "reinstalled": self._reinstall,
            "token_rotated": lambda: self._to_a_phone(Phone.rotate_token),
            "rotten": lambda: self._to_a_phone(Phone.rot),
            "preferences": self._preferences,
            "members": self._members,
            "renamed": self._renamed,
            "erased": self._erased,
        }
        return [self._fate(kind, strike) for kind, strike in fates.items()]

    async def _fate(self, kind: str, strike: Callable[[], Awaitable[None]]) -> None:
        while (wait_s := self.faults.wait_s(kind)) is not None:
            await sleep(wait_s)
            self.faults.happened(kind)
            self.story.tell(f"fate.{kind}")
            await strike()

    async def _to_a_phone(self, what: Callable[[Phone], None]) -> None:
        self.draws.stream("fate/phone").pick(self.phones).befall(what)

    async def _clone(self) -> None:
        """For a while a device is there twice."""
        phone = self.draws.stream("fate/phone").pick(self.phones)
        self._clones += 1
        clone = phone.clone(self._clones)
        self.clones.append(clone)
        self.later(clone.live(), f"clone {clone.name}")
        await sleep(self.draws.stream("fate/clone").between(60, 900))
        clone.leave()

    async def _switch(self) -> None:
        draws = self.draws.stream("fate/phone")
        phone, other = draws.pick(self.phones), draws.pick(self.phones)
        phone.cut_off()
        phone.hand_over_to(other)

    async def _reinstall(self) -> None:
        draws = self.draws.stream("fate/phone")
        phone = draws.pick(self.phones)
        if phone.installs >= INSTALLS_MAX:
            return
        phone.cut_off()
        replaces = draws.chance(0.5)
        old = phone.reinstall(replaces=replaces)
        self._registers(phone)
        if not replaces and draws.chance(0.5):
            self.later(self.persist(lambda node: node.inbox.sign_out(old)), f"sign out {phone.name}")

    def _registers(self, phone: Phone) -> None:
        """The backend makes a new installation known."""
        self.later(self.persist(partial(_register, phone, replaces=phone.follows)), f"register {phone.name}")

    async def persist(self, ask: Callable[[Node], Coroutine[Any, Any, Any]]) -> None:
        """A backend's call that is made again until it has an answer."""
        while True:
            try:
                await self.call(ask)
            except Missing:
                return
            except (Lost, Problem):
                await sleep(self.draws.stream("backoff").between(0.5, 20))
                continue
            return

    async def _pause(self) -> None:
        node, loop = self.node, asyncio.get_running_loop()
        if node is None or not node.up:
            return
        loop.pause(node.name)  # type: ignore[attr-defined]
        self.referee.silence.away(node.name)
        await sleep(self.draws.stream("fate/pause").between(1, 300))
        self.referee.silence.back(node.name)
        loop.resume(node.name)  # type: ignore[attr-defined]

    async def _said_again(self) -> None:
        word = self.referee.past_words.one(self.draws.stream("fate/said_again"))
        if word is not None:
            with suppress(Lost, Problem):
                await self.call(lambda node: past_words.say(node, word))

    async def _step(self) -> None:
        draws = self.draws.stream("fate/clock")
        size_ms = draws.pick((1_000, 30_000, 300_000, 3_600_000, 30 * 86_400_000)) * draws.pick((1, -1))
        self.wall.off_ms = size_ms
        await sleep(draws.between(10, 600))
        self.wall.off_ms = 0

    async def _drift(self) -> None:
        draws = self.draws.stream("fate/drift")
        self.wall.drifts(draws.between(0.001, 0.05) * draws.pick((1, -1)))
        await sleep(draws.between(10, 1000))
        self.wall.drifts(0)

    async def _outage(self) -> None:
        vendor = self.draws.stream("fate/vendor").pick(self.vendors)
        vendor.outage = True
        await sleep(self.draws.stream("fate/vendor").between(10, 900))
        vendor.outage = False

    async def _misconfigured(self) -> None:
        vendor = self.draws.stream("fate/vendor").pick(self.vendors)
        vendor.misconfigured = True
        await sleep(self.draws.stream("fate/vendor").between(10, 300))
        vendor.misconfigured = False

    async def _receiver_down(self) -> None:
        backend = self.draws.stream("fate/receiver").pick(self.backends)
        backend.down = True
        await sleep(self.draws.stream("fate/receiver").between(10, 900))
        backend.down = False

    async def _storm(self) -> None:
        """Everybody is cut off and comes back within the same second."""
        for phone in self.phones:
            phone.cut_off()
            phone.wake()

    async def _preferences(self) -> None:
        self.later(self.wishes.change(), "preferences")

    async def _members(self) -> None:
        self.later(self.draws.stream("fate/members").pick(self.backends).groups.change(), "members")

    async def _renamed(self) -> None:
        self.moves.renamed()

    async def _erased(self) -> None:
        self.moves.erased()

    async def _half_open(self) -> None:
        if (link := self._some_link("half_open")) is not None:
            link.deaf = True

    async def _one_way(self) -> None:
        if (link := self._some_link("one_way")) is not None:
            link.go_deaf(self.draws.stream("fate/one_way").pick(("up", "down")))

    async def _slow_reader(self) -> None:
        if (link := self._some_link("slow_reader")) is not None:
            link.slow = self.draws.stream("fate/slow_reader")

    async def _store_away(self) -> None:
        self.store.away = True
        self.referee.silence.away("store")
        await sleep(self.draws.stream("fate/store_away").between(1, 300))
        self._store_back()

    def _store_back(self) -> None:
        self.store.away = False
        self.referee.silence.back("store")

    def _some_link(self, kind: str) -> Link | None:
        """A connection of a phone, if there is any."""
        links = [phone.link for phone in self.phones if phone.link is not None]
        return self.draws.stream(f"fate/{kind}").pick(links) if links else None

    async def _set_back(self) -> None:
        """The operator restores an old backup, without a word to the relay (F74)."""
        if self.moves.busy:
            return
        self.copying = True
        copy = self.store.backup()
        await sleep(self.draws.stream("fate/restore").between(10, 600))
        while self._restarting:
            await sleep(1)

        def restore() -> None:
            self.store.restore(copy)
            self.referee.forget()
            self.referee.epochs.set_back(self._witness, self.wall.true_ms())
            self.doubles.forget()
            self.set_backs += 1
            self.wishes.forget()
            for vendor in self.vendors:
                vendor.unsettled()
            self.copying = False
            for backend in self.backends:
                backend.set_back()
            kept = {DeviceKey(*row) for row in self.store.raw.execute("SELECT app_id, user_id, device_id FROM device")}
            for phone in self.phones:
                if phone.key not in kept:
                    self._registers(phone)

        await self.restart(planned=False, before_start=restore)


async def _endpoint(n: int, backend: Backend, node: Node) -> None:
    created = await node.webhooks.create(backend.app_id, url=f"https://backend.example/{n}")
    backend.endpoint = created.endpoint.key.endpoint_id
    backend.secret = base64.b64decode(created.secret.removeprefix("whsec_"))


async def _register(phone: Phone, node: Node, *, replaces: str | None = None) -> None:
    await node.inbox.register(Registration(device=phone.key, replaces=replaces))


def backend_check(world: World, backend: Backend) -> None:
    """What the backend heard by webhook it can pull, and nothing was pulled that is not in the store.

    What happened since the relay last looked, an expiry say, may have no number yet, or only since the backend has pulled.
    """
    numbered_ms = NUMBERED_MS + int(world.scenario.look_s * 1200)  # it looks again after 0.8 to 1.2 of it
    rows = world.store.raw.execute(
        "SELECT event_id FROM event WHERE app_id = ? AND type <> 'delivery.pushed'"
        " AND (sequence <= ? OR created_ms < ?)",
        (backend.app_id, max(backend.numbers, default=0), world.wall.true_ms() - numbered_ms),
    )
    if set(backend.pulled) != {row[0] for row in rows}:
        raise Broken(f"{backend.app_id} can pull {len(backend.pulled)} events, which are not those of the store")
    if stray := set(backend.heard) - set(backend.pulled):
        raise Broken(f"{backend.app_id} has heard {sorted(stray)} by webhook, and can pull no such events")
    rows = world.store.raw.execute("SELECT event_id, state, due_ms FROM delivery WHERE app_id = ?", (backend.app_id,))
    webhooks_check(backend, rows.fetchall())


def webhooks_check(backend: Backend, deliveries: list[tuple[str, str, int | None]]) -> None:
    """Nothing counts as told that was not heard, and nothing is given up in the hours of a run but for a 410 (SIM-7)."""
    for event_id, state, due_ms in deliveries:
        said = f"SIM-7: the webhook of {event_id} to {backend.app_id}"
        if state == "delivered" and event_id not in backend.ever_heard:
            raise Broken(f"{said} counts as heard, and was not")
        if state == "abandoned" and event_id not in backend.turned_away:
            raise Broken(f"{said} was given up, and nobody has turned it away")
        if state == "waiting" and due_ms is None:
            raise Broken(f"{said} waits, and will never be due")
    if not backend.turned_away and (untold := set(backend.pulled) - {event_id for event_id, *_ in deliveries}):
        raise Broken(f"SIM-7: {sorted(untold)} are told to {backend.app_id} by no webhook")
