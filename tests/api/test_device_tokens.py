"""Credentials through the public faces, over days that pass at once (safety SEC-1 to SEC-4)."""

import asyncio
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from relay.api import family, watch
from relay.api.auth import CACHE_MS, Authenticator
from relay.api.issuing import Issuer
from relay.app import Relay
from relay.clock import SystemClock
from relay.config import load
from relay.credentials import checksum, mint_device_token
from relay.errors import Unauthenticated
from relay.ids import system_rng
from relay.keys import KeyRing
from relay.push.from_settings import DEFAULT_APP
from relay.store import apps, tokens
from relay.store.inline import InlineEngine
from relay.store.schema import metadata
from relay.telemetry.metrics import Metrics

MINUTE_S, DAY_S = 60, 86_400
ORIGIN = "https://app.example"
PHONE = "/v1/users/ann/devices/phone"


class Ahead:
    """The machine's clock, as far ahead as a test wants."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._ahead_ms = 0
        self.behind_ms = 0  # on the wall only

    def now_ms(self) -> int:
        return self._clock.now_ms() + self._ahead_ms - self.behind_ms

    def monotonic_ms(self) -> int:
        return self._clock.monotonic_ms() + self._ahead_ms

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def forward(self, seconds: float) -> None:
        self._ahead_ms += int(seconds * 1000)


@dataclass
class House:
    """A running relay, its clock, and a client of it."""

    relay: Relay
    clock: Ahead
    http: aiohttp.ClientSession
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.relay.port}"

    async def call(
        self, method: str, path: str, body: Any = None, *, by: str | None = None, origin: str | None = None
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {by or self.key}"} | ({} if origin is None else {"Origin": origin})
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.read()
            return answer.status, (await answer.json(content_type=None)) if text else None

    async def minted(self) -> dict[str, Any]:
        """The first token of a new family, for ann's phone."""
        assert (await self.call("PUT", PHONE, {}))[0] in {200, 201}
        status, body = await self.call("POST", f"{PHONE}/token")
        assert status == 201
        return dict(body)

    async def token(self) -> str:
        return str((await self.minted())["token"])

    async def hello(self, token: str) -> dict[str, Any]:
        """A handshake; gives what it says of the token."""
        status, body = await self.call("PUT", "/v1/device", {"store": {"id": "s"}}, by=token)
        assert status == 200, body
        return dict(body["token"])

    async def status(self, token: str) -> int:
        """What a call with this token gives, whatever the relay remembers of the last one."""
        self.clock.forward(CACHE_MS / 1000 + 1)
        return (await self.call("GET", "/v1/device/sync", by=token))[0]

    async def successor(self, token: str) -> str:
        """The successor of a token that is past half of its life."""
        found = (await self.hello(token))["token"]
        assert found is not None
        return str(found)

    async def connect(self, token: str) -> aiohttp.ClientWebSocketResponse:
        """A socket that has shaken hands."""
        headers = {"Authorization": f"Bearer {token}"}
        ws = await self.http.ws_connect(self.url + "/v1/device/ws", headers=headers, protocols=["relay.v1.json"])
        await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}})
        return ws

    async def events(self, kind: str) -> list[dict[str, Any]]:
        _, body = await self.call("GET", "/v1/events")
        return [event["data"] for event in body["events"] if event["type"] == kind]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(watch, "SWEEP_S", 0.05)
    clock = Ahead()
    environ = {"RELAY_SERVER__PORT": "0", "RELAY_SERVER__DRAIN_S": "0"}
    environ["RELAY_SERVER__ALLOWED_ORIGINS"] = f'["{ORIGIN}"]'
    relay = Relay(load(None, environ), clock, system_rng(), Metrics())
    first = await relay.open()
    assert first.api_key is not None
    async with relay.running(), aiohttp.ClientSession() as http:
        yield House(relay, clock, http, first.api_key)
    await relay.close()


