"""A user's rows, read under the one lock L(u), and what a transaction changes of them.

Every transaction of protocol 6.4 begins with `lock`, decides from what it finds here, and ends with `flush`. Changes are
gathered and written together, so that a batch costs a handful of statements, whatever its size.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from relay.inbox import rules
from relay.inbox.rules import NOTHING, Acks, Outstanding, UserFacts
from relay.model import GATEWAY, Device, DeviceKey, Entry, Inbox, Policy, PushJob, UserKey
from relay.store import devices as device_rows
from relay.store import inbox as inbox_rows
from relay.store import queue as job_rows
from relay.store.engine import Conn
from relay.store.events import NewEvent, emit

SCAN = 50  # entries read at a time when looking for the first one worth telling

PolicyOf = Callable[[str], Policy]


@dataclass(slots=True)
class Locked:
    """One user under the lock. `devices` are those that are not gone, by id, as they will be after this transaction."""

    conn: Conn
    now_ms: int
    inbox: Inbox
    policy: Policy
    devices: dict[str, Device]
    jobs: dict[str, PushJob]
    acks: dict[str, Acks]
    events: list[NewEvent] = field(default_factory=list)
    head_seq: int = 0
    _before: dict[str, Device] = field(default_factory=dict)
    _acks_changed: set[str] = field(default_factory=set)
    _to_rearm: dict[str, bool] = field(default_factory=dict)
    _jobs_changed: set[str] = field(default_factory=set)
    _read: dict[str, int] | None = None

    @property
    def key(self) -> UserKey:
        return self.inbox.key

    @property
    def read_markers(self) -> dict[str, int]:
        if self._read is None:
            self._read = inbox_rows.read_markers(self.conn, self.key)
        return self._read

    def put(self, device: Device) -> None:
        """The device's row as it should be."""
        self._before.setdefault(device.device_id, self.devices.get(device.device_id, device))
        self.devices[device.device_id] = device

    def put_acks(self, device_id: str, acks: Acks) -> None:
        if acks != self.acks.get(device_id, rules.NO_ACKS):
            self.acks[device_id] = acks
            self._acks_changed.add(device_id)

    def acks_of(self, device_id: str) -> Acks:
        return self.acks.get(device_id, rules.NO_ACKS)

    def next_seq(self) -> int:
        self.head_seq += 1
        return self.head_seq

    def rearm(self, device_id: str, *, anew: bool = False) -> None:
        """Has the device's job recomputed at the end. `anew`: contact or progress, so knocks count from the start."""
        self._to_rearm[device_id] = self._to_rearm.get(device_id, False) or anew

    def put_job(self, job: PushJob) -> None:
        """The job's counters as they should be; its `due_ms` follows from `rearm`."""
        self.jobs[job.device_id] = job
        self._jobs_changed.add(job.device_id)
        self.rearm(job.device_id)

    def rearm_all(self) -> None:
        for device_id in self.devices:
            self.rearm(device_id)

    def facts(self) -> UserFacts:
        return UserFacts(devices=tuple(self.devices.values()), read=self.read_markers, acks=self.acks)

    # --- what is outstanding ---

    def first_worth_telling(self, device: Device, *, after: int, upto: int) -> Entry | None:
        """The oldest entry in (after, upto] that the device has not acked and should be told about."""
        facts: UserFacts | None = None
        while after < upto:
            entries = inbox_rows.notifiable_between(
                self.conn, self.key, self.now_ms, after=after, upto=upto, limit=SCAN
            )
            for entry in entries:
                facts = facts or self.facts()
                if not facts.of(device.device_id).has(entry.seq) and rules.worth_telling(
                    entry, device, facts, self.policy, self.now_ms
                ):
                    return entry
            if len(entries) < SCAN:
                return None
            after = entries[-1].seq
        return None

    def outstanding(self, device: Device) -> Outstanding:
        low, middle, head = device.acked_seq, device.pushed_seq, self.head_seq
        if low >= head:
            return NOTHING
        told = middle > low and self.first_worth_telling(device, after=low, upto=middle) is not None
        untold = self.first_worth_telling(device, after=max(low, middle), upto=head)
        return Outstanding(untold_ms=None if untold is None else untold.accepted_ms, told=told)

    def _rearmed(self, device_id: str, *, anew: bool) -> tuple[DeviceKey, Mapping[str, Any]] | None:
        device, job = self.devices.get(device_id), self.jobs.get(device_id)
        if device is None or job is None:
            return None
        if anew:
            job = replace(job, knock=0, told_ms=None, tries=0, retry_ms=None, address_index=0)
        after = rules.rearm(
            device,
            job,
            self.outstanding(device),
            policy=self.policy,
            now_ms=self.now_ms,
            elsewhere=rules.someone_looks(device, self.devices.values()),
            gateway=device.node_id == GATEWAY,
        )
        new = replace(job, due_ms=after.due_ms, reason=after.reason, told_ms=after.told_ms)
        if new == self.jobs[device_id] and device_id not in self._jobs_changed:
            return None
        self.jobs[device_id] = new
        return new.key, {
            "due": new.due_ms,
            "why": new.reason,
            "told": new.told_ms,
            "k": new.knock,
            "n": new.tries,
            "retry": new.retry_ms,
            "bare": new.bare_seq,
            "index": new.address_index,
        }

    def changed_devices(self) -> list[tuple[Device, Device]]:
        return [(before, self.devices[name]) for name, before in self._before.items()]

    def rearmed(self) -> list[tuple[DeviceKey, Mapping[str, Any]]]:
        rows = [self._rearmed(device_id, anew=anew) for device_id, anew in self._to_rearm.items()]
        return [row for row in rows if row is not None]

    def write_acks(self) -> None:
        for device_id in self._acks_changed:
            acks = self.acks[device_id]
            device_rows.set_ack_ranges(self.conn, DeviceKey(*self.key, device_id), ranges=acks.ranges, again=acks.again)


