"""What a vendor's emulator is, and what the sandbox gives it.

Write one from the vendor's sheet alone, as a class with a name, a table of faults, routes and account settings; add it
to `registry.py`. All of an invented vendor:

    class AcmeEmulator(Emulator):
        name = "acme"
        known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
            Place.SEND: {
                **NETWORK_FAULTS,
                "unregistered": Fault(meaning="404: the app was removed", answer=json_answer(404, {"error": "gone"})),
                "unavailable": Fault(meaning="503", answer=json_answer(503, {})),
            }
        }

        def routes(self) -> list[web.RouteDef]:
            return [web.post("/acme/v2/messages", self.send)]

        def settings(self) -> Json:
            return {"key": KEY, "base_url": self.url}

        async def send(self, request: web.Request) -> web.StreamResponse:
            if self.revoked or request.headers.get("Authorization") != f"Bearer {KEY}":
                return self.refuse(json_answer(401, {"error": "auth"}))
            message = read_json(await request.read())
            if not isinstance(message, dict):  # and whatever else the vendor checks, with its answer to each mistake
                return self.refuse(json_answer(400, {"error": "json"}))
            return await self.reply(request, message["to"], lambda: self.taken(message), json_answer(200, {"id": "1"}))

        def taken(self, message: Json) -> None:
            self.deliver(message["to"], title=message["title"], body=message["body"], message=message)
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from aiohttp import web

from providers.sandbox.authority import Authority
from providers.sandbox.checks import Json
from providers.sandbox.faults import Answer, Ending, Fault, FaultBook, Place
from providers.sandbox.http2_streams import StreamTransport
from providers.sandbox.phones import Content, Phones
from providers.sandbox.resets import reset

REQUESTS_KEPT = 1000  # the newest, for GET /_control/state

# One vocabulary for what goes wrong, so that a test or a demo can ask any vendor for it. Every emulator has the words
# in REQUIRED; the others it has where its vendor can fail so. Beside these, each has words for its own codes.
COMMON_FAULTS = {
    "unregistered": "the address is dead: the app was removed",
    "throttled": "too many requests for now",
    "unavailable": "the vendor's servers are ill",
    "slow": "the usual answer, late: the message arrives at once",
    "reset": "connection reset after the message was taken",
    "cut": "connection reset, the message was not taken",
    "garbage": "an answer that makes no sense: the message was taken",
    "quota": "the quota is used up",
    "revoked": "the credential is not taken any more",
    "goaway": "HTTP/2 GOAWAY: the stream was not worked on",
}
REQUIRED_FAULTS = frozenset({"unavailable", "slow", "reset", "cut", "garbage"})

NETWORK_FAULTS: dict[str, Fault] = {
    "slow": Fault(meaning=COMMON_FAULTS["slow"], arrives=True, ending=Ending.SLOW),
    "reset": Fault(meaning=COMMON_FAULTS["reset"], arrives=True, ending=Ending.RESET),
    "cut": Fault(meaning=COMMON_FAULTS["cut"], ending=Ending.RESET),
    "garbage": Fault(
        meaning=COMMON_FAULTS["garbage"], answer=Answer(status=200, body=b'\x00\xff{"id": '), arrives=True
    ),
}


@dataclass(slots=True, kw_only=True)
class Host:
    """The sandbox, as an emulator sees it. `now` gives seconds since 1970; `url`, of the vendors, is known from the first
    start on."""

    phones: Phones
    now: Callable[[], float]
    rng: random.Random
    slow_s: float
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # cuts slow answers short
    state_dir: Path | None = None  # where keys are kept; None: in memory only
    url: str = ""
    _authority: Authority | None = None

    @property
    def authority(self) -> Authority:
        """The throw-away CA behind every TLS listener; made on first use. Blocks: call it in `prepare`, in a thread."""
        if self._authority is None:
            self._authority = Authority.open(self.state_dir)
        return self._authority


@dataclass(frozen=True, slots=True)
class Seen:
    """One push that the vendor was asked for, for those who watch."""

    at: float
    target: str
    outcome: str


class Emulator(ABC):
    """One vendor. Everything it answers is the vendor's own; what it keeps outlives a stop of the sandbox."""

    name: ClassVar[str]  # also the provider's, and the prefix of its routes
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]]

    def __init__(self, host: Host) -> None:
        self.host = host
        self.faults = FaultBook(self.known_faults, now=host.now)
        self.outcomes: Counter[str] = Counter()
        self.seen: deque[Seen] = deque(maxlen=REQUESTS_KEPT)
        self.revoked = False  # the credential is not taken any more; checked by each emulator in its vendor's order

    @property
    def url(self) -> str:
        """Where the routes are: `http://127.0.0.1:9090/acme`."""
        return f"{self.host.url}/{self.name}"

    async def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Makes keys and certificates, before the first start. Raises ValueError for a spoilt file."""

    @abstractmethod
    def routes(self) -> list[web.RouteDef]:
        """On the sandbox's own listener, each path with `/NAME` in front."""

    @abstractmethod
    def settings(self) -> Json:
        """The account's settings for this vendor's provider, secrets in it. For use after the start."""

    def settings_in_files(self) -> Json:
        """The same for a configuration file: what is long stands in a file of `state_dir`."""
        return self.settings()

    def address(self, phone: str) -> str:
        """The token that an app on this virtual phone would have registered. Faults go by the phone's name."""
        return phone

    async def open(self, host: str, port: int) -> None:  # noqa: B027 - few have a listener of their own
        """Starts a listener of its own, at port 0 on a free one. Raises OSError."""

    async def close(self) -> None:  # noqa: B027
        """Ends that listener."""

    def revoke(self, *, key: bool) -> None:
        """The credential (`key`), or only what was issued for it (access tokens), is not taken any more."""
        self.revoked = self.revoked or key

    def reset(self) -> None:
        """As new, but for what was issued."""
        self.faults.clear()
        self.outcomes.clear()
        self.seen.clear()
        self.revoked = False

    def state(self) -> Json:
        """What GET /_control/state tells of it."""
        return {
            "outcomes": dict(self.outcomes),
            "key_deleted": self.revoked,
            "faults": [msgspec.to_builtins(rule) for rule in self.faults.rules()],
            "requests": [msgspec.to_builtins(seen) for seen in self.seen],
        }

    def note(self, outcome: str, target: str = "") -> None:
        """Counts a push and keeps it for those who watch."""
        self.outcomes[outcome] += 1
        self.seen.append(Seen(self.host.now(), target, outcome))

    def refuse(self, answer: Answer, target: str = "") -> web.Response:
        """Answers a request that did not pass the vendor's checks."""
        self.note(f"refused:{answer.status}", target)
        return response(answer)

    async def reply(
        self, request: web.Request, target: str, take: Callable[[], object], usual: Answer
    ) -> web.StreamResponse:
        """Answers a request that passed: `take` brings the message to its phone, unless a fault prevents it."""
        struck = self.faults.strike(Place.SEND, target)
        if struck is None:
            self.note("accepted", target)
            take()
            return response(usual)
        name, fault = struck
        self.note(name, target)
        if fault.arrives:
            take()
        return await self.fail(request, fault, fault.answer or usual)

    async def fail(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        """The fault's ending: the answer at once, late, or never."""
        if fault.ending is Ending.RESET:
            reset_connection(request)
        elif fault.ending is Ending.GOAWAY:
            say_goodbye(request)
        elif fault.ending is Ending.SLOW:
            await self.linger(fault)
        return response(answer)

    async def linger(self, fault: Fault) -> None:
        """Until a slow answer is due, or the sandbox stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.host.slow_s if fault.delay_s is None else fault.delay_s):
                await self.host.stopping.wait()

    def deliver(
        self,
        target: str,
        *,
        message: Json,
        title: str | None = None,
        body: str | None = None,
        platform: str = "android",
        **said: Any,
    ) -> None:
        """Brings a message to a phone: it shows what has words. `said`: further fields of `Content`, in its words."""
        said.setdefault("shown_by", "system" if title or body else None)
        said.setdefault("name", f"{self.name}-{len(self.seen)}")
        said.setdefault("kind", "token")
        content = Content(vendor=self.name, platform=platform, title=title, body=body, **said)
        self.host.phones.deliver(target, content, message=msgspec.json.encode(message))


def json_answer(status: int, body: object, *, retry_after: str | None = None) -> Answer:
    return Answer(status=status, body=msgspec.json.encode(body), retry_after=retry_after)


def response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type, **dict(answer.headers)}
    if answer.retry_after is not None:
        headers["Retry-After"] = answer.retry_after
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def say_goodbye(request: web.Request) -> None:
    """GOAWAY; a connection of HTTP/1.1, which has no such word, is cut."""
    if isinstance(request.transport, StreamTransport):
        request.transport.goodbye()
    else:
        reset_connection(request)


def reset_connection(request: web.Request) -> None:
    """By HTTP/2, too, it is the whole connection."""
    if request.transport is not None:
        reset(request.transport)
