"""An ntfy server, 2.16: publishing as JSON, its checks and its numbered errors.

Source: vendor sheet others.md §1. Its limits of requests are faults here, since a sandbox has to bear load. A topic that
begins with `old-` is on a server before 2.16, which knows no sequences.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import ClassVar

from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.emulator import NETWORK_FAULTS, Emulator, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place

ACCESS_TOKEN = "tk_sandbox0sandbox0sandbox0sandbox"  # noqa: S105 - anybody may know it
USER, PASSWORD = "sandbox", "sandbox"
MESSAGE_BYTES_MAX = 4096
DOCUMENT_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
CACHED_S = 12 * 3600
DISALLOWED = frozenset({"docs", "static", "file", "app", "account", "settings"})  # the sheet does not list them

OLD = "old-"

_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_WEB = re.compile(r"https?://\S+")


def error(code: int, sentence: str) -> Answer:
    return json_answer(
        code // 100, {"code": code, "http": code // 100, "error": sentence, "link": "https://ntfy.sh/docs/publish/"}
    )


ERRORS: dict[str, Answer] = {
    "topicinvalid": error(40009, "invalid request: topic invalid"),
    "topicdisallowed": error(40010, "invalid request: topic name is not allowed"),
    "badpriority": error(40007, "invalid priority parameter"),
    "badattach": error(40013, "invalid request: attachment URL is invalid"),
    "badjson": error(40017, "invalid request: request body must be message JSON"),
    "badactions": error(40018, "invalid request: actions invalid"),
    "badicon": error(40021, "invalid request: icon URL is invalid"),
    "jsonbody": error(40024, "invalid request: request body must be valid JSON"),
    "toolong": error(40014, "invalid request: attachments not allowed"),
    "unauthorized": error(40101, "unauthorized"),
    "forbidden": error(40301, "forbidden"),
    "notfound": error(40401, "page not found"),
    "attachmentbig": error(41301, "attachment too large, or bandwidth limit reached"),
    "toobig": error(41303, "JSON body too large"),
    "throttled": error(42901, "limit reached: too many requests"),
    "emails": error(42902, "limit reached: too many emails"),
    "subscriptions": error(42903, "limit reached: too many active subscriptions"),
    "topics": error(42904, "limit reached: the total number of topics on the server has been reached"),
    "bandwidth": error(42905, "limit reached: daily bandwidth reached"),
    "quota": error(42908, "limit reached: daily message quota reached"),
    "logins": error(42909, "limit reached: too many auth failures"),
    "calls": error(42910, "limit reached: daily phone call quota reached"),
    "internal": error(50001, "internal server error"),
    "internalpath": error(50002, "internal server error: invalid path"),
    "internalbase": error(50003, "internal server error: base-url must be configured"),
    "internalweb": error(50004, "internal server error: web push"),
    "nobody": error(50701, "cannot publish to UnifiedPush topic without previously active subscriber"),
    "unavailable": Answer(status=502, body=b"<html>Bad Gateway</html>", content_type="text/html"),
    "proxy404": Answer(status=404, body=b"<html>Not Found</html>", content_type="text/html"),
    "proxy429": Answer(status=429, body=b"<html>slow down</html>", content_type="text/html", retry_after="30"),
}


def _meaning(answer: Answer) -> str:
    """ntfy's code and sentence; of what is no answer of its own, the status."""
    if not answer.content_type.startswith("application/json"):
        return f"{answer.status}, from a proxy"
    said = json.loads(answer.body)
    return f"{said['code']}: {said['error']}"


