"""OPPO Push and the phones behind it: its login, its numbers of the day, and what it answers.

Source: vendor sheet oppo.md, by a reading of its own: login §2, answer §4, codes §5, classes §6. The account here has two
channels, chats by a template and news, and was not granted the strong level.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

from aiohttp import web

from providers.sandbox.checks import Json
from providers.sandbox.coded import UNINSTALLED, CodedEmulator, Remembered, Wrong, form_of
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, Host, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.oppo_message import CHAT_CHANNEL, NEWS_CHANNEL, TEMPLATE, content_of, messages_of
from providers.sandbox.receipt_forms import OppoReceipts
from providers.sandbox.receipts import Event

APP_KEY = "oppo-sandbox-key"
MASTER_SECRET = "oppo-sandbox-master-secret"  # noqa: S105
CLOCKS_APART_S = 600
TOKEN_LIFE_S = 24 * 3600
LOGINS_A_MINUTE = 60  # the sheet knows that there is a limit, not which
NEWS_A_DAY = 100_000  # for an app with less than 50,000 users
NEWS_A_DEVICE = 2

# Sheet §5: each row.
CODES = {
    -3: "parse failure",
    -2: "flow control",
    -1: "service unavailable",
    11: "invalid auth token",
    12: "HTTP method not allowed",
    13: "app call limited",
    14: "invalid app key",
    15: "missing app key",
    16: "invalid signature",
    17: "missing signature",
    18: "missing timestamp",
    19: "invalid timestamp",
    20: "invalid method",
    21: "missing method",
    22: "missing version",
    23: "invalid version",
    24: "unsupported format",
    25: "invalid encoding",
    26: "IP blacklisted",
    27: "access denied",
    28: "app disabled",
    29: "missing auth token",
    30: "API permission denied",
    31: "data does not exist",
    32: "duplicate data",
    33: "message count limit of the day",
    34: "picture upload limit",
    40: "missing required argument",
    41: "invalid argument",
    51: "invalid picture",
    54: "private_msg_template_id is null",
    55: "frequency limit",
    59: "secondary action not allowed",
    67: "category or notify_level is wrong",
    10000: "invalid registration id",
    10001: "business error",
    20000: "business error",
}
_LOGIN_CODES = (-2, -1, 13, 14, 15, 16, 17, 18, 19, 26, 27, 28, 30, 55)
_ITEM_CODES = {"unregistered": 10000, "malformed": 41}
_ITEM_SAYS = {10000: CODES[10000], 41: "invalid argument: registration_id"}


def error(code: int, message: str | None = None) -> Answer:
    return json_answer(200, {"code": code, "message": message or CODES[code], "data": None})


def _by_code(code: int, meaning: str | None = None) -> Fault:
    return Fault(meaning=meaning or f"{code}: {CODES[code]}", answer=error(code))


def _word(code: int) -> str:
    return f"code{code}" if code >= 0 else f"codeminus{-code}"


_ILL: dict[str, Fault] = {
    "unavailable": Fault(meaning=COMMON_FAULTS["unavailable"], answer=json_answer(503, {})),
    "gateway": Fault(
        meaning="502 in HTML", answer=Answer(status=502, body=b"<html>502</html>", content_type="text/html")
    ),
}


class OppoEmulator(CodedEmulator):
    name = "oppo"
    receipts = OppoReceipts()
    of_one_device: ClassVar[frozenset[str]] = frozenset(_ITEM_CODES)
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **UNINSTALLED,
            **NETWORK_FAULTS,
            **_ILL,
            "unregistered": _by_code(10000, COMMON_FAULTS["unregistered"]),
            "malformed": Fault(meaning="41, and the text names the registration id"),
            "throttled": _by_code(-2, COMMON_FAULTS["throttled"]),
            "quota": _by_code(33, COMMON_FAULTS["quota"]),
            "revoked": _by_code(11, COMMON_FAULTS["revoked"]),
            **{_word(code): _by_code(code) for code in CODES},
        },
        Place.TOKEN: {
            "garbage": Fault(meaning="0 without a token", answer=json_answer(200, {"code": 0, "data": {}})),
            "reset": NETWORK_FAULTS["cut"],
            **_ILL,
            **{_word(code): _by_code(code) for code in _LOGIN_CODES},
        },
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.tokens = Remembered()  # when each was made
        self._logins: list[float] = []

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/oppo/server/v1/auth", self.login),
            web.post("/oppo/server/v1/message/notification/unicast", self.unicast),
            web.post("/oppo/server/v1/message/notification/unicast_batch", self.unicast_batch),
        ]

    def settings(self) -> Json:
        chat = {
            "channel_id": CHAT_CHANNEL,
            "category": "IM",
            "template_id": TEMPLATE,
            "title_parameter": "title",
            "body_parameter": "body",
        }
        return {
            "app_key": APP_KEY,
            "master_secret": MASTER_SECRET,
            "classes": {"default": chat, "news": {"channel_id": NEWS_CHANNEL}},
            "base_url": self.url,
        }

    def revoke(self, *, key: bool) -> None:
        super().revoke(key=key)
        self.tokens.clear()

    async def login(self, request: web.Request) -> web.StreamResponse:
        """`POST /server/v1/auth`, sheet §2."""
        struck = self.faults.strike(Place.TOKEN)
        if struck is not None:
            return await self.fail(request, struck[1], struck[1].answer or error(-1))
        form, now = await form_of(request), self.host.now()
        key, sign, timestamp = (form.get(name, "") for name in ("app_key", "sign", "timestamp"))
        right = hashlib.sha256((APP_KEY + timestamp + MASTER_SECRET).encode()).hexdigest()
        self._logins = [at for at in self._logins if now - at < 60]
        for wrong, code in (
            (not key, 15),
            (key != APP_KEY, 14),
            (not timestamp, 18),
            (not re.fullmatch(r"[0-9]{13}", timestamp), 19),
            (not sign, 17),
        ):
            if wrong:
                return response(error(code))
        if abs(int(timestamp) / 1000 - now) > CLOCKS_APART_S:
            return response(error(19))
        if sign != right or self.revoked:  # another master secret by now
            return response(error(16))
        if len(self._logins) >= LOGINS_A_MINUTE:
            return response(error(13))
        self._logins.append(now)
        token = f"{self.host.rng.getrandbits(96):024x}"
        self.tokens.saw(token, now)
        data = {"auth_token": token, "create_time": int(now * 1000)}
        return response(json_answer(200, {"code": 0, "message": "success", "data": data}))

    async def unicast(self, request: web.Request) -> web.StreamResponse:
        """`POST …/unicast`, sheet §3."""
        return await self._send(request, "message", dict)

    async def unicast_batch(self, request: web.Request) -> web.StreamResponse:
        return await self._send(request, "messages", list)

    async def _send(self, request: web.Request, field: str, kind: type) -> web.StreamResponse:
        form = await form_of(request)
        try:
            self._admit(form.get("auth_token") or request.headers.get("auth_token"))
            messages = messages_of(form.get(field), field, kind)
        except Wrong as wrong:
            return self.refuse(error(wrong.code, f"{CODES[wrong.code]}: {wrong.field}"))
        targets = [str(message["target_value"]) for message in messages]
        said: dict[str, list[Json]] = {}  # a call may name a device twice
        for target, message in zip(targets, messages, strict=True):
            said.setdefault(target, []).append(message["notification"])
        batch = kind is list
        if not batch and self._repeated(targets[0], messages[0]["notification"]):
            return self.refuse(error(32), targets[0])
        if self._spent(message["notification"] for message in messages):
            return self.refuse(error(33), targets[0])
        return await self.reply_many(
            request,
            targets,
            lambda target, name: self._take(target, name, said[target].pop(0)),
            lambda failed, name: _items(targets, failed, name) if batch else _single(failed, name),
        )

    def _admit(self, token: str | None) -> None:
        if not token:
            raise Wrong(29, "auth_token")
        made = self.tokens.get(token)
        if self.revoked or not isinstance(made, float) or self.host.now() - made >= TOKEN_LIFE_S:
            raise Wrong(11, "auth_token")

    def _repeated(self, target: str, notification: Json) -> bool:
        key = notification.get("app_message_id")
        return key is not None and (target, key) in self.seen_before

    def _spent(self, notifications: Iterable[Json]) -> bool:
        news = any(one.get("channel_id") == NEWS_CHANNEL for one in notifications)
        return news and self.today.of("news") >= NEWS_A_DAY

    def _take(self, target: str, name: str, notification: Json) -> None:
        if self._repeated(target, notification):
            return
        if "app_message_id" in notification:
            self.seen_before.saw((target, notification["app_message_id"]))
        channel = notification.get("channel_id")
        if channel not in {CHAT_CHANNEL, NEWS_CHANNEL}:
            return  # taken, but Android 9 and later show nothing without a channel that they know
        if channel == NEWS_CHANNEL:
            self.today.add("news")
            if self.today.add(("device", target)) > NEWS_A_DEVICE:
                self.report(Event.CAPPED, target, name, notification)
                return
        self.deliver(target, message=notification, name=name, **content_of(notification))


def _single(failed: Mapping[str, str], name: str) -> Answer:
    for word in failed.values():
        code = _ITEM_CODES[word]
        return error(code, _ITEM_SAYS[code])
    return json_answer(200, {"code": 0, "message": "success", "data": {"messageId": name}})


def _items(targets: Iterable[str], failed: Mapping[str, str], name: str) -> Answer:
    """One for each message; their names of fields are a guess (§4)."""
    items: list[Json] = []
    for place, target in enumerate(targets):
        if target in failed:
            code = _ITEM_CODES[failed[target]]
            items.append({"registrationId": target, "errorCode": code, "errorMessage": _ITEM_SAYS[code]})
        else:
            items.append({"registrationId": target, "messageId": f"{name}-{place}"})
    return json_answer(200, {"code": 0, "message": "success", "data": items})
