"""Messages that a device sends itself: once, whatever happens between the outbox and the answer (protocol §15, 10)."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from client_process import AppProcess, kept
from ears import Ear, a_client, body_is, token_of
from relay_process import RelayProcess

from relay.client import Backend, Way, http, news

PATH = "/v1/device/messages"
SETTINGS = {"RELAY_SERVER__QUIET_S": "0", "RELAY_APP__DEVICE_SENDS": "true"}
pytestmark = pytest.mark.asyncio(loop_scope="module")
_users = itertools.count(1)


class Friend:
    """Another user, and what has come for her."""

    def __init__(self, ear: Ear, name: str) -> None:
        self.ear = ear
        self.name = name

    @property
    def bodies(self) -> list[Any]:
        return [one.message.body for one in self.ear.of(news.MessageArrived)]


@pytest_asyncio.fixture(loop_scope="module")
async def friend(relay: RelayProcess, backend: Backend, tmp_path: Path) -> AsyncIterator[Friend]:
    name = f"friend-{next(_users)}"
    async with a_client(relay.url, await token_of(backend, name), tmp_path / "friend.db") as (_, ear):
        yield Friend(ear, name)


@pytest.fixture
def me() -> str:
    return f"me-{next(_users)}"


@pytest_asyncio.fixture(loop_scope="module")
async def answers_lost(relay: RelayProcess) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A way on which sends arrive, but their answers get lost, until the event is set."""
    well = asyncio.Event()

    def lose(request: web.Request) -> None:
        if request.path == PATH and not well.is_set():
            assert request.transport is not None
            request.transport.abort()

    async with _between(relay, after=lose) as url:
        yield url, well


@pytest_asyncio.fixture(loop_scope="module")
async def a_stranger_answers(relay: RelayProcess) -> AsyncIterator[tuple[str, list[web.Response]]]:
    """A way on which something before the relay answers sends by itself: with each of these, once."""
    answers: list[web.Response] = []
    async with _between(
        relay, instead=lambda request: answers.pop(0) if request.path == PATH and answers else None
    ) as url:
        yield url, answers


@asynccontextmanager
async def _between(
    relay: RelayProcess,
    *,
    instead: Callable[[web.Request], web.Response | None] = lambda _: None,
    after: Callable[[web.Request], None] = lambda _: None,
) -> AsyncIterator[str]:
    """A proxy before the relay: what it answers `instead`, and what befalls a request `after` the relay has had it."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        if (own := instead(request)) is not None:
            return own
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                request.method, relay.url + request.raw_path, headers=headers, data=await request.read()
            ) as answer,
        ):
            body = await answer.read()
        after(request)
        return web.Response(status=answer.status, body=body, content_type=answer.content_type)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_what_is_sent_reaches_the_other_and_is_in_every_cache_of_the_sender_once(
    relay: RelayProcess, backend: Backend, friend: Friend, me: str, tmp_path: Path
) -> None:
    phone, tablet = await token_of(backend, me), await token_of(backend, me, "tablet")
    async with (
        a_client(relay.url, phone, tmp_path / "phone.db") as (client, ear),
        a_client(relay.url, tablet, tmp_path / "tablet.db") as (other, other_ear),
    ):
        keys = [await client.send({"n": n}, to=friend.name, conversation={"id": "c-1"}) for n in range(3)]
        for key in keys:
            await ear.until(news.Sent, lambda one, key=key: one.key == key)  # type: ignore[misc]
        await friend.ear.until(news.MessageArrived, body_is({"n": 2}))
        await other_ear.until(news.MessageArrived, body_is({"n": 2}))
        ids = [one.id for one in ear.of(news.Sent)]
        for one in (client, other):
            history = await one.history(conversation="c-1")
            assert [(message.id, message.kind, message.client_ref) for message in history] == [
                (id_, "own", key) for id_, key in zip(ids, keys, strict=True)
            ]
            assert {message.sender.user for message in history if message.sender} == {me}
        assert await client.unsent() == []
        await ear.until(news.Acked, lambda one: one.seq >= 3)
        assert await client.verify() == news.Verified("ok", 0, 1, 0)
    assert friend.bodies == [{"n": 0}, {"n": 1}, {"n": 2}]
    async with a_client(relay.url, phone, tmp_path / "phone.db") as (client, ear):
        await ear.until(news.CaughtUp)
        assert [one.id for one in await client.history()] == ids, "a later session is told nothing twice"


async def test_where_a_socket_stands_messages_go_over_it_as_far_as_it_takes_them(
    relay: RelayProcess, backend: Backend, friend: Friend, me: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit a frame, or would be more frames than the relay takes, goes by a call. The order stays."""
    posted: list[str] = []
    call = http.call

    async def noted(session: Any, method: str, url: str, **more: Any) -> http.Answer:
        if url.endswith(PATH):
            posted.append(more["headers"]["Idempotency-Key"])
        return await call(session, method, url, **more)

    monkeypatch.setattr(http, "call", noted)
    async with a_client(relay.url, await token_of(backend, me), tmp_path / "phone.db") as (client, ear):
        await ear.until(news.CaughtUp)
        small = await client.send("small", to=friend.name)
        await ear.until(news.Sent, lambda one: one.key == small)
        refused = await client.send("to nobody", group="no such group")
        assert (await ear.until(news.SendRefused)).key == refused
        assert posted == []
        big = await client.send("x" * 63_000, to=friend.name)
        await ear.until(news.Sent, lambda one: one.key == big)
        assert posted == [big]
        many = [await client.send(n, to=friend.name) for n in range(25)]
        await ear.until(news.Sent, lambda one: one.key == many[-1])
        assert set(posted) < {big, *many}
        assert len(posted) > 1
        await friend.ear.until(news.MessageArrived, body_is(24))
        assert friend.bodies == ["small", "x" * 63_000, *range(25)]
        assert ear.of(news.Disconnected) == []


