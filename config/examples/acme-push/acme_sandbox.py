"""Acme Push as the sandbox emulates it. Written from Acme's document alone: it shares nothing with the adapter."""

from collections.abc import Mapping
from typing import Any, ClassVar

from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import form_of
from providers.sandbox.emulator import NETWORK_FAULTS, Emulator, json_answer
from providers.sandbox.faults import Answer, Fault, Place

PROJECT, CLIENT, SECRET = "demo", "acme-client", "acme-secret"
LIFE_S = 3600
TTL_S_MAX = 604_800
BODY_BYTES_MAX = 4096


def error(status: int, word: str, *, retry_after: str | None = None) -> Answer:
    return json_answer(status, {"error": word}, retry_after=retry_after)


class AcmeEmulator(Emulator):
    """The token endpoint and `messages` of one project."""

    name = "acme"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            "unregistered": Fault(meaning="404: the app was removed", answer=error(404, "token.unregistered")),
            "malformed": Fault(meaning="400: no token of Acme's", answer=error(400, "token.malformed")),
            "throttled": Fault(meaning="429 of the project", answer=error(429, "rate.project", retry_after="30")),
            "devicerate": Fault(meaning="429 of one device", answer=error(429, "rate.device")),
            "unavailable": Fault(meaning="503 without a word", answer=json_answer(503, {})),
            "revoked": Fault(meaning="403: another project's", answer=error(403, "auth.wrong_project")),
        }
    }

    def __init__(self, host: Any) -> None:
        super().__init__(host)
        self._bearers: dict[str, float] = {}  # and until when each is good
        self._known: set[str] = set()  # keys of what was taken: it is shown once (request 4)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/acme/oauth/token", self.token),
            web.post("/acme/v2/{project}/messages", self.send),
        ]

    def settings(self) -> Json:
        return {"project": PROJECT, "client_id": CLIENT, "client_secret": SECRET, "base_url": f"{self.url}/"}

    def reset(self) -> None:
        super().reset()
        self._known.clear()

    def revoke(self, *, key: bool) -> None:
        super().revoke(key=key)
        self._bearers.clear()

    async def token(self, request: web.Request) -> web.StreamResponse:
        form = await form_of(request)
        known = (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        if self.revoked or form.get("grant_type") != "client_credentials" or not known:
            return self.refuse(error(401, "invalid_client"))
        bearer = f"{self.host.rng.getrandbits(128):032x}"
        self._bearers[bearer] = self.host.now() + LIFE_S
        return web.json_response({"access_token": bearer, "token_type": "bearer", "expires_in": LIFE_S})

    async def send(self, request: web.Request) -> web.StreamResponse:
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._bearers.get(bearer, 0.0) <= self.host.now():
            return self.refuse(error(401, "auth.expired"))
        if request.match_info["project"] != PROJECT:
            return self.refuse(error(403, "auth.wrong_project"))
        body = await request.read()
        if len(body) > BODY_BYTES_MAX:
            return self.refuse(error(413, "payload.too_big"))
        message = _message(read_json(body))
        if message is None or "idempotency-key" not in request.headers:
            return self.refuse(error(400, "payload.invalid"))
        key = request.headers["idempotency-key"]
        return await self.reply(
            request, str(message["to"]), lambda: self._take(message, key), json_answer(200, {"id": f"a-{key}"})
        )

    def _take(self, message: Json, key: str) -> None:
        if key in self._known:
            return
        self._known.add(key)
        shown = message.get("notification")
        shown = shown if isinstance(shown, dict) else {}
        self.deliver(
            str(message["to"]),
            title=shown.get("title"),
            body=shown.get("body"),
            channel=shown.get("channel"),
            data=message["data"],
            name=f"a-{key}",
            collapse=message.get("collapse"),
            message=message,
        )


def _message(given: object) -> Json | None:
    """The message, if every field is as Acme wants it (request 4)."""
    if not isinstance(given, dict) or given.keys() - {"to", "data", "ttl", "priority", "notification", "collapse"}:
        return None
    right = (
        isinstance(given.get("to"), str),
        isinstance(given.get("data"), dict),
        type(given.get("ttl")) is int and 0 <= given["ttl"] <= TTL_S_MAX,
        given.get("priority") in ("high", "normal"),
        isinstance(given.get("notification", {}), dict),
        isinstance(given.get("collapse", ""), str),
    )
    return given if all(right) else None
