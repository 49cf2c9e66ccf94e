"""What to tell one device now, if anything: a pure function of what is outstanding (protocol 7.2)."""

import dataclasses
from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from relay.inbox import push_due
from relay.inbox.push_due import Later, Rest
from relay.model import Address, DeviceState, PushJob
from relay.push.notes import Form, Note, all_unseen, as_private, as_sealed, is_crowded, is_urgent, summary, write_notes
from relay.push.situation import AccountView, Item, SharedNews, Situation, Wait, at_ms_of

EXPIRING_MS = 2_000  # entries with less left are not worth a notification
TRIES_PER_ADDRESS = 5  # failed tries in a row, then the next address of the chain has its turn
URGENT = "urgent"


class Send(Struct, frozen=True, kw_only=True):
    """Notifications for one address. `from_seq` to `upto_seq`: the numbers of the inbox that they tell of."""

    address: Address
    notes: tuple[Note, ...]
    from_seq: int
    upto_seq: int
    form: str
    shared: tuple[tuple[str, int], ...] = ()  # shared timelines of which it tells, and up to where
    steps_upto: int = 0  # it is a step of messages up to here
    steps_after: int = 0  # ... and of those alone that lie above here
    last_step_seq: int = 0  # the newest of these messages: what it does not tell of them is left to the next one
    unable: int = 0  # addresses of the device that can take nothing now: they have no turn

    def told(self, waiting: Collection[int]) -> tuple[int, tuple[tuple[str, int], ...]]:
        """Up to which number it tells, and of which shared timelines, if of its notes these (by place) wait for their hour.

        What is older than one that went is told: that brings the app to all before it.
        """
        if not waiting:
            return self.upto_seq, self.shared
        gone = max((note.upto_seq for place, note in enumerate(self.notes) if place not in waiting), default=0)
        newer = any(self.notes[place].upto_seq > gone for place in waiting)
        timelines = {self.notes[place].timeline for place in waiting}
        return (
            max(gone, self.from_seq - 1) if newer else self.upto_seq,
            tuple(one for one in self.shared if one[0] not in timelines),
        )


class Stop(Struct, frozen=True, kw_only=True):
    """Nothing goes until an event says otherwise."""

    reason: Rest


Plan = Send | Wait | Stop


def plan(s: Situation) -> Plan:
    """Rest, wait, or send."""
    if s.device.state is DeviceState.GONE:
        return Stop(reason=Rest.GONE)
    step = _step(s)
    if step is None or isinstance(step, Send):
        return step or _ordinary(s)
    found = _ordinary(s)
    if isinstance(found, Send):
        return found
    if isinstance(step, Stop) or isinstance(found, Stop):
        return found if isinstance(step, Stop) and step.reason is Rest.NOTHING_OWED else step
    return min(step, found, key=at_ms_of)


def _step(s: Situation) -> Plan | None:
    """What is to be told again because a step of it is due; a device that was set back was told before. None: nothing."""
    if not s.told:
        return None
    after = max(s.device.acked_high, s.device.acked_seq, s.job.escalate_after)
    items = [one for one in s.told if one.entry.escalated is not None and after < one.entry.seq <= s.job.escalate_seq]
    if not items:
        return None
    waiting = _not_yet(s, items, since_ms=items[0].entry.accepted_ms)
    return _send(s, items, step=True) if waiting is None else waiting


def _ordinary(s: Situation) -> Plan:
    """What is told for the first time, or knocked for."""
    if s.untold or s.shared:
        items, since = s.untold, [s.untold[0].entry.accepted_ms] if s.untold else []
        for news in s.shared:
            items += news.items
            since.append(news.since_ms)
        waiting = _not_yet(s, items, since_ms=min(since))
        if waiting is not None:
            return waiting
        return _send(s, s.untold)
    if not s.told:
        return Stop(reason=Rest.MUTED if s.muted else Rest.NOTHING_OWED)
    told = [one for one in s.told if one.entry.escalated is None]
    seen = not told or told[-1].entry.seq <= s.job.shown_seq
    if s.device.state is DeviceState.DORMANT or seen or s.job.knock >= len(s.policy.knocks_ms):
        return Stop(reason=Rest.TOLD)
    due_ms = (s.job.told_ms or s.now_ms) + s.policy.knocks_ms[s.job.knock]
    if s.now_ms < due_ms:
        return Wait(at_ms=due_ms, reason=Later.KNOCK)
    if s.quiet_until_ms is not None:
        return Wait(at_ms=s.quiet_until_ms, reason=Later.QUIET_HOURS)
    if s.job.retry_ms is not None and s.now_ms < s.job.retry_ms:
        return Wait(at_ms=s.job.retry_ms, reason=Later.BACKOFF)
    return _send(s, told, knock=True)


