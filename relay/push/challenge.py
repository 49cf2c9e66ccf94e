"""Addresses that a device has to prove: it tells what a silent push to the address said (vendor sheet unifiedpush §9).

A device brings the URL itself, so it could aim the relay at somebody else's server. Until it has answered, nothing but this
one push goes there. The value is a keyed hash of the device and the address: nothing is stored for it, and a repeat says the
same. What waits to be sent is in memory alone: the device asks for another one if none comes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from providers.contract import Push
from relay.clock import Clock
from relay.errors import FieldError, Invalid, Problem
from relay.inbox.addresses import UNPROVEN, AddressState, states_of
from relay.inbox.locked import PolicyOf
from relay.inbox.registry import prove_address
from relay.keys import SealBroken
from relay.model import Address, DeviceKey
from relay.push.accounts import Accounts
from relay.push.beside import called, has_room
from relay.push.notes import device_hint
from relay.store import addresses as address_rows
from relay.store.engine import Conn, Engine
from relay.store.vault import address_place
from relay.waiting import first_of

log = structlog.get_logger("relay.push")

GAP_MS = 10_000  # between two challenges of one address
TTL_S = 600
QUEUE = "push_challenges"  # in the metrics
WAITING_MAX = 1_000  # devices; further ones ask again
REMEMBERED = 10_000  # addresses that were lately asked


class Tokens(Protocol):
    """Opens what is sealed, and makes the value that proves."""

    def unseal(self, place: tuple[str, ...], sealed: bytes) -> str: ...
    def proof(self, device: DeviceKey, account: str, token_hash: bytes) -> str: ...
    def proves(self, device: DeviceKey, account: str, token_hash: bytes, text: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Question:
    device: DeviceKey
    address: Address


class Challenger:
    """One node's questions, and the judge of the answers."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        accounts: Accounts,
        policy_of: PolicyOf,
        *,
        tokens: Tokens,
        refused: Callable[[str], None] = lambda queue: None,
    ) -> None:
        """`refused` is told of each device that finds the queue full."""
        self._engine = engine
        self._clock = clock
        self._accounts = accounts
        self._policy_of = policy_of
        self._tokens = tokens
        self._refused = refused
        self._waiting: dict[DeviceKey, None] = {}
        self._woken = asyncio.Event()
        self._asked_ms: OrderedDict[tuple[DeviceKey, str, bytes], int] = OrderedDict()

    @property
    def load(self) -> tuple[int, int]:
        """Devices that wait, and how many may."""
        return len(self._waiting), WAITING_MAX

    @property
    def remembered(self) -> tuple[int, int]:
        """Addresses that were lately asked, and how many are remembered at most."""
        return len(self._asked_ms), REMEMBERED

    def ask(self, device: DeviceKey) -> None:
        """It may have addresses to prove: each is sent a push, unless one was sent a moment ago."""
        if device not in self._waiting and len(self._waiting) >= WAITING_MAX:
            self._refused(QUEUE)
            return
        self._waiting[device] = None
        self._woken.set()

    async def again(self, device: DeviceKey) -> tuple[AddressState, ...]:
        """The device wants another push. Gives the states of its addresses."""
        self.ask(device)
        return states_of(await self._addresses(device))

    async def prove(self, device: DeviceKey, account: str, value: str) -> tuple[AddressState, ...]:
        """The device has this from a push: its address is used from now on. Raises Invalid for what no push has said.

        Proving twice is well. Gives the states of all its addresses.
        """
        known = [one for one in await self._addresses(device) if one.account == account]
        proven = [one for one in known if self._tokens.proves(device, account, one.token_hash, value)]
        if not proven:
            detail = "is not what a push to an address of this device and account said; ask for another one"
            raise Invalid(f"/value {detail}.", errors=(FieldError("/value", "invalid", detail),))
        token_hash = proven[0].token_hash
        return await self._engine.write(
            lambda conn, now_ms: prove_address(
                conn, now_ms, device, self._policy_of, account=account, token_hash=token_hash
            )
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Works until asked to stop."""
        while not stop.is_set():
            await first_of(stop, self._woken)
            if not stop.is_set():
                await self._round()

    async def _round(self) -> None:
        devices, self._waiting = list(self._waiting), {}
        self._woken.clear()
        try:
            found = await self._engine.read(lambda conn, _: _unproven(conn, devices))
        except Problem as problem:
            log.info("push.not_challenged", code=problem.code)
            return
        await asyncio.gather(*(self._send(one) for one in found if self._may(one)))

    async def _addresses(self, device: DeviceKey) -> list[Address]:
        found = await self._engine.read(lambda conn, _: address_rows.addresses_of(conn, [device.user]))
        return found.get(device, [])

    def _may(self, one: _Question) -> bool:
        key, now_ms = (one.device, one.address.account, one.address.token_hash), self._clock.monotonic_ms()
        last_ms = self._asked_ms.get(key)
        if last_ms is not None and now_ms < last_ms + GAP_MS:
            return False
        self._asked_ms[key] = now_ms
        self._asked_ms.move_to_end(key)
        while len(self._asked_ms) > REMEMBERED:
            self._asked_ms.popitem(last=False)
        return True

    async def _send(self, one: _Question) -> None:
        account = self._accounts.get(one.device.app_id, one.address.account)
        if account is None or not has_room(account, self._clock):
            return
        try:
            token = self._tokens.unseal(address_place(one.device, account.name), one.address.token_sealed)
        except SealBroken:
            log.error("seal.broken", app=one.device.app_id, account=account.name)  # noqa: TRY400 - no trace
            return
        value = self._tokens.proof(one.device, account.name, one.address.token_hash)
        push = Push(
            # Each is asked for, and none is tried again: a vendor that drops repeats must not take it for one.
            id=f"p{one.address.token_hash.hex()[:18]}{self._clock.now_ms():x}",
            token=token,
            kind=one.address.kind,
            ttl_s=TTL_S,
            relay={
                "v": 1,
                "app": one.device.app_id,
                "device": one.device.device_id,
                "user_hint": device_hint(one.device.user_id),
                "prove": {"account": account.name, "value": value},
            },
        )
        outcome = await called(account, self._clock, account.provider.send(push))
        log.info("push.challenged", app=account.app_id, account=account.name, verdict=str(outcome.verdict))


def _unproven(conn: Conn, devices: list[DeviceKey]) -> list[_Question]:
    found = address_rows.addresses_of(conn, {device.user for device in devices})
    return [_Question(device, one) for device in devices for one in found.get(device, []) if one.state == UNPROVEN]
