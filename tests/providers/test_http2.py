"""Our HTTP/2 client over real sockets: what it waits for, what it sends again, and what it says about the rest."""

import asyncio
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from http2_scripted import Asked, Scripted, Wire, obliging, serving
from hyperframe.frame import GoAwayFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.contract import Outcome, Scope, Verdict
from providers.http import Reason, Refusal, Request, RequestInvalid, TransportError
from providers.http2 import Habits, Http2Transport, Limits, tls_context
from providers.http2_connection import Connection
from providers.http2_exchange import Exchange
from providers.http2_headers import block_of
from providers.sandbox.authority import Authority

LIMITS = Limits(total_s=20, connect_s=10)
STREAMS_MAX = SettingCodes.MAX_CONCURRENT_STREAMS
WINDOW = SettingCodes.INITIAL_WINDOW_SIZE


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.open(None)


def transport(**limits: float) -> Http2Transport:
    return Http2Transport(limits=replace(LIMITS, **limits))


def request(server: Scripted, name: str = "r", body: bytes = b"x", **fields: object) -> Request:
    return Request(url=f"{server.url}/3/device/{name}?a=b", headers={"x-id": name}, body=body, **fields)


async def failing(client: Http2Transport, asked: Request) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await client(asked)
    return caught.value


# The bytes before h2 sees them.

# What goes out, what comes back.


async def test_a_call_is_plain() -> None:
    async with serving() as server, transport() as client:
        answer = await client(request(server, "one", b"hello", method="POST"))
        assert (answer.status, answer.body, answer.truncated) == (200, b"one", False)
        (asked,) = server.all_asked
        assert asked.headers[":method"] == "POST"
        assert asked.headers[":path"] == "/3/device/one?a=b"
        assert asked.headers[":authority"] == f"localhost:{server.port}"
        assert asked.headers["user-agent"].startswith("push-relay/")
        assert asked.headers["content-length"] == "5"
        assert bytes(asked.body) == b"hello"


async def test_answers_keep_their_headers_and_their_own_order() -> None:
    held: list[tuple[Wire, Asked]] = []

    def backwards(wire: Wire, asked: Asked) -> None:
        held.append((wire, asked))
        if len(held) == 3:
            for wire, asked in reversed(held):
                wire.answer(asked, status=410, body=b"of " + asked.id.encode(), apns_id=asked.id)

    async with serving(Scripted(backwards)) as server, transport() as client:
        answers = await asyncio.gather(*(client(request(server, str(n))) for n in range(3)))
        assert [(a.status, a.header("apns-id"), a.body) for a in answers] == [
            (410, str(n), f"of {n}".encode()) for n in range(3)
        ]
        assert len(server.wires) == 1


async def test_a_request_without_a_body_and_another_method() -> None:
    async with serving() as server, transport() as client:
        assert (await client(request(server, "d", b"", method="DELETE"))).status == 200
        assert server.all_asked[0].headers[":method"] == "DELETE"
        assert "content-length" not in server.all_asked[0].headers


async def test_a_url_that_says_more_than_it_may_is_refused() -> None:
    async with transport() as client:
        for url in ("http://user@localhost/", "https://:443/", "https://localhost:99999/"):
            with pytest.raises(RequestInvalid):
                await client(Request(url=url))


@pytest.mark.parametrize(
    ("tail", "path"), [("", "/"), ("?a=/b", "/?a=/b"), ("/x//y?z=1", "/x//y?z=1"), ("/x?y#f", "/x?y")]
)
async def test_a_path_is_sent_as_it_stands(tail: str, path: str) -> None:
    async with serving() as server, transport() as client:
        await client(Request(url=server.url + tail))
        assert server.all_asked[-1].headers[":path"] == path


async def test_nothing_of_ours_enters_the_servers_header_table() -> None:
    async with serving(Scripted(settings={SettingCodes.HEADER_TABLE_SIZE: 0})) as server, transport() as client:
        for n in (1, 126, 127, 128, 300, 1000):
            value = "v" * n
            await client(Request(url=f"{server.url}/{n}", method="PUT", headers={"X-Value": value}, body=b"x"))
            asked = server.all_asked[-1].headers
            assert (asked["x-value"], asked[":path"], asked[":method"]) == (value, f"/{n}", "PUT")
        assert not list(server.wires[0].h2.decoder.header_table.dynamic_entries)


