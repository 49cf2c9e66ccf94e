"""A Gotify server, 3.x: one application for each phone, whose clients show what it gets.

Source: vendor sheet others.md §2.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.emulator import NETWORK_FAULTS, Emulator, json_answer
from providers.sandbox.faults import Answer, Fault, Place

NAMES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error"}
DEFAULT_PRIORITY = 5
_WHOLE = re.compile(r"-?[0-9]{1,9}")


def error(status: int, description: str) -> Answer:
    return json_answer(status, {"error": NAMES[status], "errorCode": status, "errorDescription": description})


UNKNOWN_TOKEN = error(401, "you need to provide a valid access token or user credentials to access this api")
APPID_WANTED = error(400, "appid is required when not using an application token")


def _proxys(status: int, *, retry_after: str | None = None) -> Answer:
    return Answer(status=status, body=b"<html></html>", content_type="text/html", retry_after=retry_after)


class GotifyEmulator(Emulator):
    """The application of the phone `x` has the token `Ax`; a client's would be `Cx`."""

    name = "gotify"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            "invalid": Fault(meaning="400", answer=error(400, "Field 'message' is required")),
            "appid": Fault(meaning="400: a client's token", answer=APPID_WANTED),
            "deleted": Fault(meaning="401: the application was deleted", answer=UNKNOWN_TOKEN),
            "forbidden": Fault(meaning="403", answer=error(403, "you are not allowed to access this api")),
            "notfound": Fault(meaning="404: wrong path", answer=error(404, "page not found")),
            "moved": Fault(
                meaning="301, from a proxy",
                answer=Answer(status=301, body=b"", headers=(("Location", "https://elsewhere.example/"),)),
            ),
            "toobig": Fault(meaning="413, from a proxy", answer=_proxys(413)),
            "throttled": Fault(meaning="429, from a proxy", answer=_proxys(429, retry_after="30")),
            "throttledbare": Fault(meaning="the same without Retry-After", answer=_proxys(429)),
            "internal": Fault(meaning="500", answer=error(500, "database is locked")),
            "unavailable": Fault(meaning="502, from a proxy", answer=_proxys(502)),
        }
    }
    count = 0

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/gotify/message", self.send),
            web.get("/gotify/health", self.health, allow_head=False),
        ]

    def settings(self) -> Json:
        return {"exempt": [self.host.url.partition("://")[2]]}  # this machine, and its port

    def address(self, phone: str) -> str:
        return msgspec.json.encode({"url": self.url, "token": f"A{phone}"}).decode()

    async def health(self, request: web.Request) -> web.StreamResponse:
        """`GET /health`."""
        return web.json_response({"health": "green", "database": "green"})

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /message`."""
        token = self._token(request)
        if self.revoked or token[:1] not in {"A", "C"} or len(token) < 2:
            return self.refuse(UNKNOWN_TOKEN)
        phone = token[1:]
        checked = _checked(await request.read(), request.content_type, client=token.startswith("C"))
        if isinstance(checked, Answer):
            return self.refuse(checked, phone)
        self.count += 1
        date = datetime.fromtimestamp(self.host.now(), UTC).isoformat()
        message = {
            "id": self.count,
            "appid": 1,
            "title": "sandbox",
            "priority": DEFAULT_PRIORITY,
            "date": date,
            **checked,
        }
        return await self.reply(request, phone, lambda: self._show(phone, message), json_answer(200, message))

    def _token(self, request: web.Request) -> str:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        return (
            request.headers.get("X-Gotify-Key")
            or (bearer if scheme.lower() == "bearer" else "")
            or request.query.get("token", "")
        )

    def _show(self, phone: str, message: Json) -> None:
        self.deliver(
            phone,
            message=message,
            title=str(message["title"]),
            body=str(message["message"]),
            priority=str(message["priority"]),
            name=f"gotify-{message['id']}",
        )


def _checked(raw: bytes, content_type: str, *, client: bool) -> Answer | Json:
    """The message's fields, or what is wrong with them."""
    given: Any
    if content_type == "application/json":
        given = read_json(raw)
    else:
        form = parse_qs(raw.decode(errors="replace"))
        given = {name: values[0] for name, values in form.items() if name in {"message", "title", "priority"}}
        if _WHOLE.fullmatch(given.get("priority", "")):
            given["priority"] = int(given["priority"])
    if not isinstance(given, dict):
        return error(400, "json: cannot unmarshal into a message")
    if client and type(given.get("appid")) is not int:
        return APPID_WANTED
    message, title, priority = given.get("message"), given.get("title"), given.get("priority")
    if not isinstance(message, str) or not message:
        return error(400, "Field 'message' is required")
    if title is not None and not isinstance(title, str):
        return error(400, "json: cannot unmarshal title")
    if priority is not None and type(priority) is not int:
        return error(400, "json: cannot unmarshal priority")
    if not isinstance(given.get("extras") or {}, dict):
        return error(400, "json: cannot unmarshal extras")
    known = ("message", "title", "priority", "extras")
    return {name: given[name] for name in known if given.get(name) not in (None, "")}
