"""HTTP/2 for vendors that demand it (APNs): few long connections, many requests on each, and none lost or doubled by us.

Same rules as `HttpTransport` (safety SEC-7): certificates and names verified, TLS 1.2 at least with ALPN h2, no redirects,
cookies or environment proxies, a limit for everything that comes back. A request that a server certainly did not process
(GOAWAY, REFUSED_STREAM) is sent again on another connection and nobody hears of it; any other loss is the caller's, with
the truth about whether it may have arrived. Make one transport per bulkhead: two tenants never share a connection.
"""

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from functools import lru_cache
from typing import Self
from urllib.parse import SplitResult, urlsplit

from providers.contract import Outcome
from providers.http import Reason, Refusal, Request, RequestInvalid, Response, TransportError
from providers.http2_connection import Connection
from providers.http2_exchange import Exchange, Habits, Limits
from providers.http2_headers import block_of
from providers.http2_tls import about_certificate, certificate_refused, tls_context
from providers.transport import DNS_S, USER_AGENT, Resolve, system_resolve

__all__ = ["Habits", "Http2Transport", "Limits", "tls_context"]

RESENDS_MAX = 16  # of one request; then its caller may know better
GROW_S = 1.0  # between one connection and the next, when all are full
RECONNECT_S = (0.05, 5.0)  # after a connection that could not be made, or answered nothing; doubles up to the second
CLOSE_S = 1.0

Origin = tuple[str, str, int]


