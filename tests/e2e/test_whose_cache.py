"""A client's cache that is opened with another user's token: both SDKs say so, and nothing of two users is mixed."""

import asyncio
import itertools
import json
import os
import random
import shutil
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from ears import token_of
from relay_process import RelayProcess

from relay.client import AnotherUser, Backend, Cache, Client, Unreachable, Way, said
from relay.client.fingerprints import Span
from relay.ids import message_id

SETTINGS = {"RELAY_SERVER__QUIET_S": "0", "RELAY_POLL__CLIENT_S": "1", "RELAY_APP__DEVICE_SENDS": "true"}
WEB = Path(__file__).parents[2] / "tests/web"
NODE = ("node", "--no-warnings", "--experimental-websocket")
WITHIN_S = 30
pytestmark = pytest.mark.asyncio(loop_scope="module")
_names = itertools.count(1)


@pytest.fixture
def ann() -> str:
    return f"ann-{next(_names)}"


@pytest.fixture
def bob(ann: str) -> str:
    return f"bob-{ann}"


async def bodies(url: str, token: str, cache: Path, way: Way = Way.WEBSOCKET) -> list[object]:
    """Catches up; gives what the cache then holds. Raises AnotherUser."""
    async with Client(url, token, cache=cache, ways=[way]) as client:
        await client.caught_up(WITHIN_S)
        return [one.body for one in await client.history()]


@pytest.mark.parametrize("way", list(Way))
async def test_another_users_token_is_refused_and_changes_nothing(
    relay: RelayProcess, backend: Backend, ann: str, bob: str, tmp_path: Path, way: Way
) -> None:
    hers, his = await token_of(backend, ann), await token_of(backend, bob)
    for user in (ann, bob):
        await backend.send(user, f"for {user}")
    cache = tmp_path / "a.db"
    assert await bodies(relay.url, hers, cache, way) == [f"for {ann}"]
    async with Client(relay.url, his, cache=cache, ways=[way]) as client:
        await client.send("hers", to=ann)
        with pytest.raises(AnotherUser):
            await client.caught_up(WITHIN_S)
        with pytest.raises(AnotherUser):
            async for _ in client.events():
                pass
        assert [one.body for one in await client.history()] == [f"for {ann}"]
        assert len(await client.unsent()) == 1
    device = await backend.device(bob, "phone")
    assert (device["acked"], device["online"]) == (0, False), "as if he had never come"
    await backend.send(ann, "later")
    assert set(await bodies(relay.url, hers, cache, way)) - {"hers"} == {f"for {ann}", "later"}
    assert await bodies(relay.url, his, tmp_path / "b.db", way) == [f"for {bob}"]


async def test_nothing_goes_out_with_the_token_of_who_signed_in_meanwhile(
    relay: RelayProcess, backend: Backend, ann: str, bob: str, tmp_path: Path
) -> None:
    """Her token is good no more, and the app has another user's: what she wrote would be his."""
    hers, his = await token_of(backend, ann), await token_of(backend, bob)
    tokens = iter([hers, his])

    async def source() -> str:
        return next(tokens)

    async with Client(relay.url, source, cache=tmp_path / "a.db") as client:
        await client.caught_up(WITHIN_S)
        await backend.delete_device(ann, "phone")
        with pytest.raises(AnotherUser):
            async for _ in client.events():
                pass
        key = await client.send("hers", to=ann)
        with pytest.raises(AnotherUser):
            await client.fetch(key)
        assert [one.message["body"] for one in await client.unsent()] == ["hers"]


