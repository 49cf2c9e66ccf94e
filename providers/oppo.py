"""OPPO (HeyTap) Push, also OnePlus and realme: JSON inside a form, and a login by a signature over the time.

Source: vendor sheet `oppo` (documents of 2024 and later, as mirrored): hosts §1, login §2, request §3, answer §4,
errors §5, classes §6, mapping §7.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import HttpUrl

from providers.app_message import form_body, present
from providers.contract import AddressInvalid, Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.http import (
    THROTTLED_S,
    Credential,
    HttpProvider,
    Request,
    Response,
    by_status,
    code_from,
    json_body,
    no_login,
    number_from,
)
from providers.oppo_message import (
    PARAMETERS_MAX,
    TITLE_CHARS_MAX,
    TTL_S_MAX,
    OppoClass,
    losses,
    notification_of,
    override_mistakes,
)
from providers.receipts.callback import echo
from providers.receipts.contract import ReceiptReader
from providers.receipts.oppo import PARAM_BYTES_MAX, OppoReceipts, OppoReceiptSettings
from providers.settings import ByChannel, PlainSecret, not_blank, plain
from providers.streak import Streak

__all__ = ["OppoConfig", "OppoProvider"]

REGIONS = {
    "cn": "https://api-push-cn.heytapmobi.com",
    "cn-old": "https://api.push.oppomobile.com",
    "intl": "https://api-intl.push.oppomobile.com",
}
BATCH_MAX = 1000
TOKEN_LIFE_S = 20 * 3600.0  # of the 24 hours that it is good for
RENEWAL_S_MIN = 600.0  # OPPO may give an old token again; asking for it every minute is "too often" (sheet §2)
SPENT_S = 3600.0
REGISTRATION_ID = 2  # target_type

LIMITED = 13  # too many calls: too fast, or (if waiting does not help) too many for today
LIMITED_S = 600.0  # said for so long, it is the day's

RETRY, REFUSED, MISCONFIGURED = Verdict.RETRY, Verdict.REFUSED, Verdict.MISCONFIGURED
# OPPO's codes to ours (sheet §5).
BY_CODE: dict[int, Outcome] = {
    **dict.fromkeys((-3, -1), Outcome(verdict=RETRY)),
    **dict.fromkeys((-2, LIMITED, 55), Outcome(verdict=RETRY, scope=Scope.ACCOUNT, retry_after_s=THROTTLED_S)),
    **dict.fromkeys((11, 29), Outcome(verdict=Verdict.REAUTH, scope=Scope.ACCOUNT)),
    **dict.fromkeys(
        (12, *range(14, 29), 30), Outcome(verdict=MISCONFIGURED, scope=Scope.ACCOUNT)
    ),  # keys, signature, clock, address, rights
    **dict.fromkeys((31, 34, 40, 41, 51, 59), Outcome(verdict=REFUSED)),  # 34 and 51 are about pictures: we send none
    32: Outcome(verdict=Verdict.ACCEPTED),  # it has this one already
    33: Outcome(verdict=RETRY, retry_after_s=SPENT_S, spent=True),  # only content and marketing has a daily number (§6)
    **dict.fromkeys((54, 67), Outcome(verdict=MISCONFIGURED)),  # this class's template, category or level
    10000: Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN),
}
BUSINESS_ERRORS, BUSINESS_ERROR = range(10001, 20001), Outcome(verdict=REFUSED)
UNKNOWN = Outcome(verdict=RETRY, unknown=True)
ABOUT_REGID = re.compile(r"registration[ _]?id|reg[ _]?id", re.IGNORECASE)

_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_AUTH_TOKEN = re.compile(r"[\x21-\x7e]{1,1000}")


class OppoConfig(ProviderConfig):
    app_key: Annotated[str, plain(128)]
    master_secret: PlainSecret  # the master secret, not the app secret
    region: Literal["cn", "cn-old", "intl"] = "cn"
    classes: ByChannel[OppoClass]
    strong: bool = False  # OPPO granted banner, vibration and sound (notify_level 16)
    # What a push without words shows, quietly: there are no silent ones.
    wake_text: Annotated[str, not_blank(TITLE_CHARS_MAX)] = "新消息"
    receipts: OppoReceiptSettings | None = None
    base_url: HttpUrl | None = None

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url"})

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §6."""
        found = [
            "classes: a channel of communication and service is to be applied for in OPPO's console; what is content and "
            "marketing reaches a device twice a day (news: five times)."
        ]
        bare = sorted(name for name, one in self.classes.items() if one.category is None)
        if bare:
            found.append(f"classes: without a category OPPO decides by the channel alone: {', '.join(bare)}.")
        if any(one.template_id is not None for one in self.classes.values()):
            found.append("template_id: a template shows nothing before OPPO has approved it.")
        if self.strong:
            found.append("strong: OPPO refuses notify_level 16 (code 67) where it has not granted it.")
        return found


