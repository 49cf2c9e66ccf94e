"""The UnifiedPush adapter against the emulated push servers, over real sockets. Neither knows the other's code."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import http_ece
import pytest
from hasty import Hasty
from meeting import Answered

from providers import loading
from providers.contract import Push, Scope, Verdict
from providers.sandbox import Sandbox
from providers.sandbox.faults import Place
from providers.sandbox.unifiedpush import KINDS, UnifiedPushEmulator
from providers.sandbox.webpush import WebPushEmulator
from providers.transport import HttpTransport
from providers.unifiedpush import UnifiedPushConfig, UnifiedPushProvider
from providers.webpush_crypto import base64url, from_base64, private_key

NOW = 1_800_000_000.0
TOKEN = Scope.TOKEN


DEAD = Answered(Verdict.TOKEN_DEAD, TOKEN)
REFUSED = Answered(Verdict.REFUSED)
CONFIG = Answered(Verdict.MISCONFIGURED, TOKEN)
RETRY = Answered(Verdict.RETRY, TOKEN)

# Sheet unifiedpush.md §5, row by row, and what a network can do besides.
SHEET = {
    "moved": REFUSED,
    "badrequest": REFUSED,
    "login": CONFIG,
    "forbidden": CONFIG,
    "notfound": DEAD,
    "unregistered": DEAD,
    "toobig": Answered(Verdict.TOO_LARGE),
    "throttled": Answered(Verdict.RETRY, TOKEN, 30),
    "throttledbare": Answered(Verdict.RETRY, TOKEN, 60),
    "internal": RETRY,
    "unavailable": RETRY,
    "nobody": Answered(Verdict.RETRY, TOKEN, 600),
    "ntfylogin": CONFIG,
    "ntfyforbidden": CONFIG,
    "ntfypath": DEAD,
    "ntfyrate": Answered(Verdict.RETRY, TOKEN, 60),
    "ntfyquota": Answered(Verdict.RETRY, TOKEN, 3600),
    "ntfyinternal": RETRY,
    "ntfynobody": Answered(Verdict.RETRY, TOKEN, 600),
    "slow": Answered(Verdict.RETRY, TOKEN, maybe_sent=True),
    "reset": Answered(Verdict.RETRY, TOKEN, maybe_sent=True),
    "cut": Answered(Verdict.RETRY, TOKEN, maybe_sent=True),
    "garbage": Answered(Verdict.ACCEPTED),  # any 2xx is a yes, whatever stands in it
}


class Town:
    def __init__(self, sandbox: Sandbox, transport: HttpTransport) -> None:
        self.sandbox = sandbox
        self.call = Hasty(transport)
        emulator = sandbox.emulators["unifiedpush"]
        assert isinstance(emulator, UnifiedPushEmulator)
        self.emulator = emulator

    def provider(self, **settings: Any) -> UnifiedPushProvider:
        own = {**self.emulator.settings(), **settings}
        made = loading.build(UnifiedPushProvider, own, transport=self.call, now=lambda: NOW)
        assert isinstance(made, UnifiedPushProvider)
        return made

    def push(self, phone: str, kind: str = "strict", *, signed: bool = False, **fields: Any) -> Push:
        token = self.emulator.registration(phone, kind, signed=signed)
        return Push(**{"id": "p1", "token": token, "title": "Ann", "body": "hello", "ttl_s": 60, **fields})

    def screen(self, phone: str) -> list[dict[str, Any]]:
        (found,) = self.sandbox.phones.view(token=phone, phones_max=1) or [{}]
        return list(found.get("shown", []))


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), slow_s=20, vendors=["unifiedpush"])
    await sandbox.start()
    config = loading.configured(UnifiedPushProvider, sandbox.emulators["unifiedpush"].settings())
    assert isinstance(config, UnifiedPushConfig)
    async with HttpTransport(guard=config.guard) as transport:
        yield Town(sandbox, transport)
    await sandbox.stop()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_is_shown_on_the_phone_whatever_the_server(town: Town, kind: str, signed: bool) -> None:
    provider = town.provider()
    for body in ("hello", "again"):
        outcome = await provider.send(town.push("anns-phone", kind, signed=signed, collapse_key="room:42", body=body))
        assert outcome.verdict is Verdict.ACCEPTED
    (shown,) = town.screen("anns-phone")
    assert (shown["title"], shown["body"]) == ("Ann", "again")
    assert town.emulator.unreadable == 0
    assert bool(outcome.vendor_id) == (kind == "ntfy")


@pytest.mark.parametrize(("service", "unsigned"), [("mozilla", "errno_109"), ("google", "status_401")])
async def test_a_distributor_before_a_browser_s_push_service_takes_what_is_signed(service: str, unsigned: str) -> None:
    """Sheet §6: Sunup's server is Mozilla's, that of an embedded distributor Google's; both want VAPID."""
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), vendors=["unifiedpush", "webpush"])
    await sandbox.start()
    async with HttpTransport() as transport:
        town, browsers = Town(sandbox, transport), sandbox.emulators["webpush"]
        assert isinstance(browsers, WebPushEmulator)
        given = json.loads(browsers.subscription("phone", service))
        for vapid, verdict in ((town.emulator.public_key, Verdict.ACCEPTED), (None, Verdict.MISCONFIGURED)):
            push = town.push("phone", token=json.dumps({**given, "vapid": vapid}))
            outcome = await town.provider().send(push)
            assert (outcome.verdict, outcome.scope is TOKEN) == (verdict, vapid is None)
            assert outcome.vendor_code == (unsigned if vapid is None else None)
            assert (outcome.vendor_id is None) == (vapid is None)
        assert len(town.screen("phone")) == 1
    await sandbox.stop()


