"""A user's rows, read under the one lock L(u), and what a transaction changes of them.

Every transaction of protocol 6.4 begins with `lock`, decides from what it finds here, and ends with `flush`. Changes are
gathered and written together, so that a batch costs a handful of statements, whatever its size.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from relay.inbox import notifying, push_due
from relay.inbox.notifying import UserFacts
from relay.inbox.preferences import Preferences, from_store, of_user
from relay.inbox.push_due import NOTHING, Outstanding
from relay.inbox.rows import Rows
from relay.inbox.selective_acks import NO_ACKS, Acks
from relay.inbox.woken import first_untold_ms
from relay.model import GATEWAY, Device, DeviceKey, DeviceState, Entry, Inbox, Policy, PushJob, UserKey
from relay.store import ack_ranges, held_entries, readers
from relay.store import devices as device_rows
from relay.store import entries as entry_rows
from relay.store import inbox as inbox_rows
from relay.store import messages as message_rows
from relay.store import queue as job_rows
from relay.store.ahead import Place
from relay.store.engine import Conn
from relay.store.events import NewEvent, emit
from relay.store.readers import Read, Woken

SCAN, SCAN_MAX = 2, 100  # entries read when looking for the first one worth telling: it is nearly always the first

PolicyOf = Callable[[str], Policy]


class Locked(msgspec.Struct, kw_only=True):
    """One user under the lock. `devices` are those that are not gone, by id, as they will be after this transaction."""

    conn: Conn
    now_ms: int
    rows: Rows
    key: UserKey
    inbox: Inbox
    policy: Policy
    devices: dict[str, Device]
    events: list[NewEvent] = msgspec.field(default_factory=list)
    ended: bool = False  # entries have ended here that devices may still show
    answered: dict[str, str] = msgspec.field(default_factory=dict)  # messages that ended here for all but this device
    head_seq: int = 0
    _before: dict[str, Device] = msgspec.field(default_factory=dict)
    _gone: dict[str, Device] = msgspec.field(default_factory=dict)  # by this transaction
    _acks_changed: set[str] = msgspec.field(default_factory=set)
    _to_rearm: dict[str, bool] = msgspec.field(default_factory=dict)
    _jobs_changed: set[str] = msgspec.field(default_factory=set)
    _jobs: dict[str, PushJob] | None = None
    _acks: dict[str, Acks] | None = None
    _read: dict[str, int] | None = None
    _holds: bool | None = None
    _preferences: Preferences | None = None
    _muted: bool = False  # something was not worth telling only because the user does not want it

    @property
    def jobs(self) -> dict[str, PushJob]:
        """Push jobs by device."""
        if self._jobs is None:
            self._jobs = self.rows.jobs.get(self.key, {})
        return self._jobs

    def forget_jobs(self) -> None:
        """Has the jobs read again: one was made."""
        self._jobs = job_rows.jobs_of(self.conn, [self.key]).get(self.key, {})

    @property
    def acks(self) -> dict[str, Acks]:
        """Ranges acked beyond `acked_seq`, of the devices that have any."""
        if self._acks is None:
            self._acks = self.rows.acks.get(self.key, {})
        return self._acks

    @property
    def read_markers(self) -> dict[str, int]:
        if self._read is None:
            self._read = self.rows.read_markers.get(self.key, {})
        return self._read

    @property
    def preferences(self) -> Preferences:
        """What the user wants to be told of."""
        if self._preferences is None:
            self._preferences = from_store(self.inbox.preferences)
        return self._preferences

    # --- entries that were passed, but not in their full form ---

    @property
    def holds(self) -> bool:
        """Whether any device of the user may have passed something that it could not show: few have."""
        if self._holds is None:
            self._holds = self.key in self.rows.holders
        return self._holds

    def held(self, device_id: str) -> list[tuple[int, str, int]]:
        """What the device passed without its full form: (seq, why, tries)."""
        return held_entries.held_rows(self.conn, DeviceKey(*self.key, device_id)) if self.holds else []

    def hold(self, device_id: str, rows: Sequence[tuple[int, str]]) -> None:
        if rows:
            self._holds = True
            held_entries.add_held(self.conn, DeviceKey(*self.key, device_id), rows)

    def unhold(self, device_id: str, seqs: Sequence[int]) -> None:
        if seqs:
            held_entries.drop_held(self.conn, DeviceKey(*self.key, device_id), seqs)

    # --- changes ---

    def put(self, device: Device) -> None:
        """The device's row as it should be. One that is gone is among the user's devices no more."""
        before = self.devices.get(device.device_id, device)
        self._before.setdefault(device.device_id, before)
        if before.foreground and not device.foreground:  # what it had then stays seen
            seen = self.acks_of(device.device_id).reaching(device.acked_high)
            device = replace(device, seen_seq=max(device.seen_seq, seen))
        if device.state is DeviceState.GONE:
            self.devices.pop(device.device_id, None)
            self._gone[device.device_id] = device
        else:
            self.devices[device.device_id] = device

    def put_acks(self, device_id: str, acks: Acks) -> None:
        if acks != self.acks.get(device_id, NO_ACKS):
            self.acks[device_id] = acks
            self._acks_changed.add(device_id)

    def acks_of(self, device_id: str) -> Acks:
        return self.acks.get(device_id, NO_ACKS)

    def next_seq(self) -> int:
        """The next number. Who is there by now was there before it, by whatever clock that was noted (protocol 6.7)."""
        for device in self.devices.values():
            if device.created_ms > self.now_ms:  # that clock has been set back since, or was another node's
                self.put(replace(device, created_ms=self.now_ms))
        self.head_seq += 1
        return self.head_seq

    def rearm(self, device_id: str, *, anew: bool = False) -> None:
        """Has the device's job recomputed at the end. `anew`: contact or progress, so knocks count from the start."""
        self._to_rearm[device_id] = self._to_rearm.get(device_id, False) or anew

    def put_job(self, job: PushJob) -> None:
        """The job's counters and claim as they should be; its `due_ms` follows from `rearm`."""
        self.jobs[job.device_id] = job
        self._jobs_changed.add(job.device_id)
        self.rearm(job.device_id)

    def note_shown(self, device_id: str, seq: int) -> None:
        """The device has shown this entry: what lies before needs no reminder."""
        job = self.jobs.get(device_id)
        if job is not None and seq > job.shown_seq:
            job_rows.note_shown(self.conn, job.key, seq)
            self.jobs[device_id] = replace(job, shown_seq=seq)
            self.rearm(device_id)

    def rearm_all(self) -> None:
        for device_id in self.devices:
            self.rearm(device_id)

    def facts(self) -> UserFacts:
        return UserFacts(
            devices=self.devices.values(),
            read=self.read_markers,
            acks=self.acks,
            preferences=self.preferences,
        )

    # --- what is outstanding ---

    def notifiable(self, *, after: int, upto: int, limit: int) -> list[Entry]:
        """The oldest entries in (after, upto] that are live and may be worth a notification."""
        for window in self.rows.windows.get(self.key, ()):
            if (found := window.between(after, upto, limit)) is not None:
                return found
        return entry_rows.notifiable_between(self.conn, self.key, self.now_ms, after=after, upto=upto, limit=limit)

    def pushes(self, ids: Collection[str]) -> Mapping[str, message_rows.Push]:
        """What these messages would show, by id."""
        known = self.rows.pushes.get(self.key.app_id, {})
        missing = [id_ for id_ in ids if id_ not in known]
        return known | message_rows.pushes_of(self.conn, self.key.app_id, missing) if missing else known

    def first_worth_telling(self, device: Device, *, after: int, upto: int, steps: bool | None = None) -> Entry | None:
        """The oldest entry in (after, upto] that the device has not acked and should be told about.

        `steps`: only of those that have steps of their own, or (False) that have none.
        """
        facts: UserFacts | None = None
        scan = SCAN
        while after < upto:
            entries = self.notifiable(after=after, upto=upto, limit=scan)
            for entry in entries:
                if steps is not None and steps is (entry.escalated is None):
                    continue
                facts = facts or self.facts()
                if not facts.of(device.device_id).has(entry.seq) and notifying.worth_telling(
                    entry, device, facts, self.policy, self.now_ms
                ):
                    return entry
                self._muted = self._muted or notifying.muted(entry, facts.preferences)
            if len(entries) < scan:
                return None
            after, scan = entries[-1].seq, SCAN_MAX
        return None

    def outstanding(self, device: Device) -> Outstanding:
        low, middle, head = device.acked_seq, device.pushed_seq, self.head_seq
        if low >= head and not self.inbox.woken:
            return NOTHING
        self._muted = False
        job = self.jobs.get(device.device_id)
        first = self.first_worth_telling(device, after=low, upto=middle)
        told = first is not None
        untold = self.first_worth_telling(device, after=max(low, middle), upto=head)
        untold_ms = None if untold is None else untold.accepted_ms
        shared_ms = first_untold_ms(self, device) if self.inbox.woken else None
        if shared_ms is not None:
            untold_ms = shared_ms if untold_ms is None else min(untold_ms, shared_ms)
        if job is not None and told and job.escalate_seq > device.acked_high:
            after = max(device.acked_high, job.escalate_after)
            step = self.first_worth_telling(device, after=after, upto=min(job.escalate_seq, middle), steps=True)
            if step is not None:
                untold_ms = step.accepted_ms if untold_ms is None else min(untold_ms, step.accepted_ms)
        shown = job.shown_seq if told and job is not None else 0
        seen = False
        if shown > low or (first is not None and first.escalated is not None):
            after = max(low, shown)
            seen = self.first_worth_telling(device, after=after, upto=middle, steps=False) is None
        return Outstanding(untold_ms=untold_ms, told=told, seen=seen, muted=self._muted)

    # --- shared timelines ---

    @property
    def woken(self) -> list[Woken]:
        """What the user was woken for in shared timelines."""
        return self.rows.woken.get(self.key, []) if self.inbox.woken else []

    def reads(self, device_id: str) -> dict[str, Read]:
        """How far a device has acked and been told in shared timelines."""
        return self.rows.reads.get(DeviceKey(*self.key, device_id), {})

    def raise_reads(self, device_id: str, reads: Mapping[str, Read]) -> None:
        readers.raise_read(self.conn, DeviceKey(*self.key, device_id), reads)
        self.rows.forget_reads()
        self.rearm(device_id)

    def forget_reads(self, device_id: str, places: Iterable[str] | None = None) -> None:
        """Another store of the device may have acked these shared timelines, or all: what this one has is not known."""
        known = {place for place, read in self.reads(device_id).items() if read.acked_seq}
        places = known if places is None else known.intersection(places)
        if places:
            readers.forget(self.conn, DeviceKey(*self.key, device_id), places)
            self.rows.forget_reads()

    def follow_on(self, device_id: str, predecessor_id: str) -> None:
        """What the device before this one was told of shared timelines, and had not acked, is told again."""
        before = self.reads(predecessor_id)
        told = {
            place: max(read.acked_high, min(read.pushed_seq, before.get(place, readers.NEVER).acked_high))
            for place, read in self.reads(device_id).items()
        }
        readers.set_told(self.conn, DeviceKey(*self.key, device_id), told)
        self.rows.forget_reads()

    def untell(self, device_id: str, *, account: str, token_hash: bytes) -> None:
        """The address is dead: what it was told of shared timelines may never have arrived."""
        readers.untell(self.conn, DeviceKey(*self.key, device_id), account=account, token_hash=token_hash)
        self.rows.forget_reads()

    def note_muted(self) -> None:
        """Something is not worth telling only because the user does not want it."""
        self._muted = True

    def _rearmed(self, device_id: str, *, anew: bool) -> PushJob | None:
        jobs, put = self.jobs, device_id in self._jobs_changed
        device, before = self.devices.get(device_id) or self._gone.get(device_id), jobs.get(device_id)
        if device is None or before is None:
            return before if put else None
        job = before
        if anew:
            job = replace(job, knock=0, told_ms=None, tries=0, retry_ms=None)
        after = push_due.rearm(
            device,
            job,
            self.outstanding(device),
            policy=of_user(self.policy, self.preferences),
            now_ms=self.now_ms,
            elsewhere=push_due.someone_looks(device, self.devices.values()),
            gateway=device.node_id == GATEWAY,
        )
        new = replace(job, due_ms=after.due_ms, reason=after.reason, told_ms=after.told_ms)
        if new == before and not put:
            return None
        jobs[device_id] = new
        return new

    def changed_devices(self) -> list[tuple[Device, Device]]:
        return [(before, self.devices.get(name) or self._gone[name]) for name, before in self._before.items()]

    def rearmed(self) -> list[PushJob]:
        """The jobs that were to be recomputed, as far as they have changed."""
        jobs = [self._rearmed(device_id, anew=anew) for device_id, anew in self._to_rearm.items()]
        return [job for job in jobs if job is not None]

    def write_acks(self) -> None:
        for device_id in self._acks_changed:
            acks = self.acks[device_id]
            kinds = (acks.ranges, acks.again, acks.missed)
            ack_ranges.set_ack_ranges(self.conn, DeviceKey(*self.key, device_id), kinds)


