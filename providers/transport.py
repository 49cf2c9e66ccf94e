"""The one client for every call that leaves the house (safety SEC-7), and its guarded mode (SEC-8).

HTTP/1.1 by aiohttp: certificates and names verified, TLS 1.2 at least, no redirects, cookies, environment proxies or
decompression, and a limit for everything that comes back.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Self
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from providers.guard import ADDRESS_DENIED, Guard, Target, TargetRefused
from providers.http import Reason, Request, Response, TransportError
from providers.trust import verifying

__all__ = ["HttpTransport", "Resolve", "system_resolve"]

CONNECT_S = 5.0
TOTAL_S = 10.0
DNS_S = 3.0
ANSWER_BYTES_MAX = 64 * 1024  # read from a vendor or endpoint; the rest is dropped unread
CONNECTIONS_MAX = 256  # of one transport, at a time
CONNECTION_AGE_S_MAX = 60.0  # then the address is looked at anew
USER_AGENT = "push-relay/0.1"

Resolve = Callable[[str, int], Awaitable[list[str]]]


async def system_resolve(host: str, port: int) -> list[str]:
    """The machine's own resolver. Raises OSError."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class Progress:
    """How far one call is."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False  # from here on the other side may have seen the request


# Of this task. Tracing, the other way to know, costs a tenth.
_UNDER_WAY: ContextVar[Progress] = ContextVar("under_way")


class HttpTransport:
    """`await transport(request)` gives the answer, or raises TransportError; with a `guard` also TargetRefused.

    With a guard, the name is resolved here for each call, every address has to pass, and the connection goes to
    the checked address itself; a name that changes its mind in between (DNS rebinding) changes nothing.
    Use as a context manager, or `aclose` it. Connections are pooled; make one transport per bulkhead.
    """

    def __init__(
        self,
        *,
        guard: Guard | None = None,
        resolve: Resolve = system_resolve,
        tls: ssl.SSLContext | None = None,
        connect_s: float = CONNECT_S,
        total_s: float = TOTAL_S,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        connections_max: int = CONNECTIONS_MAX,
        user_agent: str = USER_AGENT,
    ) -> None:
        self.guard = guard
        self.connect_s = connect_s
        self.total_s = total_s
        self.answer_bytes_max = answer_bytes_max
        self.connections_max = connections_max
        self.user_agent = user_agent
        self._resolve = resolve
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def check(self, url: str) -> Target:
        """The target of `url`, if it may be called now. Raises TargetRefused, TransportError(dns_failed)."""
        guard = self.guard or Guard()
        target = guard.parse(url)
        await self._addresses(guard, target)
        return target

    async def __call__(self, request: Request, /) -> Response:
        """One call. Retries nothing, except on the next checked address while none could be connected to."""
        progress = Progress()
        _UNDER_WAY.set(progress)
        self._opened()  # the first time it reads all certificates: not on the call's time
        try:
            async with asyncio.timeout(self.total_s if request.total_s is None else request.total_s):
                if self.guard is None:
                    return await self._exchange(request, URL(request.url, encoded=True), None, progress)
                return await self._guarded(self.guard, request, progress)
        except TimeoutError:
            raise TransportError(Reason.TIMEOUT, sent=progress.sent) from None

    async def _guarded(self, guard: Guard, request: Request, progress: Progress) -> Response:
        target = guard.parse(request.url)
        failure = TransportError(Reason.CONNECT_FAILED, sent=False)
        for address in await self._addresses(guard, target):
            host = f"[{address}]" if ":" in address else address
            url = URL(f"{target.scheme}://{host}:{target.port}{target.path}", encoded=True)
            try:
                return await self._exchange(request, url, target, progress)
            except TransportError as error:
                if error.sent or error.reason not in {Reason.CONNECT_FAILED, Reason.TIMEOUT}:
                    raise
                failure = error
        raise failure

    async def _addresses(self, guard: Guard, target: Target) -> tuple[str, ...]:
        with suppress(ValueError):
            return guard.check(target, [str(ip_address(target.host))])  # a literal that the operator exempted
        try:
            async with asyncio.timeout(DNS_S):
                addresses = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            raise TransportError(Reason.DNS_FAILED, sent=False) from None
        if not addresses:
            raise TransportError(Reason.DNS_FAILED, sent=False)
        return guard.check(target, addresses)

    async def _exchange(self, request: Request, url: URL, target: Target | None, progress: Progress) -> Response:
        headers = {"accept-encoding": "identity", **request.headers}
        if target is not None:
            headers = {key: value for key, value in headers.items() if key.lower() != "host"}
            headers["host"] = target.authority
        connect_s = self.connect_s if request.connect_s is None else request.connect_s
        try:
            async with self._opened().request(
                request.method,
                url,
                data=request.body or None,
                headers=headers,
                allow_redirects=False,
                server_hostname=target.host if target is not None and target.scheme == "https" else None,
                timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s),
            ) as answer:
                return await self._read(answer, request)
        except aiohttp.ClientConnectorDNSError:
            raise TransportError(Reason.DNS_FAILED, sent=False) from None
        except (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError):
            raise TransportError(Reason.TLS_FAILED, sent=False) from None
        except aiohttp.ClientConnectorError:
            raise TransportError(Reason.CONNECT_FAILED, sent=False) from None
        except aiohttp.ConnectionTimeoutError:
            raise TransportError(Reason.TIMEOUT, sent=False) from None
        except aiohttp.InvalidURL:
            raise TransportError(Reason.GARBAGE, sent=False) from None
        except (aiohttp.ClientResponseError, ValueError):  # not HTTP, or a head beyond the parser's limits
            raise TransportError(Reason.GARBAGE, sent=progress.sent) from None
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError):
            raise TransportError(Reason.RESET, sent=progress.sent) from None

    async def _read(self, answer: aiohttp.ClientResponse, request: Request) -> Response:
        limit = self.answer_bytes_max if request.answer_bytes_max is None else request.answer_bytes_max
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > limit:
                answer.close()  # and with it the connection: the rest is never read
                break
        if answer.status == 101:
            answer.close()
        return Response(
            status=answer.status,
            headers={key.lower(): value for key, value in answer.headers.items()},
            body=bytes(body[:limit]),
            truncated=len(body) > limit,
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("The transport is closed.")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    pinned=self.guard is not None,
                    resolver=_Resolver(self._resolve),
                    tls=verifying(None) if self._tls is None else self._tls,
                    limit=self.connections_max,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"user-agent": self.user_agent},
                trust_env=False,
                auto_decompress=False,
                read_bufsize=ANSWER_BYTES_MAX,
            )
        return self._session


class _Resolver(AbstractResolver):
    """Names of vendors, in at most 3 s. (Guarded calls come with an address and never ask.)"""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        async with asyncio.timeout(DNS_S):
            addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError(None, "no address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class _Connector(aiohttp.TCPConnector):
    """Connections no older than a minute; `pinned` ones only to the address in the URL."""

    def __init__(self, *, pinned: bool, resolver: AbstractResolver, tls: ssl.SSLContext, limit: int) -> None:
        super().__init__(resolver=resolver, ssl=tls, limit=limit, keepalive_timeout=30, ttl_dns_cache=10)
        self._pinned = pinned
        self._born_s: WeakKeyDictionary[object, float] = WeakKeyDictionary()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        clock = asyncio.get_running_loop().time
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if clock() - self._born_s.setdefault(protocol, clock()) < CONNECTION_AGE_S_MAX:
                break
            connection.close()
        if self._pinned:
            peer = connection.transport.get_extra_info("peername") if connection.transport else None
            if peer is None:  # reset as soon as it was made: nobody is there, which says nothing of where it went
                connection.close()
                raise TransportError(Reason.CONNECT_FAILED, sent=False)
            if ip_address(peer[0]) != ip_address(req.url.raw_host or ""):
                connection.close()
                raise TargetRefused(ADDRESS_DENIED, "The connection went to an address that was not checked.")
        _UNDER_WAY.get().sent = True  # the head is written next
        return connection
