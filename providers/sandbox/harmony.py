"""Huawei Push Kit for HarmonyOS 5 and later (v3): the signed bearer, what a send must hold, what each code looks like.

Source: vendor sheet huawei.md: bearer §2.2, request §4, answers §5, classes §6. As for the other line, the sheet does not say
which codes come with status 200 and which with 400. Live views, cards and voice take papers that a sandbox does not have.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import UNINSTALLED, CodedEmulator, Wrong
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.harmony_account import HarmonyAccount, Standing, open_account
from providers.sandbox.harmony_message import ALERT, BACKGROUND, TOKENS_MAX, check_body, content_of, tokens_of
from providers.sandbox.receipt_forms import HarmonyReceipts
from providers.sandbox.receipts import Event

BODY_BYTES_MAX = 4096  # without tokens
TESTS_A_DAY, MARKETING_A_DAY = 1000, 2
ONCE_S = 86_400  # how long a phone knows an appMessageId
IM_BACKGROUND_AN_HOUR = 2
PUSH_TYPES = frozenset({"0", "1", "2", "6", "7", "10"})
GRANTED = frozenset({ALERT, BACKGROUND})

WORDS = {
    "badparam": ("80100001", "Some parameters are incorrect"),
    "badstructure": ("80100003", "Illegal payload"),
    "badttl": ("80100004", "The message has expired"),
    "unverified": ("80100022", "The image has not been verified"),
    "autherror": ("80200001", "Authentication error"),
    "expired": ("80200005", "The JWT has expired"),
    "noapp": ("80300002", "No permission to send"),
    "toobig": ("80300008", "The message body is too large"),
    "toomany": ("80300010", "The number of tokens is invalid"),
    "testrate": ("80300029", "Test messages are sent too frequently"),
    "testtokens": ("80300030", "Too many tokens for a test message"),
    "longjwt": ("80300036", "The life of the JWT is too long"),
    "penalty": ("80300037", "The app is under penalty"),
    "internal": ("81000001", "System error"),
    "internalold": ("80000001", "System error"),
    "fingerprint": ("6003", "The certificate fingerprint does not match"),
}
BAD_REQUEST = frozenset({"badparam", "badstructure", "badttl", "unverified", "toobig", "toomany", "testtokens"})
REASONS = {  # why one token is refused, by the fault's word
    "unregistered": "tokenFormatError",
    "otherplatform": "tokenPlatformNotSupport",
    "noright": "noRight",
    "nopushtype": "noPushTypeRight",
    "novoice": "notSupportPlayVoice",
    "nolive": "noRightToSendThisLiveNotificationEvent",
    "unsubscribed": "atomicUnableSendUnsubscribedMsg",
    "country": "countryNotSupport",
    "banned": "disableSendHuaweiMsgBecauseOfPenalty",
    "appinfo": "appinfoError",
    "otherimage": "differentImgVerifyPolicy",
}


class _Revocation(NamedTuple):
    notifyId: object = None  # noqa: N815 - Huawei's word
    token: object = None


def answer(code: str, msg: str, *, status: int = 200, request_id: str = "157440000000000000000") -> Answer:
    return json_answer(status, {"code": code, "msg": msg, "requestId": request_id})


def plain(status: int) -> Answer:
    return Answer(status=status, body=f"<html>{status}</html>".encode(), content_type="text/html")


class HarmonyEmulator(CodedEmulator):
    """One project with the rights to alerts, to background messages, and to the category IM."""

    name = "harmony"
    receipts = HarmonyReceipts()
    of_one_device = frozenset(REASONS)
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **UNINSTALLED,
            **NETWORK_FAULTS,
            **{
                word: Fault(
                    meaning=f"{code}: {msg}", answer=answer(code, msg, status=400 if word in BAD_REQUEST else 200)
                )
                for word, (code, msg) in WORDS.items()
            },
            **{
                word: Fault(meaning=f"80100000: the token is listed under {reason}; 80300007 if all are listed")
                for word, reason in REASONS.items()
            },
            "unlisted": Fault(
                meaning="80100000 whose msg is no JSON", answer=answer("80100000", "Parts of tokens are invalid")
            ),
            "allunlisted": Fault(
                meaning="80300007 whose msg is no JSON", answer=answer("80300007", "All the tokens are invalid")
            ),
            "revoked": Fault(
                meaning=COMMON_FAULTS["revoked"], answer=answer("80200001", "Authentication error", status=401)
            ),
            "notfound": Fault(meaning="404: a wrong path", answer=plain(404)),
            "unavailable": Fault(meaning="500", answer=plain(500)),
            "gateway": Fault(meaning="502", answer=plain(502)),
            "throttled": Fault(meaning="503: flow control", answer=plain(503)),
        }
    }
    account: HarmonyAccount

    async def prepare(self) -> None:
        """The service account and its key. Raises ValueError for a spoilt file."""
        self.account = await asyncio.to_thread(open_account, self.host.state_dir)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/harmony/v3/{project}/messages:send", self.send),
            web.post("/harmony/v1/{client}/messages:revoke", self.take_back),
        ]

    def settings(self) -> Json:
        return {"service_account": dict(self.account.document), **self._others()}

    def settings_in_files(self) -> Json:
        """Raises ValueError if the account is in memory only."""
        if self.account.file is None:
            raise ValueError("A TOML table names the service account's file: give the sandbox a state_dir.")
        return {"service_account_file": str(self.account.file), **self._others()}

    def _others(self) -> Json:
        return {"category": "IM", "client_id": self.account.client_id, "base_url": self.url}

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /v3/{project}/messages:send`."""
        refused = self._refused(request)
        if refused is not None:
            return self.refuse(refused)
        raw = await request.read()
        push_type = request.headers.get("push-type", ALERT)  # the sheet does not say what none means
        body = read_json(raw)
        try:
            tokens = tokens_of(body)
            if _size(raw, tokens) > BODY_BYTES_MAX:
                raise Wrong(80300008, "body")
            if push_type not in PUSH_TYPES:
                raise Wrong(80100003, "push-type")
            check_body(body, push_type if push_type in GRANTED else None)
        except Wrong as wrong:
            return self.refuse(answer(str(wrong.code), f"Illegal field {wrong.field}", status=400))
        test = body.get("pushOptions", {}).get("testMessage") is True
        if test and self.today.of("tests") >= TESTS_A_DAY:
            return self.refuse(answer("80300029", WORDS["testrate"][1]))
        if test:
            self.today.add("tests")
        shown = {name: value for name, value in body.items() if name != "target"}

        def take(token: str, name: str) -> str | None:
            return self._bring_to(token, shown, name, push_type, capped=not test)

        return await self.reply_many(request, tokens, take, partial(answer_to, tokens))

    async def take_back(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/{client}/messages:revoke` (§4): no word of whether it was still there. The badge stays as it is."""
        refused = self._refused(request, expired="80200003")  # §5: another code than a send's
        if refused is not None:
            return response(refused)
        if request.headers.get("push-type") not in {"0", "2"}:
            return response(answer("80100003", "The header does not contain valid push-type", status=400))
        body = read_json(await request.read())
        try:
            asked = _Revocation(**body) if isinstance(body, dict) else None
        except TypeError:
            asked = None
        named = asked is not None and type(asked.notifyId) is int and asked.notifyId >= 0  # -1 names none (§4)
        if asked is None or not named or not isinstance(asked.token, list) or not asked.token:
            return response(answer("80300032", "Both token and notifyId are needed", status=400))
        if len(asked.token) > TOKENS_MAX:
            return response(answer("80300010", WORDS["toomany"][1], status=400))
        if not all(isinstance(token, str) and token for token in asked.token):
            return response(answer("80100020", "Some tokens are not in the right form", status=400))
        for token in asked.token:
            self.host.phones.withdraw(token, str(asked.notifyId))
        return response(answer("80000000", "Success"))

    def _refused(self, request: web.Request, *, expired: str = WORDS["expired"][0]) -> Answer | None:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        standing = Standing.WRONG
        if scheme == "Bearer" and not self.revoked:
            standing = self.account.look(bearer, now_s=self.host.now())
        if standing is Standing.EXPIRED:
            return answer(expired, WORDS["expired"][1], status=401)
        if standing is Standing.TOO_LONG:
            return answer("80300036", WORDS["longjwt"][1])
        if standing is Standing.WRONG:
            return answer("80200001", WORDS["autherror"][1], status=401)
        own = {"project": self.account.project_id, "client": self.account.client_id}
        if not request.match_info.items() <= own.items():
            return answer("80300002", WORDS["noapp"][1])
        if request.content_type != "application/json":
            return answer("80100003", "Content-Type must be application/json", status=400)
        return None

    def _bring_to(self, token: str, body: Json, name: str, push_type: str, *, capped: bool) -> str | None:
        """The word for why this device cannot have it. What a cap or a phone swallows is answered like any other; of the cap
        a receipt tells (§9)."""
        if push_type not in GRANTED:
            return "novoice" if push_type == "2" else "nolive" if push_type == "7" else "nopushtype"
        content = content_of(body)
        if content.once is not None:
            key, now = ("once", token, content.once), self.host.now()
            before = self.seen_before.get(key)
            if isinstance(before, float) and now - before < ONCE_S:
                return None  # the first one stays, even where notifyId would have replaced it
            self.seen_before.saw(key, now)
        if content.im_background:
            hour = ("background", token, int(self.host.now() // 3600))
            if self.today.add(hour) > IM_BACKGROUND_AN_HOUR:
                return None
        if capped and content.marketing and self.today.add(("marketing", token)) > MARKETING_A_DAY:
            self.report(Event.CAPPED, token, name, body)
            return None
        self.deliver(token, message=body, name=name, platform="harmony", **content.said)
        return None


def answer_to(targets: Sequence[str], failed: Mapping[str, str], name: str) -> Answer:
    """To a call for these tokens that was taken: who failed, and by which word."""
    if not failed:
        return answer("80000000", "Success", request_id=name)
    good = [token for token in targets if token not in failed]
    by_reason: dict[str, list[str]] = {}
    for token, word in failed.items():
        by_reason.setdefault(f" {REASONS[word]} ", []).append(token)  # blanks as in the vendor's own sample
    counts: Json = {"failure": len(failed), "illegalTokens": by_reason}
    if not good:
        return answer("80300007", msgspec.json.encode(counts).decode(), request_id=name)
    counts = {"success": len(good), **counts}
    return answer("80100000", msgspec.json.encode(counts).decode(), request_id=name)


def _size(raw: bytes, tokens: Sequence[str]) -> int:
    """The body's size without its tokens."""
    return len(raw) - sum(len(msgspec.json.encode(token)) for token in tokens) - max(0, len(tokens) - 1)
