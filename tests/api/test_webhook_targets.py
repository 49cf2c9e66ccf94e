"""What the operator keeps webhooks from, beside the table: names, networks, ports, and the relay itself (safety SEC-8)."""

import socket
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network

import aiohttp
import pytest
from running_relay import Answer, Face, Running, running

from providers.guard import TargetRefused
from relay.config import load
from relay.push.from_settings import build_accounts, webhook_guard
from relay.push.own_networks import own_networks

SETTINGS = {
    "RELAY_WEBHOOKS__DENY": '["Relay.Example", "8.8.4.0/24"]',
    "RELAY_WEBHOOKS__PORTS": "[443, 8443]",
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("relay"), SETTINGS) as one:
        yield one


@pytest.fixture
async def face(relay: Running) -> AsyncIterator[Face]:
    async with aiohttp.ClientSession() as http:
        yield Face(http, relay, "ann")


async def create(face: Face, url: str, monkeypatch: pytest.MonkeyPatch, address: str = "8.8.8.8") -> Answer:
    async def resolve(host: str, port: int) -> list[str]:
        return [address]

    monkeypatch.setattr(face.of.relay._webhook_transport, "_resolve", resolve)
    return await face.call("POST", "/v1/webhooks", {"url": url})


@pytest.mark.parametrize("host", ["relay.example", "RELAY.EXAMPLE.", "node-2.relay.example"])
async def test_b093_a_name_that_the_operator_denies(face: Face, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    answer = await create(face, f"https://{host}/", monkeypatch)
    assert (answer.status, answer.code, answer.pointers) == (422, "endpoint_address_denied", ["/url"])


async def test_b095_an_address_in_a_network_that_the_operator_denies(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await create(face, "https://hooks.example/", monkeypatch, "8.8.4.4")
    assert (answer.status, answer.code) == (422, "endpoint_address_denied")
    assert "8.8.4.4" not in answer.text


async def test_b097_a_port_that_the_operator_lists_and_no_other(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await create(face, "https://hooks.example:8443/", monkeypatch)).status == 201
    answer = await create(face, "https://hooks.example:8444/", monkeypatch)
    assert (answer.status, answer.code) == (422, "endpoint_url_invalid")


def test_the_address_that_the_relay_listens_on_is_denied_to_webhooks_and_to_what_devices_bring() -> None:
    settings = load(
        None,
        {
            "RELAY_SERVER__HOST": "8.8.8.8",
            "RELAY_ACCOUNTS__UP__PROVIDER": "gotify",
        },
    )
    [account] = build_accounts(settings, clock=None).all()  # type: ignore[arg-type] - no call is made
    for guard in (webhook_guard(settings), account.transport.guard):  # type: ignore[attr-defined]
        target = guard.parse("https://hooks.example/")
        assert guard.check(target, ["8.8.4.4"])
        with pytest.raises(TargetRefused):
            guard.check(target, ["8.8.8.8"])


def test_who_listens_everywhere_denies_the_addresses_that_this_machine_has() -> None:
    assert own_networks("127.0.0.1") == (ip_network("127.0.0.1"),)
    own = own_networks("0.0.0.0")
    assert ip_network("0.0.0.0") in own
    for one in own:
        family = socket.AF_INET if one.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as mine:
            mine.bind((str(one.network_address), 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("8.8.8.8", 53))
        except OSError:
            return  # no way out of here
        assert ip_network(probe.getsockname()[0]) in own


def test_a_name_of_the_relay_that_cannot_be_found_is_left_to_the_start() -> None:
    assert own_networks("no-such-host.invalid") == ()
