"""A gateway of one's own: it verifies each call as Standard Webhooks asks, drops what it knows, and shows the rest.

Source: vendor sheet others.md §3 (Standard Webhooks 1.0.0): request 3.1, outcomes 3.3. What `data` holds, and how a gateway
says that a device is gone, is the relay's own; it is written from the guide (config/docs/providers.md, "A gateway of your own").
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import ClassVar

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, Emulator, Host, json_answer
from providers.sandbox.faults import Answer, Fault, Place

SECRET = "whsec_" + b64encode(sha256(b"gateway of the sandbox").digest()).decode()  # anybody may know it
AGE_S_MAX = 300  # of a timestamp, either way
BODY_BYTES_MAX = 20_000
IDS_KEPT = 10_000  # of calls that were taken; then the oldest is forgotten

_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}")  # without the dot, which parts the signed text
_SECONDS = re.compile(r"[0-9]{1,12}")
_TYPE = re.compile(r"[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)*")


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """`data`: a push in the words of the send. What it does not name, the gateway would not have understood."""

    id: str
    token: str
    kind: str
    silent: bool
    urgent: bool
    ttl_s: float
    data: dict[str, str] = {}
    relay: Json = {}
    title: str | None = None
    body: str | None = None
    title_loc_key: str | None = None
    title_loc_args: list[str] = []
    body_loc_key: str | None = None
    body_loc_args: list[str] = []
    image: str | None = None
    badge: int | None = None
    sound: str | None = None
    channel: str | None = None
    thread: str | None = None
    click: str | None = None
    mutable: bool = False
    sealed: str | None = None
    collapse_key: str | None = None


class Event(msgspec.Struct, forbid_unknown_fields=True):
    """The body, in the shape that Standard Webhooks recommends."""

    type: str
    timestamp: str
    data: Told


def error(status: int, word: str, *, retry_after: str | None = None) -> Answer:
    return json_answer(status, {"error": word}, retry_after=retry_after)


def _bare(status: int, *, retry_after: str | None = None, location: str | None = None) -> Answer:
    headers = () if location is None else (("Location", location),)
    return Answer(status=status, body=b"", content_type="text/plain", retry_after=retry_after, headers=headers)


TAKEN = _bare(204)
DEAD = "token_dead"
ELSEWHERE = "https://elsewhere.example/"


def _fault(answer: Answer, meaning: str) -> Fault:
    return Fault(meaning=f"{answer.status}: {meaning}", answer=answer)


class GatewayEmulator(Emulator):
    """One URL, one secret; the phones behind it are named by their tokens."""

    name = "http"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            "unregistered": _fault(error(404, DEAD), COMMON_FAULTS["unregistered"]),
            "unregisteredgone": _fault(error(410, DEAD), "the same; it is the device that is gone, not the gateway"),
            "throttleddead": _fault(error(429, DEAD), "too many, whatever it says of the token"),
            "illdead": _fault(error(503, DEAD), "ill, whatever it says of the token"),
            "moved": _fault(_bare(301, location=ELSEWHERE), "elsewhere"),
            "redirected": _fault(_bare(307, location=ELSEWHERE), "elsewhere for now"),
            "badrequest": _fault(_bare(400), "something about the call"),
            "unauthorized": _fault(_bare(401), "the signature is not good"),
            "revoked": _fault(_bare(401), COMMON_FAULTS["revoked"]),
            "forbidden": _fault(_bare(403), "not from there"),
            "notfound": _fault(_bare(404), "no such path"),
            "method": _fault(_bare(405), "not by POST"),
            "timeout": _fault(_bare(408), "took too long"),
            "gone": _fault(_bare(410), "the gateway is closed for good"),
            "toobig": _fault(_bare(413), "the body is too large"),
            "mediatype": _fault(_bare(415), "not JSON"),
            "unprocessable": _fault(error(422, "no_such_room"), "a word of the gateway's own"),
            "early": _fault(_bare(425), "too early"),
            "throttled": _fault(_bare(429, retry_after="30"), COMMON_FAULTS["throttled"]),
            "throttledbare": _fault(_bare(429), "the same without Retry-After"),
            "internal": _fault(_bare(500), "a fault of the gateway's"),
            "badgateway": _fault(_bare(502), "overloaded"),
            "unavailable": _fault(_bare(503, retry_after="7"), COMMON_FAULTS["unavailable"]),
            "gatewaytimeout": _fault(_bare(504), "overloaded"),
        }
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._known: dict[str, None] = {}  # ids of calls that were taken, oldest first

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", "/http/push", self.take)]

    def settings(self) -> Json:
        scheme, _, place = self.host.url.partition("://")
        own = {"url": f"{self.url}/push", "secret": SECRET, "exempt": [place]}  # this machine, and its port
        return own | ({"allow_http": True} if scheme == "http" else {})

    def reset(self) -> None:
        super().reset()
        self._known.clear()

    async def take(self, request: web.Request) -> web.StreamResponse:
        """`POST <url>`."""
        body = await request.read()
        told = self._refused(request, body) or _read(body)
        if isinstance(told, Answer):
            return self.refuse(told)
        name = request.headers["webhook-id"]
        return await self.reply(request, told.token, lambda: self._show_once(name, told, body), TAKEN)

    def _refused(self, request: web.Request, body: bytes) -> Answer | None:
        if request.method != "POST":
            return error(405, "method")
        if request.content_type != "application/json":
            return error(415, "media_type")
        if len(body) >= BODY_BYTES_MAX:
            return error(413, "too_large")
        name, seconds = (request.headers.get(f"webhook-{part}", "") for part in ("id", "timestamp"))
        if not _ID.fullmatch(name) or not _SECONDS.fullmatch(seconds):
            return error(400, "headers")
        if abs(self.host.now() - int(seconds)) > AGE_S_MAX:
            return error(401, "timestamp")
        signed = f"{name}.{seconds}.".encode() + body
        ours = b64encode(hmac.digest(b64decode(SECRET.partition("_")[2]), signed, "sha256"))
        given = request.headers.get("webhook-signature", "").split(" ")
        fits = [
            hmac.compare_digest(b"v1," + ours, one.encode("utf-8", "replace")) for one in given
        ]  # all are looked at
        return error(401, "signature") if self.revoked or not any(fits) else None

    def _show_once(self, name: str, told: Told, body: bytes) -> None:
        """A sender repeats a call under its id when it does not know whether it was taken."""
        if name in self._known:
            self.note("repeat", told.token)
            return
        self._known[name] = None
        if len(self._known) > IDS_KEPT:
            del self._known[next(iter(self._known))]
        self.deliver(
            told.token,
            message=msgspec.json.decode(body),
            title=told.title,
            body=told.body,
            kind=told.kind,
            name=name,
            shown_by="app" if told.title or told.body else None,
            data={**told.data, "relay": told.relay} if told.relay else {**told.data},
            collapse=told.collapse_key or told.id,
            badge=told.badge,
            sound=told.sound,
            channel=told.channel,
            priority="high" if told.urgent else "normal",
            ttl=f"{told.ttl_s:g}s",
        )


def _read(body: bytes) -> Answer | Told:
    try:
        event = msgspec.json.decode(body, type=Event)
        datetime.fromisoformat(event.timestamp)
    except msgspec.ValidationError:
        return error(422, "fields")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return error(400, "json")
    except ValueError:
        return error(422, "timestamp")
    told = event.data
    shows = told.title is not None or told.body is not None
    if not _TYPE.fullmatch(event.type) or not told.id or not told.token or told.ttl_s < 0 or told.silent is shows:
        return error(422, "fields")
    return told
