"""The FCM adapter against the FCM emulator, over real sockets. Neither knows the other's code; both know the sheet."""

import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import pytest

from providers import loading
from providers.contract import Outcome, Push, Scope, Verdict
from providers.fcm import FcmProvider
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.fcm_faults import FCM_FAULTS
from providers.transport import HttpTransport

NOW = 1_800_000_000.0
ACCOUNT, TOKEN, MESSAGE = Scope.ACCOUNT, Scope.TOKEN, Scope.MESSAGE


class Answered(NamedTuple):
    verdict: Verdict
    scope: Scope = MESSAGE
    retry_after_s: float | None = None
    maybe_sent: bool = False


# Sheet fcm.md §6, row by row, and what a network can do besides.
SHEET = {
    "unregistered": Answered(Verdict.TOKEN_DEAD, TOKEN),
    "badtoken": Answered(Verdict.TOKEN_DEAD, TOKEN),
    "badtokenfield": Answered(Verdict.TOKEN_DEAD, TOKEN),
    "mismatch": Answered(Verdict.TOKEN_DEAD, TOKEN),
    "packagename": Answered(Verdict.REFUSED),
    "badfield": Answered(Verdict.REFUSED),
    "toobig": Answered(Verdict.TOO_LARGE),
    "toobigfield": Answered(Verdict.TOO_LARGE),
    "badauth": Answered(Verdict.MISCONFIGURED, ACCOUNT),
    "revoked": Answered(Verdict.MISCONFIGURED, ACCOUNT),
    "thirdparty": Answered(Verdict.MISCONFIGURED, TOKEN),
    "apnsauth": Answered(Verdict.MISCONFIGURED, TOKEN),
    "forbidden": Answered(Verdict.MISCONFIGURED, ACCOUNT),
    "apidisabled": Answered(Verdict.MISCONFIGURED, ACCOUNT),
    "notfound": Answered(Verdict.MISCONFIGURED, ACCOUNT),
    "html404": Answered(Verdict.MISCONFIGURED, ACCOUNT),
    "quota": Answered(Verdict.RETRY, ACCOUNT, 30.0),
    "quotabare": Answered(Verdict.RETRY, ACCOUNT, 60.0),
    "devicequota": Answered(Verdict.RETRY, TOKEN, 60.0),
    "topicquota": Answered(Verdict.RETRY, ACCOUNT, 60.0),
    "overload": Answered(Verdict.RETRY, ACCOUNT, 60.0),
    "throttled": Answered(Verdict.RETRY, ACCOUNT, 60.0),
    "internal": Answered(Verdict.RETRY),
    "unspecified": Answered(Verdict.RETRY),
    "unavailable": Answered(Verdict.RETRY),
    "unavailableafter": Answered(Verdict.RETRY, MESSAGE, 30.0),
    "retryinfo": Answered(Verdict.RETRY, MESSAGE, 45.0),
    "gateway": Answered(Verdict.RETRY),
    "gatewaytimeout": Answered(Verdict.RETRY),
    "hugebody": Answered(Verdict.RETRY),
    "slow": Answered(Verdict.RETRY, maybe_sent=True),
    "reset": Answered(Verdict.RETRY, maybe_sent=True),
    "cut": Answered(Verdict.RETRY, maybe_sent=True),
    "garbage": Answered(Verdict.RETRY, maybe_sent=True),
    "empty": Answered(Verdict.RETRY, maybe_sent=True),
    "lost": Answered(Verdict.ACCEPTED),
}
# Where the key is exchanged for a bearer: nothing was sent, and no token of a device is ever at fault.
KEY_REFUSED = {"invalid_grant", "invalid_scope", "unauthorized_client", "html404"}


@pytest.fixture(scope="module")
def rng() -> random.Random:
    return random.Random(1)


@pytest.fixture
async def sandbox(rng: random.Random) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=lambda: NOW, rng=rng, slow_s=5)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def fcm(sandbox: Sandbox) -> AsyncIterator[FcmProvider]:
    async with HttpTransport(total_s=0.5, connect_s=0.5) as transport:
        settings = sandbox.account_settings()["settings"]
        provider = loading.build(FcmProvider, settings, transport=transport, now=lambda: NOW)
        assert isinstance(provider, FcmProvider)
        yield provider
        await provider.aclose()


def push(token: str) -> Push:
    return Push(id="p1", token=token, title="Ann", body="hello", ttl_s=60)


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(sandbox: Sandbox, fcm: FcmProvider) -> None:
    assert set(SHEET) == set(FCM_FAULTS[Place.SEND]), "a row of the emulator that this table does not know"
    found = {}
    for word in SHEET:
        outcome = await fcm.send(push(f"{word}-1"))
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET


async def test_nothing_that_may_have_arrived_is_called_undelivered(sandbox: Sandbox, fcm: FcmProvider) -> None:
    for word, fault in FCM_FAULTS[Place.SEND].items():
        outcome = await fcm.send(push(f"{word}-2"))
        if fault.arrives:
            assert outcome.maybe_sent or outcome.verdict is Verdict.ACCEPTED, word


@pytest.mark.parametrize("word", sorted(FCM_FAULTS[Place.TOKEN]))
async def test_without_a_bearer_nothing_is_sent(sandbox: Sandbox, fcm: FcmProvider, word: str) -> None:
    async with aiohttp.ClientSession(sandbox.url) as http:
        rule = {"fault": word, "on": "token"}
        async with http.post("/_control/faults", json=rule) as answer:
            assert answer.status < 300, await answer.text()
        outcome = await fcm.send(push("phone-1"))
        assert outcome.verdict is (Verdict.MISCONFIGURED if word in KEY_REFUSED else Verdict.RETRY), outcome
        assert not outcome.maybe_sent
        async with http.get("/_phones") as answer:
            assert not (await answer.json())["phones"]
        async with http.delete("/_control/faults"):
            pass
        assert (await fcm.send(push("phone-1"))).verdict is Verdict.ACCEPTED, "mended, it goes on by itself"


async def test_a_revoked_bearer_is_renewed_and_the_push_arrives(sandbox: Sandbox, fcm: FcmProvider) -> None:
    assert (await fcm.send(push("phone-1"))).verdict is Verdict.ACCEPTED
    async with (
        aiohttp.ClientSession(sandbox.url) as http,
        http.post("/_control/revoke", json={"what": "access_tokens"}) as answer,
    ):
        assert answer.status < 300
    second: Outcome = await fcm.send(push("phone-2"))
    assert second.verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "fields",
    [
        {"badge": 3},
        {"overrides": {"apns": {"payload": {"aps": {"alert": "hello"}}}}},
        {"overrides": {"notification": {"title": "Ann"}}},
    ],
)
async def test_an_iphone_gets_a_silent_push_that_shows_something(
    sandbox: Sandbox, fcm: FcmProvider, fields: dict[str, Any]
) -> None:
    """Apple drops a wake-up that does (sheet apns §4.1, §8)."""
    silent = Push(id="p1", token="ios-phone", ttl_s=60, **fields)
    assert (await fcm.send(silent)).verdict is Verdict.ACCEPTED
    async with aiohttp.ClientSession(sandbox.url) as http, http.get("/_phones") as answer:
        assert [phone["token"] for phone in (await answer.json())["phones"]] == ["ios-phone"]
