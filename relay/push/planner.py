"""What to tell one device now, if anything: a pure function of what is outstanding (protocol 7.2)."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from providers.contract import Capabilities, left_out
from relay.inbox import rules
from relay.inbox.rules import Later, Rest
from relay.model import DAY_FULL, Address, Device, DeviceState, Entry, Notification, Policy, PushJob

ITEMS_MAX = 200  # outstanding entries looked at in full
IDS_MAX = 10  # ids named in one push; cut first when it is too large
EXPIRING_MS = 2_000  # entries with less left are not worth a notification
TRIES_PER_ADDRESS = 5  # failed tries in a row, then the next address of the chain has its turn
URGENT = "urgent"
SUMMARY_PRIORITY_URGENT = frozenset({"high", "urgent"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One outstanding entry with what it would show."""

    entry: Entry
    push: Notification
    priority: str
    collapse_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedNews:
    """What there is to tell of a shared timeline: its newest items, and how many numbers they stand for."""

    conversation_id: str
    items: tuple[Item, ...]
    count: int
    since_ms: int  # when the oldest of all was accepted
    upto_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    at_ms: int
    reason: Later


class Privacy(StrEnum):
    """What a vendor may see of a message."""

    FULL = "full"
    TITLE = "title"  # title, sound and badge; no body, image or data
    NONE = "none"  # ids alone: a wake-up


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What an account may send in one of its vendor's days, which `ends_ms`. No limit: until the vendor says so."""

    limit: int | None
    day: str
    ends_ms: int


