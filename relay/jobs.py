"""Chores: what must happen now and then on any number of nodes, each idempotent. APScheduler only says when."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from relay.clock import Clock, rfc3339
from relay.errors import Problem
from relay.inbox.ending import SWEEP_ENTRIES_MAX
from relay.inbox.service import InboxService
from relay.model import Device, DeviceKey, DeviceState, UserKey
from relay.push.calendar import day_of
from relay.push.escalating import STEPS_MAX, escalate, is_due
from relay.push.mending import resume
from relay.store import addresses as address_rows
from relay.store import apps as app_rows
from relay.store import audit, dead, held_entries, meta, quota, tokens
from relay.store import devices as device_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import upgrades as upgrade_rows
from relay.store.audit import Imbalance
from relay.store.engine import Conn, Engine
from relay.store.events import NewEvent, derived_id, emit
from relay.waiting import pause

log = structlog.get_logger("relay.jobs")

DAY_MS = 86_400_000
PLANS_S = 5.0  # between looks at whether chores' times come at all
DAYS_KEPT_MS = 3 * DAY_MS  # any vendor's day is over by then
DEAD_KEPT_MS = 28 * DAY_MS  # no message lives longer
WALK_USERS = 200
SILENT_DEVICES = 200
UPGRADES = 200
SWEEPS_MAX = 800  # in one round, so that a storm of expiries is worked off without starving others


async def _nothing() -> None:
    return


@dataclass(slots=True, kw_only=True)
class Chores:
    """The chores themselves, callable at any time (and so by the simulation)."""

    engine: Engine
    inbox: InboxService
    clock: Clock
    node_id: str
    witness: meta.WitnessFile | None
    dormant_ms: int
    gone_ms: int
    history_ms: int
    prune_events: Callable[[], Awaitable[object]]
    prune_logs: Callable[[], Awaitable[object]] = _nothing
    look_at_credentials: Callable[[], Awaitable[object]] = _nothing
    imbalanced: Callable[[Mapping[str, int]], None] = lambda counts: None
    was_set_back: Callable[[Conn, int, meta.Witness | None], bool] = lambda conn, now_ms, seen: False
    take_over: Callable[[Iterable[Device]], None] = lambda devices: None
    step_ms: Callable[[], int | None] = lambda: None  # by how much the clock has jumped, while that is not believed
    _seen: meta.Witness | None = None
    _buried: frozenset[str] = frozenset()  # nodes
    _step_told: bool = False

    async def tick(self) -> None:
        """The store's clockwork, and the witness that remembers how far it had come.

        A store that is behind what this very process has seen was set back under it: by a failover, say.
        """

        def work(conn: Conn, now_ms: int) -> tuple[bool, meta.Witness]:
            set_back = self.was_set_back(conn, now_ms, self._seen)
            return set_back, meta.tick(conn, now_ms, self.node_id)

        set_back, seen = await self.engine.write(work)
        self._seen = seen
        if set_back:
            log.warning("store.rolled_back")
        if self.witness is not None:
            try:
                await asyncio.to_thread(self.witness.write, seen)  # it waits for the disk
            except OSError as error:  # no reason to stop: the store itself is well
                log.warning("store.witness_not_written", reason=error.strerror)

    async def bury(self) -> None:
        """Takes over the devices of nodes that have died, each once. Several nodes may: the first word counts (protocol 6.6)."""

        def look(conn: Conn, now_ms: int) -> tuple[frozenset[str], list[Device]]:
            dead_nodes = meta.nodes(conn, now_ms, dead=True) - {self.node_id}
            new = dead_nodes - self._buried
            return dead_nodes, device_rows.online_at(conn, new) if new else []

        self._buried, devices = await self.engine.read(look)
        self.take_over(devices)

    async def watch_clock(self) -> None:
        """A jump of the clock is told once, when it comes: until it has lasted, nothing is done by it (safety FLT-26)."""
        step_ms, told = self.step_ms(), self._step_told
        self._step_told = step_ms is not None
        if step_ms is None or told:
            return
        log.warning("clock.stepped", ms=step_ms)

        def work(conn: Conn, now_ms: int) -> None:
            data = {"at": rfc3339(now_ms), "step_ms": step_ms}
            emit(
                conn,
                now_ms,
                [
                    NewEvent(
                        app_id=app_id,
                        event_id=derived_id("evt_", "clock_step", app_id, self.node_id, now_ms),
                        type="clock_step",
                        data=data,
                    )
                    for app_id in app_rows.apps(conn)
                ],
            )

        await self.engine.write(work)

    async def expire(self) -> None:
        for _ in range(SWEEPS_MAX):
            if await self.inbox.expire() < SWEEP_ENTRIES_MAX:
                return

    async def escalate(self) -> None:
        """Steps of messages whose deadline has passed without an ack."""
        while await self.engine.read(is_due):
            count = await self.engine.write(partial(escalate, policy_of=self.inbox.policy_of))
            self.inbox.facts_told()
            if count < STEPS_MAX:
                return

    async def prune(self) -> None:
        """Walks all inboxes, a few at a time, and raises their floors."""
        after: UserKey | None = None
        while True:
            users = await self.engine.read(partial(_inboxes_after, after))
            if not users:
                return
            await self.inbox.prune(users)
            after = users[-1]

    async def count_open(self) -> None:
        """How many deliveries of each app are open, for its quota (safety §5)."""
        await self.inbox.count_open()

    async def prune_shared(self) -> None:
        """Raises the floors of shared timelines: by age alone."""
        await self.inbox.shared.prune()

    async def audit(self) -> None:
        """Recomputes from the rows what must add up, user by user, and says where it does not (safety DUR-17)."""
        after: UserKey | None = None
        counts = dict.fromkeys(Imbalance, 0)
        while users := await self.engine.read(partial(_inboxes_after, after)):
            for what, wrong in (await self.engine.read(partial(_imbalances, users))).items():
                counts[what] += len(wrong)
                for key in sorted(wrong):
                    log.error("ledger.imbalance", kind=str(what), app=key.app_id, user=key.user_id)
            after = users[-1]
        self.imbalanced({str(what): count for what, count in counts.items()})

    async def silence(self) -> None:
        """Devices that were not heard of for long become dormant, and later gone."""
        for state, idle_ms in ((DeviceState.ACTIVE, self.dormant_ms), (DeviceState.DORMANT, self.gone_ms)):
            before_ms = self.clock.now_ms() - idle_ms
            while await self.inbox.silence(state, before_ms=before_ms, limit=SILENT_DEVICES):
                pass

    async def releases(self) -> None:
        """Full forms that a crash kept from their devices: a handshake had more to release than one transaction takes."""
        after: DeviceKey | None = None
        while devices := await self.engine.read(partial(_holding_after, after)):
            await self.inbox.release_rest(devices)
            after = devices[-1]

    async def upgrades(self) -> None:
        """What no comparison proved within a day; and versions of an app that look as if they lose messages."""
        for app_id in await self.engine.read(lambda conn, _: list(app_rows.apps(conn))):
            while await self.inbox.upgrades.give_up(app_id, limit=UPGRADES) == UPGRADES:
                pass
            for one in await self.inbox.upgrades.warn(app_id):
                log.error("app_version.suspect", app=app_id, version=one.version, count=one.upgrades, bad=one.bad)

    async def forget(self) -> None:
        """What is over: keys, tickets, tokens, nodes, what messages said, messages and upgrades nobody can ask for, old
        events."""
        await self.engine.write(message_rows.forget_keys)
        await self.engine.write(tokens.forget)
        await self.engine.write(address_rows.forget_moves)
        await self.engine.write(meta.forget_nodes)
        for app_id in await self.engine.read(lambda conn, _: list(app_rows.apps(conn))):
            while await self.engine.write(partial(_forget_messages, app_id, self.history_ms)):
                pass
            while await self.engine.write(lambda conn, now_ms, a=app_id: upgrade_rows.forget(conn, now_ms, a)):  # type: ignore[misc]
                pass
        while await self.engine.write(message_rows.forget_content):
            pass
        await self.prune_events()
        await self.prune_logs()

    async def push_books(self) -> None:
        """Credentials that end soon are told of; counts of past days, and of pushes long given up, go."""
        await self.look_at_credentials()

        def work(conn: Conn, now_ms: int) -> None:
            quota.forget(conn, now_ms, day_of(now_ms - DAYS_KEPT_MS, UTC))
            dead.forget(conn, now_ms - DEAD_KEPT_MS)

        await self.engine.write(work)

    async def mend(self) -> None:
        """What rests for accounts that were mended: at a start, and where a process ended before all was due again."""
        await resume(self.engine)

    def scheduler(self) -> AsyncIOScheduler:
        """A scheduler that does them all, not yet started."""
        # A chore whose time came while the process was busy is late, not over. None is rarer than ten minutes, counted from the
        # start: a process that is restarted often would never do it.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        scheduler = AsyncIOScheduler(timezone="UTC", job_defaults=defaults)
        for chore, seconds in (
            (self.tick, int(meta.TICK_S)),
            (self.bury, 5),
            (self.watch_clock, 5),
            (self.expire, 5),
            (self.escalate, 1),
            (self.mend, 5),
            (self.prune, 60),
            (self.count_open, 60),
            (self.prune_shared, 60),
            (self.silence, 600),
            (self.forget, 600),
            (self.upgrades, 600),
            (self.releases, 600),
            (self.audit, 600),
            (self.push_books, 600),
        ):
            scheduler.add_job(_calmly, IntervalTrigger(seconds=seconds), args=[chore], id=chore.__name__)
        # Its own words for that come without the name: of others' log records only the template is told.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        scheduler.add_listener(_told_of_overrun, EVENT_JOB_MAX_INSTANCES)
        return scheduler


async def keep_time(scheduler: AsyncIOScheduler, stop: asyncio.Event) -> None:
    """APScheduler goes by the machine's clock: when that is set back by an hour, nothing would be due for an hour."""
    planned = None
    while not await pause(PLANS_S, stop):
        planned = plan_anew(scheduler, planned)


