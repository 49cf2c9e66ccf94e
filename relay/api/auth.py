"""Credentials: API keys, device tokens, tickets. Stored as keyed hashes, looked up by id, compared in constant time."""

import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import msgspec
import structlog
from aiohttp import hdrs, web

from relay import credentials as creds
from relay.api import jwt_bearer
from relay.api.family import Standing, renew_ms, settle, standing
from relay.api.issuing import API_KEY, DEVICE_TOKEN, TICKET
from relay.api.key_set import KeySet
from relay.api.leaks import flag_leaked
from relay.api.limits import RateLimiter, network_of, slow_down
from relay.api.principal import Principal
from relay.clock import Clock
from relay.errors import Problem, Throttled, Unauthenticated
from relay.keys import KeyRing
from relay.model import DeviceKey, DeviceState
from relay.store import apps as rows
from relay.store import devices as device_rows
from relay.store import meta, tokens
from relay.store.engine import Conn, Engine
from relay.store.gathered import Gathered
from relay.telemetry.repeats import Repeats

log = structlog.get_logger("relay.auth")

CACHE_MS = 5_000  # a revoked credential works this much longer, at most
CACHE_MAX = 50_000
FAILED_PER_ADDRESS_PER_MIN, FAILED_PER_KEY_PER_MIN = 20, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTokens:
    """Whose signed device tokens are taken, and for which app."""

    app_id: str
    issuer: str
    audience: str
    keys: KeySet
    recreate: Callable[[DeviceKey], Awaitable[bool]]  # the device, if it has no row; False: it is gone


