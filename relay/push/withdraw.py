"""Notifications that nobody needs any more are taken off the screens: best effort, at most once (protocol 7.4).

By their names, where the vendor can do that; else a silent push names their messages (`relay.withdraw`, with the badge),
and the app removes them. What waits for that is in memory alone: a restart, a full account or a busy node loses nothing but
tidiness. What was done is told of beside the attempt that had shown them.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import structlog

from providers.contract import Capabilities, Outcome, Push, RecallProvider, Verdict
from relay.clock import Clock
from relay.errors import Problem
from relay.inbox.locked import PolicyOf
from relay.keys import SealBroken
from relay.model import DeviceKey, UserKey
from relay.push.accounts import Account, Accounts
from relay.push.beside import called, has_room
from relay.push.moot import NOT_WITHDRAWN, WITHDRAWN, Moot, Shown, find_moot
from relay.push.notes import device_hint
from relay.store import receipts
from relay.store.engine import Conn, Engine
from relay.store.vault import OpenToken, address_place
from relay.waiting import first_of, pause

log = structlog.get_logger("relay.push")

QUEUE = "push_withdrawals"  # in the metrics
SETTLES_S = 5.0  # several read marks in a row are one round
USERS_MAX = 1_000  # waiting; further ones are left alone
ROUND_USERS = 64
REMEMBERED = 10_000  # pairs of device and push, so that each is withdrawn once; and devices lately woken
TTL_S = 3_600

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a withdrawal, to be told beside the attempt of this claim."""

    device: DeviceKey
    claim_token: int
    push_id: str
    outcome: Outcome


