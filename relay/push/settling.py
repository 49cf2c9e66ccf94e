"""SETTLE, the second transaction of a push (protocol 7.3): what the vendor's answer changes.

It takes the lock again; a result whose claim is not the live one changes nothing but the log.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from relay.clock import rfc3339
from relay.inbox.locked import Locked, PolicyOf, flush, look_ahead
from relay.inbox.locked import lock as lock_users
from relay.inbox.push_due import is_stale
from relay.inbox.reports import Reported, tell, tell_device
from relay.model import Address, Device, PushJob
from relay.push.attempts import Attempt, address_used, left_out_of
from relay.push.dead_tokens import bury, is_believed
from relay.push.failing import Failing, failing, is_dead
from relay.push.planner import TRIES_PER_ADDRESS, Send
from relay.push.rules import Result, Then, after
from relay.push.situation import ITEMS_MAX
from relay.store import addresses as address_rows
from relay.store import attempts as attempt_rows
from relay.store import dead, quota, readers
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id
from relay.store.parked import park_account, parked_since_ms, times_mended
from relay.store.readers import Read

DAY_MS = 86_400_000


class Settlement(Struct, frozen=True, kw_only=True):
    """An attempt and what became of it. `retry_ms`: when to try again, if it is to be. `spare`: no token is to be removed
    now, however dead (the brake holds). `passes_on`: the next address of the device, if it has one, need not wait so long.
    `held`: nothing failed; this sort of push has to wait, and others go."""

    attempt: Attempt
    result: Result
    retry_ms: int
    spare: bool = False
    passes_on: bool = False
    held: bool = False
    spent: str | None = None  # the vendor's day whose quota is used up, for the whole account
    counted: str | None = None  # the one in which its calls were counted, also those that were not made then


def settle(
    conn: Conn, now_ms: int, settlements: Sequence[Settlement], policy_of: PolicyOf
) -> list[Then | None | Exception]:
    """Writes results; None for one whose claim had passed to another worker."""
    owners = [one.attempt.device.user for one in settlements]
    users = lock_users(conn, now_ms, owners, policy_of)
    addresses = address_rows.addresses_of(conn, users)
    look_ahead(
        (locked, device)
        for one, owner in zip(settlements, owners, strict=True)
        if (locked := users.get(owner)) is not None
        and (device := locked.devices.get(one.attempt.device.device_id)) is not None
    )
    ends: list[attempt_rows.End] = []
    parking: list[tuple[Locked, Settlement]] = []
    answers: list[Then | Exception | None] = []
    for one, owner in zip(settlements, owners, strict=True):
        outcome = one.result.outcome
        ends.append(
            (
                *one.attempt.device,
                one.attempt.token,
                one.attempt.started_ms,
                now_ms,
                one.result.word,
                None if outcome is None else outcome.vendor_id,
                None if outcome is None else outcome.vendor_code,
                left_out_of(one.attempt, one.result.losses),
            )
        )
        locked = users.get(owner)
        job = None if locked is None else locked.jobs.get(one.attempt.device.device_id)
        if locked is None or job is None or not one.attempt.holds(job):
            answers.append(None)
            continue
        job = replace(job, claim=None, claim_until_ms=None, lost=_lost(job, one.result))
        locked.put_job(job)
        then = _settle_one(locked, job, one, addresses.get(one.attempt.device, []))
        if then is Then.PARK:
            parking.append((locked, one))
        answers.append(then)
    for locked, one in sorted(parking, key=lambda park: _place(park[1])):  # nodes that park several do so in one order
        _park(locked, one)
    quota.correct(
        conn,
        spent=[(*_place(one), one.spent) for one in settlements if one.spent is not None],
        uncalled=[
            ((*_place(one), one.counted), one.result.uncalled)
            for one, then in zip(settlements, answers, strict=True)
            if one.counted is not None and then is not None  # else it may be settled once more, by its user's new name
        ],
    )
    quota.hold(conn, [held for one in settlements if one.result.spent for held in _held(one)])
    attempt_rows.end_attempts(conn, ends)
    flush(conn, now_ms, users.values())
    return answers


def _stepped(job: PushJob, send: Send, upto_seq: int) -> PushJob:
    """The job once its device was told up to there: what of a step is left is told next, and no more of it. Where another step
    was taken meanwhile, all of both."""
    if not send.steps_upto or (job.escalate_after, job.escalate_seq) != (send.steps_after, send.steps_upto):
        return job
    if upto_seq < send.last_step_seq:
        return replace(job, escalate_after=upto_seq, escalate_on=1)
    return replace(job, escalate_seq=0, escalate_after=0, escalate_on=0)


def _place(one: Settlement) -> tuple[str, str]:
    return one.attempt.device.app_id, one.attempt.send.address.account


def _held(one: Settlement) -> list[quota.Held]:
    return [
        quota.Held(*_place(one), token_hash or b"", channel or "", until_ms)
        for (token_hash, channel), until_ms in one.result.spent
    ]


def _lost(job: PushJob, result: Result) -> int:
    """How many of the job's attempts in a row came to no end: whatever end this one came to clears it."""
    if result.broke:
        return job.lost + 1
    return job.lost if result.cut_off else 0


