"""ntfy: the contract, the document, the settings, and every row of the sheet's answers (others §1)."""

import asyncio
import base64
import json
from typing import Any

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.http import Response
from providers.loading import SettingsInvalid, build, configured
from providers.ntfy import NtfyProvider
from providers.testing import NOW_S, ProviderContract, Scripted

TOPIC = "telltale_Topic-0001"


def ntfy(status: int, code: int, **headers: str) -> Response:
    body = {"code": code, "http": status, "error": "sentence", "link": "https://ntfy.sh/docs"}
    return Response(status=status, headers=headers, body=json.dumps(body).encode())


TAKEN = Response(
    status=200,
    body=b'{"id":"sPs71M8A2T","time":1,"expires":2,"event":"message","topic":"t","message":"x","sequence_id":"m-1"}',
)


class TestNtfyContract(ProviderContract):
    provider = NtfyProvider
    settings = {"token": "tk_s3cr3tvalue"}  # noqa: RUF012
    token = TOPIC
    answers = {  # noqa: RUF012
        "ok": (TAKEN, Verdict.ACCEPTED),
        "bad": (ntfy(400, 40024), Verdict.REFUSED),
        "big": (ntfy(413, 41303), Verdict.TOO_LARGE),
        "login": (ntfy(401, 40101), Verdict.MISCONFIGURED),
        "busy": (Response(status=502), Verdict.RETRY),
        "slow down": (ntfy(429, 42901), Verdict.RETRY),
    }


def made(**settings: Any) -> tuple[NtfyProvider, Scripted]:
    scripted = Scripted(lambda _: TAKEN)
    provider = build(NtfyProvider, settings, transport=scripted, now=lambda: NOW_S)
    assert isinstance(provider, NtfyProvider)
    return provider, scripted


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": TOPIC, "title": "Ann", "body": "hello", **fields})


