"""Firebase Cloud Messaging, HTTP v1, and the token endpoint before it: what they check and what they answer.

Source: vendor sheet fcm.md (Firebase and Google documents, autumn 2026).

A request goes through the checks in Google's order: credential, project, body; then a fault strikes, if one is due;
then the message reaches the phones. Only a request that passes every check can hit a fault of `messages:send`.
"""

import asyncio
import random
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from aiohttp import web

from providers.sandbox import fcm_faults
from providers.sandbox.account import ServiceAccount
from providers.sandbox.checks import Json, Violation
from providers.sandbox.faults import Answer, Ending, Fault, FaultBook, Place
from providers.sandbox.fcm_faults import FCM_FAULTS, invalid
from providers.sandbox.fcm_message import FcmRequest, check_request
from providers.sandbox.fcm_oauth import TokenEndpoint
from providers.sandbox.fcm_phone import content_of, platform_of
from providers.sandbox.fcm_topics import TOPIC
from providers.sandbox.phones import Phones

REQUESTS_KEPT = 1000  # the newest, for GET /_control/state
TOPICS_PER_PHONE_MAX = 2000
SUBSCRIBERS_MAX = 10_000
RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST, not FIN


@dataclass(frozen=True, slots=True)
class Seen:
    """One request to `messages:send`, for those who watch."""

    at: float
    target: str
    outcome: str


