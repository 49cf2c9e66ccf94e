"""Push servers of UnifiedPush: a strict one, ntfy in its UnifiedPush mode, and one of the time before encryption.

Source: vendor sheet unifiedpush.md (AND_3, SERV_1.2.0, ntfy 2.13): request §4, answers §5, ntfy §6, profiles §11. The
kind of server is the first part of the path: `/unifiedpush/ntfy/NAME?up=1`, where NAME is the phone's.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import ClassVar

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.emulator import NETWORK_FAULTS, Emulator, Host, json_answer
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.webpush import deliver
from providers.sandbox.webpush_crypto import (
    Browser,
    SignatureRefused,
    Unreadable,
    judged,
    key_named,
    point_of,
    text_of,
)

BODY_BYTES_MAX = 4096
CACHED_S = 12 * 3600  # ntfy's, whatever TTL says
KINDS = ("strict", "ntfy", "legacy")

_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_PUSH_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")  # of the header; _TOPIC is ntfy's word for an endpoint
_DIGITS = re.compile(r"[0-9]{1,10}")


def ntfy_error(code: int, sentence: str, *, retry_after: str | None = None) -> Answer:
    body = {"code": code, "http": code // 100, "error": sentence, "link": "https://ntfy.sh/docs/publish/"}
    return json_answer(code // 100, body, retry_after=retry_after)


def _bare(status: int, meaning: str, *, retry_after: str | None = None) -> Fault:
    return Fault(meaning=f"{status}: {meaning}", answer=Answer(status=status, body=b"", retry_after=retry_after))


def _ntfy(code: int, sentence: str) -> Fault:
    return Fault(meaning=f"ntfy's {code}: {sentence}", answer=ntfy_error(code, sentence))


LOGIN_WANTED = ntfy_error(40101, "unauthorized")


class UnifiedPushEmulator(Emulator):
    """Three servers, and an app behind each that decrypts and shows."""

    name = "unifiedpush"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            "moved": Fault(
                meaning="301: elsewhere",
                answer=Answer(status=301, body=b"", headers=(("Location", "https://elsewhere.example/"),)),
            ),
            "badrequest": _bare(400, "something about the request"),
            "login": _bare(401, "the server wants a login or a signature"),
            "forbidden": _bare(403, "write-protected"),
            "notfound": _bare(404, "there is no such endpoint"),
            "unregistered": _bare(410, "the app unregistered"),
            "toobig": _bare(413, "more than 4096 bytes"),
            "throttled": _bare(429, "too many for this endpoint", retry_after="30"),
            "throttledbare": _bare(429, "the same without Retry-After"),
            "internal": _bare(500, "a fault of the server"),
            "unavailable": _bare(503, "the server is ill"),
            "nobody": _bare(507, "nobody is listening"),
            "ntfylogin": _ntfy(40101, "unauthorized"),
            "ntfyforbidden": _ntfy(40301, "forbidden"),
            "ntfypath": _ntfy(40401, "page not found"),
            "ntfyrate": _ntfy(42901, "limit reached: too many requests"),
            "ntfyquota": _ntfy(42908, "limit reached: daily message quota reached"),
            "ntfyinternal": _ntfy(50001, "internal server error"),
            "ntfynobody": _ntfy(50701, "cannot publish to UnifiedPush topic without previously active subscriber"),
        }
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._key = key_named("application server of the sandbox")
        self.public_key = text_of(point_of(self._key))
        self.unreadable = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/unifiedpush/{kind}/{phone}", self.send),
            web.get("/unifiedpush/{kind}/{phone}", self.discover, allow_head=False),
        ]

    def settings(self) -> Json:
        return {
            "vapid_private_key": text_of(self._key.private_numbers().private_value.to_bytes(32)),
            "vapid_subject": "mailto:sandbox@relay.example",
            "exempt": [self.host.url.partition("://")[2]],  # this machine, and its port
            "allow_plaintext": True,
        }

    def address(self, phone: str) -> str:
        return self.registration(phone)

    def registration(self, phone: str, kind: str = "strict", *, signed: bool = False) -> str:
        """What the app would register. `signed`: it passed our public key on to its push server."""
        receiver = Browser.named(phone)
        given: Json = {"endpoint": f"{self.url}/{kind}/{phone}{'?up=1' if kind == 'ntfy' else ''}"}
        if kind != "legacy":
            given["keys"] = {"p256dh": text_of(point_of(receiver.key)), "auth": text_of(receiver.auth)}
        if signed:
            given["vapid"] = self.public_key
        return msgspec.json.encode(given).decode()

    def state(self) -> Json:
        return {**super().state(), "public_key": self.public_key, "unreadable": self.unreadable}

    def reset(self) -> None:
        super().reset()
        self.unreadable = 0

    async def discover(self, request: web.Request) -> web.StreamResponse:
        """`GET <endpoint>`: what servers once said of themselves; ntfy still does, for `up=1`."""
        kind = request.match_info["kind"]
        if kind == "legacy" or (kind == "ntfy" and request.query.get("up") == "1"):
            return web.json_response({"unifiedpush": {"version": 1}})
        raise web.HTTPNotFound

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST <endpoint>`."""
        kind, phone = request.match_info["kind"], request.match_info["phone"]
        body = await request.read()
        refused = self._refused(request, kind, phone, body)
        if refused is not None:
            return self.refuse(refused, phone)
        usual = Answer(status=201, body=b"", headers=(("TTL", "0"),))
        if kind == "ntfy":
            body = body[:BODY_BYTES_MAX]  # without a word
            usual = json_answer(200, self._published(phone, body))
        return await self.reply(request, phone, lambda: self._show(phone, request, body), usual)

    def _refused(self, request: web.Request, kind: str, phone: str, body: bytes) -> Answer | None:
        headers = request.headers
        match kind:
            case "ntfy":
                # Only the query or the encoding makes it UnifiedPush; any other Authorization is a login to it.
                if "Authorization" in headers or self.revoked:
                    return LOGIN_WANTED
                return None if _TOPIC.fullmatch(phone) else ntfy_error(40009, "invalid request: topic invalid")
            case "legacy":
                if not body:
                    return Answer(status=400, body=b"")
                return Answer(status=413, body=b"") if len(body) > BODY_BYTES_MAX else None
            case "strict":
                if not _DIGITS.fullmatch(headers.get("TTL", "")):
                    return Answer(status=400, body=b"")
                if headers.get("Urgency", "normal") not in {"very-low", "low", "normal", "high"}:
                    return Answer(status=400, body=b"")
                if "Topic" in headers and not _PUSH_TOPIC.fullmatch(headers["Topic"]):  # webpush §4
                    return Answer(status=400, body=b"")
                if not body or headers.get("Content-Encoding") != "aes128gcm":
                    return Answer(status=400, body=b"")
                if len(body) > BODY_BYTES_MAX:
                    return Answer(status=413, body=b"")
                return self._unsigned(request)
        return Answer(status=404, body=b"")

    def _unsigned(self, request: web.Request) -> Answer | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        try:
            signature = judged(header, origin=f"{request.scheme}://{request.host}", now=self.host.now())
        except SignatureRefused:
            return Answer(status=401, body=b"")
        wrong = self.revoked or signature.public_key != self.public_key
        return Answer(status=403, body=b"") if wrong else None

    def _published(self, topic: str, body: bytes) -> Json:
        now = int(self.host.now())
        return {
            "id": f"{self.host.rng.getrandbits(60):012x}"[:12],
            "time": now,
            "expires": now + CACHED_S,
            "event": "message",
            "topic": topic,
            "message": b64encode(body).decode(),
            "encoding": "base64",
        }

    def _show(self, phone: str, request: web.Request, body: bytes) -> None:
        try:
            shown = read_json(Browser.named(phone).read(body) if request.headers.get("Content-Encoding") else body)
        except Unreadable:
            shown = None
        if not isinstance(shown, dict):
            self.unreadable += 1
            return
        deliver(self, phone, shown, priority=request.headers.get("Urgency"))
