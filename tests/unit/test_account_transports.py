"""Each account has a transport of its own, of the kind that its vendor demands, closed with the account."""

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from providers.guard import TargetRefused
from providers.http import Request
from providers.http2 import Http2Transport
from providers.transport import HttpTransport
from relay.clock import SystemClock
from relay.config import Settings
from relay.push.from_settings import build_accounts, webhook_guard


def settings() -> Settings:
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    apns = {"topic": "app.example", "team_id": "DEF123GHIJ", "key_id": "ABC123DEFG", "key": key.decode()}
    return Settings.model_validate(
        {
            "accounts": {
                "apple": {"provider": "apns", "settings": apns},
                "apple-too": {"provider": "apns", "settings": apns},
                "log": {"provider": "log"},
            }
        }
    )


async def test_apple_gets_http2_and_nobody_shares_a_connection() -> None:
    accounts = {one.name: one for one in build_accounts(settings(), SystemClock()).all()}
    assert isinstance(accounts["apple"].transport, Http2Transport)
    assert isinstance(accounts["log"].transport, HttpTransport)
    assert accounts["apple"].transport is not accounts["apple-too"].transport


async def test_transports_end_with_their_accounts() -> None:
    accounts = build_accounts(settings(), SystemClock())
    await accounts.aclose()
    for account in accounts.all():
        assert account.transport is not None
        with pytest.raises(RuntimeError):
            await account.transport(Request(url="https://vendor.example/"))


def test_an_account_s_rate_is_its_own_else_its_vendor_s_else_that_of_all() -> None:
    """ntfy takes 60 at once, then one in five seconds (sheet `others` §1.6); most vendors publish no such number."""
    settings = Settings.model_validate(
        {
            "push": {"rate_per_s": 8, "burst": 9},
            "accounts": {
                "log": {"provider": "log"},
                "public": {"provider": "ntfy"},
                "exempt": {"provider": "ntfy", "rate_per_s": 50, "burst": 100},
                "paid": {"provider": "ntfy", "burst": 600},
            },
        }
    )
    buckets = {one.name: one.bucket for one in build_accounts(settings, SystemClock()).all()}
    rates = {name: (bucket.rate(0), bucket.available(0)) for name, bucket in buckets.items()}
    assert rates == {"log": (8, 9), "public": (0.2, 60), "exempt": (50, 100), "paid": (0.2, 600)}


def test_an_account_begins_as_slowly_as_its_settings_say() -> None:
    settings = Settings.model_validate({"accounts": {"log": {"provider": "log", "rate_per_s": 50, "start_per_s": 5}}})
    (account,) = build_accounts(settings, SystemClock()).all()
    assert account.bucket.rate(0) == 5


async def test_as_many_calls_as_an_account_may_make_are_under_way_at_once() -> None:
    """None waits for another's connection: that would count as the vendor's silence."""
    concurrency = 300
    settings = Settings.model_validate({"accounts": {"log": {"provider": "log", "concurrency": concurrency}}})
    accounts = build_accounts(settings, SystemClock())
    (account,) = accounts.all()
    all_here = asyncio.Barrier(concurrency)

    async def vendor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await all_here.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(vendor, "127.0.0.1", 0, backlog=concurrency)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    assert account.transport is not None
    answers = await asyncio.gather(*(account.transport(Request(url=url)) for _ in range(concurrency)))
    assert {answer.status for answer in answers} == {200}
    server.close()
    await accounts.aclose()


HOME = "10.1.2.3"


def test_a_gateway_at_home_may_be_called_by_its_account_and_by_nobody_else() -> None:
    gateway = {"url": "https://gateway.lan:8443/push", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    exempt = {"exempt": ["gateway.lan:8443"]}
    settings = Settings.model_validate(
        {
            "accounts": {
                "home": {"provider": "http", "settings": gateway | exempt},
                "other": {"provider": "http", "settings": gateway},
            }
        }
    )
    accounts = {one.name: one for one in build_accounts(settings, SystemClock()).all()}
    home, other = (accounts[name].transport.guard for name in ("home", "other"))  # type: ignore[union-attr]
    assert home.check(home.parse(gateway["url"]), [HOME]) == (HOME,)
    for guard in (other, webhook_guard(settings)):
        with pytest.raises(TargetRefused):
            guard.check(guard.parse(gateway["url"]), [HOME])
    with pytest.raises(TargetRefused):
        home.check(home.parse("https://gateway.lan/push"), [HOME])


def test_what_webhooks_may_call_its_account_may_call_too() -> None:
    gateway = {"url": "https://gateway.lan/push", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    settings = Settings.model_validate(
        {
            "webhooks": {"exempt": ["gateway.lan:443"]},
            "accounts": {"home": {"provider": "http", "settings": gateway | {"exempt": ["10.9.0.0/16:443"]}}},
        }
    )
    (account,) = build_accounts(settings, SystemClock()).all()
    guard = account.transport.guard  # type: ignore[union-attr]
    assert guard.check(guard.parse(gateway["url"]), [HOME]) == (HOME,)
