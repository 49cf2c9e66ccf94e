"""Honor Push: up to a thousand tokens a call, an OAuth bearer; like Huawei's older line, but with lists in its answers.

Source: vendor sheet `honor`: authentication §2, request §3, answers §4, mapping §6. Much of it is second-hand; what the sheet
marks unverified is taken as Huawei's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, HttpUrl, SecretStr

from providers.app_message import app_data, named, number_for, present, short, texts
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.field_lists import objects
from providers.fields import Rules, companions, duration, matching, merged, mistakes, object_in, one_of, text, whole
from providers.http import Credential, Request, Response, bearer_from, by_status, code_from, json_body
from providers.huawei_family import TOKENS_MAX, HuaweiFamily, click_action, login
from providers.receipts.contract import ReceiptReader
from providers.receipts.honor import HonorReceipts, HonorReceiptSettings
from providers.settings import CLASS_NAME, DIGITS, plain

__all__ = ["HonorConfig", "HonorProvider"]

PAYLOAD_BYTES_MAX = 4096  # of the body without its tokens
TTL_S = (1, 1_296_000)  # 15 days
NOTIFY_ID_BELOW = 2**31
BADGE_MAX = 99
BI_TAG_BYTES_MAX = 64  # the sheet has no bound; Huawei's
FAILED_DEAD_S = 86_400.0  # "drop only after repeated failure" (§4)
LOGIN_LIFE_S = 3600.0  # where the answer states none (§2.2)
BLANK = " "
BASE_URL = "https://push-api.cloud.honor.com"
TOKEN_URL = "https://iam.developer.honor.com/auth/token"  # noqa: S105

EXPIRED, FAILED = "expireTokens", "failTokens"
LISTED = frozenset({"200", "80100000"})  # their lists say who has it

# §4: Huawei's numbers, of which Honor is said to use some. Asked after code 200 and the HTTP status.
VERDICTS: dict[str, tuple[Verdict, Scope]] = {
    "80100001": (Verdict.REFUSED, Scope.MESSAGE),
    "80100003": (Verdict.REFUSED, Scope.MESSAGE),
    "80200001": (Verdict.REAUTH, Scope.ACCOUNT),
    "80200003": (Verdict.REAUTH, Scope.ACCOUNT),
    "80300002": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "80300007": (Verdict.TOKEN_DEAD, Scope.TOKEN),  # every token; the guard is the relay's brake
    "80300008": (Verdict.TOO_LARGE, Scope.MESSAGE),
    "80300010": (Verdict.REFUSED, Scope.MESSAGE),  # too many tokens: a call for several goes by halves
    "80600003": (Verdict.RETRY, Scope.ACCOUNT),
    "81000001": (Verdict.RETRY, Scope.MESSAGE),
}

Importance = Literal["LOW", "NORMAL"]  # marketing, or service and communication (needs a right, else it is marketing)


class HonorConfig(ProviderConfig):
    app_id: Annotated[str, DIGITS]
    client_id: Annotated[str, plain(256)]
    client_secret: Annotated[SecretStr, Field(min_length=1, max_length=512)]
    importance: Importance = "NORMAL"
    importances: Annotated[dict[str, Importance], Field(max_length=100)] = Field(default_factory=dict)  # by channel
    badge_class: Annotated[str, CLASS_NAME] | None = None
    test: bool = False  # a thousand a day
    receipts: HonorReceiptSettings | None = None
    base_url: HttpUrl = HttpUrl(BASE_URL)
    token_url: HttpUrl = HttpUrl(TOKEN_URL)

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url", "token_url"})

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §5."""
        if "NORMAL" not in {self.importance, *self.importances.values()}:
            return []
        return [
            "importance: NORMAL is for service and communication, a right that Honor grants; without it the push is "
            "marketing: silent, and two a device and day (five for news)."
        ]


