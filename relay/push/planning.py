"""PLAN, the first transaction of a push (protocol 7.3).

It takes the users' locks, asks the planner, and writes what it said: rest, later, or a claim with an attempt begun. The
vendor is called outside any transaction.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from relay.inbox import push_due
from relay.inbox.locked import Locked, PolicyOf, flush, look_ahead, with_rows
from relay.inbox.preferences import of_user, quiet_until
from relay.inbox.reports import tell_device
from relay.inbox.woken import wishes
from relay.model import GATEWAY, Address, Device, DeviceKey, PushJob
from relay.push.attempts import Attempt, left_out_of
from relay.push.held import held_sorts
from relay.push.notes import Form
from relay.push.outstanding import items_of, shared_keys, shared_news, steps_taken, told_count, with_steps
from relay.push.planner import Plan, Send, Stop, is_retry, is_silent, plan, spared
from relay.push.situation import AccountsKnown, AccountView, Item, Situation, Wait, at_ms_of
from relay.push.suspects import BARE_FROM, LOST_MAX, TOGETHER_MAX, may_join, was_lost
from relay.store import addresses as address_rows
from relay.store import attempts as attempt_rows
from relay.store import dead, quota
from relay.store import inbox as inbox_rows
from relay.store import queue as job_rows
from relay.store.engine import Conn
from relay.store.parked import mended_times, parked_accounts
from relay.store.readers import Read
from relay.store.sql import StoreError

AccountViews = Callable[[str], Mapping[str, AccountView]]  # app -> its accounts, by name
Turn = Callable[[str, str, Wait], int]  # (app, account, its wait) -> when what waits for the account is planned again


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A push that is tried no more until an operator says so. `error`: its planning raised this."""

    device: DeviceKey
    account: str | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What one round of planning found."""

    attempts: tuple[Attempt, ...]
    looked: int  # users looked at: as many as asked for means there may be more
    suspected: int  # jobs that the claim of an ended process gave free: to be taken with care, in the next round
    quarantined: tuple[Quarantined, ...]
    known: AccountsKnown


def plan_due(
    conn: Conn,
    now_ms: int,
    policy_of: PolicyOf,
    accounts_of: AccountViews,
    *,
    owner: str,
    limit: int,
    boot_ms: int,
    suspects: Sequence[int] = (),
    turn: Turn = lambda _app_id, _account, wait: wait.at_ms,
) -> Planned:
    """Takes due jobs of up to `limit` users whose locks are free, and decides each.

    `suspects`: how often each of those was lost that this worker has in flight. `turn`: so that those who wait for one account
    are not all due together.
    """
    due = job_rows.due_users(conn, now_ms, limit=limit)
    suspected = job_rows.due_users(conn, now_ms, limit=max(0, TOGETHER_MAX - len(suspects)), suspects=True)
    free = job_rows.lock_free_inboxes(conn, dict.fromkeys([*due, *suspected]))
    inboxes = inbox_rows.lock_inboxes(conn, free)
    users = with_rows(conn, now_ms, inboxes, policy_of)
    addresses = address_rows.addresses_of(conn, list(users))
    seen = {app_id: accounts_of(app_id) for app_id in {k.app_id for k in users}}
    known = _known(conn, now_ms, seen)
    apps = {app_id: _by_the_store(conn, app_id, views, known) for app_id, views in seen.items()}
    attempts: list[Attempt] = []
    rested: list[PushJob] = []
    lost: list[tuple[DeviceKey, int, int]] = []
    beside = list(suspects)
    quarantined: list[Quarantined] = []
    calls: Counter[quota.Day] = Counter()
    taken = [  # of what an account can take now, whoever waits longest
        (locked, device, job)
        for key in dict.fromkeys([*due, *suspected])
        if (locked := users.get(key)) is not None
        for device in locked.devices.values()
        if (job := locked.jobs.get(device.device_id)) is not None and _claimable(job, now_ms)
    ]
    look_ahead([(locked, device) for locked, device, _ in taken], content=True)
    for locked, device, job in taken:
        key, views = device.key, apps[device.app_id]
        if was_lost(job, owner):
            lost.append((key, job.claim_token, job.lost + 1))
            continue
        if job.lost >= LOST_MAX:
            quarantined.append(_quarantine(locked, device, job))
            continue
        if job.lost and not may_join(job.lost, beside):
            continue
        try:
            found = _plan_one(locked, device, job, addresses.get(key, []), views, boot_ms)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - what is stored for one device must not hold up the others
            quarantined.append(Quarantined(device=key, error=error))
            found = Stop(reason=push_due.Rest.QUARANTINED)
        if isinstance(found, Send):
            name = found.address.account
            limited = views[name].quota
            if limited is not None and limited.limit is not None:
                calls[key.app_id, name, limited.day] += len(found.notes)
            views[name] = views[name].used(len(found.notes), retry=is_retry(job))
            mended = known.mended.get((key.app_id, name), 0)
            attempts.append(_attempt(locked, key, job, found, mended=mended))
            beside += [job.lost] if job.lost else []
        else:
            if isinstance(found, Wait) and found.account is not None:
                found = replace(found, at_ms=turn(key.app_id, found.account, found))
            rested.append(_rested(job, found))
    quota.count(conn, calls)
    job_rows.set_rearmed(conn, rested)
    job_rows.set_claims(conn, [(one.device, owner, one.token, one.claim_until_ms) for one in attempts])
    attempt_rows.start_attempts(conn, [_attempt_row(one) for one in attempts])
    job_rows.release_claims(conn, lost)
    flush(conn, now_ms, [users[one.device.user] for one in quarantined if one.error is None])
    return Planned(
        attempts=tuple(attempts),
        looked=len(due),
        suspected=len(lost) + sum(one.error is None for one in quarantined),
        quarantined=tuple(quarantined),
        known=known,
    )


def _known(conn: Conn, now_ms: int, seen: Mapping[str, Mapping[str, AccountView]]) -> AccountsKnown:
    parked, mended = parked_accounts(conn, hold=True), mended_times(conn)
    news = {
        (app_id, name)
        for app_id, views in seen.items()
        for name, view in views.items()
        if view.mended is not None and view.mended != mended.get((app_id, name), 0)
    }
    held = held_sorts(quota.held(conn, now_ms)) if news else {}
    return AccountsKnown(parked=parked, mended=mended, held={key: held.get(key, {}) for key in news})


def _by_the_store(
    conn: Conn, app_id: str, views: Mapping[str, AccountView], known: AccountsKnown
) -> dict[str, AccountView]:
    """The accounts as this node sees them, with what only the store knows: who is parked, and what was sent today.

    A node's own memory would do for neither: an operator may have unparked the account elsewhere a moment ago.
    """
    days = {name: (app_id, name, view.quota.day) for name, view in views.items() if view.quota is not None}
    sent = quota.sent_on(conn, days.values())
    seen = {}
    for name, view in views.items():
        key = (app_id, name)
        here = replace(view, parked=key in known.parked, held=known.held.get(key, view.held))
        seen[name] = here.counted(sent[days[name]]) if name in days else here
    return seen


def _quarantine(locked: Locked, device: Device, job: PushJob) -> Quarantined:
    """What was tried last counts as told, so that what came after it can be; it stays in the list of dead pushes."""
    last = attempt_rows.attempt(locked.conn, device.key, job.claim_token)
    if last is not None:
        locked.put(replace(device, pushed_seq=max(device.pushed_seq, min(last.upto_seq, locked.head_seq))))
        dead.put(
            locked.conn,
            device.key,
            {
                "dead_ms": locked.now_ms,
                "account": last.account,
                "verdict": dead.POISON,
                "vendor_code": None,
                "from_seq": last.from_seq,
                "upto_seq": last.upto_seq,
            },
        )
        tell_device(locked, device, "device.unreachable", reason=dead.QUARANTINED)
    if wanted := wishes(locked, device):
        locked.raise_reads(device.device_id, {one.key.conversation_id: Read.told(one.upto) for one in wanted})
    job = _over(job, last, before=device.pushed_seq)
    told_ms = locked.now_ms if job.told_ms is None else job.told_ms
    locked.put_job(replace(job, told_ms=told_ms, tries=0, retry_ms=None, claim=None, claim_until_ms=None, lost=0))
    return Quarantined(device=device.key, account=None if last is None else last.account)


def _over(job: PushJob, last: Any, *, before: int) -> PushJob:
    """The job without the reminder, or the step, that was tried last. `before`: up to where the device had been told."""
    if last is None or last.upto_seq > before:
        return job
    if last.form == Form.KNOCK:
        return replace(job, knock=job.knock + 1)
    is_step = last.from_seq <= last.upto_seq  # else it told of shared timelines alone
    return replace(job, escalate_seq=0, escalate_after=0, escalate_on=0) if is_step else job


def _claimable(job: PushJob, now_ms: int) -> bool:
    return job.due_ms is not None and job.due_ms <= now_ms and (job.claim_until_ms or 0) <= now_ms


def _plan_one(
    locked: Locked,
    device: Device,
    job: PushJob,
    addresses: Sequence[Address],
    views: Mapping[str, AccountView],
    boot_ms: int,
) -> Plan:
    from_before = device.online_since_ms is not None and device.online_since_ms < boot_ms
    untold, count = items_of(locked, device, after=max(device.acked_seq, device.pushed_seq), upto=locked.head_seq)
    told: list[Item] = []
    step = job.escalate_seq > device.acked_seq
    if not untold and device.pushed_seq > device.acked_seq:
        told, _ = items_of(locked, device, after=device.acked_seq, upto=device.pushed_seq)
    if step:
        told = with_steps(locked, device, job, told)
    if job.lost >= BARE_FROM:
        last = attempt_rows.attempt(locked.conn, device.key, job.claim_token)
        job = replace(job, bare_seq=max(job.bare_seq, 0 if last is None else last.upto_seq))
    shared = shared_news(locked, device) if locked.inbox.woken else ()
    preferences = locked.preferences
    situation = Situation(
        now_ms=locked.now_ms,
        device=device,
        job=job,
        untold=tuple(untold),
        untold_count=count,
        told=tuple(told),
        told_last=attempt_rows.told_last(locked.conn, device.key) if told else None,
        steps=steps_taken(locked, told) if step and told else {},
        shared=shared,
        upto_seq=locked.head_seq if untold else device.pushed_seq,
        addresses=tuple(addresses),
        accounts=views,
        policy=of_user(locked.policy, preferences),
        elsewhere=push_due.someone_looks(device, locked.devices.values()),
        gateway=device.node_id == GATEWAY,
        muted=locked.outstanding(device).muted if not untold and not told else False,
        quiet_until_ms=quiet_until(preferences, device.tz, locked.now_ms),
        urgent_breaks=preferences.urgent_breaks,
        told_count=told_count(locked, device, job, views) if untold else 0,
        shared_keys=shared_keys(locked, device, shared, views) if untold or shared else 0,
        grace_until_ms=boot_ms + locked.policy.restart_grace_ms if from_before else 0,
    )
    found = plan(situation)
    allowed = _allowed(locked, device, views, found)
    if allowed is found or not isinstance(found, Send) or not found.steps_upto:
        return allowed
    # Nothing else waits for a step.
    other = _allowed(locked, device, views, plan(replace(situation, job=replace(job, escalate_seq=0))))
    if isinstance(other, Send):
        return other
    return min((one for one in (allowed, other) if isinstance(one, Wait)), key=at_ms_of)


def _allowed(locked: Locked, device: Device, views: Mapping[str, AccountView], found: Plan) -> Plan:
    """The same plan; or how long it waits, if it is a silent push and its vendor had one just now."""
    if not isinstance(found, Send) or not is_silent(found):
        return found
    account = views[found.address.account].towards(found.address, device.platform)
    if not account.capabilities.silent_gap_s:
        return found
    woken_ms = attempt_rows.last_wake_ms(locked.conn, device.key, found.address.account)
    return spared(found, account, now_ms=locked.now_ms, woken_ms=woken_ms) or found


def _attempt(locked: Locked, key: DeviceKey, job: PushJob, send: Send, *, mended: int) -> Attempt:
    return Attempt(
        device=key,
        epoch=locked.inbox.epoch,
        head_seq=locked.head_seq,
        token=job.claim_token + 1,
        knock=send.form == Form.KNOCK,
        tries=job.tries,
        retry=is_retry(job),
        lost=job.lost,
        started_ms=locked.now_ms,
        claim_until_ms=locked.now_ms + locked.policy.claim_ms,
        send=send,
        mended=mended,
    )


def _rested(job: PushJob, found: Wait | Stop) -> PushJob:
    return replace(job, due_ms=found.at_ms if isinstance(found, Wait) else None, reason=found.reason)


def _attempt_row(one: Attempt) -> dict[str, object]:
    app_id, user_id, device_id = one.device
    send = one.send
    return {
        "app_id": app_id,
        "user_id": user_id,
        "device_id": device_id,
        "claim_token": one.token,
        "account": send.address.account,
        "token_hash": send.address.token_hash,
        "push_id": send.notes[0].push_id,
        "from_seq": send.from_seq,
        "upto_seq": send.upto_seq,
        "form": send.form,
        "started_ms": one.started_ms,
        "left_out": left_out_of(one),
    }