@pytest.mark.parametrize("status", ["9" * 5000, "2000", "20", "-20"])
async def test_a_status_that_is_none_is_garbage_and_the_connection_goes_on(status: str) -> None:
    statuses = iter([status, "200"])
    async with (
        serving(Scripted(lambda wire, asked: wire.answer(asked, status=next(statuses)))) as server,
        transport() as client,
    ):
        with pytest.raises(TransportError) as caught:
            await client(request(server))
        assert (caught.value.reason, caught.value.sent) == (Reason.GARBAGE, True)
        assert (await client(request(server))).status == 200
        assert len(server.wires) == 1


async def test_an_answer_is_read_up_to_its_limit_and_the_connection_goes_on() -> None:
    def long(wire: Wire, asked: Asked) -> None:
        wire.answer(asked, status=503, body=b"z" * 5000)

    async with serving(Scripted(long)) as server, transport() as client:
        answer = await client(request(server, answer_bytes_max=1000))
        assert (answer.status, len(answer.body), answer.truncated) == (503, 1000, True)
        assert (await client(request(server))).truncated is False
        assert len(server.wires) == 1


async def test_an_early_answer_ends_the_upload() -> None:
    def never(wire: Wire, asked: Asked) -> None:
        raise AssertionError("the body is never whole")

    server = Scripted(never, settings={WINDOW: 20_000}, generous=False)
    async with serving(server), transport() as client:
        call = asyncio.ensure_future(client(request(server, "big", b"x" * 50_000)))
        await server.until(lambda: bool(server.all_asked) and len(server.all_asked[0].body) == 20_000)
        server.wires[0].answer(server.all_asked[0], status=413)
        assert (await call).status == 413
        await server.until(lambda: server.all_asked[0].reset or not server.wires[0].asked)


# What it waits for.


async def test_no_stream_more_than_the_server_allows() -> None:
    server = Scripted(settings={STREAMS_MAX: 3})
    async with serving(server), transport(connections_max=1) as client:
        await asyncio.gather(*(client(request(server, str(n))) for n in range(50)))
    assert server.open_max <= 3
    assert server.processed == Counter({str(n): 1 for n in range(50)})


async def test_one_stream_first_and_more_when_the_server_says_so() -> None:
    held: list[Asked] = []

    def opening(wire: Wire, asked: Asked) -> None:
        if len(wire.order) == 1:
            wire.set(max_concurrent_streams=10)
            wire.answer(asked)
            return
        held.append(asked)
        if len(held) == 10:  # never, if they came one by one
            for one in held:
                wire.answer(one)
            held.clear()

    server = Scripted(opening, settings={STREAMS_MAX: 1})
    async with serving(server), transport() as client:
        await asyncio.gather(*(client(request(server, str(n))) for n in range(41)))
        assert len(server.wires) == 1, "a connection that is still opening up is no reason for another"


async def test_a_limit_that_sinks_is_kept_and_one_that_rises_again_is_used() -> None:
    held: list[Asked] = []
    server = Scripted(lambda _, asked: held.append(asked), settings={STREAMS_MAX: 5})
    async with serving(server), transport(connections_max=1) as client:
        first = [asyncio.ensure_future(client(request(server, f"a{n}"))) for n in range(5)]
        await server.until(lambda: len(held) == 5)
        wire = server.wires[0]
        wire.set(max_concurrent_streams=0)
        for asked in held:
            wire.answer(asked)
        await asyncio.gather(*first)
        more = asyncio.ensure_future(client(request(server, "b")))
        await wire.round_trip()
        assert len(held) == 5
        wire.set(max_concurrent_streams=1)
        await server.until(lambda: len(held) == 6)
        wire.answer(held[-1])
        assert (await more).status == 200