class FcmEmulator:
    """The routes of one Firebase project. Deliveries go to `phones`; `stopping` cuts slow answers short."""

    def __init__(
        self,
        account: ServiceAccount,
        phones: Phones,
        *,
        now: Callable[[], float],
        rng: random.Random,
        slow_s: float,
        stopping: asyncio.Event,
    ) -> None:
        self.faults = FaultBook(FCM_FAULTS, now=now)
        self.oauth = TokenEndpoint(account, now=now, rng=rng)
        self.outcomes: Counter[str] = Counter()
        self.seen: deque[Seen] = deque(maxlen=REQUESTS_KEPT)
        self._account = account
        self._projects = frozenset({account.project_id, account.project_number})
        self._phones = phones
        self._topics: dict[str, set[str]] = {}  # by registration token
        self._now = now
        self._rng = rng
        self._slow_s = slow_s
        self._stopping = stopping

    def routes(self) -> list[web.RouteDef]:
        registrations = "/v1/projects/{project}/registrations/{token}/topicSubscriptions"
        return [
            web.post("/token", self.token),
            web.post("/v1/projects/{project}/messages:send", self.send),
            web.post(registrations, self.subscribe),
            web.delete(registrations + "/{topic}", self.unsubscribe),
        ]

    def reset(self) -> None:
        """Forgets faults, subscriptions and numbers, and brings a deleted key back. Good access tokens stay good."""
        self.faults.clear()
        self.oauth.key_deleted = False
        self.outcomes.clear()
        self.seen.clear()
        self._topics.clear()

    async def token(self, request: web.Request) -> web.StreamResponse:
        """`POST /token`."""
        struck = self.faults.strike(Place.TOKEN)
        if struck is not None:
            name, fault = struck
            self.outcomes[f"token:{name}"] += 1
            return await self._fail(request, fault, fault.answer or await self._mint(request))
        answer = await self._mint(request)
        self.outcomes["token:minted" if answer.status == 200 else "token:refused"] += 1
        return _response(answer)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/projects/{project}/messages:send`."""
        sent = await self._checked(request)
        if isinstance(sent, Answer):
            outcome = f"refused:{sent.status}"
            self.outcomes[outcome] += 1
            self.seen.append(Seen(self._now(), "", outcome))
            return _response(sent)
        struck = self.faults.strike(Place.SEND, sent.target)
        if struck is None:
            self._note("accepted", sent)
            return _response(self._accept(sent))
        name, fault = struck
        self._note(name, sent)
        usual = self._accept(sent, arrives=fault.arrives)
        return await self._fail(request, fault, fault.answer or usual)

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        """`POST …/registrations/{token}/topicSubscriptions?topic_name=…`: a second time is 409."""
        refused = self._refused(request)
        if refused is not None:
            return _response(refused)
        token, topic = request.match_info["token"], request.query.get("topic_name", "")
        if not TOPIC.fullmatch(topic):
            return _response(invalid([Violation("topic_name", "Invalid topic name.", parsed=True)]))
        topics = self._topics.get(token, set())
        if topic in topics:
            return _response(fcm_faults.rpc_error(409, "ALREADY_EXISTS", "Requested entity already exists."))
        if len(topics) >= TOPICS_PER_PHONE_MAX or (not topics and len(self._topics) >= SUBSCRIBERS_MAX):
            return _response(fcm_faults.rpc_error(429, "RESOURCE_EXHAUSTED", "Too many topics."))
        self._topics.setdefault(token, topics).add(topic)
        return _response(Answer(status=200, body=b"{}"))

    async def unsubscribe(self, request: web.Request) -> web.StreamResponse:
        """`DELETE …/registrations/{token}/topicSubscriptions/{topic}?allow_missing=true`."""
        refused = self._refused(request)
        if refused is not None:
            return _response(refused)
        token, topic = request.match_info["token"], request.match_info["topic"]
        topics = self._topics.get(token, set())
        if topic not in topics and request.query.get("allow_missing") != "true":
            return _response(fcm_faults.rpc_error(404, "NOT_FOUND", "Requested entity was not found."))
        topics.discard(topic)
        if not topics:
            self._topics.pop(token, None)
        return _response(Answer(status=200, body=b"{}"))

    async def _mint(self, request: web.Request) -> Answer:
        if request.content_type != "application/x-www-form-urlencoded":
            return fcm_faults.oauth_error(400, "invalid_request", "The body must be application/x-www-form-urlencoded.")
        return self.oauth.answer(await request.read())

    async def _checked(self, request: web.Request) -> Answer | FcmRequest:
        refused = self._refused(request)
        if refused is not None:
            return refused
        if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
            return _unreadable("Content-Type must be application/json; charset=UTF-8.")
        try:
            raw = await request.read()
            body = msgspec.json.decode(raw)
        except web.HTTPRequestEntityTooLarge:
            return _unreadable("Request payload size exceeds the limit.")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _unreadable(f"Invalid JSON payload received. {error}")
        checked = check_request(body, body_bytes=len(raw))
        return checked if isinstance(checked, FcmRequest) else invalid(checked)

    def _refused(self, request: web.Request) -> Answer | None:
        scheme, _, access_token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.oauth.knows(access_token):
            return fcm_faults.UNAUTHENTICATED
        if request.match_info["project"] not in self._projects:
            return fcm_faults.NO_SUCH_PROJECT
        return None

    def _accept(self, sent: FcmRequest, *, arrives: bool = True) -> Answer:
        if sent.validate_only:
            message_id = "fake_message_id"
        else:
            message_id = f"0:{int(self._now() * 1e6)}%{self._rng.getrandbits(64):016x}"
        name = f"projects/{self._account.project_id}/messages/{message_id}"
        if arrives and not sent.validate_only:
            message = msgspec.json.encode(sent.message)
            for token in self._receivers(sent):
                content = content_of(sent, name=name, platform=platform_of(token))
                self._phones.deliver(token, content, message=message)
        return Answer(status=200, body=msgspec.json.encode({"name": name}))

    def _receivers(self, sent: FcmRequest) -> Iterable[str]:
        if sent.kind == "topic":
            return [token for token, topics in self._topics.items() if sent.target in topics]
        if sent.addresses is not None:
            return [token for token, topics in self._topics.items() if sent.addresses(topics)]
        return (sent.target,)

    def _note(self, outcome: str, sent: FcmRequest) -> None:
        self.outcomes[outcome] += 1
        self.seen.append(Seen(self._now(), sent.target, outcome))

    async def _fail(self, request: web.Request, fault: Fault, answer: Answer) -> web.StreamResponse:
        if fault.ending is Ending.RESET:
            _reset(request)
        elif fault.ending is Ending.SLOW:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._slow_s if fault.delay_s is None else fault.delay_s):
                    await self._stopping.wait()
        return _response(answer)


def state_of(emulator: FcmEmulator) -> Json:
    """What GET /_control/state tells of it."""
    return {
        "outcomes": dict(emulator.outcomes),
        "key_deleted": emulator.oauth.key_deleted,
        "faults": [msgspec.to_builtins(rule) for rule in emulator.faults.rules()],
        "requests": [msgspec.to_builtins(seen) for seen in emulator.seen],
    }


def _unreadable(sentence: str) -> Answer:
    return fcm_faults.rpc_error(400, "INVALID_ARGUMENT", sentence)


def _response(answer: Answer) -> web.Response:
    headers = {"Content-Type": answer.content_type}
    if answer.retry_after is not None:
        headers["Retry-After"] = answer.retry_after
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _reset(request: web.Request) -> None:
    """Cuts the connection so that the client sees ECONNRESET rather than an orderly end."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_ONCE)
    transport.abort()
