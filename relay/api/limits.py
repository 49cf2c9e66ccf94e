"""What is refused before it costs anything: forms of requests, bodies, and callers who come too often."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain
from typing import Final
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11

from relay.errors import Malformed, Problem, Throttled, TooLarge, Unauthenticated
from relay.push.limits import Bucket

BODY_S: Final = 30.0
BODY_SLOW_S: Final = 5.0  # from then on, a body must have come at this pace:
BODY_BYTES_PER_S_MIN: Final = 1024
KEYS_MAX: Final = 50_000
HEADERS_BYTES_MAX: Final = 32 * 1024

# Names of parameters and fields under which people send credentials where these leak.
CREDENTIAL_NAMES: Final = frozenset({"api_key", "apikey", "token", "access_token", "key", "authorization", "auth"})
_CREDENTIAL = re.compile(r"(?:rk_(?:live|test)|rd)_[a-z2-7]{12}_")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class Leaked(Malformed):
    """A credential came where it may leak (safety SEC-1). `text`: what it may be in, a secret."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__(
            f"Credentials go into the Authorization header, never into {where}. If this one was real, rotate it.",
            code="credential_in_url",
        )
        self.text = text


# --- the form of a request --------------------------------------------------------------------------------------------


def check_form(request: web.Request) -> None:
    """Refuses what can be read in two ways, and credentials where they leak. Raises Malformed, Unauthenticated."""
    version, raw = request.version, request.raw_path
    if version is not HttpVersion11 and version != HttpVersion10:
        raise Malformed("Speak HTTP/1.1.", code="malformed_http")
    path, _, query = raw.partition("?")
    empty = path[:1] != "/" or "//" in path
    if "%" in raw:
        if _BROKEN_ESCAPE.search(raw):
            raise Malformed("The path or query has a broken percent escape.", code="malformed_http")
        path, query = "/".join(map(_decoded, path.split("/"))), _decoded(query)
    if empty:
        raise Malformed("The path must begin with one slash and have no empty segments.", code="malformed_http")
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise Malformed("The path has dot segments.", code="malformed_http")
    if query:
        _check_query(request, query)
    headers = request.headers
    hosts = headers.getall(hdrs.HOST, ())
    if len(hosts) != 1 or "@" in hosts[0]:
        raise Malformed("Send one Host header, without a user name.", code="malformed_http")
    raw_headers = request.raw_headers
    if sum(map(len, chain.from_iterable(raw_headers))) + 4 * len(raw_headers) > HEADERS_BYTES_MAX:
        raise Malformed(f"All headers together may have {HEADERS_BYTES_MAX} bytes.", code="malformed_http")
    if hdrs.COOKIE in headers:
        cookies = " ".join(headers.getall(hdrs.COOKIE))
        if _CREDENTIAL.search(cookies):
            raise Leaked("a cookie", cookies)
    if len(headers.getall(hdrs.AUTHORIZATION, ())) > 1:
        raise Unauthenticated("Send one Authorization header.")


def _check_query(request: web.Request, query: str) -> None:
    if ("rk_" in query or "rd_" in query) and _CREDENTIAL.search(query):
        raise Leaked("the URL", query)
    text = query.lower()
    named = "key" in text or "token" in text or "auth" in text  # else none of the names, all of which have one of these
    if named and not CREDENTIAL_NAMES.isdisjoint(map(str.lower, request.query)):
        raise Leaked("the URL", query)


def _decoded(text: str) -> str:
    """Percent-decoded, once. A segment of the path that holds an escaped slash keeps it from counting as one."""
    if "%" not in text:
        return text
    try:
        plain = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise Malformed("The path or query is not UTF-8.", code="malformed_http") from None
    if _UNSAFE.search(plain):
        raise Malformed("The path or query has control characters.", code="malformed_http")
    return plain.replace("/", "%2F")


JSON = "application/json"
NDJSON = "application/x-ndjson"

# --- bodies -----------------------------------------------------------------------------------------------------------


def check_content(request: web.Request, *, also: str | None = None) -> str:
    """The media type of the body: plain JSON in UTF-8, or `also`.

    Raises Problem: unsupported_encoding, unsupported_media_type.
    """
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        encodings = [one.strip().lower() for one in headers.getall(hdrs.CONTENT_ENCODING)]
        if any(one not in {"", "identity"} for one in encodings):
            raise Problem("Send the body uncompressed, without Content-Encoding.", code="unsupported_encoding")
    kinds = headers.getall(hdrs.CONTENT_TYPE, ())
    if len(kinds) == 1:
        if kinds[0] == JSON:
            return JSON
        kind, _, parameters = kinds[0].lower().partition(";")
        charset = parameters.replace(" ", "").replace('"', "")
        if kind.strip() in {JSON, also} and charset in {"", "charset=utf-8"}:
            return kind.strip()
    wanted = JSON if also is None else f"{JSON} or {also}"
    raise Problem(f"Send one Content-Type: {wanted} (in UTF-8).", code="unsupported_media_type")


