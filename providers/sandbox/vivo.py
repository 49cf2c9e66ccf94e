"""vivo Push and the phones behind it: its login, its classes' numbers, and what it answers.

Source: vendor sheet vivo.md, by a reading of its own: login §2, answer §4, codes §5, classes §6.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import CodedEmulator, Remembered, Wrong, among
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, Host, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.receipt_forms import VivoReceipts
from providers.sandbox.vivo_message import (
    APP_ID,
    check_content,
    check_hour,
    check_list,
    check_single,
    content_of,
    of_system,
)

APP_KEY = "vivo-sandbox-key"
APP_SECRET = "vivo-sandbox-secret"  # noqa: S105
CLOCKS_APART_S = 600
TOKEN_LIFE_S = 24 * 3600
LOGINS_A_SECOND = 10
OPERATIONAL_A_DAY = 10_000  # the floor; counted is what is delivered, here and below
OPERATIONAL_A_DEVICE = 2
SYSTEM_A_DAY = 30_000  # three for each of ten thousand users
OPERATIONAL_TESTS_A_DAY, SYSTEM_TESTS_A_DAY = 100, 10_000
BODIES_A_DAY = 1_000  # the sheet knows that there is a number, not which

# Sheet §5: each row.
CODES = {
    10000: "auth failed",
    10070: "the day's total is exceeded",
    10071: "not at this hour",
    10072: "sending too fast",
    10073: "the system class's total is exceeded",
    10085: "the text has no words",
    10104: "the text looks like a test",
    10089: "this push mode is not allowed",
    10093: "auth is called too often",
    10094: "appId differs from the token's app",
    10096: "category is illegal",
    10097: "category and classification disagree",
    **dict.fromkeys(range(10200, 10206), "auth parameter missing or wrong"),
    10252: "the day's number of group bodies is exceeded",
    10254: "the number of pushes to everyone is exceeded",
    10302: "regId is illegal",
    10040: "a resource limit is reached, try later",
    10045: "target missing",
    10050: "parameter wrong",
    10054: "title wrong",
    **dict.fromkeys(range(10055, 10068), "parameter wrong"),
    10101: "the content did not pass the review",
    10103: "sensitive words",
    10102: "internal fault",
    10303: "requestId missing",
}
# Of one device: the status of an invalid user (§4).
USERS = {"unregistered": 2, "unknown": 1, "unexplained": 3, "nottest": 4}


def error(code: int) -> Answer:
    return json_answer(200, {"result": code, "desc": CODES[code]})


def _by_code(code: int, meaning: str | None = None) -> Fault:
    return Fault(meaning=meaning or f"{code}: {CODES[code]}", answer=error(code))


_ILL: dict[str, Fault] = {
    "unavailable": Fault(
        meaning="500, not in JSON", answer=Answer(status=500, body=b"<html>500</html>", content_type="text/html")
    ),
    "gateway": Fault(
        meaning="502 in HTML", answer=Answer(status=502, body=b"<html>502</html>", content_type="text/html")
    ),
}


class VivoEmulator(CodedEmulator):
    name = "vivo"
    receipts = VivoReceipts()
    of_one_device: ClassVar[frozenset[str]] = frozenset(USERS)
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            **_ILL,
            "unregistered": Fault(meaning="0, and an invalid user of status 2: uninstalled"),
            "unknown": Fault(meaning="0, and an invalid user of status 1: not of this app"),
            "unexplained": Fault(meaning="0, and an invalid user of status 3"),
            "nottest": Fault(meaning="0, and an invalid user of status 4: no test user"),
            "throttled": _by_code(10072, COMMON_FAULTS["throttled"]),
            "quota": _by_code(10070, COMMON_FAULTS["quota"]),
            "revoked": _by_code(10000, COMMON_FAULTS["revoked"]),
            **{f"code{code}": _by_code(code) for code in CODES},
        },
        Place.TOKEN: {
            "garbage": Fault(meaning="0 without a token", answer=json_answer(200, {"result": 0, "desc": ""})),
            "reset": NETWORK_FAULTS["cut"],
            **_ILL,
            **{f"code{code}": _by_code(code) for code in (10000, 10093, 10102, *range(10200, 10206))},
        },
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.tokens = Remembered()  # when each was made
        self.tasks = Remembered()  # bodies, by task id
        # A text of letters alone is refused, too, by §5 and §9; the sheet's own example (§3) has nothing else.
        self.latin = True
        self._logins: list[float] = []

    def reset(self) -> None:
        super().reset()
        self.latin = True

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/vivo/message/auth", self.login),
            web.post("/vivo/message/send", self.single),
            web.post("/vivo/message/saveListPayload", self.save),
            web.post("/vivo/message/pushToList", self.to_list),
        ]

    def settings(self) -> Json:
        classes = {"default": {"category": "IM"}, "news": {"category": "NEWS"}}
        return {
            "app_id": APP_ID,
            "app_key": APP_KEY,
            "app_secret": APP_SECRET,
            "classes": classes,
            "base_url": self.url,
        }

    def revoke(self, *, key: bool) -> None:
        super().revoke(key=key)
        self.tokens.clear()

    async def login(self, request: web.Request) -> web.StreamResponse:
        """`POST /message/auth`, sheet §2."""
        struck = self.faults.strike(Place.TOKEN)
        if struck is not None:
            return await self.fail(request, struck[1], struck[1].answer or error(10102))
        given, now = await _json_of(request), self.host.now()
        self._logins = [at for at in self._logins if now - at < 1]
        if len(self._logins) >= LOGINS_A_SECOND:
            return response(error(10093))
        self._logins.append(now)
        timestamp = given.get("timestamp")
        signed = f"{APP_ID}{APP_KEY}{timestamp}{APP_SECRET}"
        right = hashlib.md5(signed.encode()).hexdigest()  # noqa: S324 - vivo's choice
        for wrong, code in (
            (not among(APP_ID, str(APP_ID))(given.get("appId")), 10200),
            (given.get("appKey") != APP_KEY, 10201),
            (type(timestamp) is not int, 10202),
            ("sign" not in given, 10203),
            (given.get("sign") != right or self.revoked, 10204),
            (type(timestamp) is int and abs(timestamp / 1000 - now) > CLOCKS_APART_S, 10205),
        ):
            if wrong:
                return response(error(code))
        token = f"{self.host.rng.getrandbits(128):032x}"
        self.tokens.saw(token, now)
        return response(json_answer(200, {"result": 0, "desc": "", "authToken": token}))

    async def single(self, request: web.Request) -> web.StreamResponse:
        """`POST /message/send`, sheet §3."""
        message = await _json_of(request)
        target = str(message.get("regId", ""))
        try:
            self._admit(request)
            check_single(message, now_s=self.host.now(), latin=self.latin)
        except Wrong as wrong:
            return self.refuse(error(wrong.code), target)
        return await self._reply(request, [target], message, _single)

    async def save(self, request: web.Request) -> web.StreamResponse:
        """`POST /message/saveListPayload`."""
        message = await _json_of(request)
        try:
            self._admit(request)
            check_content(message, now_s=self.host.now(), latin=self.latin)
        except Wrong as wrong:
            return self.refuse(error(wrong.code))
        if self.today.add("bodies") > BODIES_A_DAY:
            return self.refuse(error(10252))
        task_id = str(self.host.rng.getrandbits(59))
        self.tasks.saw(task_id, message)
        return response(json_answer(200, {"result": 0, "desc": "", "taskId": task_id}))

    async def to_list(self, request: web.Request) -> web.StreamResponse:
        """`POST /message/pushToList`."""
        call = await _json_of(request)
        try:
            self._admit(request)
            check_list(call)
            message = self.tasks.get(call["taskId"])
            if not isinstance(message, dict):
                raise Wrong(10045, "taskId")
            check_hour(message, now_s=self.host.now())
        except Wrong as wrong:
            return self.refuse(error(wrong.code))
        targets = list(dict.fromkeys(call["regIds"]))
        return await self._reply(request, targets, message, _list, task_id=str(call["taskId"]))

    def _admit(self, request: web.Request) -> None:
        made = self.tokens.get(request.headers.get("authToken", ""))
        if self.revoked or not isinstance(made, float) or self.host.now() - made >= TOKEN_LIFE_S:
            raise Wrong(10000, "authToken")

    async def _reply(
        self,
        request: web.Request,
        targets: Sequence[str],
        message: Json,
        answer: Callable[[Mapping[str, str], str], Answer],
        *,
        task_id: str | None = None,
    ) -> web.StreamResponse:
        counted, most, code = _quota(message)
        if self.today.of(counted) >= most:
            return self.refuse(error(code), targets[0])
        return await self.reply_many(
            request, targets, lambda target, name: self._take(target, task_id or name, message), answer
        )

    def _take(self, target: str, name: str, message: Json) -> str | None:
        if message.get("pushMode") == 1 and not target.startswith("tester"):
            return "nottest"
        if not of_system(message):
            said, device = ("said", target, message["title"], message["content"]), ("device", target)
            if self.today.of(said) or self.today.of(device) >= OPERATIONAL_A_DEVICE:
                return None  # folded, or over the device's number: not shown, and not told
            self.today.add(said)
            self.today.add(device)
        self.today.add(_quota(message)[0])
        self.deliver(target, message=message, name=name, **content_of(message))
        return None


def _quota(message: Json) -> tuple[str, int, int]:
    """What it is counted as, how much of that there is in a day, and the code when that is used up (§5, §6)."""
    test = message.get("pushMode") == 1
    if of_system(message):
        return ("system tests", SYSTEM_TESTS_A_DAY, 10073) if test else ("system", SYSTEM_A_DAY, 10073)
    return ("operational tests", OPERATIONAL_TESTS_A_DAY, 10070) if test else ("operational", OPERATIONAL_A_DAY, 10070)


def _single(failed: Mapping[str, str], name: str) -> Answer:
    body: Json = {"result": 0, "desc": "", "taskId": name}
    for target, word in failed.items():
        body["invalidUser"] = {"userid": target, "status": USERS[word]}
    return json_answer(200, body)


def _list(failed: Mapping[str, str], name: str) -> Answer:
    users = [{"userid": target, "status": USERS[word]} for target, word in failed.items()]
    return json_answer(200, {"result": 0, "desc": "", "requestId": name, "invalidUsers": users})


async def _json_of(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        return {}
    parsed = read_json(await request.read())
    return parsed if isinstance(parsed, dict) else {}
