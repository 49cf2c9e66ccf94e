"""Web Push: one encrypted POST to the URL that a browser gave us, signed with a key of our own.

Source: vendor sheet `webpush` (RFC 8030, 8188, 8291, 8292; Mozilla, Google, Microsoft and Apple in autumn 2026): headers §4,
what each service has of its own §6. Signing is in `providers.vapid`, the envelope in `providers.webpush_message`, what is
answered in `providers.webpush_answers`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, ClassVar
from urllib.parse import urljoin, urlsplit

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from providers.contract import (
    AddressInvalid,
    Capabilities,
    Outcome,
    ProviderConfig,
    Push,
    Scope,
    Transport,
    Verdict,
    slimmer,
)
from providers.endpoints import on_host
from providers.guard import Guard, Target
from providers.http import Credential, HttpProvider, Refusal, Request, Response
from providers.vapid import Signer, VapidConfig
from providers.webpush_answers import KEY_MISMATCH, SIGNATURE_REFUSED, outcome_of
from providers.webpush_crypto import encrypt, own_key
from providers.webpush_message import (
    TTL_S_MAX,
    Subscription,
    check_point,
    envelope,
    override_mistakes,
    padded,
    subscription,
    topic,
    ttl,
)

__all__ = ["WebPushConfig", "WebPushProvider"]

BODY_BYTES_MAX = 4096
TOTAL_S = 15.0

OTHER_KEY_DEAD_S = 86_400.0  # of a 403 that this subscription alone gets (sheet §5)
ORIGINS_MAX = 4096

MOZILLA = ("push.services.mozilla.com",)
GOOGLE = ("fcm.googleapis.com",)
MICROSOFT = ("notify.windows.com",)
APPLE = ("push.apple.com",)

# Firefox for Android takes 2744 bytes and answers 413 to more; desktops take more than 4096 (sheet §6.1).
MOZILLA_BODY_BYTES = 2700


class WebPushConfig(VapidConfig):
    """The keys, and the push services that subscriptions may name (safety SEC-8, rule 9)."""

    hosts: tuple[str, ...] = (*MOZILLA, *GOOGLE, *MICROSOFT, *APPLE)  # and what lies below them


class WebPushProvider(HttpProvider):
    name: ClassVar[str] = "webpush"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = WebPushConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=BODY_BYTES_MAX,
        ttl_s_max=TTL_S_MAX,
        collapse=True,
        recall=True,  # of what no browser has fetched yet (RFC 8030 §5; sheet §6.1)
        badge=True,
        image=True,
        mutable=True,
        localised=True,
        encrypted=True,
        guarded=True,
        own_hosts=True,
    )
    endpoint_bytes_max: ClassVar[int] = 2048
    config: VapidConfig

    def __init__(self, config: VapidConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        super().__init__(config, transport=transport, now=now)
        self._guard: Guard = config.guard
        self._signer = Signer(config.keys, config.vapid_subject)
        self._seed = AESGCM.generate_key(256)  # of this process alone
        self._proven: dict[str, float] = {}  # origins that have taken a push of ours, and when they last did

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: `urgency`, `topic`, and `envelope` with members for the app."""
        return list(override_mistakes(overrides))

    def address(self, kind: str, token: str) -> str:
        """See `Provider`: the subscription as the browser writes it in JSON; `vapid` says with which of our keys."""
        del kind
        known = self._subscription(token)
        check_point(known)
        return known.text

    def host(self, token: str) -> str:
        """See `Provider`: the push service's; of those that have many machines, their common name."""
        target = self._target(token)
        if target is None:
            return ""
        return next((name for name in self.config.hosts if on_host(target.host, (name,))), target.authority)

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`: to Apple nothing goes in silence."""
        target = self._target(push.token)
        return ["silent"] if push.silent and target is not None and on_host(target.host, APPLE) else []

    def offer(self) -> Mapping[str, str]:
        """See `Provider`: `applicationServerKey` for a browser, `vapid` for UnifiedPush."""
        return {"vapid": self._signer.current}

    def private(self, push: Push) -> list[str]:
        """See `HttpProvider`: the endpoint lets anybody send."""
        target = self._target(push.token)
        return super().private(push) if target is None else [*super().private(push), target.url]

    async def credential(self) -> Credential:
        """See `HttpProvider`: each origin has its own, made by the signer when it is needed."""
        self._signer.renew(self.now())
        return Credential(value="")

    def encode(self, push: Push, credential: str) -> Request:
        """See `HttpProvider`: the headers of sheet §4, and the envelope of §7 encrypted as in §3."""
        del credential
        try:
            known = self._subscription(push.token)
            check_point(known)
        except AddressInvalid:  # it was fine when it was registered: a host or a key has left the settings since
            outcome = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.TOKEN, vendor_code="address_refused")
            raise Refusal(outcome) from None
        host, now_s = known.target.host, self.now()
        if push.silent and on_host(host, APPLE):  # shown nothing, Safari takes the permission away (sheet §6.4)
            push = replace(push, body=self.config.wake_text)
        body = self._body(push, known)
        if on_host(host, MOZILLA):
            while len(body) > MOZILLA_BODY_BYTES and (lean := slimmer(push)) is not None:
                push, body = lean, self._body(lean, known)
        headers = {
            "content-type": "application/octet-stream",
            "ttl": str(ttl(push.ttl_s)),
            "urgency": str(push.overrides.get("urgency") or _urgency(push, host)),
        }
        if known.p256dh is not None:
            headers["content-encoding"] = "aes128gcm"
        name = push.overrides.get("topic") or (push.collapse_key and topic(push.collapse_key))
        if name:
            headers["topic"] = name
        if on_host(host, MICROSOFT):
            headers["x-wns-cache-policy"] = "cache" if ttl(push.ttl_s) else "no-cache"
        signed_with = self._signed_with(known)
        if signed_with is not None:
            headers["authorization"] = self._signer.authorization(known.origin, signed_with, now_s=now_s)
        return Request(url=known.target.url, headers=headers, body=body, total_s=TOTAL_S)

    async def send(self, push: Push) -> Outcome:
        """See `Provider`. A signature that goes on being refused was not made with the subscription's key, if our keys are
        good for others of its origin meanwhile (sheet §5, 403)."""
        outcome = await super().send(push)
        if outcome.verdict is not Verdict.ACCEPTED and outcome.vendor_code not in SIGNATURE_REFUSED:
            return outcome
        origin, now_s = self._subscription(push.token).origin, self.now()
        if outcome.verdict is Verdict.ACCEPTED:
            self._proven[origin] = now_s
            if len(self._proven) > ORIGINS_MAX:
                del self._proven[next(iter(self._proven))]
        elif outcome.dead_after_s is None and now_s - self._proven.get(origin, -math.inf) < OTHER_KEY_DEAD_S:
            return replace(outcome, dead_after_s=OTHER_KEY_DEAD_S)
        return outcome

    async def exchange(self, request: Request, pushes: Sequence[Push], credential: str) -> Response:
        """See `HttpProvider`. A subscription that does not say which key it was made with is tried with the old ones too. Where
        none will do, an answer counts that calls no key another one: that one may be right, and its signature wrong."""
        response = await super().exchange(request, pushes, credential)
        known = self._subscription(pushes[0].token)
        if known.vapid is not None or "authorization" not in request.headers:
            return response
        doubtful: Response | None = None
        for public in self._signer.old:
            if not self._is_about_the_key(response):
                return response
            if doubtful is None and self.decode(response).verdict is Verdict.REAUTH:
                doubtful = response
            signed = self._signer.authorization(known.origin, public, now_s=self.now())
            again = replace(request, headers={**request.headers, "authorization": signed})
            response = await super().exchange(again, pushes, credential)
        return response if doubtful is None or not self._is_about_the_key(response) else doubtful

    def encode_recall(self, push: Push, vendor_id: str | None, credential: str) -> Request:
        """See `HttpProvider`: a DELETE of the message's own URL, which lies where the subscription does."""
        del credential
        try:
            known = self._subscription(push.token)
            message = urlsplit(urljoin(known.target.url, vendor_id or "").encode("ascii").decode())
        except ValueError:  # AddressInvalid is one
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="address_refused")) from None
        if vendor_id is None or "/" not in vendor_id or f"{message.scheme}://{message.netloc}" != known.origin:
            raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="no_message_url"))
        signed = self._signer.authorization(known.origin, self._signed_with(known) or "", now_s=self.now())
        return Request(url=message.geturl(), method="DELETE", headers={"authorization": signed}, total_s=TOTAL_S)

    def _is_about_the_key(self, response: Response) -> bool:
        outcome = self.decode(response)
        return outcome.verdict is Verdict.REAUTH or outcome.vendor_code in KEY_MISMATCH

    def decode(self, response: Response) -> Outcome:
        """See `HttpProvider`."""
        return outcome_of(response, now_s=self.now())

    def _target(self, token: str) -> Target | None:
        """Where it is reached; None if it cannot be any more, though it was fine when it was registered."""
        try:
            return self._subscription(token).target
        except AddressInvalid:
            return None

    def _subscription(self, token: str) -> Subscription:
        """Raises AddressInvalid."""
        known = subscription(token, guard=self._guard, endpoint_bytes_max=self.endpoint_bytes_max)
        if not self.config.allows(known.target):
            raise AddressInvalid("the endpoint's host is not one of the push services that this account allows")
        if known.p256dh is None and not self._plaintext_allowed:
            raise AddressInvalid("the subscription lacks its keys, and this account sends nothing in plain text")
        if known.vapid is not None and not self._signer.knows(known.vapid):
            raise AddressInvalid(f"vapid must be a key of this account; subscribe with {self._signer.current}")
        return known

    @property
    def _plaintext_allowed(self) -> bool:
        return False

    def _signed_with(self, known: Subscription) -> str | None:
        """The public key of ours that the subscription was made with."""
        return known.vapid or self._signer.current

    def _body(self, push: Push, known: Subscription) -> bytes:
        data = envelope(push, now_s=self.now())
        if known.p256dh is None or known.auth is None:
            return data
        # Each part has a length of its own, so that no two messages are about the same bytes.
        about = sha256(known.p256dh + known.auth + sha256(known.endpoint.encode()).digest() + data).digest()
        salt, key = own_key(self._seed, about)
        return encrypt(data, to=known.p256dh, auth=known.auth, salt=salt, key=key, record_bytes=padded(len(data)))


def _urgency(push: Push, host: str) -> str:
    """Sheet §7; but a silent push is about a message too, and a device may sit on `low` for hours."""
    if push.silent:
        return "normal" if push.urgent else "low"
    if push.urgent or on_host(host, APPLE):  # elsewise iPhones get it late or never (sheet §6.4)
        return "high"
    return "normal"