def document(provider: NtfyProvider, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(provider.encode(push(**fields), "").body)
    return found


def test_an_address_is_a_topic() -> None:
    provider, _ = made()
    for topic in ("a", TOPIC, "x" * 64):
        assert provider.address("token", topic) == topic
    for topic in ("", "x" * 65, "a b", "a/b", "é", "https://ntfy.sh/a", "a\n"):
        with pytest.raises(AddressInvalid, match="a topic has 1 to 64"):
            provider.address("token", topic)


def test_the_document_goes_to_the_root() -> None:
    for base, url in (
        ("https://ntfy.example.org", "https://ntfy.example.org/"),
        ("https://x.example/sub/", "https://x.example/sub/"),
    ):
        provider, _ = made(base_url=base)
        assert provider.encode(push(), "").url == url


def test_the_document() -> None:
    provider, _ = made()
    assert document(
        provider,
        image="https://app.example/i.png",
        click="https://app.example/r/42",
        channel="chat",
        collapse_key="room-42",
        badge=3,
        thread="t",
        data={"k": "v"},
    ) == {
        "topic": TOPIC,
        "title": "Ann",
        "message": "hello",
        "priority": 4,
        "tags": ["chat"],
        "click": "https://app.example/r/42",
        "attach": "https://app.example/i.png",
        "sequence_id": "room-42",
    }


@pytest.mark.parametrize(
    ("fields", "title", "message", "priority"),
    [
        ({}, "Ann", "hello", 4),
        ({"urgent": False}, "Ann", "hello", 3),
        ({"body": None}, None, "Ann", 4),
        ({"title": None}, None, "hello", 4),
        ({"title": None, "body": None}, None, "New message", 1),
        ({"title": "", "body": ""}, None, "New message", 4),
    ],
)
def test_words_and_priority(fields: dict[str, Any], title: str | None, message: str, priority: int) -> None:
    provider, _ = made()
    found = document(provider, **fields)
    assert (found.get("title"), found["message"], found["priority"]) == (title, message, priority)


def test_what_has_no_words_is_shown_all_the_same_and_the_capabilities_say_so() -> None:
    assert not NtfyProvider.capabilities.silent


def test_what_replaces_what() -> None:
    provider, _ = made()
    assert document(provider)["sequence_id"] == "m-1", "a repeat takes the place of the first"
    odd = document(provider, collapse_key="room:42/é")["sequence_id"]
    assert (
        odd
        == document(provider, collapse_key="room:42/é")["sequence_id"]
        != document(provider, collapse_key="x:")["sequence_id"]
    )
    assert len(odd) == 32
    assert odd.isalnum()


def test_a_click_is_a_url_or_nothing() -> None:
    provider, _ = made()
    assert document(provider, click="myapp://r/42")["click"] == "myapp://r/42"
    assert "click" not in document(provider, click="OPEN_ROOM")


def test_what_is_not_kept_and_what_does_not_go_through_google() -> None:
    provider, _ = made()
    assert set(provider.encode(push(), "").headers) == {"content-type"}
    assert provider.encode(push(ttl_s=0), "").headers["x-cache"] == "no"
    provider, _ = made(firebase=False)
    assert provider.encode(push(), "").headers["x-firebase"] == "no"


def test_logins() -> None:
    basic = base64.b64encode("relay:päss".encode()).decode()
    for settings, header in (
        ({}, None),
        ({"token": "tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"}, "Bearer tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2"),
        ({"username": "relay", "password": "päss"}, f"Basic {basic}"),
    ):
        provider, scripted = made(**settings)
        assert asyncio.run(provider.send(push())) == Outcome(verdict=Verdict.ACCEPTED, vendor_id="sPs71M8A2T")
        assert scripted.requests[0].headers.get("authorization") == header


def test_4096_bytes_of_text_and_twice_that_in_all() -> None:
    provider, scripted = made()
    assert asyncio.run(provider.send(push(body="é" * 2048))).verdict is Verdict.ACCEPTED
    assert asyncio.run(provider.send(push(body="é" * 2048 + "x"))).verdict is Verdict.TOO_LARGE
    assert asyncio.run(provider.send(push(body='"' * 4096))).verdict is Verdict.TOO_LARGE, (
        "escaped, it is twice as long"
    )
    assert len(scripted.requests) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"topic": "other"}, "'topic' may not be overridden"),
        ({"email": "a@b.example"}, "'email' may not be overridden"),
        ({"delay": "30min"}, "'delay' may not be overridden"),
        ({"priority": 6}, "priority must be one of 1, 2, 3, 4, 5"),
        ({"message": None}, "message may not be taken away"),
        ({"message": ""}, "message must be text"),
        ({"tags": "a,b"}, "tags must be a list"),
        ({"icon": "file:///x"}, "icon must be"),
        ({"actions": [{"action": "call", "label": "x"}]}, "actions must be a list"),
        ({"actions": [{"action": "view", "label": "x"}] * 4}, "actions must be a list"),
        ({"markdown": 1}, "markdown must be true or false"),
    ],
)
def test_overrides_are_checked(overrides: dict[str, Any], said: str) -> None:
    (mistake,) = NtfyProvider.check_overrides(overrides)
    assert said in mistake


def test_overrides_are_sent() -> None:
    overrides = {
        "priority": 5,
        "markdown": True,
        "tags": None,
        "actions": [{"action": "view", "label": "Open", "url": "x:"}],
    }
    assert NtfyProvider.check_overrides(overrides) == []
    provider, _ = made()
    found = document(provider, overrides=overrides, channel="chat")
    assert (found["priority"], found["markdown"], found["actions"][0]["label"]) == (5, True, "Open")
    assert "tags" not in found


DEAD, REFUSED, RETRY = Verdict.TOKEN_DEAD, Verdict.REFUSED, Verdict.RETRY
LARGE, CONFIG = Verdict.TOO_LARGE, Verdict.MISCONFIGURED
MESSAGE, TOKEN, ACCOUNT = Scope.MESSAGE, Scope.TOKEN, Scope.ACCOUNT


