"""The Web Push adapter against the push services' emulator, over real sockets. Neither knows the other's code.

The four services are called by their own names, as the adapter's quirks go by name; a resolver leads all of them here.
And a third party's word: pywebpush is taken by the emulator as the adapter is.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from hasty import Hasty
from meeting import Answered
from pywebpush import WebPushException, webpush

from providers import loading
from providers.contract import Push, Scope, Verdict
from providers.guard import TargetRefused
from providers.http import Request, TransportError
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.webpush import WebPushEmulator
from providers.sandbox.webpush_services import WEBPUSH_FAULTS
from providers.transport import HttpTransport
from providers.webpush import WebPushConfig, WebPushProvider
from providers.webpush_crypto import base64url

NOW = 1_800_000_000.0
HOSTS = {
    "mozilla": "updates.push.services.mozilla.com",
    "google": "fcm.googleapis.com",
    "microsoft": "wns2-par02p.notify.windows.com",
    "apple": "web.push.apple.com",
}
MESSAGE, TOKEN = Scope.MESSAGE, Scope.TOKEN


DEAD = Answered(Verdict.TOKEN_DEAD, TOKEN)
REFUSED = Answered(Verdict.REFUSED)
LARGE = Answered(Verdict.TOO_LARGE)
CONFIG = Answered(Verdict.MISCONFIGURED, TOKEN)
RETRY = Answered(Verdict.RETRY, TOKEN)

# Sheet webpush.md §5 and §6, row by row, and what a network can do besides.
SHEET = {
    "away": Answered(Verdict.ACCEPTED),
    "moved": REFUSED,
    "badrequest": REFUSED,
    "unsigned": CONFIG,
    "forbidden": CONFIG,
    "notfound": DEAD,
    "timeout": RETRY,
    "unregistered": DEAD,
    "toobig": LARGE,
    "early": RETRY,
    "throttled": Answered(Verdict.RETRY, TOKEN, 30),
    "throttledbare": Answered(Verdict.RETRY, TOKEN, 60),
    "internal": RETRY,
    "unavailable": Answered(Verdict.RETRY, TOKEN, 120),
    "storage": RETRY,
    "mozcrypto": REFUSED,
    **dict.fromkeys(("mozheaders", "mozttl", "mozttlbad", "mozttlnegative", "moztopic", "mozrouter"), REFUSED),
    "mozvapid": CONFIG,
    "mozunknown": DEAD,
    "mozgone": DEAD,
    "mozgoing": DEAD,
    "mozunsubscribed": DEAD,
    "moztoobig": LARGE,
    "mozbug": RETRY,
    "mozbugbare": RETRY,
    **{f"mozbridge{errno}": RETRY for errno in (900, 901, 902, 903)},
    "mozbackoff": Answered(Verdict.RETRY, TOKEN, 120),
    "mozagain": Answered(Verdict.RETRY, TOKEN, 120),
    "mozbusy": Answered(Verdict.RETRY, TOKEN, 120),
    "googlettl": REFUSED,
    "googlevapid": CONFIG,
    "googlekey": DEAD,
    "googlegone": DEAD,
    "wnsttl": REFUSED,
    "wnsthrottled": Answered(Verdict.RETRY, TOKEN, 90),
    "wnsslow": RETRY,
    "wnsdropped": REFUSED,
    "wnsexpired": DEAD,
    "wnsblocked": CONFIG,
    "applettl": REFUSED,
    "appleurgency": REFUSED,
    "appletopic": REFUSED,
    "applerequest": REFUSED,
    "applekey": DEAD,
    "applejwt": CONFIG,
    "appleheader": CONFIG,
    "applepublic": CONFIG,
    "appleidle": RETRY,
    "applegone": DEAD,
    "appletoobig": LARGE,
    "applethrottled": Answered(Verdict.RETRY, TOKEN, 60),
    "appleinternal": RETRY,
    "appleshutdown": RETRY,
    "appleunavailable": RETRY,
    "applepath": REFUSED,
    "applemethod": REFUSED,
    "slow": Answered(Verdict.RETRY, TOKEN, maybe_sent=True),
    "reset": Answered(Verdict.RETRY, TOKEN, maybe_sent=True),
    "cut": Answered(Verdict.RETRY, TOKEN, maybe_sent=True),
    "garbage": Answered(Verdict.ACCEPTED),  # any 2xx is a yes, whatever stands in it
}


class Town:
    """The sandbox, and the way there."""

    def __init__(self, sandbox: Sandbox, transport: HttpTransport, now: list[float]) -> None:
        self.sandbox = sandbox
        self.call = Hasty(transport)
        self.now = now
        emulator = sandbox.emulators["webpush"]
        assert isinstance(emulator, WebPushEmulator)
        self.emulator = emulator
        self.port = int(sandbox.url.rpartition(":")[2])

    def provider(self, **settings: Any) -> WebPushProvider:
        own = {**self.emulator.settings(), "exempt": [f"{host}:{self.port}" for host in HOSTS.values()]}
        made = loading.build(WebPushProvider, {**own, **settings}, transport=self.call, now=lambda: self.now[0])
        assert isinstance(made, WebPushProvider)
        return made

    def push(self, browser: str, service: str = "google", **fields: Any) -> Push:
        token = self.emulator.subscription(browser, service, origin=f"http://{HOSTS[service]}:{self.port}")
        return Push(**{"id": "p1", "token": token, "title": "Ann", "body": "hello", "ttl_s": 60, **fields})

    def screen(self, browser: str) -> list[dict[str, Any]]:
        (phone,) = self.sandbox.phones.view(token=browser, phones_max=1) or [{}]
        return list(phone.get("shown", []))


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    now = [NOW]
    sandbox = Sandbox(now=lambda: now[0], rng=random.Random(1), slow_s=20, vendors=["webpush"])
    await sandbox.start()
    port = int(sandbox.url.rpartition(":")[2])

    async def here(_: str, __: int) -> list[str]:
        return ["127.0.0.1"]

    config = loading.configured(
        WebPushProvider,
        {**sandbox.emulators["webpush"].settings(), "exempt": [f"{host}:{port}" for host in HOSTS.values()]},
    )
    assert isinstance(config, WebPushConfig)
    async with HttpTransport(guard=config.guard, resolve=here) as transport:
        yield Town(sandbox, transport, now)
    await sandbox.stop()


@pytest.mark.parametrize("service", HOSTS)
async def test_a_message_is_shown_in_the_browser(town: Town, service: str) -> None:
    provider = town.provider()
    outcome = await provider.send(town.push("anns-laptop", service, collapse_key="room:42", badge=3))
    assert outcome.verdict is Verdict.ACCEPTED
    assert outcome.vendor_id
    (shown,) = town.screen("anns-laptop")
    assert (shown["title"], shown["body"], shown["badge"], shown["priority"]) == ("Ann", "hello", 3, "high")
    await provider.send(town.push("anns-laptop", service, collapse_key="room:42", body="again"))
    (shown,) = town.screen("anns-laptop")
    assert shown["body"] == "again"
    assert town.emulator.unreadable == 0


async def test_on_the_screen_the_tag_replaces_and_not_the_topic(town: Town) -> None:
    """§4: a topic is about what was not delivered yet."""
    provider = town.provider()
    for body in ("one", "two"):
        await provider.send(town.push("anns-laptop", "google", overrides={"topic": "newEvent"}, body=body))
    assert sorted(shown["body"] for shown in town.screen("anns-laptop")) == ["one", "two"]


@pytest.mark.parametrize("service", HOSTS)
@pytest.mark.parametrize("fields", [{"ttl_s": 0}, {"ttl_s": 1e9}, {"urgent": False}, {"collapse_key": "new_event"}])
async def test_every_service_takes_every_sort_of_push(town: Town, service: str, fields: dict[str, Any]) -> None:
    outcome = await town.provider().send(town.push("laptop", service, **fields))
    assert outcome.verdict is Verdict.ACCEPTED


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(town: Town) -> None:
    assert set(SHEET) == set(WEBPUSH_FAULTS[Place.SEND]), "a row of the emulator that this table does not know"
    provider, found = town.provider(), {}
    for word in SHEET:
        outcome = await provider.send(town.push(f"{word}-1"))
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET


async def test_nothing_that_may_have_arrived_is_called_undelivered(town: Town) -> None:
    for word, fault in WEBPUSH_FAULTS[Place.SEND].items():
        if fault.arrives:
            outcome = await town.provider().send(town.push(f"{word}-2"))
            assert outcome.maybe_sent or outcome.verdict is Verdict.ACCEPTED, word


@pytest.mark.parametrize("service", HOSTS)
async def test_a_subscription_of_another_key_is_nobody_elses_trouble(town: Town, service: str) -> None:
    other = town.provider(vapid_private_key=base64url(b"\x01" * 32))
    outcome = await other.send(town.push("laptop", service))
    assert outcome.scope is TOKEN
    # Google and Apple say plainly that the keys differ; Mozilla says so of every bad signature.
    dead = service in {"google", "apple"}
    assert outcome.verdict is (Verdict.TOKEN_DEAD if dead else Verdict.MISCONFIGURED)


@pytest.mark.parametrize("service", HOSTS)
async def test_a_new_key_costs_no_subscription_while_the_old_one_is_kept(town: Town, service: str) -> None:
    """Though none of them says which key it was made with."""
    old = town.emulator.settings()["vapid_private_key"]
    others = [base64url(bytes([n]) * 32) for n in (1, 2)]
    provider = town.provider(vapid_private_key=others[0], vapid_old_private_keys=[others[1], old])
    assert (await provider.send(town.push("laptop", service))).verdict is Verdict.ACCEPTED
    assert len(town.screen("laptop")) == 1


async def test_a_clock_that_is_wrong_by_a_day_is_refused_and_mends_itself(town: Town) -> None:
    provider = town.provider()
    provider.now = lambda: NOW - 86_400
    assert (await provider.send(town.push("laptop"))).verdict is Verdict.MISCONFIGURED
    provider.now = lambda: NOW
    assert (await provider.send(town.push("laptop"))).verdict is Verdict.ACCEPTED


async def test_firefox_for_android_takes_what_was_made_leaner_for_it(town: Town) -> None:
    provider = town.provider()
    relay = {"v": 1, "ids": [f"m-{n:060}" for n in range(30)]}
    outcome = await provider.send(town.push("android-anns", "mozilla", body="x" * 1500, relay=relay))
    assert outcome.verdict is Verdict.ACCEPTED
    outcome = await provider.send(town.push("android-anns", "mozilla", body="x" * 3000))
    assert outcome.verdict is Verdict.TOO_LARGE
    assert (await provider.send(town.push("laptop", "mozilla", body="x" * 3000))).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(("browser", "days"), [("laptop", 30), ("android-anns", 28)])
async def test_mozilla_shortens_a_life_and_says_so(town: Town, browser: str, days: int) -> None:
    request = town.provider().encode(town.push(browser, "mozilla"), "")
    answer = await town.call(replace(request, headers={**request.headers, "TTL": "9999999"}))
    assert (answer.status, answer.header("ttl")) == (201, str(days * 86_400))


async def test_an_endpoint_at_an_address_inside_is_not_called(town: Town) -> None:
    """Only what is exempted is: here, a port that is not."""
    provider = town.provider(exempt=[f"{HOSTS['google']}:{town.port}"])
    outcome = await provider.send(town.push("laptop", "apple"))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, TOKEN)
    assert town.emulator.outcomes.total() == 0


async def test_pywebpush_is_taken_by_the_emulator_and_says_the_same(town: Town) -> None:
    subscription = json.loads(town.emulator.subscription("laptop"))
    settings = town.emulator.settings()

    def send(**changed: Any) -> int:
        arguments = {
            "subscription_info": subscription,
            "data": json.dumps({"title": "Ann", "body": "from pywebpush"}),
            "vapid_private_key": settings["vapid_private_key"],
            "vapid_claims": {"sub": "mailto:sandbox@relay.example", "exp": int(NOW) + 3600},
            "ttl": 60,
            "timeout": 5,
            **changed,
        }
        try:
            return int(webpush(**arguments).status_code)
        except WebPushException as error:
            return int(error.status_code or 0)

    assert await asyncio.to_thread(send) == 201
    (shown,) = town.screen("laptop")
    assert (shown["title"], shown["body"]) == ("Ann", "from pywebpush")
    assert await asyncio.to_thread(send, vapid_private_key=base64url(b"\x01" * 32)) == 403
    late = {"sub": "mailto:sandbox@relay.example", "exp": int(NOW) + 86_401}
    assert await asyncio.to_thread(send, vapid_claims=late) == 400
    microsoft = json.loads(town.emulator.subscription("laptop", "microsoft"))
    assert await asyncio.to_thread(send, subscription_info=microsoft, ttl=0) == 400, "as in pywebpush's issue 162"


BASE = {"TTL": "60", "Content-Encoding": "aes128gcm", "Urgency": "high"}


@pytest.mark.parametrize(
    ("service", "changed", "status", "said"),
    [
        ("mozilla", {"TTL": None}, 400, '"errno":111'),
        ("mozilla", {"TTL": "-1"}, 400, '"errno":114'),
        ("mozilla", {"Topic": "a b"}, 400, '"errno":113'),
        ("mozilla", {"Topic": "x" * 33}, 400, '"errno":113'),
        ("mozilla", {"Topic": "YWI="}, 401, '"errno":109'),
        ("google", {"Topic": "YWI="}, 400, "Topic"),
        ("mozilla", {"Crypto-Key": "dh=x"}, 400, '"errno":110'),
        ("mozilla", {"Urgency": "soon"}, 401, '"errno":109'),  # it does not look at Urgency
        ("mozilla", {}, 401, '"errno":109'),
        ("google", {"TTL": None}, 400, "InvalidTtlParameter"),
        ("google", {"TTL": "2419201"}, 400, "InvalidTtlParameter"),
        ("mozilla", {"TTL": "9999999"}, 401, '"errno":109'),
        ("google", {}, 401, "authorization header must be specified"),
        ("google", {"Authorization": "vapid t=a.b.c, k=x"}, 400, "UnauthorizedRegistration"),
        ("google", {"Authorization": "WebPush x"}, 400, "UnauthorizedRegistration"),
        ("google", {"Urgency": "soon"}, 400, "Urgency"),
        ("microsoft", {"TTL": "0"}, 400, ""),
        ("microsoft", {"TTL": "0", "X-WNS-Cache-Policy": "cache"}, 400, ""),
        ("microsoft", {"TTL": "0", "X-WNS-Cache-Policy": "no-cache"}, 401, ""),
        ("microsoft", {"X-WNS-Cache-Policy": "no-cache"}, 400, ""),
        ("apple", {"Urgency": "soon"}, 400, "BadUrgency"),
        ("apple", {"Topic": "new_event"}, 400, "BadWebPushTopic"),
        ("apple", {"Topic": "newEvent"}, 403, "BadAuthorizationHeader"),
        ("apple", {"Content-Encoding": "aesgcm"}, 400, "BadWebPushRequest"),
        ("apple", {"Authorization": "vapid k=x"}, 403, "BadJwtToken"),
        ("opera", {}, 404, ""),
    ],
)
async def test_the_emulator_refuses_as_the_service_does(
    town: Town, service: str, changed: dict[str, str | None], status: int, said: str
) -> None:
    prefix = {"mozilla": "wpush/v2", "google": "fcm/send", "microsoft": "w", "apple": "q"}.get(service, "w")
    headers = {name: value for name, value in {**BASE, **changed}.items() if value is not None}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{town.sandbox.url}/webpush/{service}/{prefix}/laptop", data=b"x", headers=headers) as answer,
    ):
        assert (answer.status, said in await answer.text()) == (status, True)


async def test_a_safari_that_is_told_something_in_silence_is_lost_and_the_adapter_never_does_that(town: Town) -> None:
    """Sheet §6.4: every push must show a notification, or Safari revokes the permission."""
    provider = town.provider()
    for _ in range(2):
        silent = town.push("anns-iphone", "apple", title=None, body=None, data={"n": "1"})
        assert (await provider.send(silent)).verdict is Verdict.ACCEPTED
    spoken = provider.encode(town.push("bobs-iphone", "apple"), "")
    silent_body = provider.encode(town.push("bobs-iphone", "google", title=None, body=None), "").body
    assert (await town.call(replace(spoken, body=silent_body))).status == 201
    assert (await provider.send(town.push("bobs-iphone", "apple"))).verdict is Verdict.TOKEN_DEAD


async def test_a_message_that_no_browser_could_read_is_shown_nowhere(town: Town) -> None:
    provider = town.provider()
    request = provider.encode(town.push("laptop"), "")
    for body in (
        b"short",
        request.body[:-1] + bytes([request.body[-1] ^ 1]),
        bytes([*request.body[:21], *(b"\4" * 65)]) + request.body[86:],
    ):
        assert (await town.call(replace(request, body=body))).status == 201
    assert town.emulator.unreadable == 3
    assert not town.screen("laptop")


async def test_the_transport_itself_refuses_what_the_guard_does(town: Town) -> None:
    for url in ("http://127.0.0.1:1/x", "https://localhost/x"):
        with pytest.raises((TargetRefused, TransportError)):
            await town.call(Request(url=url))
