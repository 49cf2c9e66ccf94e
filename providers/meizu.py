"""Meizu Flyme Push: a form for up to a hundred devices with the same content, signed with the app's secret.

Source: vendor sheet `meizu` (the vendor's document of April 2025): calls §1, signature §2, request §3, answer §4,
classes §5, mapping §6. The answer lists the devices that failed, by code; the others were taken.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl

from providers.app_message import form_body, present
from providers.contract import AddressInvalid, Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.fields import merged
from providers.http import THROTTLED_S, Credential, HttpProvider, Request, Response, by_status, code_from, json_body
from providers.meizu_message import (
    PARAMETERS_BYTES_MAX,
    TITLE_CHARS_MAX,
    VALID_H,
    MeizuClass,
    losses,
    message_of,
    override_mistakes,
)
from providers.receipts.callback import echo
from providers.receipts.contract import ReceiptReader
from providers.receipts.meizu import PARAM_BYTES_MAX, MeizuReceipts, MeizuReceiptSettings
from providers.settings import ByChannel, PlainSecret, not_blank

__all__ = ["MeizuConfig", "MeizuProvider", "signature"]

BASE_URL = "https://server-api-push.meizu.com"
PATH = "/garcia/api/server/push/varnished/pushByPushId"
BATCH_MAX = 100
SPENT_S = 3600.0
BOTH_RECEIPTS = 3  # delivered and clicked
FOLDED_S = 60.0  # more than about five a minute to one device and app are folded

RETRY, REFUSED, MISCONFIGURED = Verdict.RETRY, Verdict.REFUSED, Verdict.MISCONFIGURED
DEAD = Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN)
# The answer's own code to ours (sheet §4, first table).
BY_CODE: dict[str, Outcome] = {
    "300": Outcome(verdict=RETRY),  # a redirect that was followed once already, or leads elsewhere
    **dict.fromkeys(("500", "1001"), Outcome(verdict=RETRY)),
    **dict.fromkeys(("1003", "110010"), Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=THROTTLED_S)),
    **dict.fromkeys(("1005", "110004", "110032"), Outcome(verdict=REFUSED)),
    **dict.fromkeys(
        ("1006", "110000", "110001", "110009", "110031", "110033"),
        Outcome(verdict=MISCONFIGURED, scope=Scope.ACCOUNT),
    ),
    **dict.fromkeys(("110002", "110003"), DEAD),
    **dict.fromkeys(
        ("110019", "110051"), Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=SPENT_S, spent=True)
    ),
    "110053": Outcome(verdict=MISCONFIGURED),  # pass-through, which we never ask for
}
# The code of a device in `value` (second table). 110010 means another thing here than above.
BY_DEVICE_CODE: dict[str, Outcome] = {
    "201": Outcome(verdict=MISCONFIGURED, scope=Scope.TOKEN),
    **dict.fromkeys(("501", "513"), Outcome(verdict=RETRY)),
    "519": Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=THROTTLED_S),
    "520": Outcome(verdict=RETRY, scope=Scope.TOKEN, retry_after_s=FOLDED_S),
    **dict.fromkeys(("110002", "110003"), DEAD),
    "110005": Outcome(verdict=REFUSED, scope=Scope.TOKEN),  # of an alias, which we never name: the push id stays
    "110010": Outcome(verdict=REFUSED, scope=Scope.TOKEN),  # muted by its user: nothing would be shown
    "110011": Outcome(
        verdict=RETRY, scope=Scope.TOKEN, retry_after_s=SPENT_S, spent=True
    ),  # its public ones of the day
}

_PUSH_ID = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,256}")  # no comma: that parts one from the next. The length is a guess.
_CODE = re.compile(r"[0-9]{3,6}")


class MeizuConfig(ProviderConfig):
    app_id: Annotated[int, Field(ge=1, lt=2**53)]
    app_secret: PlainSecret
    # By the push's `channel`; "default" is for all others. Private is without a number, and its abuse is punished (§5).
    classes: ByChannel[MeizuClass]
    # What a push without words shows, quietly: there are no silent ones.
    wake_text: Annotated[str, not_blank(TITLE_CHARS_MAX)] = "新消息"
    receipts: MeizuReceiptSettings | None = None
    base_url: HttpUrl = HttpUrl(BASE_URL)

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url"})

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §5."""
        public = sorted(name for name, one in self.classes.items() if not one.private)
        if not public:
            return [
                "classes: private is for what a person expects (chats, orders, their account); Meizu punishes abuse."
            ]
        return [f"classes: a device gets three public messages a day (news: five): {', '.join(public)}."]


