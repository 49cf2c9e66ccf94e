"""The APNs adapter against the APNs emulator, over HTTP/2 and TLS. Neither knows the other's code; both know the sheet."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hasty import HELD_S
from meeting import Answered

from providers.apns import ApnsProvider
from providers.contract import Outcome, Push, Scope, Verdict
from providers.http import Request
from providers.http2 import Http2Transport, Limits
from providers.loading import configured
from providers.sandbox import Sandbox
from providers.sandbox.apns import ApnsEmulator
from providers.sandbox.apns_faults import APNS_FAULTS
from providers.sandbox.faults import Place

NOW = 1_800_000_000.0
ACCOUNT, TOKEN, MESSAGE = Scope.ACCOUNT, Scope.TOKEN, Scope.MESSAGE


REFUSED, PARKED = Answered(Verdict.REFUSED), Answered(Verdict.MISCONFIGURED, ACCOUNT)
DEAD, AGAIN = Answered(Verdict.TOKEN_DEAD, TOKEN), Answered(Verdict.RETRY)
UNKNOWN = Answered(Verdict.RETRY, maybe_sent=True)
# Sheet `apns` §7, row by row, and what a connection can do besides.
SHEET = {
    "badcollapseid": REFUSED,
    "baddevicetoken": DEAD,
    "badexpirationdate": REFUSED,
    "badmessageid": REFUSED,
    "badpriority": REFUSED,
    "badtopic": PARKED,
    "devicetokennotfortopic": DEAD,
    "duplicateheaders": REFUSED,
    "idletimeout": AGAIN,
    "invalidpushtype": REFUSED,
    "missingdevicetoken": REFUSED,
    "missingtopic": PARKED,
    "payloadempty": REFUSED,
    "topicdisallowed": PARKED,
    "badcertificate": PARKED,
    "badcertificateenvironment": PARKED,
    "expiredprovidertoken": PARKED,
    "forbidden": PARKED,
    "invalidprovidertoken": PARKED,
    "missingprovidertoken": PARKED,
    "unrelatedkeyidintoken": PARKED,
    "badenvironmentkeyidintoken": PARKED,
    "badenvironmentkeyintoken": PARKED,
    "badpath": REFUSED,
    "methodnotallowed": REFUSED,
    "expiredtoken": DEAD,
    "unregistered": DEAD,
    "payloadtoolarge": Answered(Verdict.TOO_LARGE),
    "toomanyprovidertokenupdates": Answered(Verdict.RETRY, ACCOUNT, 60.0),
    "toomanyrequests": Answered(Verdict.RETRY, TOKEN, 20.0),
    "throttled": Answered(Verdict.RETRY, TOKEN, 20.0),
    "internalservererror": AGAIN,
    "serviceunavailable": AGAIN,
    "unavailable": AGAIN,
    "shutdown": AGAIN,
    "revoked": PARKED,
    "unknown": REFUSED,
    "slow": UNKNOWN,
    "reset": UNKNOWN,
    "cut": UNKNOWN,
    "goaway": AGAIN,  # for ever, on each new connection: given up at last, and certainly not sent
    "refused": AGAIN,
    "garbage": Answered(Verdict.ACCEPTED),  # a 200 is a 200: Apple's has no body to look at
    "shrink": Answered(Verdict.ACCEPTED),
}


class Clock:
    now = NOW


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(now=lambda: clock.now, rng=random.Random(1), vendors=["apns"], slow_s=60)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def connected(apple: ApnsEmulator, clock: Clock, *, total_s: float = 10, certificate: bool = False) -> ApnsProvider:
    settings = apple.certificate_settings() if certificate else apple.settings()
    config = configured(ApnsProvider, settings)
    transport = ApnsProvider.own_transport(config)  # type: ignore[arg-type]
    transport.limits = Limits(total_s=total_s, connect_s=10)
    return ApnsProvider(config, transport=transport, now=lambda: clock.now)  # type: ignore[arg-type]


@pytest.fixture
async def apns(apple: ApnsEmulator, clock: Clock) -> AsyncIterator[ApnsProvider]:
    provider = connected(apple, clock)
    yield provider
    assert isinstance(provider.call, Http2Transport)
    await provider.call.aclose()


def push(apple: ApnsEmulator, phone: str, **fields: object) -> Push:
    return Push(**{"id": "p1", "token": apple.address(phone), "title": "Ann", "body": "hello", "ttl_s": 60, **fields})


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(
    apple: ApnsEmulator, apns: ApnsProvider, clock: Clock
) -> None:
    assert set(SHEET) == set(APNS_FAULTS[Place.SEND]), "a row of the emulator that this table does not know"
    found = {}
    for word in SHEET:
        assert (await apns.send(push(apple, "phone"))).verdict is Verdict.ACCEPTED  # topic and connection are good
        if word in {"slow", "goaway"}:
            hasty = connected(apple, clock, total_s=HELD_S)
            outcome = await hasty.send(push(apple, f"{word}-1"))
            assert isinstance(hasty.call, Http2Transport)
            await hasty.call.aclose()
        else:
            outcome = await apns.send(push(apple, f"{word}-1"))
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET
    for word, fault in APNS_FAULTS[Place.SEND].items():
        arrived = apple.host.phones.count(f"{word}-1") > 0
        assert arrived is fault.arrives, word
        if arrived:
            assert found[word].maybe_sent or found[word].verdict is Verdict.ACCEPTED, word


async def test_every_kind_of_push_arrives(apple: ApnsEmulator, apns: ApnsProvider) -> None:
    activity = {"payload": {"aps": {"content-state": {"score": 1}}}}
    outcomes = [
        await apns.send(push(apple, "a", badge=1, sound="s", channel="C", thread="t", image="https://x.example/i")),
        await apns.send(push(apple, "b", title=None, body=None)),
        await apns.send(push(apple, "c", title=None, body=None, badge=0)),
        await apns.send(push(apple, "d", kind="voip_sandbox", data={"x": "y" * 4500})),
        await apns.send(push(apple, "e", kind="liveactivity", overrides=activity)),
        await apns.send(push(apple, "f", title_loc_key="T", title_loc_args=["x"], collapse_key="é" * 100)),
        await apns.send(push(apple, "g", ttl_s=0, urgent=False)),
    ]
    assert [one.verdict for one in outcomes] == [Verdict.ACCEPTED] * 7
    kinds = {view["token"]: view["received"][0]["kind"] for view in apple.host.phones.view(phones_max=10)}  # type: ignore[index]
    assert kinds == {
        "a": "alert",
        "b": "background",
        "c": "alert",
        "d": "voip",
        "e": "liveactivity",
        "f": "alert",
        "g": "alert",
    }
    assert "dropped" not in apple.outcomes


async def test_by_certificate(apple: ApnsEmulator, clock: Clock) -> None:
    provider = connected(apple, clock, certificate=True)
    assert isinstance(provider.call, Http2Transport)
    async with provider.call:
        assert (await provider.send(push(apple, "a"))).verdict is Verdict.ACCEPTED
        apple.revoked = True
        outcome = await provider.send(push(apple, "a"))
        assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (
            Verdict.MISCONFIGURED,
            ACCOUNT,
            "BadCertificate",
        )


@pytest.mark.parametrize(("topics", "verdict"), [((), Verdict.MISCONFIGURED), (("", ".voip"), Verdict.ACCEPTED)])
async def test_calls_take_a_certificate_that_lists_them(
    apple: ApnsEmulator, clock: Clock, topics: tuple[str, ...], verdict: Verdict
) -> None:
    """Sheet §2.2; without, alerts go on."""
    settings = apple.certificate_settings([f"com.example.relay{suffix}" for suffix in topics])
    config = configured(ApnsProvider, settings)
    assert config.advice() == []
    async with ApnsProvider.own_transport(config) as transport:  # type: ignore[arg-type]
        provider = ApnsProvider(config, transport=transport, now=lambda: clock.now)  # type: ignore[arg-type]
        called = await provider.send(replace(push(apple, "a"), kind="voip"))
        assert (called.verdict, called.scope is Scope.ACCOUNT) == (verdict, False)
        assert (await provider.send(push(apple, "a"))).verdict is Verdict.ACCEPTED


async def test_a_certificate_for_another_app_is_told_of_before_the_first_push(apple: ApnsEmulator) -> None:
    settings = {**apple.certificate_settings(["com.example.relay"]), "topic": "com.example.later"}
    (said,) = configured(ApnsProvider, settings).advice()
    assert "does not list com.example.later" in said


async def test_a_dead_token_comes_with_apples_time(apple: ApnsEmulator, apns: ApnsProvider, clock: Clock) -> None:
    first = await apns.send(push(apple, "unregistered-1"))
    clock.now += 30
    assert (await apns.send(push(apple, "unregistered-1"))).dead_since_ms == first.dead_since_ms == int(NOW * 1000)


async def test_a_day_of_pushes_never_changes_tokens_too_often(
    apple: ApnsEmulator, apns: ApnsProvider, clock: Clock
) -> None:
    """Also not over connections that were opened late in a token's life (§10.2b)."""
    for n in range(24 * 6):
        clock.now += 600
        if n % 7 == 0:
            apple.goodbye("IdleTimeout")
        outcome = await apns.send(push(apple, f"phone-{n}"))
        assert outcome.verdict is Verdict.ACCEPTED, (n, outcome)


