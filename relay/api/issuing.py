"""Making credentials: API keys and their rotation, device tokens and their successors, tickets."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from relay import credentials as creds
from relay.api import family
from relay.api.principal import Principal
from relay.clock import rfc3339
from relay.errors import Conflict, Missing
from relay.ids import Rng, random_hex
from relay.keys import KeyRing
from relay.model import DeviceKey, DeviceState
from relay.store import apps as rows
from relay.store import devices as device_rows
from relay.store import tokens
from relay.store.engine import Conn, Engine

API_KEY, DEVICE_TOKEN, TICKET = "api-key", "device-token", "ticket"  # purposes of the stored hashes

TICKET_LIFE_MS = 60_000
OVERLAP_MS = 24 * 3_600_000
OVERLAP_MS_MAX = 7 * 86_400_000
VALID_KEYS_MAX = 2  # of one purpose: the one in use, and the one that replaces it


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A device's token and its times. `token` is None if there is no new one yet: from `renew_ms` on there is."""

    token: str | None
    expires_ms: int
    renew_ms: int | None

    def printed(self) -> dict[str, Any]:
        renew_at = None if self.renew_ms is None else rfc3339(self.renew_ms)
        return {"token": self.token, "expires_at": rfc3339(self.expires_ms), "renew_at": renew_at}


class Issuer:
    """Makes credentials and stores of each what is needed to know it again, never itself."""

    def __init__(self, engine: Engine, ring: KeyRing, rng: Rng) -> None:
        self._engine = engine
        self._ring = ring
        self._rng = rng

    # --- API keys ---

    async def api_key(
        self,
        app_id: str,
        *,
        name: str,
        scopes: Iterable[str],
        lives_ms: int | None = None,
        networks: Iterable[str] = (),
    ) -> str:
        """A new API key; its text is shown this once. Raises Conflict if two of this name work already."""
        text, key_id, secret = creds.mint_api_key(self._rng)
        mac = self._ring.mac(API_KEY, secret.encode())

        def work(conn: Conn, now_ms: int) -> None:
            _check_room(conn, now_ms, app_id, name)
            rows.add_api_key(
                conn,
                now_ms,
                app_id=app_id,
                key_id=key_id,
                secret_mac=mac,
                scopes=scopes,
                name=name,
                expires_ms=None if lives_ms is None else now_ms + lives_ms,
                networks=networks,
            )

        await self._engine.write(work)
        return text

    async def rotated_api_key(self, app_id: str, key_id: str, *, overlap_ms: int = OVERLAP_MS) -> tuple[str, int]:
        """A key that may what the old one may, and when the old one ends. Raises Missing, Conflict."""
        assert 0 <= overlap_ms <= OVERLAP_MS_MAX
        text, new_id, secret = creds.mint_api_key(self._rng)
        mac = self._ring.mac(API_KEY, secret.encode())

        def work(conn: Conn, now_ms: int) -> int:
            old = rows.api_key_row(conn, key_id)
            if old is None or old.app_id != app_id or old.key_id not in _valid(conn, now_ms, app_id, old.name):
                raise Missing("There is no such key, or it does not work any more.")
            _check_room(conn, now_ms, app_id, old.name)
            rows.add_successor(conn, now_ms, old, key_id=new_id, secret_mac=mac)
            rows.end_api_key_at(conn, now_ms + overlap_ms, app_id=app_id, key_id=key_id)
            return min(now_ms + overlap_ms, old.expires_ms or now_ms + overlap_ms)

        return text, await self._engine.write(work)

    # --- device tokens ---

    async def first_token(self, device: DeviceKey) -> Issued:
        """The first token of a new family, for the backend to hand to the device. Raises Missing."""
        text, token_id, secret = creds.mint_device_token(self._rng)
        mac = self._ring.mac(DEVICE_TOKEN, secret.encode())
        name = random_hex(self._rng, bits=64)

        def work(conn: Conn, now_ms: int) -> Issued:
            found = device_rows.device_row(conn, device)
            if found is None or found.state is DeviceState.GONE:
                raise Missing("There is no such device; register it first.")
            tokens.add(conn, family.row_of(device, now_ms, token_id=token_id, mac=mac, family=name))
            return _issued(text, now_ms)

        return await self._engine.write(work)

    async def next_token(self, bearer: Principal, now_ms: int) -> Issued:
        """The successor of the bearer's token, if that is past half of its life; else no token, and when to ask again."""
        assert bearer.device_key is not None
        assert bearer.expires_ms is not None
        none = Issued(token=None, expires_ms=bearer.expires_ms, renew_ms=bearer.renew_ms)
        if bearer.renew_ms is None or now_ms < bearer.renew_ms:
            return none
        text, token_id, secret = creds.mint_device_token(self._rng)
        mac = self._ring.mac(DEVICE_TOKEN, secret.encode())
        succeed = partial(
            family.succeed,
            key=bearer.device_key,
            family=bearer.family,
            token_id=bearer.credential_id,
            new_id=token_id,
            new_mac=mac,
        )

        def work(conn: Conn, now_ms: int) -> Issued:
            return _issued(text, now_ms) if succeed(conn, now_ms) else none

        return await self._engine.write(work)

    async def revoke_tokens(self, app_id: str, *, user_id: str | None = None, device_id: str | None = None) -> int:
        """Revokes all tokens of an app, a user, or a device; gives how many there were."""
        return await self._engine.write(
            lambda conn, now_ms: tokens.revoke(conn, now_ms, app_id=app_id, user_id=user_id, device_id=device_id)
        )

    # --- tickets ---

    async def ticket(self, bearer: Principal, *, origin: str | None) -> tuple[str, int]:
        """A single-use stand-in for the device's token, good for a minute and for this origin; and when it ends."""
        assert bearer.device_key is not None
        device = bearer.device_key
        text = creds.mint_ticket(self._rng)
        mac = self._ring.mac(TICKET, text.encode())

        _, new_id, secret = creds.mint_device_token(self._rng)
        stand_in = self._ring.mac(DEVICE_TOKEN, secret.encode())
        name = random_hex(self._rng, bits=64)

        def work(conn: Conn, now_ms: int) -> int:
            ends_ms = now_ms + TICKET_LIFE_MS
            token_id = bearer.credential_id
            if (
                not bearer.family
            ):  # a token of the app's own login service has no row here: one that nobody knows gets one
                assert bearer.expires_ms is not None
                token_id = new_id
                row = family.row_of(device, now_ms, token_id=new_id, mac=stand_in, family=name)
                tokens.add(conn, row | {"expires_ms": bearer.expires_ms})
            tokens.add_ticket(conn, device, token_id=token_id, ticket_mac=mac, origin=origin, expires_ms=ends_ms)
            return ends_ms

        return text, await self._engine.write(work)


def _issued(text: str, now_ms: int) -> Issued:
    return Issued(token=text, expires_ms=now_ms + family.LIFE_MS, renew_ms=now_ms + family.HALF_LIFE_MS)


def _valid(conn: Conn, now_ms: int, app_id: str, name: str) -> list[str]:
    return [one.key_id for one in rows.valid_api_keys(conn, now_ms, app_id, name)]


def _check_room(conn: Conn, now_ms: int, app_id: str, name: str) -> None:
    valid = _valid(conn, now_ms, app_id, name)
    if len(valid) >= VALID_KEYS_MAX:
        ids = " and ".join(valid)
        raise Conflict(f"Two keys named {name!r} work already ({ids}): revoke one first, or take another name.")
