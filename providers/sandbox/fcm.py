"""Firebase Cloud Messaging, HTTP v1, and the token endpoint before it: what they check and what they answer.

Source: vendor sheet fcm.md (Firebase and Google documents, autumn 2026).

A request goes through the checks in Google's order: credential, project, body; then a fault strikes, if one is due;
then the message reaches the phones. Only a request that passes every check can hit a fault of `messages:send`. For tests,
`POST /fcm/phones/NAME/off` and `…/on` switch a phone off and on.
"""

import asyncio
from collections.abc import Iterable

import msgspec
from aiohttp import web

from providers.sandbox import fcm_faults
from providers.sandbox.account import open_account
from providers.sandbox.checks import Json, Violation
from providers.sandbox.emulator import Emulator, Host, response
from providers.sandbox.faults import Answer, Place
from providers.sandbox.fcm_faults import FCM_FAULTS, invalid
from providers.sandbox.fcm_message import FcmRequest, check_request
from providers.sandbox.fcm_oauth import TokenEndpoint
from providers.sandbox.fcm_phone import content_of, platform_of
from providers.sandbox.fcm_store import Store
from providers.sandbox.fcm_topics import TOPIC

PROJECT_ID = "relay-sandbox"
TOPICS_PER_PHONE_MAX = 2000
SUBSCRIBERS_MAX = 10_000


