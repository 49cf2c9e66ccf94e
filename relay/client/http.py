"""One HTTP call to a relay: its answer, or a `Problem` (RFC 9457), or `Unreachable`."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec

CALL_S = 30.0
AFTER_S_MAX = 86_400.0
JSON, PROBLEM = "application/json", "application/problem+json"
BODILESS = frozenset({204, 304})
UNREADABLE = (ValueError, RecursionError)  # raised of what is no JSON, or nests deeper than any of the relay's
T = TypeVar("T")
_object = msgspec.json.Decoder(dict[str, Any])


class ClientError(Exception):
    """Base of what this client raises."""


class Unreachable(ClientError):  # noqa: N818 - an outcome
    """No answer: nobody can say whether the relay did it. Repeat it with the same key."""


class AnotherUser(ClientError):  # noqa: N818 - the word of the problem
    """The cache holds another user's messages than the token is for; nothing of it was touched. Open another file."""


class Problem(ClientError):  # noqa: N818 - it is the word of RFC 9457
    """A refusal. `code` is a word of the relay's registry, `errors` name the fields and how to mend them.

    One that is not `of_the_relay` came from something before it (a proxy's page, say), and decides nothing. It is
    `of_a_repeat` where an earlier try of the same call may have been done, whose answer was lost.
    """

    of_a_repeat = False

    def __init__(self, status: int, body: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        """`retry_after_s`: where the body does not say how long to wait."""
        self.status = status
        self.body = dict(body)
        self.of_the_relay = isinstance(body.get("code"), str)
        self.code = body["code"] if self.of_the_relay else f"http_{status}"
        self.detail = str(body.get("detail", "")) if self.of_the_relay else "The answer is not the relay's."
        errors = body.get("errors") if self.of_the_relay else None
        listed = errors if isinstance(errors, list) else []
        self.errors: list[dict[str, str]] = [one for one in listed if isinstance(one, dict)]
        self.retryable = bool(body.get("retryable", status in {408, 429, 502, 503, 504}))
        self.retry_after_s = retry_after_s
        after_ms = body.get("retry_after_ms")
        if isinstance(after_ms, int | float) and 0 <= after_ms <= AFTER_S_MAX * 1000:
            self.retry_after_s = after_ms / 1000
        where = "".join(f"; {one.get('pointer', '')}: {one.get('detail', '')}" for one in self.errors)
        super().__init__(f"{status} {self.code}: {self.detail}{where}")


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx or 304."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> dict[str, Any]:
        """Raises Unreachable: where the relay answers with a body, it is an object."""
        return self.read(_object.decode)

    def having(self, *members: str) -> dict[str, Any]:
        """The same of an answer that has these members, as any of the relay's has. Raises Unreachable."""
        body = self.json
        if not body.keys() >= set(members):
            raise Unreachable("the answer is not the relay's")
        return body

    def read(self, reader: Callable[[bytes], T]) -> T:
        """The body as `reader` has it. Raises Unreachable where that raises one of UNREADABLE: it is none of the relay's."""
        try:
            return reader(self.body)
        except UNREADABLE as error:
            raise Unreachable("the answer is not the relay's") from error


def base_of(url: str) -> str:
    """The relay's address, without a slash at its end. Raises ValueError for one that nothing would ever be found at."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r} is no URL of a relay: it begins with http:// or https://")
    return url.rstrip("/")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What a Retry-After asks for in seconds. None: nothing, a date, or longer than any relay asks for."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and float(text) <= AFTER_S_MAX else None


def problem_of(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    """The problem in an answer; of one that is none, one that has its status. Others have a `code`, too, in their JSON."""
    said: dict[str, Any] = {}
    if headers.get("Content-Type", "").startswith(PROBLEM):
        with suppress(*UNREADABLE):
            said = _object.decode(body)
    if not isinstance(said.get("code"), str):
        said = {}
    return Problem(status, said, retry_after_s(headers))


async def once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """For a session whose caller must know of each try: aiohttp repeats by itself what its method calls idempotent, where the
    connection ends."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(type(error).__name__) from error  # which it does not repeat


async def call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    credential: str,
    body: Any = None,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = CALL_S,
) -> Answer:
    """One request, once. Raises Problem; Unreachable, also where something before the relay answers as if it were well."""
    sent = {"Authorization": f"Bearer {credential}", **(headers or {})}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with session.request(
            method, url, json=body, params=params, headers=sent, timeout=timeout, allow_redirects=False
        ) as answer:
            read = await answer.read()
            if answer.status < 300 or answer.status == 304:
                if answer.status not in BODILESS and answer.content_type != JSON:
                    raise Unreachable(f"{method} {url}: the answer is not the relay's")
                return Answer(answer.status, read, answer.headers)
            raise problem_of(answer.status, answer.headers, read)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"{method} {url}: {type(error).__name__}") from error
