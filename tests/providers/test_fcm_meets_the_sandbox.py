"""The FCM adapter against the FCM emulator, over HTTP/2 as in production, and over HTTP/1.1 at the same port. Neither knows
the other's code; both know the sheet."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hasty import Hasty
from meeting import Answered

from providers import loading
from providers.contract import Outcome, Push, Scope, Verdict
from providers.fcm import FcmConfig, FcmProvider
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.fcm_faults import FCM_FAULTS
from providers.transport import HttpTransport

NOW = 1_800_000_000.0
ACCOUNT, TOKEN, MESSAGE = Scope.ACCOUNT, Scope.TOKEN, Scope.MESSAGE


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
    "goaway": Answered(Verdict.RETRY),  # for ever, on each new connection: given up at last, and certainly not sent
}
HTTP1_SAYS_LESS = {"goaway": Answered(Verdict.RETRY, maybe_sent=True)}
# Where the key is exchanged for a bearer: nothing was sent, and no token of a device is ever at fault.
KEY_REFUSED = {"invalid_grant", "invalid_scope", "unauthorized_client", "html404"}


@pytest.fixture
async def sandbox(state_dir: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), state_dir=state_dir, slow_s=20, tls=True)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture(params=[True, False], ids=["HTTP/2", "HTTP/1.1"])
def http2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def connected(sandbox: Sandbox, *, http2: bool = True, hurried: bool = False) -> AsyncIterator[FcmProvider]:
    """The adapter with the account that the sandbox prints, on the transport that it makes itself."""
    config = loading.configured(
        FcmProvider, sandbox.account_settings()["settings"] | ({} if http2 else {"http2": False})
    )
    assert isinstance(config, FcmConfig)
    transport = FcmProvider.own_transport(config)
    assert isinstance(transport, HttpTransport) is not http2
    async with transport:
        provider = FcmProvider(config, transport=Hasty(transport, hurried=hurried), now=lambda: NOW)
        yield provider
        await provider.aclose()


@pytest.fixture
async def fcm(sandbox: Sandbox, http2: bool) -> AsyncIterator[FcmProvider]:
    async with connected(sandbox, http2=http2) as provider:
        yield provider


def push(token: str) -> Push:
    return Push(id="p1", token=token, title="Ann", body="hello", ttl_s=60)


async def failed(sandbox: Sandbox, fcm: FcmProvider, word: str, *, http2: bool) -> Outcome:
    """What becomes of a push that this befalls."""
    if word != "goaway":
        return await fcm.send(push(f"{word}-1"))
    async with connected(sandbox, http2=http2, hurried=True) as other:  # it is cautious with new connections afterwards
        return await other.send(push(f"{word}-1"))


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(
    sandbox: Sandbox, fcm: FcmProvider, http2: bool
) -> None:
    assert set(SHEET) == set(FCM_FAULTS[Place.SEND]), "a row of the emulator that this table does not know"
    found = {}
    for word in SHEET:
        outcome = await failed(sandbox, fcm, word, http2=http2)
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET | ({} if http2 else HTTP1_SAYS_LESS)


async def test_nothing_that_may_have_arrived_is_called_undelivered(
    sandbox: Sandbox, fcm: FcmProvider, http2: bool
) -> None:
    for word, fault in FCM_FAULTS[Place.SEND].items():
        outcome = await failed(sandbox, fcm, word, http2=http2)
        arrived = sandbox.phones.count(f"{word}-1") > 0
        assert arrived is fault.arrives, word
        if arrived:
            assert outcome.maybe_sent or outcome.verdict is Verdict.ACCEPTED, word


async def test_goodbyes_under_load_lose_and_double_nothing(sandbox: Sandbox) -> None:
    """Google's front ends end connections regularly (sheet fcm §7); each of these befalls one push in thirty, once."""
    room = asyncio.Semaphore(80)
    tokens = [f"{'goaway1' if n % 30 == 29 else 'phone'}-{n}" for n in range(600)]

    async def one(fcm: FcmProvider, token: str) -> Verdict:
        async with room:
            return (await fcm.send(push(token))).verdict

    async with connected(sandbox) as fcm:
        verdicts = await asyncio.gather(*(one(fcm, token) for token in tokens))
    assert set(verdicts) == {Verdict.ACCEPTED}
    assert {token: sandbox.phones.count(token) for token in tokens} == dict.fromkeys(tokens, 1)
    assert sandbox.emulators["fcm"].outcomes["goaway"] == 20


@pytest.mark.parametrize("word", sorted(FCM_FAULTS[Place.TOKEN]))
async def test_without_a_bearer_nothing_is_sent(sandbox: Sandbox, http2: bool, word: str) -> None:
    hurried = word in {"slow", "goaway"}
    async with connected(sandbox, http2=http2, hurried=hurried) as fcm, aiohttp.ClientSession(sandbox.url) as http:
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
        async with asyncio.timeout(10):  # mended, it goes on by itself
            while (await fcm.send(push("phone-1"))).verdict is not Verdict.ACCEPTED:
                assert word == "goaway", "after which it is cautious with new connections for a while"


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