class HonorProvider(HuaweiFamily):
    vendor: ClassVar[str] = "Honor"
    name: ClassVar[str] = "honor"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = HonorConfig
    each_dead: ClassVar[frozenset[str]] = frozenset({EXPIRED})
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PAYLOAD_BYTES_MAX,
        ttl_s_max=TTL_S[1],
        collapse=True,
        withdraw=True,
        badge=True,
        image=True,
        sound=False,
        channel=False,
        batch_max=TOKENS_MAX,
        zone="Asia/Shanghai",
    )
    config: HonorConfig

    def __init__(self, config: HonorConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._send_url = f"{str(config.base_url).rstrip('/')}/api/v1/{config.app_id}/sendMessage"
        self.receipts: ReceiptReader | None = None if config.receipts is None else HonorReceipts(config.receipts)

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: a badge without the launcher's class, an image that is not https."""
        return named(
            badge=push.badge is not None and (push.silent or not self.config.badge_class),
            image=push.image is not None and not push.image.startswith("https://"),
        )

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: the body but its tokens; null takes a field of ours away."""
        return _override_mistakes(overrides)

    async def credential(self) -> Credential:
        """See `HttpProvider`: client credentials for a bearer (sheet §2)."""
        request = login(
            str(self.config.token_url),
            client_id=self.config.client_id,
            secret=self.config.client_secret.get_secret_value(),
        )
        return bearer_from(await self.call(request), now_s=self.now(), life_s=LOGIN_LIFE_S)

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §6."""
        message = self._message(pushes[0])
        return Request(
            url=self._send_url,
            headers={
                "authorization": f"Bearer {credential}",
                "content-type": "application/json; charset=UTF-8",
                "timestamp": str(int(self.now() * 1000)),  # without it, it looks like a bad credential (§8.5)
            },
            body=json_body({**message, "token": [push.token for push in pushes]}),
            payload_bytes=len(json_body({**message, "token": []})),
        )

    def decoded(self, response: Response, tokens: list[str] | None) -> list[Outcome]:
        """See `HuaweiFamily`: the table of sheet §4."""
        answer = response.json()
        code, count = code_from(answer.get("code")), 1 if tokens is None else len(tokens)
        if response.status not in {200, 400} or code is None:
            return [by_status(response, now_s=self.now(), code=code)] * count
        if code in LISTED:
            return _sorted(answer, code, tokens)
        if code in VERDICTS:
            verdict, scope = VERDICTS[code]
            return [Outcome(verdict=verdict, scope=scope, vendor_code=code)] * count
        # "Anything else" keeps the token and has two tries more, be it with status 400: no word of it is about the message.
        return [
            Outcome(verdict=Verdict.RETRY, unknown=True, maybe_sent=response.status == 200, vendor_code=code)
        ] * count

    def _message(self, push: Push) -> dict[str, Any]:
        """The body without its tokens. A silent push is `data` alone: a pass-through message."""
        android = {
            "ttl": f"{min(max(int(push.ttl_s), TTL_S[0]), TTL_S[1])}s",
            "biTag": push.id if len(push.id.encode("utf-8", "replace")) <= BI_TAG_BYTES_MAX else short(push.id, 32),
            "targetUserType": 1 if self.config.test else None,
            "notification": None if push.silent else self._notification(push),
        }
        message = {"data": json_body(app_data(push)).decode(), "android": present(android)}
        return merged(message, push.overrides)

    def _notification(self, push: Push) -> dict[str, Any]:
        title, body = texts(push, blank=BLANK)
        badge = None
        if push.badge is not None and self.config.badge_class:
            badge = {"setNum": min(max(push.badge, 0), BADGE_MAX), "badgeClass": self.config.badge_class}
        replaces = push.collapse_key or push.id
        importance = self.config.importances.get(push.channel or "", self.config.importance)
        return present(
            {
                "title": title,
                "body": body,
                "clickAction": click_action(push.click),  # required (§8.4)
                "image": push.image if push.image and push.image.startswith("https://") else None,
                "importance": importance if push.urgent else "LOW",
                # There is no idempotency key: a repeat replaces what it repeats (§6).
                "notifyId": number_for(replaces, NOTIFY_ID_BELOW),
                "tag": short(replaces, 32),
                "group": push.thread,
                "badge": badge,
            }
        )


def _sorted(answer: Mapping[str, Any], code: str, tokens: list[str] | None) -> list[Outcome]:
    """By the lists: expired tokens are dead, failed ones have another try, the others have the push."""
    data = answer.get("data")
    data = data if isinstance(data, dict) else {}
    expired, failed = _texts(data.get(EXPIRED)), _texts(data.get(FAILED))
    vendor_id = data.get("requestId")
    good = Outcome(
        verdict=Verdict.ACCEPTED, vendor_id=vendor_id[:256] if isinstance(vendor_id, str) and vendor_id else None
    )
    dead = Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code=EXPIRED)
    again = Outcome(verdict=Verdict.RETRY, scope=Scope.TOKEN, vendor_code=FAILED, dead_after_s=FAILED_DEAD_S)
    unsure = Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="sendResult")
    spared = good if code == "200" and data.get("sendResult") is not False else unsure
    if tokens is None:
        return [dead if expired else again if failed else spared]
    if (expired | failed) & set(tokens):
        spared = good  # who was refused is named: the others were not
    return [dead if token in expired else again if token in failed else spared for token in tokens]


