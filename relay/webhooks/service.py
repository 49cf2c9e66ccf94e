"""What backends do with their endpoints and events: the API's handlers call this and print what it gives."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from providers.guard import URL_INVALID, Target, TargetRefused
from providers.http import TransportError
from relay.errors import FieldError, Invalid
from relay.ids import Rng, random_hex
from relay.store import deliveries, endpoints, event_log, sequencer
from relay.store.endpoints import DeliveryKey, Endpoint, EndpointKey
from relay.store.engine import Conn, Engine
from relay.webhooks import event_types, own_headers, rules
from relay.webhooks.asked import PAGE_DEFAULT, invalid, refuse
from relay.webhooks.deliveries import DeliveryPage, Replayed, enabled, page_of, replay, replay_range
from relay.webhooks.event_types import EVERY
from relay.webhooks.pulling import EventPage, pull
from relay.webhooks.rules import Signal
from relay.webhooks.sealed import Seals, open_secret, seal_headers, seal_secret
from relay.webhooks.settling import judge
from relay.webhooks.signing import Scheme, mint_secret, scheme_of, shown_secret

ENDPOINTS_MAX = 50  # of one app
OF_YOUR_OWN = "A target of your own may be listed in the relay's webhooks.exempt."
DESCRIPTION_CHARS_MAX = 256
KEEP_OLD_S = 24 * 3600
KEEP_OLD_S_MAX = 7 * 24 * 3600
CHORE_MAX = 1000  # rows of one transaction

Prune = Callable[[Conn, int], int]


class CheckUrl(Protocol):
    """Judges a URL now, with its name resolved: `HttpTransport.check`. Raises TargetRefused or TransportError."""

    async def __call__(self, url: str, /) -> Target: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new endpoint. `secret` (`whsec_…`, or the public key `whpk_…`) is shown this once."""

    endpoint: Endpoint
    secret: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A new secret, shown this once, and until when the old one signs beside it."""

    secret: str
    old_secret_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What an update sets; None leaves as it is. An empty description or no headers: none any more."""

    url: str | None = None
    types: Sequence[str] | None = None
    description: str | None = None
    headers: Mapping[str, str] | None = None
    enabled: bool | None = None