def _not_yet(s: Situation, items: Sequence[Item], *, since_ms: int) -> Wait | None:
    at_ms, reason = push_due.waits_until(
        s.device,
        accepted_ms=since_ms,
        policy=s.policy,
        now_ms=s.now_ms,
        elsewhere=s.elsewhere,
        gateway=s.gateway,
    )
    if s.now_ms < at_ms:
        return Wait(at_ms=at_ms, reason=reason)
    if s.quiet_until_ms is not None:
        breaks = s.urgent_breaks and any(item.priority == URGENT for item in items)
        if not breaks:
            return Wait(at_ms=s.quiet_until_ms, reason=Later.QUIET_HOURS)
    if s.job.retry_ms is not None and s.now_ms < s.job.retry_ms:
        return Wait(at_ms=s.job.retry_ms, reason=Later.BACKOFF)
    if s.now_ms < s.grace_until_ms and s.device.online and not any(is_urgent(item) for item in items):
        return Wait(at_ms=s.grace_until_ms, reason=Later.GRACE)
    return None


def _send(s: Situation, items: Sequence[Item], *, knock: bool = False, step: bool = False) -> Plan:
    usable = [one for one in s.addresses if one.state == "active"]
    if not usable:
        return Stop(reason=Rest.NO_ADDRESS)
    ready = [one for one in usable if one.account in s.accounts and not s.accounts[one.account].parked]
    if not ready:
        return Stop(reason=Rest.ACCOUNT_PARKED)
    awake = [one for one in ready if _rests_until(s, one) <= s.now_ms]
    if not awake:
        return Wait(at_ms=min(_rests_until(s, one) for one in ready), reason=Later.STALE)
    anything = items or [item for news in s.shared for item in news.items]
    able = [one for one in awake if not _all_held(s, one, anything)] or awake
    unable = len(usable) - sum(not s.accounts[one.account].passes_on(s.now_ms) for one in able)
    goes_on = step and s.job.escalate_on == 1  # where it began
    beyond = _beyond(s, usable, able) if (step and not goes_on) or knock else []
    address = _choose(s, beyond or (_again(s, able) if step else able))
    account = s.accounts[address.account].towards(address, s.device.platform)
    if push_due.is_stale(s.device, address, policy=s.policy, now_ms=s.now_ms):
        s = replace(s, policy=dataclasses.replace(s.policy, separate_max=1))  # it is to be one push
    waits = account.waits(s.now_ms, retry=is_retry(s.job))
    if waits is not None:
        # What is urgent takes the first place that comes free, and does not stand behind a broadcast.
        return replace(waits, account=address.account, urgent=any(item.priority == URGENT for item in anything))
    if not items:
        return _send_shared(s, address, account, beside=None, unable=unable)
    expiring_ms = s.now_ms + EXPIRING_MS
    fresh = [item for item in items if item.entry.expires_ms > expiring_ms]
    low, high = items[0].entry.seq, items[-1].entry.seq if step else max(s.upto_seq, items[-1].entry.seq)
    if not fresh:
        return (
            Stop(reason=Rest.NOTHING_OWED)
            if knock or step or not s.shared
            else _send_shared(s, address, account, beside=None, unable=unable)
        )
    waiting: list[Wait | None] = []
    free = fresh
    if account.held:
        waiting = _held(s, address, fresh)
        free = [item for item, wait in zip(fresh, waiting, strict=True) if wait is None]
    form, notes = write_notes(s, free or fresh, address, account, knock=knock)
    notes = [as_sealed(note, account) for note in notes]
    if knock or step:
        notes = [replace(note, again=_which(s, note, fresh, step=step)) for note in notes]
    told = notes
    if account.held:
        told = [note for note in notes if account.holds(address.token_hash, note.shows, s.now_ms) is None]
    if not free or not told:
        waiting += [account.holds(address.token_hash, note.shows, s.now_ms) for note in notes]
        first = replace(min((wait for wait in waiting if wait is not None), key=at_ms_of), account=address.account)
        if knock or step or not s.shared:
            return first
        beside = _send_shared(replace(s, upto_seq=low - 1), address, account, beside=None, unable=unable)
        if isinstance(beside, Send):
            return beside
        return min(first, beside, key=at_ms_of) if isinstance(beside, Wait) else first
    gone = max(note.upto_seq for note in told)
    if gone < fresh[-1].entry.seq:
        # What waits for its hour is told then; but if something newer goes now, that brings the app to all before it.
        high = gone
    send = Send(address=address, notes=tuple(told), from_seq=low, upto_seq=high, form=form, unable=unable)
    if step:
        if form in {Form.EACH, Form.UNSEEN}:
            later = bool(beyond) or (goes_on and address != usable[0])
            send = replace(send, form=Form.ESCALATE if later else Form.REPEAT)
        return replace(
            send, steps_upto=s.job.escalate_seq, steps_after=s.job.escalate_after, last_step_seq=fresh[-1].entry.seq
        )
    return _send_shared(s, address, account, beside=send, items=free) if s.shared and not knock else send