async def test_a_clock_that_is_wrong_is_the_operators_business(
    apple: ApnsEmulator, apns: ApnsProvider, clock: Clock
) -> None:
    config = configured(ApnsProvider, apple.settings())
    async with ApnsProvider.own_transport(config) as transport:  # type: ignore[arg-type]
        late = ApnsProvider(config, transport=transport, now=lambda: clock.now - 7200)  # type: ignore[arg-type]
        outcome = await late.send(push(apple, "phone"))
    assert (outcome.verdict, outcome.scope, outcome.vendor_code) == (
        Verdict.MISCONFIGURED,
        ACCOUNT,
        "ExpiredProviderToken",
    )


async def test_a_restart_of_apple_costs_nothing(apple: ApnsEmulator, apns: ApnsProvider) -> None:
    assert (await apns.send(push(apple, "a"))).verdict is Verdict.ACCEPTED
    port = int(apple.url.rpartition(":")[2])
    await apple.close()
    assert (await apns.send(push(apple, "a"))).verdict is Verdict.RETRY
    await apple.open("127.0.0.1", port)
    async with asyncio.timeout(10):
        while (await apns.send(push(apple, "a"))).verdict is not Verdict.ACCEPTED:
            pass


async def test_a_revoked_key_is_told_and_a_new_one_works(apple: ApnsEmulator, apns: ApnsProvider) -> None:
    assert (await apns.send(push(apple, "a"))).verdict is Verdict.ACCEPTED
    apple.revoke(key=True)
    outcome = await apns.send(push(apple, "a"))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, ACCOUNT)
    assert not outcome.maybe_sent
    apple.reset()
    assert (await apns.send(push(apple, "a"))).verdict is Verdict.ACCEPTED