class NtfyEmulator(Emulator):
    """A server where only who logs in may publish."""

    name = "ntfy"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            **{word: Fault(meaning=_meaning(answer), answer=answer) for word, answer in ERRORS.items()},
        }
    }

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/ntfy/", self.publish),
            web.post("/ntfy/{topic}", self.publish_text),
            web.put("/ntfy/{topic}", self.publish_text),
            web.delete("/ntfy/{topic}/{sequence}", self.take_back),
            web.put("/ntfy/{topic}/{sequence}/clear", self.take_back),
        ]

    def settings(self) -> Json:
        return {"base_url": self.url, "token": ACCESS_TOKEN}

    async def publish(self, request: web.Request) -> web.StreamResponse:
        """`POST /` with a JSON document."""
        raw = await request.read()
        checked = self._refused(request) or _checked(raw)
        if isinstance(checked, Answer):
            return self.refuse(checked)
        return await self._published(request, checked)

    async def publish_text(self, request: web.Request) -> web.StreamResponse:
        """`POST` or `PUT /<topic>`: the body is the text, even if it is JSON."""
        text = (await request.read()).decode("utf-8", "replace")
        checked = self._refused(request) or _fields({"topic": request.match_info["topic"], "message": text})
        if isinstance(checked, Answer):
            return self.refuse(checked)
        return await self._published(request, checked)

    async def take_back(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /<topic>/<sequence_id>`, `PUT …/clear`: told to the topic's listeners as an event (§1.4); nobody looks
        whether it was there."""
        refused = self._refused(request)
        topic, sequence = request.match_info["topic"], request.match_info["sequence"]
        if refused is None and topic.startswith(OLD):
            refused = ERRORS["notfound"]
        if refused is None and not (_TOPIC.fullmatch(topic) and _TOPIC.fullmatch(sequence)):
            refused = ERRORS["topicinvalid"]
        if refused is not None:
            return self.refuse(refused)
        self.host.phones.withdraw(topic, sequence)
        now, event = int(self.host.now()), "message_delete" if request.method == "DELETE" else "message_clear"
        told = {"id": f"{self.host.rng.getrandbits(60):012x}"[:12], "time": now, "event": event}
        return response(json_answer(200, {**told, "topic": topic, "sequence_id": sequence}))

    def _refused(self, request: web.Request) -> Answer | None:
        basic = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        known = {f"Bearer {ACCESS_TOKEN}", f"Basic {basic}"}
        if self.revoked or request.headers.get("Authorization") not in known:
            return ERRORS["unauthorized"]
        return None

    async def _published(self, request: web.Request, message: Json) -> web.StreamResponse:
        topic, now = str(message["topic"]), int(self.host.now())
        published = {"id": f"{self.host.rng.getrandbits(60):012x}"[:12], "time": now, "event": "message", **message}
        if request.headers.get("X-Cache") != "no":
            published["expires"] = now + CACHED_S
        return await self.reply(request, topic, lambda: self._show(topic, published), json_answer(200, published))

    def _show(self, topic: str, message: Json) -> None:
        collapse = message.get("sequence_id")
        self.deliver(
            topic,
            message=message,
            title=_text(message.get("title")),
            body=_text(message.get("message")),
            collapse=_text(collapse),
            priority=str(message.get("priority", 3)),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _checked(raw: bytes) -> Answer | Json:
    if len(raw) > DOCUMENT_BYTES_MAX:
        return ERRORS["toobig"]
    given = read_json(raw)
    return _fields(given) if isinstance(given, dict) else ERRORS["badjson"]


def _fields(given: Json) -> Answer | Json:
    """The message as it is published, or what is wrong with it."""
    topic, text = given.get("topic"), given.get("message", "")
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        return ERRORS["topicinvalid"]
    if topic in DISALLOWED:
        return ERRORS["topicdisallowed"]
    texts = ("message", "title", "click", "icon", "attach", "filename", "sequence_id")
    if any(not isinstance(given[name], str) for name in texts if name in given):
        return ERRORS["badjson"]
    if len(str(text).encode()) > MESSAGE_BYTES_MAX:
        return ERRORS["toolong"]
    priority, tags = given.get("priority", 3), given.get("tags", [])
    if type(priority) is not int:
        return ERRORS["badjson"]
    if not 0 <= priority <= 5:
        return ERRORS["badpriority"]
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return ERRORS["badjson"]
    if not isinstance(given.get("markdown", False), bool):
        return ERRORS["badjson"]
    for name, word in (("attach", "badattach"), ("icon", "badicon")):
        if name in given and not _WEB.fullmatch(str(given[name])):
            return ERRORS[word]
    if "actions" in given and not _are_actions(given["actions"]):
        return ERRORS["badactions"]
    # A field that it does not know, it does not see.
    known = {*texts, "topic", "priority", "tags", "actions", "markdown"} - (
        {"sequence_id"} if topic.startswith(OLD) else set()
    )
    return {**{name: value for name, value in given.items() if name in known}, "message": text or "triggered"}


def _are_actions(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 3
        and all(isinstance(one, dict) and one.get("action") in ("view", "http", "broadcast") for one in value)
    )
