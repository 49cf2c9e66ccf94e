"""The Python client follows ultra groups over every way, with a real relay in another process (protocol 12.5)."""

import asyncio
import itertools
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ears import WITHIN_S, a_client, body_is, token_of
from relay_process import RelayProcess

from relay.client import Backend, Way, http, news
from relay.client.fingerprints import Span
from relay.client.follows import FOLLOWED_MAX

SETTINGS = {"RELAY_SERVER__QUIET_S": "0", "RELAY_POLL__CLIENT_S": "1"}
pytestmark = pytest.mark.asyncio(loop_scope="module")
_users = itertools.count(1)


@pytest.fixture
def user() -> str:
    return f"zoe-{next(_users)}"


class Group:
    """An ultra group, as a backend sees it."""

    def __init__(self, relay: RelayProcess, name: str) -> None:
        self.relay, self.name = relay, name

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.relay.key}"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.relay.url + path, json=body, headers=headers) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json() if answer.status != 204 else None

    async def members(self, *add: str, remove: tuple[str, ...] = ()) -> None:
        body = {"add": list(add), "remove": list(remove), "type": "ultra"}
        await self.call("PUT", f"/v1/groups/{self.name}/members", body)

    async def post(self, body: Any, **more: Any) -> str:
        sent = await self.call("POST", "/v1/messages", {"to": {"group": self.name}, "body": body} | more)
        return str(sent["id"])

    async def acked(self, message: str) -> int:
        return int((await self.call("GET", f"/v1/messages/{message}"))["timeline"]["acked"])


@pytest.mark.parametrize("way", list(Way))
async def test_every_way_brings_what_was_posted_and_what_comes_and_acks_it(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path, way: Way
) -> None:
    token, group = await token_of(backend, user), Group(relay, f"g-{user}")
    await group.members(user)
    ids = [await group.post(n) for n in range(3)]
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[way]) as (client, ear):
        await client.follow(group.name)
        await ear.until(news.MessageArrived, body_is(2))
        ids.append(await group.post("live"))
        await ear.until(news.MessageArrived, body_is("live"))
        direct = (await backend.send(user, "direct"))["id"]
        await ear.until(news.MessageArrived, body_is("direct"))
        assert [one.id for one in await client.history(conversation=group.name)] == ids
    assert await group.acked(ids[-1]) == 1
    ids.append(await group.post("while it was away"))
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[way]) as (client, ear):
        await ear.until(news.MessageArrived, body_is("while it was away"))
        assert [one.id for one in await client.history(conversation=group.name)] == ids
        assert direct in [one.id for one in await client.history()]


