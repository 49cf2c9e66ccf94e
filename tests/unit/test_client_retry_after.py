"""What a client makes of a Retry-After, which something before the relay may have written."""

import pytest

from relay.client.http import problem_of


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("30", 30.0),
        ("86400", 86_400.0),
        ("86401", None),
        ("9" * 400, None),
        ("", None),
        ("²", None),
        ("-1", None),
        ("1.5", None),
        ("Mon, 24 Nov 2025 16:01:00 GMT", None),
    ],
)
def test_it_waits_for_seconds_and_for_a_day_at_most(text: str, wait_s: float | None) -> None:
    assert problem_of(503, {"Retry-After": text}, b"<html>").retry_after_s == wait_s