def plan_anew(scheduler: AsyncIOScheduler, planned: datetime | None) -> datetime | None:
    """If the first chore is planned for the same time as at the look before, though one is due each second, then all get new
    times. Gives what is planned first now."""
    first = _first_planned(scheduler)
    if first is None or first != planned:
        return first
    for job in scheduler.get_jobs():
        job.reschedule(IntervalTrigger(seconds=int(job.trigger.interval.total_seconds())))
    log.warning("chores.planned_anew")
    return _first_planned(scheduler)


def _first_planned(scheduler: AsyncIOScheduler) -> datetime | None:
    return min((job.next_run_time for job in scheduler.get_jobs() if job.next_run_time is not None), default=None)


def _inboxes_after(after: UserKey | None, conn: Conn, now_ms: int) -> list[UserKey]:
    return inbox_rows.inboxes_after(conn, after, limit=WALK_USERS)


def _holding_after(after: DeviceKey | None, conn: Conn, now_ms: int) -> list[DeviceKey]:
    return held_entries.holding_after(conn, after, limit=WALK_USERS)


def _imbalances(users: Sequence[UserKey], conn: Conn, now_ms: int) -> dict[Imbalance, set[UserKey]]:
    return audit.imbalances(conn, now_ms, users)


def _forget_messages(app_id: str, history_ms: int, conn: Conn, now_ms: int) -> bool:
    return message_rows.forget_messages(conn, now_ms, app_id, history_ms=history_ms)


def _told_of_overrun(event: JobSubmissionEvent) -> None:
    """It was due again before it was done."""
    log.info("chore.overran", chore=event.job_id)


async def _calmly(chore: Callable[[], Awaitable[None]]) -> None:
    """A store that is away is no reason to end a chore for good."""
    try:
        await chore()
    except Problem as problem:
        log.warning("chore.put_off", chore=chore.__name__, code=problem.code)
    except asyncio.CancelledError:  # the relay stops; the scheduler would call it an error
        log.debug("chore.broken_off", chore=chore.__name__)
