"""Gotify: the contract, the message, the address, and every row of the sheet's answers (others §2)."""

import asyncio
import json
from typing import Any

import pytest

from providers.contract import AddressInvalid, Outcome, Push, Scope, Verdict
from providers.gotify import OWN, GotifyProvider
from providers.http import Reason, Request, Response, TransportError
from providers.loading import SettingsInvalid, build, configured
from providers.testing import NOW_S, ProviderContract, Scripted

KEY = "Atelltale.K-y_1"
TAKEN = Response(
    status=200, body=b'{"id":7,"appid":1,"message":"x","title":"y","priority":8,"date":"2026-01-01T00:00:00Z"}'
)


def address(url: str = "https://push.example.org", token: str = KEY) -> str:
    return json.dumps({"url": url, "token": token})


def error(status: int, description: str = "sentence") -> Response:
    body = {"error": "x", "errorCode": status, "errorDescription": description}
    return Response(status=status, body=json.dumps(body).encode())


class TestGotifyContract(ProviderContract):
    provider = GotifyProvider
    settings = {"hosts": ["example.org"]}  # noqa: RUF012
    token = address()
    answers = {  # noqa: RUF012
        "ok": (TAKEN, Verdict.ACCEPTED),
        "bad": (error(400), Verdict.REFUSED),
        "login": (error(401), Verdict.MISCONFIGURED),
        "busy": (Response(status=503), Verdict.RETRY),
        "slow down": (Response(status=429, headers={"retry-after": "30"}), Verdict.RETRY),
    }

    def carries_token(self, request: Request) -> int:
        """The address is a document; what of it goes out as it is, are the URL and the key."""
        text = "\n".join([request.url, *request.headers.values(), request.body.decode()])
        return text.count(KEY)

    def tokens(self, count: int) -> list[str]:
        return [address(token=f"Akey-{n:03}") for n in range(count)]

    def _named(self, request: Request, tokens: list[str]) -> list[str]:
        return [token for token in tokens if request.headers["x-gotify-key"] == json.loads(token)["token"]]


def made(**settings: Any) -> tuple[GotifyProvider, Scripted]:
    scripted = Scripted(lambda _: TAKEN)
    provider = build(GotifyProvider, settings, transport=scripted, now=lambda: NOW_S)
    assert isinstance(provider, GotifyProvider)
    return provider, scripted


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": address(), "title": "Ann", "body": "hello", **fields})


def message(provider: GotifyProvider, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(provider.encode(push(**fields), "").body)
    return found


# --- addresses ---


def test_an_address_is_a_server_and_an_applications_key() -> None:
    provider, _ = made()
    for url in ("https://push.example.org", "https://push.example.org/", "https://PUSH.example.org/gotify/"):
        kept = json.loads(provider.address("token", address(url)))
        assert kept == {"url": url.rstrip("/").replace("PUSH", "push"), "token": KEY}
    request = provider.encode(push(token=address("https://push.example.org/gotify/")), "")
    assert request.url == "https://push.example.org/gotify/message"
    assert request.headers == {"content-type": "application/json", "x-gotify-key": KEY}


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (KEY, "as JSON"),
        ("[]", "as JSON"),
        ("[" * 5000, "as JSON"),
        (json.dumps({"token": KEY}), "url must be the server's"),
        (address("https://push.example.org/?token=x"), "without a query"),
        (address(f"https://push.example.org/{'x' * 1000}"), "at most 1000"),
        (json.dumps({"url": "https://push.example.org"}), "token must be an application's"),
        (address(token="C7h2k"), "token must be an application's"),
        (address(token="A b"), "token must be an application's"),
        (address("http://push.example.org"), "https"),
        (address("https://192.168.1.7"), "names an address"),
        (address("https://u:p@push.example.org"), "user name"),
        (address("https://gotify.lan"), "Hosts named lan"),
        (address("https://other.example"), "not one that this account allows"),
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence(token: str, said: str) -> None:
    provider, _ = made(hosts=["example.org"])
    with pytest.raises(AddressInvalid) as caught:
        provider.address("token", token)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_server_at_home_is_for_the_operator_to_allow() -> None:
    provider, _ = made(exempt=["gotify.lan:80"])
    provider.address("token", address("http://gotify.lan"))
    with pytest.raises(SettingsInvalid, match="only the operator"):
        configured(GotifyProvider, {"exempt": ["gotify.lan:80"]}, trusted=False)


def test_an_address_that_the_settings_allow_no_more_is_neither_called_nor_dead() -> None:
    provider, scripted = made(hosts=["other.example"])
    outcome = asyncio.run(provider.send(push()))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.TOKEN)
    assert not scripted.requests


# --- the message ---


