"""The shell of every adapter that speaks HTTP: it talks, renews the credential, retries once; subclasses translate.

All that an adapter needs comes from here: `providers.wire` and `providers.answers` are this module's own parts.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from providers.answers import (
    THROTTLED_S,
    bearer_from,
    by_status,
    code_from,
    json_body,
    no_login,
    number_from,
    retry_after_s,
)
from providers.batch import alike
from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Transport, Verdict, slimmer
from providers.guard import TargetRefused
from providers.wire import Credential, Reason, Refusal, Request, RequestInvalid, Response, TransportError

__all__ = [
    "THROTTLED_S",
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
    "number_from",
    "retry_after_s",
]


ECHO_CHARS_MIN = 8
SEEK_S = 8.0  # then no more halves are asked for: a call may take 10 s, and the relay gives up on all of it after 20


class HttpProvider(ABC):
    """A vendor reached by HTTP. Subclasses translate; this class talks, renews and retries once."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    Config: ClassVar[type[ProviderConfig]]
    # For a vendor whose `batch_max` is above 1, codes that its outcomes bear: of a call that named more tokens than it takes
    # at once; of one that was refused for its message, or for one of its tokens; and of tokens that are called dead one by
    # one, not as a whole that one of them may have spoilt.
    too_many: ClassVar[frozenset[str]] = frozenset()
    message_or_token: ClassVar[frozenset[str]] = frozenset()
    each_dead: ClassVar[frozenset[str]] = frozenset()

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

    def offer(self) -> Mapping[str, str]:
        """See `Provider`. Most vendors' apps have it from the vendor."""
        return {}

    def losses(self, push: Push) -> Sequence[str]:
        """See `Provider`. Most vendors take all that their capabilities say."""
        del push
        return ()

    @abstractmethod
    async def credential(self) -> Credential:
        """A fresh credential. A vendor with a static key returns that; Refusal when there is none."""

    @abstractmethod
    def encode(self, push: Push, credential: str) -> Request:
        """The request that carries this push. Pure: same arguments and time, same request. May raise Refusal."""

    @abstractmethod
    def decode(self, response: Response) -> Outcome:
        """What the vendor's answer means for one push. Pure, and total: no answer makes it raise."""

    def encode_many(self, pushes: Sequence[Push], credential: str) -> Request:
        """The one request that carries these pushes, which differ in their token alone. As pure as `encode`.

        For a vendor whose `batch_max` is above 1. Every token stands in it once; its `payload_bytes` leave them out if
        the vendor does.
        """
        (push,) = pushes
        return self.encode(push, credential)

    def decode_many(self, response: Response, pushes: Sequence[Push]) -> list[Outcome]:
        """What the answer means for each push that was sent, one or several, in their order. As pure and total as `decode`.

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
        if push.overrides and self.check_overrides(push.overrides):
            return Outcome(verdict=Verdict.REFUSED, vendor_code="overrides_invalid")
        return None

    async def send(self, push: Push) -> Outcome:
        """See `Provider`."""
        return _here(self.known(push)) or (await self._send_alike([push]))[0]

    async def send_many(self, pushes: Sequence[Push]) -> list[Outcome]:
        """See `BatchProvider`; a vendor that takes one token a call gets one call after the other."""
        outcomes = {place: outcome for place, push in enumerate(pushes) if (outcome := _here(self.known(push)))}
        left = [place for place in range(len(pushes)) if place not in outcomes]
        until_s = self.now() + SEEK_S
        for group in alike(pushes, left, self.batch_max):
            found = await self._send_group([pushes[place] for place in group], until_s=until_s)
            outcomes |= dict(zip(group, found, strict=True))
        return [outcomes[place] for place in range(len(pushes))]

    async def _send_group(self, pushes: Sequence[Push], *, until_s: float, good_message: bool = False) -> list[Outcome]:
        """One call, and another for each half if it was too large, or if one token may have spoilt it for all.

        Where the message itself may be to blame as well, its first and its last device are asked for alone: if both are
        refused, it is; if one of them has it, it is not.
        """
        found = await self._send_alike(pushes)
        if len(pushes) < 2:
            return found
        codes = {outcome.vendor_code for outcome in found}
        dead = all(outcome.verdict is Verdict.TOKEN_DEAD for outcome in found) and not codes <= self.each_dead
        doubted = _refused_by(found, self.message_or_token)
        if not (dead or doubted or _refused_by(found, self.too_many)):
            return found
        if good_message or not doubted:
            return await self._send_halves(pushes, until_s=until_s, good_message=good_message)
        if self.now() >= until_s:
            return found
        (first,), (last,) = await self._send_alike(pushes[:1]), await self._send_alike(pushes[-1:])
        if _refused_by([first, last], self.message_or_token):
            return found
        good_message = Verdict.ACCEPTED in {first.verdict, last.verdict}
        return [first, *await self._send_halves(pushes[1:-1], until_s=until_s, good_message=good_message), last]

    async def _send_halves(self, pushes: Sequence[Push], *, until_s: float, good_message: bool) -> list[Outcome]:
        """Who is not asked for by `until_s` has another try: others have the push by then, and that must be heard of."""
        outcomes: list[Outcome] = []
        for half in (pushes[: len(pushes) // 2], pushes[len(pushes) // 2 :]):
            if self.now() >= until_s:
                outcomes += [Outcome(verdict=Verdict.RETRY, local=True, vendor_code="not_sought")] * len(half)
            elif half:
                outcomes += await self._send_group(half, until_s=until_s, good_message=good_message)
        return outcomes

    @property
    def batch_max(self) -> int:
        """How many tokens go into one call; an account's settings may say fewer than the vendor takes."""
        return self.capabilities.batch_max

    async def recall(self, push: Push, vendor_id: str | None) -> Outcome:
        """See `RecallProvider`; only where `capabilities.recall` says so."""

        async def ask(credential: Credential) -> list[Outcome]:
            try:
                request = self.encode_recall(push, vendor_id, credential.value)
            except Refusal as refusal:
                return [replace(refusal.outcome, local=True)]
            outcome = self.decode_recall(await self.call(request))
            return [_without_private(outcome, self.private(push))]

        outcome = _here(self.known(push)) or (await self._asked(ask, [push]))[0]
        if outcome.verdict in {Verdict.ACCEPTED, Verdict.RETRY}:
            return outcome
        return Outcome(verdict=Verdict.REFUSED, vendor_code=outcome.vendor_code, local=outcome.local)

    def encode_recall(self, push: Push, vendor_id: str | None, credential: str) -> Request:
        """The request that takes this push back. As pure as `encode`. May raise Refusal."""
        del push, vendor_id, credential
        raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="no_recall"))

    def decode_recall(self, response: Response) -> Outcome:
        """What the answer to that means. As pure and total as `decode`."""
        if 200 <= response.status < 300:
            return Outcome(verdict=Verdict.ACCEPTED)
        if response.status == 401:
            return Outcome(verdict=Verdict.REAUTH, vendor_code="status_401")
        if response.status == 429 or response.status >= 500:
            return by_status(response, now_s=self.now())
        return Outcome(verdict=Verdict.REFUSED, vendor_code=f"status_{response.status}")

    async def _send_alike(self, pushes: Sequence[Push]) -> list[Outcome]:
        """One call, or two if the credential went stale."""
        return await self._asked(lambda credential: self._send_with(credential, pushes), pushes)

    async def _asked(
        self, ask: Callable[[Credential], Awaitable[list[Outcome]]], pushes: Sequence[Push]
    ) -> list[Outcome]:
        """What `ask` gave with a good credential; all that it may raise, as an outcome."""
        try:
            credential = await self._current()
            outcomes = await ask(credential)
            if all(outcome.verdict is Verdict.REAUTH for outcome in outcomes):
                credential = await self._current(instead_of=credential)
                outcomes = await ask(credential)
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
            return [Outcome(verdict=Verdict.REFUSED, vendor_code="request_invalid", local=True)] * len(pushes)
        return [_refused_twice(outcome) for outcome in outcomes]

    def private(self, push: Push) -> list[str]:
        """What of a push may stand in no outcome, because outcomes are logged and shown."""
        return [text for text in (push.token, push.title, push.body) if text]

    async def aclose(self) -> None:  # noqa: B027 - most need nothing more
        """Nothing to let go of: the transport belongs to whoever made it."""

    async def _current(self, *, instead_of: Credential | None = None) -> Credential:
        good = self._credential
        if good is not None and good is not instead_of and good.is_good(self.now()) and not self._renewal.locked():
            return good
        ended = self._renewals
        async with self._renewal:  # one renewal at a time, shared by all waiting sends
            known = self._credential
            if known is not None and known is not instead_of and known.is_good(self.now()):
                return known
            if self._renewals != ended and self._no_credential is not None:
                raise Refusal(self._no_credential.outcome)  # it failed while we waited: so it did for us
            self._no_credential = None  # it may be given up midway: that says nothing to those who wait
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
                return known
            finally:
                self._renewals += 1

    async def _send_with(self, credential: Credential, pushes: Sequence[Push]) -> list[Outcome]:
        lean: Push | None = pushes[0]
        while lean is not None:
            one = len(pushes) == 1
            leaner = [lean] if one else [replace(lean, token=push.token) for push in pushes]
            try:
                request = self.encode(lean, credential.value) if one else self.encode_many(leaner, credential.value)
            except Refusal as refusal:
                return [replace(refusal.outcome, local=True)] * len(pushes)
            size = len(request.body) if request.payload_bytes is None else request.payload_bytes
            if size <= (request.payload_bytes_max or self.capabilities.payload_bytes_max):
                response = await self.exchange(request, leaner, credential.value)
                outcomes = self.decode_many(response, leaner)
                private = [text for push in pushes for text in self.private(push)]
                if one:
                    return [_without_private(outcomes[0], private)]
                cleaned = {outcome: _without_private(outcome, private) for outcome in dict.fromkeys(outcomes)}
                return [cleaned[outcome] for outcome in outcomes]
            lean = slimmer(lean)
        return [Outcome(verdict=Verdict.TOO_LARGE, vendor_code="measured_here", local=True)] * len(pushes)


