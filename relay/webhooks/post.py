"""The way out to an endpoint: one guarded POST, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from providers.guard import TargetRefused
from providers.http import Reason, Request, TransportError
from providers.transport import HttpTransport
from relay.webhooks import rules

CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an endpoint answered; its body is dropped."""

    status: int
    retry_after: str | None = None
    truncated: bool = False  # it went on beyond `answer_bytes_max`


class PostFailed(Exception):  # noqa: N818 - an endpoint that is away is no error of ours
    """There is no answer; `word` is a key of rules.EFFECT_OF_WORD."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Post(Protocol):
    """One guarded POST, done or failed within `timeout_s`."""

    async def __call__(
        self, *, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float, answer_bytes_max: int
    ) -> Answer: ...


WORD_OF_REASON: dict[Reason, str] = {
    Reason.DNS_FAILED: "dns_failed",
    Reason.CONNECT_FAILED: "connect_failed",
    Reason.TLS_FAILED: "tls_failed",
    Reason.TIMEOUT: "timeout",
    Reason.RESET: "connect_failed",
    Reason.GARBAGE: "connect_failed",
    Reason.HELD_BACK: "connect_failed",
}


def posting(transport: HttpTransport) -> Post:
    """POSTs through a guarded transport: the checks of safety SEC-8 at every send."""
    if transport.guard is None:
        raise ValueError("Webhooks go through a guarded transport.")

    async def post(
        *, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float, answer_bytes_max: int
    ) -> Answer:
        request = Request(
            url=url,
            headers=headers,
            body=body,
            connect_s=CONNECT_S,
            total_s=timeout_s,
            answer_bytes_max=answer_bytes_max,
        )
        try:
            response = await transport(request)
        except TargetRefused:
            raise PostFailed(rules.ADDRESS_DENIED) from None
        except TransportError as error:
            raise PostFailed(WORD_OF_REASON[error.reason]) from None
        return Answer(status=response.status, retry_after=response.header("retry-after"), truncated=response.truncated)

    return post
