"""The signed call to a gateway: the contract, the vectors of Standard Webhooks, the outcome table."""

import base64
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from providers.contract import Push, Scope, Verdict
from providers.guard import Guard, TargetRefused
from providers.http import Request, Response
from providers.http_call import HttpCallProvider, secret_key, sign
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3"
CURRENT = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
OK = Response(status=204)
SETTINGS = {"url": "https://gateway.example/push?x=1", "secret": SECRET}
EVENT = (
    '{"type":"message.expired","timestamp":"2025-11-24T16:00:00.000Z","data":{"message_id":"m_0001",'
    '"device_id":"d_42","reason":"ttl","attempts":3,"note":"café ✓"}}'
).encode()


class TestHttpCallContract(ProviderContract):
    provider = HttpCallProvider
    settings = SETTINGS
    token = "device-42/tok+en"
    answers = {  # noqa: RUF012
        "ok": (Response(status=204), Verdict.ACCEPTED),
        "gone": (Response(status=422, body=b'{"error":"token_dead"}'), Verdict.TOKEN_DEAD),
        "bad": (Response(status=422), Verdict.REFUSED),
        "big": (Response(status=413), Verdict.TOO_LARGE),
        "key": (Response(status=401), Verdict.MISCONFIGURED),
        "busy": (Response(status=503), Verdict.RETRY),
        "slow down": (Response(status=429, headers={"retry-after": "30"}), Verdict.RETRY),
    }

    def repeat_key(self, request: Request) -> str:
        return request.headers["webhook-id"]


def made(transport: Any = None, **settings: Any) -> HttpCallProvider:
    call = transport or Scripted(lambda _: Response(status=204))
    provider = build(HttpCallProvider, {**SETTINGS, **settings}, transport=call, now=lambda: NOW_S)
    assert isinstance(provider, HttpCallProvider)
    return provider


@pytest.mark.parametrize(
    ("secrets", "message_id", "timestamp_s", "body", "signature"),
    [
        (
            [SECRET],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            [CURRENT],
            "evt_01JD8Q6Z5T9X3K7M2N4P6R8S0V",
            1764000000,
            EVENT,
            "v1,FrfbDKjExY6z8hJ78esn0JtZG0VgThQhqhWSoImIICw=",
        ),
        (
            [CURRENT, OTHER],
            "evt_01JD8Q6Z5T9X3K7M2N4P6R8S0V",
            1764000000,
            EVENT,
            "v1,FrfbDKjExY6z8hJ78esn0JtZG0VgThQhqhWSoImIICw= v1,q7CiXp26OJVEkvgezrx5MgpI8CgnDWVKhuVTzOMi9eY=",
        ),
    ],
)
def test_the_vectors(secrets: list[str], message_id: str, timestamp_s: int, body: bytes, signature: str) -> None:
    keys = [secret_key(secret) for secret in secrets]
    assert sign(keys, message_id=message_id, timestamp_s=timestamp_s, body=body) == signature
    if body == EVENT:
        assert sign(keys[:1], message_id=message_id, timestamp_s=timestamp_s + 1, body=body) != signature
        assert sign(keys[:1], message_id=message_id, timestamp_s=timestamp_s, body=body + b" ") == (
            "v1,CWJtr2y9MQAdaOpOB9S4fwsn0NjKU8oC5xwXE+vD0dE="
        )


