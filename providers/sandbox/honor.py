"""Honor Push: the token endpoint, what a send must hold, and answers with lists.

Source: vendor sheet honor.md: login §2, request §3, answers §4, classes §5. What the sheet marks unverified is Huawei's here,
too: a thousand tokens, 4096 bytes without them, its codes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.client_login import Bearer, ClientLogin
from providers.sandbox.coded import (
    UNINSTALLED,
    CodedEmulator,
    Fields,
    Wrong,
    among,
    chars,
    form_of,
    like,
    look,
    moment,
    number,
    object_of,
)
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, Host, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.receipt_forms import HonorReceipts

APP_ID, CLIENT_ID = "900000001", "b2f97c5f6a5f4a6e"
CLIENT_SECRET = "sandbox-client-secret"  # noqa: S105 - anybody may know it
BEARER_S = 3600
BODY_BYTES_MAX, TOKENS_MAX = 4096, 1000
TESTS_A_DAY, MARKETING_A_DAY = 1000, 2
TIMESTAMP_OFF_S = 3600.0  # the sheet only says that it is now
PARAMETER, STRUCTURE, LARGE, MANY = 80100001, 80100003, 80300008, 80300010

WORDS = {
    "partly": (80100000, "some tokens failed"),
    "badparam": (PARAMETER, "parameter error"),
    "badstructure": (STRUCTURE, "illegal body"),
    "autherror": (80200001, "authentication failed"),
    "expired": (80200003, "access token expired"),
    "noapp": (80300002, "the app is not allowed to send"),
    "alldead": (80300007, "all tokens are invalid"),
    "toobig": (LARGE, "the body is too big"),
    "toomany": (MANY, "too many tokens"),
    "oauth": (80600003, "authentication service failed"),
    "internal": (81000001, "internal error"),
    "unknowncode": (99999, "something else"),
}
LISTS = {"unregistered": "expireTokens", "failed": "failTokens"}


def answer(code: int, message: str, *, status: int = 200, data: Json | None = None) -> Answer:
    return json_answer(status, {"code": code, "message": message, "data": data})


def plain(status: int) -> Answer:
    return Answer(status=status, body=f"<html>{status}</html>".encode(), content_type="text/html")


_ANYWHERE: dict[str, Fault] = {
    **NETWORK_FAULTS,
    "unavailable": Fault(meaning="503", answer=plain(503)),
    "gateway": Fault(meaning="502", answer=plain(502)),
    "ill": Fault(meaning="500", answer=plain(500)),
    "throttled": Fault(meaning="429: the sheet has no word for it", answer=plain(429)),
}


# --- what a body must hold --------------------------------------------------------------------------------------------


def _object_there(value: object) -> bool:
    return isinstance(value, dict)


def _buttons(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 3 and all(map(_object_there, value))


_ANY: Callable[[object], bool] = chars(0, 10**9)
_MILLISECONDS = re.compile(r"[0-9]{1,16}")
_HTTPS = like(r"https://\S+")
ROOT: Fields = {
    "data": (_ANY, STRUCTURE),
    "notification": (_object_there, STRUCTURE),
    "android": (_object_there, STRUCTURE),
    "token": (lambda value: isinstance(value, list), STRUCTURE),
}
BASIC: Fields = {"title": (_ANY, STRUCTURE), "body": (_ANY, STRUCTURE), "image": (_HTTPS, PARAMETER)}
ANDROID: Fields = {
    "ttl": (like(r"[0-9]{1,7}s"), STRUCTURE),
    "biTag": (_ANY, STRUCTURE),
    "data": (_ANY, STRUCTURE),
    "targetUserType": (among(0, 1), PARAMETER),
    "notification": (_object_there, STRUCTURE),
}
NOTIFICATION: Fields = {
    **BASIC,
    "clickAction": (_object_there, STRUCTURE),
    "style": (among(0, 1), PARAMETER),
    "bigTitle": (_ANY, STRUCTURE),
    "bigBody": (_ANY, STRUCTURE),
    "importance": (among("LOW", "NORMAL"), PARAMETER),
    "when": (moment(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), PARAMETER),
    "buttons": (_buttons, STRUCTURE),
    "badge": (_object_there, STRUCTURE),
    "notifyId": (number(0, 2**31 - 1), PARAMETER),
    "tag": (_ANY, STRUCTURE),
    "group": (_ANY, STRUCTURE),
}
CLICK: Fields = {
    "type": (among(1, 2, 3), STRUCTURE),
    "intent": (_ANY, STRUCTURE),
    "action": (_ANY, STRUCTURE),
    "url": (_HTTPS, STRUCTURE),
}
BADGE: Fields = {
    "addNum": (number(0, 99), PARAMETER),
    "setNum": (number(0, 99), PARAMETER),
    "badgeClass": (_ANY, STRUCTURE),
}
BUTTON: Fields = {
    "name": (chars(1, 40), STRUCTURE),
    "actionType": (among(0, 1, 2), STRUCTURE),
    "intentType": (among(0, 1), STRUCTURE),
    "intent": (_ANY, STRUCTURE),
    "data": (chars(0, 1024), STRUCTURE),
}


def check_body(body: object, raw: bytes) -> tuple[Json, list[str]]:
    """The message and its tokens. Raises Wrong."""
    root = object_of(body)
    if root is None:
        raise Wrong(STRUCTURE, "body")
    look(root, ROOT, unknown=STRUCTURE)  # Huawei's `message` and snake_case are not known here (§8.1)
    tokens = root.get("token")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise Wrong(PARAMETER, "token")
    if len(tokens) > TOKENS_MAX:
        raise Wrong(MANY, "token")
    size = len(raw) - sum(len(msgspec.json.encode(token)) for token in tokens) - len(tokens) + 1
    if size > BODY_BYTES_MAX:
        raise Wrong(LARGE, "body")
    message = {name: value for name, value in root.items() if name != "token"}
    android, basic = _part(message, "android"), _part(message, "notification")
    look(android, ANDROID, unknown=STRUCTURE)
    look(basic, BASIC, unknown=STRUCTURE)
    if not 1 <= int(str(android.get("ttl", "86400s"))[:-1]) <= 1_296_000:
        raise Wrong(PARAMETER, "android.ttl")
    if basic or "notification" in android:
        _check_notification({**basic, **_part(android, "notification")})
    elif "data" not in message and "data" not in android:
        raise Wrong(STRUCTURE, "data")
    return message, tokens


def _check_notification(shown: Mapping[str, Any]) -> None:
    look(shown, NOTIFICATION, unknown=STRUCTURE)
    for name in ("title", "body", "clickAction"):
        if not shown.get(name):
            raise Wrong(STRUCTURE, f"notification.{name}")
    click = shown["clickAction"]
    look(click, CLICK, unknown=STRUCTURE)
    needed = {1: ("intent", "action"), 2: ("url",)}.get(click.get("type", 0), ())
    if "type" not in click or (needed and not any(click.get(name) for name in needed)):
        raise Wrong(STRUCTURE, "notification.clickAction")
    for big, small in (("bigTitle", "title"), ("bigBody", "body")):
        if shown.get(big, shown[small]) != shown[small]:
            raise Wrong(PARAMETER, f"notification.{big}")
    look(_part(shown, "badge"), BADGE, unknown=STRUCTURE)
    for button in shown.get("buttons", []):
        look(button, BUTTON, unknown=STRUCTURE)


def _part(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


# --- the vendor -------------------------------------------------------------------------------------------------------


class HonorEmulator(CodedEmulator):
    """One app that has the right to service and communication messages."""

    name = "honor"
    receipts = HonorReceipts()
    of_one_device = frozenset(LISTS)
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **UNINSTALLED,
            **_ANYWHERE,
            **{
                word: Fault(meaning=f"{code}: {message}", answer=answer(code, message))
                for word, (code, message) in WORDS.items()
            },
            "unregistered": Fault(meaning="200 with the token in expireTokens"),
            "failed": Fault(meaning="200 with the token in failTokens"),
            "unlisted": Fault(
                meaning="200 with sendResult false and no lists",
                answer=answer(200, "failed", data={"sendResult": False, "requestId": "0", "failTokens": None}),
            ),
            "revoked": Fault(meaning=COMMON_FAULTS["revoked"], answer=plain(401)),
            "notfound": Fault(meaning="404: Huawei's path, say", answer=plain(404)),
        },
        Place.TOKEN: {
            **_ANYWHERE,
            "revoked": Fault(
                meaning="401: the secret is not taken any more", answer=json_answer(401, {"error": "invalid_client"})
            ),
            "lifeless": Fault(meaning="a bearer without a word on how long it lasts"),
        },
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.login = ClientLogin(
            client_id=CLIENT_ID, client_secret=CLIENT_SECRET, lasts_s=BEARER_S, now=host.now, rng=host.rng
        )

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/honor/auth/token", self.token),
            web.post("/honor/auth/realms/developer/protocol/openid-connect/token", self.token),  # the older address
            web.post("/honor/api/v1/{app}/sendMessage", self.send),
        ]

    def settings(self) -> Json:
        return {
            "app_id": APP_ID,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "base_url": self.url,
            "token_url": f"{self.url}/auth/token",
        }

    def revoke(self, *, key: bool) -> None:
        self.login.revoke()
        self.login.key_deleted = self.login.key_deleted or key

    def reset(self) -> None:
        super().reset()
        self.login.key_deleted = False

    def state(self) -> Json:
        return {**super().state(), "key_deleted": self.login.key_deleted}

    async def token(self, request: web.Request) -> web.StreamResponse:
        """`POST /auth/token`."""
        form = await form_of(request)
        word, fault = self.faults.strike(Place.TOKEN) or ("", None)
        minted = self._minted(form, lifeless=word == "lifeless")
        if fault is None:
            return response(minted)
        self.outcomes[f"token:{word}"] += 1
        return await self.fail(request, fault, fault.answer or minted)

    def _minted(self, form: dict[str, str], *, lifeless: bool) -> Answer:
        mistake = self.login.mistake(form)
        self.outcomes["token:refused" if mistake else "token:minted"] += 1
        if mistake == "grant_type":
            return json_answer(400, {"error": "unsupported_grant_type"})
        if mistake is not None:
            return json_answer(401, {"error": "invalid_client", "error_description": f"wrong {mistake}"})
        said: Json = {"access_token": self.login.mint(), "expires_in": BEARER_S, "token_type": "Bearer"}
        if lifeless:
            del said["expires_in"]
        return json_answer(200, said)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/v1/{app}/sendMessage`."""
        refused = self._refused(request)
        if refused is not None:
            return self.refuse(refused)
        raw = await request.read()
        try:
            message, tokens = check_body(read_json(raw), raw)
        except Wrong as wrong:
            return self.refuse(answer(wrong.code, f"illegal {wrong.field}"))
        test = _part(message, "android").get("targetUserType") == 1
        if test and self.today.of("tests") + len(tokens) > TESTS_A_DAY:
            return self.refuse(answer(PARAMETER, "too many test messages today"))

        def take(token: str, name: str) -> str | None:
            if test:
                self.today.add("tests")
            self._bring_to(token, message, name, capped=not test)
            return None

        return await self.reply_many(request, tokens, take, partial(answer_to, tokens))

    def _refused(self, request: web.Request) -> Answer | None:
        bearer = self.login.look(request.headers.get("Authorization"))
        stamp = request.headers.get("timestamp", "")
        if bearer is Bearer.EXPIRED:
            return answer(80200003, WORDS["expired"][1], status=401)
        if bearer is not Bearer.GOOD:
            return plain(401)
        if not _MILLISECONDS.fullmatch(stamp) or abs(int(stamp) / 1000 - self.host.now()) > TIMESTAMP_OFF_S:
            return answer(80200001, WORDS["autherror"][1])  # looks like a bad credential (§8.5)
        if request.match_info["app"] != APP_ID:
            return answer(80300002, WORDS["noapp"][1])
        if request.content_type != "application/json":
            return answer(STRUCTURE, "Content-Type must be application/json")
        return None

    def _bring_to(self, token: str, message: Json, name: str, *, capped: bool) -> None:
        """What the cap on marketing swallows is swallowed without a word (§5)."""
        android = _part(message, "android")
        shown = {**_part(message, "notification"), **_part(android, "notification")}
        marketing = bool(shown) and shown.get("importance") != "NORMAL"
        if capped and marketing and self.today.add(("marketing", token)) > MARKETING_A_DAY:
            return
        badge, notify_id = _part(shown, "badge"), shown.get("notifyId")
        self.deliver(
            token,
            message=message,
            name=name,
            title=shown.get("title"),
            body=shown.get("body"),
            data=_read(str(android.get("data", message.get("data", "")))),
            collapse=shown.get("tag") or (None if notify_id is None else str(notify_id)),
            badge=badge.get("setNum", badge.get("addNum")) if badge.get("badgeClass") else None,
            channel=shown.get("importance"),
            ttl=android.get("ttl"),
        )


def answer_to(targets: Sequence[str], failed: Mapping[str, str], name: str) -> Answer:
    """To a call for these tokens that was taken: who failed, and by which word. An empty list is null."""
    lists = {key: [token for token, word in failed.items() if word == mine] or None for mine, key in LISTS.items()}
    return answer(200, "success", data={"sendResult": not failed.keys() >= set(targets), "requestId": name, **lists})


def _read(data: str) -> Json:
    """The app's data: its JSON object, or as it is."""
    if not data:
        return {}
    value = read_json(data)
    return value if isinstance(value, dict) else {"data": data}
