"""Credentials: API keys, device tokens, tickets. Stored as keyed hashes, looked up by id, compared in constant time."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from relay import keys as creds
from relay.api.limits import RateLimiter, network_of, slow_down
from relay.api.principal import Principal
from relay.clock import Clock
from relay.errors import Missing, Problem, Throttled, Unauthenticated
from relay.ids import Rng, random_hex
from relay.keys import KeyRing
from relay.model import DeviceKey, DeviceState
from relay.store import apps as rows
from relay.store import devices as device_rows
from relay.store.engine import Conn, Engine

CACHE_MS = 5_000  # a revoked credential works this much longer, at most
CACHE_MAX = 50_000
TOKEN_LIFE_MS = 30 * 86_400_000
ROTATED_MS = 10 * 60_000  # how long a token stays good beside a younger one
TICKET_LIFE_MS = 60_000
FAILED_PER_ADDRESS_PER_MIN, FAILED_PER_KEY_PER_MIN = 20, 10

API_KEY, DEVICE_TOKEN, TICKET = "api-key", "device-token", "ticket"


class Authenticator:
    """Who is calling, and how often."""

    def __init__(
        self,
        engine: Engine,
        ring: KeyRing,
        clock: Clock,
        rng: Rng,
        *,
        rate_per_s: float,
        burst: float,
        anonymous_per_s: float,
        anonymous_burst: float,
    ) -> None:
        self._engine = engine
        self._ring = ring
        self._clock = clock
        self._rng = rng
        self._known: OrderedDict[str, tuple[Principal, int]] = OrderedDict()  # header -> who, and until when
        self._rates = RateLimiter(rate_per_s=rate_per_s, burst=burst)
        self._anonymous = RateLimiter(rate_per_s=anonymous_per_s, burst=anonymous_burst)
        self._failed_addresses = RateLimiter(
            rate_per_s=FAILED_PER_ADDRESS_PER_MIN / 60, burst=FAILED_PER_ADDRESS_PER_MIN
        )
        self._failed_keys = RateLimiter(rate_per_s=FAILED_PER_KEY_PER_MIN / 60, burst=FAILED_PER_KEY_PER_MIN)

    # --- who ---

    async def authenticate(self, request: web.Request) -> Principal:
        """The caller of this request. Raises Unauthenticated, Throttled; all failures look alike."""
        header = request.headers.get("Authorization", "")
        known = self._known.get(header)
        if known is not None and known[1] > self._clock.monotonic_ms():
            return known[0]
        network = network_of(request.remote)
        if self._failed_addresses.empty(network, self._clock.monotonic_ms()):
            raise _throttled()
        scheme, _, text = header.partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise _refused()
            principal = await self._credential(text.strip(), network)
        except Unauthenticated:
            self._failed_addresses.take(network, self._clock.monotonic_ms())
            raise
        self._remember(header, principal)
        return principal

    async def _credential(self, text: str, network: str) -> Principal:
        if (parsed := creds.parse_api_key(text)) is not None:
            return await self._api_key(*parsed, network)
        if (parsed := creds.parse_device_token(text)) is not None:
            return await self._device_token(*parsed, network)
        raise _refused()

    async def _api_key(self, key_id: str, secret: str, network: str) -> Principal:
        self._check_guesses(key_id, network)
        row = await self._engine.read(lambda conn, _: rows.api_key_row(conn, key_id))
        now_ms = self._clock.now_ms()
        fits = self._fits(API_KEY, secret, None if row is None else row.secret_mac)
        if row is None or not fits or row.revoked_ms is not None or (row.expires_ms or now_ms + 1) <= now_ms:
            raise self._guessed(key_id, network)
        return Principal(
            app_id=row.app_id,
            credential_id=key_id,
            scopes=frozenset(msgspec.json.decode(row.scopes)),
            expires_ms=row.expires_ms,
        )

    async def _device_token(self, token_id: str, secret: str, network: str) -> Principal:
        self._check_guesses(token_id, network)
        row = await self._engine.read(lambda conn, _: rows.device_token_row(conn, token_id))
        now_ms = self._clock.now_ms()
        fits = self._fits(DEVICE_TOKEN, secret, None if row is None else row.secret_mac)
        if row is None or not fits or row.revoked_ms is not None or row.device_state in {None, "gone"}:
            raise self._guessed(token_id, network)
        if row.expires_ms <= now_ms or (row.rotated_ms is not None and row.rotated_ms + ROTATED_MS <= now_ms):
            raise Unauthenticated("This token has expired; ask the app's backend for a new one.", code="token_expired")
        device = DeviceKey(row.app_id, row.user_id, row.device_id)
        return Principal(app_id=row.app_id, credential_id=token_id, device_key=device, expires_ms=row.expires_ms)

    def _fits(self, purpose: str, secret: str, mac: bytes | None) -> bool:
        """Compares under every key of the ring; an unknown id costs as much as a known one."""
        stored = mac if mac is not None else b"\x00" * 32
        found = False
        for candidate in self._ring.macs(purpose, secret.encode()):
            found |= creds.same(candidate, stored)
        return found and mac is not None

    def _check_guesses(self, key_id: str, network: str) -> None:
        if self._failed_keys.empty((key_id, network), self._clock.monotonic_ms()):
            raise _throttled()

    def _guessed(self, key_id: str, network: str) -> Unauthenticated:
        self._failed_keys.take((key_id, network), self._clock.monotonic_ms())
        return _refused()

    def _remember(self, header: str, principal: Principal) -> None:
        until_ms = self._clock.monotonic_ms() + CACHE_MS
        if principal.expires_ms is not None:
            until_ms = min(until_ms, self._clock.monotonic_ms() + principal.expires_ms - self._clock.now_ms())
        self._known[header] = (principal, until_ms)
        if len(self._known) > CACHE_MAX:
            self._known.popitem(last=False)

    def forget(self) -> None:
        """A credential was revoked here: everybody is looked up again."""
        self._known.clear()

    # --- how often ---

    def check_rate(self, request: web.Request, principal: Principal | None) -> None:
        """Raises Throttled."""
        now_ms = self._clock.monotonic_ms()
        if principal is None:
            if not self._anonymous.take(network_of(request.remote), now_ms):
                raise slow_down("requests from this address")
        elif principal.device_key is None and not self._rates.take(principal.credential_id, now_ms):
            raise slow_down("requests with this key")

    # --- making them ---

    async def mint_api_key(self, app_id: str, *, name: str, scopes: Iterable[str]) -> str:
        """A new API key; its text is shown this once."""
        text, key_id, secret = creds.mint_api_key(self._rng)
        mac = self._ring.mac(API_KEY, secret.encode())

        def work(conn: Conn, now_ms: int) -> None:
            rows.add_api_key(conn, now_ms, app_id=app_id, key_id=key_id, secret_mac=mac, scopes=scopes, name=name)

        await self._engine.write(work)
        return text

    async def mint_device_token(self, device: DeviceKey) -> tuple[str, int]:
        """A token for this device and when it ends. Raises Missing."""
        text, token_id, secret = creds.mint_device_token(self._rng)
        mac = self._ring.mac(DEVICE_TOKEN, secret.encode())
        family = random_hex(self._rng, bits=64)

        def work(conn: Conn, now_ms: int) -> int:
            found = device_rows.device_row(conn, device)
            if found is None or found.state is DeviceState.GONE:
                raise Missing("There is no such device; register it first.")
            row: dict[str, Any] = {
                "app_id": device.app_id,
                "user_id": device.user_id,
                "device_id": device.device_id,
                "token_id": token_id,
                "secret_mac": mac,
                "family": family,
                "created_ms": now_ms,
                "expires_ms": now_ms + TOKEN_LIFE_MS,
                "rotated_ms": None,
                "revoked_ms": None,
            }
            rows.add_device_token(conn, row)
            return now_ms + TOKEN_LIFE_MS

        return text, await self._engine.write(work)

    async def mint_ticket(self, device: DeviceKey, *, origin: str | None) -> tuple[str, int]:
        """A single-use stand-in for the device's token, good for a minute and for this origin."""
        text = creds.mint_ticket(self._rng)
        mac = self._ring.mac(TICKET, text.encode())

        def work(conn: Conn, now_ms: int) -> int:
            rows.add_ticket(conn, device, ticket_mac=mac, origin=origin, expires_ms=now_ms + TICKET_LIFE_MS)
            return now_ms + TICKET_LIFE_MS

        return text, await self._engine.write(work)

    async def take_ticket(self, text: str, *, origin: str | None) -> DeviceKey:
        """The device that this ticket stands for; it works once. Raises Unauthenticated."""
        macs = list(self._ring.macs(TICKET, text[:128].encode()))

        def work(conn: Conn, now_ms: int) -> DeviceKey:
            for mac in macs:
                row = rows.take_ticket(conn, mac)
                if row is not None and row.expires_ms > now_ms and row.origin == origin:
                    return DeviceKey(row.app_id, row.user_id, row.device_id)
            raise _refused()

        return await self._engine.write(work)


def _refused() -> Unauthenticated:
    return Unauthenticated("Send `Authorization: Bearer` with a valid API key or device token.")


def _throttled() -> Problem:
    return Throttled(
        "Too many failed logins from this address; wait a minute.", code="auth_throttled", retry_after_s=60
    )