async def test_a_body_waits_for_its_window_before_its_request_starts() -> None:
    def first_only(wire: Wire, asked: Asked) -> None:
        if asked.id == "second":
            wire.answer(asked)

    server = Scripted(first_only, generous=False)
    async with serving(server), transport(connections_max=1) as client:
        first = asyncio.ensure_future(client(request(server, "first", b"x" * 63_000)))
        await server.until(lambda: bool(server.all_asked) and len(server.all_asked[0].body) == 63_000)
        second = asyncio.ensure_future(client(request(server, "second", b"x" * 4000)))
        await server.wires[0].round_trip()
        assert len(server.all_asked) == 1, "it would be said to have been sent if the window never came"
        server.wires[0].widen(2000)
        assert (await second).status == 200
        assert len(server.all_asked[1].body) == 4000
        server.wires[0].answer(server.all_asked[0])
        await first


async def test_no_window_at_all_is_waited_for() -> None:
    server = Scripted(settings={WINDOW: 0})
    async with serving(server), transport() as client:
        call = asyncio.ensure_future(client(request(server, "r", b"x" * 4000)))
        await server.until(lambda: bool(server.wires))
        await server.wires[0].round_trip()
        assert not server.all_asked
        server.wires[0].set(initial_window_size=100)
        assert (await call).status == 200


async def test_a_large_body_goes_window_by_window() -> None:
    server = Scripted(generous=True)
    async with serving(server), transport() as client:
        assert (await client(request(server, "big", b"x" * 300_000))).status == 200
        assert len(server.all_asked[0].body) == 300_000


async def test_a_window_shared_by_many_loses_none_of_them() -> None:
    server = Scripted(generous=True)
    async with serving(server), transport(connections_max=1) as client:
        await asyncio.gather(*(client(request(server, str(n), b"x" * 5000)) for n in range(60)))
    assert {len(asked.body) for asked in server.all_asked} == {5000}


async def test_full_connections_get_company_but_not_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("providers.http2.GROW_S", 0.0)
    held: list[tuple[Wire, Asked]] = []

    def first_only(wire: Wire, asked: Asked) -> None:
        if asked.id == "first":
            wire.answer(asked)
        else:
            held.append((wire, asked))

    server = Scripted(first_only, settings={STREAMS_MAX: 1})
    async with serving(server), transport(connections_max=2) as client:
        await client(request(server, "first"))
        calls = [asyncio.ensure_future(client(request(server, str(n)))) for n in range(4)]
        await server.until(lambda: len(held) == 2)
        assert {id(wire) for wire, _ in held} == {id(wire) for wire in server.wires}
        for n in range(4):
            await server.until(lambda n=n: len(held) > n)
            wire, asked = held[n]
            wire.answer(asked)
        await asyncio.gather(*calls)
        assert len(server.wires) == 2


# What it sends again, and nobody hears of it.


async def test_streams_above_the_last_one_are_sent_again_and_the_others_get_their_answers() -> None:
    held: list[Asked] = []

    def goes(wire: Wire, asked: Asked) -> None:
        if wire is not server.wires[0]:
            wire.answer(asked)
            return
        held.append(asked)
        if len(held) == 10:
            wire.goaway(held[3].stream_id)  # four are worked on, six never were
            for one in held[:4]:
                wire.answer(one)

    server = Scripted(goes)
    async with serving(server), transport() as client:
        answers = await asyncio.gather(*(client(request(server, str(n))) for n in range(10)))
        assert {answer.status for answer in answers} == {200}
        await server.until(lambda: server.gone == 1)  # and then it lets go of the old connection
    assert server.processed == Counter({str(n): 1 for n in range(10)})


async def test_a_graceful_goodbye_comes_in_two_steps() -> None:
    """RFC 9113, 6.8: first the highest number there is, then the true one."""
    held: list[Asked] = []

    def goes(wire: Wire, asked: Asked) -> None:
        if wire is not server.wires[0]:
            wire.answer(asked)
            return
        held.append(asked)
        if len(held) == 4:
            wire.goaway(2**31 - 1)
            wire.goaway(held[1].stream_id)
            wire.answer(held[0])
            wire.answer(held[1])

    server = Scripted(goes)
    async with serving(server), transport() as client:
        await asyncio.gather(*(client(request(server, str(n))) for n in range(4)))
    assert server.processed == Counter({str(n): 1 for n in range(4)})


