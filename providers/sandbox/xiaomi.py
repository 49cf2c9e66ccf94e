"""Xiaomi MiPush and the phones behind it: what it checks, and what it answers.

Source: vendor sheet xiaomi.md, by a reading of its own: authentication §2, request §3, answer §4, codes §5, channels and
their numbers §6. Two channels are known here: 100002 is private (chats), 100001 is public.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp import web

from providers.sandbox.checks import Json
from providers.sandbox.coded import UNINSTALLED, CodedEmulator, Fields, Wrong, among, chars, digits, form_of, like, look
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.receipt_forms import XiaomiReceipts
from providers.sandbox.receipts import Event

SECRET = "xiaomi-sandbox-secret"  # noqa: S105
PACKAGE = "org.example.chat"
PRIVATE, PUBLIC = "100002", "100001"
TARGETS_MAX = 1000
PUBLIC_A_DAY = 10_000  # the floor for small apps; counted by delivered
PUBLIC_A_DEVICE = 5
PAYLOAD_BYTES = 4096  # less than that
TWO_WEEKS_MS = 14 * 86_400 * 1000
WEEK_MS = 7 * 86_400 * 1000
CUSTOM_PAIRS_MAX = 10
CUSTOM_CHARS_MAX = 1024
RECEIPT_BITS = 1 | 2 | 16 | 32 | 64 | 128

MISSING, BAD, TOO_LONG = 10016, 10017, 65009

_NOTIFY_ID = digits(0, 2_147_483_647)
FIELDS: Fields = {
    "registration_id": (chars(1, 1_000_000), BAD),
    "restricted_package_name": (chars(1, 1024), BAD),
    "pass_through": (among("0", "1"), BAD),
    "title": (chars(1, 49, not_blank=True), BAD),
    "description": (chars(1, 127, not_blank=True), BAD),
    "payload": (lambda value: isinstance(value, str) and len(value.encode()) < PAYLOAD_BYTES, TOO_LONG),
    "notify_type": (digits(-1, 7), BAD),
    "notify_id": (_NOTIFY_ID, BAD),
    "time_to_live": (digits(0, TWO_WEEKS_MS), BAD),
    "time_to_send": (digits(0, 10**15), BAD),
    "extra.channel_id": (chars(1, 128), BAD),
    "extra.channel_name": (chars(0, 128), BAD),
    "extra.channel_description": (chars(0, 512), BAD),
    "extra.notify_effect": (among("1", "2", "3"), BAD),
    "extra.intent_uri": (like(r"intent:.{1,4000}"), BAD),
    "extra.web_uri": (like(r"https?://[^\s]{1,4000}"), BAD),
    "extra.notify_foreground": (among("0", "1"), BAD),
    "extra.sound_uri": (like(rf"android\.resource://{re.escape(PACKAGE)}/raw/[a-z0-9_]+"), BAD),
    "extra.ticker": (chars(0, 1024), BAD),
    "extra.flow_control": (digits(0, 10**6), BAD),
    "extra.jobkey": (like(r"(?!_)[0-9A-Za-z_-]{1,20}"), BAD),
    "extra.callback.param": (lambda value: isinstance(value, str) and len(value.encode()) <= 256, 65036),
    "extra.callback.type": (lambda value: digits(1, 243)(value) and not int(str(value)) & ~RECEIPT_BITS, BAD),
    "extra.only_send_once": (among("0", "1"), BAD),
    **{
        f"extra.{name}": (chars(1, 1024), BAD)
        for name in ("locale", "locale_not_in", "model", "model_not_in", "app_version", "app_version_not_in")
    },
    "extra.connpt": (among("wifi"), BAD),
    "extra.mi_template_id": (chars(1, 128), BAD),
    "extra.mi_template_param": (chars(1, 1024), BAD),
}

# Sheet §5: each row, with the words of the sheet.
CODES = {
    -1: "unknown error",
    1: "internal error",
    10001: "system error",
    10003: "remote service error",
    20607: "database error",
    26003: "internal error",
    65029: "internal error",
    10002: "busy",
    10008: "bad parameter",
    10016: "a parameter is missing",
    10017: "a parameter is wrong",
    21305: "parameter error",
    65011: "parameter error",
    10012: "illegal request",
    10027: "the API is called too often",
    10029: "no such device",
    10030: "polled too often",
    10032: "polled too often",
    10033: "polled too often",
    10035: "polled too often",
    10038: "polled too often",
    10039: "polled too often",
    10031: "the app is blacklisted",
    10034: "too many messages today",
    10036: "operation forbidden",
    10037: "request expired",
    20209: "bad topic",
    65010: "topic too long",
    65013: "topic empty",
    65035: "too many topics",
    20215: "subscribing failed",
    20216: "unsubscribing failed",
    20301: "sending failed",
    22102: "sending failed",
    20315: "deleting a broadcast failed",
    21301: "auth failed",
    21302: "auth failed",
    21303: "restricted",
    22000: "wrong app",
    22006: "wrong app id",
    22007: "wrong app key",
    22022: "wrong package name",
    26004: "broadcasting too often",
    26005: "account set too often",
    65006: "alias set too often",
    26006: "needs a review in the console",
    27001: "the channel does not match",
    65003: "device not found",
    65007: "alias blacklisted",
    65008: "alias too long",
    65009: "content too long",
    65012: "alias empty",
    65014: "too many key-values",
    65015: "key-values too long",
    65016: "account empty",
    65017: "account too long",
    65028: "message not found",
    65030: "building JSON failed",
    65036: "receipt parameter too long",
    65037: "receipt URL too long",
    65038: "receipt URL illegal",
    65040: "logout failed",
    65041: "device hash empty",
    66105: "invalid target",
    66108: "quota",
    200001: "daily quota exceeded",
}


def error(code: int, reason: str = "") -> Answer:
    body = {"result": "error", "reason": reason, "trace_id": "Xcm00000000000000000", "code": code, "info": ""}
    return json_answer(200, {**body, "description": CODES[code]})


def _by_code(code: int, meaning: str | None = None) -> Fault:
    return Fault(meaning=meaning or f"{code}: {CODES[code]}", answer=error(code))


class XiaomiEmulator(CodedEmulator):
    name = "xiaomi"
    receipts = XiaomiReceipts()
    of_one_device: ClassVar[frozenset[str]] = frozenset({"unregistered"})
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **UNINSTALLED,
            **NETWORK_FAULTS,
            "unregistered": _by_code(10029, "10029, or among the bad ids of a call with several"),
            "throttled": _by_code(10002),
            "unavailable": Fault(meaning=COMMON_FAULTS["unavailable"], answer=json_answer(503, {})),
            "quota": Fault(meaning=COMMON_FAULTS["quota"], answer=error(200001, "quota: 10000, have acked: 10000")),
            "revoked": _by_code(21301, COMMON_FAULTS["revoked"]),
            "exceeded": Fault(
                meaning="0, but channel_exceed_quota: nobody got it",
                answer=json_answer(
                    200, {"result": "ok", "code": 0, "data": {"id": "scm1", "channel_exceed_quota": "1"}}
                ),
            ),
            "gateway": Fault(
                meaning="502 in HTML", answer=Answer(status=502, body=b"<html>502</html>", content_type="text/html")
            ),
            **{f"code{abs(code)}" if code >= 0 else "codeminus1": _by_code(code) for code in CODES},
        }
    }

    def routes(self) -> list[web.RouteDef]:
        sends = [web.post(f"/xiaomi/{version}/message/regid", self.send) for version in ("v2", "v3")]
        return [*sends, web.post("/xiaomi/v3/message/regid/revoke", self.take_back)]

    def settings(self) -> Json:
        channels = {"default": PRIVATE, "news": PUBLIC}
        return {"package": PACKAGE, "app_secret": SECRET, "channels": channels, "base_url": self.url}

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /v3/message/regid`, sheet §3."""
        form = await form_of(request)
        targets = [one for one in form.get("registration_id", "").split(",") if one]
        first = targets[0] if targets else ""
        if self.revoked or request.headers.get("Authorization") != f"key={SECRET}":
            return self.refuse(error(21301), first)
        try:
            self._check(form, targets, several_apps=request.path.startswith("/xiaomi/v3/"))
        except Wrong as wrong:
            return self.refuse(error(wrong.code, wrong.field), first)
        if form["extra.channel_id"] == PUBLIC and self.today.of("public") >= PUBLIC_A_DAY:
            acked = self.today.of("public")
            return self.refuse(error(200001, f"quota: {PUBLIC_A_DAY}, have acked: {acked}"), first)
        return await self.reply_many(
            request,
            targets,
            lambda target, name: self._take(target, name, form),
            lambda failed, name: _taken(targets, failed, name),
        )

    async def take_back(self, request: web.Request) -> web.StreamResponse:
        """`POST /v3/message/regid/revoke`: of whoever still shows it; nobody looks who does."""
        form = await form_of(request)
        targets = [one for one in form.get("registration_ids", "").split(",") if one]
        if self.revoked or request.headers.get("Authorization") != f"key={SECRET}":
            return response(error(21301))
        if form.get("restricted_package_name") != PACKAGE:
            return response(error(22022, "restricted_package_name"))
        if not targets or not _NOTIFY_ID(form.get("notify_id")):
            return response(error(MISSING, "registration_ids, notify_id"))
        for target in targets:
            self.host.phones.withdraw(target, form["notify_id"])
        return response(json_answer(200, {"result": "ok", "code": 0, "description": "success", "data": {}}))

    def _check(self, form: Mapping[str, str], targets: Sequence[str], *, several_apps: bool) -> None:
        packages = form.get("restricted_package_name", "")
        if not packages:
            raise Wrong(MISSING, "restricted_package_name")
        if PACKAGE not in (packages.split(",") if several_apps else [packages]):
            raise Wrong(22022, "restricted_package_name")
        if not targets:
            raise Wrong(MISSING, "registration_id")
        if len(targets) > TARGETS_MAX:
            raise Wrong(BAD, "registration_id")
        for field in ("pass_through", *(("payload",) if form.get("pass_through") == "1" else ("title", "description"))):
            if field not in form:
                raise Wrong(MISSING, field)
        self._check_callback(form)
        custom = {name: value for name, value in form.items() if name.startswith("extra.") and name not in FIELDS}
        custom.pop("extra.callback", None)
        if len(custom) > CUSTOM_PAIRS_MAX:
            raise Wrong(65014, "extra")
        if sum(len(name) - len("extra.") + len(value) for name, value in custom.items()) > CUSTOM_CHARS_MAX:
            raise Wrong(65015, "extra")
        known = {name: value for name, value in form.items() if name not in custom and name != "extra.callback"}
        look(known, FIELDS, unknown=BAD)
        if "time_to_send" in form:
            ahead_ms = int(form["time_to_send"]) - self.host.now() * 1000
            if not 0 <= ahead_ms <= WEEK_MS:
                raise Wrong(BAD, "time_to_send")
        needs = {"2": "extra.intent_uri", "3": "extra.web_uri"}.get(form.get("extra.notify_effect", ""))
        if needs is not None and needs not in form:
            raise Wrong(MISSING, needs)
        if form.get("extra.channel_id") not in {PRIVATE, PUBLIC}:
            raise Wrong(27001, "extra.channel_id")

    @staticmethod
    def _check_callback(form: Mapping[str, str]) -> None:
        url = form.get("extra.callback")
        if url is not None and len(url.encode()) > 128:
            raise Wrong(65037, "extra.callback")
        if url is not None and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
            raise Wrong(65038, "extra.callback")

    def _take(self, target: str, name: str, form: Mapping[str, str]) -> None:
        channel = form["extra.channel_id"]
        if channel == PUBLIC and self.today.add(("device", target)) > PUBLIC_A_DEVICE:
            self.report(Event.CAPPED, target, name, dict(form))  # not delivered
            return
        jobkey = form.get("extra.jobkey")
        if jobkey is not None and self.seen_before.saw((target, jobkey)):
            return  # the phone shows the first one only
        if channel == PUBLIC:
            self.today.add("public")
        shown = form.get("pass_through") == "0"
        self.deliver(
            target,
            message=dict(form),
            title=form["title"] if shown else None,
            body=form["description"] if shown else None,
            name=name,
            data={"payload": form.get("payload", "")},
            collapse=form.get("notify_id", "0") if shown else None,  # without an id there is one notification
            sound=form.get("extra.sound_uri"),
            channel=channel,
            priority=form.get("notify_type"),
            ttl=form.get("time_to_live"),
        )


def _taken(targets: Sequence[str], failed: Mapping[str, str], name: str) -> Answer:
    if len(targets) == 1 and failed:
        return error(10029)
    data: Json = {"id": name, "day_quota": "", "day_acked": "", "channel_exceed_quota": ""}
    if failed:
        data["bad_regids"] = ",".join(failed)  # the form is a guess (§4)
    body = {"result": "ok", "code": 0, "description": "success", "info": "", "reason": "", "trace_id": name}
    return json_answer(200, {**body, "data": data})
