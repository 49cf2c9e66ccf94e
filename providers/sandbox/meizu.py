"""Meizu Flyme Push and the phones behind it: its signature, what it checks of a message, and what it answers.

Source: vendor sheet meizu.md, by a reading of its own: calls §1, signature §2, request §3, answer §4, classes and folding
§5.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import (
    CodedEmulator,
    Fields,
    Remembered,
    Wrong,
    among,
    chars,
    form_of,
    like,
    look,
    moment,
    number,
)
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, Host, json_answer
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.receipt_forms import MeizuReceipts

APP_ID = "100000"
APP_SECRET = "meizu-sandbox-secret"  # noqa: S105
PATH = "/garcia/api/server/push/varnished/pushByPushId"
MOVED = "/garcia/api/server/push/moved"
TARGETS_MAX = 100
PUBLIC_A_DEVICE = 3  # a day, for other apps than news
A_MINUTE = 5  # more to one device are folded; "about"
PARAMETER, EMPTY = 1005, 110004

_flag = among(0, 1)
_moment = moment(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def _bytes(bytes_max: int, value: object) -> bool:
    return isinstance(value, str) and len(value.encode()) <= bytes_max


def _text(most: int, value: object) -> bool:
    """In Java's characters, of which an emoji has two: the sheet does not say how they are counted."""
    return isinstance(value, str) and 0 < len(value.encode("utf-16-le", "replace")) // 2 <= most


def _flags(value: object) -> bool:
    return (
        isinstance(value, dict) and value.keys() <= {"vibrate", "lights", "sound"} and all(map(_flag, value.values()))
    )


PARTS: dict[str, Fields] = {
    "noticeBarInfo": {
        "noticeMsgType": (_flag, PARAMETER),
        "noticeBarType": (among(0, 2), PARAMETER),
        "title": (lambda value: _text(32, value), PARAMETER),
        "content": (lambda value: _text(100, value), PARAMETER),
    },
    "noticeExpandInfo": {
        "noticeExpandType": (among(0, 1, 2), PARAMETER),
        "noticeExpandContent": (chars(1, 10_000), PARAMETER),
        "noticeExpandImgUrl": (chars(1, 2048), PARAMETER),
    },
    "clickTypeInfo": {
        "clickType": (among(0, 1, 2, 3), PARAMETER),
        "activity": (like(r"[A-Za-z_][\w.$]*"), PARAMETER),
        "url": (like(r"[A-Za-z][A-Za-z0-9+.-]*:\S+"), PARAMETER),
        "customAttribute": (lambda value: _bytes(1000, value), PARAMETER),
        "parameters": (lambda value: isinstance(value, dict), PARAMETER),
    },
    "pushTimeInfo": {"offLine": (_flag, PARAMETER), "validTime": (number(1, 72), PARAMETER)},
    "advanceInfo": {
        "suspend": (_flag, PARAMETER),
        "clearNoticeBar": (_flag, PARAMETER),
        "fixDisplay": (_flag, PARAMETER),
        "fixStartDisplayTime": (_moment, PARAMETER),
        "fixEndDisplayTime": (_moment, PARAMETER),
        "notificationType": (_flags, PARAMETER),
        "notifyKey": (like(r"[0-9A-Za-z_-]{1,8}"), PARAMETER),
    },
    "vipInfo": {
        "subtitle": (lambda value: _text(16, value), PARAMETER),
        "pullDownTop": (_flag, PARAMETER),
        "timeTop": (number(1800, 7200), PARAMETER),
        "notGroup": (_flag, PARAMETER),
        "titleColor": (among("#206CFF", "#E42D22"), PARAMETER),
    },
    "extra": {
        "callback": (lambda value: _bytes(128, value), PARAMETER),
        "callback.param": (lambda value: _bytes(64, value), PARAMETER),
        "callback.type": (among(1, 2, 3), PARAMETER),
    },
}

# Sheet §4: the first table, each row but 200 and 300.
CODES = {
    500: "other",
    1001: "system error",
    1003: "busy",
    1005: "bad parameter",
    1006: "signature",
    110000: "appId is wrong",
    110001: "appKey is wrong",
    110033: "appSecret is wrong",
    110031: "the package is wrong",
    110002: "the push id is not registered",
    110003: "the push id is illegal",
    110004: "a parameter is empty",
    110009: "the app is blacklisted",
    110010: "the app pushes too fast",
    110019: "the app's limit of the day",
    110032: "the task id is illegal",
    110051: "call count limit",
    110053: "pass-through limit",
}
# The second table: codes in `value`.
DEVICES = {
    "unregistered": "110002",
    "illegal": "110003",
    "alias": "110005",
    "muted": "110010",
    "dayover": "110011",
    "norights": "201",
    "failed": "501",
    "broken": "513",
    "overloaded": "519",
    "folded": "520",
}


def error(code: int) -> Answer:
    return _answer(str(code), CODES[code])


def _answer(code: str, message: str = "", *, value: object = "", redirect: str = "", name: str = "") -> Answer:
    return json_answer(200, {"code": code, "message": message, "value": value, "redirect": redirect, "msgId": name})


def _by_code(code: int, meaning: str | None = None) -> Fault:
    return Fault(meaning=meaning or f"{code}: {CODES[code]}", answer=error(code))


