"""Huawei Push Kit, HMS line (v1 and v2): the token endpoint, what a send must hold, what each code looks like.

Source: vendor sheet huawei.md: login §2.1, request §3, answers §5, classes §6, quotas §7. The sheet does not say which codes
come with status 200 and which with 400; here what is wrong with a request is 400, and the rest 200.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import msgspec
from aiohttp import web

from providers.sandbox.checks import Json, read_json
from providers.sandbox.client_login import Bearer, ClientLogin
from providers.sandbox.coded import UNINSTALLED, CodedEmulator, Wrong, form_of
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS, Host, json_answer, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.huawei_message import check_message, content_of, tokens_of
from providers.sandbox.receipt_forms import HuaweiReceipts
from providers.sandbox.receipts import Event

APP_ID, PROJECT_ID = "100000001", "737518067794"
APP_SECRET = "sandbox-app-secret"  # noqa: S105 - anybody may know it
BEARER_S = 3600
LOGINS_MAX, LOGINS_S = 1000, 300
BODY_BYTES_MAX = 4096  # without tokens
TESTS_A_DAY, MARKETING_A_DAY, DEVICE_A_DAY = 500, 2, 3000

WORDS = {  # the code and its sentence, by the fault's word; struck, they spoil the whole call
    "badparam": ("80100001", "Some parameters are incorrect"),
    "onetoken": ("80100002", "A synchronous message must have one token"),
    "badstructure": ("80100003", "Incorrect message structure"),
    "badttl": ("80100004", "The message has expired"),
    "badcollapse": ("80100013", "The collapse_key is invalid"),
    "sensitive": ("80100016", "The message contains sensitive information"),
    "topics": ("80100017", "Too many topic messages at once"),
    "badreview": ("80100018", "The signature of the review is wrong"),
    "autherror": ("80200001", "Authentication error"),
    "expired": ("80200003", "The access token has expired"),
    "noapp": ("80300002", "No permission to send"),
    "alldead": ("80300007", "All the tokens are invalid"),
    "toobig": ("80300008", "The message body is too large"),
    "toomany": ("80300010", "The number of tokens is invalid"),
    "nohigh": ("80300011", "No permission for high priority"),
    "badreceipt": ("80300013", "The receipt address is not available"),
    "oauth": ("80600003", "The OAuth service refused"),
    "internal": ("81000001", "System error"),
    "internalold": ("80000001", "System error"),
    "fingerprint": ("6003", "The certificate fingerprint does not match"),
}
BAD_REQUEST = frozenset({"badparam", "onetoken", "badstructure", "badttl", "badcollapse", "toobig", "toomany"})


def answer(code: str, msg: str, *, status: int = 200, request_id: str = "157440000000000000000") -> Answer:
    return json_answer(status, {"code": code, "msg": msg, "requestId": request_id})


def plain(status: int) -> Answer:
    """From a gateway on the way."""
    return Answer(status=status, body=f"<html>{status}</html>".encode(), content_type="text/html")


HTTP_FAULTS: dict[str, Fault] = {
    **NETWORK_FAULTS,
    "revoked": Fault(meaning=COMMON_FAULTS["revoked"], answer=answer("80200001", "Authentication error", status=401)),
    "notfound": Fault(meaning="404: a wrong path", answer=plain(404)),
    "unavailable": Fault(meaning="500", answer=plain(500)),
    "gateway": Fault(meaning="502", answer=plain(502)),
    "throttled": Fault(meaning="503: flow control", answer=plain(503)),
}


class HuaweiEmulator(CodedEmulator):
    """One app that has the right to send service and communication messages."""

    name = "huawei"
    receipts = HuaweiReceipts()
    of_one_device = frozenset({"unregistered"})
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **UNINSTALLED,
            **HTTP_FAULTS,
            **{
                word: Fault(
                    meaning=f"{code}: {msg}", answer=answer(code, msg, status=400 if word in BAD_REQUEST else 200)
                )
                for word, (code, msg) in WORDS.items()
            },
            "unregistered": Fault(meaning="80100000: the token is listed as illegal; 80300007 if all are"),
            "unlisted": Fault(
                meaning="80100000 whose msg is no JSON", answer=answer("80100000", "Parts of tokens are invalid")
            ),
        },
        Place.TOKEN: {
            **HTTP_FAULTS,
            "revoked": Fault(
                meaning="400: the secret is not taken any more",
                answer=json_answer(400, {"error": 1101, "sub_error": 20045, "error_description": "invalid secret"}),
            ),
        },
    }

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.login = ClientLogin(
            client_id=APP_ID, client_secret=APP_SECRET, lasts_s=BEARER_S, now=host.now, rng=host.rng
        )
        self._logins: list[float] = []

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/huawei/oauth2/v3/token", self.token),
            web.post("/huawei/oauth2/v2/token", self.token),  # the older address
            web.post("/huawei/v1/{app}/messages:send", self.send),
            web.post("/huawei/v2/{project}/messages:send", self.send),
        ]

    def settings(self) -> Json:
        return {
            "app_id": APP_ID,
            "app_secret": APP_SECRET,
            "category": "IM",
            "base_url": self.url,
            "token_url": f"{self.url}/oauth2/v3/token",
        }

    def revoke(self, *, key: bool) -> None:
        self.login.revoke()
        self.login.key_deleted = self.login.key_deleted or key

    def reset(self) -> None:
        super().reset()
        self.login.key_deleted = False
        self._logins.clear()

    def state(self) -> Json:
        return {**super().state(), "key_deleted": self.login.key_deleted}

    async def token(self, request: web.Request) -> web.StreamResponse:
        """`POST /oauth2/v3/token`."""
        form = await form_of(request)
        struck = self.faults.strike(Place.TOKEN)
        if struck is not None:
            word, fault = struck
            self.outcomes[f"token:{word}"] += 1
            return await self.fail(request, fault, fault.answer or self._minted(form))
        return response(self._minted(form))

    def _minted(self, form: dict[str, str]) -> Answer:
        now = self.host.now()
        self._logins = [*(at for at in self._logins if at > now - LOGINS_S), now]
        if len(self._logins) > LOGINS_MAX:
            return plain(503)
        mistake = self.login.mistake(form)
        self.outcomes["token:refused" if mistake else "token:minted"] += 1
        if mistake is not None:
            sub = {"client_id": 20003}.get(mistake, 20045)
            return json_answer(400, {"error": 1101, "sub_error": sub, "error_description": f"invalid {mistake}"})
        said = msgspec.json.encode({"access_token": self.login.mint(), "expires_in": BEARER_S, "token_type": "Bearer"})
        return Answer(status=200, body=said.replace(b"/", b"\\/"))  # as Huawei writes it, and JSON allows

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/{app}/messages:send`, `POST /v2/{project}/messages:send`."""
        refused = self._refused(request)
        if refused is not None:
            return self.refuse(refused)
        raw = await request.read()
        body = read_json(raw)
        try:
            tokens = tokens_of(body)
            if body_bytes(raw, tokens) > BODY_BYTES_MAX:
                raise Wrong(80300008, "body")
            message = check_message(body)
        except Wrong as wrong:
            return self.refuse(answer(str(wrong.code), f"Illegal field {wrong.field}", status=400))
        android = message["android"] if isinstance(message.get("android"), dict) else {}
        shown = {name: value for name, value in message.items() if name != "token"}
        test = isinstance(android, dict) and android.get("target_user_type") == 1
        if test and self.today.of("tests") + len(tokens) > TESTS_A_DAY:
            return self.refuse(answer("80100001", "Too many test messages today", status=400))

        def take(token: str, name: str) -> str | None:
            if test:
                self.today.add("tests")
            if body.get("validate_only") is not True:
                self._bring_to(token, shown, name, capped=not test)
            return None

        return await self.reply_many(request, tokens, take, partial(answer_to, tokens))

    def _refused(self, request: web.Request) -> Answer | None:
        bearer = self.login.look(request.headers.get("Authorization"))
        if bearer is Bearer.EXPIRED:
            return answer("80200003", WORDS["expired"][1], status=401)
        if bearer is not Bearer.GOOD:
            return answer("80200001", WORDS["autherror"][1], status=401)
        if (
            request.match_info.get("app", APP_ID) != APP_ID
            or request.match_info.get("project", PROJECT_ID) != PROJECT_ID
        ):
            return answer("80300002", WORDS["noapp"][1])
        if request.content_type != "application/json":
            return answer("80100003", "Content-Type must be application/json", status=400)
        return None

    def _bring_to(self, token: str, message: Json, name: str, *, capped: bool) -> None:
        """What a cap swallows is answered like any other (§6, §7); only a receipt tells (§9)."""
        content = content_of(message)
        if capped and content.marketing and self.today.add(("marketing", token)) > MARKETING_A_DAY:
            self.report(Event.CAPPED, token, name, message)
            return
        if capped and self.today.add(("all", token)) > DEVICE_A_DAY:
            self.report(Event.BLOCKED, token, name, message)
            return
        self.deliver(token, message=message, name=name, **content.said)


def answer_to(targets: Sequence[str], failed: Mapping[str, str], name: str) -> Answer:
    """To a call for these tokens that was taken: who failed, and by which word."""
    if not failed:
        return answer("80000000", "Success", request_id=name)
    good = [token for token in targets if token not in failed]
    if not good:
        return answer("80300007", WORDS["alldead"][1], request_id=name)
    counts = {"success": len(good), "failure": len(failed), "illegal_tokens": list(failed)}
    return answer("80100000", msgspec.json.encode(counts).decode(), request_id=name)


def body_bytes(raw: bytes, tokens: Sequence[str]) -> int:
    """The body's size without its tokens."""
    return len(raw) - sum(len(msgspec.json.encode(token)) for token in tokens) - max(0, len(tokens) - 1)