class WebhookService:
    """Endpoints, their deliveries, and events by pull. `nudge` wakes the worker on this node."""

    def __init__(
        self,
        engine: Engine,
        seals: Seals,
        check_url: CheckUrl,
        *,
        rng: Rng,
        nudge: Callable[[], None] = lambda: None,
        endpoints_max: int = ENDPOINTS_MAX,
        events_keep_ms: int = event_log.EVENTS_KEEP_MS,
    ) -> None:
        self._engine = engine
        self._seals = seals
        self._check_url = check_url
        self._rng = rng
        self._nudge = nudge
        self._events_keep_ms = events_keep_ms
        self._endpoints_max = endpoints_max

    # --- endpoints ---

    async def create(
        self,
        app_id: str,
        *,
        url: str,
        types: Sequence[str] = (EVERY,),
        description: str | None = None,
        headers: Mapping[str, str] | None = None,
        scheme: Scheme = Scheme.HMAC,
    ) -> Created:
        """A new endpoint; the first thing it gets is an `endpoint.test`. Raises Invalid, Missing."""
        refuse(
            [
                *event_types.type_errors(types),
                *own_headers.header_errors(headers or {}),
                *_description_errors(description),
            ]
        )
        target = await self._checked(url)
        key = EndpointKey(app_id, f"ep_{random_hex(self._rng, bits=128)}")
        secret = mint_secret(self._rng, scheme)
        secret_sealed = seal_secret(self._seals, key, secret)
        headers_sealed = seal_headers(self._seals, key, headers or {})
        test = self._event_key(key)

        def work(conn: Conn, now_ms: int) -> tuple[Endpoint, bool]:
            endpoints.lock_app(conn, app_id)
            others = endpoints.endpoints_of(conn, app_id)
            if len(others) >= self._endpoints_max:
                raise Invalid(f"An app has at most {self._endpoints_max} endpoints; delete one first.")
            made = endpoints.create_endpoint(
                conn,
                now_ms,
                key,
                url=target.url,
                description=description or None,
                types=types,
                secret_sealed=secret_sealed,
                headers_sealed=headers_sealed,
            )
            sequencer.tell_one(conn, now_ms, test, type_="endpoint.test", data=_test_data(key))
            return made, any(other.url == target.url for other in others)

        endpoint, twice = await self._engine.write(work)
        self._nudge()
        warnings = ("Another endpoint has the same URL: it is told of an event by each of them.",) if twice else ()
        return Created(endpoint=endpoint, secret=shown_secret(secret), warnings=warnings)

    async def list(self, app_id: str) -> list[Endpoint]:
        """All endpoints of the app, oldest first."""
        return await self._engine.read(lambda conn, _: endpoints.endpoints_of(conn, app_id))

    async def get(self, app_id: str, endpoint_id: str) -> Endpoint:
        """Raises Missing."""
        return await self._engine.read(lambda conn, _: endpoints.get_endpoint(conn, EndpointKey(app_id, endpoint_id)))

    async def update(self, app_id: str, endpoint_id: str, changes: Changes) -> Endpoint:
        """The endpoint after the changes. Enabling it lets what still waits for it go on. Raises Invalid, Missing."""
        key = EndpointKey(app_id, endpoint_id)
        refuse(
            [
                *(event_types.type_errors(changes.types) if changes.types is not None else []),
                *own_headers.header_errors(changes.headers or {}),
                *_description_errors(changes.description),
            ]
        )
        values: dict[str, Any] = {}
        if changes.url is not None:
            values["url"] = (await self._checked(changes.url)).url
        if changes.types is not None:
            values["types"] = changes.types
        if changes.description is not None:
            values["description"] = changes.description or None
        if changes.headers is not None:
            values["headers_sealed"] = seal_headers(self._seals, key, changes.headers)

        def work(conn: Conn, now_ms: int) -> Endpoint:
            endpoints.get_endpoint(conn, key, lock=True)
            endpoints.change_endpoint(conn, key, values)
            if changes.enabled is not None:
                judge(conn, now_ms, {key: Signal.ENABLE if changes.enabled else Signal.DISABLE})
            return endpoints.get_endpoint(conn, key)

        endpoint = await self._engine.write(work)
        self._nudge()
        return endpoint

    async def delete(self, app_id: str, endpoint_id: str) -> None:
        """Raises Missing."""
        await self._engine.write(lambda conn, _: endpoints.delete_endpoint(conn, EndpointKey(app_id, endpoint_id)))

    async def rotate(self, app_id: str, endpoint_id: str, *, keep_old_s: int = KEEP_OLD_S) -> Rotated:
        """A new secret of the same scheme. The old one signs beside it for `keep_old_s`. Raises Invalid, Missing."""
        if not 0 <= keep_old_s <= KEEP_OLD_S_MAX:
            raise invalid("/overlap_s", "range", f"Keep the old secret for 0 to {KEEP_OLD_S_MAX} seconds.")
        key = EndpointKey(app_id, endpoint_id)
        sealed = await self._engine.read(lambda conn, now_ms: endpoints.sealed_of(conn, now_ms, key))
        try:
            scheme = scheme_of(open_secret(self._seals, key, sealed.secret))
        except ValueError:  # its sealing key is lost: a rotation is the way out
            scheme = Scheme.HMAC
        secret = mint_secret(self._rng, scheme)
        secret_sealed = seal_secret(self._seals, key, secret)

        def work(conn: Conn, now_ms: int) -> int:
            endpoints.get_endpoint(conn, key, lock=True)
            until_ms = now_ms + keep_old_s * 1000
            endpoints.rotate_secret(conn, key, secret_sealed=secret_sealed, old_until_ms=until_ms)
            return until_ms

        return Rotated(secret=shown_secret(secret), old_secret_until_ms=await self._engine.write(work))

    async def test(self, app_id: str, endpoint_id: str) -> str:
        """Sends an `endpoint.test` to this endpoint alone; gives its id. Raises Missing, Conflict."""
        key = EndpointKey(app_id, endpoint_id)
        test = self._event_key(key)

        def work(conn: Conn, now_ms: int) -> None:
            endpoints.lock_app(conn, app_id)  # before the endpoint's, as everywhere
            enabled(endpoints.get_endpoint(conn, key, lock=True))
            sequencer.tell_one(conn, now_ms, test, type_="endpoint.test", data=_test_data(key))

        await self._engine.write(work)
        self._nudge()
        return test.event_id

    def _event_key(self, key: EndpointKey) -> DeliveryKey:
        return DeliveryKey(*key, f"evt_{random_hex(self._rng, bits=128)}")

    async def _checked(self, url: str) -> Target:
        try:
            return await self._check_url(url)
        except TargetRefused as refused:
            forgivable = refused.code == rules.ADDRESS_DENIED or url.startswith("http:")
            detail = f"{refused.detail} {OF_YOUR_OWN}" if forgivable else refused.detail
            raise invalid("/url", "value", detail, code=refused.code) from None
        except TransportError:
            raise invalid("/url", "value", "The URL's host has no address at present.", code=URL_INVALID) from None

    # --- deliveries ---

    async def deliveries(
        self, app_id: str, endpoint_id: str, *, cursor: str | None = None, limit: int = PAGE_DEFAULT
    ) -> DeliveryPage:
        """See `deliveries.page_of`."""
        return await page_of(self._engine, EndpointKey(app_id, endpoint_id), cursor=cursor, limit=limit)

    async def replay(self, app_id: str, endpoint_id: str, event_ids: Collection[str]) -> Replayed:
        """See `deliveries.replay`."""
        replayed = await replay(self._engine, EndpointKey(app_id, endpoint_id), event_ids)
        self._nudge()
        return replayed

    async def replay_range(
        self,
        app_id: str,
        endpoint_id: str,
        *,
        from_ms: int,
        to_ms: int,
        undelivered_only: bool = False,
        cursor: str | None = None,
    ) -> Replayed:
        """See `deliveries.replay_range`."""
        replayed = await replay_range(
            self._engine,
            EndpointKey(app_id, endpoint_id),
            from_ms=from_ms,
            to_ms=to_ms,
            undelivered_only=undelivered_only,
            cursor=cursor,
        )
        self._nudge()
        return replayed

    # --- events by pull ---

    async def events(
        self,
        app_id: str,
        *,
        cursor: str | None = None,
        limit: int = PAGE_DEFAULT,
        types: Sequence[str] = (EVERY,),
    ) -> EventPage:
        """See `pulling.pull`."""
        return await pull(self._engine, app_id, cursor=cursor, limit=limit, types=types)

    # --- chores ---

    async def tidy(self) -> int:
        """Removes what is past its time: old events, deliveries of deleted endpoints, old secrets. Gives rows removed.

        In small transactions; harmless on any number of nodes.
        """
        chores: tuple[Prune, ...] = (
            lambda conn, now_ms: event_log.prune_events(conn, now_ms, limit=CHORE_MAX, keep_ms=self._events_keep_ms),
            lambda conn, _: deliveries.sweep_deleted(conn, limit=CHORE_MAX),
        )
        await self._engine.write(endpoints.forget_old_secrets)
        total = 0
        for chore in chores:
            removed = CHORE_MAX
            while removed >= CHORE_MAX:
                removed = await self._engine.write(chore)
                total += removed
        return total


def _test_data(key: EndpointKey) -> dict[str, str]:
    return {"endpoint_id": key.endpoint_id}


def _description_errors(description: str | None) -> list[FieldError]:
    if description is not None and (len(description) > DESCRIPTION_CHARS_MAX or not description.isprintable()):
        detail = f"A description is up to {DESCRIPTION_CHARS_MAX} printable characters."
        return [FieldError("/description", "value", detail)]
    return []