def _settle_one(locked: Locked, job: PushJob, one: Settlement, addresses: Sequence[Address]) -> Then:
    device_id = one.attempt.device.device_id
    device = locked.devices.get(device_id)
    if one.result.impaired:
        _tell_impaired(locked, one)
    then = after(one.result, one.attempt.send.form)
    if device is None:
        return Then.MOOT
    current = address_used(addresses, one.attempt.send.address)
    if current is None and then not in {Then.NEXT_ADDRESS, Then.PARK, Then.FREE}:
        # What a token before this one was told may never have arrived; nor is its wait that of this one.
        then = Then.MOOT
    if current is not None and _fails_on(locked, device, one, current):
        then = Then.NEXT_ADDRESS
    several = sum(a.state == "active" for a in addresses) - one.attempt.send.unable
    if then is Then.TOLD:
        _told(locked, device, job, one)
        if one.result.rest is not None:
            locked.put_job(_again(locked.jobs[device_id], one, several))
        if current is not None and is_stale(device, current, policy=locked.policy, now_ms=locked.now_ms):
            address_rows.note_pushed(
                locked.conn, locked.now_ms, device.key, account=current.account, token_hash=current.token_hash
            )
        return then
    turn = job.tries // TRIES_PER_ADDRESS + 1  # of the next address
    match then:
        case Then.GIVE_UP:
            _told(locked, device, job, one)
            _bury(locked, device, one)
        case Then.ELSEWHERE if several > 1 and turn % several:
            locked.put_job(replace(job, tries=turn * TRIES_PER_ADDRESS, retry_ms=None))
        case Then.ELSEWHERE if several > 1:  # nobody will have it: the first is told that there is something
            bare_seq = max(1, one.attempt.send.upto_seq)
            locked.put_job(replace(job, tries=turn * TRIES_PER_ADDRESS, bare_seq=bare_seq, retry_ms=None))
        case Then.AGAIN:
            locked.put_job(_again(job, one, several))
        case Then.NEXT_ADDRESS:
            _dead(locked, device, job, one, current)
        case Then.BARE | Then.ELSEWHERE:
            locked.put_job(replace(job, tries=job.tries + 1, bare_seq=max(1, one.attempt.send.upto_seq), retry_ms=None))
        case Then.PARK | Then.MOOT | Then.FREE:
            locked.rearm(device_id)  # parked, it is due at once: the planner finds the account parked, or the next one
    return then


def _again(job: PushJob, one: Settlement, several: int) -> PushJob:
    """The job once it is put off, or has its turn at the next address. `several`: addresses that may have it now."""
    if one.passes_on and several > 1:
        turn = job.tries // TRIES_PER_ADDRESS + 1
        wait_ms = None if turn % several else one.retry_ms  # each has a turn at once, then all wait
        return replace(job, tries=turn * TRIES_PER_ADDRESS, retry_ms=wait_ms)
    return replace(job, tries=job.tries if one.held else job.tries + 1, retry_ms=one.retry_ms)


def _fails_on(locked: Locked, device: Device, one: Settlement, current: Address) -> bool:
    """Counts what the address failed, or clears it; whether it did so for so long that it is dead."""
    before = Failing(current.failures, current.failing_since_ms)
    now = failing(before, one.result, now_ms=locked.now_ms)
    if now != before:
        address_rows.set_address_failing(
            locked.conn,
            device.key,
            account=current.account,
            token_hash=current.token_hash,
            failures=now.times,
            since_ms=now.since_ms,
        )
    return is_dead(now, one.result, now_ms=locked.now_ms)