def _send_shared(
    s: Situation,
    address: Address,
    account: AccountView,
    *,
    beside: Send | None,
    items: Sequence[Item] = (),
    unable: int = 0,
) -> Plan:
    """Tells of shared timelines, one notification each, beside what is told of the inbox (`items`); what finds no room
    comes next. Where so many would drive others out at the vendor, one notification tells of all of it."""
    high = s.upto_seq
    send = beside or Send(address=address, notes=(), from_seq=high + 1, upto_seq=high, form=Form.SUMMARY, unable=unable)
    room = min(max(1, s.policy.separate_max), account.free) - len(send.notes)
    refused = beside is None and s.job.bare_seq >= max(1, high) and (s.job.tries > 0 or s.job.lost > 0)
    crowded = is_crowded(s, address, account.capabilities, fresh=len(send.notes))
    together: list[tuple[SharedNews, bool]] = []
    waits: list[Wait] = []
    for news in s.shared:
        some, bare = as_private(news.items, account.privacy)
        bare = bare or refused
        urgent = any(map(is_urgent, some))
        note = summary(s, some, account.capabilities, shown=not bare, urgent=urgent, count=news.count)
        note = replace(as_sealed(note, account), upto_seq=0, timeline=news.conversation_id)
        held = account.holds(address.token_hash, note.shows, s.now_ms)
        if held is not None:
            waits.append(held)
        elif crowded:
            together.append((news, bare))
        elif room > 0:
            room -= 1
            place = (news.conversation_id, news.upto_seq)
            send = replace(send, notes=(*send.notes, note), shared=(*send.shared, place))
    if together:
        silent = together[0][1] if beside is None else is_silent(beside)
        alike = [news for news, bare in together if bare is silent]  # the others come next
        send = _with_all(s, account, send, items, alike, silent=silent) if alike else send
    if send.notes:
        return replace(send, form=Form.WAKE) if beside is None and is_silent(send) else send
    if not waits:
        return Stop(reason=Rest.NOTHING_OWED)
    return replace(min(waits, key=at_ms_of), account=address.account)


def _with_all(
    s: Situation,
    account: AccountView,
    send: Send,
    items: Sequence[Item],
    shared: Sequence[SharedNews],
    *,
    silent: bool,
) -> Send:
    """The same with one notification in place of its own, for these items of the inbox and all of these timelines."""
    all_items = [*items, *(item for news in shared for item in news.items)]
    shown, _ = as_private(sorted(all_items, key=lambda item: item.entry.accepted_ms), account.privacy)
    instead_of = max(s.untold_count, len(items)) if items else 0
    told_of = s.told_count + instead_of
    note = summary(
        s,
        shown,
        account.capabilities,
        shown=not silent,
        urgent=any(map(is_urgent, shown)),
        for_all=True,
        count=told_of + sum(news.count for news in shared),
    )
    places = tuple((news.conversation_id, news.upto_seq) for news in shared)
    return replace(send, notes=(as_sealed(note, account),), shared=places, form=Form.WAKE if silent else send.form)