async def test_an_app_that_the_team_gets_later_is_reached_as_soon_as_the_account_is_unparked(
    apple: ApnsEmulator, clock: Clock
) -> None:
    """Sheet §2.1: a connection knows the apps that there were at its first push, so it takes new ones."""
    config = configured(ApnsProvider, {**apple.settings(), "topic": "com.example.later"})
    async with ApnsProvider.own_transport(config) as transport:  # type: ignore[arg-type]
        provider = ApnsProvider(config, transport=transport, now=lambda: clock.now)  # type: ignore[arg-type]
        outcomes = await asyncio.gather(*(provider.send(push(apple, f"a{n}")) for n in range(20)))
        assert {(one.verdict, one.scope, one.vendor_code) for one in outcomes} == {
            (Verdict.MISCONFIGURED, ACCOUNT, "TopicDisallowed")
        }
        apple.bundles.add("com.example.later")
        assert (await provider.send(push(apple, "a"))).verdict is Verdict.ACCEPTED
        assert len(apple.state()["connections"]) == 1  # type: ignore[arg-type]


async def test_goodbyes_under_load_lose_and_double_nothing(apple: ApnsEmulator, apns: ApnsProvider) -> None:
    room = asyncio.Semaphore(100)
    sent: Counter[Verdict] = Counter()

    async def one(n: int) -> None:
        async with room:
            outcome: Outcome = await apns.send(replace(push(apple, f"phone-{n}"), id=f"p{n}"))
            sent[outcome.verdict] += 1
            if sum(sent.values()) % 60 == 0:
                apple.goodbye("Shutdown")

    await asyncio.gather(*(one(n) for n in range(900)))
    assert sent == {Verdict.ACCEPTED: 900}
    assert [apple.host.phones.count(f"phone-{n}") for n in range(900)] == [1] * 900


async def test_a_stream_limit_that_moves_is_followed(apple: ApnsEmulator, apns: ApnsProvider) -> None:
    await apns.send(push(apple, "a"))
    apple.allow_streams(1)
    outcomes = await asyncio.gather(*(apns.send(push(apple, f"b{n}")) for n in range(20)))
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}
    apple.allow_streams(500)
    outcomes = await asyncio.gather(*(apns.send(push(apple, f"c{n}")) for n in range(20)))
    assert {one.verdict for one in outcomes} == {Verdict.ACCEPTED}


async def test_a_body_beyond_all_limits_is_too_large(apple: ApnsEmulator, apns: ApnsProvider) -> None:
    ours = apns.encode(push(apple, "a"), (await apns.credential()).value)
    answer = await apns.call(Request(url=ours.url, headers=ours.headers, body=b"x" * 200_000))
    assert apns.decode(answer).verdict is Verdict.TOO_LARGE