async def test_on_a_stream_nothing_is_asked_for_beside_it(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is followed, and no longer followed, while the stream stands, has another take its place."""
    asked: list[str] = []
    call = http.call

    async def noted(session: Any, method: str, url: str, **more: Any) -> http.Answer:
        asked.append(f"{method} {url.removeprefix(relay.url)}")
        return await call(session, method, url, **more)

    monkeypatch.setattr(http, "call", noted)
    token, first, second = await token_of(backend, user), Group(relay, f"g-{user}"), Group(relay, f"h-{user}")
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[Way.SSE]) as (client, ear):
        await ear.until(news.CaughtUp)
        for group in (first, second):
            await group.members(user)
            await group.post(f"in {group.name}")
            await client.follow(group.name)
            await ear.until(news.MessageArrived, body_is(f"in {group.name}"))
        await client.unfollow(second.name)
        await client.follow(first.name)
        await second.post("unheard")
        await first.post("live")
        await ear.until(news.MessageArrived, body_is("live"))
        assert [one.body for one in await client.history(conversation=second.name)] == [f"in {second.name}"]
    assert [one for one in asked if "/sync" in one] == []


async def test_a_timeline_whose_cursor_cannot_be_read_any_more_is_opened_anew_by_the_next_connection(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    """Its key has been retired, or was lost with what came after the backup that was restored."""
    token, path, group = await token_of(backend, user), tmp_path / "a.db", Group(relay, f"g-{user}")
    await group.members(user)
    await group.post("first")
    async with a_client(relay.url, token, path) as (client, ear):
        await client.follow(group.name)
        await ear.until(news.MessageArrived, body_is("first"))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE follow SET cursor = 'AQEB'")
    await group.post("second")
    async with a_client(relay.url, token, path) as (client, ear):
        assert (await ear.until(news.FollowRefused)).code == "invalid_cursor"
    async with a_client(relay.url, token, path) as (client, ear):
        await ear.until(news.MessageArrived, body_is("second"))
        assert ear.of(news.FollowRefused) == []
        assert [one.body for one in await client.history()] == ["first", "second"]


async def test_as_many_are_followed_as_the_relay_reads_at_once_and_the_inbox_comes_beside_them(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token, path = await token_of(backend, user), tmp_path / "a.db"
    async with a_client(relay.url, token, path) as (client, _):
        for n in range(FOLLOWED_MAX):
            await client.follow(f"g-{n}")
        with pytest.raises(ValueError, match="At most 50"):
            await client.follow("one more")
        await client.follow("g-1")
    await backend.send(user, "hi")
    async with a_client(relay.url, token, path, ways=[Way.POLL]) as (client, ear):
        await ear.until(news.MessageArrived, body_is("hi"))


@pytest.mark.parametrize("way", [Way.WEBSOCKET, Way.POLL])
async def test_a_cache_that_follows_more_gets_them_all_and_the_inbox(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path, way: Way
) -> None:
    """An earlier version did not count them."""
    token, path, group = await token_of(backend, user), tmp_path / "a.db", Group(relay, f"z-{user}")
    async with a_client(relay.url, token, path) as (_, ear):
        await ear.until(news.CaughtUp)
    with closing(sqlite3.connect(path)) as db, db:
        names = [f"g-{n}" for n in range(2 * FOLLOWED_MAX)] + [group.name]
        db.executemany("INSERT INTO follow (timeline) VALUES (?)", [(name,) for name in names])
    await group.members(user)
    await group.post("in the last one")
    await backend.send(user, "hi")
    async with a_client(relay.url, token, path, ways=[way]) as (_, ear):
        await ear.until(news.MessageArrived, body_is("hi"))
        await ear.until(news.MessageArrived, body_is("in the last one"))


async def test_a_poll_with_nothing_newer_in_any_of_many_timelines_is_a_304(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = asyncio.Event()
    call = http.call

    async def noted(*args: Any, **more: Any) -> http.Answer:
        answer = await call(*args, **more)
        if answer.status == 304:
            unchanged.set()
        return answer

    monkeypatch.setattr(http, "call", noted)
    token, groups = await token_of(backend, user), [Group(relay, f"{n}-{user}") for n in range(6)]
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[Way.POLL]) as (client, ear):
        for group in groups:
            await group.members(user)
            await group.post(group.name)
            await client.follow(group.name)
        for group in groups:
            await ear.until(news.MessageArrived, body_is(group.name))
        unchanged.clear()
        async with asyncio.timeout(WITHIN_S):
            await unchanged.wait()
        await groups[3].post("live")
        await ear.until(news.MessageArrived, body_is("live"))


async def test_a_long_absence_leaves_a_hole_that_can_be_filled(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    """F85."""
    token, group = await token_of(backend, user), Group(relay, f"g-{user}")
    await group.members(user)
    for n in range(205):
        await group.post(n)
    async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
        await client.follow(group.name)
        await ear.until(news.MessageArrived, body_is(204))
        assert await client.holes(group.name) == [Span(0, 5)]
        assert len(await client.history(conversation=group.name, limit=300)) == 200
        assert await client.fill_hole(group.name, Span(0, 3)) == 3
        assert await client.holes(group.name) == [Span(3, 5)]
        assert await client.fill_hole(group.name, Span(3, 5)) == 2
        assert await client.holes(group.name) == []


async def test_mentions_come_once_whichever_way_is_first_and_a_recall_takes_them_off(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token, group = await token_of(backend, user), Group(relay, f"g-{user}")
    await group.members(user)
    async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
        await client.follow(group.name)
        await ear.until(news.CaughtUp)
        id_ = await group.post("you", mentions=[user])
        await ear.until(news.MessageArrived, body_is("you"))
        await group.post("after")
        await ear.until(news.MessageArrived, body_is("after"))
        assert [one.message.id for one in ear.of(news.MessageArrived)].count(id_) == 1
        await group.call("DELETE", f"/v1/messages/{id_}")
        await ear.until(news.MessagesEnded)
        assert id_ not in [one.id for one in await client.history()]


async def test_what_is_no_group_of_this_user_is_said_and_is_in_nobodys_way(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token = await token_of(backend, user)
    async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
        await client.follow("nobody-knows-it")
        refused = await ear.until(news.FollowRefused)
        assert (refused.conversation, refused.code) == ("nobody-knows-it", "not_found")
        await backend.send(user, "still here")
        await ear.until(news.MessageArrived, body_is("still here"))


async def test_timelines_that_are_not_followed_are_told_of(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token, group = await token_of(backend, user), Group(relay, f"g-{user}")
    await group.members(user)
    await group.post(1)
    async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
        assert (await ear.until(news.TimelinesAhead)).heads == {group.name: 1}
        await client.follow(group.name)
        await ear.until(news.MessageArrived, body_is(1))
        await client.unfollow(group.name)
        await group.post(2)
        await backend.send(user, "direct")
        await ear.until(news.MessageArrived, body_is("direct"))
        assert [one.body for one in await client.history(conversation=group.name)] == [1]


@pytest.mark.parametrize("way", [Way.SSE, Way.LONG_POLL])
async def test_the_inbox_comes_whatever_names_are_followed_beside_it(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path, way: Way
) -> None:
    """Names of 128 characters, as the relay takes them, are longer than its request line when there are 50 of them."""
    token, group = await token_of(backend, user), Group(relay, f"z-{user}")
    await group.members(user)
    await backend.send(user, "hi")
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[way]) as (client, ear):
        for number in range(FOLLOWED_MAX - 1):
            await client.follow(f"{number:02}" + "\N{GRINNING FACE}" * 126)
        await client.follow(group.name)
        await ear.until(news.MessageArrived, body_is("hi"))
        await backend.send(user, "and again")
        await ear.until(news.MessageArrived, body_is("and again"))
        await group.post("to all")
        await ear.until(news.MessageArrived, body_is("to all"))
