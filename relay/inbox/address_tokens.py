"""Devices' push addresses at rest: sealed under keys that are in the store themselves, found again by their hashes."""

import base64
import hmac
from typing import Final

import structlog

from relay.clock import Clock
from relay.ids import Rng
from relay.keys import KeyRing, SealBroken, bound
from relay.model import Address, DeviceKey
from relay.store import addresses
from relay.store.engine import Engine
from relay.store.vault import Vault, address_place, give_keys

log = structlog.get_logger("relay.push")

PROOF: Final = "address-proof"
PROOF_BYTES: Final = 16
LOOKED_AT: Final = 64  # addresses, at a start


class AddressTokens:
    """Seals and opens the tokens of addresses."""

    def __init__(self, engine: Engine, ring: KeyRing, rng: Rng, clock: Clock) -> None:
        self.vault = Vault(ring, rng)
        self._engine = engine
        self._ring = ring
        self._rng = rng
        self._clock = clock

    async def begin(self) -> None:
        """Gives keys to apps that have none, and learns all."""
        await self._engine.write(lambda conn, now_ms: give_keys(conn, now_ms, self._ring, self._rng))
        await self.follow()
        some = await self._engine.read(lambda conn, _: addresses.some_of_all(conn, LOOKED_AT))
        # Most of them: with each ring, those that were registered under another one are lost until their devices come.
        if 2 * sum(not self._finds(device, one) for device, one in some) > len(some):
            log.error(
                "keys.last_is_another", reason="push tokens are looked up with the ring's last key: put it back there"
            )

    def _finds(self, device: DeviceKey, one: Address) -> bool:
        """Whether this address would be found by its token. It would not once the ring's last key is another one: a token that
        comes from a second device would be told both devices' messages."""
        try:
            token = self.unseal(address_place(device, one.account), one.token_sealed)
        except SealBroken:
            return True  # that is another fault, and not of the ring's order
        return self._ring.token_hash(device.app_id, one.account, token) == one.token_hash

    async def follow(self) -> None:
        """Learns the keys that other nodes have made meanwhile."""
        self.vault.learn(await self._engine.read(self.vault.news), self._clock.now_ms())

    def seal(self, device: DeviceKey, account: str, token: str) -> tuple[bytes, bytes]:
        """The sealed token, and the hash by which it is found."""
        sealed = self.vault.seal(token.encode(), address_place(device, account))
        return sealed, self._ring.token_hash(device.app_id, account, token)

    def reseal(self, old: DeviceKey, new: DeviceKey, account: str, sealed: bytes) -> bytes:
        """The same, a token or its keys, for a device that has a new name."""
        token = self.vault.open(sealed, address_place(old, account))
        return self.vault.seal(token, address_place(new, account))

    def proof(self, device: DeviceKey, account: str, token_hash: bytes) -> str:
        """What a push to this address says, and the device repeats to prove that it reads it."""
        return _text(self._ring.mac(PROOF, _proven(device, account, token_hash)))

    def proves(self, device: DeviceKey, account: str, token_hash: bytes, text: str) -> bool:
        """Whether that is what a push to this address says, or said before the keys were rotated."""
        macs = self._ring.macs(PROOF, _proven(device, account, token_hash))
        return any(hmac.compare_digest(_text(mac).encode(), text.encode()) for mac in macs)

    def unseal(self, place: tuple[str, ...], sealed: bytes) -> str:
        """The token. Raises what `Vault.open` raises."""
        return self.vault.open(sealed, place).decode()


def _proven(device: DeviceKey, account: str, token_hash: bytes) -> bytes:
    return bound((*device, account, token_hash.hex()))


def _text(mac: bytes) -> str:
    return base64.urlsafe_b64encode(mac[:PROOF_BYTES]).decode().rstrip("=")
