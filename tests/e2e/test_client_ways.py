"""The client in this process, a real relay in another, and at times something between them that lets little through."""

import asyncio
import itertools
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from ears import WITHIN_S, a_client, body_is, token_of
from relay_process import RelayProcess

from relay.client import Backend, Client, Problem, Unreachable, Way, news, said
from relay.client.cache import Cache
from relay.client.fingerprints import Span
from relay.clock import SystemClock
from relay.ids import message_id

SETTINGS = {
    "RELAY_SERVER__QUIET_S": "0",
    "RELAY_POLL__CLIENT_S": "1",
    "RELAY_PUSH__LINGER_S": "60",
    "RELAY_WEBHOOKS__EXEMPT": '["127.0.0.1:9"]',
}
pytestmark = pytest.mark.asyncio(loop_scope="module")
GOODBYE_S = 10  # a device that says nothing lingers for longer
_users = itertools.count(1)


class HourLater(SystemClock):
    def now_ms(self) -> int:
        return super().now_ms() + 3_600_000


@pytest.fixture
def user() -> str:
    return f"bob-{next(_users)}"


@pytest.mark.parametrize("way", list(Way))
async def test_every_way_brings_what_was_missed_and_what_comes_and_acks_it(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path, way: Way
) -> None:
    token = await token_of(backend, user)
    ids = [(await backend.send(user, n))["id"] for n in range(3)]
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[way]) as (client, ear):
        await ear.until(news.CaughtUp)
        ids.append((await backend.send(user, "live"))["id"])
        await ear.until(news.MessageArrived, body_is("live"))
        await ear.until(news.Acked, lambda one: one.seq == 4)
        assert [one.message.id for one in ear.of(news.MessageArrived)] == ids
        assert [one.id for one in await client.history()] == ids
    assert (await backend.device(user, "phone"))["acked"] == 4


