"""Every bound of a running relay is filled to its brim (safety §5, OVL-1, OVL-2, OVL-4): who comes then is told to wait, in
words and in numbers; who must always be heard is; and afterwards all is as before."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from raw_socket import dialled
from running_relay import Answer, Face, HeldClock, Running, running

from relay.clock import Clock
from relay.model import DeviceKey
from relay.realtime.protocol import SUBPROTOCOL
from relay.shedding import Shed

HANDLERS = 2


@asynccontextmanager
async def serving(folder: Path, settings: dict[str, str], *, clock: Clock | None = None) -> AsyncIterator[Face]:
    with running(folder, settings, clock=clock) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            yield face


def told_to_wait(answer: Answer, status: int, code: str, *, base_s: float) -> bool:
    """OVL-2: whole seconds in the header, spread by a quarter, and the exact time in the body."""
    assert answer.refused(status, code)
    assert answer.json["retryable"] is True
    wait_ms = answer.json["retry_after_ms"]
    assert 750 * base_s <= wait_ms <= 1250 * base_s
    assert wait_ms <= 1000 * int(answer.headers["Retry-After"]) < wait_ms + 2000
    return True


@asynccontextmanager
async def busy(relay: Running, count: int) -> AsyncIterator[None]:
    """So many requests whose bodies do not come to their end."""
    lines = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(
            f"POST /v1/messages HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {relay.key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        lines.append(writer)
    async with asyncio.timeout(10):
        while relay.relay.gate.busy < count:
            await asyncio.sleep(0.01)  # noqa: TID251 - looks again
    yield
    for writer in lines:
        writer.close()
        await writer.wait_closed()


async def until(face: Face, status: int) -> Answer:
    """The first answer to a send that has this status."""
    async with asyncio.timeout(10):
        while (answer := await face.send()).status != status:
            pass
    return answer


async def test_ovl_1_ovl_4_with_all_handlers_busy_sends_wait_and_acks_cancels_and_health_do_not(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, {"RELAY_SERVER__HANDLERS_MAX": str(HANDLERS)}) as face:
        first, second = await face.sent(), await face.sent()
        page = (await face.sync()).json["batches"][0]
        async with busy(face.of, HANDLERS):
            assert told_to_wait(await face.send(), 503, "overloaded", base_s=1)
            assert (await face.call("POST", "/v1/presence/query", {"users": ["ann"]})).status == 503
            assert (await face.call("DELETE", f"/v1/messages/{second}")).status == 200
            acked = await face.call("POST", "/v1/device/ack", {"cursor": page["cursor"]}, token=face.token)
            assert acked.status == 200
            assert (await face.sync()).status == 200
            for path in ("/healthz", "/readyz"):
                assert (await face.call("GET", path)).status == 200
        await until(face, 202)
        assert (await face.call("GET", f"/v1/messages/{first}")).status == 200
        assert await face.still_serves()


async def test_ovl_1_a_writers_queue_that_is_full_refuses_and_what_it_took_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.lanes.SENDS_MAX", 8)
    async with serving(tmp_path, {}) as face:
        first = await face.sent(body="first")
        cursor = (await face.sync()).json["batches"][0]["cursor"]
        gate, held = threading.Event(), threading.Event()

        def hold(conn: object, now_ms: int) -> None:
            held.set()
            gate.wait(20)

        holding = asyncio.run_coroutine_threadsafe(face.of.relay.engine.write(hold), face.of.loop)
        await asyncio.to_thread(held.wait, 10)
        sends = [asyncio.create_task(face.send(body=n)) for n in range(40)]
        done: set[asyncio.Task[Answer]] = set()
        async with asyncio.timeout(10):
            while len(done) < 20:  # the others are in the queue, and wait
                done, _ = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED, timeout=0.1)
        assert all(told_to_wait(one.result(), 503, "overloaded", base_s=1) for one in done)
        others = [  # OVL-4: there is room for these, whoever sends
            asyncio.create_task(face.call("DELETE", f"/v1/messages/{first}")),
            asyncio.create_task(face.call("POST", "/v1/device/ack", {"cursor": cursor}, token=face.token)),
            asyncio.create_task(face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)),
        ]
        async with asyncio.timeout(10):
            while face.of.relay.engine.depth() < 8 + len(others):  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)  # noqa: TID251 - looks again
        assert (await face.send()).status == 503
        gate.set()
        await asyncio.wrap_future(holding)
        assert [answer.status for answer in await asyncio.gather(*others)] == [200, 200, 200]
        answers = await asyncio.gather(*sends)
        assert {answer.status for answer in answers} == {202, 503}
        taken = [n for n, answer in enumerate(answers) if answer.status == 202]
        shown = [entry["body"] for entry in await face.inbox() if entry["kind"] == "message"]
        assert sorted(shown) == taken  # none of the refused ones is there
        assert await face.still_serves()


async def test_ovl_1_so_many_sockets_and_not_one_more(tmp_path: Path) -> None:
    async with serving(tmp_path, {"RELAY_LIMITS__SOCKETS_PER_NODE": "2"}) as face:
        tokens = [await face.device(device=f"d{n}") for n in range(3)]
        async with dialled(face.of.port, tokens[0], hello={}), dialled(face.of.port, tokens[1], hello={}):
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
            upgrade |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "relay.v1.json"}
            answer = await face.call("GET", "/v1/device/ws", token=tokens[2], headers=upgrade)
            assert (answer.status, answer.code) == (503, "overloaded")
            assert int(answer.headers["Retry-After"]) >= 1
            assert (await face.sync(token=tokens[2])).status == 200  # it may poll
        async with asyncio.timeout(10), dialled(face.of.port, tokens[2], hello={}):
            pass
        assert await face.still_serves()


async def test_ovl_2_flt_38_who_sends_too_fast_waits_and_nobody_else(tmp_path: Path) -> None:
    settings = {"RELAY_LIMITS__SEND_RATE_PER_S": "5", "RELAY_LIMITS__SEND_BURST": "10"}
    async with serving(tmp_path, settings, clock=HeldClock()) as face:
        other = Face(face.http, face.of, "bob")
        await other.device(key=face.of.other_key)
        flood = await asyncio.gather(*(face.send() for _ in range(60)))
        refused = [answer for answer in flood if answer.status != 202]
        assert len(refused) == 60 - (10 - 2)  # two of the burst have registered the device
        for answer in refused:
            assert answer.refused(429, "rate_limited")
            assert answer.json["retry_after_ms"] > 0
            assert int(answer.headers["Retry-After"]) >= 1
        assert (await other.send(token=face.of.other_key)).status == 202  # another app's key
        assert (await face.sync()).status == 200  # and devices


async def test_the_tenants_quota_refuses_sends_and_batches_until_devices_have_acked(tmp_path: Path) -> None:
    async with serving(tmp_path, {"RELAY_LIMITS__OPEN_DELIVERIES": "3"}) as face:
        for n in range(3):
            await face.sent(body=n)
        assert told_to_wait(await face.send(), 429, "tenant_quota_exceeded", base_s=60)
        batch = {"messages": [{"to": {"users": ["ann"]}, "body": 4}]}
        refused = await face.call("POST", "/v1/messages/batch", batch)
        assert told_to_wait(refused, 429, "tenant_quota_exceeded", base_s=60)
        page = (await face.sync()).json["batches"][0]
        acked = await face.call("POST", "/v1/device/ack", {"cursor": page["cursor"]}, token=face.token)
        assert acked.status == 200
        await face.of.does(face.of.relay.chores.count_open())
        assert (await face.send(body=4)).status == 202


async def test_ovl_4_what_is_least_important_is_refused_first_and_what_must_be_heard_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, {}) as face:
        shedding = face.of.relay.shedding
        monkeypatch.setattr(shedding, "looked", lambda *_: False)
        message = await face.sent()
        doomed = [await face.sent(body=n) for n in range(len(Shed) + 1)]
        cursor = (await face.sync()).json["batches"][0]["cursor"]

        async def connected() -> int:
            url = f"{face.of.url}/v1/device/ws"
            headers = {"Authorization": f"Bearer {face.token}"}
            try:
                async with face.http.ws_connect(url, protocols=(SUBPROTOCOL,), headers=headers):
                    return 101
            except aiohttp.WSServerHandshakeError as refused:
                return refused.status

        async def status(answer: Awaitable[Answer]) -> int:
            return (await answer).status

        calls: dict[Shed, list[Callable[[], Awaitable[int]]]] = {
            Shed.SEARCHES: [
                lambda: status(face.call("GET", "/v1/messages?user=ann")),
                lambda: status(face.call("GET", "/v1/logs")),
                lambda: status(face.call("GET", "/v1/device/history", token=face.token)),
            ],
            Shed.READS: [lambda: status(face.call("GET", f"/v1/messages/{message}"))],
            Shed.STATISTICS: [lambda: status(face.call("GET", "/v1/app-versions"))],
            Shed.WAITS: [lambda: status(face.sync(cursor=cursor, wait="1"))],
            Shed.CONNECTIONS: [connected],
            Shed.RESYNCS: [lambda: status(face.sync())],
            Shed.BULK: [
                lambda: status(face.send(priority="low")),
                lambda: status(
                    face.call(
                        "POST",
                        "/v1/messages/batch",
                        {"messages": [{"to": {"users": ["ann"]}, "body": 1, "priority": "low"}]},
                    )
                ),
            ],
            Shed.SENDS: [lambda: status(face.send())],
            Shed.URGENT: [lambda: status(face.send(priority="high"))],
        }
        for level in range(len(Shed) + 1):
            shedding.level = level
            for what, some in calls.items():
                for call in some:
                    assert (await call() == 503) == (what <= level), (what, level)
            assert (await face.call("DELETE", f"/v1/messages/{doomed[level]}")).status == 200
            acked = await face.call("POST", "/v1/device/ack", {"cursor": cursor}, token=face.token)
            assert acked.status == 200
            assert (await face.sync(cursor=cursor)).status == 200
            hello = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)
            assert hello.status == 200
            for path in ("/healthz", "/readyz"):
                assert (await face.call("GET", path)).status == 200
        assert told_to_wait(await face.send(), 503, "overloaded", base_s=5)


async def test_ovl_4_a_writers_queue_that_is_half_full_sheds_what_matters_less_and_then_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.lanes.SENDS_MAX", 8)
    monkeypatch.setattr("relay.shedding.HOLD_MS", 500)
    async with serving(tmp_path, {}) as face:
        gate, held = threading.Event(), threading.Event()

        def hold(conn: object, now_ms: int) -> None:
            held.set()
            gate.wait(20)

        holding = asyncio.run_coroutine_threadsafe(face.of.relay.engine.write(hold), face.of.loop)
        await asyncio.to_thread(held.wait, 10)
        sends = [asyncio.create_task(face.send(body=n)) for n in range(6)]
        await until_status(face, "low", 503)
        gate.set()
        await asyncio.wrap_future(holding)
        assert {answer.status for answer in await asyncio.gather(*sends)} == {202}
        await until_status(face, "low", 202)


async def until_status(face: Face, priority: str, status: int) -> None:
    """Sends of this priority get this answer at last."""
    async with asyncio.timeout(15):
        while True:
            sending = asyncio.create_task(face.send(priority=priority))
            done, _ = await asyncio.wait([sending], timeout=0.3)  # else it waits in the queue
            if done and sending.result().status == status:
                return
            sending.cancel()


async def test_so_many_connections_of_one_address_behind_our_proxy_and_other_addresses_have_theirs(
    tmp_path: Path,
) -> None:
    settings = {
        "RELAY_LIMITS__SOCKETS_PER_ADDRESS": "2",
        "RELAY_SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]',
    }
    async with serving(tmp_path, settings) as face, AsyncExitStack() as open_ones:
        tokens = iter([await face.device(device=f"d{n}") for n in range(8)])

        async def open_from(address: str) -> aiohttp.ClientWebSocketResponse:
            headers = {"Authorization": f"Bearer {next(tokens)}", "X-Forwarded-For": address}
            dial = face.http.ws_connect(f"{face.of.url}/v1/device/ws", protocols=(SUBPROTOCOL,), headers=headers)
            return await open_ones.enter_async_context(dial)

        first = await open_from("2001:db8:0:1::1")  # says no hello: it takes its place all the same
        await open_from("2001:db8:0:1:ffff::2")  # the same /64
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await open_from("2001:db8:0:1::3")
        assert refused.value.status == 429
        stream = await face.call(
            "GET", "/v1/device/stream", token=next(tokens), headers={"X-Forwarded-For": "2001:db8:0:1::4"}
        )
        assert told_to_wait(stream, 429, "rate_limited", base_s=10)
        assert "trusted_proxies" in stream.json["detail"]
        await open_from("2001:db8:0:2::1")
        await open_from("198.51.100.7")
        await first.close()
        async with asyncio.timeout(10):
            while face.of.relay.gate.busy > 3:
                await asyncio.sleep(0.01)  # noqa: TID251 - looks again
        await open_from("2001:db8:0:1::5")
        assert await face.still_serves()


async def test_so_many_long_polls_and_who_comes_then_may_ask_without_waiting(tmp_path: Path) -> None:
    async with serving(tmp_path, {"RELAY_LIMITS__WAITS_PER_NODE": "1"}) as face:
        other = await face.device(device="d2")
        for token in (face.token, other):
            assert (await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)).status == 200
        cursor = (await face.sync()).json["batches"][0]["cursor"]
        waiting = asyncio.create_task(face.sync(cursor=cursor, wait=30))
        async with asyncio.timeout(10):
            while not face.of.relay.hub.waits:
                await asyncio.sleep(0.01)  # noqa: TID251 - looks again
        assert told_to_wait(await face.sync(token=other, wait=30), 503, "overloaded", base_s=5)
        assert (await face.sync(token=other)).status == 200
        message = await face.sent()
        assert message in (await waiting).text
        assert (await face.sync(token=other, wait=30)).status == 200


def queues_of(page: str, gauge: str) -> dict[str, float]:
    return bounded_of(page, f"queue_{gauge}", "queue")


def bounded_of(page: str, gauge: str, label: str) -> dict[str, float]:
    found = re.findall(rf'^relay_{gauge}{{{label}="(\w+)"}} (\S+)$', page, re.MULTILINE)
    return {name: float(number) for name, number in found}


async def test_ovl_1_whatever_is_bounded_shows_its_bound_and_its_fill(tmp_path: Path) -> None:
    limits = {"RELAY_LIMITS__WAITS_PER_NODE": "7", "RELAY_LIMITS__SOCKETS_PER_NODE": "9"}
    async with serving(tmp_path, limits) as face:
        assert (await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)).status == 200
        cursor = (await face.sync()).json["batches"][0]["cursor"]
        waiting = asyncio.create_task(face.sync(cursor=cursor, wait=30))
        async with asyncio.timeout(10):
            while not face.of.relay.hub.waits:
                await asyncio.sleep(0.01)  # noqa: TID251 - looks again
        page = (await face.call("GET", "/metrics")).text
        await face.sent()
        await waiting
    sizes, bounds = queues_of(page, "size"), queues_of(page, "bound")
    assert sizes.keys() == bounds.keys()
    assert sizes["long_polls"] == 1
    files, handlers = bounds.pop("files"), {bounds.pop(lane) for lane in ("handlers", "syncs")}
    assert files > 0
    assert len(handlers) == 1
    assert bounds == {
        "comparisons": 18,
        "connections": 9,
        "long_polls": 7,
        "push_attempts": 512,
        "push_challenges": 1000,
        "push_withdrawals": 1000,
        "store_others": 4096,
        "store_others_bytes": 64 * 1024 * 1024,
        "store_reads": 32_768,
        "store_sends": 4096,
        "store_sends_bytes": 64 * 1024 * 1024,
        "webhook_attempts": 256,
    }


async def test_ovl_1_a_full_queue_of_challenges_or_withdrawals_counts_whom_it_leaves_out(tmp_path: Path) -> None:
    """Who waits already is not refused: it is there."""
    async with serving(tmp_path, {"RELAY_ACCOUNTS__MAIN__PROVIDER": "log"}) as face:
        challenger, withdrawer = face.of.relay.challenger, face.of.relay.withdrawer
        devices = [DeviceKey("default", f"user-{n}", "phone") for n in range(1003)]

        async def fill() -> None:  # in one turn of the loop, so nothing is taken out meanwhile
            for device in [*devices, devices[0]]:
                challenger.ask(device)
            withdrawer.look([device.user for device in [*devices, devices[0]]])

        await face.of.does(fill())
        page = (await face.call("GET", "/metrics")).text.splitlines()
    assert {
        'relay_queue_refused_total{queue="push_challenges"} 3.0',
        'relay_queue_refused_total{queue="push_withdrawals"} 3.0',
        'relay_queue_size{queue="push_withdrawals"} 1000.0',
    } <= set(page)


async def test_ovl_1_what_is_remembered_and_what_an_account_calls_shows_its_bound_and_its_fill(tmp_path: Path) -> None:
    accounts = {
        "RELAY_ACCOUNTS__MAIN__PROVIDER": "log",
        "RELAY_ACCOUNTS__MAIN__CONCURRENCY": "7",
        "RELAY_ACCOUNTS__HOME__PROVIDER": "gotify",
    }
    async with serving(tmp_path, accounts) as face:
        await face.sent()
        page = (await face.call("GET", "/metrics")).text
    bounds, sizes = bounded_of(page, "cache_bound", "cache"), bounded_of(page, "cache_size", "cache")
    assert bounds == {
        "callers": 50_000,
        "callers_unknown": 50_000,
        "credentials": 50_000,
        "failed_addresses": 50_000,
        "failed_keys": 50_000,
        "push_challenged": 10_000,
        "push_held": 20_000,
        "push_braked_hosts": 4096,
        "push_hosts": 4096,
        "push_impaired": 2000,
        "push_withdrawn": 20_000,
    }
    assert sizes.keys() == bounds.keys()
    assert sizes["credentials"] >= 1
    assert bounded_of(page, "account_calls_bound", "account") == {"main": 7, "home": 100}
    assert bounded_of(page, "account_calls", "account") == {"main": 0, "home": 0}


async def test_ovl_1_syncs_have_a_bound_of_their_own_that_the_metrics_show(tmp_path: Path) -> None:
    """So a flood of polls drives out no send, and acks come through whatever there is."""
    async with serving(tmp_path, {"RELAY_SERVER__HANDLERS_MAX": str(HANDLERS)}) as face:
        await face.sent()
        cursor = (await face.sync()).json["batches"][0]["cursor"]
        gate, held = threading.Event(), threading.Semaphore(0)

        def hold(conn: object, now_ms: int) -> None:
            held.release()
            gate.wait(20)

        # All readers are busy, so syncs stay where they are.
        holding = [asyncio.run_coroutine_threadsafe(face.of.relay.engine.read(hold), face.of.loop) for _ in range(2)]
        for _ in holding:
            await asyncio.to_thread(held.acquire, timeout=10)
        slow = [asyncio.create_task(face.sync()) for _ in range(HANDLERS)]
        async with asyncio.timeout(10):
            while face.of.relay.gate.busy < HANDLERS:
                await asyncio.sleep(0.01)  # noqa: TID251 - looks again
        for query in ({}, {"wait": "0"}, {"wait": "x"}):
            assert told_to_wait(await face.sync(**query), 503, "overloaded", base_s=1)
        assert (await face.send()).status == 202
        acked = await face.call("POST", "/v1/device/ack", {"cursor": cursor}, token=face.token)
        assert acked.status == 200
        page = (await face.call("GET", "/metrics")).text.splitlines()
        gate.set()
        assert [(await one).status for one in slow] == [200] * HANDLERS
        assert [one.result(10) for one in holding] == [None, None]
        assert {
            f'relay_queue_size{{queue="syncs"}} {HANDLERS}.0',
            f'relay_queue_bound{{queue="syncs"}} {HANDLERS}.0',
            'relay_queue_refused_total{queue="syncs"} 3.0',
            'relay_queue_size{queue="handlers"} 1.0',
            'relay_queue_bound{queue="store_reads"} 32768.0',
        } <= set(page)
        assert (await face.sync()).status == 200
        assert await face.still_serves()
