"""The writing half of the inbox room's face: each method is one transaction, and the hints that follow its commit."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from relay import ids
from relay.clock import Clock
from relay.errors import CursorRefused, Problem
from relay.inbox import online, registry
from relay.inbox.accept import accept
from relay.inbox.ack import AckAnswer, AckRequest, ack
from relay.inbox.addresses import AddressState, NewAddress
from relay.inbox.batch import PAGE_BYTES_MAX, PAGE_ENTRIES_MAX
from relay.inbox.cursor import CursorKeys
from relay.inbox.ending import cancel, expire, prune, silence
from relay.inbox.erasing import erase
from relay.inbox.fanout import StepBroke, begin, fan_out, put_off
from relay.inbox.groups import GroupService
from relay.inbox.handshake import Hello, Welcome, hello
from relay.inbox.locked import PolicyOf
from relay.inbox.naming import NamedMessages
from relay.inbox.online import Bye, ForeignWord, Word
from relay.inbox.open_quota import OPEN_DELIVERIES, OpenQuota
from relay.inbox.preferences import Preferences
from relay.inbox.reader import InboxReader
from relay.inbox.registry import Registration
from relay.inbox.releasing import release_rest
from relay.inbox.renaming import Reseal, rename
from relay.inbox.send import Accepted, Send
from relay.inbox.shared import SharedService
from relay.inbox.unchanged import Unchanged
from relay.inbox.upgrades import UpgradeService
from relay.model import Device, DeviceKey, DeviceState, Facts, TimelineKey, UserKey
from relay.shedding import PRIORITIES, Shedding
from relay.store import devices as device_rows
from relay.store import meta, readers, timelines
from relay.store.engine import BatchWork, Conn, Engine
from relay.store.open_deliveries import open_deliveries
from relay.store.rollback import SetBackProofs
from relay.store.room import Boundless, HasRoom
from relay.store.users import Naming, naming


class Hints(Protocol):
    """What the rest of the relay is told after a commit. All of it may be lost."""

    def wake(self, users: Iterable[UserKey]) -> None: ...

    def posted(self, timelines: Iterable[TimelineKey]) -> None: ...

    def withdrawn(self, users: Iterable[UserKey], message_ids: Sequence[str], *, but: DeviceKey | None) -> None: ...

    def close(self, device: DeviceKey, newer_than: int) -> None: ...


log = structlog.get_logger("relay.inbox")

TOLD_MAX = 1000  # users of a shared timeline whose screens are looked at when a message is taken back
NAMING_STEP = 1000  # messages looked at in one reading


@dataclass(slots=True, kw_only=True)
class InboxService:
    """Everything that is done to inboxes, on one engine; `reader` has what is asked of them."""

    engine: Engine
    clock: Clock
    rng: random.Random
    policy_of: PolicyOf
    keys: CursorKeys
    hints: Hints
    node_id: str
    room: HasRoom = field(default_factory=Boundless)
    shedding: Shedding = field(default_factory=Shedding)
    quota: OpenQuota = field(default_factory=lambda: OpenQuota(OPEN_DELIVERIES))
    page_entries: int = PAGE_ENTRIES_MAX
    page_bytes: int = PAGE_BYTES_MAX
    reseal: Reseal = lambda _old, _new, _account, sealed: sealed
    fanout_due: Callable[[int], None] = lambda _: None
    push_due: Callable[[int | None], None] = lambda _: None
    facts_told: Callable[[], None] = lambda: None  # events may have been written
    moot: Callable[[Iterable[UserKey]], None] = lambda _: None  # what devices of theirs show may be of no use any more
    unproven: Callable[[DeviceKey], None] = lambda _: None  # it has addresses that it must prove
    counted: Callable[[int], None] = lambda _: None  # so many messages were accepted anew
    reader: InboxReader = field(init=False)
    groups: GroupService = field(init=False)
    shared: SharedService = field(init=False)
    upgrades: UpgradeService = field(init=False)
    unchanged: Unchanged = field(init=False)
    _accept: BatchWork[Send, Accepted] = field(init=False)
    _ack: BatchWork[AckRequest, AckAnswer] = field(init=False)
    _hello: BatchWork[Hello, Welcome] = field(init=False)
    _bye: BatchWork[Bye, bool] = field(init=False)
    _word: BatchWork[Word, bool] = field(init=False)
    _foreign: BatchWork[ForeignWord, int] = field(init=False)
    _begun: set[str] = field(default_factory=set)  # jobs of the fan-out, noted since the start

    def __post_init__(self) -> None:
        proofs = SetBackProofs(self.rng)
        self.reader = InboxReader(
            engine=self.engine,
            policy_of=self.policy_of,
            keys=self.keys,
            new_epoch=self.new_epoch,
            proofs=proofs,
            facts_told=self.facts_told,
            page_entries=self.page_entries,
            page_bytes=self.page_bytes,
        )
        self.groups = GroupService(engine=self.engine, room=self.room, new_epoch=self.new_epoch)
        self.upgrades = UpgradeService(engine=self.engine, policy_of=self.policy_of, facts_told=self.facts_told)
        self.shared = SharedService(
            engine=self.engine,
            keys=self.keys,
            policy_of=self.policy_of,
            new_epoch=self.new_epoch,
            page_entries=self.page_entries,
            page_bytes=self.page_bytes,
        )
        self.unchanged = Unchanged(self.engine)
        # One callable each, so that the engine can see which items belong together.
        self._accept = lambda conn, now_ms, items: accept(conn, now_ms, items, self.policy_of, self.new_epoch)
        self._ack = lambda conn, now_ms, items: ack(conn, now_ms, items, self.policy_of)
        self._hello = lambda conn, now_ms, items: hello(
            conn, now_ms, items, self.policy_of, self.keys, self.new_epoch, proofs
        )
        self._bye = lambda conn, now_ms, items: online.bye(conn, now_ms, items, self.policy_of)
        self._word = lambda conn, now_ms, items: online.word(conn, now_ms, items, self.policy_of)
        self._foreign = lambda conn, now_ms, items: online.foreign_word(conn, now_ms, items, self.policy_of)

    def new_epoch(self) -> str:
        return ids.random_hex(self.rng, bits=64)

    # --- accepting ---

    async def accept(self, send: Send) -> Accepted:
        """Stores one message. When this returns, it is on disk."""
        self.room.for_sends()
        self.shedding.admit(PRIORITIES[send.priority])
        self.quota.admit(send.app_id)
        accepted: Accepted = await self.engine.write_batched(self._accept, send, is_send=True, size=send.stored_bytes)
        self._told(send.app_id, [accepted])
        return accepted

    async def accept_many(self, sends: Sequence[Send]) -> list[Accepted | Exception]:
        """Stores an app's batch in one transaction; each item has its own result."""
        self.room.for_sends()
        self.shedding.admit(max(PRIORITIES[send.priority] for send in sends))
        app_id = sends[0].app_id
        self.quota.admit(app_id)
        results: list[Accepted | Exception] = await self.engine.write(
            lambda conn, now_ms: accept(conn, now_ms, sends, self.policy_of, self.new_epoch),
            is_send=True,
            size=sum(send.stored_bytes for send in sends),
        )
        self._told(app_id, [one for one in results if isinstance(one, Accepted)])
        return results

    def _told(self, app_id: str, accepted: Sequence[Accepted]) -> None:
        self.quota.add(app_id, accepted)
        self.counted(sum(not one.replay for one in accepted))
        self.hints.wake([user for one in accepted for user in one.wakes])
        if posts := {one.posted[0]: None for one in accepted if one.posted is not None and not one.replay}:
            self.hints.posted(posts)
            self.fanout_due(accepted[0].accepted_ms)
        due = [one.due_ms for one in accepted if one.due_ms is not None]
        if due:
            self.push_due(min(due))
        if jobs := [one.deliver_ms or one.accepted_ms for one in accepted if one.job and not one.replay]:
            self.fanout_due(min(jobs))

    async def count_open(self) -> None:
        """Counts the open deliveries of each app, for its quota."""
        begun = self.quota.begin()
        counts = await self.engine.read(lambda conn, now_ms: open_deliveries(conn, now_ms, most=self.quota.most))
        self.quota.counted(counts, begun)

    async def begin_fan_out(self) -> None:
        """Before a step: makes sure that a job which ends the process each time is put off at last."""
        found = await self.engine.write(lambda conn, now_ms: begin(conn, now_ms, self._begun))
        if found is None:
            return
        job, lost = found
        if lost:
            log.error("fanout.quarantined", app=job.app_id, message_id=job.message_id)
        else:
            self._begun.add(job.job_id)

    async def fan_out(self) -> bool:
        """One step of the fan-out that has waited longest; False: nothing is due. Raises StepBroke; others go on."""
        try:
            step = await self.engine.write(lambda conn, now_ms: fan_out(conn, now_ms, self.policy_of, self.new_epoch))
        except StepBroke as broke:
            job = broke.job
            await self.engine.write(lambda conn, now_ms: put_off(conn, now_ms, job))
            raise
        if step is None:
            return False
        self.hints.wake(step.wakes)
        self.facts_told()
        if step.push_ms is not None:
            self.push_due(step.push_ms)
        return True

    async def cancel(self, app_id: str, message_id: str) -> str:
        """`cancelled` or `recalled`. Raises Missing, Conflict."""
        word, users = await self.engine.write(
            lambda conn, now_ms: cancel(conn, now_ms, self.policy_of, app_id=app_id, message=message_id)
        )
        self.hints.wake(users)
        self.hints.withdrawn(users, [message_id], but=None)
        posted = await self.engine.read(lambda conn, _: timelines.posted(conn, app_id, message_id))
        if posted is not None:
            self.hints.posted([TimelineKey(app_id, posted.conversation_id)])
            self.fanout_due(self.clock.now_ms())
            key = TimelineKey(app_id, posted.conversation_id)
            users += await self.engine.read(lambda conn, _: readers.told_of(conn, key, posted.seq, limit=TOLD_MAX))
        self.facts_told()
        self.moot(users)
        return word

    # --- devices ---

    async def register(self, one: Registration) -> tuple[Device, bool]:
        self.room.for_others()
        device, new = await self.engine.write(
            lambda conn, now_ms: registry.register(conn, now_ms, one, self.policy_of, self.new_epoch)
        )
        self.push_due(self.clock.now_ms())
        self._registered(one.device, one.addresses)
        return device, new

    async def recreate(self, key: DeviceKey) -> bool:
        """See `registry.recreate`."""
        self.room.for_others()
        return await self.engine.write(
            lambda conn, now_ms: registry.recreate(conn, now_ms, key, self.policy_of, self.new_epoch)
        )

    async def sign_out(self, key: DeviceKey) -> None:
        """Signs a device out. Its connections end with its tokens, which whoever watches these sees to."""
        await self.engine.write(lambda conn, now_ms: registry.sign_out(conn, now_ms, key, self.policy_of))

    async def replace_addresses(self, key: DeviceKey, addresses: Sequence[NewAddress]) -> tuple[AddressState, ...]:
        self.room.for_others()
        states = await self.engine.write(
            lambda conn, now_ms: registry.replace_addresses(conn, now_ms, key, addresses, self.policy_of)
        )
        self.push_due(self.clock.now_ms())
        self._registered(key, addresses)
        return states

    def _registered(self, device: DeviceKey, addresses: Sequence[NewAddress] | None) -> None:
        if any(one.challenged for one in addresses or ()):
            self.unproven(device)

    async def hello(self, one: Hello) -> Welcome:
        """Shakes hands; older connections of the device are told to close."""
        self.room.for_others()
        welcome: Welcome = await self.engine.write_batched(self._hello, one)
        self.hints.close(one.device, welcome.session)
        self._registered(one.device, one.addresses)
        if welcome.more_to_release:
            try:
                await self.release_rest([one.device])
            except Problem as problem:  # the device is online all the same, and a chore releases what is left
                log.warning("held.not_released", app=one.device.app_id, code=problem.code)
        self.facts_told()
        return welcome

    async def release_rest(self, devices: Sequence[DeviceKey]) -> None:
        """What these devices can show by now and do not have in full comes again, however much it is."""
        left = list(devices)
        while left:
            left = await self.engine.write(
                lambda conn, now_ms, keys=left: release_rest(conn, now_ms, keys, self.policy_of)  # type: ignore[misc]
            )
        self.hints.wake(dict.fromkeys(device.user for device in devices))
        self.push_due(self.clock.now_ms())

    async def erase(self, user: UserKey) -> None:
        """Removes a user with everything that is known of it. What it had not received is reported as failed.

        Its devices' connections end with their tokens, which whoever watches these sees to.
        """
        named = await self._naming(user)
        await self.engine.write(
            lambda conn, now_ms: erase(conn, now_ms, user, self.policy_of, named=named, new_epoch=self.new_epoch)
        )
        self.facts_told()

    async def _naming(self, user: UserKey) -> NamedMessages:
        """Messages that name the user, found by a walk over those of its app that holds nobody up."""
        found, more = await self.engine.read(lambda _, now_ms: Naming(now_ms)), True
        while more:
            found, more = await self.engine.read(
                lambda conn, _, so_far=found: naming(conn, user, so_far, limit=NAMING_STEP)  # type: ignore[misc]
            )
        return NamedMessages(user, found)

    async def rename(self, user: UserKey, name: str) -> None:
        """Gives a user another name. Raises Missing, Conflict."""
        named = await self._naming(user)
        await self.engine.write(
            lambda conn, now_ms: rename(
                conn, now_ms, user, name, self.policy_of, named=named, reseal=self.reseal, new_epoch=self.new_epoch
            )
        )
        self.push_due(self.clock.now_ms())
        self.facts_told()

    # --- users ---

    async def set_preferences(self, user: UserKey, wanted: Preferences | None) -> None:
        """What the user wants to be told of from now on; None: everything. Raises Missing."""
        self.room.for_others()
        await self.engine.write(
            lambda conn, now_ms: registry.set_preferences(conn, now_ms, user, wanted, self.policy_of)
        )
        self.push_due(self.clock.now_ms())

    # --- presence transitions ---

    async def went(self, device: DeviceKey, session: int, *, linger_ms: int, tell: bool) -> bool:
        changed: bool = await self.engine.write_batched(
            self._bye, Bye(device=device, session=session, node_id=self.node_id, linger_ms=linger_ms, tell=tell)
        )
        self.push_due(self.clock.now_ms() + linger_ms)
        self.facts_told()
        return changed

    async def said(self, device: DeviceKey, session: int, facts: Facts) -> bool:
        current: bool = await self.engine.write_batched(
            self._word,
            Word(
                device=device,
                session=session,
                node_id=self.node_id,
                background=facts.background,
                open_conversation=facts.open_conversation,
            ),
        )
        return current

    async def foreign(self, one: ForeignWord) -> int:
        """A gateway's word about a device; gives the device's session. Raises Missing."""
        session: int = await self.engine.write_batched(self._foreign, one)
        self.push_due(self.clock.now_ms())
        return session

    # --- acks ---

    async def ack(self, request: AckRequest) -> AckAnswer:
        try:
            answer: AckAnswer = await self.engine.write_batched(self._ack, request)
        except CursorRefused:
            if request.cursor is not None:
                await self.reader.judge(request.device, request.cursor)
            raise
        self.facts_told()
        if answer.wakes:
            self.hints.wake([request.device.user])
        if answer.answered:
            self.hints.withdrawn([request.device.user], answer.answered, but=request.device)
        if answer.moot:
            self.moot([request.device.user])
        return answer

    # --- chores ---

    async def expire(self) -> int:
        """Ends what is over; gives how many entries."""
        count, users = await self.engine.write(lambda conn, now_ms: expire(conn, now_ms, self.policy_of))
        self.moot(users)
        return count

    async def prune(self, users: Sequence[UserKey]) -> int:
        def work(conn: Conn, now_ms: int) -> int:
            frozen_ms = meta.pruning_frozen_until_ms(conn)
            return prune(conn, now_ms, self.policy_of, users=users, frozen_until_ms=frozen_ms)

        return await self.engine.write(work)

    async def silence(self, state: DeviceState, *, before_ms: int, limit: int) -> int:
        """Devices in `state` without contact since then become dormant, or gone; gives how many changed."""
        silent = await self.engine.read(
            lambda conn, _: device_rows.silent_since(conn, state=state, before_ms=before_ms, limit=limit)
        )
        users = {device.key.user for device in silent}
        if not users:
            return 0
        changed = await self.engine.write(lambda conn, now_ms: silence(conn, now_ms, self.policy_of, users=users))
        self.facts_told()
        return changed