async def test_what_is_sent_while_the_relay_is_away_goes_in_order_when_it_is_back(tmp_path: Path) -> None:
    home = tmp_path / "relay"
    home.mkdir()
    relay = RelayProcess(home, SETTINGS)
    await relay.start()
    try:
        async with Backend(relay.url, relay.key) as backend:
            phone, bob = await token_of(backend, "ann"), await token_of(backend, "bob")
            async with a_client(relay.url, phone, tmp_path / "phone.db") as (client, ear):
                await ear.until(news.CaughtUp)
                await relay.end(signal.SIGKILL)
                keys = [await client.send(n, to="bob") for n in range(3)]
                assert [one.message["body"] for one in await client.unsent()] == [0, 1, 2]
                await relay.start()
                async with a_client(relay.url, bob, tmp_path / "bob.db") as (_, bobs):
                    await bobs.until(news.MessageArrived, body_is(2))
                    assert [one.message.body for one in bobs.of(news.MessageArrived)] == [0, 1, 2]
                await ear.until(news.Sent, lambda one: one.key == keys[-1])
                assert await client.unsent() == []
    finally:
        await relay.aclose()


async def test_a_lost_answer_makes_no_second_message(
    answers_lost: tuple[str, asyncio.Event], backend: Backend, friend: Friend, me: str, tmp_path: Path
) -> None:
    url, well = answers_lost
    async with a_client(url, await token_of(backend, me), tmp_path / "phone.db", ways=[Way.LONG_POLL]) as (client, ear):
        await client.send("once", to=friend.name)
        await friend.ear.until(news.MessageArrived, body_is("once"))
        assert [one.message["body"] for one in await client.unsent()] == ["once"]
        well.set()
        await ear.until(news.Sent)
        after = await client.send("after", to=friend.name)
        await friend.ear.until(news.MessageArrived, body_is("after"))
        await ear.until(news.Sent, lambda one: one.key == after)  # the friend may have it before its sender knows
        assert await client.unsent() == []
    assert friend.bodies == ["once", "after"]