def test_the_message() -> None:
    provider, _ = made()
    assert message(
        provider,
        image="https://app.example/i.png",
        click="https://app.example/r/42",
        thread="room-42",
        collapse_key="room:42",
        data={"room": "42"},
        relay={"v": 1},
        ttl_s=60,
    ) == {
        "title": "Ann",
        "message": "hello",
        "priority": 8,
        "extras": {
            OWN: {
                "id": "m-1",
                "collapse_key": "room:42",
                "thread": "room-42",
                "expires_at": int(NOW_S) + 60,
                "data": {"room": "42"},
                "relay": {"v": 1},
            },
            "client::notification": {
                "click": {"url": "https://app.example/r/42"},
                "bigImageUrl": "https://app.example/i.png",
            },
        },
    }


@pytest.mark.parametrize(("click", "opens"), [("myapp://chat/9", True), ("OPEN", False), ("", False)])
def test_a_tap_opens_a_url_and_nothing_else(click: str, opens: bool) -> None:
    """others §2: `click` has a `url`."""
    provider, _ = made()
    assert ("client::notification" in message(provider, click=click)["extras"]) is opens


@pytest.mark.parametrize(
    ("fields", "title", "text", "priority"),
    [
        ({}, "Ann", "hello", 8),
        ({"urgent": False}, "Ann", "hello", 5),
        ({"body": None}, None, "Ann", 8),
        ({"title": None}, None, "hello", 8),
        ({"title": None, "body": None}, None, "New message", 0),
    ],
)
def test_words_and_priority(fields: dict[str, Any], title: str | None, text: str, priority: int) -> None:
    provider, _ = made()
    found = message(provider, **fields)
    assert (found.get("title"), found["message"], found["priority"]) == (title, text, priority)


def test_what_has_no_words_is_shown_all_the_same_and_the_capabilities_say_so() -> None:
    assert not GotifyProvider.capabilities.silent


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"appid": 1}, "'appid' may not be overridden"),
        ({"priority": 11}, "priority must be"),
        ({"message": None}, "message may not be taken away"),
        ({"extras": {"x": {}}}, "extras must be"),
        ({"extras": {OWN: {}}}, "extras must be"),
        ({"extras": {"client::display": 1}}, "extras must be"),
    ],
)
def test_overrides_are_checked(overrides: dict[str, Any], said: str) -> None:
    (mistake,) = GotifyProvider.check_overrides(overrides)
    assert said in mistake


def test_overrides_are_sent() -> None:
    own = {
        "android::action": {"onReceive": {"intentUrl": "x://y"}},
        "client::display": {"contentType": "text/markdown"},
    }
    overrides = {"priority": 2, "title": None, "extras": own}
    assert GotifyProvider.check_overrides(overrides) == []
    provider, _ = made()
    found = message(provider, overrides=overrides)
    assert found["priority"] == 2
    assert "title" not in found
    assert found["extras"].items() >= own.items()
    assert found["extras"][OWN]["id"] == "m-1"


# --- answers ---

REFUSED, RETRY, CONFIG = Verdict.REFUSED, Verdict.RETRY, Verdict.MISCONFIGURED
MESSAGE, TOKEN = Scope.MESSAGE, Scope.TOKEN


@pytest.mark.parametrize(
    ("response", "verdict", "scope", "retry_after_s"),
    [
        (error(400, "message is required"), REFUSED, MESSAGE, None),
        (error(400, "appid is required"), CONFIG, TOKEN, None),
        (error(401), CONFIG, TOKEN, None),
        (error(403), CONFIG, TOKEN, None),
        (error(404), CONFIG, TOKEN, None),
        (Response(status=413), Verdict.TOO_LARGE, MESSAGE, None),
        (Response(status=429), RETRY, TOKEN, 60),
        (Response(status=429, headers={"retry-after": "5"}), RETRY, TOKEN, 5),
        (error(500), RETRY, TOKEN, None),
        (Response(status=502, headers={"retry-after": "5"}), RETRY, TOKEN, 5),
        (Response(status=301), CONFIG, TOKEN, None),
        (Response(status=410), CONFIG, TOKEN, None),
    ],
)
def test_the_sheets_answers(response: Response, verdict: Verdict, scope: Scope, retry_after_s: float | None) -> None:
    provider, _ = made()
    outcome = provider.decode(response)
    assert (outcome.verdict, outcome.scope, outcome.retry_after_s) == (verdict, scope, retry_after_s)


def test_success_has_a_number() -> None:
    provider, _ = made()
    assert provider.decode(TAKEN) == Outcome(verdict=Verdict.ACCEPTED, vendor_id="7")
    for body in (b"", b"<html>", b'{"id":"7"}', b'{"id":true}'):
        outcome = provider.decode(Response(status=200, body=body))
        assert (outcome.verdict, outcome.scope, outcome.maybe_sent) == (RETRY, TOKEN, True)


def test_a_server_that_is_down_holds_nobody_else_back() -> None:
    def broken(_: Request) -> Response:
        raise TransportError(Reason.TIMEOUT, sent=True)

    provider = build(GotifyProvider, {}, transport=Scripted(broken), now=lambda: NOW_S)
    outcome = asyncio.run(provider.send(push()))
    assert (outcome.verdict, outcome.scope, outcome.maybe_sent) == (RETRY, TOKEN, True)
