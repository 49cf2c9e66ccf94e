"""Huawei Push Kit for HarmonyOS 5 and later (v3): up to a thousand tokens a call, a self-signed JWT as the bearer.

Older phones are another network: `providers.huawei`. Source: vendor sheet `huawei`: authentication §2.2, request §4, answers
§5, classes §6, mapping §8.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Self

import jwt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    ModelWrapValidatorHandler,
    SecretStr,
    field_validator,
    model_validator,
)

from providers.app_message import category_advice
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict
from providers.fields import merged
from providers.harmony_message import TTL_S, Category, Words, body_of, losses, notify_id, override_mistakes, push_type
from providers.http import (
    THROTTLED_S,
    Credential,
    Refusal,
    Request,
    Response,
    by_status,
    code_from,
    json_body,
    retry_after_s,
)
from providers.huawei_family import TOKENS_MAX, HuaweiFamily, by_status_of_huawei, partial, request_id
from providers.key_files import account_of, from_files, rsa_key
from providers.receipts.contract import ReceiptReader
from providers.receipts.huawei import HuaweiReceipts, HuaweiReceiptSettings
from providers.settings import DIGITS, plain

__all__ = ["HarmonyConfig", "HarmonyProvider", "HuaweiServiceAccount"]

PAYLOAD_BYTES_MAX = 4096  # of the body without its tokens
TEST_TOKENS_MAX = 10
JWT_S = 3600
JWT_SPARE_S = 300.0  # before its end a new one is signed
BASE_URL = "https://push-api.cloud.huawei.com"
AUDIENCE = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"  # literally, wherever we post

ACCEPTED, SOME_REFUSED, ALL_REFUSED = "80000000", "80100000", "80300007"
TOO_MANY, TOO_MANY_TESTS = "80300010", "80300030"
NO_RIGHT = "noRight"
NO_RIGHT_DEAD_S = 86_400.0  # "after it repeats" (§5)
IMAGE_UNVERIFIED = "80100022"
WITHOUT_IMAGE = "x-relay-without-image"  # added to the answer to the second call: `decoded` tells the operator

# §5, the rows that a send can meet; believed with status 200 and 400.
VERDICTS: dict[str, tuple[Verdict, Scope]] = {
    ACCEPTED: (Verdict.ACCEPTED, Scope.MESSAGE),
    "80100001": (Verdict.REFUSED, Scope.MESSAGE),
    "80100003": (Verdict.REFUSED, Scope.MESSAGE),
    "80100004": (Verdict.REFUSED, Scope.MESSAGE),
    IMAGE_UNVERIFIED: (Verdict.REFUSED, Scope.MESSAGE),  # an image of the overrides; `exchange` has left it out before
    "80200001": (Verdict.REAUTH, Scope.ACCOUNT),
    "80200005": (Verdict.REAUTH, Scope.ACCOUNT),
    "80300002": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "80300008": (Verdict.TOO_LARGE, Scope.MESSAGE),
    TOO_MANY: (Verdict.REFUSED, Scope.MESSAGE),  # a call for several goes by halves
    "80300029": (Verdict.RETRY, Scope.ACCOUNT),  # test messages come too fast
    TOO_MANY_TESTS: (Verdict.REFUSED, Scope.MESSAGE),  # likewise: an override made a test of it
    "80300036": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "80300037": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "80000001": (Verdict.RETRY, Scope.MESSAGE),
    "81000001": (Verdict.RETRY, Scope.MESSAGE),
    "6003": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
}
# §5, the rows of revoking alone: the bearer has run out, and what may be wrong with the request.
RECALL_VERDICTS: dict[str, Verdict] = {
    "80200003": Verdict.REAUTH,
    **dict.fromkeys(("80100020", "80300017", "80300028", "80300032"), Verdict.REFUSED),
}
# Why a token was refused (§5). What concerns one right or kind of push parks nobody; the token is kept.
REASONS: dict[str, tuple[Verdict, Scope]] = {
    "tokenFormatError": (Verdict.TOKEN_DEAD, Scope.TOKEN),
    "tokenPlatformNotSupport": (Verdict.TOKEN_DEAD, Scope.TOKEN),
    # Another project's token, or one from before the phone's upgrade; but a wrong project id looks the same (`_repeats`).
    NO_RIGHT: (Verdict.MISCONFIGURED, Scope.TOKEN),
    "noPushTypeRight": (Verdict.MISCONFIGURED, Scope.TOKEN),
    "notSupportPlayVoice": (Verdict.MISCONFIGURED, Scope.TOKEN),
    "noRightToSendThisLiveNotificationEvent": (Verdict.MISCONFIGURED, Scope.TOKEN),
    "atomicUnableSendUnsubscribedMsg": (Verdict.REFUSED, Scope.MESSAGE),
    "countryNotSupport": (Verdict.REFUSED, Scope.TOKEN),
    "disableSendHuaweiMsgBecauseOfPenalty": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "appinfoError": (Verdict.MISCONFIGURED, Scope.ACCOUNT),
    "differentImgVerifyPolicy": (Verdict.REFUSED, Scope.MESSAGE),
}


class HuaweiServiceAccount(BaseModel):
    """The parts of Huawei's key file that we use."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    project_id: Annotated[str, DIGITS]
    key_id: Annotated[str, plain(200)]
    private_key: SecretStr
    sub_account: Annotated[str, plain(200)]

    @field_validator("private_key")
    @classmethod
    def _signs(cls, key: SecretStr) -> SecretStr:
        rsa_key(key.get_secret_value())
        return key