def _told(locked: Locked, device: Device, job: PushJob, one: Settlement) -> None:
    """The vendor took it over (or never will): told. Nothing is acked by that."""
    upto_seq, shared = one.attempt.send.told(one.result.waiting)
    locked.put(replace(device, pushed_seq=max(device.pushed_seq, min(upto_seq, locked.head_seq))))
    if shared:
        told = {place: Read.told(upto) for place, upto in shared}
        locked.raise_reads(device.device_id, told)
        readers.note_told(locked.conn, device.key, told, claim_token=one.attempt.token)
    knocks = job.knock + 1 if one.attempt.knock else job.knock
    job = _stepped(job, one.attempt.send, upto_seq)
    locked.put_job(
        replace(
            job,
            knock=knocks,
            told_ms=job.told_ms if job.told_ms is not None else locked.now_ms,
            tries=0,
            retry_ms=None,
        )
    )
    if one.attempt.knock and knocks >= len(locked.policy.knocks_ms):
        tell_device(locked, device, "device.unreachable", reason="told")
    outcome = one.result.outcome
    if outcome is not None and not one.attempt.knock and not one.attempt.send.steps_upto:
        entries = locked.notifiable(after=one.attempt.send.from_seq - 1, upto=upto_seq, limit=ITEMS_MAX)
        pushed: list[Reported] = [(entry, outcome.vendor_code) for entry in entries]
        if one.result.word == "accepted":
            tell(locked, device, "delivery.pushed", pushed)


def _park(locked: Locked, one: Settlement) -> None:
    """The account waits for its operator; the backend's hear of it once, however many calls found out.

    Not of a call that was planned before it was mended: the vendor may have been asked before, too.
    """
    app_id, account = _place(one)
    if times_mended(locked.conn, app_id, account) != one.attempt.mended:
        return
    code = None if one.result.outcome is None else one.result.outcome.vendor_code
    park_account(locked.conn, locked.now_ms, app_id=app_id, account=account, code=code)
    since_ms = parked_since_ms(locked.conn, app_id, account)
    locked.events.append(
        NewEvent(
            app_id=app_id,
            event_id=derived_id("evt_", "account.parked", app_id, account, since_ms),
            type="account.parked",
            data={
                "account": account,
                "code": code,
                "at": rfc3339(since_ms),
            },
        )
    )


def _tell_impaired(locked: Locked, one: Settlement) -> None:
    """The backend's operators hear of each code of an account once a day (UTC), however many pushes meet it."""
    app_id, account = locked.key.app_id, one.attempt.send.address.account
    for code in one.result.impaired:
        name = derived_id("evt_", "account.impaired", app_id, account, code, locked.now_ms // DAY_MS)
        locked.events.append(
            NewEvent(
                app_id=app_id,
                event_id=name,
                type="account.impaired",
                data={"account": account, "code": code or None, "at": rfc3339(locked.now_ms)},
            )
        )


def _bury(locked: Locked, device: Device, one: Settlement) -> None:
    """No vendor will carry it: kept in the list of dead pushes until the device has the messages, or somebody requeues."""
    outcome = one.result.outcome
    assert outcome is not None
    if one.attempt.send.from_seq > one.attempt.send.upto_seq:
        return  # it told of shared timelines alone, and nothing there is owed
    dead.put(
        locked.conn,
        device.key,
        {
            "dead_ms": locked.now_ms,
            "account": one.attempt.send.address.account,
            "verdict": str(outcome.verdict),
            "vendor_code": outcome.vendor_code,
            "from_seq": one.attempt.send.from_seq,
            "upto_seq": one.attempt.send.upto_seq,
        },
    )


def _dead(locked: Locked, device: Device, job: PushJob, one: Settlement, current: Address | None) -> None:
    """The vendor says the token is dead, or has said for long what comes to the same."""
    assert one.result.outcome is not None
    address = one.attempt.send.address
    since_ms = one.result.outcome.dead_since_ms
    when_ms = one.attempt.started_ms if since_ms is None else since_ms
    if not is_believed(current, when_ms=when_ms) or one.spare:
        waits = one.spare or current is not None
        locked.put_job(replace(job, tries=job.tries + 1, retry_ms=one.retry_ms if waits else None))
        return
    code = one.result.outcome.vendor_code
    bury(locked, device, account=address.account, token_hash=address.token_hash, code=code)
    locked.put_job(replace(job, tries=0, retry_ms=None))