class FcmEmulator(Emulator):
    """The routes of one Firebase project, at Google's own paths."""

    name = "fcm"
    known_faults = FCM_FAULTS

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._topics: dict[str, set[str]] = {}  # by registration token
        self._store = Store(now=host.now, rng=host.rng)

    async def prepare(self) -> None:
        """The service account and its key. Raises ValueError for a spoilt file."""
        rng = self.host.rng
        self.account = await asyncio.to_thread(open_account, self.host.state_dir, project_id=PROJECT_ID, rng=rng)
        self.oauth = TokenEndpoint(self.account, now=self.host.now, rng=rng)
        self._projects = frozenset({self.account.project_id, self.account.project_number})

    @property
    def url(self) -> str:
        return self.host.url

    def settings(self) -> Json:
        return {"service_account": dict(self.account.document), **self._addresses()}

    def settings_in_files(self) -> Json:
        """Raises ValueError if the account is in memory only."""
        if self.account.file is None:
            raise ValueError("A TOML table names the service account's file: give the sandbox a state_dir.")
        return {"service_account_file": str(self.account.file), **self._addresses()}

    def _addresses(self) -> Json:
        return {"base_url": self.url, "token_url": f"{self.url}/token"}

    def routes(self) -> list[web.RouteDef]:
        registrations = "/v1/projects/{project}/registrations/{token}/topicSubscriptions"
        return [
            web.post("/token", self.token),
            web.post("/v1/projects/{project}/messages:send", self.send),
            web.post(registrations, self.subscribe),
            web.delete(registrations + "/{topic}", self.unsubscribe),
            web.post("/fcm/phones/{phone}/{state:on|off}", self._switch),
        ]

    def revoke(self, *, key: bool) -> None:
        self.oauth.revoke_tokens()
        if key:
            self.oauth.key_deleted = True

    def reset(self) -> None:
        """Forgets faults, subscriptions and numbers, and brings a deleted key back. Good access tokens stay good."""
        super().reset()
        self.oauth.key_deleted = False
        self._topics.clear()
        self._store.clear()

    def state(self) -> Json:
        kept = {"off": sorted(self._store.off), "stored": len(self._store)}
        return {**super().state(), "key_deleted": self.oauth.key_deleted, **kept}

    def switch_off(self, phone: str) -> None:
        self._store.off.add(phone)

    def switch_on(self, phone: str) -> None:
        """It gets what was kept for it, if that is still good."""
        for one in self._store.switch_on(phone):
            self.host.phones.deliver(phone, one.content, message=one.message)

    async def _switch(self, request: web.Request) -> web.Response:
        switch = self.switch_on if request.match_info["state"] == "on" else self.switch_off
        switch(request.match_info["phone"])
        return web.Response(status=204)

    async def token(self, request: web.Request) -> web.StreamResponse:
        """`POST /token`."""
        struck = self.faults.strike(Place.TOKEN)
        if struck is not None:
            name, fault = struck
            self.outcomes[f"token:{name}"] += 1
            return await self.fail(request, fault, fault.answer or await self._mint(request))
        answer = await self._mint(request)
        self.outcomes["token:minted" if answer.status == 200 else "token:refused"] += 1
        return response(answer)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/projects/{project}/messages:send`."""
        sent = await self._checked(request)
        if isinstance(sent, Answer):
            return self.refuse(sent)
        struck = self.faults.strike(Place.SEND, sent.target)
        if struck is None:
            self.note("accepted", sent.target)
            return response(self._accept(sent))
        name, fault = struck
        self.note(name, sent.target)
        usual = self._accept(sent, arrives=fault.arrives)
        return await self.fail(request, fault, fault.answer or usual)

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        """`POST …/registrations/{token}/topicSubscriptions?topic_name=…`: a second time is 409."""
        refused = self._refused(request)
        if refused is not None:
            return response(refused)
        token, topic = request.match_info["token"], request.query.get("topic_name", "")
        if not TOPIC.fullmatch(topic):
            return response(invalid([Violation("topic_name", "Invalid topic name.", parsed=True)]))
        topics = self._topics.get(token, set())
        if topic in topics:
            return response(fcm_faults.rpc_error(409, "ALREADY_EXISTS", "Requested entity already exists."))
        if len(topics) >= TOPICS_PER_PHONE_MAX or (not topics and len(self._topics) >= SUBSCRIBERS_MAX):
            return response(fcm_faults.rpc_error(429, "RESOURCE_EXHAUSTED", "Too many topics."))
        self._topics.setdefault(token, topics).add(topic)
        return response(Answer(status=200, body=b"{}"))

    async def unsubscribe(self, request: web.Request) -> web.StreamResponse:
        """`DELETE …/registrations/{token}/topicSubscriptions/{topic}?allow_missing=true`."""
        refused = self._refused(request)
        if refused is not None:
            return response(refused)
        token, topic = request.match_info["token"], request.match_info["topic"]
        topics = self._topics.get(token, set())
        if topic not in topics and request.query.get("allow_missing") != "true":
            return response(fcm_faults.rpc_error(404, "NOT_FOUND", "Requested entity was not found."))
        topics.discard(topic)
        if not topics:
            self._topics.pop(token, None)
        return response(Answer(status=200, body=b"{}"))

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
        if not self.oauth.may_send(access_token):
            return fcm_faults.SCOPE_INSUFFICIENT
        if request.match_info["project"] not in self._projects:
            return fcm_faults.NO_SUCH_PROJECT
        return None

    def _accept(self, sent: FcmRequest, *, arrives: bool = True) -> Answer:
        if sent.validate_only:
            message_id = "fake_message_id"
        else:
            message_id = f"0:{int(self.host.now() * 1e6)}%{self.host.rng.getrandbits(64):016x}"
        name = f"projects/{self.account.project_id}/messages/{message_id}"
        if arrives and not sent.validate_only:
            message = msgspec.json.encode(sent.message)
            for token in self._receivers(sent):
                content = content_of(sent, name=name, platform=platform_of(token))
                if content is None:
                    self.note("dropped", token)
                elif token in self._store.off:
                    self._store.keep(token, content, sent.message, message)
                else:
                    self.host.phones.deliver(token, content, message=message)
        return Answer(status=200, body=msgspec.json.encode({"name": name}))

    def _receivers(self, sent: FcmRequest) -> Iterable[str]:
        if sent.kind == "topic":
            return [token for token, topics in self._topics.items() if sent.target in topics]
        if sent.addresses is not None:
            return [token for token, topics in self._topics.items() if sent.addresses(topics)]
        return (sent.target,)


def _unreadable(sentence: str) -> Answer:
    return fcm_faults.rpc_error(400, "INVALID_ARGUMENT", sentence)
