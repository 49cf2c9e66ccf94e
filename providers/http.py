"""The shell of every adapter that speaks HTTP: it talks, renews the credential, retries once; subclasses translate."""

import asyncio
import contextlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, ClassVar, Never
from urllib.parse import urlsplit

import msgspec

from providers.batch import alike
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict, slimmer
from providers.guard import TargetRefused

__all__ = [
    "Credential",
    "HttpProvider",
    "Reason",
    "Refusal",
    "Request",
    "RequestInvalid",
    "Response",
    "TransportError",
    "bearer_from",
    "by_status",
    "code_from",
    "json_body",
    "no_login",
    "retry_after_s",
]

HEADER_CHARS_MAX = 1024
AUTHORIZATION_CHARS_MAX = 4096  # Google's access tokens alone may have 2048
URL_CHARS_MAX = 8192
RETRY_AFTER_S = (1.0, 3600.0)  # what a vendor may ask for; beyond, the nearer end
THROTTLED_S = 60.0  # 429 without a wish (safety FLT-3)
BEARER_LIFE_S = (60.0, 86_400.0)  # believed of `expires_in`
BEARER_SHARE = 0.8  # of its life after which a bearer is renewed (safety SEC-13)
ID_CHARS_MAX = 256
DEPTH_MAX = 64

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_URL = re.compile(r"https?://[\x21-\x7e]+")
_METHOD = re.compile(r"[A-Z]{3,16}")
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_BEARER = re.compile(r"[\x21-\x7e]{1,4000}")


class RequestInvalid(ValueError):  # noqa: N818
    """A request that must not be written: a line break or another foreign character in its head (safety SEC-16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call. Its text form shows the method and the host alone: the rest may be secret."""

    url: str = field(repr=False)
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    payload_bytes: int | None = None  # what the vendor counts against its limit, if not the body's length
    payload_bytes_max: int | None = None  # that limit, if this kind of push has its own
    connect_s: float | None = None  # None: the transport's default, here and below
    total_s: float | None = None
    answer_bytes_max: int | None = None

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise RequestInvalid("The method is not an HTTP method.")
        if len(self.url) > URL_CHARS_MAX or not _URL.fullmatch(self.url):
            raise RequestInvalid("The URL is not an absolute http(s) URL in plain ASCII.")
        for name, value in self.headers.items():
            limit = AUTHORIZATION_CHARS_MAX if name.lower() == "authorization" else HEADER_CHARS_MAX
            if not _HEADER_NAME.fullmatch(name):
                raise RequestInvalid("A header's name has a character that it may not have.")
            if len(value) > limit or not _HEADER_VALUE.fullmatch(value):
                raise RequestInvalid(f"The header {name} is too long or has a character that it may not have.")

    def __repr__(self) -> str:
        return f"<Request {self.method} {urlsplit(self.url).hostname}, {len(self.body)} bytes>"


