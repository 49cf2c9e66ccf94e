"""A device that comes with a token of the app's own login service, through the public faces."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.errors import ConfigError
from relay.ids import system_rng
from relay.store import rollback
from relay.telemetry.metrics import Metrics

ISSUER = "https://login.app.example"
KEY = ec.generate_private_key(ec.SECP256R1())
CLOCK = SystemClock()


def key_set() -> str:
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    return json.dumps({"keys": [public | {"alg": "ES256", "kid": "k1"}]})


def token(user: str = "ann", device: str = "phone", *, issued_s: int = 0, **other: object) -> str:
    """`issued_s`: so long from now; `other` claims take the place of what is right."""
    now_s = CLOCK.now_ms() // 1000 + issued_s
    claims = {"iss": ISSUER, "aud": "push-relay", "sub": user, "device": device, "iat": now_s, "exp": now_s + 600}
    return jwt.encode(claims | other, KEY, algorithm="ES256", headers={"kid": "k1"})


@dataclass
class House:
    url: str
    key: str
    http: aiohttp.ClientSession
    relay: Relay

    async def call(
        self, method: str, path: str, body: Any = None, *, by: str | None = None, origin: str | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {by or self.key}"} | ({} if origin is None else {"Origin": origin})
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else None


@asynccontextmanager
async def serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Mapping[str, str] | None = None
) -> AsyncIterator[House]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.json").write_text(key_set())
    environ = {
        "RELAY_SERVER__PORT": "0",
        "RELAY_SERVER__DRAIN_S": "0",
        "RELAY_SERVER__ALLOWED_ORIGINS": '["https://app.example"]',
        "RELAY_DEVICE_JWT__ISSUER": ISSUER,
        "RELAY_DEVICE_JWT__KEYS": "keys.json",
    }
    relay = Relay(load(None, environ | dict(more or {})), CLOCK, system_rng(), Metrics())
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        house = House(f"http://127.0.0.1:{relay.port}", first.api_key, http, relay)
        assert (await house.call("PUT", "/v1/users/ann/devices/phone", {}))[0] in {200, 201}
        yield house
    await relay.close()


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    async with serving(tmp_path, monkeypatch) as one:
        yield one


async def test_a_registered_device_shakes_hands_and_reads_its_inbox(house: House) -> None:
    sent = {"to": {"users": ["ann"]}, "body": {"text": "hello"}}
    assert (await house.call("POST", "/v1/messages", sent))[0] == 202
    status, welcome = await house.call("PUT", "/v1/device", {"store": {"id": "s"}}, by=token())
    assert status == 200, welcome
    status, page = await house.call("GET", "/v1/device/sync", by=token())
    assert status == 200
    assert [one["body"] for one in page["batches"][0]["entries"]] == [{"text": "hello"}]


async def test_a_token_makes_no_device_and_is_no_api_key(house: House) -> None:
    assert (await house.call("GET", "/v1/device/sync", by=token(device="tablet")))[0] == 401
    assert (await house.call("GET", "/v1/device/sync", by=token(user="bob")))[0] == 401
    assert (await house.call("GET", "/v1/users/ann/devices/phone", by=token()))[0] == 403


async def test_why_a_token_is_refused_is_for_the_log_and_not_for_the_caller(house: House) -> None:
    stranger = jwt.encode({"iss": ISSUER}, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "k1"})
    refused = {
        "signature": stranger,
        "aud": token(aud="another"),
        "iat, exp: more than 24 hours apart, or the wrong way round": token(exp=CLOCK.now_ms() // 1000 + 25 * 3600),
        "device: not registered": token(device="tablet"),
    }
    with capture_logs() as lines:
        answers = [await house.call("GET", "/v1/device/sync", by=one) for one in [*refused.values()] * 2]
    told = [(one["log_level"], one["reason"]) for one in lines if one["event"] == "auth.jwt_refused"]
    assert told == [("warning", why) for why in refused], "each once: strangers fill no log"
    said = {(status, problem["code"], problem["detail"]) for status, problem in answers}
    assert said == {(401, "unauthenticated", "Send `Authorization: Bearer` with a valid API key or device token.")}


async def test_a_device_that_was_removed_is_out(house: House) -> None:
    assert (await house.call("DELETE", "/v1/users/ann/devices/phone"))[0] in {200, 204}
    assert (await house.call("GET", "/v1/device/sync", by=token()))[0] == 401


async def test_its_bearer_gets_a_ticket_for_a_browser_s_socket_once(house: House) -> None:
    page = "https://app.example"
    status, answer = await house.call("POST", "/v1/device/ticket", {}, by=token(), origin=page)
    assert status in {200, 201}, answer
    protocols = ["relay.v1.json", f"relay.ticket.{answer['ticket']}"]
    async with house.http.ws_connect(house.url + "/v1/device/ws", protocols=protocols, origin=page) as ws:
        await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}})
        assert (await ws.receive_json())["type"] == "welcome"
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await house.http.ws_connect(house.url + "/v1/device/ws", protocols=protocols, origin=page)


def test_a_key_set_is_needed_with_an_issuer() -> None:
    with pytest.raises(ConfigError, match="keys"):
        load(None, {"RELAY_DEVICE_JWT__ISSUER": ISSUER})


@pytest.mark.parametrize("text", [None, "{}", '{"keys":[]}'])
async def test_a_key_set_that_cannot_serve_stops_the_start(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "keys.json").write_text(text)
    environ = {"RELAY_SERVER__PORT": "0", "RELAY_DEVICE_JWT__ISSUER": ISSUER, "RELAY_DEVICE_JWT__KEYS": "keys.json"}
    relay = Relay(load(None, environ), CLOCK, system_rng(), Metrics())
    with pytest.raises(ConfigError, match="device_jwt"):
        await relay.open()
    await relay.close()


# --- after a restore (protocol 4.2) -----------------------------------------------------------------------------------


async def set_back(house: House) -> None:
    """As after `relay restore`: what was registered since the backup has no row."""
    await house.relay.engine.write(lambda conn, now_ms: rollback.restored(conn, now_ms, system_rng(), at_ms=now_ms))


async def test_a_token_from_before_a_restore_makes_its_lost_device_again_and_it_gets_what_is_kept(
    house: House,
) -> None:
    await set_back(house)
    for user in ("ann", "zoe"):  # of zoe not even the user is left
        tablet = token(user, "tablet", issued_s=-30)
        status, welcome = await house.call("PUT", "/v1/device", {"store": {"id": "s"}}, by=tablet)
        assert status == 200, welcome
        assert (await house.call("POST", "/v1/messages", {"to": {"users": [user]}, "body": "hello"}))[0] == 202
        status, page = await house.call("GET", "/v1/device/sync", by=tablet)
        assert status == 200
        assert "hello" in [one["body"] for one in page["batches"][0]["entries"]]


async def test_a_device_that_is_made_again_misses_nothing_where_new_ones_begin_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, {"RELAY_APP__START": "now"}) as house:
        await set_back(house)
        assert (await house.call("POST", "/v1/messages", {"to": {"users": ["ann"]}, "body": "meanwhile"}))[0] == 202
        _, page = await house.call("GET", "/v1/device/sync", by=token("ann", "tablet", issued_s=-30))
        assert [one["body"] for one in page["batches"][0]["entries"]] == ["meanwhile"]


async def test_a_token_from_after_the_restore_makes_no_device_and_no_token_brings_back_one_that_was_removed(
    house: House,
) -> None:
    await set_back(house)
    assert (await house.call("GET", "/v1/device/sync", by=token("ann", "tablet", issued_s=30)))[0] == 401
    assert (await house.call("DELETE", "/v1/users/ann/devices/phone"))[0] in {200, 204}
    assert (await house.call("GET", "/v1/device/sync", by=token("ann", "phone", issued_s=-30)))[0] == 401


async def test_a_token_from_before_there_was_a_store_makes_no_device(house: House) -> None:
    assert (await house.call("GET", "/v1/device/sync", by=token("ann", "tablet", issued_s=-500)))[0] == 401
