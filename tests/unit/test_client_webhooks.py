"""What a backend does with a webhook, by the client's one call."""

import pytest

from relay.client import SignatureRefused, verify_webhook
from relay.ids import system_rng
from relay.webhooks.signing import Scheme, headers, mint_secret, signing_key

NOW_S = 1_700_000_000
BODY = b'{"id":"evt_1","type":"message.completed"}'


class At:
    """A clock that stands."""

    def __init__(self, now_s: int) -> None:
        self._now_s = now_s

    def now_ms(self) -> int:
        return self._now_s * 1000

    def monotonic_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


SECRET = mint_secret(system_rng(), Scheme.HMAC)
OTHER = mint_secret(system_rng(), Scheme.HMAC)
SIGNED = headers([signing_key(SECRET)], event_id="evt_1", timestamp_s=NOW_S, body=BODY)


def test_the_event_is_given_when_a_secret_that_is_valid_now_has_signed_it() -> None:
    assert verify_webhook(SECRET, SIGNED, BODY, clock=At(NOW_S))["type"] == "message.completed"
    assert verify_webhook([OTHER, SECRET], SIGNED, BODY, clock=At(NOW_S + 60))["id"] == "evt_1"


@pytest.mark.parametrize(
    ("secret", "body", "now_s"),
    [
        pytest.param(OTHER, BODY, NOW_S, id="secret"),
        pytest.param(SECRET, BODY + b" ", NOW_S, id="body"),
        pytest.param(SECRET, BODY, NOW_S + 3600, id="time"),
    ],
)
def test_another_secret_another_body_and_an_old_time_are_refused(secret: str, body: bytes, now_s: int) -> None:
    with pytest.raises(SignatureRefused):
        verify_webhook(secret, SIGNED, body, clock=At(now_s))
