"""What is refused before it costs anything: forms of requests, bodies, and callers who come too often."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from aiohttp import web

from relay.errors import Malformed, Problem, Throttled, TooLarge
from relay.push.limits import Bucket

BODY_S = 30.0
KEYS_MAX = 50_000
URL_BYTES_MAX = 8 * 1024
_CREDENTIALS: Final = frozenset({"api_key", "apikey", "token", "access_token", "key", "authorization", "auth"})
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_COOKIES = re.compile(r"\b(rk|rd)_[A-Za-z0-9]")

# For web.AppRunner: limits that the parser itself keeps (safety B006, B007).
PARSER: dict[str, Any] = {"max_line_size": 8190, "max_field_size": 8190, "max_headers": 64}


def check_form(request: web.Request) -> None:
    """Refuses paths that could be read in two ways, and credentials where they leak. Raises Malformed."""
    raw = request.raw_path
    path, _, query = raw.partition("?")
    if _ESCAPE.search(raw):
        raise Malformed("The path or query has a broken percent escape.", code="malformed_http")
    if "%" in raw:
        _check_escapes(path, query)
    if "//" in path or "/./" in path or "/../" in path or path.endswith(("/.", "/..")):
        raise Malformed("The path has empty or dot segments.", code="malformed_http")
    if query and any(name.lower() in _CREDENTIALS for name in request.query):
        raise Malformed("Credentials go into the Authorization header, never into the URL.", code="credential_in_url")
    if "Cookie" in request.headers and _COOKIES.search(request.headers["Cookie"]):
        raise Malformed("Credentials go into the Authorization header, never into a cookie.", code="credential_in_url")
    if len(request.headers.getall("Authorization", ())) > 1:
        raise Problem("Send one Authorization header.", code="unauthenticated")


def _check_escapes(path: str, query: str) -> None:
    for text in (path, query):
        try:
            decoded = _unquote(text)
        except UnicodeDecodeError:
            raise Malformed("The path or query is not UTF-8.", code="malformed_http") from None
        if "\x00" in decoded:
            raise Malformed("The path or query has a zero byte.", code="malformed_http")
    if re.search(r"%2[ef]", path, re.IGNORECASE):
        raise Malformed("The path has escaped dots or slashes.", code="malformed_http")


def _unquote(text: str) -> str:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text.encode()).decode()


def check_content(request: web.Request) -> None:
    """The body must be plain JSON. Raises Problem (415)."""
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise Problem("Send the body uncompressed.", code="unsupported_encoding")
    kinds = request.headers.getall("Content-Type", ())
    if len(kinds) != 1:
        raise Problem("Send one Content-Type: application/json.", code="unsupported_media_type")
    kind, _, parameters = kinds[0].lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if kind.strip() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise Problem("Send Content-Type: application/json (UTF-8).", code="unsupported_media_type")


async def read_body(request: web.Request, *, limit: int) -> bytes:
    """The whole body, at most `limit` bytes, within 30 s. Raises TooLarge, or Problem (408)."""
    length = request.content_length
    if length is not None and length > limit:
        raise TooLarge(f"The body may have {limit} bytes.")
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(BODY_S):
            if length is not None:
                return await request.content.readexactly(length)
            chunks = bytearray()
            async for chunk in request.content.iter_any():
                chunks += chunk
                if len(chunks) > limit:
                    raise TooLarge(f"The body may have {limit} bytes.")
            return bytes(chunks)
    except TimeoutError:
        raise Problem("The body took too long to arrive.", code="request_timeout") from None
    except asyncio.IncompleteReadError:
        raise Malformed("The body was cut off.", code="malformed_http") from None


class RateLimiter:
    """A bucket for each caller, at most `KEYS_MAX` of them; the one not seen for longest goes first."""

    def __init__(self, *, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def take(self, key: Hashable, now_ms: int, count: float = 1) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate_per_s, self._burst)
            if len(self._buckets) > KEYS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now_ms, count)

    def empty(self, key: Hashable, now_ms: int) -> bool:
        """Whether this caller has nothing left, without taking anything."""
        bucket = self._buckets.get(key)
        return bucket is not None and bucket.available(now_ms) < 1


def network_of(remote: str | None) -> str:
    """What an address counts as: itself, or its /64 in IPv6."""
    try:
        address = ip_address(remote or "")
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)


def slow_down(what: str) -> Throttled:
    return Throttled(f"Too many {what}; slow down.", retry_after_s=1)