async def test_every_way_to_fail_is_taken_as_the_sheet_wants_it(town: Town) -> None:
    words = town.emulator.known_faults[Place.SEND]
    assert set(SHEET) == set(words), "a row of the emulator that this table does not know"
    provider, found = town.provider(), {}
    for word in SHEET:
        outcome = await provider.send(town.push(f"{word}-1"))
        found[word] = Answered(outcome.verdict, outcome.scope, outcome.retry_after_s, outcome.maybe_sent)
    assert found == SHEET


async def test_what_ntfy_would_cut_is_not_sent(town: Town) -> None:
    provider = town.provider()
    assert (await provider.send(town.push("phone", "ntfy", body="x" * 3700))).verdict is Verdict.ACCEPTED
    assert (await provider.send(town.push("phone", "ntfy", body="x" * 4000))).verdict is Verdict.TOO_LARGE
    assert town.emulator.unreadable == 0
    assert len(town.screen("phone")) == 1


async def test_another_key_than_the_one_it_was_registered_with(town: Town) -> None:
    """The address names the key, so it is told here, before anything is sent."""
    other = town.provider(vapid_private_key=base64url(b"\x01" * 32))
    outcome = await other.send(town.push("phone", signed=True))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, TOKEN)
    assert town.emulator.outcomes.total() == 0


async def test_a_key_that_the_server_takes_no_more(town: Town) -> None:
    town.emulator.revoked = True
    outcome = await town.provider().send(town.push("phone", signed=True))
    assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, TOKEN)


async def test_discovery_is_not_asked_for_but_old_servers_answer_it(town: Town) -> None:
    async with aiohttp.ClientSession(town.sandbox.url) as http:
        for path, status in (("ntfy/x?up=1", 200), ("legacy/x", 200), ("ntfy/x", 404), ("strict/x", 404)):
            async with http.get(f"/unifiedpush/{path}") as answer:
                assert answer.status == status, path


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("strict/x", b"x", {"Content-Encoding": "aes128gcm"}, 400),
        ("strict/x", b"x", {"TTL": "60"}, 400),
        ("strict/x", b"", {"TTL": "60", "Content-Encoding": "aes128gcm"}, 400),
        ("strict/x", b"x", {"TTL": "60", "Content-Encoding": "aes128gcm", "Urgency": "soon"}, 400),
        ("strict/x", b"x", {"TTL": "60", "Content-Encoding": "aes128gcm", "Topic": "room:42"}, 400),
        ("strict/x", b"x", {"TTL": "60", "Content-Encoding": "aes128gcm", "Topic": "x" * 33}, 400),
        ("strict/x", b"x" * 4097, {"TTL": "60", "Content-Encoding": "aes128gcm"}, 413),
        ("strict/x", b"x", {"TTL": "60", "Content-Encoding": "aes128gcm", "Authorization": "Basic eA=="}, 401),
        ("strict/x", b"x", {"TTL": "60", "Content-Encoding": "aes128gcm"}, 201),
        ("ntfy/x?up=1", b"x" * 5000, {}, 200),
        ("ntfy/x?up=1", b"x", {"Authorization": "vapid t=a.b.c, k=x"}, 401),
        ("ntfy/x.y?up=1", b"x", {}, 400),
        ("legacy/x", b"", {}, 400),
        ("legacy/x", b"x" * 4097, {}, 413),
        ("other/x", b"x", {}, 404),
    ],
)
async def test_the_emulator_refuses_as_the_servers_do(
    town: Town, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with (
        aiohttp.ClientSession(town.sandbox.url) as http,
        http.post(f"/unifiedpush/{path}", data=body, headers=headers) as answer,
    ):
        assert answer.status == status


@pytest.mark.parametrize("kind", ["strict", "ntfy"])
async def test_what_the_app_s_own_server_encrypted_is_read_by_the_app(town: Town, kind: str) -> None:
    phone = json.loads(town.emulator.registration("anns-phone", kind))["keys"]
    body = http_ece.encrypt(
        b'{"id":"x","title":"from elsewhere"}',
        private_key=private_key(base64url(b"\x02" * 32)),
        dh=from_base64(phone["p256dh"]),
        auth_secret=from_base64(phone["auth"]),
    )
    ready = {"ciphertext": base64url(body), "urgency": "high"}
    outcome = await town.provider().send(town.push("anns-phone", kind, overrides=ready))
    assert outcome.verdict is Verdict.ACCEPTED
    assert [shown["title"] for shown in town.screen("anns-phone")] == ["from elsewhere"]
