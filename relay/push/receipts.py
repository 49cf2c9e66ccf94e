"""Receipts from vendors: they refine the trace and tell the backend, and never end a message (safety SEC-10).

Where a receipt calls a token dead ("uninstalled"), the address that the push went to is given up as after such an answer to
the push itself: some vendors say it in no other way. What it was told counts as not told, so that the next address has it. So
does what a vendor dropped because the device has had its number for the day; more of that sort waits for the vendor's midnight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from providers.receipts.contract import Callback, Garbled, NotAuthentic, Reading, Receipt, ReceiptReader
from relay.clock import Clock, rfc3339
from relay.errors import Malformed, Missing, Unauthenticated
from relay.inbox import visibility
from relay.inbox.locked import Locked, PolicyOf, flush, lock
from relay.inbox.push_due import Later
from relay.model import CARRIES_MESSAGE, Address, DeviceKey, Entry, Notification
from relay.push.accounts import Account, Accounts
from relay.push.calendar import next_day_ms
from relay.push.dead_tokens import active, bury, is_believed
from relay.push.situation import Privacy, Wait, channel_of
from relay.store import addresses as address_rows
from relay.store import entries as entry_rows
from relay.store import quota
from relay.store import receipts as receipt_rows
from relay.store.engine import Conn, Engine
from relay.store.events import DELIVERIES_MAX, NewEvent, derived_id
from relay.store.scope import of_app
from relay.telemetry.repeats import Repeats

log = structlog.get_logger("relay.push")

EVENT = "delivery.vendor_receipt"
RECEIPTS_AT_ONCE = 100  # in one transaction

_Dead = tuple[receipt_rows.Reported, str | None]  # the attempt, and the vendor's code
HashToken = Callable[[str, str, str], bytes]  # (app, account, token) -> what addresses are found by


@dataclass(slots=True, kw_only=True)
class ReceiptService:
    """Takes what vendors post."""

    engine: Engine
    clock: Clock
    accounts: Accounts
    policy_of: PolicyOf
    hash_token: HashToken
    facts_told: Callable[[], None] = lambda: None
    _refused: Repeats = field(default_factory=lambda: Repeats(log.warning, "receipts.refused"))
    _garbled: Repeats = field(default_factory=lambda: Repeats(log.warning, "receipts.garbled"))
    _ignored: Repeats = field(default_factory=lambda: Repeats(log.warning, "receipts.ignored"))

    def networks(self, account: str) -> Sequence[IPv4Network | IPv6Network]:
        """Where this account's vendor may call from; none: from anywhere. Raises Missing."""
        return self._reader(account)[1].settings.networks

    async def take(self, account: str, call: Callback) -> Reading:
        """Authenticates, reads and stores; gives what the vendor wants to hear. Raises Missing, Unauthenticated, Malformed.

        Only what is on disk is confirmed: on any failure the vendor brings it again.
        """
        of, reader = self._reader(account)
        try:
            reading = reader.read(call, now_s=self.clock.now_ms() / 1000)
        except NotAuthentic as refused:
            self._refused.tell(account, account=account, reason=str(refused))
            raise Unauthenticated("This is not the vendor's signature, or not the account's secret path.") from None
        except Garbled as garbled:
            self._garbled.tell(account, account=account, reason=str(garbled))
            raise Malformed(f"{garbled}") from None
        if reading.ignored is not None:
            self._ignored.tell(account, account=account, reason=reading.ignored)
            return reading
        told = 0
        for start in range(0, len(reading.receipts), RECEIPTS_AT_ONCE):
            some = reading.receipts[start : start + RECEIPTS_AT_ONCE]
            work = partial(
                take,
                account=of,
                receipts=some,
                policy_of=self.policy_of,
                hash_token=self.hash_token,
                spare=self._braked(of, some),
            )
            with of_app(of.app_id):
                told += await self.engine.write(work)
        log.info("receipts.taken", account=account, count=len(reading.receipts), news=told)
        if told:
            self.facts_told()
        return reading

    def _braked(self, account: Account, receipts: Sequence[Receipt]) -> bool:
        """Whether so many tokens are called dead that none is believed, these receipts counted."""
        now_ms = self.clock.monotonic_ms()
        for one in receipts:
            if one.token_dead:
                account.brake.told(now_ms, dead=True)
        return account.brake.holds(now_ms)

    def _reader(self, name: str) -> tuple[Account, ReceiptReader]:
        for account in self.accounts.all():
            reader: ReceiptReader | None = getattr(account.provider, "receipts", None)
            if account.name == name and reader is not None:
                return account, reader
        raise Missing("There is no such account, or it takes no receipts.")