@pytest.mark.parametrize(
    ("response", "verdict", "scope", "retry_after_s"),
    [
        (ntfy(400, 40009), DEAD, TOKEN, None),
        (ntfy(400, 40010), DEAD, TOKEN, None),
        *((ntfy(400, code), REFUSED, MESSAGE, None) for code in (40007, 40013, 40017, 40018, 40021, 40024, 40099)),
        (ntfy(400, 40014), LARGE, MESSAGE, None),
        (ntfy(401, 40101), CONFIG, ACCOUNT, None),
        (ntfy(403, 40301), CONFIG, TOKEN, None),
        (ntfy(404, 40401), CONFIG, ACCOUNT, None),
        (ntfy(413, 41301), LARGE, MESSAGE, None),
        (ntfy(413, 41303), LARGE, MESSAGE, None),
        (ntfy(429, 42901), RETRY, ACCOUNT, 10),
        (ntfy(429, 42901, **{"retry-after": "30"}), RETRY, ACCOUNT, 30),
        (ntfy(429, 42902), REFUSED, MESSAGE, None),
        (ntfy(429, 42910), REFUSED, MESSAGE, None),
        *((ntfy(429, code), RETRY, ACCOUNT, 60) for code in (42903, 42904, 42905)),
        (ntfy(429, 42908), RETRY, ACCOUNT, 3600),
        (ntfy(429, 42909), CONFIG, ACCOUNT, None),
        *((ntfy(500, code), RETRY, MESSAGE, None) for code in (50001, 50002, 50003, 50004)),
        (ntfy(507, 50701), RETRY, TOKEN, 600),
        # A proxy's own pages.
        (Response(status=301), CONFIG, ACCOUNT, None),
        (Response(status=401), CONFIG, ACCOUNT, None),
        (Response(status=403), CONFIG, ACCOUNT, None),
        (Response(status=404, body=b"<html>"), CONFIG, ACCOUNT, None),
        (Response(status=413), LARGE, MESSAGE, None),
        (Response(status=429), RETRY, ACCOUNT, 60),
        (Response(status=502), RETRY, MESSAGE, None),
    ],
)
def test_the_sheets_answers(response: Response, verdict: Verdict, scope: Scope, retry_after_s: float | None) -> None:
    provider, _ = made()
    outcome = provider.decode(response)
    assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, retry_after_s)


def test_a_page_that_is_not_ntfys_may_have_taken_it_or_not() -> None:
    provider, _ = made()
    outcome = provider.decode(Response(status=200, body=b"<html>welcome</html>"))
    assert (outcome.verdict, outcome.maybe_sent, outcome.vendor_code) == (RETRY, True, "answer_garbled")


def test_a_code_is_believed_only_with_its_status() -> None:
    provider, _ = made()
    assert provider.decode(ntfy(404, 40009)).verdict is CONFIG
    assert provider.decode(Response(status=400, body=b'{"code":40009}')).verdict is REFUSED


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": "abc"}, "token: must be an access token"),
        ({"token": "tk_a b"}, "token: must be an access token"),
        ({"username": "a"}, "goes with password"),
        ({"password": "a"}, "goes with password"),
        ({"token": "tk_a", "username": "a", "password": "b"}, "not both"),
        ({"username": "a:b", "password": "c"}, "colon"),
        ({"base_url": "https://u:p@ntfy.sh"}, "base_url: leave out"),
        ({"base_url": "https://ntfy.sh/?auth=x"}, "base_url: leave out"),
        ({"base_url": "ntfy.sh"}, "base_url"),
        ({"wake_text": " "}, "wake_text: must be"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        configured(NtfyProvider, settings)
    assert said in str(caught.value)


def test_only_the_operator_names_the_server() -> None:
    with pytest.raises(SettingsInvalid, match="only the operator"):
        configured(NtfyProvider, {"base_url": "https://ntfy.example.org"}, trusted=False)


def test_when_the_day_s_messages_are_used_up_the_server_is_asked_once_an_hour() -> None:
    """Sheet §1.5, 42908: when the quota is there again is the server's setting, so no day of ours says it."""
    outcome = made()[0].decode(ntfy(429, 42908))
    assert (outcome.scope, outcome.retry_after_s, outcome.spent) == (ACCOUNT, 3600, False)


def test_of_what_it_asks_to_wait_for_an_operator_hears_of_the_used_up_day_alone() -> None:
    """Sheet §1.5: 42908 is CIRCUIT and CONFIG_ALERT; of the other 429s that wait, none is an alert."""
    alerted = {code for code in (42901, 42903, 42904, 42905, 42908) if made()[0].decode(ntfy(429, code)).alert}
    assert alerted == {42908}


def test_a_server_that_knows_no_replacing_is_known_by_its_answer() -> None:
    """Sheet §1.3: before 2.16 it published a new notification without a word, and the trace says so."""
    old = Response(status=200, body=b'{"id":"sPs71M8A2T","time":1,"event":"message","topic":"t","message":"x"}')
    assert made()[0].decode(old) == Outcome(
        verdict=Verdict.ACCEPTED, vendor_id="sPs71M8A2T", vendor_code="nothing_replaced"
    )
    assert made()[0].decode(TAKEN).vendor_code is None