async def test_only_the_relay_decides_what_becomes_of_a_message(
    a_stranger_answers: tuple[str, list[web.Response]],
    backend: Backend,
    friend: Friend,
    me: str,
    tmp_path: Path,
) -> None:
    """A page of a gateway, or of a hotel's network, says nothing of it: neither that it was taken nor that it never will be."""
    url, answers = a_stranger_answers
    page = {"text": "<html>Log in</html>", "content_type": "text/html"}
    answers += [
        web.Response(status=200, **page),  # type: ignore[arg-type]
        web.Response(status=404, **page),  # type: ignore[arg-type]
        web.json_response({"code": "blocked", "errors": "blocked", "retry_after_ms": "soon"}, status=403),
        web.json_response({"status": "ok", "id": "1", "seq": 1, "h": "1"}),
    ]
    async with a_client(url, await token_of(backend, me), tmp_path / "phone.db", ways=[Way.LONG_POLL]) as (client, ear):
        key = await client.send("hi", to=friend.name)
        await ear.until(news.Sent, lambda one: one.key == key)
        assert ear.of(news.SendRefused) == []
        assert answers == []
        await friend.ear.until(news.MessageArrived, body_is("hi"))  # its sender may know before
    assert friend.bodies == ["hi"]


async def test_an_app_that_is_killed_and_upgraded_during_a_send_has_sent_once(
    relay: RelayProcess,
    answers_lost: tuple[str, asyncio.Event],
    backend: Backend,
    friend: Friend,
    me: str,
    tmp_path: Path,
) -> None:
    """Protocol 10.5: the outbox is in the store that is upgraded, and the key stays."""
    cache = tmp_path / "phone.db"
    said = {"token": await token_of(backend, me), "cache": str(cache), "schema": 1}
    sends = [{"body": "during", "to": friend.name}]
    async with AppProcess(said | {"url": answers_lost[0], "version": "1.0", "sends": sends, "ways": ["poll"]}) as old:
        await friend.ear.until(news.MessageArrived, body_is("during"))
        await old.kill()
        assert not old.of("Sent")
    async with AppProcess(said | {"url": relay.url, "version": "2.0"}) as new:
        await new.until("Sent")
        await new.until("Verified", state="ok")
    assert friend.bodies == ["during"]
    assert len(kept(cache)) == 1


async def test_the_copy_of_a_message_whose_answer_never_came_ends_its_wait(
    relay: RelayProcess,
    answers_lost: tuple[str, asyncio.Event],
    backend: Backend,
    friend: Friend,
    me: str,
    tmp_path: Path,
) -> None:
    token, cache = await token_of(backend, me), tmp_path / "phone.db"
    async with a_client(answers_lost[0], token, cache, ways=[Way.POLL]) as (client, _):
        key = await client.send("hi", to=friend.name)
        await friend.ear.until(news.MessageArrived)
    async with a_client(relay.url, token, cache) as (client, ear):
        await ear.until(news.Sent, lambda one: one.key == key)
        await ear.until(news.CaughtUp)
        assert [one.body for one in await client.history()] == ["hi"]
        assert await client.unsent() == []
        await friend.ear.until(news.MessageArrived, body_is("hi"))  # its sender may know before
    assert friend.bodies == ["hi"]


async def test_what_will_never_be_taken_is_said_and_holds_nothing_up(
    relay: RelayProcess, backend: Backend, friend: Friend, me: str, tmp_path: Path
) -> None:
    async with a_client(relay.url, await token_of(backend, me), tmp_path / "phone.db") as (client, ear):
        wrong = await client.send("to a group of others", group="strangers")
        await client.send("good", to=friend.name)
        refused = await ear.until(news.SendRefused)
        assert (refused.key, refused.code) == (wrong, "recipient_unknown")
        assert refused.errors[0]["pointer"] == "/to/group"
        await friend.ear.until(news.MessageArrived, body_is("good"))
        await ear.until(news.Sent)
        (left,) = await client.unsent()
        assert (left.key, (left.refused or {})["code"]) == (wrong, "recipient_unknown")
        await client.drop_unsent(wrong)
        assert await client.unsent() == []


async def test_a_body_of_any_form_is_the_same_on_both_sides(
    relay: RelayProcess, backend: Backend, friend: Friend, me: str, tmp_path: Path
) -> None:
    bodies = [1e21, 1.0, -0.0, 1e-7, "ü\u2028\U0001f600\x7f\\/", {"b": [None, True, {}]}, ""]
    async with a_client(relay.url, await token_of(backend, me), tmp_path / "phone.db") as (client, ear):
        for body in bodies:
            await client.send(body, to=friend.name)
        await ear.until(news.Acked, lambda one: one.seq >= len(bodies))
        await friend.ear.until(news.MessageArrived, body_is(""))
        assert [one.body for one in await client.history()] == friend.bodies == bodies
        assert (await client.verify()).state == "ok"