async def expect_later(request: web.Request) -> None:
    """For `expect_handler` of routes: `100 Continue` is said by `read_body`, once the caller is known and the body may
    come. aiohttp's own handler would say it before anything is checked."""


async def read_body(request: web.Request, *, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes.

    It may take 30 s, and after 5 s must have come at 1 KiB/s. Raises TooLarge; Malformed; Problem: request_timeout.
    """
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    content = request.content
    if content.is_eof():  # it came together with the head, as nearly all do
        body = content.read_nowait()
        if len(body) > limit:
            raise _too_large(limit)
        return body
    await _go_on(request)
    chunks = bytearray()
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(began_s + BODY_SLOW_S) as deadline:
            while chunk := await content.readany():
                chunks += chunk
                if len(chunks) > limit:
                    raise _too_large(limit)
                allowed_s = min(BODY_S, max(BODY_SLOW_S, len(chunks) / BODY_BYTES_PER_S_MIN))
                deadline.reschedule(began_s + allowed_s)
    except TimeoutError:
        raise Problem("The body took too long to arrive.", code="request_timeout") from None
    except (ConnectionError, web.RequestPayloadError):
        raise Malformed("The body was cut off or is not framed as announced.", code="malformed_http") from None
    return bytes(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may have {limit} bytes.")


async def _go_on(request: web.Request) -> None:
    expected = request.headers.get(hdrs.EXPECT)
    if expected is None or request.version != HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise Malformed("The only Expect that is understood is 100-continue.", code="malformed_http")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer itself has not begun


# --- callers who come too often ---------------------------------------------------------------------------------------


class RateLimiter:
    """A bucket for each caller, at most `keys_max` of them; the one not seen for longest goes first."""

    def __init__(self, *, rate_per_s: float, burst: float, keys_max: int = KEYS_MAX) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def remembered(self) -> tuple[int, int]:
        """Callers with a bucket, and how many may have one."""
        return len(self._buckets), self._keys_max

    def take(self, key: Hashable, now_ms: int, count: float = 1) -> bool:
        """Whether this caller may go on; if so, it has `count` less."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate_per_s, self._burst)
            if len(self._buckets) > self._keys_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now_ms, count)

    def empty(self, key: Hashable, now_ms: int) -> bool:
        """Whether this caller has nothing left, without taking anything."""
        bucket = self._buckets.get(key)
        return bucket is not None and bucket.available(now_ms) < 1


def network_of(remote: str | None) -> str:
    """What an address counts as: itself, or its /64 in IPv6. An IPv4 address in IPv6 form is what it is in IPv4."""
    try:
        address = ip_address(remote or "")
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(IPv6Address(int(address) >> 64 << 64))
    return str(address)


def slow_down(what: str) -> Throttled:
    """429, to be tried again in about a second."""
    return Throttled(f"Too many {what}; slow down.", retry_after_s=1)


def behind_proxies(trusted: Sequence[IPv4Network | IPv6Network]) -> Callable[[web.Request], web.Request]:
    """Gives a request that comes through these proxies its caller's address and scheme.

    That is the right-most one in X-Forwarded-For that is not a proxy itself; everything to the left of it the caller may
    have made up. From any other peer the header means nothing. `Forwarded` is never read: a proxy that writes the one
    header passes the other on as it came. The scheme is the right-most one in X-Forwarded-Proto.
    """

    @lru_cache(maxsize=4096)
    def ours(text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in trusted)

    def from_afar(request: web.Request) -> web.Request:
        remote = request.remote or ""
        if not ours(remote):
            return request
        hops = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ())).split(",")
        for hop in reversed(hops):
            try:
                remote = str(ip_address(hop.strip()))
            except ValueError:
                break
            if not ours(remote):
                break
        scheme = ",".join(request.headers.getall(hdrs.X_FORWARDED_PROTO, ())).rpartition(",")[2].strip().lower()
        return request.clone(remote=remote, scheme="https" if scheme == "https" else "http")

    return from_afar


def check_https(request: web.Request) -> None:
    """Only what came by HTTPS, as a trusted proxy says, goes on; and probes, which come straight. Raises Malformed."""
    if request.scheme != "https" and request.path not in {"/healthz", "/readyz"}:
        raise Malformed(
            "Call by HTTPS; what was sent in clear should be taken for seen by others.", code="https_required"
        )