class Authenticator:
    """Who is calling, and how often."""

    def __init__(
        self,
        engine: Engine,
        ring: KeyRing,
        clock: Clock,
        *,
        rate_per_s: float,
        burst: float,
        anonymous_per_s: float,
        anonymous_burst: float,
        signed: SignedTokens | None = None,
    ) -> None:
        """`signed`: device tokens that somebody else makes, if they are taken."""
        self._signed = signed
        self._engine = engine
        self._ring = ring
        self._clock = clock
        self._tokens: Gathered[str, Any] = Gathered(  # devices come in crowds
            engine, lambda conn, _, token_ids: tokens.token_rows(conn, token_ids)
        )
        self._known: OrderedDict[str, tuple[Principal, int]] = OrderedDict()  # header -> who, and until when
        self.revoked: Callable[[], Awaitable[None]] = _nobody_to_tell  # called when a family of tokens was revoked
        self._leaked: set[str] = set()  # API keys that are known to have come in a URL
        self._used: dict[str, int] = {}  # API key -> when it was last used, until that is written down
        self._astray = Repeats(log.warning, "auth.address_refused")
        self._reused = Repeats(log.warning, "auth.token_reuse")
        self._unlike = Repeats(log.warning, "auth.jwt_refused")
        self._rates = RateLimiter(rate_per_s=rate_per_s, burst=burst)
        self._anonymous = RateLimiter(rate_per_s=anonymous_per_s, burst=anonymous_burst)
        self._failed_addresses = RateLimiter(
            rate_per_s=FAILED_PER_ADDRESS_PER_MIN / 60, burst=FAILED_PER_ADDRESS_PER_MIN
        )
        self._failed_keys = RateLimiter(rate_per_s=FAILED_PER_KEY_PER_MIN / 60, burst=FAILED_PER_KEY_PER_MIN)

    @property
    def remembered(self) -> dict[str, tuple[int, int]]:
        """What is kept of callers, and how much of it at most; by a name for the metrics."""
        return {
            "credentials": (len(self._known), CACHE_MAX),
            "callers": self._rates.remembered,
            "callers_unknown": self._anonymous.remembered,
            "failed_addresses": self._failed_addresses.remembered,
            "failed_keys": self._failed_keys.remembered,
        }

    # --- who ---

    def recognised(self, request: web.Request) -> Principal | None:
        """The caller of this request, if it was authenticated just now. Raises Unauthenticated."""
        known = self._known.get(request.headers.get(hdrs.AUTHORIZATION, ""))
        if known is None or known[1] <= self._clock.monotonic_ms():
            return None
        return known[0] if known[0].device_key is not None else self._let_in(known[0], request)

    async def authenticate(self, request: web.Request) -> Principal:
        """The caller of this request. Raises Unauthenticated, Throttled; all failures look alike."""
        if (known := self.recognised(request)) is not None:
            return known
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        network = network_of(request.remote)
        if self._failed_addresses.empty(network, self._clock.monotonic_ms()):
            raise _throttled()
        scheme, _, text = header.partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise _refused()
            principal = await self._credential(text.strip(), network)
            self._remember(header, principal)
            return self._let_in(principal, request)
        except Unauthenticated:
            self._failed_addresses.take(network, self._clock.monotonic_ms())
            raise

    def _let_in(self, principal: Principal, request: web.Request) -> Principal:
        """Whoever may come, from where it comes. A stranger with a stolen key is not told that it is a good one."""
        if principal.device_key is None:
            if principal.networks and not within(request.remote, principal.networks):
                self._astray.tell(principal.credential_id, key_id=principal.credential_id)
                raise _refused()
            self._used[principal.credential_id] = self._clock.now_ms()
        return principal

    async def _credential(self, text: str, network: str) -> Principal:
        if (parsed := creds.parse_api_key(text)) is not None:
            return await self._api_key(*parsed, network)
        if (parsed := creds.parse_device_token(text)) is not None:
            return await self._device_token(*parsed, network)
        if self._signed is not None and jwt_bearer.looks_like_one(text):
            try:
                return await self._signed_token(self._signed, text)
            except jwt_bearer.TokenRefused as refused:
                self._unlike.tell(refused.why, reason=refused.why)
                raise
        raise _refused()

    async def _api_key(self, key_id: str, secret: str, network: str) -> Principal:
        self._check_guesses(key_id, network)
        row = await self._engine.read(lambda conn, _: rows.api_key_row(conn, key_id))
        now_ms = self._clock.now_ms()
        macs = self._ring.macs(API_KEY, secret.encode())
        fits = _fits(macs, None if row is None else row.secret_mac)
        if row is None or not fits or row.revoked_ms is not None or (row.expires_ms or now_ms + 1) <= now_ms:
            raise self._guessed(key_id, network)
        await self._renew(macs[0], row.secret_mac, partial(rows.renew_mac, key_id=key_id))
        return Principal(
            app_id=row.app_id,
            credential_id=key_id,
            scopes=frozenset(msgspec.json.decode(row.scopes)),
            expires_ms=row.expires_ms,
            networks=tuple(map(ip_network, msgspec.json.decode(row.networks))) if row.networks else (),
        )

    async def _device_token(self, token_id: str, secret: str, network: str) -> Principal:
        self._check_guesses(token_id, network)
        row = await self._tokens.get(token_id)
        macs = self._ring.macs(DEVICE_TOKEN, secret.encode())
        fits = _fits(macs, None if row is None else row.secret_mac)
        if row is None or not fits or _gone(row):
            raise self._guessed(token_id, network)
        bearer = _bearer(row)
        assert bearer.device_key is not None
        found = standing(row, self._clock.now_ms())
        if found in {Standing.FRESH, Standing.REUSED}:
            act = partial(settle, key=bearer.device_key, family=row.family, token_id=token_id)
            found = await self._engine.write(lambda conn, now_ms: act(conn, now_ms))
        if found is Standing.EXPIRED:
            raise Unauthenticated("This token has expired; ask the app's backend for a new one.", code="token_expired")
        if found is Standing.REUSED:
            self._reused.tell(row.app_id, app=row.app_id, user=row.user_id, device=row.device_id)
            await self.revoked()
        if found in {Standing.REUSED, Standing.REVOKED}:
            raise self._guessed(token_id, network)
        await self._renew(macs[0], row.secret_mac, partial(tokens.renew_mac, token_id=token_id))
        return bearer

    async def _signed_token(self, signed: SignedTokens, text: str) -> Principal:
        key = await signed.keys.key(jwt_bearer.kid_of(text))
        claims = jwt_bearer.verify(
            text, key, issuer=signed.issuer, audience=signed.audience, now_ms=self._clock.now_ms()
        )
        device = DeviceKey(signed.app_id, claims.user_id, claims.device_id)
        row, set_back_ms = await self._engine.read(
            lambda conn, _: (device_rows.device_row(conn, device), meta.set_back_ms(conn))
        )
        if row is None and set_back_ms is not None and claims.issued_ms < set_back_ms:
            known = await signed.recreate(device)  # it may have been registered after what was restored (protocol 4.2)
        else:
            known = row is not None and row.state is not DeviceState.GONE
        if not known:
            raise jwt_bearer.TokenRefused("device: not registered")
        return Principal(
            app_id=signed.app_id,
            credential_id=claims.credential_id,
            device_key=device,
            expires_ms=claims.expires_ms,
        )

    async def _renew(self, newest: bytes, mac: bytes, write: Callable[..., None]) -> None:
        """Keeps what was proved under an older key of the ring under its newest, so that the older one may go one day."""
        if newest == mac:
            return
        with suppress(Problem):  # the next use will do
            await self._engine.write(lambda conn, _: write(conn, old=mac, new=newest))

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

    def forget(self, credential_ids: Collection[str]) -> None:
        """These were revoked: their bearers are looked up again."""
        for header in [header for header, (who, _) in self._known.items() if who.credential_id in credential_ids]:
            del self._known[header]

    def used(self) -> dict[str, int]:
        """When each API key was last used, of those used since this was asked before."""
        used, self._used = self._used, {}
        return used

    async def leaked(self, text: str, request: web.Request) -> None:
        """This came where credentials leak. If there is an API key in it that works, its owner is told, once; a guess counts
        as a failed login. Nothing of that shows in the answer."""
        found = creds.find_api_key(text)
        network = network_of(request.remote)
        if (
            found is None
            or found[0] in self._leaked
            or self._failed_addresses.empty(network, self._clock.monotonic_ms())
        ):
            return
        with suppress(Problem):
            try:
                owner = await self._api_key(*found, network)
            except Unauthenticated:
                self._failed_addresses.take(network, self._clock.monotonic_ms())
                return
            key_id = owner.credential_id
            if await self._engine.write(partial(flag_leaked, app_id=owner.app_id, key_id=key_id)):
                log.warning("auth.key_leaked", app=owner.app_id, key_id=key_id)
            self._leaked.add(key_id)

    # --- how often ---

    def check_rate(self, request: web.Request, principal: Principal | None) -> None:
        """Raises Throttled."""
        if principal is None:
            if not self._anonymous.take(network_of(request.remote), self._clock.monotonic_ms()):
                raise slow_down("requests from this address")
        elif principal.device_key is None and not self._rates.take(principal.credential_id, self._clock.monotonic_ms()):
            raise slow_down("requests with this key")

    # --- tickets ---

    async def take_ticket(self, text: str, request: web.Request) -> Principal:
        """The bearer of the token that this ticket stands for; it works once, and from its origin. Raises Unauthenticated,
        Throttled: who brings none that is good is a stranger, and comes no more often than one.

        Nobody gets another token for a ticket: one seen in a URL must not turn into a month.
        """
        network = network_of(request.remote)
        if self._anonymous.empty(network, self._clock.monotonic_ms()):
            raise slow_down("requests from this address")
        try:
            return await self._ticket(text, request.headers.get(hdrs.ORIGIN))
        except Unauthenticated:
            self._anonymous.take(network, self._clock.monotonic_ms())
            raise

    async def _ticket(self, text: str, origin: str | None) -> Principal:
        if not text.isascii():  # bytes of a header that are no text could not be hashed
            raise _refused()
        macs = list(self._ring.macs(TICKET, text[:128].encode()))

        def work(conn: Conn, now_ms: int) -> Principal:
            for mac in macs:
                row = tokens.take_ticket(conn, mac)
                if row is None or row.expires_ms <= now_ms or row.origin != origin:
                    continue
                token = tokens.token_row(conn, row.token_id)
                if token is not None and not _gone(token) and standing(token, now_ms) is Standing.GOOD:
                    return replace(_bearer(token), renew_ms=None)
            raise _refused()

        return await self._engine.write(work)


def _fits(macs: Sequence[bytes], mac: bytes | None) -> bool:
    """Compares under every key of the ring; an unknown id costs as much as a known one."""
    stored = mac if mac is not None else b"\x00" * 32
    found = False
    for candidate in macs:
        found |= hmac.compare_digest(candidate, stored)
    return found and mac is not None


async def _nobody_to_tell() -> None:
    return None


def _gone(token: Any) -> bool:
    return token.device_state in {None, "gone"}


def _bearer(token: Any) -> Principal:
    return Principal(
        app_id=token.app_id,
        credential_id=token.token_id,
        device_key=DeviceKey(token.app_id, token.user_id, token.device_id),
        expires_ms=token.expires_ms,
        family=token.family,
        renew_ms=renew_ms(token),
    )


def within(remote: str | None, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether a caller's address lies in one of these."""
    try:
        address: IPv4Address | IPv6Address = ip_address(remote or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


def _refused() -> Unauthenticated:
    return Unauthenticated("Send `Authorization: Bearer` with a valid API key or device token.")


def _throttled() -> Problem:
    return Throttled(
        "Too many failed logins from this address; wait a minute.", code="auth_throttled", retry_after_s=60
    )