def test_the_reference_library_signs_the_same() -> None:
    for secret, message_id, timestamp_s, body in (
        (SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'),
        (CURRENT, "evt_01JD8Q6Z5T9X3K7M2N4P6R8S0V", 1764000000, EVENT.decode()),
    ):
        theirs = Webhook(secret).sign(message_id, datetime.fromtimestamp(timestamp_s, UTC), body)
        assert theirs == sign([secret_key(secret)], message_id=message_id, timestamp_s=timestamp_s, body=body.encode())


def test_the_reference_library_accepts_what_we_send(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its clock is the machine's; ours is not.
    monkeypatch.setattr(Webhook, "_Webhook__verify_timestamp", lambda _, at: datetime.fromtimestamp(int(at), UTC))
    request = made(old_secret=OTHER).encode(Push(id="m-1", token="d-1", title="café ✓"), "")
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify(request.body, dict(request.headers))["type"] == "push"


def test_the_body() -> None:
    push = Push(id="m-1", token="d-1", title="Hi", data={"k": "v"}, ttl_s=60, relay={"v": 1, "ids": ["m-1"]}, badge=0)
    request = made().encode(push, "")
    assert request.url == "https://gateway.example/push?x=1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-timestamp"] == "1764000000"
    assert json.loads(request.body) == {
        "type": "push",
        "timestamp": "2025-11-24T16:00:00Z",
        "data": {
            "id": "m-1",
            "token": "d-1",
            "kind": "token",
            "title": "Hi",
            "data": {"k": "v"},
            "badge": 0,
            "silent": False,
            "urgent": True,
            "ttl_s": 60,
            "relay": {"v": 1, "ids": ["m-1"]},
        },
    }


PUSH = Push(id="m-1", token="d-1", title="Ann", body="hi", relay={"ids": ["m-1"]})


def webhook_id(push: Push, *, later_s: float = 0.0) -> str:
    provider = build(HttpCallProvider, SETTINGS, transport=Scripted(lambda _: OK), now=lambda: NOW_S + later_s)
    return provider.encode(push, "").headers["webhook-id"]  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("later_s", [10, 300, 3600, 86_400])
@pytest.mark.parametrize("again", [None, "knock 0"])
def test_a_retry_has_the_id_of_the_first_try(later_s: float, again: str | None) -> None:
    """others §3.1: on every retry, also when the gateway was away for hours, and midnight was between."""
    push = replace(PUSH, again=again)
    assert webhook_id(push, later_s=later_s) == webhook_id(push)


@pytest.mark.parametrize(
    "another",
    [
        {"token": "d-2"},  # the same message, on the user's other phone
        {"kind": "pigeon"},
        {"body": "2 new messages", "relay": {"ids": ["m-1", "m-2"]}},  # a summary, of more than before
    ],
)
def test_what_is_no_retry_has_an_id_of_its_own(another: dict[str, Any]) -> None:
    """others §3.1: receivers drop what has an id that they know."""
    assert webhook_id(replace(PUSH, **another)) != webhook_id(PUSH)


def test_a_reminder_has_an_id_of_its_own() -> None:
    ids = [webhook_id(PUSH), *(webhook_id(replace(PUSH, again=again)) for again in ("knock 0", "knock 1"))]
    assert len({*ids}) == 3


@pytest.mark.parametrize("push_id", ["a.b", "a b", "", "é", "x" * 200, "a\r\nb", "\ud800"])
def test_no_id_can_forge_the_signed_text(push_id: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", webhook_id(replace(PUSH, id=push_id)))


@pytest.mark.parametrize(
    ("status", "verdict", "scope", "headers", "wait_s"),
    [
        (200, Verdict.ACCEPTED, Scope.MESSAGE, {}, None),
        (202, Verdict.ACCEPTED, Scope.MESSAGE, {}, None),
        (299, Verdict.ACCEPTED, Scope.MESSAGE, {}, None),
        (301, Verdict.RETRY, Scope.ACCOUNT, {}, 60),
        (307, Verdict.RETRY, Scope.ACCOUNT, {}, 60),
        (400, Verdict.REFUSED, Scope.MESSAGE, {}, None),
        (404, Verdict.REFUSED, Scope.MESSAGE, {}, None),
        (405, Verdict.REFUSED, Scope.MESSAGE, {}, None),
        (415, Verdict.REFUSED, Scope.MESSAGE, {}, None),
        (422, Verdict.REFUSED, Scope.MESSAGE, {}, None),
        (401, Verdict.MISCONFIGURED, Scope.ACCOUNT, {}, None),
        (403, Verdict.MISCONFIGURED, Scope.ACCOUNT, {}, None),
        (410, Verdict.MISCONFIGURED, Scope.ACCOUNT, {}, None),
        (413, Verdict.TOO_LARGE, Scope.MESSAGE, {}, None),
        (429, Verdict.RETRY, Scope.ACCOUNT, {}, 60),
        (429, Verdict.RETRY, Scope.ACCOUNT, {"retry-after": "5"}, 5),
        (500, Verdict.RETRY, Scope.MESSAGE, {}, None),
        (502, Verdict.RETRY, Scope.ACCOUNT, {}, None),
        (503, Verdict.RETRY, Scope.MESSAGE, {"Retry-After": "7"}, 7),
        (504, Verdict.RETRY, Scope.ACCOUNT, {}, None),
    ],
)
def test_the_outcomes(
    status: int, verdict: Verdict, scope: Scope, headers: dict[str, str], wait_s: float | None
) -> None:
    outcome = made().decode(Response(status=status, headers=headers))
    assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, wait_s)
    assert not outcome.maybe_sent


@pytest.mark.parametrize(
    ("status", "body", "hears"),
    [
        *((status, b"", True) for status in (404, 405, 415)),
        (404, b"<html>not found</html>", True),
        (404, b'{"error":"no_such_room"}', False),
        *((status, b"", False) for status in (400, 422, 413)),
    ],
)
def test_of_a_gateway_that_seems_not_to_be_there_an_operator_hears(status: int, body: bytes, hears: bool) -> None:
    """others §3.3: such answers count against its health; what it says of one push does not."""
    assert made().decode(Response(status=status, body=body)).alert is hears


async def test_a_guarded_transports_refusal_is_the_operators_to_mend() -> None:
    async def refusing(request: Request, /) -> Response:
        Guard().parse(request.url)
        raise TargetRefused("endpoint_address_denied", "x")

    outcome = await made(refusing).send(Push(id="m", token="d"))
    assert (outcome.verdict, outcome.vendor_code) == (Verdict.MISCONFIGURED, "endpoint_address_denied")


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "http://gateway.example/"},
        {"url": "https://user:pw@gateway.example/"},
        {"url": "https://gateway.example/#x"},
        {"url": "ftp://gateway.example/"},
        {"secret": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
        {"secret": "whsec_"},
        {"secret": "whsec_!!!"},
        {"secret": "whsec_" + base64.b64encode(b"x" * 23).decode()},
        {"secret": "whsec_" + base64.b64encode(b"x" * 65).decode()},
        {"old_secret": "whsk_x"},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(HttpCallProvider, {**SETTINGS, **settings})
    assert SECRET not in str(caught.value)
    assert "MfKQ9" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "http://gateway.example/", "secret": SECRET, "allow_http": True},
        {**SETTINGS, "exempt": ["10.1.0.0/16:443"]},
    ],
)
def test_http_and_what_is_internal_are_the_operators_switches(settings: dict[str, Any]) -> None:
    assert configured(HttpCallProvider, settings)
    with pytest.raises(SettingsInvalid):
        configured(HttpCallProvider, settings, trusted=False)


async def test_a_gateway_that_does_nothing_but_redirect_is_parked() -> None:
    """Sheet §3.3: never followed; an operator hears of it when it goes on."""
    clock, status = [NOW_S], [302]
    scripted = Scripted(lambda _: Response(status=status[0], headers={"location": "https://other.example/"}))
    provider = build(HttpCallProvider, SETTINGS, transport=scripted, now=lambda: clock[0])

    async def said(*, after_s: float) -> Verdict:
        clock[0] += after_s
        outcome = await provider.send(Push(id="m", token="d", title="Hi"))
        assert outcome.scope is (Scope.MESSAGE if outcome.verdict is Verdict.ACCEPTED else Scope.ACCOUNT)
        return outcome.verdict

    assert [await said(after_s=300), await said(after_s=300)] == [Verdict.RETRY] * 2
    status[0] = 204
    assert await said(after_s=300) is Verdict.ACCEPTED
    status[0] = 302
    assert [await said(after_s=300) for _ in range(3)] == [Verdict.RETRY, Verdict.RETRY, Verdict.MISCONFIGURED]
    assert {request.url for request in scripted.requests} == {"https://gateway.example/push?x=1"}