def _no_constant(_: str) -> Never:
    raise ValueError("not JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back, as it came: nothing in it is trusted."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    truncated: bool = False  # the answer was longer than we read

    def header(self, name: str) -> str | None:
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)

    def json(self) -> dict[str, Any]:
        """The body's JSON object; an empty one if it is anything else. Never raises."""
        try:
            value = json.loads(self.body.decode("utf-8"), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class Reason(StrEnum):
    """Why there is no answer. Coarse on purpose: a tenant may see it (safety SEC-8, rule 6)."""

    DNS_FAILED = "dns_failed"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    TIMEOUT = "timeout"
    RESET = "reset"
    GARBAGE = "garbage"


class TransportError(Exception):
    """No answer. `sent` is false only if certainly nothing was written."""

    def __init__(self, reason: Reason | str = Reason.RESET, *, sent: bool) -> None:
        super().__init__(str(reason))
        self.reason = Reason(reason)
        self.sent = sent


class Refusal(Exception):  # noqa: N818
    """There is nothing to send with, or nothing to send: the outcome is already known."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.verdict)
        self.outcome = outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a request is authorised with, and until when (seconds of the provider's clock)."""

    value: str = field(repr=False)
    good_until_s: float = math.inf


class HttpProvider(ABC):
    """A vendor reached by HTTP. Subclasses translate; this class talks, renews and retries once."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    Config: ClassVar[type[ProviderConfig]]

    def __init__(self, config: Any, *, transport: Transport, now: Callable[[], float]) -> None:
        self.config = config
        self.call = transport
        self.now = now
        self._credential: Credential | None = None
        self._renewal = asyncio.Lock()
        self._renewals = 0  # how many have ended
        self._no_credential: Refusal | None = None  # how the last one ended, if badly

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`. A vendor without overrides takes none."""
        return [f"{cls.name} takes no overrides."] if overrides else []

    def address(self, kind: str, token: str) -> str:
        """See `Provider`. What is not looked at here is left to the vendor."""
        del kind
        return token

    @abstractmethod
    async def credential(self) -> Credential:
        """A fresh credential. A vendor with a static key returns that; Refusal when there is none."""

    @abstractmethod
    def encode(self, push: Push, credential: str) -> Request:
        """The request that carries this push. Pure: same arguments and time, same request. May raise Refusal."""

    @abstractmethod
    def decode(self, response: Response) -> Outcome:
        """What the vendor's answer means. Pure, and total: no answer makes it raise."""

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """The one request that carries these pushes, which differ in their token alone. As pure as `encode`.

        For a vendor whose `batch_max` is above 1. Every token stands in it once; its `payload_bytes` leave them out if
        the vendor does.
        """
        (push,) = pushes
        return self.encode(push, credential)

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """What the answer to `encode_many` means for each push, in their order. As pure and total as `decode`.

        REAUTH concerns the whole call, or it is none.
        """
        return [self.decode(response)] * len(pushes)

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """The answer to `request`, which carries `pushes`. For vendors with whom that takes more than one call."""
        del pushes, credential
        return await self.call(request)

    def known(self, push: Push) -> Outcome | None:
        """What becomes of a push that the vendor need not be asked about; None for all others."""
        if push.kind not in self.capabilities.kinds:
            return Outcome(verdict=Verdict.REFUSED, vendor_code="kind_unknown")
        if push.silent and not self.capabilities.silent:
            return Outcome(verdict=Verdict.REFUSED, vendor_code="silent_unsupported")
        if push.overrides and self.check_overrides(push.overrides):
            return Outcome(verdict=Verdict.REFUSED, vendor_code="overrides_invalid")
        return None

    async def send(self, push: Push) -> Outcome:
        """See `Provider`."""
        return self.known(push) or (await self._send_alike([push]))[0]

    async def send_many(self, pushes: Sequence[Push]) -> list[Outcome]:
        """See `BatchProvider`; a vendor that takes one token a call gets one call after the other."""
        outcomes = {place: outcome for place, push in enumerate(pushes) if (outcome := self.known(push))}
        left = [place for place in range(len(pushes)) if place not in outcomes]
        for group in alike(pushes, left, self.batch_max):
            found = await self._send_alike([pushes[place] for place in group])
            if len(group) > 1 and all(outcome.verdict is Verdict.TOKEN_DEAD for outcome in found):
                # One dead token may have spoilt the call for all of them: each is asked about.
                found = [(await self._send_alike([pushes[place]]))[0] for place in group]
            outcomes |= dict(zip(group, found, strict=True))
        return [outcomes[place] for place in range(len(pushes))]

    @property
    def batch_max(self) -> int:
        """How many tokens go into one call; an account's settings may say fewer than the vendor takes."""
        return self.capabilities.batch_max

    async def _send_alike(self, pushes: Sequence[Push]) -> list[Outcome]:
        """One call, or two if the credential went stale."""
        try:
            credential = await self._current()
            outcomes = await self._send_with(credential, pushes)
            if all(outcome.verdict is Verdict.REAUTH for outcome in outcomes):
                credential = await self._current(instead_of=credential)
                outcomes = await self._send_with(credential, pushes)
        except Refusal as refusal:
            return [refusal.outcome] * len(pushes)
        except TransportError as error:
            scope = Scope.TOKEN if self.capabilities.own_hosts else Scope.MESSAGE
            outcome = Outcome(verdict=Verdict.RETRY, scope=scope, maybe_sent=error.sent, vendor_code=error.reason)
            return [outcome] * len(pushes)
        except TargetRefused as refused:
            scope = Scope.TOKEN if self.capabilities.own_hosts else Scope.ACCOUNT
            return [Outcome(verdict=Verdict.MISCONFIGURED, scope=scope, vendor_code=refused.code)] * len(pushes)
        except RequestInvalid:
            return [Outcome(verdict=Verdict.REFUSED, vendor_code="request_invalid")] * len(pushes)
        return [_refused_twice(outcome) for outcome in outcomes]

    def private(self, push: Push) -> list[str]:
        """What of a push may stand in no outcome, because outcomes are logged and shown."""
        return [text for text in (push.token, push.title, push.body) if text]

    async def aclose(self) -> None:  # noqa: B027 - most need nothing more
        """Nothing to let go of: the transport belongs to whoever made it."""

    async def _current(self, *, instead_of: Credential | None = None) -> Credential:
        ended = self._renewals
        async with self._renewal:  # one renewal at a time, shared by all waiting sends
            known = self._credential
            if known is not None and known is not instead_of and known.good_until_s > self.now():
                return known
            if self._renewals != ended and self._no_credential is not None:
                raise Refusal(self._no_credential.outcome)  # it failed while we waited: so it did for us
            try:
                self._credential = known = await self.credential()
            except Refusal as refusal:
                self._no_credential = refusal
                raise
            except TransportError as error:  # the push itself was certainly not sent
                outcome = Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, vendor_code=f"login_{error.reason}")
                self._no_credential = Refusal(outcome)
                raise self._no_credential from error
            else:
                self._no_credential = None
                return known
            finally:
                self._renewals += 1

    async def _send_with(self, credential: Credential, pushes: Sequence[Push]) -> list[Outcome]:
        lean: Push | None = pushes[0]
        while lean is not None:
            one = len(pushes) == 1
            leaner = [lean] if one else [replace(lean, token=push.token) for push in pushes]
            request = self.encode(lean, credential.value) if one else self.encode_many(leaner, credential.value)
            size = len(request.body) if request.payload_bytes is None else request.payload_bytes
            if size <= (request.payload_bytes_max or self.capabilities.payload_bytes_max):
                response = await self.exchange(request, leaner, credential.value)
                outcomes = [self.decode(response)] if one else self.decode_many(response, leaner)
                private = [text for push in pushes for text in self.private(push)]
                cleaned = {outcome: _without_private(outcome, private) for outcome in dict.fromkeys(outcomes)}
                return [cleaned[outcome] for outcome in outcomes]
            lean = slimmer(lean)
        return [Outcome(verdict=Verdict.TOO_LARGE, vendor_code="measured_here")] * len(pushes)


