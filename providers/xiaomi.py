"""Xiaomi MiPush: one form per call for up to a hundred devices with the same content, authorised by the app's secret.

Source: vendor sheet `xiaomi` (documentation of 2024 to 2026): regions §1, authentication §2, request §3, answer §4,
errors §5, channels §6, mapping §7. The answer has no word about single devices but for the ones it may list as bad;
the rest comes by receipts (§8).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, HttpUrl, model_validator

from providers.app_message import form_body, present
from providers.contract import AddressInvalid, Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.fields import merged
from providers.http import (
    THROTTLED_S,
    Credential,
    HttpProvider,
    Refusal,
    Request,
    Response,
    by_status,
    code_from,
    number_from,
)
from providers.receipts.callback import echo
from providers.receipts.contract import ReceiptReader
from providers.receipts.xiaomi import PARAM_BYTES_MAX, XiaomiReceipts, XiaomiReceiptSettings
from providers.settings import PlainSecret, not_blank
from providers.xiaomi_message import (
    PAYLOAD_BYTES_MAX,
    TITLE_CHARS_MAX,
    TTL_S_MAX,
    Words,
    fields_of,
    losses,
    notify_id,
    override_mistakes,
)

__all__ = ["XiaomiConfig", "XiaomiProvider"]

REGIONS = {
    "cn": "https://api.xmpush.xiaomi.com",
    "global": "https://api.xmpush.global.xiaomi.com",
    "ru": "https://ru-api.xmpush.global.xiaomi.com",
    "in": "https://idmb-api.xmpush.global.xiaomi.com",
    "eu": "https://fr-api.xmpush.global.xiaomi.com",
    "sg": "https://sgp-api.xmpush.global.xiaomi.com",
}
TARGETS_MAX = 100  # an open library's cap; the vendor's own is said to be 1000, which nobody confirms
SPENT_S = 3600.0
OFFLINE_DEAD_S = 30 * 86_400.0  # "after many days" (§5): longer than anybody's holidays

_PACKAGE = r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+"
_REGID = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,512}")  # no comma: that parts one from the next. The length is a guess.

RETRY, REFUSED, MISCONFIGURED = Verdict.RETRY, Verdict.REFUSED, Verdict.MISCONFIGURED
# Xiaomi's codes to ours (sheet §5). Codes that are not here are none of a send's: unknown.
BY_CODE: dict[int, Outcome] = {
    **dict.fromkeys((-1, 1, 10001, 10003, 20607, 26003, 65029), Outcome(verdict=RETRY)),
    **dict.fromkeys((20215, 20216, 20301, 22102), Outcome(verdict=RETRY)),
    10037: Outcome(verdict=RETRY, alert=True),  # the request expired: our clock may be wrong
    **dict.fromkeys(  # too often: the whole account slows down; 10030 to 10039 are about polling for reports
        (10002, 10027, 10030, 10032, 10033, 10035, 10038, 10039, 26004, 26005, 65006),
        Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=THROTTLED_S),
    ),
    10034: Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=SPENT_S, spent=True),
    # Only the default and the public channels have a daily number (§6); chat goes on.
    **dict.fromkeys((66108, 200001), Outcome(verdict=RETRY, retry_after_s=SPENT_S, spent=True)),  # 66108: unconfirmed
    65003: Outcome(verdict=RETRY, scope=Scope.TOKEN, dead_after_s=OFFLINE_DEAD_S),  # offline, so lost for now
    **dict.fromkeys((10029, 66105), Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN)),  # 66105: unconfirmed
    **dict.fromkeys((10008, 10016, 10017, 21305, 65011), Outcome(verdict=REFUSED)),
    **dict.fromkeys((20209, 65010, 65013, 65035, 65007, 65008, 65012), Outcome(verdict=REFUSED)),
    **dict.fromkeys((65014, 65015, 65016, 65017, 65030), Outcome(verdict=REFUSED)),
    65009: Outcome(verdict=Verdict.TOO_LARGE),
    **dict.fromkeys(
        (10012, 10031, 10036, 21301, 21302, 21303, 22000, 22006, 22007, 22022, 26006, 65036, 65037, 65038),
        Outcome(verdict=MISCONFIGURED, scope=Scope.ACCOUNT),
    ),
    27001: Outcome(verdict=MISCONFIGURED),  # this channel id alone is unknown or unapproved
}
CALLBACK_REFUSED = frozenset({65036, 65037, 65038})
BAD_REGID = Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code="bad_regids")


class XiaomiConfig(ProviderConfig):
    """One app in one region: a device's registration id is known only where it registered."""

    package: Annotated[
        str, Field(pattern=rf"^{_PACKAGE}$", max_length=255, description="a package name, like com.example.app")
    ]
    app_secret: PlainSecret
    region: Literal["cn", "global", "ru", "in", "eu", "sg"] = "cn"
    # The push's `channel` to Xiaomi's channel id; "default" is for all others. Without one Xiaomi refuses, or delivers
    # one message a device and day (§6).
    channels: Annotated[dict[str, str], Field(min_length=1, max_length=100)]
    foreground: bool = True  # show it, too, while the app is in front
    # A push without words passes through, which reaches a running app only; or is it shown, quietly, with `wake_text`?
    wake_shown: bool = False
    wake_text: Annotated[str, not_blank(TITLE_CHARS_MAX)] = "新消息"
    targets_max: Annotated[int, Field(ge=1, le=1000)] = TARGETS_MAX
    receipts: XiaomiReceiptSettings | None = None
    base_url: HttpUrl | None = None

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url"})

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §6."""
        return [
            "channels: Xiaomi must have approved each channel id, in its console. Chats need a private one (no number); of "
            "a public one a device gets five a day, and an id that is not known is refused (27001)."
        ]

    @model_validator(mode="after")
    def _has_a_default(self) -> "XiaomiConfig":
        if "default" not in self.channels:
            raise ValueError('channels: name the channel id for "default", which all other messages take')
        for name, channel_id in self.channels.items():
            if not re.fullmatch(r"[\x21-\x7e]{1,128}", channel_id):
                raise ValueError(f"channels.{name[:64]}: must be a channel id of Xiaomi's console, without blanks")
        return self


class XiaomiProvider(HttpProvider):
    name: ClassVar[str] = "xiaomi"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = XiaomiConfig
    each_dead: ClassVar[frozenset[str]] = frozenset({"bad_regids"})
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PAYLOAD_BYTES_MAX,
        ttl_s_max=TTL_S_MAX,
        collapse=True,
        idempotent=True,
        recall=True,
        thread=False,
        batch_max=TARGETS_MAX,
        zone="Asia/Shanghai",
    )
    config: XiaomiConfig

    def __init__(self, config: XiaomiConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        base = str(config.base_url or REGIONS[config.region]).rstrip("/")
        self.receipts: ReceiptReader | None = None if config.receipts is None else XiaomiReceipts(config.receipts)
        self.channels = config.channels.keys() - {"default"}  # as a push of no channel
        self._words = Words(
            package=config.package,
            channels=config.channels,
            foreground=config.foreground,
            wake_shown=config.wake_shown,
            wake_text=config.wake_text,
        )
        self._send_url = f"{base}/v3/message/regid"
        self._revoke_url = f"{base}/v3/message/regid/revoke"
        self._callback_refused: int | None = None  # Xiaomi's code for what it has against the receipts' address

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: fields of the form by their own names; null takes one of ours away."""
        return override_mistakes(overrides)

    def address(self, kind: str, token: str) -> str:
        """See `Provider`."""
        del kind
        if not _REGID.fullmatch(token):
            raise AddressInvalid("A registration id of Xiaomi has no blanks and no commas.")
        return token

    @property
    def batch_max(self) -> int:
        return self.config.targets_max

    def known(self, push: Push) -> Outcome | None:
        """See `HttpProvider`."""
        if not _REGID.fullmatch(push.token):  # a comma would make two of it
            return Outcome(verdict=REFUSED, vendor_code="token_malformed")
        return super().known(push)

    async def credential(self) -> Credential:
        """See `HttpProvider`: the secret itself, which never expires (sheet §2)."""
        return Credential(value=self.config.app_secret.get_secret_value())

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §7."""
        return self.encode_many([push], credential)

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`."""
        push = pushes[0]
        ours = fields_of(push, self._words, now_s=self.now()) | self._callback(push)
        fields = merged(ours, push.overrides)
        fields["registration_id"] = ",".join(each.token for each in pushes)
        return Request(
            url=self._send_url,
            headers=_headers(credential),
            body=form_body(fields),
            payload_bytes=len(str(fields.get("payload", "")).encode("utf-8", "replace")),
        )

    def encode_recall(self, push: Push, vendor_id: str | None, credential: str) -> Request:
        """See `HttpProvider`: by `notify_id`. Source: Xiaomi's notice of 2026-10-22, which names V3's path and ends V1 in
        December; the form is that of V1 in Xiaomi's own SDK, as the notice tells of no other."""
        del vendor_id
        number = notify_id(push)
        if number is None:
            raise Refusal(Outcome(verdict=REFUSED, vendor_code="notify_id_missing"))
        fields = {
            "registration_ids": push.token,
            "restricted_package_name": self.config.package,
            "notify_id": number,
        }
        return Request(url=self._revoke_url, headers=_headers(credential), body=form_body(fields))

    def decode_recall(self, response: Response) -> Outcome:
        """See `HttpProvider`: the codes are those of a send."""
        outcome = self.decode(response)
        return Outcome(verdict=Verdict.ACCEPTED) if outcome.verdict is Verdict.ACCEPTED else outcome

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`: a push whose receipts Xiaomi will not send goes once more without asking for them (§5).

        So do all later ones, until the settings change; their outcomes bear the code.
        """
        response = await self.call(request)
        code = number_from(response.json().get("code"))
        if response.status == 200 and code in CALLBACK_REFUSED and b"extra.callback=" in request.body:
            self._callback_refused = code
            response = await self.call(self.encode_many(pushes, credential))
        return response

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: cut texts, a sound that is no resource."""
        return losses(push)

    def _callback(self, push: Push) -> dict[str, Any]:
        """Where to report what becomes of it (sheet §8)."""
        receipts = self.config.receipts
        if receipts is None or self._callback_refused is not None:
            return {}
        return present(
            {
                "extra.callback": receipts.address,
                "extra.callback.param": echo(push.id, PARAM_BYTES_MAX),
                "extra.callback.type": receipts.types,
            }
        )

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §5."""
        answer = response.json()
        code = number_from(answer.get("code"))
        if response.status != 200 or code is None:
            return by_status(response, now_s=self.now())
        if code == 0:
            return self._taken(response, answer)
        return replace(BY_CODE.get(code, Outcome(verdict=RETRY, unknown=True)), vendor_code=str(code))

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """See `HttpProvider`: one answer for all, but for the registration ids that it lists as bad.

        That there is such a list is not confirmed (§4), so it has to name an id, be it the only one.
        """
        outcome = self.decode(response)
        bad = _bad(response) if outcome.verdict is Verdict.ACCEPTED else frozenset()
        return [BAD_REGID if push.token in bad else outcome for push in pushes]

    def _taken(self, response: Response, answer: Mapping[str, Any]) -> Outcome:
        if answer.get("result") != "ok":
            return by_status(response, now_s=self.now(), code="answer_garbled")
        data = answer.get("data")
        data = data if isinstance(data, dict) else {}
        if str(data.get("channel_exceed_quota") or "0").lower() not in {"0", "false", "none"}:
            # Said of calls with several messages only (§4), and not in which form: so believed everywhere.
            return Outcome(
                verdict=RETRY, retry_after_s=SPENT_S, spent=True, maybe_sent=True, vendor_code="channel_exceed_quota"
            )
        good, refused = Outcome(verdict=Verdict.ACCEPTED, vendor_id=code_from(data.get("id"))), self._callback_refused
        if refused is None:
            return good
        return replace(good, scope=Scope.ACCOUNT, alert=True, vendor_code=f"receipts_{refused}")


def _headers(credential: str) -> dict[str, str]:
    return {
        "authorization": f"key={credential}",
        "content-type": "application/x-www-form-urlencoded;charset=UTF-8",
    }


def _bad(response: Response) -> frozenset[str]:
    """`data.bad_regids`, as a list or joined by commas: the sheet does not know which (§4)."""
    data = response.json().get("data")
    listed = data.get("bad_regids") if isinstance(data, dict) else None
    if isinstance(listed, str):
        listed = listed.split(",")
    # What is empty stands as "" in this vendor's answers: that is nobody.
    return frozenset(one for one in listed if isinstance(one, str) and one) if isinstance(listed, list) else frozenset()