class HarmonyConfig(ProviderConfig):
    """Give `service_account` (the object, or its text) or `service_account_file` (its path)."""

    service_account: HuaweiServiceAccount
    category: Category  # required by Huawei; without its right all is marketing: two a day, no sound (§6)
    categories: Annotated[dict[str, Category], Field(max_length=100)] = Field(default_factory=dict)  # by channel
    receipt_id: Annotated[str, plain(128)] | None = None
    cache_newest: bool = False  # while offline, keep the newest per collapse key (of which two may meet in one of 101)
    background_im: bool = False  # Huawei has granted this to the app: silent pushes give it 30 s, twice an hour
    client_id: Annotated[str, DIGITS] | None = None  # of the app: to take notifications back
    test: bool = False  # a thousand a day in the project, ten tokens a call
    receipts: HuaweiReceiptSettings | None = None
    base_url: HttpUrl = HttpUrl(BASE_URL)

    operator_only: ClassVar[frozenset[str]] = frozenset({"service_account_file", "base_url"})

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return from_files(given, check, "service_account")

    @field_validator("service_account", mode="before")
    @classmethod
    def _parsed(cls, given: Any) -> Any:
        return account_of(given, "Huawei")

    @model_validator(mode="after")
    def _reported(self) -> "HarmonyConfig":
        if self.receipt_id is not None and self.receipts is None:
            raise ValueError("receipt_id: needs the table receipts: nobody could bring what it asks for")
        return self

    def advice(self) -> list[str]:
        """See `ProviderConfig`: sheet §6."""
        stays = "client_id: without it a notification that was read elsewhere stays on the screen."
        return [
            *category_advice("Huawei", self.category, self.categories),
            *([stays] if self.client_id is None else []),
        ]


