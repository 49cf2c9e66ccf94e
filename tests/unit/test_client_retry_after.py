"""What a client makes of a refusal, which something before the relay may have written, and how long it waits then."""

import json
from typing import Any

import pytest

from relay.client.http import PROBLEM, Answer, Problem, Unreachable, problem_of

DEEP = b'{"code": "overloaded", "why": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


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


def refused(**more: Any) -> Problem:
    headers = {"Content-Type": PROBLEM, "Retry-After": "30"}
    return problem_of(503, headers, json.dumps({"code": "overloaded"} | more).encode())


@pytest.mark.parametrize(
    ("after_ms", "wait_s"),
    [
        (1500, 1.5),
        (0, 0.0),
        ("soon", 30.0),
        ("1500", 30.0),
        (None, 30.0),
        ([1500], 30.0),
        (-1, 30.0),
        (86_400_001, 30.0),
        pytest.param(10**400, 30.0, id="more than a float holds"),
    ],
)
def test_what_is_no_time_to_wait_for_in_a_body_leaves_the_header_to_say_it(after_ms: object, wait_s: float) -> None:
    problem = refused(retry_after_ms=after_ms)
    assert (problem.code, problem.retry_after_s) == ("overloaded", wait_s)


@pytest.mark.parametrize(
    ("errors", "listed"), [(5, []), ("all", []), (None, []), ([1, {"pointer": "/to"}], [{"pointer": "/to"}])]
)
def test_what_is_no_error_of_a_field_is_not_listed(errors: object, listed: list[dict[str, str]]) -> None:
    assert refused(errors=errors).errors == listed


def test_what_nests_deeper_than_anything_of_the_relays_is_not_its_answer() -> None:
    problem = problem_of(503, {"Content-Type": PROBLEM}, DEEP)
    assert (problem.of_the_relay, problem.code) == (False, "http_503")
    with pytest.raises(Unreachable):
        _ = Answer(200, DEEP).json