async def test_the_end_acks_what_came_in_the_last_moment_and_says_goodbye(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token = await token_of(backend, user)
    async with a_client(relay.url, token, tmp_path / "a.db") as (_, ear):
        await ear.until(news.CaughtUp)
        await backend.send(user, "last")
        await ear.until(news.MessageArrived)
    assert (await backend.device(user, "phone"))["acked"] == 1
    async with asyncio.timeout(GOODBYE_S):
        async for event, _ in backend.events(types=["device.offline"], poll_s=0.05):
            if event["data"]["user"] == user:
                break
    assert not (await backend.presence(user))["online"]


async def call(relay: RelayProcess, method: str, path: str, token: str, body: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.request(method, relay.url + path, json=body, headers=headers) as answer:
        answer.raise_for_status()


class Between:
    """A middle box that lets through only paths it does not refuse."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.refused: set[str] = set()
        self.status = 404
        self.once: dict[str, list[int]] = {}  # what it answers by itself, each once
        self.words: dict[str, Any] = {"text": "<h1>Not now</h1>"}
        self.lost: list[str] = []  # methods of requests that it passes on, each once, and whose answer is lost
        self.cuts = False
        self.answered = asyncio.Event()
        self.seen: list[str] = []

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path)
        if request.path in self.refused:
            return web.Response(status=self.status, text="<h1>Not here</h1>")
        if once := self.once.get(request.path):
            self.answered.set()
            return web.Response(status=once.pop(), **self.words)
        headers = {name: value for name, value in request.headers.items() if name != "Host"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as http,
            http.request(
                request.method, self.target + request.raw_path, headers=headers, data=await request.read()
            ) as answer,
        ):
            if request.method in self.lost:
                self.lost.remove(request.method)
                if self.cuts and request.transport is not None:
                    request.transport.close()
                return web.Response(status=502, text="<h1>No answer</h1>")
            passed = web.StreamResponse(status=answer.status)
            for name in ("Content-Type", "ETag", "Retry-After"):
                if name in answer.headers:
                    passed.headers[name] = answer.headers[name]
            await passed.prepare(request)
            async for piece in answer.content.iter_any():
                await passed.write(piece)
            await passed.write_eof()
            return passed


@pytest_asyncio.fixture(loop_scope="module")
async def between(relay: RelayProcess) -> AsyncIterator[tuple[Between, str]]:
    box = Between(relay.url)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", box.pass_on)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield box, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("ways", "refused", "way"),
    [
        (list(Way), {"/v1/device/ws"}, "streamed"),
        (list(Way), {"/v1/device/ws", "/v1/device/stream"}, "pulled"),
        ([Way.SSE, Way.LONG_POLL], {"/v1/device/stream"}, "pulled"),  # its welcome comes by a call, which is not barred
    ],
)
async def test_where_a_way_is_barred_the_next_one_is_taken(
    between: tuple[Between, str],
    backend: Backend,
    user: str,
    tmp_path: Path,
    ways: list[Way],
    refused: set[str],
    way: str,
) -> None:
    box, url = between
    box.refused = refused
    token = await token_of(backend, user)
    await backend.send(user, "missed")
    async with a_client(url, token, tmp_path / "a.db", ways=ways) as (_, ear):
        await ear.until(news.CaughtUp)
        await backend.send(user, "live")
        await ear.until(news.MessageArrived, body_is("live"))
    assert ear.of(news.Connected)[-1].transport == way
    assert [one.message.body for one in ear.of(news.MessageArrived)] == ["missed", "live"]


async def test_a_proxy_that_forbids_sockets_has_not_judged_the_device(
    between: tuple[Between, str], backend: Backend, user: str, tmp_path: Path
) -> None:
    box, url = between
    box.refused, box.status = {"/v1/device/ws"}, 403
    token = await token_of(backend, user)
    async with a_client(url, token, tmp_path / "a.db") as (_, ear):
        await ear.until(news.CaughtUp)
    assert ear.of(news.Connected)[-1].transport == "streamed"


@pytest.mark.parametrize("text", ['{"status": "ok"}', '{"status'])
@pytest.mark.parametrize("path", ["/v1/device", "/v1/device/ack", "/v1/device/sync", "/v1/device/heartbeat"])
async def test_whatever_something_before_the_relay_answers_in_its_place_it_is_asked_again(
    between: tuple[Between, str], backend: Backend, user: str, tmp_path: Path, path: str, text: str
) -> None:
    box, url = between
    box.once, box.words = {path: [200]}, {"text": text, "content_type": "application/json"}
    token = await token_of(backend, user)
    await backend.send(user, "missed")
    async with a_client(url, token, tmp_path / "a.db", ways=[Way.POLL], foreground=False) as (client, ear):
        await ear.until(news.MessageArrived)
        client.turn(foreground=True)  # says so in a heartbeat
        async with asyncio.timeout(WITHIN_S):
            await box.answered.wait()
        await backend.send(user, "live")
        await ear.until(news.MessageArrived, body_is("live"))
    assert [one.message.body for one in ear.of(news.MessageArrived)] == ["missed", "live"]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"status": "ok"}',
        '{"batches": 1, "as_of": "soon", "floor": 0, "ranges": []}',
        '{"batches": [{"from": "here"}], "as_of": null, "floor": "low", "ranges": [{}]}',
    ],
)
async def test_what_something_before_the_relay_answers_to_the_app_is_no_answer(
    between: tuple[Between, str], backend: Backend, user: str, tmp_path: Path, text: str
) -> None:
    box, url = between
    box.words = {"text": text, "content_type": "application/json"}
    token = await token_of(backend, user)
    await backend.send(user, "hi")
    async with a_client(url, token, tmp_path / "a.db", ways=[Way.SSE]) as (client, ear):
        await ear.until(news.CaughtUp)
        asked = {
            "/v1/device/verify": [client.verify],
            "/v1/device/sync": [lambda: client.fetch(message_id(0, 1)), lambda: client.fill_hole("g", Span(0, 5))],
        }
        for path, questions in asked.items():
            for ask in questions:
                box.once[path] = [200]
                with pytest.raises(Unreachable):
                    await ask()
                assert box.once[path] == []
        assert (await client.verify()).state == "ok"


@pytest.mark.parametrize("way", [Way.SSE, Way.LONG_POLL])
@pytest.mark.parametrize("status", [403, 404, 502])
async def test_words_that_something_before_the_relay_has_answered_are_said_again(
    relay: RelayProcess,
    between: tuple[Between, str],
    backend: Backend,
    user: str,
    tmp_path: Path,
    way: Way,
    status: int,
) -> None:
    box, url = between
    phone, laptop = await token_of(backend, user), await token_of(backend, user, "laptop")
    await backend.send(user, "hi", conversation={"type": "group", "id": "c-1"})
    async with (
        a_client(url, phone, tmp_path / "phone.db", ways=[way]) as (client, ear),
        a_client(relay.url, laptop, tmp_path / "laptop.db") as (_, other_ear),
    ):
        await other_ear.until(news.MessageArrived)
        await ear.until(news.Acked)
        box.once["/v1/device/ack"] = [status]
        await client.read("c-1", 1)
        assert (await other_ear.until(news.ReadElsewhere)).read_seq == 1
        assert box.once["/v1/device/ack"] == []


async def test_a_page_that_something_before_the_relay_has_refused_is_asked_for_again(
    between: tuple[Between, str], backend: Backend, user: str, tmp_path: Path
) -> None:
    box, url = between
    async with a_client(url, await token_of(backend, user), tmp_path / "a.db", ways=[Way.POLL]) as (_, ear):
        await ear.until(news.CaughtUp)
        box.once["/v1/device/sync"] = [404]
        await backend.send(user, "after")
        await ear.until(news.MessageArrived, body_is("after"))


async def test_a_read_marker_and_a_recall_reach_the_users_other_device(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    phone, laptop = await token_of(backend, user), await token_of(backend, user, "laptop")
    sent = await backend.send(user, "hi", conversation={"type": "group", "id": "c-1"})
    async with (
        a_client(relay.url, phone, tmp_path / "phone.db") as (client, ear),
        a_client(relay.url, laptop, tmp_path / "laptop.db") as (other, other_ear),
    ):
        await ear.until(news.MessageArrived)
        await other_ear.until(news.MessageArrived)
        await ear.until(news.Acked, lambda one: one.seq >= 1)
        await client.read("c-1", 1)
        await client.read("c-1", 0)  # she scrolls up again
        await client.shown(sent["id"])
        marker = await other_ear.until(news.ReadElsewhere)
        assert (marker.conversation, marker.read_seq) == ("c-1", 1)
        assert (await backend.cancel(sent["id"]))["status"] == "recalled"
        await other_ear.until(news.MessagesEnded)
        assert await other.history() == []
        assert client.cache.words() == {}


async def test_a_word_that_no_frame_has_room_for_is_refused_and_ends_no_connection(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token = await token_of(backend, user)
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[Way.WEBSOCKET]) as (client, ear):
        await ear.until(news.CaughtUp)
        await client.read("x" * 70_000, 1)
        assert (await ear.until(news.Refused)).code == "body_too_large"
        await backend.send(user, "after")
        await ear.until(news.Acked, lambda one: one.seq == 1)
        assert client.cache.words() == {}
    assert len(ear.of(news.Connected)) == 1


async def test_a_relay_that_restarts_or_dies_is_come_back_to_and_nothing_is_missed(tmp_path: Path) -> None:
    home = tmp_path / "relay"
    home.mkdir()
    relay = RelayProcess(home, SETTINGS)
    await relay.start()
    try:
        async with Backend(relay.url, relay.key) as backend:
            token = await token_of(backend, "ann")
            async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
                await ear.until(news.CaughtUp)
                for n, how in enumerate((signal.SIGTERM, signal.SIGKILL)):
                    await backend.send("ann", f"before {n}")
                    await relay.end(how)
                    sending = asyncio.create_task(backend.send("ann", f"meanwhile {n}"))  # repeated until it is up
                    await relay.start()
                    await sending
                    client.poke()  # by itself it may take a minute: the longer the relay was away, the longer it waits
                    await ear.until(news.MessageArrived, body_is(f"meanwhile {n}"))
                expected = ["before 0", "meanwhile 0", "before 1", "meanwhile 1"]
                assert [one.body for one in await client.history()] == expected
                assert [one.message.body for one in ear.of(news.MessageArrived)] == expected
    finally:
        await relay.aclose()


async def test_a_token_that_counts_no_more_is_asked_for_anew(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    asked = 0

    async def source() -> str:
        nonlocal asked
        asked += 1
        return await token_of(backend, user)

    async with a_client(relay.url, source, tmp_path / "a.db") as (_, ear):
        await ear.until(news.CaughtUp)
        await backend.revoke_tokens(user, "phone")
        await ear.until(news.Disconnected)
        await backend.send(user, "after")
        await ear.until(news.MessageArrived, body_is("after"))
    assert asked == 2


async def test_a_cache_is_compared_on_demand(relay: RelayProcess, backend: Backend, user: str, tmp_path: Path) -> None:
    token = await token_of(backend, user)
    await backend.send_batch([{"to": {"users": [user]}, "body": n} for n in range(300)])
    async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
        await ear.until(news.CaughtUp)
        assert await client.verify() == news.Verified("ok", 0, 1, 0)


# --- the backend's side -----------------------------------------------------------------------------------------------


async def test_a_batch_has_a_result_for_each_item_in_order(backend: Backend, user: str) -> None:
    await backend.put_device(user, "phone")
    items: list[dict[str, Any]] = [{"to": {"users": [user]}, "body": n} for n in range(501)]
    items[7] = {"to": {"users": []}, "body": 7}
    results = await backend.send_batch(items)
    assert [one["index"] for one in results] == list(range(501))
    assert [one["index"] for one in results if one["status"] == "rejected"] == [7]


async def test_the_same_key_sends_once(backend: Backend, user: str) -> None:
    await backend.put_device(user, "phone")
    first = await backend.send(user, "once", key="order-17")
    assert (await backend.send(user, "once", key="order-17"))["id"] == first["id"]
    with pytest.raises(Problem) as refused:
        await backend.send(user, "another", key="order-17")
    assert refused.value.code == "idempotency_conflict"


async def test_a_refusal_names_the_field_and_how_to_mend_it(backend: Backend, user: str) -> None:
    with pytest.raises(Problem) as refused:
        await backend.send(user, "hi", priority="very high")
    assert refused.value.status == 422
    assert refused.value.errors[0]["pointer"] == "/priority"
    assert "/priority" in str(refused.value)


@pytest.mark.parametrize("cuts", [False, True])
async def test_what_is_taken_away_is_so_also_where_the_answer_that_said_so_was_lost(
    relay: RelayProcess, between: tuple[Between, str], backend: Backend, user: str, tmp_path: Path, cuts: bool
) -> None:
    box, url = between
    box.cuts = cuts
    token = await token_of(backend, user)
    webhook = (await backend.create_webhook("http://127.0.0.1:9/"))["id"]
    async with a_client(relay.url, token, tmp_path / "a.db") as (_, ear):
        seen = await backend.send(user, "seen")
        await ear.until(news.Acked, lambda one: one.seq == 1)
    unseen = await backend.send(user, "unseen")
    async with Backend(url, relay.key) as other:
        for id_, status in ((seen["id"], "recalled"), (unseen["id"], "cancelled")):
            await other.device(user, "phone")  # over a connection that is kept
            box.lost = ["DELETE"]
            assert await other.cancel(id_) == {"id": id_, "status": status}
            assert box.lost == []
        for delete, *what in ((other.delete_webhook, webhook), (other.delete_device, user, "phone")):
            await other.webhooks()
            box.lost = ["DELETE"]
            await delete(*what)
            assert box.lost == []
    assert webhook not in [one["id"] for one in await backend.webhooks()]


async def test_what_something_before_the_relay_answers_to_a_backend_is_asked_again(
    relay: RelayProcess, between: tuple[Between, str], backend: Backend, user: str, tmp_path: Path
) -> None:
    """A send is on disk when its answer says so, and nobody else can."""
    box, url = between
    box.words = {"text": '{"status": "ok"}', "content_type": "application/json"}
    token, webhook = await token_of(backend, user), (await backend.create_webhook("http://127.0.0.1:9/"))["id"]
    async with Backend(url, relay.key) as other:
        for path, ask in (
            ("/v1/messages", lambda: other.send(user, "hi")),
            ("/v1/messages/batch", lambda: other.send_batch([{"to": {"users": [user]}, "body": "hi"}])),
            ("/v1/presence/query", lambda: other.online([user])),
            (f"/v1/webhooks/{webhook}", lambda: other.delete_webhook(webhook)),
        ):
            box.once[path] = [200]
            await ask()
            assert box.once[path] == []
        box.once[f"/v1/users/{user}/devices/phone/token"] = [200]
        with pytest.raises(Unreachable):
            await other.mint_token(user, "phone")
    assert webhook not in [one["id"] for one in await backend.webhooks()]
    async with a_client(relay.url, token, tmp_path / "a.db") as (client, ear):
        await ear.until(news.CaughtUp)
        assert [one.body for one in await client.history()] == ["hi", "hi"]


async def test_what_was_taken_away_before_is_said_so_also_to_a_repeat_of_what_was_not_done(
    relay: RelayProcess, between: tuple[Between, str], backend: Backend, user: str
) -> None:
    box, url = between
    await backend.put_device(user, "phone")
    sent = await backend.send(user, "hi")
    await backend.cancel(sent["id"])
    box.words = {"text": '{"code": "rate_limited", "retryable": true}', "content_type": "application/problem+json"}
    async with Backend(url, relay.key) as other:
        for path, again, code in (
            (f"/v1/messages/{sent['id']}", lambda: other.cancel(sent["id"]), "state_conflict"),
            ("/v1/webhooks/whe_1", lambda: other.delete_webhook("whe_1"), "not_found"),
        ):
            box.once[path] = [429]
            with pytest.raises(Problem) as refused:
                await again()
            assert (refused.value.code, box.once[path]) == (code, [])


async def test_a_message_can_be_followed_to_its_end(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token = await token_of(backend, user)
    sent = await backend.send(user, "hi")
    async with a_client(relay.url, token, tmp_path / "a.db") as (_, ear):
        await ear.until(news.Acked, lambda one: one.seq == 1)
        assert await backend.online([user]) == {user: True}
    trace = await backend.message(sent["id"])
    assert trace["recipients"][0]["user"] == user
    kinds = {event["type"] async for event, _ in backend.events()}
    assert "delivery.acked" in kinds


async def test_what_another_process_has_stored_is_shown_in_its_place_and_gone_on_from(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    """The app's extension, while the app itself is in the background."""
    token, path = await token_of(backend, user), tmp_path / "a.db"

    async def shown(client: Client) -> list[Any]:
        return [message.body async for message in client.messages()]

    async with a_client(relay.url, token, path) as (app, ear):
        showing = asyncio.create_task(shown(app))
        await ear.until(news.CaughtUp)
        app.turn(foreground=False)
        async with a_client(relay.url, token, path) as (_, extension):
            await ear.until(news.Replaced)
            await backend.send(user, "meanwhile")
            await extension.until(news.Acked, lambda one: one.seq == 1)
        app.turn(foreground=True)
        await ear.until(news.Connected, lambda one: one.verdict == "resume")
        await backend.send(user, "after")
        await ear.until(news.MessageArrived)
    assert await showing == ["meanwhile", "after"]
    assert [one.reason for one in ear.of(news.Connected)] == ["no_cursor", None], "it had the extension's cursor"


async def test_what_has_expired_is_not_shown_at_a_connection_either(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token, path = await token_of(backend, user), tmp_path / "a.db"
    await backend.send(user, "the door is open", ttl_s=60)
    async with a_client(relay.url, token, path) as (_, ear):
        await ear.until(news.Acked, lambda one: one.seq == 1)

    async def shown(client: Client) -> list[Any]:
        return [message.body async for message in client.messages()]

    async with a_client(relay.url, token, path, clock=HourLater()) as (client, ear):
        showing = asyncio.create_task(shown(client))
        await ear.until(news.CaughtUp)
        await backend.send(user, "good evening")
        await ear.until(news.MessageArrived)
    assert await showing == ["good evening"]


async def test_what_another_process_has_put_into_the_cache_is_said_on_the_next_connection(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    """An app's extension has the same cache open, and no connection of its own."""
    token = await token_of(backend, user)
    sent = await backend.send(user, "hi")
    async with a_client(relay.url, token, tmp_path / "a.db") as (_, ear):
        await ear.until(news.Acked, lambda one: one.seq == 1)
        extension = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=1)
        extension.put_words(dict([said.receipt(sent["id"], "opened")]))
        store = {"id": extension.store_id}
        await call(relay, "PUT", "/v1/device", token, {"store": store})  # takes over, so that the client comes back
        await ear.until(news.Disconnected)
        await ear.until(news.Acked, lambda _: len(ear.of(news.Acked)) > 1)
        assert extension.words() == {}
        extension.close()
    assert "delivery.receipt" in {event["type"] async for event, _ in backend.events()}


async def test_a_gateway_reports_the_devices_whose_sockets_it_owns(backend: Backend, user: str) -> None:
    await backend.put_device(user, "phone")
    answer = await backend.report_presence([{"user": user, "device": "phone", "state": "foreground"}])
    assert [one["status"] for one in answer["results"]] == ["ok"]
    assert await backend.online([user]) == {user: True}


async def test_who_cannot_be_reached_is_said_so_in_time() -> None:
    async with Backend("http://127.0.0.1:9", "rk_x", try_for_s=0.2) as backend:
        with pytest.raises(Unreachable):
            await backend.send("ann", "hi")


async def test_what_a_push_is_about_is_fetched_before_all_that_comes_before_it(
    relay: RelayProcess, backend: Backend, user: str, tmp_path: Path
) -> None:
    token = await token_of(backend, user)
    ids = [(await backend.send(user, n))["id"] for n in range(5)]
    async with a_client(relay.url, token, tmp_path / "a.db", ways=[Way.POLL]) as (client, ear):
        await ear.until(news.CaughtUp)
    ids += [(await backend.send(user, n))["id"] for n in range(5, 8)]
    client = Client(relay.url, token, cache=tmp_path / "a.db", ways=[Way.POLL])
    async with client:
        client.turn(foreground=False)
        fetched = await client.fetch(ids[7], ids[2], "01900000-0000-7000-8000-000000000000")
        assert [one.body for one in fetched] == [7, 2]
        await client.caught_up(10)
        assert sorted(one.body for one in await client.history()) == list(range(8)), "each once"
        assert (await client.verify()).state == "ok"