class HarmonyProvider(HuaweiFamily):
    vendor: ClassVar[str] = "Huawei"
    name: ClassVar[str] = "harmony"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = HarmonyConfig
    too_many: ClassVar[frozenset[str]] = frozenset({TOO_MANY, TOO_MANY_TESTS})
    each_dead: ClassVar[frozenset[str]] = frozenset(
        reason for reason, (verdict, _) in REASONS.items() if verdict is Verdict.TOKEN_DEAD
    )
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=PAYLOAD_BYTES_MAX,
        ttl_s_max=TTL_S[1],
        collapse=True,
        idempotent=True,
        recall=True,
        badge=True,
        image=False,  # only those that Huawei has verified before (§4): an account's overrides may name one
        channel=False,
        thread=False,
        batch_max=TOKENS_MAX,
        silent_gap_s=1800.0,  # two an hour (§4, said of instant messengers; of others the sheet says nothing)
        zone="Asia/Shanghai",
    )
    config: HarmonyConfig

    def __init__(self, config: HarmonyConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._key = rsa_key(config.service_account.private_key.get_secret_value(), checked=True)
        base_url = str(config.base_url).rstrip("/")
        self._send_url = f"{base_url}/v3/{config.service_account.project_id}/messages:send"
        self._revoke_url = None if config.client_id is None else f"{base_url}/v1/{config.client_id}/messages:revoke"
        self._words = Words(
            category=config.category,
            categories=config.categories,
            receipt_id=config.receipt_id,
            cache_newest=config.cache_newest,
            background_im=config.background_im,
            test=config.test,
        )
        self._proven = False  # a token of this project's has been pushed to: its id is right
        self.receipts: ReceiptReader | None = None if config.receipts is None else HuaweiReceipts(config.receipts)

    @property
    def batch_max(self) -> int:
        """See `HttpProvider`."""
        return TEST_TOKENS_MAX if self.config.test else TOKENS_MAX

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: what only a notification has, and a sound that is no file's name."""
        return losses(push)

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: `payload.notification` and `pushOptions`; null takes a field of ours away."""
        return override_mistakes(overrides)

    async def credential(self) -> Credential:
        """See `HttpProvider`: signed here and used as it is, for its whole life (sheet §2.2)."""
        account, now_s = self.config.service_account, int(self.now())
        claims = {"iss": account.sub_account, "aud": AUDIENCE, "iat": now_s, "exp": now_s + JWT_S}
        value = jwt.encode(claims, self._key, algorithm="PS256", headers={"kid": account.key_id})
        return Credential(value=value, good_until_s=now_s + JWT_S - JWT_SPARE_S)

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """See `HttpProvider`: the mapping of sheet §8."""
        body = body_of(pushes[0], self._words, now_s=self.now())
        return Request(
            url=self._send_url,
            headers={
                "authorization": f"Bearer {credential}",
                "content-type": "application/json",
                "push-type": push_type(pushes[0]),
            },
            body=json_body({**body, "target": {"token": [push.token for push in pushes]}}),
            payload_bytes=len(json_body({**body, "target": {"token": []}})),
        )

    async def send(self, push: Push) -> Outcome:
        """See `Provider`."""
        return self._repeats([await super().send(push)])[0]

    async def send_many(self, pushes: Sequence[Push]) -> list[Outcome]:
        """See `BatchProvider`."""
        return self._repeats(await super().send_many(pushes))

    def _repeats(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Where other tokens are of our project, one that goes on being of none is dead (sheet §5)."""
        self._proven = self._proven or any(one.verdict is Verdict.ACCEPTED for one in outcomes)
        if not self._proven:
            return outcomes
        return [replace(one, dead_after_s=NO_RIGHT_DEAD_S) if one.vendor_code == NO_RIGHT else one for one in outcomes]

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`: one whose image Huawei has not verified goes once more without it (sheet §5, 80100022)."""
        response = await self.call(request)
        if code_from(response.json().get("code")) != IMAGE_UNVERIFIED:
            return response
        bare = merged(pushes[0].overrides, {"payload": {"notification": {"image": None}}})
        again = self.encode_many([replace(push, overrides=bare) for push in pushes], credential)
        response = await self.call(again)
        return replace(response, headers={**response.headers, WITHOUT_IMAGE: "1"})

    def encode_recall(self, push: Push, vendor_id: str | None, credential: str) -> Request:
        """See `HttpProvider`: by `notifyId` (sheet §4), at an address of the app's client id and not of the project's."""
        del vendor_id
        if self._revoke_url is None:
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="client_id_missing"))
        number = notify_id(push)
        if number is None:
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="notify_id_missing"))
        return Request(
            url=self._revoke_url,
            headers={"authorization": f"Bearer {credential}", "content-type": "application/json", "push-type": "0"},
            body=json_body({"notifyId": number, "token": [push.token]}),
        )

    def decode_recall(self, response: Response) -> Outcome:
        """See `HttpProvider`: the codes of a send, and some of its own."""
        code = code_from(response.json().get("code"))
        if response.status in {200, 400} and code in RECALL_VERDICTS:
            return Outcome(verdict=RECALL_VERDICTS[code], vendor_code=code)
        return self.decode(response)

    def decoded(self, response: Response, tokens: list[str] | None) -> list[Outcome]:
        """See `HuaweiFamily`: the table of sheet §5."""
        answer = response.json()
        code, count = code_from(answer.get("code")), 1 if tokens is None else len(tokens)
        if response.status not in {200, 400} or code is None:
            return [by_status_of_huawei(response, now_s=self.now(), code=code)] * count
        if code in {SOME_REFUSED, ALL_REFUSED}:
            return _sorted(answer, code, tokens, self._taken(response, answer))
        if code not in VERDICTS:
            outcome = by_status(response, now_s=self.now(), code=code)
            return [replace(outcome, unknown=outcome.verdict is Verdict.RETRY)] * count
        verdict, scope = VERDICTS[code]
        if verdict is Verdict.ACCEPTED:
            return [self._taken(response, answer)] * count
        wait_s = retry_after_s(response, now_s=self.now()) or THROTTLED_S
        slower_s = wait_s if (verdict, scope) == (Verdict.RETRY, Scope.ACCOUNT) else None
        return [Outcome(verdict=verdict, scope=scope, retry_after_s=slower_s, vendor_code=code)] * count

    @staticmethod
    def _taken(response: Response, answer: Mapping[str, Any]) -> Outcome:
        said = f"image_{IMAGE_UNVERIFIED}" if response.header(WITHOUT_IMAGE) else None
        return Outcome(verdict=Verdict.ACCEPTED, vendor_id=request_id(answer), vendor_code=said)


def _sorted(answer: Mapping[str, Any], code: str, tokens: list[str] | None, good: Outcome) -> list[Outcome]:
    """By the reasons: those that are listed under one were refused for it, the others have the push (`good`)."""
    reasons = _reasons(answer)
    if tokens is None:
        first = next(iter(reasons.values()), None)
        return [_unnamed(code) if first is None else _refused(first)]
    named = [reasons.get(token) for token in tokens]
    if not any(named):
        return [_unnamed(code)] * len(tokens)
    # With 80300007 nobody has it, so who is not listed was refused for a reason that we do not know.
    rest = good if code == SOME_REFUSED else _unnamed(code)
    return [rest if reason is None else _refused(reason) for reason in named]


def _reasons(answer: Mapping[str, Any]) -> dict[str, str]:
    """Token -> the reason why it was refused. The vendor's own sample has blanks around a reason."""
    listed = partial(answer).get("illegalTokens")
    if not isinstance(listed, dict):
        return {}
    return {
        token: reason.strip()
        for reason, tokens in listed.items()
        if isinstance(tokens, list)
        for token in tokens
        if isinstance(token, str) and token
    }


def _refused(reason: str) -> Outcome:
    code = code_from(reason, SOME_REFUSED)
    if reason not in REASONS:
        return Outcome(verdict=Verdict.RETRY, scope=Scope.TOKEN, unknown=True, vendor_code=code)
    verdict, scope = REASONS[reason]
    return Outcome(verdict=verdict, scope=scope, vendor_code=code)


def _unnamed(code: str) -> Outcome:
    """Refused, and nobody says why: some of them (the repeat is known as one by its id), or all."""
    if code == SOME_REFUSED:
        return Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code=code)
    return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code=code)