class Withdrawer:
    """One node's tidying up."""

    settles_s = SETTLES_S

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        accounts: Accounts,
        policy_of: PolicyOf,
        *,
        open_token: OpenToken,
        refused: Callable[[str], None] = lambda queue: None,
    ) -> None:
        """`refused` is told of each user for whom the queue is full."""
        self._engine = engine
        self._clock = clock
        self._accounts = accounts
        self._policy_of = policy_of
        self._open_token = open_token
        self._refused = refused
        self._waiting: dict[UserKey, None] = {}
        self._woken = asyncio.Event()
        self._done: OrderedDict[tuple[DeviceKey, str], int] = OrderedDict()  # the attempt that had shown it
        self._silent_ms: OrderedDict[DeviceKey, int] = OrderedDict()

    @property
    def load(self) -> tuple[int, int]:
        """Users that wait, and how many may."""
        return len(self._waiting), USERS_MAX

    @property
    def remembered(self) -> tuple[int, int]:
        """What was lately withdrawn, and who was woken for it, and how many of these are remembered at most."""
        return len(self._done) + len(self._silent_ms), 2 * REMEMBERED

    def look(self, users: Iterable[UserKey]) -> None:
        """Something that devices of theirs were told of may be moot."""
        for user in users:
            if not self._accounts.of(user.app_id):
                continue
            if user not in self._waiting and len(self._waiting) >= USERS_MAX:
                self._refused(QUEUE)
                continue
            self._waiting[user] = None
            self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Works until asked to stop."""
        while not stop.is_set():
            await first_of(stop, self._woken)
            if not stop.is_set():
                await pause(self.settles_s, stop)
                await self._round()

    async def _round(self) -> None:
        users = list(self._waiting)[:ROUND_USERS]
        for user in users:
            del self._waiting[user]
        if not self._waiting:
            self._woken.clear()
        try:
            found = await self._engine.read(
                lambda conn, now_ms: find_moot(conn, now_ms, users, self._policy_of, self._capabilities)
            )
            sent = await asyncio.gather(*(self._withdraw(one) for one in found))
            done = [one for some in sent for one in some]
            if done:
                await self._engine.write(lambda conn, now_ms: _note(conn, now_ms, done))
        except Problem as problem:
            log.info("push.not_withdrawn", code=problem.code)
        except Exception:  # what is stored for one user must not end this, and the relay, for all others
            log.exception("push.not_withdrawn")

    def _capabilities(self, app_id: str, account: str) -> Capabilities | None:
        known = self._accounts.get(app_id, account)
        return None if known is None else known.provider.capabilities

    async def _withdraw(self, one: Moot) -> list[Done]:
        account = self._accounts.get(one.device.app_id, one.address.account)
        if account is None:
            return []
        try:
            token = self._open_token(address_place(one.device, account.name), one.address.token_sealed)
        except SealBroken:
            return []
        if account.provider.capabilities.recall:
            return await self._take_back(account, one, token)
        return await self._tell(account, one, token)

    async def _take_back(self, account: Account, one: Moot, token: str) -> list[Done]:
        provider, done = cast(RecallProvider, account.provider), []
        for note in one.notes:
            if has_room(account, self._clock) and self._is_first(one.device, note.push_id, note.claim_token):
                push = _taken_back(one, note, token, provider.name)
                outcome = await self._called(account, provider.recall(push, note.vendor_id))
                done.append(Done(one.device, note.claim_token, note.push_id, outcome))
        return done

    async def _tell(self, account: Account, one: Moot, token: str) -> list[Done]:
        if not has_room(account, self._clock) or not self._may_wake(account, one):
            return []
        names = {id_: of for id_, of in one.messages.items() if self._is_first(one.device, id_, of)}
        if not names:
            return []
        outcome = await self._called(account, account.provider.send(_told(one, names, token)))
        return [Done(one.device, claim_token, id_, outcome) for id_, claim_token in names.items()]

    async def _called(self, account: Account, call: Awaitable[Outcome]) -> Outcome:
        outcome = await called(account, self._clock, call)
        log.info("push.withdrawn", app=account.app_id, account=account.name, verdict=str(outcome.verdict))
        return outcome

    def _is_first(self, device: DeviceKey, push_id: str, claim_token: int) -> bool:
        """Whether this showing of it is withdrawn for the first time."""
        known = self._done.get((device, push_id))
        if known is not None and known >= claim_token:
            return False
        _remember(self._done, (device, push_id), claim_token)
        return True

    def _may_wake(self, account: Account, one: Moot) -> bool:
        """No wake-up that a message may need is used up for this, and not one after the other for this alone."""
        now_ms = self._clock.now_ms()
        last_ms = max(one.woken_ms or 0, self._silent_ms.get(one.device, 0))
        if now_ms < last_ms + account.provider.capabilities.on(one.platform).silent_gap_s * 1000:
            return False
        _remember(self._silent_ms, one.device, now_ms)
        return True


def _remember(known: "OrderedDict[Key, int]", key: Key, value: int) -> None:
    known[key] = value
    while len(known) > REMEMBERED:
        known.popitem(last=False)


def _taken_back(one: Moot, note: Shown, token: str, provider: str) -> Push:
    return Push(
        id=note.push_id,
        token=token,
        kind=one.address.kind,
        collapse_key=note.collapse_key,
        overrides=note.overrides.get(provider, {}),
    )


def _told(one: Moot, names: Mapping[str, int], token: str) -> Push:
    # Shown again, it is withdrawn again: a vendor that drops repeats must not take it for one.
    shown = [f"{id_} {claim_token}" for id_, claim_token in names.items()]
    digest = hashlib.sha256("\x1f".join([*one.device, *shown]).encode()).hexdigest()
    relay = {
        "v": 1,
        "app": one.device.app_id,
        "device": one.device.device_id,
        "user_hint": device_hint(one.device.user_id),
        "withdraw": list(names),
    }
    return Push(
        id=f"w{digest[:31]}",
        token=token,
        kind=one.address.kind,
        urgent=False,
        ttl_s=TTL_S,
        badge=one.badge,
        relay=relay if one.badge is None else {**relay, "badge": one.badge},
    )


def _note(conn: Conn, now_ms: int, done: Sequence[Done]) -> None:
    """The trace shows it beside the attempt that had brought the notification."""
    for one in done:
        taken = one.outcome.verdict is Verdict.ACCEPTED
        receipts.add(
            conn,
            one.device,
            one.claim_token,
            {
                "push_id": one.push_id,
                "fact": WITHDRAWN if taken else NOT_WITHDRAWN,
                "code": one.outcome.vendor_code or ("" if taken else str(one.outcome.verdict)),
                "reason": None,
                "at_ms": None,
                "taken_ms": now_ms,
            },
        )
