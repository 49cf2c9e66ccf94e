"""What a backend does with a webhook of the relay: check its signature, then read it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from relay.clock import Clock, SystemClock
from relay.webhooks.signing import SignatureRefused, verify, verifying_key

__all__ = ["SignatureRefused", "verify_webhook"]


def verify_webhook(
    secrets: str | Sequence[str], headers: Mapping[str, str], body: bytes, *, clock: Clock | None = None
) -> dict[str, Any]:
    """The event in a webhook (Standard Webhooks), once its signature and its time are found right.

    `secrets` are `whsec_…` or `whpk_…`, all that are valid now; `body` the raw bytes as they came. Keep the ids of the
    events that you have handled: a webhook may come twice. Raises SignatureRefused, and ValueError for a secret that is none.
    """
    keys = [verifying_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    verify(keys, headers, body, now_s=(clock or SystemClock()).now_ms() // 1000)
    event: dict[str, Any] = json.loads(body)
    return event
