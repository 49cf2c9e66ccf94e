"""UnifiedPush: Web Push to a server of the user's own choice, such as ntfy or a Nextcloud.

Source: vendor sheet `unifiedpush` (specification AND_3, legacy server specification SERV_1.2.0, ntfy 2.13): addresses §2,
request §4, answers §5, ntfy §6, mapping §7. Whatever is not said here is as in `providers.webpush`.

Pass-through (§4): what `overrides` has as `ciphertext` was encrypted by the sender for this subscription, and goes as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Verdict
from providers.http import Request, Response, code_from, retry_after_s
from providers.vapid import VapidConfig
from providers.webpush import WebPushProvider
from providers.webpush_crypto import from_base64
from providers.webpush_message import TTL_S_MAX, Subscription

__all__ = ["UnifiedPushConfig", "UnifiedPushProvider"]

ENDPOINT_BYTES_MAX = 1000
BODY_BYTES_MAX = 4096  # ntfy cuts a longer one without a word (sheet §6)
NO_SUBSCRIBER_S = 600.0  # ntfy's 507: nobody is listening, perhaps for hours
NO_SUBSCRIBER_DEAD_S = 7 * 86_400.0  # "after long silence" (§5)
BLOCKED_DEAD_S = 7 * 86_400.0  # "after N days" (§5)
LOGIN_WANTED = "ntfy_40101"
SPENT, SPENT_S = "ntfy_42908", 3600.0  # the day's messages: asked again once an hour (§6; sheet others §1.5)

CIPHERTEXT, TTL = "ciphertext", "ttl"
KEYID_BYTES = (
    65  # the sender's point (RFC 8291 §4); before it salt, record size and its own length: 21 bytes (RFC 8188 §2.1)
)
READY_BYTES_MIN = 21 + KEYID_BYTES + 18  # a record of one byte, its delimiter and its tag


class UnifiedPushConfig(VapidConfig):
    """As for Web Push, but any public host may be called. `exempt` lets in those at home."""

    allow_plaintext: bool = False  # clients without keys, whose push server reads along

    operator_only: ClassVar[frozenset[str]] = VapidConfig.operator_only | {"allow_plaintext"}


class UnifiedPushProvider(WebPushProvider):
    name: ClassVar[str] = "unifiedpush"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = UnifiedPushConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=BODY_BYTES_MAX,
        ttl_s_max=TTL_S_MAX,
        collapse=True,
        withdraw=True,
        badge=True,
        image=True,
        mutable=True,
        localised=True,
        sealed=True,
        guarded=True,
        own_hosts=True,
    )
    endpoint_bytes_max: ClassVar[int] = ENDPOINT_BYTES_MAX
    config: UnifiedPushConfig

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: as for Web Push; or `ciphertext` and `ttl`, with `urgency` and `topic` beside them."""
        others = {name: value for name, value in overrides.items() if name not in {CIPHERTEXT, TTL}}
        return [*_ready_mistakes(overrides), *super().check_overrides(others)]

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`."""
        request = super().encode(push, credential)
        if CIPHERTEXT not in push.overrides:
            return request
        headers = {**request.headers, "content-encoding": "aes128gcm"}
        if TTL in push.overrides:
            headers["ttl"] = str(push.overrides[TTL])
        if "topic" not in push.overrides:  # the sender's headers, unchanged (sheet §4)
            headers.pop("topic", None)
        return replace(request, headers=headers, body=from_base64(push.overrides[CIPHERTEXT]))

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`. A server that takes our signature for a login is asked once more without it (sheet §4)."""
        response = await super().exchange(request, pushes, credential)
        wanted = response.status == 401 and _code(response.json()) == LOGIN_WANTED
        if not wanted or "authorization" not in request.headers:
            return response
        bare = {name: value for name, value in request.headers.items() if name != "authorization"}
        return await super().exchange(replace(request, headers=bare), pushes, credential)

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`: the table of sheet §5. Where a push service of a browser answers, its own words count."""
        answer = response.json()
        code = _code(answer)
        if 200 <= response.status < 300:
            vendor_id = code_from(answer.get("id")) if answer.get("event") == "message" else None  # ntfy
            outcome = super().decode(response)
            return outcome if vendor_id is None else replace(outcome, vendor_id=vendor_id)
        if response.status == 507:
            wait_s = retry_after_s(response, now_s=self.now()) or NO_SUBSCRIBER_S
            code = code or f"status_{response.status}"
            return Outcome(
                verdict=Verdict.RETRY,
                scope=Scope.TOKEN,
                retry_after_s=wait_s,
                dead_after_s=NO_SUBSCRIBER_DEAD_S,
                vendor_code=code,
            )
        outcome = super().decode(response)
        if outcome.verdict is Verdict.REAUTH:
            # A login, or a topic that not everybody may write to: a new signature is no help (sheet §5).
            outcome = replace(outcome, verdict=Verdict.MISCONFIGURED, dead_after_s=BLOCKED_DEAD_S)
        if code == SPENT:
            outcome = replace(outcome, retry_after_s=retry_after_s(response, now_s=self.now()) or SPENT_S)
        return replace(outcome, vendor_code=code or outcome.vendor_code)

    @property
    def _plaintext_allowed(self) -> bool:
        return self.config.allow_plaintext

    def _signed_with(self, known: Subscription) -> str | None:
        return known.vapid  # to a server that never saw our key, the header might be a login (sheet §4)


def _ready_mistakes(overrides: Mapping[str, Any]) -> Iterator[str]:
    if CIPHERTEXT not in overrides:
        if TTL in overrides:
            yield "ttl goes with ciphertext; of other pushes, the message's own ttl_s is used."
        return
    if not _is_ready(overrides[CIPHERTEXT]):
        yield (
            f"ciphertext must be base64url of a body as RFC 8291 has it (aes128gcm), {READY_BYTES_MIN} to "
            f"{BODY_BYTES_MAX} bytes."
        )
    if "envelope" in overrides:
        yield "envelope: leave it out; what is encrypted is ready."
    ttl_s = overrides.get(TTL, 0)
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int) or not 0 <= ttl_s <= TTL_S_MAX:
        yield f"ttl must be 0 to {TTL_S_MAX}, in seconds."


def _is_ready(text: object) -> bool:
    try:
        body = from_base64(text) if isinstance(text, str) else b""
    except ValueError:
        return False
    return READY_BYTES_MIN <= len(body) <= BODY_BYTES_MAX and body[20] == KEYID_BYTES


def _code(answer: dict[str, Any]) -> str | None:
    """ntfy's number, if it is ntfy that answers."""
    number = answer.get("code")
    if isinstance(number, int) and not isinstance(number, bool) and 10_000 <= number < 60_000 and "http" in answer:
        return f"ntfy_{number}"
    return None
