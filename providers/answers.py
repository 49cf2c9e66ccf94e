"""What an adapter reads out of a vendor's answer by the rules of HTTP and OAuth, where the vendor has none of its own. Pure."""

import contextlib
import json
import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from providers.contract import Outcome, Scope, Verdict
from providers.wire import Credential, Refusal, Response

__all__ = [
    "THROTTLED_S",
    "bearer_from",
    "by_status",
    "code_from",
    "json_body",
    "no_login",
    "number_from",
    "retry_after_s",
]

RETRY_AFTER_S = (1.0, 3600.0)  # what a vendor may ask for; beyond, the nearer end
THROTTLED_S = 60.0  # 429 without a wish (safety FLT-3)
BEARER_LIFE_S = (60.0, 86_400.0)  # believed of `expires_in`
BEARER_SHARE = 0.8  # of its life after which a bearer is renewed (safety SEC-13)

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_BEARER = re.compile(r"[\x21-\x7e]{1,4000}")


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


def number_from(value: object) -> int | None:
    """A vendor's code as the whole number that it is, though it may come as text."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    return value if type(value) is int else None


def retry_after_s(response: Response, *, now_s: float) -> float | None:
    """The Retry-After header, as seconds or HTTP date (RFC 9110, 10.2.3), from 1 s to 1 h. None: absent or garbled."""
    text = (response.header("retry-after") or "").strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:12])
    else:
        try:
            at = parsedate_to_datetime(text)
            # The oldest of the three forms names no zone: it is GMT as well (RFC 9110, 5.6.7).
            wait_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
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
    code, more = code_from(answer.get("error"), f"login_status_{response.status}"), code_from(answer.get("sub_error"))
    if more is not None:  # Huawei's: which part of the credential is wrong
        code = f"{code}.{more}"
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