async def test_before_the_handshake_nothing_is_asked_with_a_token_that_may_be_anothers(
    relay: RelayProcess, backend: Backend, ann: str, bob: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a group in which both are, he is not given what was said before he came: her hole would count as filled."""
    hers, his = await token_of(backend, ann), await token_of(backend, bob)
    group, path = f"g-{ann}", tmp_path / "a.db"
    await backend.send(ann, "hers")
    await backend.change_group(group, add=[ann], type="ultra")
    for n in range(205):
        await backend.send_to_group(group, n)
    await backend.change_group(group, add=[bob])
    async with Client(relay.url, hers, cache=path) as client:
        await client.follow(group)
        async for message in client.messages():
            if message.body == 204:
                break
        hole = await client.holes(group)
        assert hole == [Span(0, 5)]
        shown = await client.history(limit=300)

    async def no_connection(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("relay.client.device.open_way", no_connection)
    async with Client(relay.url, his, cache=path) as client:
        with pytest.raises(AnotherUser):
            await client.fill_hole(group, Span(0, 5))
        with pytest.raises(AnotherUser):
            await client.verify()
        with pytest.raises(AnotherUser):
            await client.fetch(message_id(0, 1))
        assert await client.holes(group) == hole
        assert await client.history(limit=300) == shown
    async with Client(relay.url, hers, cache=path) as client:
        assert await client.fill_hole(group, Span(0, 5)) == 5


async def test_what_something_before_the_relay_answers_says_of_no_token_whose_it_is(
    relay: RelayProcess, backend: Backend, ann: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hers, path = await token_of(backend, ann), tmp_path / "a.db"
    async with Client(relay.url, hers, cache=path) as client:
        await client.caught_up(WITHIN_S)

    async def no_connection(*_: object) -> None:
        await asyncio.Event().wait()

    async def portal(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"status": "ok"})

    asked: list[str] = []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", portal)
    monkeypatch.setattr("relay.client.device.open_way", no_connection)
    async with TestServer(app) as server, Client(str(server.make_url("")).rstrip("/"), hers, cache=path) as client:
        with pytest.raises(Unreachable):
            await client.fetch(message_id(0, 1))
    assert asked == ["/v1/device/ack"]


async def test_a_refusal_that_is_still_to_be_said_is_not_said_with_another_users_token(
    relay: RelayProcess, backend: Backend, ann: str, bob: str, tmp_path: Path
) -> None:
    """It goes out before the handshake: heard in his name it would be forgotten, and her message count as read."""
    hers, his = await token_of(backend, ann), await token_of(backend, bob)
    sent = await backend.send(ann, 1)
    path = tmp_path / "a.db"
    await bodies(relay.url, hers, path)
    refusal = dict([said.nack(sent["id"], "undecodable", "1.0")])
    with closing(Cache(path, rng=random.Random(1), now_ms=0)) as cache:
        cache.put_words(refusal)
    for way in Way:
        with pytest.raises(AnotherUser):
            await bodies(relay.url, his, path, way)
    with closing(Cache(path, rng=random.Random(1), now_ms=0)) as cache:
        assert cache.words() == refusal
    await bodies(relay.url, hers, path)
    with closing(Cache(path, rng=random.Random(1), now_ms=0)) as cache:
        assert cache.words() == {}, "heard in her name"


async def test_another_device_of_the_same_user_may_take_it_over(
    relay: RelayProcess, backend: Backend, ann: str, tmp_path: Path
) -> None:
    """As after `reidentify`: it keeps what it has."""
    first, second = await token_of(backend, ann), await token_of(backend, ann, "phone-2")
    await backend.send(ann, 1)
    assert await bodies(relay.url, first, tmp_path / "a.db") == [1]
    await backend.send(ann, 2)
    assert await bodies(relay.url, second, tmp_path / "a.db") == [1, 2]


async def test_a_user_of_another_name_is_the_same_user(
    relay: RelayProcess, backend: Backend, ann: str, tmp_path: Path
) -> None:
    token = await token_of(backend, ann)
    await backend.send(ann, 1)
    assert await bodies(relay.url, token, tmp_path / "a.db") == [1]
    headers = {"Authorization": f"Bearer {relay.key}"}
    names = [ann, f"{ann}-a", f"{ann}-b"]
    for old, new in itertools.pairwise(names):  # also one that got two names since
        async with (
            aiohttp.ClientSession(relay.url, headers=headers) as http,
            http.post(f"/v1/users/{old}/rename", json={"to": new}) as answer,
        ):
            assert answer.status < 300, await answer.text()
    await backend.send(names[-1], 2)
    token = await backend.mint_token(names[-1], "phone")
    assert await bodies(relay.url, token, tmp_path / "a.db") == [1, 2]


@pytest.mark.skipif(shutil.which("node") is None and "CI" not in os.environ, reason="needs Node")
@pytest.mark.parametrize("way", list(Way))
async def test_the_javascript_client_refuses_it_as_well(
    relay: RelayProcess, backend: Backend, ann: str, bob: str, way: Way
) -> None:
    hers, his = await token_of(backend, ann), await token_of(backend, bob)
    for user in (ann, bob):
        await backend.send(user, f"for {user}")
    child = await asyncio.create_subprocess_exec(
        *(*NODE, str(WEB / "whose_cache.mjs"), way),
        env=os.environ | {"RELAY_URL": relay.url, "RELAY_TOKENS": f"{hers} {his} {hers}"},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, _ = await child.communicate()
    assert [json.loads(line) for line in out.splitlines()] == [
        ["caughtup", [f"for {ann}"]],
        ["another_user", [f"for {ann}"]],
        ["caughtup", [f"for {ann}"]],
    ]
    assert (await backend.device(bob, "phone"))["acked"] == 0