def lock(conn: Conn, now_ms: int, keys: Iterable[UserKey], policy_of: PolicyOf) -> dict[UserKey, Locked]:
    """Takes the locks in order, and only then reads everything that belongs to these users. Unknown users are left out."""
    inboxes = inbox_rows.lock_inboxes(conn, keys)
    return with_rows(conn, now_ms, inboxes, policy_of)


def device_in(users: Mapping[UserKey, Locked], key: DeviceKey) -> tuple[Locked, Device] | None:
    """A device with its user's rows; None if either is not there, or no more."""
    locked = users.get(key.user)
    device = None if locked is None else locked.devices.get(key.device_id)
    return None if locked is None or device is None else (locked, device)


def look_ahead(devices: Iterable[tuple[Locked, Device]], *, content: bool = False) -> None:
    """Reads at once what these devices have been told of and may have to be, and of the latter the content.

    Only for transactions that change no entries; all of the devices are of one.
    """
    places: list[Place] = []
    fresh: dict[UserKey, int] = {}  # from here on something is untold
    one: Locked | None = None
    for one, device in devices:
        key, acked_seq, told = one.key, device.acked_seq, max(device.acked_seq, device.pushed_seq)
        places.append((key, acked_seq, one.head_seq))
        if told > acked_seq:
            places.append((key, told, one.head_seq))
        fresh[key] = min(told, fresh.get(key, told))
    if one is not None:
        one.rows.look(one.now_ms, places, fresh if content else {})


def with_rows(conn: Conn, now_ms: int, inboxes: Mapping[UserKey, Inbox], policy_of: PolicyOf) -> dict[UserKey, Locked]:
    """The rows of users whose locks are held (or, for a reader, as of its snapshot)."""
    rows = Rows(conn, list(inboxes))
    devices = device_rows.devices_of(conn, inboxes)
    return {
        key: Locked(
            conn=conn,
            now_ms=now_ms,
            rows=rows,
            key=key,
            inbox=one,
            policy=policy_of(key.app_id),
            devices={device.device_id: device for device in devices[key]},
            head_seq=one.head_seq,
        )
        for key, one in inboxes.items()
    }


def flush(conn: Conn, now_ms: int, users: Iterable[Locked]) -> None:
    """Writes what the transaction changed: numbers, devices, acks, jobs, events."""
    users = list(users)
    inbox_rows.set_heads(conn, {u.key: u.head_seq for u in users if u.head_seq != u.inbox.head_seq})
    device_rows.save_devices(conn, [change for u in users for change in u.changed_devices()])
    for u in users:
        u.write_acks()
    job_rows.set_rearmed(conn, [job for u in users for job in u.rearmed()])
    emit(conn, now_ms, [event for u in users for event in u.events])