async def closed_with(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """The code in the close frame."""
    async with asyncio.timeout(10):
        while True:
            message = await ws.receive()
            if message.type is aiohttp.WSMsgType.CLOSE:
                return int(message.data)
            assert message.type is aiohttp.WSMsgType.TEXT


async def next_frame(ws: aiohttp.ClientWebSocketResponse, type_: str) -> dict[str, Any]:
    while True:
        frame = await ws.receive_json(timeout=10)
        if frame["type"] == type_:
            return dict(frame)


async def eventually(look: Callable[[], Any]) -> Any:
    async with asyncio.timeout(10):
        while not (found := await look()):
            await asyncio.sleep(0.02)  # noqa: TID251 - the relay's own loops run in real time
    return found


async def _is_true(found: bool) -> bool:
    return found


# --- rotation ---------------------------------------------------------------------------------------------------------


async def test_before_half_of_its_life_a_token_has_no_successor(house: House) -> None:
    minted = await house.minted()
    house.clock.forward(14 * DAY_S)
    said = await house.hello(minted["token"])
    assert said == {"token": None, "expires_at": minted["expires_at"], "renew_at": minted["renew_at"]}


@pytest.mark.parametrize("way", ["handshake", "socket", "refresh"])
async def test_past_half_of_its_life_a_token_is_followed_by_another(house: House, way: str) -> None:
    old = await house.token()
    house.clock.forward(16 * DAY_S)
    if way == "handshake":
        said = await house.hello(old)
    elif way == "socket":
        ws = await house.connect(old)
        said = (await next_frame(ws, "welcome"))["token"]
        await ws.close()
    else:
        status, said = await house.call("POST", "/v1/device/token", by=old)
        assert status == 200
    assert said["token"] != old
    house.clock.forward(20 * DAY_S)  # the old one has expired by now
    assert await house.status(said["token"]) == 200
    assert await house.status(old) == 401


async def test_an_answer_that_got_lost_costs_nothing(house: House) -> None:
    old = await house.token()
    house.clock.forward(16 * DAY_S)
    lost = [await house.successor(old) for _ in range(5)]
    house.clock.forward(DAY_S)
    kept = await house.successor(old)
    assert len({old, kept, *lost}) == 7
    assert await house.status(kept) == 200


async def test_the_old_token_stays_good_for_ten_minutes_after_the_first_use_of_the_new_one(house: House) -> None:
    old = await house.token()
    house.clock.forward(16 * DAY_S)
    new = await house.successor(old)
    house.clock.forward(3 * DAY_S)
    assert await house.status(old) == 200  # nobody has used the new one
    assert await house.status(new) == 200
    house.clock.forward(9 * MINUTE_S)
    assert await house.status(old) == 200
    assert (await house.hello(old))["token"] is None
    assert await house.status(new) == 200
    assert await house.events("device.token_reuse") == []


async def test_use_of_an_older_token_after_that_ends_the_whole_family_and_is_told(house: House) -> None:
    old = await house.token()
    house.clock.forward(16 * DAY_S)
    new = await house.successor(old)
    ws = await house.connect(new)
    await next_frame(ws, "welcome")
    house.clock.forward(11 * MINUTE_S)
    status, body = await house.call("GET", "/v1/device/sync", by=old)
    assert (status, body["code"]) == (401, "unauthenticated")
    assert await closed_with(ws) == 4401
    assert await house.status(new) == 401
    (told,) = await eventually(lambda: house.events("device.token_reuse"))
    assert (told["user"], told["device"]) == ("ann", "phone")


async def test_reuse_in_one_family_leaves_the_device_s_other_one_alone(house: House) -> None:
    old, other = await house.token(), await house.token()
    house.clock.forward(16 * DAY_S)
    new = await house.successor(old)
    assert await house.status(new) == 200
    house.clock.forward(11 * MINUTE_S)
    assert await house.status(old) == 401
    assert await house.status(other) == 200


async def test_successors_go_on_for_months(house: House) -> None:
    token = await house.token()
    for _ in range(6):
        house.clock.forward(20 * DAY_S)
        token = await house.successor(token)
        assert await house.status(token) == 200


async def test_an_expired_token_gets_no_successor(house: House) -> None:
    token = await house.token()
    house.clock.forward(30 * DAY_S)
    for method, path, body in (("PUT", "/v1/device", {}), ("POST", "/v1/device/token", None)):
        status, problem = await house.call(method, path, body, by=token)
        assert (status, problem["code"]) == (401, "token_expired")


# --- the end of a credential ------------------------------------------------------------------------------------------


async def test_a_socket_ends_when_its_token_expires(house: House) -> None:
    ws = await house.connect(await house.token())
    await next_frame(ws, "welcome")
    house.clock.forward(30 * DAY_S)
    assert (await next_frame(ws, "error"))["code"] == "unauthenticated"
    assert await closed_with(ws) == 4401


REVOCATIONS = {
    "signed out": ("DELETE", PHONE),
    "the device's tokens": ("DELETE", f"{PHONE}/token"),
    "the user's tokens": ("DELETE", "/v1/users/ann/tokens"),
}


@pytest.mark.parametrize("how", REVOCATIONS)
async def test_revocation_ends_sockets_and_long_polls_at_once(house: House, how: str) -> None:
    token = await house.token()
    _, other = await house.call("PUT", "/v1/users/bob/devices/phone", {})
    _, other = await house.call("POST", "/v1/users/bob/devices/phone/token")
    mine, theirs = await house.connect(token), await house.connect(other["token"])
    cursor = (await next_frame(mine, "welcome"))["cursors"]["inbox"]
    await next_frame(theirs, "welcome")
    poll = asyncio.create_task(house.call("GET", f"/v1/device/sync?wait=50&cursor={cursor}", by=token))
    await eventually(lambda: _is_true(house.relay.hub.waits > 0))
    method, path = REVOCATIONS[how]
    assert (await house.call(method, path))[0] == 204
    assert (await house.call("GET", "/v1/device/sync", by=token))[0] == 401
    async with asyncio.timeout(5):
        assert (await poll)[0] == 401
    assert await closed_with(mine) == 4401
    await theirs.send_json({"type": "hb", "ref": "still"})
    assert (await next_frame(theirs, "hb"))["ref"] == "still"
    assert await house.status(other["token"]) == 200
    await theirs.close()


async def test_what_another_node_revokes_ends_here_too(house: House) -> None:
    token = await house.token()
    ws = await house.connect(token)
    await next_frame(ws, "welcome")
    await house.relay.engine.write(
        lambda conn, now_ms: tokens.revoke(conn, now_ms, app_id=DEFAULT_APP, user_id="ann", device_id="phone")
    )
    assert await closed_with(ws) == 4401
    assert (await house.call("GET", "/v1/device/sync", by=token))[0] == 401


def test_the_watch_looks_often_enough_for_five_seconds() -> None:
    longest_pause_s = watch.SWEEP_S * 1.2  # it is spread by a fifth
    assert longest_pause_s <= 4  # and a look takes less than the rest
    assert CACHE_MS <= 5000


async def test_a_signed_out_device_that_is_registered_again_needs_a_new_token(house: House) -> None:
    old = await house.token()
    await house.call("DELETE", PHONE)
    new = await house.token()
    assert await house.status(old) == 401
    assert await house.status(new) == 200


# --- tickets ----------------------------------------------------------------------------------------------------------


async def by_ticket(house: House, token: str) -> aiohttp.ClientWebSocketResponse:
    status, body = await house.call("POST", "/v1/device/ticket", by=token, origin=ORIGIN)
    assert status == 201
    protocols = ["relay.v1.json", f"relay.ticket.{body['ticket']}"]
    ws = await house.http.ws_connect(house.url + "/v1/device/ws", protocols=protocols, origin=ORIGIN)
    await ws.send_json({"type": "hello", "ref": "1", "store": {"id": "s"}})
    return ws


async def test_a_ticket_s_socket_ends_with_the_token_it_was_got_with(house: House) -> None:
    ws = await by_ticket(house, await house.token())
    await next_frame(ws, "welcome")
    await house.call("DELETE", f"{PHONE}/token")
    assert await closed_with(ws) == 4401


async def test_a_ticket_is_void_once_its_token_is_revoked(house: House) -> None:
    _, body = await house.call("POST", "/v1/device/ticket", by=await house.token(), origin=ORIGIN)
    await house.call("DELETE", f"{PHONE}/token")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await house.http.ws_connect(
            house.url + "/v1/device/ws",
            protocols=["relay.v1.json", f"relay.ticket.{body['ticket']}"],
            origin=ORIGIN,
        )
    assert refused.value.status == 401


@pytest.mark.parametrize("origin", [None, "https://evil.example"])
async def test_a_ticket_is_for_a_page_of_the_app_alone(house: House, origin: str | None) -> None:
    status, body = await house.call("POST", "/v1/device/ticket", by=await house.token(), origin=origin)
    assert (status, body["code"]) == (403, "forbidden")


async def test_nobody_gets_a_token_for_a_ticket(house: House) -> None:
    token = await house.token()
    house.clock.forward(16 * DAY_S)
    ws = await by_ticket(house, token)
    assert (await next_frame(ws, "welcome"))["token"]["token"] is None
    await ws.close()


async def test_whoever_guesses_tickets_comes_no_more_often_than_any_stranger(house: House) -> None:
    async def streamed(ticket: str) -> tuple[int, Any]:
        url = f"{house.url}/v1/device/stream?ticket={ticket}"
        async with house.http.get(url, headers={"Origin": ORIGIN}) as answer:
            return answer.status, None if answer.status == 200 else (await answer.json(content_type=None))["code"]

    token = await house.token()
    await house.hello(token)
    ticket = (await house.call("POST", "/v1/device/ticket", by=token, origin=ORIGIN))[1]["ticket"]
    said = [await streamed(f"guess{number}") for number in range(60)]
    assert said[0] == (401, "unauthenticated")
    assert said[-1] == (429, "rate_limited")
    assert await streamed(ticket) == (429, "rate_limited"), "the store is not asked, so it is not used up"
    assert await house.status(token) == 200, "no bearer is locked out by it"
    house.clock.forward(3)
    assert await streamed(ticket) == (200, None)


# --- API keys ---------------------------------------------------------------------------------------------------------


async def works(house: House, key: str) -> bool:
    house.clock.forward(CACHE_MS / 1000 + 1)
    return (await house.call("GET", "/v1/events", by=key))[0] == 200


async def test_a_rotated_key_works_until_its_overlap_ends(house: House) -> None:
    old_id = house.key.split("_")[2]
    new, _ = await house.relay.issuer.rotated_api_key(DEFAULT_APP, old_id)
    assert await works(house, house.key)
    assert await works(house, new)
    house.clock.forward(23 * 3600)
    assert await works(house, house.key)
    house.clock.forward(3600)
    assert not await works(house, house.key)
    assert await works(house, new)


async def test_a_revoked_key_is_let_in_nowhere_soon_after(house: House) -> None:
    await house.call("GET", "/v1/events")  # remembered now
    key_id = house.key.split("_")[2]
    await house.relay.engine.write(
        lambda conn, now_ms: apps.revoke_api_key(conn, now_ms, app_id=DEFAULT_APP, key_id=key_id)
    )

    async def refused() -> bool:
        return (await house.call("GET", "/v1/events"))[0] == 401

    await eventually(refused)


async def test_a_key_ends_when_it_should(house: House) -> None:
    key = await house.relay.issuer.api_key(DEFAULT_APP, name="short", scopes=["events:read"], lives_ms=60_000)
    assert await works(house, key)
    house.clock.forward(MINUTE_S)
    assert not await works(house, key)


@pytest.mark.parametrize(
    ("networks", "let_in"), [(["127.0.0.0/8"], True), (["10.0.0.0/8", "127.0.0.1"], True), (["203.0.113.0/24"], False)]
)
async def test_a_key_works_only_from_its_networks(house: House, networks: list[str], *, let_in: bool) -> None:
    key = await house.relay.issuer.api_key(DEFAULT_APP, name="n", scopes=["events:read"], networks=networks)
    assert await works(house, key) is let_in
    assert await works(house, key) is let_in  # remembered or not


async def test_whoever_tries_a_key_from_elsewhere_again_and_again_fills_no_log(house: House) -> None:
    key = await house.relay.issuer.api_key(DEFAULT_APP, name="n", scopes=["events:read"], networks=["203.0.113.0/24"])
    with capture_logs() as lines:
        for _ in range(20):
            assert not await works(house, key)
    assert [one["event"] for one in lines].count("auth.address_refused") == 1


@pytest.mark.parametrize("set_back_ms", [0, 3_600_000])
async def test_when_a_key_was_used_is_written_down(house: House, set_back_ms: int) -> None:
    house.clock.behind_ms = set_back_ms
    await house.call("GET", "/v1/events")
    house.clock.forward(2 * MINUTE_S)

    async def used() -> bool:
        (row,) = await house.relay.engine.read(lambda conn, _: apps.api_keys(conn, DEFAULT_APP))
        return row.used_ms is not None

    await eventually(used)


# --- failures tell nothing --------------------------------------------------------------------------------------------


async def test_every_way_to_fail_answers_alike(house: House) -> None:
    revoked = await house.token()
    await house.call("DELETE", f"{PHONE}/token")
    expired = await house.relay.issuer.api_key(DEFAULT_APP, name="e", scopes=["events:read"], lives_ms=1)
    elsewhere = await house.relay.issuer.api_key(
        DEFAULT_APP, name="f", scopes=["events:read"], networks=["203.0.113.0/24"]
    )
    wrong = house.key[:21] + ("A" if house.key[21] != "A" else "B") + house.key[22:]
    house.clock.forward(CACHE_MS / 1000 + 1)
    answers = set()
    for token in (mint_device_token(system_rng())[0], revoked, expired, elsewhere, wrong, "nothing"):
        status, body = await house.call("GET", "/v1/events", by=token)
        answers.add((status, body["code"], body["title"], body["detail"]))
    assert len(answers) == 1
    assert answers.pop()[:2] == (401, "unauthenticated")


async def test_every_way_to_fail_takes_as_long() -> None:
    clock, rng = SystemClock(), system_rng()
    engine = InlineEngine(clock)
    await engine.write(lambda conn, _: metadata.create_all(conn))
    ring = KeyRing([(1, rng.randbytes(32))], rng)
    issuer = Issuer(engine, ring, rng)
    auth = Authenticator(engine, ring, clock, rate_per_s=1, burst=1, anonymous_per_s=1, anonymous_burst=1)
    known = await issuer.api_key("a", name="k", scopes=["events:read"])
    expired = await issuer.api_key("a", name="e", scopes=["events:read"], lives_ms=0)
    gone = await issuer.api_key("a", name="g", scopes=["events:read"])
    await engine.write(lambda conn, now_ms: apps.revoke_api_key(conn, now_ms, app_id="a", key_id=gone.split("_")[2]))
    ring_of = {
        "unknown": lambda: _resigned(known, other_id=True),
        "wrong secret": lambda: _resigned(known, other_id=False),
        "expired": lambda: expired,
        "revoked": lambda: gone,
    }
    taken: dict[str, list[int]] = {name: [] for name in ring_of}
    for n in range(500):
        remote = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"  # each from elsewhere: no limit is in the way
        for name, text in ring_of.items():
            request: Any = SimpleNamespace(headers={"Authorization": f"Bearer {text()}"}, remote=remote)
            before = time.perf_counter_ns()
            with pytest.raises(Unauthenticated):
                await auth.authenticate(request)
            taken[name].append(time.perf_counter_ns() - before)
    medians_ms = [statistics.median(some) / 1e6 for some in taken.values()]
    assert max(medians_ms) - min(medians_ms) < 1, medians_ms
    await engine.close()


def _resigned(key: str, *, other_id: bool) -> str:
    """A well-formed key with another id, or another secret."""
    prefix, mode, key_id, _ = key.split("_", 3)
    secret = key[len(f"{prefix}_{mode}_{key_id}_") :][:43]
    if other_id:
        key_id = ("b" if key_id[0] == "a" else "a") + key_id[1:]
    else:
        secret = ("B" if secret[0] == "A" else "A") + secret[1:]
    text = f"{prefix}_{mode}_{key_id}_{secret}"
    return f"{text}_{checksum(text)}"


def test_a_family_s_times_are_those_of_the_rules() -> None:
    assert (family.LIFE_MS, family.HALF_LIFE_MS) == (30 * DAY_S * 1000, 15 * DAY_S * 1000)
    assert (family.GRACE_MS, family.EPOCH_GRACE_MS) == (10 * MINUTE_S * 1000, DAY_S * 1000)


def _small(info: Any) -> socket.socket:
    """A socket that takes little in."""
    found = socket.socket(info[0], info[1], info[2])
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return found


async def test_a_device_that_does_not_read_is_out_in_time_all_the_same(house: House) -> None:
    token = await house.token()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_small)) as http:
        ws = await House(house.relay, house.clock, http, house.key).connect(token)
        await next_frame(ws, "welcome")
        ws._response.connection.protocol.pause_reading()  # type: ignore[union-attr]
        for n in range(20):
            body = {"to": {"users": ["ann"]}, "body": f"{n}" + "x" * 60_000}
            assert (await house.call("POST", "/v1/messages", body))[0] == 202
        for _ in range(20):  # more than the system's buffers hold
            await ws.send_json({"type": "fill", "from": 0, "to": 20})
        await asyncio.sleep(1)  # noqa: TID251 - until they are full
        await house.call("DELETE", f"{PHONE}/token")
        async with asyncio.timeout(5):
            await eventually(lambda: _is_true(len(house.relay.hub) == 0))