async def test_goaway_with_zero_means_that_nothing_was_processed() -> None:
    def goes(wire: Wire, asked: Asked) -> None:
        if wire is server.wires[0]:
            wire.goaway(0, code=ErrorCodes.INTERNAL_ERROR, debug=b'{"reason":"Shutdown"}')
            wire.close()
        else:
            wire.answer(asked)

    server = Scripted(goes)
    async with serving(server), transport() as client:
        assert (await client(request(server))).status == 200
    assert server.processed == Counter({"r": 1})


async def test_a_refused_stream_is_sent_again() -> None:
    def refuses(wire: Wire, asked: Asked) -> None:
        if len(wire.order) <= 3:
            wire.refuse(asked)
        else:
            wire.answer(asked)

    async with serving(Scripted(refuses)) as server, transport() as client:
        assert (await client(request(server))).status == 200
        assert server.processed == Counter({"r": 1})


async def test_a_server_that_refuses_for_ever_is_believed_in_the_end() -> None:
    async with serving(Scripted(lambda wire, asked: wire.refuse(asked))) as server, transport() as client:
        error = await failing(client, request(server))
        assert not error.sent
        assert len(server.all_asked) < 30


async def test_repeated_goaways_lose_and_double_nothing() -> None:
    rng = random.Random(7)
    backlog: list[tuple[Wire, Asked]] = []

    def capricious(wire: Wire, asked: Asked) -> None:
        backlog.append((wire, asked))
        if len(backlog) < rng.randint(1, 20):
            return
        rng.shuffle(backlog)
        for owner, one in backlog:
            if one.stream_id <= last.get(id(owner), 2**31):
                owner.answer(one)
        backlog.clear()
        if rng.random() < 0.1 and id(wire) not in last:
            # Everything that it has seen so far is answered; what comes later was never processed.
            last[id(wire)] = wire.h2.highest_inbound_stream_id
            wire.goaway()

    def flushing(wire: Wire, asked: Asked) -> None:
        capricious(wire, asked)
        for owner, one in list(backlog):
            if one.stream_id > last.get(id(owner), 2**31):
                backlog.remove((owner, one))

    last: dict[int, int] = {}
    server = Scripted(flushing)
    async with serving(server), transport(streams_max=30, connections_max=1) as client:
        room = asyncio.Semaphore(200)

        async def one(n: int) -> None:
            async with room:
                answer = await client(request(server, str(n)))
                assert answer.body == str(n).encode() or answer.body == b""

        calls = [asyncio.ensure_future(one(n)) for n in range(1500)]
        while not all(call.done() for call in calls):
            await asyncio.wait(calls, timeout=0.1)
            for owner, left in backlog:
                if left.stream_id <= last.get(id(owner), 2**31):
                    owner.answer(left)
            backlog.clear()
        await asyncio.gather(*calls)
    assert len(last) > 5, "there was more than one goodbye"
    assert server.processed == Counter({str(n): 1 for n in range(1500)})


async def test_what_a_goodbye_has_against_us_is_not_tried_again() -> None:
    against = Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="BadCertificate")
    habits = Habits(refusal=lambda debug: against if b"BadCertificate" in debug else None)
    server = Scripted(lambda wire, _: wire.goaway(0, debug=b'{"reason":"BadCertificate"}'))
    async with serving(server), Http2Transport(limits=LIMITS, habits=habits) as client:
        with pytest.raises(Refusal) as caught:
            await client(request(server))
        assert caught.value.outcome == against
        assert len(server.wires) == 1


async def test_a_connection_that_is_spent_takes_nothing_new() -> None:
    habits = Habits(spent=lambda response: response.status == 403)

    def forbids(wire: Wire, asked: Asked) -> None:
        wire.answer(asked, status=403 if wire is server.wires[0] else 200)

    server = Scripted(forbids)
    async with serving(server), Http2Transport(limits=LIMITS, habits=habits) as client:
        assert (await client(request(server, "a"))).status == 403
        assert (await client(request(server, "b"))).status == 200
        assert len(server.wires) == 2