def _texts(value: Any) -> set[str]:
    return {one for one in value if isinstance(one, str) and one} if isinstance(value, list) else set()


# --- overrides --------------------------------------------------------------------------------------------------------

_TEXT, _WORDS = text(4096), text(4096, chars_min=1)
_HTTPS = matching(r"https://[\x21-\x7e]{1,2048}", "an https URL")
_RULES: Rules = {
    "data": _TEXT,
    "notification": {"title": _TEXT, "body": _TEXT, "image": _HTTPS},
    "android": {
        "ttl": duration(*TTL_S),
        "biTag": text(1000),
        "data": _TEXT,
        "targetUserType": one_of(0, 1),
        "notification": {
            "title": _WORDS,
            "body": _WORDS,
            "clickAction": {"type": one_of(1, 2, 3), "intent": _TEXT, "action": _TEXT, "url": _HTTPS},
            "image": _HTTPS,
            "style": one_of(0, 1),
            "bigTitle": _TEXT,
            "bigBody": _TEXT,
            "importance": one_of("LOW", "NORMAL"),
            "when": matching(
                r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", "a time, like 2026-05-03T09:12:44Z"
            ),
            "buttons": objects(
                {
                    "name": text(40),
                    "actionType": one_of(0, 1, 2),
                    "intentType": one_of(0, 1),
                    "intent": _TEXT,
                    "data": text(1024),
                },
                3,
                "at most 3 buttons (name up to 40, data up to 1024 characters, actionType 0 to 2)",
            ),
            "badge": {
                "addNum": whole(0, 99),
                "setNum": whole(0, 99),
                "badgeClass": matching(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)+", "the full name of the launcher's class"),
            },
            "notifyId": whole(0, NOTIFY_ID_BELOW - 1),
            "tag": text(1000),
            "group": text(1000),
        },
    },
}

_SHOWN = "android.notification."
_REQUIRED = tuple(_SHOWN + name for name in ("title", "body", "clickAction", "clickAction.type"))
_GOES_TO = {1: ("intent", "action"), 2: ("url",)}  # what a tap needs to know, by its type


def _override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for Honor's body, each a sentence."""
    shown = object_in(object_in(overrides, "android"), "notification")
    found = list(mistakes(overrides, _RULES, required=_REQUIRED))
    found += companions(object_in(shown, "clickAction"), "type", _GOES_TO, under=f"{_SHOWN}clickAction.")
    found += [
        f"{_SHOWN}{big} must equal {small}: Honor refuses or ignores another text."
        for big, small in (("bigTitle", "title"), ("bigBody", "body"))
        if shown.get(big) is not None and shown.get(big) != shown.get(small)
    ]
    return found