def take(
    conn: Conn,
    now_ms: int,
    account: Account,
    receipts: Sequence[Receipt],
    policy_of: PolicyOf,
    hash_token: HashToken,
    *,
    spare: bool = False,
) -> int:
    """Stores what is news, with an event for each; the number of these. What is about nobody we know is dropped.

    `spare`: no address is given up.
    """
    owned: list[tuple[DeviceKey, bytes, Receipt]] = []
    for receipt in receipts:
        hashed = hash_token(account.app_id, account.name, receipt.token)
        owners = address_rows.owners_of(conn, account.app_id, account=account.name, token_hash=hashed)
        owned += [(owner, hashed, receipt) for owner in owners]
    users = lock(conn, now_ms, {owner.user for owner, _, _ in owned}, policy_of)
    told = 0
    dead: dict[tuple[DeviceKey, bytes], list[_Dead]] = {}
    noted: set[quota.Held] = set()
    for owner, hashed, receipt in owned:
        locked = users.get(owner.user)
        attempt = None if locked is None else _attempt(locked, owner, account.name, hashed, receipt)
        if locked is None or attempt is None:
            continue
        push_id, entries = _about(locked, attempt, receipt.push_id)
        said = {
            "push_id": push_id,
            "fact": str(receipt.fact),
            "code": receipt.code or "",
            "reason": receipt.reason,
            "at_ms": receipt.at_ms,
            "taken_ms": now_ms,
        }
        if receipt_rows.add(conn, owner, attempt.claim_token, said):
            held = _spent(locked, account, owner, hashed, attempt, receipt, entries) if receipt.spent else None
            if held is not None and _hold(locked, account, held, noted):
                _untell(locked, owner, attempt.from_seq)
            name = (attempt.claim_token, push_id, said["fact"], said["code"])
            locked.events.append(_event(locked, owner, account.name, receipt, entries, name))
            told += 1
            if receipt.token_dead and not spare:
                dead.setdefault((owner, hashed), []).append((attempt, receipt.code))
    addresses = address_rows.addresses_of(conn, {owner.user for owner, _ in dead})
    for (owner, hashed), said_dead in dead.items():
        current = active(addresses.get(owner, []), account=account.name, token_hash=hashed)
        _give_up(users[owner.user], owner, current, said_dead)
    flush(conn, now_ms, users.values())
    return told


def _give_up(locked: Locked, owner: DeviceKey, current: Address | None, said: Sequence[_Dead]) -> None:
    """The pushes that were `said` to have met a dead token told nobody."""
    device, job = locked.devices.get(owner.device_id), locked.jobs.get(owner.device_id)
    latest, code = max(said, key=lambda one: one[0].started_ms)
    if current is None or device is None or job is None or not is_believed(current, when_ms=latest.started_ms):
        return
    bury(locked, device, account=current.account, token_hash=current.token_hash, code=code)
    _untell(locked, owner, min(attempt.from_seq for attempt, _ in said))


def _untell(locked: Locked, owner: DeviceKey, from_seq: int) -> None:
    """What the device was told from this number on counts as not told."""
    device, job = locked.devices.get(owner.device_id), locked.jobs.get(owner.device_id)
    if device is not None and job is not None:
        locked.put(replace(device, pushed_seq=min(device.pushed_seq, max(device.acked_high, from_seq - 1))))
        locked.put_job(replace(job, tries=0, retry_ms=None))