async def test_a_pinned_header_changes_on_a_connection_only_after_its_time() -> None:
    habits = Habits(pinned="authorization", pin_s=1200)
    async with serving() as server, Http2Transport(limits=LIMITS, habits=habits) as client:

        async def tell(token: str) -> None:
            await client(Request(url=server.url, headers={"authorization": token}))

        await tell("one")
        await tell("one")
        assert len(server.wires) == 1
        await tell("two")
        assert len(server.wires) == 2, "too soon for the first connection"
        for pool in client._pools.values():
            for connection in pool._connections:
                connection._pinned_s -= 1200
        await tell("three")
        assert len(server.wires) == 2
        seen = [[asked.headers["authorization"] for asked in wire.order] for wire in server.wires]
        assert sorted(map(len, seen)) == [1, 3] or sorted(map(len, seen)) == [2, 2]


async def test_full_of_connections_with_another_pin_room_is_made() -> None:
    habits = Habits(pinned="authorization", pin_s=1200)
    limits = replace(LIMITS, connections_max=1)
    async with serving() as server, Http2Transport(limits=limits, habits=habits) as client:
        for token in ("one", "two", "three"):
            await client(Request(url=server.url, headers={"authorization": token}))
        await server.until(lambda: server.gone == 2)
        assert [len(wire.order) for wire in server.wires] == [1, 1, 1]


async def test_a_connection_that_is_kept_small_for_long_is_replaced() -> None:
    held: list[tuple[Wire, Asked]] = []

    def first_wire_holds(wire: Wire, asked: Asked) -> None:
        if wire is server.wires[0]:
            held.append((wire, asked))
        else:
            wire.answer(asked)

    server = Scripted(first_wire_holds, settings={STREAMS_MAX: 1})
    async with serving(server), transport(connections_max=1, cramped_s=0.0) as client:
        first = asyncio.ensure_future(client(request(server, "first")))
        await server.until(lambda: len(held) == 1)
        second = asyncio.ensure_future(client(request(server, "second")))
        assert (await second).status == 200, "it need not wait for the first"
        wire, asked = held[0]
        wire.answer(asked)
        assert (await first).status == 200
        await server.until(lambda: server.gone == 1)


async def test_connections_that_are_spent_at_once_are_not_hammered() -> None:
    habits = Habits(spent=lambda response: response.status == 403)
    server = Scripted(lambda wire, asked: wire.answer(asked, status=403))
    async with serving(server), Http2Transport(limits=LIMITS, habits=habits) as client:
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            await client(request(server))
        assert asyncio.get_running_loop().time() - began > 0.3, "0.05 + 0.1 + 0.2 s"


# What may have arrived, and what certainly has not.


@pytest.mark.parametrize("code", [ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL, ErrorCodes.ENHANCE_YOUR_CALM])
async def test_any_other_reset_may_have_been_processed(code: ErrorCodes) -> None:
    async with serving(Scripted(lambda wire, asked: wire.refuse(asked, code))) as server, transport() as client:
        error = await failing(client, request(server))
        assert (error.reason, error.sent) == (Reason.RESET, True)
        assert len(server.all_asked) == 1


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_lost_connection_owns_up(orderly: bool) -> None:
    def lose(wire: Wire, asked: Asked) -> None:
        wire.close() if orderly else wire.drop()

    async with serving(Scripted(lose)) as server, transport() as client:
        error = await failing(client, request(server))
        assert (error.reason, error.sent) == (Reason.RESET, True)


async def test_a_connection_lost_after_goaway_owns_up_for_what_was_promised() -> None:
    held: list[Asked] = []

    def lose(wire: Wire, asked: Asked) -> None:
        if wire is not server.wires[0]:
            wire.answer(asked)
            return
        held.append(asked)
        if len(held) == 3:
            wire.goaway(held[0].stream_id)
            wire.close()

    server = Scripted(lose)
    async with serving(server), transport() as client:
        results = await asyncio.gather(*(client(request(server, str(n))) for n in range(3)), return_exceptions=True)
        first, *others = results
        assert isinstance(first, TransportError)
        assert first.sent
        assert all(not isinstance(one, BaseException) and one.status == 200 for one in others)


async def test_nobody_listening_is_a_failure_to_connect() -> None:
    async with serving() as server:
        pass
    async with transport() as client:
        error = await failing(client, request(server))
        assert (error.reason, error.sent) == (Reason.CONNECT_FAILED, False)


