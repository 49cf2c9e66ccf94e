"""About the relay itself: health, readiness, metrics, the document."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import hdrs, web

from relay.api import openapi
from relay.api.limits import network_of
from relay.api.routes import Authenticator, Route
from relay.clock import Clock
from relay.errors import Forbidden, Problem
from relay.store.engine import Engine
from relay.telemetry.metrics import Metrics

PROBE_MS = 2_000  # how old the last successful write may be
LOOPBACK = frozenset({"127.0.0.1", "::"})  # ::1 as its /64


class Readiness:
    """Whether messages can be taken: the store takes writes, the loop turns, and nobody has asked us to stop."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        full: Callable[[], bool] = lambda: False,
        turns: Callable[[], bool] = lambda: True,
    ) -> None:
        """`full`: the disk has less room than is kept in reserve. `turns`: the event loop does not stand still."""
        self._engine = engine
        self._full = full
        self._turns = turns
        self._clock = clock
        self._probed_ms = 0
        self._probing: asyncio.Future[str | None] | None = None
        self.draining = False

    async def obstacle(self) -> str | None:
        """What keeps it from taking messages now, in a word; None: nothing does."""
        for word, stands in (
            ("draining", self.draining),
            ("standstill", not self._turns()),
            ("storage_full", self._full()),
            ("storage_failed", self._engine.failed),
            ("unsafe_storage", not self._engine.trusted),
        ):
            if stands:
                return word
        if self._clock.monotonic_ms() - self._probed_ms < PROBE_MS:
            return None
        # One look for all who ask meanwhile: strangers may, without a bound, and must not fill the store's queue.
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())
        return await asyncio.shield(self._probing)

    async def _probe(self) -> str | None:
        """The word for what keeps the store from taking a write; None: it took one."""
        try:
            async with asyncio.timeout(PROBE_MS / 1000):
                await self._engine.write(lambda conn, _: None)
        except Problem as problem:
            return problem.code
        except TimeoutError:
            return "storage_unavailable"
        self._probed_ms = self._clock.monotonic_ms()
        return None


@dataclass(slots=True, kw_only=True)
class SystemApi:
    """Handlers that answer by themselves."""

    engine: Engine
    readiness: Readiness
    metrics: Metrics
    auth: Authenticator
    gauges: Callable[[], None]
    documents: "Documents"

    async def healthz(self, request: web.Request) -> web.Response:
        return _json({"status": "ok", **self._store()})

    async def readyz(self, request: web.Request) -> web.Response:
        obstacle = await self.readiness.obstacle()
        if obstacle is None:
            return _json({"status": "ready", **self._store()})
        return _json({"status": "not ready", "reason": obstacle, **self._store()}, status=503)

    def _store(self) -> dict[str, Any]:
        """Where what was accepted is, and why it might be lost there (safety DUR-5)."""
        return {"durability": self.engine.durability, "unsafe_storage": self.engine.dangers}

    async def metrics_page(self, request: web.Request) -> web.Response:
        # A proxy on this machine that is not named in server.trusted_proxies speaks for others.
        if network_of(request.remote) not in LOOPBACK or hdrs.X_FORWARDED_FOR in request.headers:
            principal = await self.auth.authenticate(request)
            if "admin:read" not in principal.scopes:
                raise Forbidden("Metrics need a key of scope admin:read, or a caller on this machine.")
        self.gauges()
        return web.Response(
            body=self.metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def openapi(self, request: web.Request) -> web.Response:
        document, _ = await self.documents.made()
        return _json(document)

    async def docs(self, request: web.Request) -> web.Response:
        _, page = await self.documents.made()
        return web.Response(text=page, content_type="text/html", headers=openapi.PAGE_HEADERS)

    async def style(self, request: web.Request) -> web.Response:
        return web.Response(text=openapi.STYLE, content_type="text/css", headers=openapi.PAGE_HEADERS)


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        headers={"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"},
    )


class Documents:
    """What the routes are, for programs and for people: made when first asked for, beside the loop, as it is much work."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._routes = routes
        self._making: asyncio.Future[tuple[dict[str, Any], str]] | None = None

    async def made(self) -> tuple[dict[str, Any], str]:
        """The document and its page."""
        if self._making is None:
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        return await asyncio.shield(self._making)  # a caller who hangs up ends it for nobody else

    def _make(self) -> tuple[dict[str, Any], str]:
        document = openapi.document(self._routes)
        return document, openapi.page(document)
