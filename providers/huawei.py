"""Huawei Push Kit, HMS line (Android, EMUI, HarmonyOS up to 4): up to a thousand tokens a call, an OAuth bearer.

HarmonyOS 5 and later is another network: `providers.harmony`. Source: vendor sheet `huawei`: authentication §2.1, request
§3, answers §5, classes §6, mapping §8.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field, HttpUrl, SecretStr, model_validator

from providers.app_message import category_advice
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.http import (
    Credential,
    Request,
    Response,
    bearer_from,
    by_status,
    code_from,
    json_body,
)
from providers.huawei_family import TOKENS_MAX, HuaweiFamily, by_status_of_huawei, login, partial, request_id
from providers.huawei_message import TTL_S, Category, Words, losses, message_of, override_mistakes
from providers.receipts.contract import ReceiptReader
from providers.receipts.huawei import HuaweiReceipts, HuaweiReceiptSettings
from providers.settings import CLASS_NAME, DIGITS, plain

__all__ = ["HuaweiConfig", "HuaweiProvider"]

PAYLOAD_BYTES_MAX = 4096  # of the body without its tokens
BASE_URL = "https://push-api.cloud.huawei.com"
TOKEN_URL = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"  # noqa: S105

ACCEPTED, SOME_REFUSED, ALL_DEAD = "80000000", "80100000", "80300007"
NO_RIGHT_TO_HIGH, NO_RECEIPTS = "80300011", "80300013"

# §5, the rows that a send can meet; believed with status 200 and 400.
VERDICTS: dict[str, tuple[Verdict, Scope]] = {
    ACCEPTED: (Verdict.ACCEPTED, Scope.MESSAGE),
    "80100001": (Verdict.REFUSED, Scope.MESSAGE),
    "80100002": (Verdict.REFUSED, Scope.MESSAGE),
    "80100003": (Verdict.REFUSED, Scope.MESSAGE),
    "80100004": (Verdict.REFUSED, Scope.MESSAGE),
    "80100013": (Verdict.REFUSED, Scope.MESSAGE),
    "80100016": (Verdict.REFUSED, Scope.MESSAGE),  # a sensitive word: this message's trouble alone (§10.8)
    "80100017": (Verdict.RETRY, Scope.MESSAGE),
    "80100018": (Verdict.REFUSED, Scope.MESSAGE),
    "80200001": (Verdict.REAUTH, Scope.ACCOUNT),
    "80200003": (Verdict.REAUTH, Scope.ACCOUNT),
    "80300002": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    ALL_DEAD: (Verdict.TOKEN_DEAD, Scope.TOKEN),  # every token; the guard against a wrong app id is the relay's brake
    "80300008": (Verdict.TOO_LARGE, Scope.MESSAGE),
    "80300010": (Verdict.REFUSED, Scope.MESSAGE),  # too many tokens: a call for several goes by halves
    NO_RIGHT_TO_HIGH: (
        Verdict.REFUSED,
        Scope.MESSAGE,
    ),  # a message's own override; what we claim, `exchange` takes back
    # The receipts' address in AppGallery Connect: each message is refused for it, but the account is well, and goes on by
    # itself when the address does (§5: FIX, message is refused).
    NO_RECEIPTS: (Verdict.MISCONFIGURED, Scope.TOKEN),
    "80600003": (Verdict.REAUTH, Scope.ACCOUNT),
    "80000001": (Verdict.RETRY, Scope.MESSAGE),
    "81000001": (Verdict.RETRY, Scope.MESSAGE),
    "6003": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
}


class HuaweiConfig(ProviderConfig):
    """`project_id` makes it v2: one project that sends to several apps. Categories go by the push's channel."""

    app_id: Annotated[str, DIGITS]
    app_secret: Annotated[SecretStr, Field(min_length=1, max_length=512)]
    project_id: Annotated[str, DIGITS] | None = None
    category: Category | None = None  # without one, or without its right, all is marketing: two a day, no sound (§6)
    categories: Annotated[dict[str, Category], Field(max_length=100)] = Field(default_factory=dict)
    badge_class: Annotated[str, CLASS_NAME] | None = None
    receipt_id: Annotated[str, plain(128)] | None = None
    urgency_high: bool = False  # Huawei has granted the right to wake the app with data messages
    cache_newest: bool = False  # while offline, keep the newest per collapse key (of which two may meet in one of 100)
    test: bool = False  # 500 a day, without the caps per device
    validate_only: bool = False  # Huawei checks, and sends nothing
    receipts: HuaweiReceiptSettings | None = None
    base_url: HttpUrl = HttpUrl(BASE_URL)
    token_url: HttpUrl = HttpUrl(TOKEN_URL)

    operator_only: ClassVar[frozenset[str]] = frozenset({"base_url", "token_url"})

    @model_validator(mode="after")
    def _reported(self) -> "HuaweiConfig":
        if self.receipt_id is not None and self.receipts is None:
            raise ValueError("receipt_id: needs the table receipts: nobody could bring what it asks for")
        return self

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §6, §10.5."""
        high = (
            "urgency_high: a right that Huawei grants; without it wake-ups go as normal ones (code urgency_80300011)."
        )
        return [*category_advice("Huawei", self.category, self.categories), *([high] if self.urgency_high else [])]


class HuaweiProvider(HuaweiFamily):
    vendor: ClassVar[str] = "Huawei"
    name: ClassVar[str] = "huawei"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = HuaweiConfig
    each_dead: ClassVar[frozenset[str]] = frozenset({SOME_REFUSED, ALL_DEAD})
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PAYLOAD_BYTES_MAX,
        ttl_s_max=TTL_S[1],
        collapse=True,
        withdraw=True,
        badge=True,
        image=True,
        localised=True,
        batch_max=TOKENS_MAX,
        zone="Asia/Shanghai",
    )
    config: HuaweiConfig

    def __init__(self, config: HuaweiConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        path = f"v1/{config.app_id}" if config.project_id is None else f"v2/{config.project_id}"
        self._send_url = f"{str(config.base_url).rstrip('/')}/{path}/messages:send"
        self._words = Words(
            category=config.category,
            categories=config.categories,
            badge_class=config.badge_class,
            receipt_id=config.receipt_id,
            urgency_high=config.urgency_high,
            cache_newest=config.cache_newest,
            test=config.test,
        )
        # What the settings ask for, by the code that says Huawei will not have it.
        self._forgoes: dict[str, dict[str, Any]] = {}
        if config.receipt_id is not None:
            self._forgoes[NO_RECEIPTS] = {"receipt_id": None}
        if config.urgency_high:
            self._forgoes[NO_RIGHT_TO_HIGH] = {"urgency_high": False}
        self.receipts: ReceiptReader | None = None if config.receipts is None else HuaweiReceipts(config.receipts)

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: a badge without the launcher's class, an image that is not https, a sound that is no resource."""
        return losses(push, self._words)

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: the parts of Huawei's `message` but its tokens; null takes a field of ours away."""
        return override_mistakes(overrides)

    async def credential(self) -> Credential:
        """See `HttpProvider`: client credentials for a bearer (sheet §2.1)."""
        request = login(
            str(self.config.token_url),
            client_id=self.config.app_id,
            secret=self.config.app_secret.get_secret_value(),
        )
        return bearer_from(await self.call(request), now_s=self.now())

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §8."""
        return self._request(pushes, credential, self._words)

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`. A wake-up that Huawei gives no right to goes once more as a normal one (§5, 80300011), and so
        do all from then on, at one call each; where it will not have the receipts' address (80300013), all goes without
        asking for receipts. Until the settings are read anew, outcomes bear a code that says so."""
        response = await self.call(request)
        for _ in self._forgoes:
            without = self._forgoes.get(code_from(response.json().get("code")) or "")
            if without is None:
                break
            self._words = replace(self._words, **without)
            again = self._request(pushes, credential, self._words)
            if again.body == request.body:  # it did not ask for it, or its overrides do
                break
            request, response = again, await self.call(again)
        return response

    def _request(self, pushes: Sequence[Push], credential: str, words: Words) -> Request:
        message = message_of(pushes[0], words)
        tokens = [push.token for push in pushes]
        body = json_body({"validate_only": self.config.validate_only, "message": {**message, "token": tokens}})
        return Request(
            url=self._send_url,
            headers={"authorization": f"Bearer {credential}", "content-type": "application/json; charset=UTF-8"},
            body=body,
            payload_bytes=len(body) - len(json_body(tokens)) + len(b"[]"),
        )

    def _forgone(self) -> str | None:
        """What the settings ask for and Huawei would not have, as a code for the operator."""
        if self.config.receipt_id is not None and self._words.receipt_id is None:
            return f"receipts_{NO_RECEIPTS}"
        if self.config.urgency_high and not self._words.urgency_high:
            return f"urgency_{NO_RIGHT_TO_HIGH}"
        return None

    def _taken(self, answer: Mapping[str, Any]) -> Outcome:
        forgone = self._forgone()
        good = Outcome(verdict=Verdict.ACCEPTED, vendor_id=request_id(answer))
        return good if forgone is None else replace(good, scope=Scope.ACCOUNT, alert=True, vendor_code=forgone)

    def decoded(self, response: Response, tokens: list[str] | None) -> list[Outcome]:
        """See `HuaweiFamily`: the table of sheet §5."""
        answer = response.json()
        code, count = code_from(answer.get("code")), 1 if tokens is None else len(tokens)
        if response.status not in {200, 400} or code is None:
            return [by_status_of_huawei(response, now_s=self.now(), code=code)] * count
        if code == SOME_REFUSED:
            return _sorted(answer, tokens, self._taken(answer))
        if code not in VERDICTS:
            outcome = by_status(response, now_s=self.now(), code=code)
            return [replace(outcome, unknown=outcome.verdict is Verdict.RETRY)] * count
        verdict, scope = VERDICTS[code]
        if verdict is Verdict.ACCEPTED:
            return [self._taken(answer)] * count
        return [Outcome(verdict=verdict, scope=scope, vendor_code=code)] * count


def _sorted(answer: Mapping[str, Any], tokens: list[str] | None, good: Outcome) -> list[Outcome]:
    """80100000: those that are listed are dead, the others have it: `good` (resending them would show twice, §10.2)."""
    dead = Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN, vendor_code=SOME_REFUSED)
    listed = partial(answer).get("illegal_tokens")
    illegal = {token for token in listed if isinstance(token, str) and token} if isinstance(listed, list) else set()
    if tokens is None:
        return [dead if illegal else _some_of(1)[0]]
    return [dead if token in illegal else good for token in tokens] if illegal & set(tokens) else _some_of(len(tokens))


def _some_of(count: int) -> list[Outcome]:
    """Some were refused, and nobody says which: again, for all. A repeat replaces what it repeats."""
    return [Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code=SOME_REFUSED)] * count