def _spent(
    locked: Locked,
    account: Account,
    owner: DeviceKey,
    hashed: bytes,
    attempt: receipt_rows.Reported,
    receipt: Receipt,
    entries: Sequence[Entry],
) -> quota.Held | None:
    """What is used up until the vendor's midnight: what shows as the newest of these did. None: nobody needs it any more."""
    device, newest = locked.devices.get(owner.device_id), entries[-1] if entries else None
    content = None if newest is None else locked.pushes({newest.message_id}).get(newest.message_id)
    if device is None or newest is None or content is None:
        return None
    bare = account.terms.privacy in {Privacy.NONE, Privacy.SEALED}  # no vendor that has such a number can seal
    push = content.push_held if visibility.view(newest, device) is visibility.View.HELD else content.push
    shown = None if bare else msgspec.json.decode(push or "{}", type=Notification)
    channel = channel_of(shown, account.channels)
    # Not before the push itself, however wrong the vendor's clock: it would be told there again, without an end.
    said_ms = locked.now_ms if receipt.at_ms is None else min(max(receipt.at_ms, attempt.started_ms), locked.now_ms)
    until_ms = next_day_ms(said_ms, account.terms.zone)
    return quota.Held(account.app_id, account.name, hashed, channel or "", until_ms)


def _hold(locked: Locked, account: Account, held: quota.Held, noted: set[quota.Held]) -> bool:
    """Has the address wait for the vendor's midnight; whether that is news. `noted`: what these same receipts said, in
    whatever order they tell of pushes.

    Only once: what another node, which has not heard of it, sends there meanwhile is not told again and again.
    """
    is_over = held.until_ms <= locked.now_ms
    if is_over or held in noted:
        return True
    sort = (held.token_hash, held.channel or None)
    account.hold(sort, Wait(at_ms=held.until_ms, reason=Later.QUOTA), now_ms=locked.now_ms)
    if quota.is_held(locked.conn, locked.now_ms, held):
        return False
    quota.hold(locked.conn, [held])
    noted.add(held)
    return True


def _attempt(
    locked: Locked, device: DeviceKey, account: str, hashed: bytes, receipt: Receipt
) -> receipt_rows.Reported | None:
    """By the names in its row; these are of its first push, so of the others by the message that is named."""
    named = receipt_rows.attempt_named(
        locked.conn,
        device,
        account=account,
        token_hash=hashed,
        vendor_id=receipt.vendor_id,
        push_id=receipt.push_id,
    )
    if named is not None or receipt.push_id is None:
        return named
    for entry in entry_rows.entries_of_messages(locked.conn, locked.key, [receipt.push_id]):
        if entry.kind in CARRIES_MESSAGE:
            return receipt_rows.attempt_covering(locked.conn, device, account=account, token_hash=hashed, seq=entry.seq)
    return None


def _event(
    locked: Locked,
    device: DeviceKey,
    account: str,
    receipt: Receipt,
    entries: Sequence[Entry],
    name: Sequence[Any],
) -> NewEvent:
    fact, code = str(receipt.fact), receipt.code or ""
    data: dict[str, Any] = {
        "user": device.user_id,
        "device": device.device_id,
        "at": rfc3339(locked.now_ms),
        "account": account,
        "fact": fact,
        "code": code,
        "reason": receipt.reason,
        "token_dead": receipt.token_dead,
        "reported_at": None if receipt.at_ms is None else rfc3339(receipt.at_ms),
        "deliveries": [
            {
                "id": derived_id("dlv_", *device, entry.message_id, EVENT, fact, code),
                "message_id": entry.message_id,
                "seq": entry.seq,
            }
            for entry in entries
        ],
    }
    event_id = derived_id("evt_", EVENT, *device, *name)
    return NewEvent(app_id=device.app_id, event_id=event_id, type=EVENT, data=data)


def _about(locked: Locked, attempt: receipt_rows.Reported, named: str | None) -> tuple[str, list[Entry]]:
    """Which push of the attempt it is about, and the messages that it told of and that still live: one, if it was a
    message's own; of very many the newest."""
    for name in (named, attempt.push_id):
        entries = entry_rows.entries_of_messages(locked.conn, locked.key, [name]) if name else []
        mine = [e for e in entries if e.kind in CARRIES_MESSAGE and attempt.from_seq <= e.seq <= attempt.upto_seq]
        if name and mine:
            return name, [entry for entry in mine if entry.live(locked.now_ms)]
    told = entry_rows.newest_notifiable(
        locked.conn,
        locked.key,
        locked.now_ms,
        after=attempt.from_seq - 1,
        upto=attempt.upto_seq,
        limit=DELIVERIES_MAX,
    )
    return attempt.push_id, told