class MeizuEmulator(CodedEmulator):
    name = "meizu"
    receipts = MeizuReceipts()
    of_one_device: ClassVar[frozenset[str]] = frozenset(DEVICES)
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            **{word: Fault(meaning=f"200, and {code} in `value`") for word, code in DEVICES.items()},
            "throttled": _by_code(1003, COMMON_FAULTS["throttled"]),
            "unavailable": Fault(meaning=COMMON_FAULTS["unavailable"], answer=json_answer(503, {})),
            "gateway": Fault(
                meaning="502 in HTML", answer=Answer(status=502, body=b"<html>502</html>", content_type="text/html")
            ),
            "quota": _by_code(110019, COMMON_FAULTS["quota"]),
            "revoked": _by_code(1006, COMMON_FAULTS["revoked"]),
            "lured": Fault(
                meaning="300 to another host",
                answer=_answer("300", redirect="http://elsewhere.example/garcia/api/server/push/moved"),
            ),
            **{f"code{code}": _by_code(code) for code in CODES},
        }
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.recent = Remembered()  # by device: when it was told in the last minute
        self.moved = False  # answer 300 until somebody comes to the new place

    def routes(self) -> list[web.RouteDef]:
        return [web.post(f"/meizu{PATH}", self.push), web.post(f"/meizu{MOVED}", self.push)]

    def settings(self) -> Json:
        classes = {"default": {"private": True}, "news": {"private": False}}
        return {"app_id": int(APP_ID), "app_secret": APP_SECRET, "classes": classes, "base_url": self.url}

    def reset(self) -> None:
        super().reset()
        self.recent.clear()
        self.moved = False

    async def push(self, request: web.Request) -> web.StreamResponse:
        """`POST …/pushByPushId`, sheet §3."""
        if self.moved and request.path.endswith(PATH):
            return self.refuse(_answer("300", redirect=f"{self.url}{MOVED}"))
        form = await form_of(request)
        targets = list(dict.fromkeys(one for one in form.get("pushIds", "").split(",") if one))
        first = targets[0] if targets else ""
        try:
            message = self._checked(form, targets)
        except Wrong as wrong:
            return self.refuse(error(wrong.code), first)
        return await self.reply_many(request, targets, lambda target, name: self._take(target, name, message), _taken)

    def _checked(self, form: Mapping[str, str], targets: Sequence[str]) -> dict[str, Any]:
        """The message. Raises Wrong for what Meizu refuses."""
        for field in ("appId", "pushIds", "messageJson", "sign"):
            if not form.get(field):
                raise Wrong(EMPTY, field)
        if form["appId"] != APP_ID:
            raise Wrong(110000, "appId")
        if self.revoked or form["sign"] != _sign({name: form[name] for name in form if name != "sign"}):
            raise Wrong(1006, "sign")
        if len(targets) > TARGETS_MAX:
            raise Wrong(PARAMETER, "pushIds")
        message = read_json(form["messageJson"])
        if not isinstance(message, dict):
            raise Wrong(PARAMETER, "messageJson")
        for part, said in message.items():
            fields = PARTS.get(part)
            if fields is None or not isinstance(said, dict):
                raise Wrong(PARAMETER, part)
            look(said, fields, unknown=PARAMETER)
        bar, click = message.get("noticeBarInfo", {}), message.get("clickTypeInfo", {})
        for field in ("title", "content"):
            if field not in bar:
                raise Wrong(EMPTY, field)
        needs = {1: "activity", 2: "url", 3: "customAttribute"}.get(click.get("clickType", 0))
        if needs is not None and needs not in click:
            raise Wrong(EMPTY, needs)
        expand = message.get("noticeExpandInfo", {})
        needs = {1: "noticeExpandContent", 2: "noticeExpandImgUrl"}.get(expand.get("noticeExpandType", 0))
        if needs is not None and needs not in expand:
            raise Wrong(EMPTY, needs)
        _check_display(message.get("advanceInfo", {}))
        return message

    def _take(self, target: str, name: str, message: dict[str, Any]) -> str | None:
        now = self.host.now()
        lately = self.recent.get(target)
        times = [at for at in lately if now - at < 60] if isinstance(lately, list) else []
        if len(times) >= A_MINUTE:
            return "folded"
        bar = message["noticeBarInfo"]
        private = bar.get("noticeMsgType", 0) == 1
        if not private and self.today.of(("device", target)) >= PUBLIC_A_DEVICE:
            return "dayover"
        if not private:
            self.today.add(("device", target))
        self.recent.saw(target, [*times, now])
        advance = message.get("advanceInfo", {})
        self.deliver(
            target,
            message=message,
            title=bar["title"],
            body=bar["content"],
            name=name,
            data=message.get("clickTypeInfo", {}).get("parameters", {}),
            collapse=advance.get("notifyKey"),
            channel="private" if private else "public",
            priority=str(advance.get("suspend", 1)),
            ttl=str(message.get("pushTimeInfo", {}).get("validTime", 24)),
        )
        return None


def _check_display(advance: Json) -> None:
    """Raises Wrong for a fixed time of display that does not begin, or not end later."""
    if advance.get("fixDisplay") != 1:
        return
    for field in ("fixStartDisplayTime", "fixEndDisplayTime"):
        if field not in advance:
            raise Wrong(EMPTY, field)
    if str(advance["fixStartDisplayTime"]) >= str(advance["fixEndDisplayTime"]):
        raise Wrong(PARAMETER, "fixEndDisplayTime")


def _sign(parameters: Mapping[str, str]) -> str:
    text = "".join(f"{name}={value}" for name, value in sorted(parameters.items()))
    return hashlib.md5(f"{text}{APP_SECRET}".encode()).hexdigest()  # noqa: S324 - Meizu's choice


def _taken(failed: Mapping[str, str], name: str) -> Answer:
    """Those that failed by their code; who was accepted is not listed."""
    value: dict[str, list[str]] = {}
    for target, word in failed.items():
        value.setdefault(DEVICES[word], []).append(target)
    return _answer("200", value=value, name=name)
