"""The sandbox as a host of many vendors: what every emulator brings, and what the host does with it."""

import asyncio
import random
import ssl
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
import pytest
from aiohttp import web

from providers import loading
from providers.sandbox import Sandbox, registry
from providers.sandbox.authority import Authority
from providers.sandbox.checks import Json
from providers.sandbox.emulator import (
    COMMON_FAULTS,
    NETWORK_FAULTS,
    REQUIRED_FAULTS,
    Emulator,
    json_answer,
)
from providers.sandbox.faults import Fault, Place

NOW = 1_800_000_000.0
KEY = "acme-key"


class AcmeEmulator(Emulator):
    """The invented vendor of the module's own example, with a TLS listener besides."""

    name = "acme"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {
        Place.SEND: {
            **NETWORK_FAULTS,
            "unregistered": Fault(meaning="404", answer=json_answer(404, {"error": "gone"})),
            "unavailable": Fault(meaning="503", answer=json_answer(503, {}, retry_after="7")),
        }
    }
    runner: web.AppRunner | None = None
    port = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/acme/messages", self.send)]

    def settings(self) -> Json:
        return {"key": KEY, "base_url": self.url, "limits": {"day": 5, "hosts": ["a", "b"], "strict": True}}

    async def open(self, host: str, port: int) -> None:
        app = web.Application()
        app.add_routes(self.routes())
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, host, port, ssl_context=self.host.authority.server_context())
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def close(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()

    async def send(self, request: web.Request) -> web.StreamResponse:
        if self.revoked or request.headers.get("Authorization") != f"Bearer {KEY}":
            return self.refuse(json_answer(401, {"error": "auth"}))
        message = await request.json()
        return await self.reply(request, message["to"], lambda: self.taken(message), json_answer(200, {"id": "1"}))

    def taken(self, message: Json) -> None:
        self.deliver(str(message["to"]), title=str(message["title"]), collapse="c", name="m-1", message=message)


@pytest.fixture(autouse=True)
def _acme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.OURS, "acme", f"{__name__}:AcmeEmulator")


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(
        now=lambda: NOW, rng=random.Random(1), vendors=("acme", "fcm"), state_dir=tmp_path / "state", slow_s=0.05
    )
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def http(sandbox: Sandbox) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sandbox.url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        yield http


async def send(http: aiohttp.ClientSession, to: str, title: str = "Hi") -> int:
    async with http.post("/acme/messages", json={"to": to, "title": title}) as answer:
        return answer.status


async def control(http: aiohttp.ClientSession, path: str, **order: Any) -> int:
    async with http.post(f"/_control/{path}", json=order) as answer:
        return answer.status


async def state(http: aiohttp.ClientSession) -> Any:
    async with http.get("/_control/state") as answer:
        return await answer.json()


async def test_one_page_shows_the_phones_of_all_vendors(http: aiohttp.ClientSession) -> None:
    assert await send(http, "a") == 200
    async with http.get("/_phones") as answer:
        (phone,) = (await answer.json())["phones"]
    assert (phone["token"], phone["shown"][0]["vendor"], phone["shown"][0]["title"]) == ("a", "acme", "Hi")


async def test_each_vendor_has_its_own_state(http: aiohttp.ClientSession) -> None:
    await send(http, "a")
    found = await state(http)
    assert found["acme"]["requests"] == [{"at": NOW, "target": "a", "outcome": "accepted"}]
    assert found["fcm"]["requests"] == []


@pytest.mark.parametrize(("token", "status"), [("unregistered-1", 404), ("unavailable-1", 503), ("slow-1", 200)])
async def test_a_token_that_begins_with_a_common_word_fails_so(
    http: aiohttp.ClientSession, token: str, status: int
) -> None:
    assert await send(http, token) == status


@pytest.mark.parametrize(("word", "arrived"), [("reset", True), ("cut", False)])
async def test_a_reset_comes_before_or_after_the_message_was_taken(
    sandbox: Sandbox, http: aiohttp.ClientSession, word: str, arrived: bool
) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        await send(http, f"{word}-1")
    assert sandbox.phones.count(f"{word}-1") == arrived


async def test_a_fault_ordered_for_one_vendor_leaves_the_others_alone(http: aiohttp.ClientSession) -> None:
    assert await control(http, "faults", vendor="fcm", all=True, fault="unavailable") == 201
    assert await send(http, "a") == 200
    assert await control(http, "faults", vendor="acme", all=True, fault="unavailable") == 201
    assert await send(http, "a") == 503
    assert await control(http, "reset") == 204
    assert await send(http, "a") == 200