class Http2Transport:
    """`await transport(request)` gives the answer; raises TransportError, or Refusal where `habits` know one.

    `request.connect_s` is not looked at: connections are shared. `http` URLs are spoken to with prior knowledge
    (RFC 9113, 3.3). Use as a context manager, or `aclose` it.
    """

    def __init__(
        self,
        *,
        resolve: Resolve = system_resolve,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        habits: Habits | None = None,
        user_agent: str = USER_AGENT,
    ) -> None:
        self.limits = limits or Limits()
        self.habits = habits or Habits()
        self.user_agent = user_agent
        self.resolve = resolve
        self._tls = tls
        self._pools: dict[Origin, _Pool] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends every connection; requests under way fail."""
        self._closed = True
        pools, self._pools = self._pools, {}
        await asyncio.gather(*(pool.aclose() for pool in pools.values()))

    def renew(self) -> None:
        """Requests from now on go over new connections; what is under way ends on those that are there."""
        for pool in self._pools.values():
            pool.renew()

    @property
    def tls(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = tls_context()  # reads all certificates: not before they are needed
        return self._tls

    async def __call__(self, request: Request, /) -> Response:
        """One call."""
        if self._closed:
            raise RuntimeError("The transport is closed.")
        origin, authority, path = _target(request.url)
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = _Pool(origin, self)
        limit = self.limits.answer_bytes_max if request.answer_bytes_max is None else request.answer_bytes_max
        block = block_of(request, authority=authority, scheme=origin[0], path=path, user_agent=self.user_agent)
        pin = None if self.habits.pinned is None else request.headers.get(self.habits.pinned)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Response] = loop.create_future()
        exchange = Exchange(block, request.body, pin=pin, answer_bytes_max=limit, future=future)
        total_s = self.limits.total_s if request.total_s is None else request.total_s
        timer = loop.call_later(total_s, exchange.expire)  # `asyncio.timeout` costs three times as much
        try:
            pool.submit(exchange)
            return await future
        finally:
            timer.cancel()
            if exchange.connection is not None:
                exchange.connection.abandon(exchange)
            elif not future.done():
                future.cancel()


def _target(url: str) -> tuple[Origin, str, str]:
    """Where it goes: the origin, the authority as it is written, and the path with its query."""
    at = url.find("/", url.find("//") + 2)
    if at < 0 or "#" in url or "?" in url[:at]:
        parts = _parts(url)
        query = f"?{parts.query}" if parts.query else ""
        return *_origin(f"{parts.scheme}://{parts.netloc}"), (parts.path or "/") + query
    return *_origin(url[:at]), url[at:]


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise RequestInvalid("The URL cannot be read.") from None


@lru_cache(maxsize=64)
def _origin(url: str) -> tuple[Origin, str]:
    parts = _parts(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise RequestInvalid("The URL cannot be read.") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username is not None:
        raise RequestInvalid("The URL has no host, or says more than it may.")
    return (parts.scheme, parts.hostname, port), parts.netloc


class _Pool:
    """The connections to one origin, and the requests that wait for one. The `Home` of its connections."""

    def __init__(self, origin: Origin, transport: Http2Transport) -> None:
        self._scheme, self._host, self._port = origin
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Exchange] = deque()
        self._connections: list[Connection] = []
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tried = 0  # connections: each begins with the next of the host's addresses
        self._opened_s = float("-inf")
        self._failures = 0  # in a row
        self._not_before_s = float("-inf")
        self._pumping = False
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None  # done when the last connection is gone

    def submit(self, exchange: Exchange) -> None:
        self._waiting.append(exchange)
        self._pump()

    def renew(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    async def aclose(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        self._fail_waiting(TransportError(Reason.RESET, sent=False))
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        if connections:
            self._emptied = self._loop.create_future()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._emptied
        for connection in list(self._connections):
            connection.abort()

    # Home.

    def changed(self) -> None:
        self._pump()

    def give_back(self, exchanges: list[Exchange]) -> None:
        for exchange in reversed(exchanges):
            exchange.resends += 1
            if exchange.resends > RESENDS_MAX or self._closed:
                exchange.fail(TransportError(Reason.RESET, sent=False))
            else:
                self._waiting.appendleft(exchange)

    def useless(self) -> None:
        self._failed()

    def refused(self, against_us: Outcome) -> None:
        self._fail_waiting(Refusal(against_us))

    def lost(self, connection: Connection) -> None:
        if connection not in self._connections:
            return  # it failed before it was ready
        self._connections.remove(connection)
        if connection.proved:
            self._failures = 0
        elif not connection.answered:
            self._failed()
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        self._pump()

    # Who gets what.

    def _pump(self) -> None:
        """Gives waiting requests to connections with room, oldest first; opens another connection if none has any."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        try:
            while self._waiting:
                exchange = self._waiting[0]
                if exchange.future.done():
                    self._waiting.popleft()
                    continue
                free = [one for one in self._connections if one.room(exchange)]
                if not free:
                    self._grow()
                    return
                self._waiting.popleft()
                min(free, key=lambda one: one.load).start(exchange)
        finally:
            self._pumping = False

    def _grow(self) -> None:
        if self._connecting is not None:
            return
        pin = self._waiting[0].pin
        live = [one for one in self._connections if not one.draining]
        fit = [one for one in live if one.takes(pin)]
        if len(live) >= self._transport.limits.connections_max:
            without_use = [one for one in live if one.stalled or one not in fit]
            if not without_use:
                return
            without_use[0].drain()  # it makes room for one that is of use
            fit = [one for one in fit if not one.draining]
        if any(one.promising for one in fit):
            return
        at_s = max(self._not_before_s, self._opened_s + GROW_S if fit else float("-inf"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_s > self._loop.time():
            self._timer = self._loop.call_at(at_s, self._pump)
        else:
            self._connecting = self._loop.create_task(self._connect(), name="http2-connect")

    def _failed(self) -> None:
        first_s, limit_s = RECONNECT_S
        self._not_before_s = self._loop.time() + min(limit_s, first_s * 2 ** min(self._failures, 16))
        self._failures += 1

    async def _connect(self) -> None:
        try:
            connection = await self._connected()
        except (TransportError, Refusal) as error:
            self._failed()
            if not any(not one.draining for one in self._connections):
                self._fail_waiting(error)
        else:
            self._opened_s = self._loop.time()
            self._connections.append(connection)
            if connection.closed:  # in the moment since it was ready
                self.lost(connection)
        finally:
            self._connecting = None
        self._pump()

    async def _connected(self) -> Connection:
        error: TransportError | Refusal = TransportError(Reason.CONNECT_FAILED, sent=False)
        try:
            async with asyncio.timeout(self._transport.limits.connect_s):
                addresses = await self._addresses()
                self._tried += 1
                first = self._tried % len(addresses)
                for address in addresses[first:] + addresses[:first]:
                    try:
                        return await self._open(address)
                    except (TransportError, Refusal) as one:
                        error = one
        except TimeoutError:
            raise TransportError(Reason.TIMEOUT, sent=False) from None
        raise error

    async def _addresses(self) -> list[str]:
        try:
            async with asyncio.timeout(DNS_S):
                addresses = await self._transport.resolve(self._host, self._port)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            addresses = []
        if not addresses:
            raise TransportError(Reason.DNS_FAILED, sent=False)
        return addresses

    async def _open(self, address: str) -> Connection:
        secure = self._scheme == "https"
        habits = self._transport.habits
        connection = Connection(self, self._transport.limits, habits)
        try:
            wire, _ = await self._loop.create_connection(
                lambda: connection,
                address,
                self._port,
                ssl=self._transport.tls if secure else None,
                server_hostname=self._host if secure else None,
            )
            if secure and wire.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
                raise TransportError(Reason.GARBAGE, sent=False)
            await connection.ready
        except ssl.SSLError as error:
            if habits.certified and about_certificate(error):
                raise certificate_refused() from None
            raise TransportError(Reason.TLS_FAILED, sent=False) from None
        except OSError:
            raise TransportError(Reason.CONNECT_FAILED, sent=False) from None
        except BaseException:
            connection.abort()
            raise
        return connection

    def _fail_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.fail(error)