class MeizuProvider(HttpProvider):
    name: ClassVar[str] = "meizu"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = MeizuConfig
    each_dead: ClassVar[frozenset[str]] = frozenset({"device_110002", "device_110003"})
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PARAMETERS_BYTES_MAX,
        ttl_s_max=VALID_H[1] * 3600,
        silent=False,
        collapse=True,
        sound=False,
        thread=False,
        batch_max=BATCH_MAX,
        zone="Asia/Shanghai",
    )
    config: MeizuConfig

    def __init__(self, config: MeizuConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self.receipts: ReceiptReader | None = None if config.receipts is None else MeizuReceipts(config.receipts)
        self.channels = config.classes.keys() - {"default"}  # as a push of no channel

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: parts of Meizu's `messageJson`; null takes one of ours away."""
        return override_mistakes(overrides)

    def address(self, kind: str, token: str) -> str:
        """See `Provider`."""
        del kind
        if not _PUSH_ID.fullmatch(token):
            raise AddressInvalid("A push id of Meizu has no blanks and no commas.")
        return token

    def known(self, push: Push) -> Outcome | None:
        """See `HttpProvider`."""
        if not _PUSH_ID.fullmatch(push.token):  # a comma would make two of it
            return Outcome(verdict=REFUSED, vendor_code="token_malformed")
        return super().known(push)

    async def credential(self) -> Credential:
        """See `HttpProvider`: the secret, which signs each request (sheet §2)."""
        return Credential(value=self.config.app_secret.get_secret_value())

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §6."""
        return self.encode_many([push], credential)

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`."""
        message = self._message(pushes[0])
        parameters = message.get("clickTypeInfo", {}).get("parameters", {})
        form = {
            "appId": str(self.config.app_id),
            "messageJson": json_body(message).decode(),  # made once: what is signed is what is sent
            "pushIds": ",".join(push.token for push in pushes),
        }
        return Request(
            url=f"{str(self.config.base_url).rstrip('/')}{PATH}",
            headers={"content-type": "application/x-www-form-urlencoded;charset=UTF-8"},
            body=form_body({**form, "sign": signature(form, credential)}),
            payload_bytes=len(json_body(parameters)),
        )

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: cut texts."""
        return losses(push)

    def _message(self, push: Push) -> dict[str, Any]:
        config = self.config
        class_ = config.classes.get(push.channel or "default", config.classes["default"])
        message = message_of(push, class_, wake_text=config.wake_text)
        if config.receipts is not None:
            param = echo(push.id, PARAM_BYTES_MAX)
            message["extra"] = present(
                {"callback": config.receipts.address, "callback.param": param, "callback.type": BOTH_RECEIPTS}
            )
        return merged(message, push.overrides)

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`: a redirect is followed once, and only to the same host (sheet §4, §8)."""
        response = await self.call(request)
        answer = response.json()
        url = answer.get("redirect")
        if response.status == 200 and _word(answer.get("code")) == "300" and _same_host(url, request.url):
            return await self.call(replace(request, url=str(url)))
        return response

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the tables of sheet §4."""
        outcome = self._outcome(response)
        failed = _failed(response) if outcome.verdict is Verdict.ACCEPTED else {}
        return next(iter(failed.values()), outcome)

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """See `HttpProvider`: those that `value` lists, and the answer's code for the others."""
        if len(pushes) == 1:
            return [self.decode(response)]
        outcome = self._outcome(response)
        failed = _failed(response) if outcome.verdict is Verdict.ACCEPTED else {}
        return [failed.get(push.token, outcome) for push in pushes]

    def _outcome(self, response: Response) -> Outcome:
        answer = response.json()
        code = _word(answer.get("code"))
        if response.status != 200 or code is None:
            return by_status(response, now_s=self.now())
        if code == "200":
            return Outcome(verdict=Verdict.ACCEPTED, vendor_id=code_from(answer.get("msgId")))
        return replace(BY_CODE.get(code, Outcome(verdict=RETRY, unknown=True)), vendor_code=code)


def signature(form: Mapping[str, str], secret: str) -> str:
    """MD5 over the raw values, in the order of their names, and the secret (sheet §2)."""
    signed = "".join(f"{name}={form[name]}" for name in sorted(form)) + secret
    return hashlib.md5(signed.encode("utf-8", "replace")).hexdigest()  # noqa: S324 - Meizu's choice


def _failed(response: Response) -> dict[str, Outcome]:
    """By push id, from `value`: code to ids, as the document says, or id to code, as a library has seen."""
    value = response.json().get("value")
    failed: dict[str, Outcome] = {}
    for key, said in value.items() if isinstance(value, dict) else ():
        if _CODE.fullmatch(key):
            ids = said if isinstance(said, list) else [said]
            failed |= {one: _device_outcome(key) for one in ids if isinstance(one, str) and one}
        elif (code := _word(said)) is not None:
            failed[key] = _device_outcome(code)
    return failed


def _device_outcome(code: str) -> Outcome:
    unknown = Outcome(verdict=RETRY, scope=Scope.TOKEN, unknown=True)
    return replace(BY_DEVICE_CODE.get(code, unknown), vendor_code=f"device_{code}")


def _word(code: object) -> str | None:
    """A code as text, which the document says it is."""
    code = str(code) if type(code) is int else code
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def _same_host(url: object, ours: str) -> bool:
    if not isinstance(url, str) or not re.fullmatch(r"[\x21-\x7e]{1,2000}", url):
        return False
    try:
        theirs, own = urlsplit(url), urlsplit(ours)
        return (theirs.scheme, theirs.netloc) == (own.scheme, own.netloc)
    except ValueError:
        return False