async def test_an_order_for_an_unknown_vendor_says_which_there_are(http: aiohttp.ClientSession) -> None:
    async with http.post("/_control/revoke", json={"vendor": "nobody"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"] == "No such vendor here; there are: acme, fcm."
    async with http.get("/_control/faults", params={"vendor": "nobody"}) as answer:
        assert answer.status == 400


async def test_a_revoked_credential_is_refused_until_the_reset(http: aiohttp.ClientSession) -> None:
    assert await control(http, "revoke", vendor="acme") == 204
    assert await send(http, "a") == 401
    assert (await state(http))["acme"]["key_deleted"] is True
    await control(http, "reset")
    assert await send(http, "a") == 200


async def test_settings_of_any_shape_fit_into_the_configuration_file(sandbox: Sandbox) -> None:
    table = tomllib.loads(sandbox.account_toml("acme-1", "acme"))["accounts"]["acme-1"]
    assert table == {"provider": "acme", **sandbox.account_settings("acme")["settings"]}


async def test_a_listener_of_ones_own_is_trusted_by_the_sandbox_s_authority_alone(sandbox: Sandbox) -> None:
    acme = sandbox.emulators["acme"]
    assert isinstance(acme, AcmeEmulator)
    url = f"https://127.0.0.1:{acme.port}/acme/messages"
    async with aiohttp.ClientSession() as http:
        async with http.post(url, json={}, ssl=acme.host.authority.client_context()) as answer:
            assert answer.status == 401
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.post(url, json={})


async def test_a_restart_finds_the_own_listener_at_the_port_after_the_sandbox_s(sandbox: Sandbox) -> None:
    acme = sandbox.emulators["acme"]
    assert isinstance(acme, AcmeEmulator)
    await sandbox.stop()
    port = 0
    for port in range(20_000, 20_200, 2):  # another program may have one of the two
        with suppress(OSError):
            await sandbox.start(port=port)
            break
    assert acme.port == port + 1
    await sandbox.stop()
    await sandbox.start(port=port)  # only the sandbox's own listener may be in the way
    assert acme.port == port + 1


async def test_a_withdrawn_notification_leaves_the_screen_but_not_the_history(
    sandbox: Sandbox, http: aiohttp.ClientSession
) -> None:
    for name, key in (("by its name", "m-1"), ("by its collapse key", "c")):
        await send(http, name)
        assert sandbox.phones.withdraw(name, key)
        (phone,) = sandbox.phones.view(token=name, phones_max=1)
        assert (phone["shown"], len(phone["received"])) == ([], 1)  # type: ignore[arg-type]
        assert not sandbox.phones.withdraw(name, key)
    assert not sandbox.phones.withdraw("nobody", "c")


def test_a_kept_authority_is_the_same_after_a_restart_and_a_spoilt_one_is_named(tmp_path: Path) -> None:
    first = Authority.open(tmp_path)
    assert Authority.open(tmp_path).pem == first.pem
    assert first.file is not None
    first.file.write_text("nonsense")
    with pytest.raises(ValueError, match=r"ca\.pem does not hold"):
        Authority.open(tmp_path)
    assert isinstance(first.client_context(), ssl.SSLContext)


def test_an_unknown_vendor_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no emulator 'nobody'; there are: .*fcm"):
        Sandbox(now=lambda: NOW, rng=random.Random(1), vendors=("nobody",))


class Unnamed(AcmeEmulator):
    """Copied, and not renamed."""


class Unfinished(Emulator):
    name = "unfinished"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = {}


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("gone", "no_such_module:Emulator", "cannot be imported: ModuleNotFoundError"),
        ("unnamed", f"{__name__}:Unnamed", "names itself 'acme'"),
        ("unfinished", f"{__name__}:Unfinished", "does not say its routes, settings"),
        ("other", f"{__name__}:NOW", "does not derive from Emulator"),
    ],
)
def test_a_plug_in_s_emulator_that_cannot_be_used_breaks_only_itself(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    points = [EntryPoint(name=name, value=value, group=registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    good, (sentence,) = registry.usable()
    assert good == list(registry.OURS)
    assert sentence.startswith(f"The emulator {name!r} (unknown) {why}")
    with pytest.raises(ValueError, match=rf"^The emulator '{name}'"):
        Sandbox(now=lambda: NOW, rng=random.Random(1), vendors=(name,))


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "acme"])
class TestEveryEmulator:
    """What holds for all that are registered."""

    def test_knows_the_common_faults_in_their_one_meaning(self, name: str) -> None:
        (emulator,) = registry.load([name])
        words = emulator.known_faults[Place.SEND]
        assert emulator.name == name
        assert words.keys() >= REQUIRED_FAULTS
        for word in words.keys() & COMMON_FAULTS.keys():
            assert words[word].meaning

    def test_its_provider_takes_the_printed_settings(self, name: str, tmp_path: Path) -> None:
        async def settings() -> tuple[dict[str, Any], dict[str, Any]]:
            sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), vendors=(name,), state_dir=tmp_path)
            await sandbox.start()
            try:
                toml = tomllib.loads(sandbox.account_toml("x", name))["accounts"]["x"]
                return sandbox.account_settings(name), toml
            finally:
                await sandbox.stop()

        account, toml = asyncio.run(settings())
        assert account["provider"] == toml.pop("provider") == name
        (provider,) = (one.provider for one in loading.discover() if one.name == name)
        assert provider is not None
        assert loading.configured(provider, account["settings"])
        assert loading.configured(provider, toml)
