"""Notifications that were shown here and read elsewhere are taken away again: best effort, at most once (protocol 7.4).

A silent push names them (`relay.withdraw`), and the app removes them. What waits for that is in memory alone: a restart, a
full account or a busy node loses nothing but tidiness.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from providers.contract import Outcome, Push, Verdict
from relay.clock import Clock
from relay.errors import Problem
from relay.inbox.locked import PolicyOf, with_rows
from relay.keys import SealBroken
from relay.model import Address, DeviceKey, UserKey
from relay.push.accounts import Account, Accounts
from relay.push.planner import device_hint
from relay.store import devices as device_rows
from relay.store import inbox as inbox_rows
from relay.store import queue as job_rows
from relay.store.engine import Conn, Engine
from relay.store.vault import address_place

log = structlog.get_logger("relay.push")

SETTLES_S = 1.0  # several read marks in a row are one round
USERS_MAX = 1_000  # waiting; further ones are left alone
ROUND_USERS = 64
IDS_MAX = 20  # named in one push
REMEMBERED = 10_000  # (device, message) pairs, so that each is withdrawn once
CALL_S = 20.0
TTL_S = 3_600

OpenToken = Callable[[tuple[str, ...], bytes], str]  # (place, sealed) -> token; raises SealBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class Moot:
    """What a device may still show although its user has read it elsewhere."""

    device: DeviceKey
    address: Address
    ids: tuple[str, ...]
    woken_ms: int | None


def find_moot(
    conn: Conn, now_ms: int, users: Collection[UserKey], policy_of: PolicyOf, able: Callable[[str, str], bool]
) -> list[Moot]:
    """Devices that were told of what is read by now, and lack the word. `able`: (app, account) that can withdraw."""
    inboxes = {key: one for key in users if (one := inbox_rows.inbox_of(conn, key)) is not None}
    addresses = device_rows.addresses_of(conn, list(inboxes))
    found = []
    for key, user in with_rows(conn, now_ms, inboxes, policy_of).items():
        for device in user.devices.values():
            address = next(
                (a for a in addresses.get(device.key, []) if a.state == "active" and able(key.app_id, a.account)), None
            )
            if address is None or device.online or device.pushed_seq <= device.acked_seq:
                continue
            told = inbox_rows.notifiable_between(
                conn, key, now_ms, after=device.acked_seq, upto=device.pushed_seq, limit=IDS_MAX
            )
            acks = user.acks_of(device.device_id)
            ids = tuple(
                entry.message_id
                for entry in told
                if not acks.has(entry.seq) and user.read_markers.get(entry.conversation_id or "", 0) >= entry.seq
            )
            if ids:
                woken_ms = job_rows.last_wake_ms(conn, device.key, address.account)
                found.append(Moot(device=device.key, address=address, ids=ids, woken_ms=woken_ms))
    return found


class Withdrawer:
    """One node's tidying up."""

    def __init__(
        self, engine: Engine, clock: Clock, accounts: Accounts, policy_of: PolicyOf, *, open_token: OpenToken
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._accounts = accounts
        self._policy_of = policy_of
        self._open_token = open_token
        self._waiting: dict[UserKey, None] = {}
        self._woken = asyncio.Event()
        self._done: OrderedDict[tuple[DeviceKey, str], None] = OrderedDict()

    def read(self, user: UserKey) -> None:
        """The user has read something on one of the devices."""
        if self._accounts.of(user.app_id) and len(self._waiting) < USERS_MAX:
            self._waiting[user] = None
            self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until asked to stop."""
        ends = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                woken = asyncio.ensure_future(self._woken.wait())
                await asyncio.wait([ends, woken], return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if not stop.is_set():
                    await asyncio.wait([ends], timeout=SETTLES_S)
                    await self._round()
        finally:
            ends.cancel()

    async def _round(self) -> None:
        users = list(self._waiting)[:ROUND_USERS]
        for user in users:
            del self._waiting[user]
        if not self._waiting:
            self._woken.clear()
        try:
            found = await self._engine.read(
                lambda conn, now_ms: find_moot(conn, now_ms, users, self._policy_of, self._able)
            )
        except Problem as problem:
            log.info("push.not_withdrawn", code=problem.code)
            return
        await asyncio.gather(*(self._send(one) for one in found))

    def _able(self, app_id: str, account: str) -> bool:
        known = self._accounts.get(app_id, account)
        return known is not None and known.provider.capabilities.withdraw

    async def _send(self, one: Moot) -> None:
        ids = [id_ for id_ in one.ids if (one.device, id_) not in self._done]
        account = self._accounts.get(one.device.app_id, one.address.account)
        if not ids or account is None or not self._has_room(account, one):
            return
        for id_ in ids:
            self._done[one.device, id_] = None
        while len(self._done) > REMEMBERED:
            self._done.popitem(last=False)
        try:
            token = self._open_token(address_place(one.device, account.name), one.address.token_sealed)
        except SealBroken:
            return
        account.started(self._clock.monotonic_ms(), calls=1, retry=False)
        try:
            async with asyncio.timeout(CALL_S):
                outcome = await account.provider.send(_push(one, ids, token))
        except TimeoutError:
            outcome = Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="no_answer")
        account.ended(self._clock.monotonic_ms(), outcome)
        log.info("push.withdrawn", app=one.device.app_id, account=account.name, verdict=str(outcome.verdict))

    def _has_room(self, account: Account, one: Moot) -> bool:
        """Lowest priority: only where nothing else would have to wait, and no wake-up is used up for it."""
        now_ms = self._clock.now_ms()
        view = account.view(self._clock.monotonic_ms(), now_ms)
        gap_ms = view.capabilities.silent_gap_s * 1000
        rested = one.woken_ms is None or now_ms >= one.woken_ms + gap_ms
        return not view.parked and view.waits(now_ms) is None and rested


def _push(one: Moot, ids: Sequence[str], token: str) -> Push:
    digest = hashlib.sha256("\x1f".join([*one.device, *ids]).encode()).hexdigest()
    return Push(
        id=f"w{digest[:31]}",
        token=token,
        kind=one.address.kind,
        urgent=False,
        ttl_s=TTL_S,
        relay={
            "v": 1,
            "app": one.device.app_id,
            "device": one.device.device_id,
            "user_hint": device_hint(one.device.user_id),
            "withdraw": list(ids),
        },
    )