# One sort of push that a vendor takes later: a channel of the account, or of one address (its token's hash) alone.
Sort = tuple[bytes | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """What an account can do at this moment. `free`: pushes that may start now."""

    capabilities: Capabilities
    parked: bool = False
    closed_for_ms: int = 0  # circuit open, or the vendor asked us to wait
    ill_for_ms: int = 0  # how long the circuit has been open
    shut_until_ms: int = 0  # by the clock: the day's quota is used up, or the vendor takes nothing at this hour
    shut_why: Later = Later.QUOTA
    falls_back_ms: int | None = (
        60_000  # a wait longer than this passes the push on to the next address; None: none does
    )
    free: int = 100
    wait_ms: int = 0  # until there is room again
    privacy: Privacy = Privacy.FULL
    quota: Quota | None = None  # `counted` says what is left of it
    held: Mapping[Sort, Wait] = field(default_factory=dict)  # what of it is over counts no more

    def counted(self, sent: int) -> "AccountView":
        """The same with that many sent today: the rest of the quota bounds what may go."""
        if self.quota is None:
            return self
        if self.quota.limit is None and sent < DAY_FULL:
            return self
        left = (self.quota.limit or 0) - sent
        if left > 0:
            return replace(self, free=min(self.free, left), quota=replace(self.quota, limit=left))
        return replace(self, shut_until_ms=max(self.shut_until_ms, self.quota.ends_ms), shut_why=Later.QUOTA)

    def used(self, calls: int) -> "AccountView":
        """The same after so many calls were planned."""
        left = replace(self, free=self.free - calls)
        if self.quota is None or self.quota.limit is None:
            return left
        return left.counted(calls)

    def waits(self, now_ms: int) -> Wait | None:
        """Until when nothing can go, and why; None: a push may go now."""
        if self.shut_until_ms > now_ms:
            return Wait(at_ms=self.shut_until_ms, reason=self.shut_why)
        if self.closed_for_ms > 0:
            return Wait(at_ms=now_ms + self.closed_for_ms, reason=Later.CIRCUIT)
        if self.free <= 0:
            return Wait(at_ms=now_ms + max(1, self.wait_ms), reason=Later.RATE)
        return None

    def holds(self, token_hash: bytes, shown: Notification | None, now_ms: int) -> Wait | None:
        """Until when the vendor does not take what would show this, and why; None: it does. No `shown`: a wake-up."""
        channel = None if shown is None or self.privacy is Privacy.NONE else shown.channel
        waits = (self.held.get((of, channel)) for of in (None, token_hash))
        return max((one for one in waits if one is not None and one.at_ms > now_ms), key=_at_ms, default=None)

    def passes_on(self, now_ms: int) -> bool:
        """Whether it is out for so long that the device's next address should have the push."""
        if self.falls_back_ms is None:
            return False
        shut_ms = self.shut_until_ms - now_ms
        return max(shut_ms, self.closed_for_ms, self.ill_for_ms if self.closed_for_ms else 0) > self.falls_back_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One notification of a plan, in neutral words. No title and no body: a silent wake-up."""

    push_id: str
    collapse_key: str
    shows: Notification | None
    urgent: bool
    ttl_s: int
    ids: tuple[str, ...]
    count: int
    left_out: tuple[str, ...] = ()  # what the vendor cannot express of what is shown


class Form:
    """How an attempt tells: each message, a summary, a bare wake-up, or again (a knock)."""

    EACH = "each"
    SUMMARY = "summary"
    WAKE = "wake"
    KNOCK = "knock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    address: Address
    notes: tuple[Note, ...]
    from_seq: int
    upto_seq: int
    form: str
    shared: tuple[tuple[str, int], ...] = ()  # shared timelines of which it tells, and up to where


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    reason: Rest


Plan = Send | Wait | Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything a plan depends on."""

    now_ms: int
    device: Device
    job: PushJob
    untold: tuple[Item, ...]  # W(d), oldest first, the newest ITEMS_MAX
    untold_count: int
    told: tuple[Item, ...]  # owed, at or below pushed_seq: what a knock is about
    shared: tuple[SharedNews, ...] = ()
    upto_seq: int  # highest number looked at
    addresses: tuple[Address, ...]
    accounts: Mapping[str, AccountView]
    policy: Policy
    elsewhere: bool = False
    gateway: bool = False
    muted: bool = False  # something waits that the user does not want to be told of
    quiet_until_ms: int | None = None  # it is in the user's quiet hours
    urgent_breaks: bool = True  # what is urgent is told in them as well, and what else waits with it
    told_count: int = 0  # told and not acked, counted up to what any account needs to know
    grace_until_ms: int = 0  # devices of the time before a restart are given until then to come back


def plan(s: Situation) -> Plan:
    """Rest, wait, or send."""
    if s.device.state is DeviceState.GONE:
        return Stop(reason=Rest.GONE)
    if s.untold or s.shared:
        waiting = _not_yet(s)
        if waiting is not None:
            return waiting
        return _send(s, s.untold, knock=False)
    if not s.told:
        return Stop(reason=Rest.MUTED if s.muted else Rest.NOTHING_OWED)
    seen = s.told[-1].entry.seq <= s.job.shown_seq
    if s.device.state is DeviceState.DORMANT or seen or s.job.knock >= len(s.policy.knocks_ms):
        return Stop(reason=Rest.TOLD)
    due_ms = (s.job.told_ms or s.now_ms) + s.policy.knocks_ms[s.job.knock]
    if s.now_ms < due_ms:
        return Wait(at_ms=due_ms, reason=Later.KNOCK)
    if s.quiet_until_ms is not None:
        return Wait(at_ms=s.quiet_until_ms, reason=Later.QUIET_HOURS)
    if s.job.retry_ms is not None and s.now_ms < s.job.retry_ms:
        return Wait(at_ms=s.job.retry_ms, reason=Later.BACKOFF)
    return _send(s, s.told, knock=True)


def _not_yet(s: Situation) -> Wait | None:
    since = [item.entry.accepted_ms for item in s.untold[:1]] + [news.since_ms for news in s.shared]
    items = [*s.untold, *(item for news in s.shared for item in news.items)]
    at_ms, reason = rules.waits_until(
        s.device,
        accepted_ms=min(since),
        policy=s.policy,
        now_ms=s.now_ms,
        elsewhere=s.elsewhere,
        gateway=s.gateway,
    )
    if s.now_ms < at_ms:
        return Wait(at_ms=at_ms, reason=reason)
    breaks = s.urgent_breaks and any(item.priority == URGENT for item in items)
    if s.quiet_until_ms is not None and not breaks:
        return Wait(at_ms=s.quiet_until_ms, reason=Later.QUIET_HOURS)
    if s.job.retry_ms is not None and s.now_ms < s.job.retry_ms:
        return Wait(at_ms=s.job.retry_ms, reason=Later.BACKOFF)
    if s.now_ms < s.grace_until_ms and s.device.online and not any(_urgent(item) for item in items):
        return Wait(at_ms=s.grace_until_ms, reason=Later.GRACE)
    return None


def _send(s: Situation, items: Sequence[Item], *, knock: bool) -> Plan:
    usable = [one for one in s.addresses if one.state == "active"]
    if not usable:
        return Stop(reason=Rest.NO_ADDRESS)
    ready = [one for one in usable if one.account in s.accounts and not s.accounts[one.account].parked]
    if not ready:
        return Stop(reason=Rest.ACCOUNT_PARKED)
    anything = items or [item for news in s.shared for item in news.items]
    address = _choose(s, [one for one in ready if not _all_held(s, one, anything)] or ready)
    account = s.accounts[address.account]
    waits = account.waits(s.now_ms)
    if waits is not None:
        return waits
    if not items:
        return _send_shared(s, address, account, beside=None)
    fresh = [item for item in items if item.entry.expires_ms - s.now_ms > EXPIRING_MS]
    low, high = items[0].entry.seq, max(s.upto_seq, items[-1].entry.seq)
    if not fresh:
        return (
            Stop(reason=Rest.NOTHING_OWED) if knock or not s.shared else _send_shared(s, address, account, beside=None)
        )
    waiting = _held(s, address, fresh)
    free = [item for item, wait in zip(fresh, waiting, strict=True) if wait is None]
    form, notes = _notes(s, free or fresh, account, knock=knock)
    told = [note for note in notes if account.holds(address.token_hash, note.shows, s.now_ms) is None]
    if not free or not told:
        waiting += [account.holds(address.token_hash, note.shows, s.now_ms) for note in notes]
        return min((wait for wait in waiting if wait is not None), key=_at_ms)
    if len(free) < len(fresh) and fresh[-1] is not free[-1]:
        # What waits for its hour is told then; but if something newer goes now, that brings the app to all before it.
        high = free[-1].entry.seq
    send = Send(address=address, notes=tuple(told), from_seq=low, upto_seq=high, form=form)
    return send if knock else _send_shared(s, address, account, beside=send)


def _send_shared(s: Situation, address: Address, account: AccountView, *, beside: Send | None) -> Plan:
    """Tells of shared timelines, one notification each, beside what is told of the inbox; what finds no room comes next."""
    high = s.upto_seq
    send = beside or Send(address=address, notes=(), from_seq=high + 1, upto_seq=high, form=Form.SUMMARY)
    room = min(s.policy.separate_max, account.free) - len(send.notes)
    refused = beside is None and s.job.bare_seq >= max(1, high) and (s.job.tries > 0 or s.job.lost > 0)
    waits: list[Wait] = []
    for news in s.shared:
        items, bare = _as_private(news.items, account.privacy)
        bare = bare or refused
        urgent = any(map(_urgent, items))
        note = _summary(s, items, account.capabilities, shown=not bare, urgent=urgent, count=news.count)
        held = account.holds(address.token_hash, note.shows, s.now_ms)
        if held is not None:
            waits.append(held)
        elif room > 0:
            room -= 1
            place = (news.conversation_id, news.upto_seq)
            form = Form.WAKE if bare and beside is None else send.form
            send = replace(send, notes=(*send.notes, note), shared=(*send.shared, place), form=form)
    if send.notes:
        return send
    return min(waits, key=_at_ms) if waits else Stop(reason=Rest.NOTHING_OWED)


def _held(s: Situation, address: Address, items: Sequence[Item]) -> list[Wait | None]:
    account = s.accounts[address.account]
    return [account.holds(address.token_hash, item.push, s.now_ms) for item in items]


def _all_held(s: Situation, address: Address, items: Sequence[Item]) -> bool:
    """Whether all of it has to wait for so long at this address that the device's next one should have it."""
    limit_ms, waits = s.accounts[address.account].falls_back_ms, _held(s, address, items)
    return limit_ms is not None and all(wait is not None and wait.at_ms - s.now_ms > limit_ms for wait in waits)


def _at_ms(wait: Wait) -> int:
    return wait.at_ms


def is_silent(send: Send) -> bool:
    """Whether the user sees nothing of it."""
    return all(note.shows is None for note in send.notes)


def spared(send: Send, account: AccountView, *, now_ms: int, woken_ms: int | None) -> Wait | None:
    """Until when a silent push waits, so that the vendor does not drop it: it lets through only so many an hour."""
    gap_ms = int(account.capabilities.silent_gap_s * 1000)
    if woken_ms is None or now_ms >= woken_ms + gap_ms or not is_silent(send):
        return None
    return Wait(at_ms=woken_ms + gap_ms, reason=Later.RATE)


def _choose(s: Situation, ready: Sequence[Address]) -> Address:
    """The address whose turn it is; a later one in the chain if its account is out for long and the later one is not.

    Short waits (a full bucket, a circuit that is probed) are waited for: order is kept, and nothing shows twice. The probe
    of a vendor that is away goes to the first address, by whoever is due when it falls due.
    """
    first = s.job.address_index + s.job.tries // TRIES_PER_ADDRESS
    chain = [ready[(first + n) % len(ready)] for n in range(len(ready))]
    for address in chain:
        if not s.accounts[address.account].passes_on(s.now_ms):
            return address
    return min(chain, key=lambda one: _free_ms(s.accounts[one.account], s.now_ms))


def _free_ms(account: AccountView, now_ms: int) -> int:
    waits = account.waits(now_ms)
    return now_ms if waits is None else waits.at_ms


def _notes(s: Situation, items: Sequence[Item], account: AccountView, *, knock: bool) -> tuple[str, list[Note]]:
    items, bare = _as_private(items, account.privacy)
    newest = _newest_per_key(items)
    capabilities = account.capabilities
    if knock:
        known = all(item.entry.seq <= s.device.acked_high for item in items)
        return Form.KNOCK, [_summary(s, items, capabilities, shown=not known and not bare, urgent=False)]
    if bare or any(item.entry.seq <= s.job.bare_seq for item in items):
        return Form.WAKE, [_summary(s, items, capabilities, shown=False, urgent=any(map(_urgent, items)))]
    room = min(s.policy.separate_max, account.free)  # all of it goes now: what is left out here would count as told
    keys_max = capabilities.collapse_keys_max
    crowded = keys_max is not None and s.told_count + len(newest) >= keys_max  # the last key is that of the summary
    if len(newest) <= room and not crowded and s.untold_count <= len(s.untold):
        return Form.EACH, [_own(s, item, capabilities) for item in newest]
    if crowded:
        return Form.SUMMARY, [
            _summary(s, items, capabilities, shown=True, urgent=any(map(_urgent, items)), for_all=True)
        ]
    conversations: dict[str | None, list[Item]] = {}
    for item in items:
        conversations.setdefault(item.entry.conversation_id, []).append(item)
    if len(conversations) <= room:
        return Form.SUMMARY, [
            _summary(s, some, capabilities, shown=True, urgent=any(map(_urgent, some)))
            for some in conversations.values()
        ]
    return Form.SUMMARY, [_summary(s, items, capabilities, shown=True, urgent=any(map(_urgent, items)))]


def _as_private(items: Sequence[Item], privacy: Privacy) -> tuple[Sequence[Item], bool]:
    """What the vendor may see of them, and whether that is nothing."""
    if privacy is not Privacy.TITLE:
        return items, privacy is Privacy.NONE
    titles = [replace(item, push=_title_only(item.push)) for item in items]
    return titles, any(item.push.title is None and item.push.title_loc_key is None for item in titles)


def _title_only(push: Notification) -> Notification:
    return Notification(
        title=push.title,
        title_loc_key=push.title_loc_key,
        title_loc_args=push.title_loc_args,
        sound=push.sound,
        badge=push.badge,
        channel=push.channel,
        thread=push.thread,
        mutable=push.mutable,
    )


def _urgent(item: Item) -> bool:
    return item.priority in SUMMARY_PRIORITY_URGENT


def _newest_per_key(items: Sequence[Item]) -> list[Item]:
    last: dict[str, int] = {item.collapse_key: item.entry.seq for item in items if item.collapse_key is not None}
    return [item for item in items if item.collapse_key is None or last[item.collapse_key] == item.entry.seq]


def _ttl_s(s: Situation, items: Sequence[Item], capabilities: Capabilities) -> int:
    """The shortest useful life: the vendor must not show what has expired."""
    rest_ms = max(item.entry.expires_ms for item in items) - s.now_ms
    return max(1, min(rest_ms // 1000, capabilities.ttl_s_max))


def _own(s: Situation, item: Item, capabilities: Capabilities) -> Note:
    return Note(
        push_id=item.entry.message_id,
        collapse_key=item.collapse_key or item.entry.message_id,
        shows=item.push,
        urgent=item.priority != "low",
        ttl_s=_ttl_s(s, [item], capabilities),
        ids=(item.entry.message_id,),
        count=1,
        left_out=left_out(item.push, capabilities),
    )


def _summary(
    s: Situation,
    items: Sequence[Item],
    capabilities: Capabilities,
    *,
    shown: bool,
    urgent: bool,
    for_all: bool = False,
    count: int | None = None,
) -> Note:
    """One notification for several messages; the same for the same conversation, so that it replaces the last one."""
    newest = items[-1]
    conversations = {item.entry.conversation_id for item in items}
    about = next(iter(conversations)) if len(conversations) == 1 and not for_all else None
    if count is None:
        count = max(len(items), s.untold_count if about is None else len(items))
    id_ = summary_id(s.device.device_id, about)
    text = Notification(
        title=newest.push.title,
        body=newest.push.body if count == 1 else f"{count} new messages",
        title_loc_key=newest.push.title_loc_key,
        title_loc_args=newest.push.title_loc_args,
        body_loc_key=newest.push.body_loc_key if count == 1 else None,
        body_loc_args=newest.push.body_loc_args if count == 1 else (),
        sound=newest.push.sound,
        channel=newest.push.channel,
        thread=newest.push.thread,
        click=newest.push.click,
        badge=newest.push.badge,
    )
    return Note(
        push_id=id_,
        collapse_key=id_,
        shows=text if shown else None,
        urgent=urgent,
        ttl_s=_ttl_s(s, items, capabilities),
        ids=tuple(item.entry.message_id for item in items[-IDS_MAX:]),
        count=count,
        left_out=left_out(text, capabilities) if shown else (),
    )


def summary_id(device_id: str, conversation_id: str | None) -> str:
    digest = hashlib.sha256(f"{device_id}\x1f{conversation_id or ''}".encode()).digest()[:15]
    return "s" + base64.b32encode(digest).decode().lower()


def device_hint(user_id: str) -> str:
    """Tells a client whether a push is for its present user, without naming anybody (protocol 7.6)."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:16]
