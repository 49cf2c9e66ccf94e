"""UnifiedPush: Web Push to a server of the user's own choice, such as ntfy or a Nextcloud.

Source: vendor sheet `unifiedpush` (specification AND_3, legacy server specification SERV_1.2.0, ntfy 2.13): addresses §2,
request §4, answers §5, ntfy §6, mapping §7. Whatever is not said here is as in `providers.webpush`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Verdict
from providers.http import Request, Response, code_from, retry_after_s
from providers.vapid import VapidConfig
from providers.webpush import WebPushProvider
from providers.webpush_message import TTL_S_MAX, Subscription

__all__ = ["UnifiedPushConfig", "UnifiedPushProvider"]

ENDPOINT_BYTES_MAX = 1000
BODY_BYTES_MAX = 4096  # ntfy cuts a longer one without a word (sheet §6)
NO_SUBSCRIBER_S = 600.0  # ntfy's 507: nobody is listening, perhaps for hours
NO_SUBSCRIBER_DEAD_S = 7 * 86_400.0  # "after long silence" (§5)
BLOCKED_DEAD_S = 7 * 86_400.0  # "after N days" (§5)
LOGIN_WANTED = "ntfy_40101"


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
        return replace(outcome, vendor_code=code or outcome.vendor_code)

    @property
    def _plaintext_allowed(self) -> bool:
        return self.config.allow_plaintext

    def _signed_with(self, known: Subscription) -> str | None:
        return known.vapid  # to a server that never saw our key, the header might be a login (sheet §4)


def _code(answer: dict[str, Any]) -> str | None:
    """ntfy's number, if it is ntfy that answers."""
    number = answer.get("code")
    if isinstance(number, int) and not isinstance(number, bool) and 10_000 <= number < 60_000 and "http" in answer:
        return f"ntfy_{number}"
    return None