def _rests_until(s: Situation, address: Address) -> int:
    """Until when a stale address has had its push; in the past for all others."""
    if address.pushed_ms is None or not push_due.is_stale(s.device, address, policy=s.policy, now_ms=s.now_ms):
        return 0
    return address.pushed_ms + push_due.STALE_PUSH_MS


def _held(s: Situation, address: Address, items: Sequence[Item]) -> list[Wait | None]:
    account = s.accounts[address.account].towards(address, s.device.platform)
    return [account.holds(address.token_hash, item.push, s.now_ms) for item in items]


def _all_held(s: Situation, address: Address, items: Sequence[Item]) -> bool:
    """Whether all of it has to wait for so long at this address that the device's next one should have it."""
    account = s.accounts[address.account]
    limit_ms = account.falls_back_ms
    if limit_ms is None or not account.held:
        return False
    waits = _held(s, address, items)
    return all(wait is not None and wait.at_ms - s.now_ms > limit_ms for wait in waits)


def is_retry(job: PushJob) -> bool:
    """Whether the last attempt came to nothing at this very address, and was put off: the account's retry budget counts it."""
    return job.tries > 0 and job.retry_ms is not None


def is_silent(send: Send) -> bool:
    """Whether the user sees nothing of it."""
    return all_unseen(send.notes)


def spared(send: Send, account: AccountView, *, now_ms: int, woken_ms: int | None) -> Wait | None:
    """Until when a silent push waits, so that the vendor does not drop it: it lets through only so many an hour."""
    gap_ms = int(account.capabilities.silent_gap_s * 1000)
    if woken_ms is None or now_ms >= woken_ms + gap_ms or not is_silent(send):
        return None
    return Wait(at_ms=woken_ms + gap_ms, reason=Later.RATE)


def _beyond(s: Situation, chain: Sequence[Address], able: Sequence[Address]) -> list[Address]:
    """The addresses that steps and knocks take in turn: those of the chain after the one that was told last, but for any
    that is out for long."""
    places = [(one.account, one.token_hash) for one in chain]
    after = places.index(s.told_last) + 1 if s.told_last in places else 0
    return [one for one in chain[after:] if one in able and not s.accounts[one.account].passes_on(s.now_ms)]


def _which(s: Situation, note: Note, items: Sequence[Item], *, step: bool) -> str:
    """Which reminder since the last contact a note is, or which step of its messages."""
    if not step:
        return f"knock {s.job.told_ms} {s.job.knock}"
    # Not by those that tell the backend: one of these may be taken before this push is tried again.
    steps = (s.steps.get(item.entry.message_id, 0) for item in items if item.entry.message_id in note.ids)
    return f"step {' '.join(map(str, steps))}"


def _again(s: Situation, able: Sequence[Address]) -> list[Address]:
    """Where there is none: the one that was told last, and then whichever will have it."""
    return sorted(able, key=lambda one: (one.account, one.token_hash) != s.told_last)


def _choose(s: Situation, ready: Sequence[Address]) -> Address:
    """The address whose turn it is; a later one in the chain if its account is out for long and the later one is not.

    Short waits (a full bucket, a circuit that is probed) are waited for: order is kept, and nothing shows twice. The probe
    of a vendor that is away goes to the first address, by whoever is due when it falls due.
    """
    if len(ready) == 1:
        return ready[0]
    first = s.job.tries // TRIES_PER_ADDRESS
    chain = [ready[(first + n) % len(ready)] for n in range(len(ready))]
    for address in chain:
        if not s.accounts[address.account].passes_on(s.now_ms):
            return address
    return min(chain, key=lambda one: _free_ms(s.accounts[one.account], s.now_ms))


def _free_ms(account: AccountView, now_ms: int) -> int:
    waits = account.waits(now_ms)
    return now_ms if waits is None else waits.at_ms
