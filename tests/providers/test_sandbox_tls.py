"""The emulators by TLS: every adapter reaches its vendor if the account trusts the sandbox's authority, and none else does."""

import random
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from providers import loading
from providers.contract import Outcome, Provider, Push, Verdict
from providers.endpoints import EndpointConfig
from providers.http2 import Http2Transport, tls_context
from providers.loading import OwnedTransport
from providers.log import LogProvider
from providers.sandbox import Sandbox, registry

NOW = 1_800_000_000.0
VENDORS = tuple(registry.OURS)


@pytest.fixture
async def sandbox(state_dir: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(
        now=lambda: NOW, rng=random.Random(1), vendors=VENDORS, state_dir=state_dir, slow_s=0.05, tls=True
    )
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def adapter(vendor: str) -> type[Provider]:
    (found,) = loading.discover(only=[vendor])
    assert found.provider is not None
    return found.provider


async def sent(vendor: str, settings: dict[str, Any], token: str, *, by: OwnedTransport | None = None) -> Outcome:
    """`by`: another transport than the account's own."""
    kind = adapter(vendor)
    config = loading.configured(kind, settings)
    guard = config.guard if isinstance(config, EndpointConfig) else None
    transport = by or loading.transport_for(kind, config, guard=guard)
    provider = kind(config, transport=transport, now=lambda: NOW)
    try:
        return await provider.send(Push(id="m-1", token=provider.address("token", token), title="Ann", body="hello"))
    finally:
        await provider.aclose()
        await transport.aclose()


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_push_arrives_by_tls_with_the_account_that_is_printed(sandbox: Sandbox, vendor: str) -> None:
    table = tomllib.loads(sandbox.account_toml("main", vendor))["accounts"]["main"]
    assert Path(table["ca_file"]).read_text(encoding="ascii").startswith("-----BEGIN CERTIFICATE-----")
    assert "http://" not in str(table)
    token = sandbox.emulators[vendor].address(f"phone-{vendor}")
    outcome = await sent(vendor, {key: value for key, value in table.items() if key != "provider"}, token)
    assert outcome.verdict is Verdict.ACCEPTED
    assert sandbox.phones.count(f"phone-{vendor}") == 1


@pytest.mark.parametrize("vendor", VENDORS)
async def test_whatever_arrives_by_http1_arrives_by_http2(sandbox: Sandbox, vendor: str) -> None:
    settings = sandbox.account_settings(vendor)["settings"]
    token = sandbox.emulators[vendor].address(f"fast-{vendor}")
    outcome = await sent(vendor, settings, token, by=Http2Transport(tls=tls_context(ca_data=settings["ca"])))
    assert outcome.verdict is Verdict.ACCEPTED
    assert sandbox.phones.count(f"fast-{vendor}") == 1


@pytest.mark.parametrize("vendor", VENDORS)
async def test_without_that_authority_nothing_is_said_to_it(sandbox: Sandbox, vendor: str) -> None:
    settings = dict(sandbox.account_settings(vendor)["settings"])
    assert settings.pop("ca").startswith("-----BEGIN CERTIFICATE-----")
    outcome = await sent(vendor, settings, sandbox.emulators[vendor].address(f"other-{vendor}"))
    assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, False)
    assert sandbox.phones.count(f"other-{vendor}") == 0


async def test_a_connection_that_is_reset_is_reset_by_tls_as_well(sandbox: Sandbox) -> None:
    settings = sandbox.account_settings("ntfy")["settings"]
    outcome = await sent("ntfy", settings, "reset-1")
    assert (outcome.verdict, outcome.maybe_sent) == (Verdict.RETRY, True)
    assert sandbox.phones.count("reset-1") == 1


async def test_the_page_is_plain_and_the_vendors_are_not_there(sandbox: Sandbox) -> None:
    vendors = sandbox.emulators["gotify"].host.url
    trusting = sandbox.emulators["ntfy"].host.authority.client_context()
    async with aiohttp.ClientSession() as http:
        for path, status in (("/", 200), ("/_control/state", 200), ("/gotify/health", 404)):
            async with http.get(sandbox.url + path) as answer:
                assert answer.status == status
        for path, status in (("/gotify/health", 200), ("/_control/state", 404)):
            async with http.get(vendors + path, ssl=trusting) as answer:
                assert answer.status == status


async def test_a_restart_keeps_the_ports_and_the_authority(tmp_path: Path) -> None:
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1), vendors=("ntfy",), state_dir=tmp_path, tls=True)
    await sandbox.start()
    authority = sandbox.account_settings("ntfy")["settings"]["ca"]
    await sandbox.stop()
    await sandbox.start()
    try:
        assert sandbox.account_settings("ntfy")["settings"]["ca"] == authority
        assert sandbox.emulators["ntfy"].host.url.startswith("https://127.0.0.1:")
    finally:
        await sandbox.stop()


def test_authorities_are_the_operators_to_name_and_must_be_some(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nonsense")
    for settings in ({"ca": "nonsense"}, {"ca_file": str(file)}, {"ca_file": str(tmp_path / "none")}):
        with pytest.raises(loading.SettingsInvalid) as found:
            loading.configured(LogProvider, settings)
        assert "ca" in str(found.value.mistakes)
        with pytest.raises(loading.SettingsInvalid, match="only the operator's"):
            loading.configured(LogProvider, settings, trusted=False)