async def test_a_name_without_an_address() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError

    async with Http2Transport(resolve=nowhere) as client:
        error = await failing(client, Request(url="http://vendor.example/"))
        assert (error.reason, error.sent) == (Reason.DNS_FAILED, False)


async def test_the_next_address_is_tried_when_the_first_does_not_answer() -> None:
    async def several(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1", "127.0.0.3"]  # the server listens on one of them

    async with serving() as server, Http2Transport(resolve=several, limits=LIMITS) as client:
        assert (await client(request(server))).status == 200


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async with serving(Scripted(mute=True)) as server, transport(connect_s=0.1) as client:
        error = await failing(client, request(server))
        assert (error.reason, error.sent) == (Reason.TIMEOUT, False)


async def test_a_late_answer_is_a_timeout_and_the_stream_is_reset() -> None:
    def late(wire: Wire, asked: Asked) -> None:
        if asked.id != "late":
            wire.answer(asked)

    async with serving(Scripted(late)) as server, transport() as client:
        error = await failing(client, request(server, "late", total_s=0.1))
        assert (error.reason, error.sent) == (Reason.TIMEOUT, True)
        await server.until(lambda: server.all_asked[0].reset)
        assert (await client(request(server, "next"))).status == 200
        assert len(server.wires) == 1


async def test_a_request_that_never_left_the_queue_was_not_sent() -> None:
    server = Scripted(lambda *_: None, settings={STREAMS_MAX: 1})
    async with serving(server), transport(connections_max=1) as client:
        first = asyncio.ensure_future(client(request(server, "first")))
        await server.until(lambda: bool(server.all_asked))
        error = await failing(client, request(server, "second", total_s=0.05))
        assert (error.reason, error.sent) == (Reason.TIMEOUT, False)
        first.cancel()
        await asyncio.wait([first])


async def test_a_cancelled_call_frees_its_stream() -> None:
    def first_hangs(wire: Wire, asked: Asked) -> None:
        if asked.id != "hangs":
            wire.answer(asked)

    server = Scripted(first_hangs, settings={STREAMS_MAX: 1})
    async with serving(server), transport(connections_max=1) as client:
        call = asyncio.ensure_future(client(request(server, "hangs")))
        await server.until(lambda: bool(server.all_asked))
        call.cancel()
        await asyncio.wait([call])
        assert (await client(request(server, "next"))).status == 200


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x04\x00\x01", b"\xff" * 100])
async def test_what_is_not_http2_is_garbage(garbage: bytes) -> None:
    def babble(wire: Wire, asked: Asked) -> None:
        wire.transport.write(garbage)
        wire.transport.close()

    async with serving(Scripted(babble)) as server, transport() as client:
        error = await failing(client, request(server))
        assert error.reason in {Reason.GARBAGE, Reason.RESET}
        assert error.sent


# Its connections through the hours.


def after_silence(client: Http2Transport, silence_s: float) -> None:
    for pool in client._pools.values():
        for connection in pool._connections:
            connection._heard_s -= silence_s


async def test_a_quiet_connection_is_asked_first_and_a_dead_one_costs_no_request() -> None:
    async with serving() as server, transport(pong_s=0.1) as client:
        await client(request(server, "a"))
        server.wires[0].deaf = True  # as behind a router that has forgotten us
        after_silence(client, 61)
        assert (await client(request(server, "b"))).status == 200
        assert len(server.wires) == 2
    assert server.processed == Counter({"a": 1, "b": 1})


async def test_a_quiet_connection_that_answers_is_kept() -> None:
    async with serving() as server, transport() as client:
        await client(request(server, "a"))
        after_silence(client, 61)
        assert (await client(request(server, "b"))).status == 200
        assert (len(server.wires), server.wires[0].pings) == (1, 1)


async def test_an_idle_connection_is_kept_up_by_pings() -> None:
    async with serving() as server, transport(ping_s=0.02) as client:
        await client(request(server))
        await server.until(lambda: server.wires[0].pings >= 3)


async def test_an_idle_connection_is_closed_at_last() -> None:
    async with serving() as server, transport(idle_s=0.05) as client:
        await client(request(server, "a"))
        await server.until(lambda: server.gone == 1)
        assert (await client(request(server, "b"))).status == 200


async def test_an_old_connection_ends_what_it_has_and_takes_nothing_new() -> None:
    held: list[tuple[Wire, Asked]] = []
    server = Scripted(lambda wire, asked: held.append((wire, asked)) if asked.id == "a" else wire.answer(asked))
    async with serving(server), transport(age_s=0.1) as client:
        call = asyncio.ensure_future(client(request(server, "a")))
        await server.until(lambda: len(held) == 1)
        while len(server.wires) < 2:
            assert (await client(request(server, "b"))).status == 200
        wire, asked = held[0]
        wire.answer(asked)
        assert (await call).status == 200


async def test_when_connections_are_to_be_new_ones_what_is_under_way_ends_on_the_old() -> None:
    held: list[tuple[Wire, Asked]] = []
    server = Scripted(lambda wire, asked: held.append((wire, asked)) if asked.id == "a" else wire.answer(asked))
    async with serving(server), transport() as client:
        call = asyncio.ensure_future(client(request(server, "a")))
        await server.until(lambda: len(held) == 1)
        client.renew()
        for _ in range(2):
            assert (await client(request(server, "b"))).status == 200
        assert [[asked.id for asked in wire.order] for wire in server.wires] == [["a"], ["b", "b"]]
        wire, asked = held[0]
        wire.answer(asked)
        assert (await call).status == 200
        await server.until(lambda: server.gone == 1)


async def test_a_server_that_hangs_up_on_everyone_is_not_hammered() -> None:
    async with serving(Scripted(lambda wire, _: (wire.goaway(0), wire.close()))) as server, transport() as client:
        error = await failing(client, request(server, total_s=0.5))
        assert not error.sent
        assert len(server.wires) < 8


async def test_closing_fails_what_is_under_way() -> None:
    async with serving(Scripted(lambda *_: None)) as server:
        client = transport()
        call = asyncio.ensure_future(client(request(server)))
        await server.until(lambda: bool(server.all_asked))
        await client.aclose()
        with pytest.raises(TransportError) as caught:
            await call
        assert caught.value.sent
        with pytest.raises(RuntimeError):
            await client(request(server))


async def test_closing_while_connecting_leaves_nothing_behind() -> None:
    async with serving(Scripted(mute=True)) as server:
        client = transport()
        call = asyncio.ensure_future(client(request(server)))
        await server.until(lambda: bool(server.wires))
        await client.aclose()
        with pytest.raises(TransportError) as caught:
            await call
        assert not caught.value.sent


# TLS.


async def test_over_tls(authority: Authority) -> None:
    tls = authority.server_context(alpn=["h2"])
    async with serving(tls=tls) as server, Http2Transport(tls=tls_context(ca_data=authority.pem)) as client:
        answers = await asyncio.gather(*(client(request(server, str(n), b"x" * 4000)) for n in range(100)))
        assert {answer.status for answer in answers} == {200}


async def test_a_stranger_is_not_trusted(authority: Authority) -> None:
    async with serving(tls=authority.server_context(alpn=["h2"])) as server, transport() as client:
        error = await failing(client, request(server))
        assert (error.reason, error.sent) == (Reason.TLS_FAILED, False)
        assert not server.all_asked


async def test_another_name_is_not_trusted(authority: Authority) -> None:
    tls = authority.server_context(["other.example"], alpn=["h2"])
    async with serving(tls=tls) as server, Http2Transport(tls=tls_context(ca_data=authority.pem)) as client:
        assert (await failing(client, request(server))).reason is Reason.TLS_FAILED


async def test_a_server_without_http2_is_garbage(authority: Authority) -> None:
    tls = authority.server_context(alpn=["http/1.1"])
    async with serving(tls=tls) as server, Http2Transport(tls=tls_context(ca_data=authority.pem)) as client:
        error = await failing(client, request(server))
        assert error.reason in {Reason.GARBAGE, Reason.TLS_FAILED}
        assert not error.sent


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_that_the_server_will_not_have_is_the_operators_business(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    tls = authority.server_context(alpn=["h2"])
    tls.verify_mode = ssl.CERT_REQUIRED  # and we show none
    tls.load_verify_locations(cadata=authority.pem)
    tls.minimum_version = tls.maximum_version = version
    trusting = tls_context(ca_data=authority.pem)
    with refusing(tls) as port:
        asked = Request(url=f"https://localhost:{port}/")
        async with Http2Transport(tls=trusting, limits=LIMITS, habits=Habits(certified=True)) as client:
            with pytest.raises(Refusal) as caught:
                await client(asked)
            outcome = caught.value.outcome
            assert (outcome.verdict, outcome.scope) == (Verdict.MISCONFIGURED, Scope.ACCOUNT)
        async with Http2Transport(tls=trusting, limits=LIMITS) as plain:
            assert not (await failing(plain, asked)).sent


@contextmanager
def refusing(tls: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that shakes hands and no more. Blocking: asyncio's server swallows its TLS alerts."""

    def serve() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), tls.wrap_socket(raw, server_side=True) as secure:
                secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def test_the_plainest_server_is_enough() -> None:
    async with serving(Scripted(obliging)) as server, transport() as client:
        for n in range(5):
            assert (await client(request(server, str(n)))).body == str(n).encode()
        assert len(server.wires) == 1


class Deaf(asyncio.Transport):
    """Takes what is written, and answers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def write(self, data: object) -> None: ...

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Nobody:
    """A connection's home that keeps nothing."""

    def changed(self) -> None: ...

    def give_back(self, exchanges: list[Exchange]) -> None:
        for exchange in exchanges:
            exchange.fail(TransportError(Reason.RESET, sent=False))

    def useless(self) -> None: ...

    def refused(self, against_us: Outcome) -> None: ...

    def lost(self, connection: Connection) -> None: ...


def served(answers: list[tuple[int, bytes]]) -> bytes:
    """What an honest server would say to some requests."""
    server = H2Connection(H2Configuration(client_side=False))
    client = H2Connection()
    server.initiate_connection()
    client.initiate_connection()
    for n, _ in enumerate(answers):
        client.send_headers(2 * n + 1, [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")])
        client.end_stream(2 * n + 1)
    server.receive_data(client.data_to_send())
    for n, (status, body) in enumerate(answers):
        server.send_headers(2 * n + 1, [(":status", str(status)), ("apns-id", "x" * n)])
        server.send_data(2 * n + 1, body, end_stream=True)
    return (
        server.data_to_send() + GoAwayFrame(0, last_stream_id=3, additional_data=b'{"reason":"Shutdown"}').serialize()
    )


@given(
    answers=st.lists(st.tuples(st.integers(200, 599), st.binary(max_size=60)), min_size=1, max_size=4),
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255), st.sampled_from("sidx")), max_size=6),
    cut=st.integers(1, 200),
)
@settings(deadline=None, max_examples=100)
def test_whatever_a_server_sends_nothing_is_raised_and_every_request_ends(
    answers: list[tuple[int, bytes]], changes: list[tuple[int, int, str]], cut: int
) -> None:
    stream = bytearray(served(answers))
    for at, value, how in changes:
        at %= len(stream)
        match how:
            case "s":  # swapped for another byte
                stream[at] = value
            case "i":  # one more
                stream.insert(at, value)
            case "d":  # one less
                del stream[at]
            case "x":  # a bit turned
                stream[at] ^= 1 << value % 8

    async def play() -> None:
        connection = Connection(Nobody(), LIMITS, Habits())
        connection.connection_made(Deaf())
        settings_only = SettingsFrame(0).serialize()
        connection.data_received(settings_only)
        loop = asyncio.get_running_loop()
        exchanges = []
        for _ in answers:
            asked = Request(url="https://a/", method="GET")
            block = block_of(asked, authority="a", scheme="https", path="/", user_agent="u")
            exchange = Exchange(block, asked.body, pin=None, answer_bytes_max=50, future=loop.create_future())
            connection.start(exchange)
            exchanges.append(exchange)
        for at in range(0, len(stream), cut):
            connection.data_received(bytes(stream[at : at + cut]))
        connection.connection_lost(None)
        for exchange in exchanges:
            assert exchange.future.done()
            error = exchange.future.exception()
            assert error is None or isinstance(error, TransportError)

    asyncio.run(play())