def lock(conn: Conn, now_ms: int, keys: Iterable[UserKey], policy_of: PolicyOf) -> dict[UserKey, Locked]:
    """Takes the locks in order, and only then reads everything that belongs to these users. Unknown users are left out."""
    inboxes = inbox_rows.lock_inboxes(conn, keys)
    return with_rows(conn, now_ms, inboxes.values(), policy_of)


def with_rows(conn: Conn, now_ms: int, inboxes: Iterable[Inbox], policy_of: PolicyOf) -> dict[UserKey, Locked]:
    """The rows of users whose locks are held (or, for a reader, as of its snapshot)."""
    inboxes = list(inboxes)
    users = [one.key for one in inboxes]
    devices = device_rows.devices_of(conn, users)
    jobs = job_rows.jobs_of(conn, users)
    ranges = device_rows.ack_ranges(conn, users)
    found: dict[UserKey, Locked] = {}
    for one in inboxes:
        mine = {device.device_id: device for device in devices[one.key]}
        found[one.key] = Locked(
            conn=conn,
            now_ms=now_ms,
            inbox=one,
            policy=policy_of(one.app_id),
            devices=mine,
            jobs={name: jobs[device.key] for name, device in mine.items() if device.key in jobs},
            acks={
                name: Acks(tuple(ranges[device.key][0]), tuple(ranges[device.key][1]))
                for name, device in mine.items()
                if device.key in ranges
            },
            head_seq=one.head_seq,
        )
    return found


def flush(conn: Conn, now_ms: int, users: Iterable[Locked]) -> None:
    """Writes what the transaction changed: numbers, devices, acks, jobs, events."""
    users = list(users)
    inbox_rows.set_heads(conn, {u.key: u.head_seq for u in users if u.head_seq != u.inbox.head_seq})
    device_rows.save_devices(conn, [change for u in users for change in u.changed_devices()])
    for u in users:
        u.write_acks()
    job_rows.set_rearmed(conn, [row for u in users for row in u.rearmed()])
    emit(conn, now_ms, [event for u in users for event in u.events])