def _refused_twice(outcome: Outcome) -> Outcome:
    """A fresh credential was refused too: an operator must look."""
    if outcome.verdict is not Verdict.REAUTH:
        return outcome
    scope = Scope.TOKEN if outcome.scope is Scope.TOKEN else Scope.ACCOUNT
    return Outcome(verdict=Verdict.MISCONFIGURED, scope=scope, vendor_code=outcome.vendor_code)


def _without_private(outcome: Outcome, private: Sequence[str]) -> Outcome:
    """The outcome without a code or an id in which the vendor echoes what it was sent."""

    def clean(text: str | None) -> str | None:
        return None if text is None or any(word in text for word in private) else text

    code, vendor_id = clean(outcome.vendor_code), clean(outcome.vendor_id)
    if code == outcome.vendor_code and vendor_id == outcome.vendor_id:
        return outcome
    return replace(outcome, vendor_code=code, vendor_id=vendor_id)


def json_body(value: Any) -> bytes:
    """Compact UTF-8 JSON. What UTF-8 cannot carry (a lone surrogate) becomes a question mark."""
    with contextlib.suppress(UnicodeEncodeError):
        return msgspec.json.encode(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", errors="replace")


def code_from(value: object, default: str | None = None) -> str | None:
    """A vendor's error word or number, if it is one: short, plain characters. Texts, which may echo a token, are not."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        value = str(value)
    return value if isinstance(value, str) and _CODE.fullmatch(value) else default


def retry_after_s(response: Response, *, now_s: float) -> float | None:
    """The Retry-After header, as seconds or HTTP date (RFC 9110, 10.2.3), from 1 s to 1 h. None: absent or garbled."""
    text = (response.header("retry-after") or "").strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:12])
    else:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, TypeError, IndexError, OverflowError, OSError):
            return None
    return min(max(wait_s, RETRY_AFTER_S[0]), RETRY_AFTER_S[1])


def by_status(response: Response, *, now_s: float, code: str | None = None) -> Outcome:
    """The last resort: what an answer means by its HTTP status alone. Never declares a token dead.

    A 2xx comes here only when it did not look like the vendor's: then it may have been taken over, or not.
    """
    status = response.status
    code = code or f"status_{status}"
    match status:
        case 401:
            return Outcome(verdict=Verdict.REAUTH, vendor_code=code)
        case 403 | 404 | 407 | 410:
            return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code=code)
        case 413:
            return Outcome(verdict=Verdict.TOO_LARGE, vendor_code=code)
        case 429:
            wait_s = retry_after_s(response, now_s=now_s) or THROTTLED_S
            return Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=wait_s, vendor_code=code)
        case _ if 400 <= status < 500 and status not in {408, 425}:
            return Outcome(verdict=Verdict.REFUSED, vendor_code=code)
        case _:
            return Outcome(
                verdict=Verdict.RETRY,
                retry_after_s=retry_after_s(response, now_s=now_s),
                maybe_sent=200 <= status < 300,
                vendor_code=code,
            )


def bearer_from(response: Response, *, now_s: float, life_s: float | None = None) -> Credential:
    """The bearer of an OAuth token answer (RFC 6749, 5.1), good for 80 % of its life (`life_s` if it states none).

    Raises Refusal: RETRY for 408, 429, 5xx and garbage, MISCONFIGURED when the vendor will not have our credential.
    Both are of the whole account: nobody's attempt should burn on it.
    """
    answer = response.json()
    if response.status == 200:
        token = answer.get("access_token")
        if "expires_in" in answer:
            life_s = _seconds(answer["expires_in"])
        if isinstance(token, str) and _BEARER.fullmatch(token) and life_s is not None:
            life_s = min(max(life_s, BEARER_LIFE_S[0]), BEARER_LIFE_S[1])
            return Credential(value=token, good_until_s=now_s + BEARER_SHARE * life_s)
        raise Refusal(Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, vendor_code="login_garbled"))
    code = code_from(answer.get("error"), f"login_status_{response.status}")
    if 400 <= response.status < 500 and response.status not in {408, 425, 429}:
        raise Refusal(Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code=code))
    wait_s = retry_after_s(response, now_s=now_s)
    if wait_s is None and response.status == 429:
        wait_s = THROTTLED_S
    raise Refusal(Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=wait_s, vendor_code=code))


def no_login(outcome: Outcome) -> Refusal:
    """What an answer to a login means for every push that waits for it: nobody was sent anything.

    RETRY stays one; whatever else the vendor holds against our credential, an operator must look.
    """
    verdict = Verdict.RETRY if outcome.verdict is Verdict.RETRY else Verdict.MISCONFIGURED
    code = None if outcome.vendor_code is None else f"login_{outcome.vendor_code}"
    return Refusal(
        Outcome(
            verdict=verdict,
            scope=Scope.ACCOUNT,
            retry_after_s=outcome.retry_after_s if verdict is Verdict.RETRY else None,
            vendor_code=code,
        )
    )


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if value > 0 and math.isfinite(value) else None
    except OverflowError:
        return BEARER_LIFE_S[1]