def _here(outcome: Outcome | None) -> Outcome | None:
    return None if outcome is None else replace(outcome, local=True)


def _refused_by(outcomes: Sequence[Outcome], codes: frozenset[str]) -> bool:
    """Whether all were refused by one of these codes: by the same one OPPO calls a token dead, and then it is no message."""
    return all(outcome.verdict is Verdict.REFUSED and outcome.vendor_code in codes for outcome in outcomes)


def _refused_twice(outcome: Outcome) -> Outcome:
    """A fresh credential was refused too: an operator must look."""
    if outcome.verdict is not Verdict.REAUTH:
        return outcome
    scope = Scope.TOKEN if outcome.scope is Scope.TOKEN else Scope.ACCOUNT
    return Outcome(verdict=Verdict.MISCONFIGURED, scope=scope, vendor_code=outcome.vendor_code)


def _without_private(outcome: Outcome, private: Sequence[str]) -> Outcome:
    """The outcome without a code or an id in which the vendor echoes what it was sent.

    A short word of a title ("1", "ok") stands in many a code by chance: it counts only if it is all of it.
    """

    def clean(text: str | None) -> str | None:
        echoes = text is not None and any(
            word in text if len(word) >= ECHO_CHARS_MIN else word == text for word in private
        )
        return None if echoes else text

    code, vendor_id = clean(outcome.vendor_code), clean(outcome.vendor_id)
    if code == outcome.vendor_code and vendor_id == outcome.vendor_id:
        return outcome
    return replace(outcome, vendor_code=code, vendor_id=vendor_id)