class OppoProvider(HttpProvider):
    name: ClassVar[str] = "oppo"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = OppoConfig
    message_or_token: ClassVar[frozenset[str]] = frozenset({"41"})
    each_dead: ClassVar[frozenset[str]] = frozenset({"item_10000", "item_41"})
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PARAMETERS_MAX,
        ttl_s_max=TTL_S_MAX,
        silent=False,
        collapse=True,
        idempotent=True,
        badge=True,
        sound=False,
        thread=False,
        batch_max=BATCH_MAX,
        zone="Asia/Shanghai",
    )
    config: OppoConfig

    def __init__(self, config: OppoConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self.receipts: ReceiptReader | None = None if config.receipts is None else OppoReceipts(config.receipts)
        self.channels = config.classes.keys() - {"default"}  # as a push of no channel
        self._limited = Streak(gap_s=3600.0)
        self._base = str(config.base_url or REGIONS[config.region]).rstrip("/")

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: cut texts, what is the app's where a tap opens a web page, and a category without its template."""
        return losses(push, self._class(push))

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: fields of OPPO's `notification`; null takes one of ours away."""
        return override_mistakes(overrides)

    def address(self, kind: str, token: str) -> str:
        """See `Provider`."""
        del kind
        if not _TOKEN.fullmatch(token):
            raise AddressInvalid("A registration id of OPPO is 1 to 512 plain characters without blanks.")
        return token

    def known(self, push: Push) -> Outcome | None:
        """See `HttpProvider`."""
        if not _TOKEN.fullmatch(push.token):
            return Outcome(verdict=REFUSED, vendor_code="token_malformed")
        return super().known(push)

    async def credential(self) -> Credential:
        """See `HttpProvider`: a token for a signature over the time (sheet §2)."""
        key, now_s = self.config.app_key, self.now()
        timestamp = str(int(now_s * 1000))
        signed = f"{key}{timestamp}{self.config.master_secret.get_secret_value()}"
        form = {"app_key": key, "sign": hashlib.sha256(signed.encode()).hexdigest(), "timestamp": timestamp}
        response = await self.call(self._request("/server/v1/auth", form))
        outcome = self.decode(response)
        if outcome.verdict is not Verdict.ACCEPTED:
            raise no_login(outcome)
        data = response.json().get("data")
        token = data.get("auth_token") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(token, str) or not _AUTH_TOKEN.fullmatch(token):
            raise no_login(Outcome(verdict=RETRY, vendor_code="garbled"))
        return Credential(value=token, good_until_s=_created_s(data, now_s=now_s) + TOKEN_LIFE_S)

    def _request(self, path: str, form: Mapping[str, str], *, payload_bytes: int | None = None) -> Request:
        return Request(
            url=f"{self._base}{path}",
            headers={"content-type": "application/x-www-form-urlencoded;charset=UTF-8"},
            body=form_body(form),
            payload_bytes=payload_bytes,
        )

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §7."""
        notification = self._notification(push)
        form = {"auth_token": credential, "message": json_body(_message(push.token, notification)).decode()}
        path = "/server/v1/message/notification/unicast"
        return self._request(path, form, payload_bytes=_counted(notification))

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`."""
        notification = self._notification(pushes[0])
        messages = [_message(push.token, notification) for push in pushes]
        form = {"auth_token": credential, "messages": json_body(messages).decode()}
        path = "/server/v1/message/notification/unicast_batch"
        return self._request(path, form, payload_bytes=_counted(notification))

    def _class(self, push: Push) -> OppoClass:
        classes = self.config.classes
        return classes.get(push.channel or "default", classes["default"])

    def _notification(self, push: Push) -> dict[str, Any]:
        config = self.config
        said = notification_of(
            push, self._class(push), wake_text=config.wake_text, strong=config.strong, now_s=self.now()
        )
        if config.receipts is None:
            return said
        param = echo(push.id, PARAM_BYTES_MAX)
        return said | present({"call_back_url": config.receipts.address, "call_back_parameter": param})

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`: notes whether OPPO says code 13 again."""
        response = await self.call(request)
        self._limited.note(said=response.json().get("code") == LIMITED, now_s=self.now())
        return response

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §5."""
        answer = response.json()
        code = answer.get("code")
        if response.status != 200 or type(code) is not int:
            return by_status(response, now_s=self.now())
        if code == 0:
            data = answer.get("data")
            return Outcome(verdict=Verdict.ACCEPTED, vendor_id=_id_of(data) if isinstance(data, dict) else None)
        outcome = _by_code(code, answer.get("message"))
        if code == LIMITED and self._limited.lasted_s >= LIMITED_S:
            return replace(outcome, retry_after_s=SPENT_S, spent=True)
        return outcome

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """See `HttpProvider`: a code for the whole, and one for each item that has its own.

        The names of an item's fields are not confirmed (sheet §4); an item that says no error counts as taken.
        """
        whole_ = self.decode(response)
        items = response.json().get("data")
        if whole_.verdict is not Verdict.ACCEPTED or not isinstance(items, list):
            return [whole_] * len(pushes)
        named = {str(item.get("registrationId")): item for item in items if isinstance(item, dict)}
        in_order = len(items) == len(pushes)
        outcomes = []
        for place, push in enumerate(pushes):
            item = named.get(push.token)
            if item is None and in_order and isinstance(items[place], dict) and "registrationId" not in items[place]:
                item = items[place]
            outcomes.append(Outcome(verdict=Verdict.ACCEPTED) if item is None else _item(item))
        return outcomes


def _message(token: str, notification: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "target_type": REGISTRATION_ID,
        "target_value": token,
        "verify_registration_id": True,  # a phone whose id is another by now drops it
        "notification": notification,
    }


def _counted(notification: Mapping[str, Any]) -> int:
    return len(str(notification.get("action_parameters", "")).encode("utf-8", "replace"))


def _by_code(code: int, said: object) -> Outcome:
    outcome = BY_CODE.get(code, BUSINESS_ERROR if code in BUSINESS_ERRORS else UNKNOWN)
    if code == 41 and isinstance(said, str) and ABOUT_REGID.search(said):
        outcome = Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN)  # a malformed registration id
    return replace(outcome, vendor_code=str(code))


def _item(item: Mapping[str, Any]) -> Outcome:
    said = item.get("errorCode")
    code = number_from(said)
    if said is None or code == 0:
        return Outcome(verdict=Verdict.ACCEPTED, vendor_id=_id_of(item))
    if code is None:
        return Outcome(verdict=RETRY, vendor_code="item_garbled")
    outcome = replace(_by_code(code, item.get("errorMessage")), vendor_code=f"item_{code}")
    if outcome.verdict is Verdict.REAUTH:  # of one item alone: the next call brings the whole answer
        return replace(outcome, verdict=RETRY)
    return outcome


def _id_of(item: Mapping[str, Any]) -> str | None:
    return code_from(item.get("messageId"))


def _created_s(data: Mapping[str, Any], *, now_s: float) -> float:
    """When the token was made: it may be an older one. No later than now, and no earlier than its renewal would be."""
    made_ms = data.get("create_time")
    if type(made_ms) is not int:
        return now_s
    return min(max(made_ms / 1000, now_s - TOKEN_LIFE_S + RENEWAL_S_MIN), now_s)
