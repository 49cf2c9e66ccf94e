"""Honor Push: up to a thousand tokens a call, an OAuth bearer; like Huawei's older line, but with lists in its answers.

Source: vendor sheet `honor`: authentication §2, request §3, answers §4, mapping §6. Much of it is second-hand; what the sheet
marks unverified is taken as Huawei's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, HttpUrl, SecretStr

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.honor_message import TTL_S, Importance, Words, body_of, losses, override_mistakes
from providers.http import Credential, Request, Response, bearer_from, by_status, code_from, json_body
from providers.huawei_family import TOKENS_MAX, HuaweiFamily, login
from providers.receipts.contract import ReceiptReader
from providers.receipts.honor import HonorReceipts, HonorReceiptSettings
from providers.settings import CLASS_NAME, DIGITS, plain

__all__ = ["HonorConfig", "HonorProvider"]

PAYLOAD_BYTES_MAX = 4096  # of the body without its tokens
FAILED_DEAD_S = 86_400.0  # "drop only after repeated failure" (§4)
LOGIN_LIFE_S = 3600.0  # where the answer states none (§2.2)
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
        self._words = Words(
            importance=config.importance,
            importances=config.importances,
            badge_class=config.badge_class,
            test=config.test,
        )
        self.receipts: ReceiptReader | None = None if config.receipts is None else HonorReceipts(config.receipts)

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: a badge without the launcher's class, an image that is not https."""
        return losses(push, self._words)

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: the body but its tokens; null takes a field of ours away."""
        return override_mistakes(overrides)

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
        message = body_of(pushes[0], self._words)
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
