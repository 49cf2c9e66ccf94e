"""Safety 9.5, B085 to B092: WebSockets, wrong and hostile, at a running relay."""

import asyncio
import json
import struct
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from raw_socket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, UPGRADE, WITHIN_S, dialled, frame
from running_relay import ORIGIN, Face, HeldClock, running

from relay.realtime.protocol import FRAMES_BURST, WRITE_S, Close
from relay.realtime.writer import FrameWriter

KIB = 1024


# --- the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        pytest.param({"Upgrade": None}, 426, "upgrade_required", id="B085-no-upgrade"),
        pytest.param({"Connection": "close"}, 426, "upgrade_required", id="B085-no-connection-upgrade"),
        pytest.param({"Sec-WebSocket-Version": "12"}, 426, "upgrade_required", id="B085-version-12"),
        pytest.param({"Sec-WebSocket-Version": None}, 426, "upgrade_required", id="B085-no-version"),
        pytest.param({"Sec-WebSocket-Key": "short"}, 400, "malformed_http", id="B085-bad-key"),
        pytest.param({"Sec-WebSocket-Key": "!" * 24}, 400, "malformed_http", id="B085-key-not-base64"),
        pytest.param({"Sec-WebSocket-Key": None}, 400, "malformed_http", id="B085-no-key"),
        pytest.param({"Origin": "https://evil.example"}, 403, "forbidden", id="B085-foreign-origin"),
        pytest.param({"Origin": "null"}, 403, "forbidden", id="B085-origin-null"),
        pytest.param({"Origin": ""}, 403, "forbidden", id="B085-origin-empty"),
        pytest.param({"Sec-WebSocket-Protocol": "relay.v9.json"}, 400, "malformed_http", id="B085-subprotocol"),
        pytest.param({"Authorization": "Bearer rd_nobody"}, 401, "unauthenticated", id="B086-wrong-token"),
        pytest.param(
            {"Authorization": None, "Origin": ORIGIN, "Sec-WebSocket-Protocol": "relay.v1.json, relay.ticket.wrong"},
            401,
            "unauthenticated",
            id="B086-wrong-ticket-as-subprotocol",
        ),
        pytest.param(
            {"Authorization": None, "Sec-WebSocket-Protocol": "relay.v1.json, relay.ticket.wrong"},
            403,
            "forbidden",
            id="B085-ticket-without-an-origin",
        ),
        pytest.param({"Authorization": None}, 403, "forbidden", id="B085-neither-token-nor-origin"),
    ],
)
async def test_who_may_not_come_in(face: Face, headers: dict[str, str | None], status: int, code: str) -> None:
    sent = {"Authorization": f"Bearer {face.token}"} | UPGRADE | headers
    kept = {name: value for name, value in sent.items() if value is not None}
    async with face.http.get(f"{face.of.url}/v1/device/ws", headers=kept) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (status, code)
        if status == 426:
            assert answer.headers["Upgrade"].lower() == "websocket"
            assert answer.headers["Sec-WebSocket-Version"] == "13"


async def test_b086_a_ticket_of_bytes_that_are_no_text(face: Face) -> None:
    headers = UPGRADE | {"Host": "relay", "Origin": ORIGIN, "Sec-WebSocket-Protocol": "relay.v1.json, relay.ticket."}
    lines = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", face.of.port)
    writer.write(f"GET /v1/device/ws HTTP/1.1\r\n{lines}\r\n\r\n".encode().replace(b".ticket.", b".ticket.\xff"))
    async with asyncio.timeout(WITHIN_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    writer.close()


async def test_b025_an_api_key_is_no_devices_token(face: Face) -> None:
    async with face.http.get(
        f"{face.of.url}/v1/device/ws", headers={"Authorization": f"Bearer {face.of.key}"} | UPGRADE
    ) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (403, "forbidden")


async def test_b086_silence_after_the_upgrade(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds by the product's own number."""
    monkeypatch.setattr("relay.realtime.protocol.HELLO_S", 0.2)
    async with dialled(face.of.port, None) as line:
        assert await line.closed() == 4401


@pytest.mark.parametrize(
    "ticket", [pytest.param(one, id=f"B086-ticket-{one!r:.9}") for one in (None, "", "wrong", 7, {"a": 1}, "x" * 9000)]
)
async def test_a_hello_with_a_wrong_ticket(face: Face, ticket: Any) -> None:
    async with dialled(face.of.port, None) as line:
        line.tell(type="hello", ref="1", ticket=ticket)
        assert (await line.hear_of("error"))["code"] == "unauthenticated"
        assert await line.closed() == 4401


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(frame(TEXT, b"{"), id="B089-first-not-json"),
        pytest.param(frame(TEXT, b"[]"), id="B089-first-list"),
        pytest.param(frame(TEXT, b'{"type":"ack","upto":0}'), id="B086-first-no-hello"),
        pytest.param(frame(TEXT, b'{"type":"hello","type":"hello"}'), id="B089-first-duplicate-key"),
        pytest.param(frame(TEXT, b'{"type":"hello","schema":-1}'), id="B089-first-invalid"),
        pytest.param(frame(TEXT, b'{"type":"hello","window":{"entries":0}}'), id="B089-first-no-window"),
        pytest.param(frame(BINARY, b'{"type":"hello"}'), id="B087-first-binary"),
    ],
)
async def test_a_first_frame_that_is_no_hello(face: Face, first: bytes) -> None:
    async with dialled(face.of.port, face.token) as line:
        line.say(first)
        assert (await line.hear_of("error"))["code"] == "validation_failed"
        assert await line.closed() == 4400
    assert not (await face.call("GET", f"/v1/users/{face.user}/presence")).json["online"]


async def test_b087_a_first_frame_that_is_no_text(face: Face) -> None:
    async with dialled(face.of.port, face.token) as line:
        line.say(frame(TEXT, b'{"type":"hello","ref":"\xff"}'))
        assert await line.closed() == 1007


async def test_a_ping_may_come_before_the_hello(face: Face) -> None:
    async with dialled(face.of.port, face.token) as line:
        line.say(frame(PONG, b"unasked"), frame(PING, b"there?"))
        assert await line.hear() == (PONG, b"there?")
        line.tell(type="hello", store={"id": "s"})
        await line.hear_of("welcome")


async def test_b090_pings_without_end_in_place_of_a_hello(face: Face) -> None:
    async with dialled(face.of.port, face.token) as line:
        line.say(*[frame(PING)] * 1000)
        assert await line.closed() == 4400


async def test_a_hello_that_is_not_valid_is_told_where(face: Face) -> None:
    async with dialled(face.of.port, face.token) as line:
        line.say(frame(TEXT, b'{"type":"hello","schema":"seven"}'))
        assert (await line.hear_of("error"))["detail"].startswith("/schema: ")


async def test_b086_a_second_hello(face: Face) -> None:
    async with dialled(face.of.port, face.token, hello={}) as line:
        for _ in range(10):
            line.tell(type="hello", ref="again", store={"id": "s"})
            error = await line.hear_of("error")
            assert (error["code"], error["ref"]) == ("validation_failed", "again")
        assert await line.closed() == 4400


async def test_a_device_that_another_node_has_signed_out_hears_it_when_it_speaks(face: Face) -> None:
    gone = f"UPDATE device SET state = 'gone' WHERE user_id = '{face.user}'"
    async with dialled(face.of.port, face.token, hello={}) as line:
        signed_out = face.of.relay.engine.write(lambda conn, _: conn.exec_driver_sql(gone) and None)
        await face.of.does(signed_out)
        line.tell(type="ack", ref="1", ids=["x"])
        assert (await line.hear_of("error"))["code"] == "unauthenticated"
        assert await line.closed() == 4401


# --- frames -----------------------------------------------------------------------------------------------------------

FRAMES: dict[str, tuple[list[bytes], set[int | None]]] = {
    "B087-binary": ([frame(BINARY, b"{}")], {4400}),
    "B087-invalid-utf-8": ([frame(TEXT, b'{"type":"\xff"}')], {1007}),
    "B087-utf-8-cut-short": ([frame(TEXT, b'{"type":"\xe2\x82')], {1007}),
    "B087-surrogate-as-utf-8": ([frame(TEXT, b'{"type":"\xed\xa0\x80"}')], {1007}),
    "B087-64-KiB-and-1": ([frame(TEXT, b" " * (64 * KIB + 1))], {1009}),
    "B087-claims-2-to-the-62": ([struct.pack("!BBQ", 0x81, 0xFF, 2**62) + b"mask"], {1009, 1002}),
    "B087-64-KiB-and-1-in-fragments": (
        [frame(TEXT, b" " * 32 * KIB, fin=False), frame(CONTINUATION, b" " * (32 * KIB + 1))],
        {1009},
    ),
    "B087-10000-empty-fragments": (
        [frame(TEXT, b"{", fin=False), *[frame(CONTINUATION, fin=False)] * 10_000],
        {1009},
    ),
    "B087-continuation-of-nothing": ([frame(CONTINUATION, b"x")], {1002}),
    "B087-new-message-within-another": ([frame(TEXT, b"{", fin=False), frame(TEXT, b"{}")], {1002}),
    "B087-ping-of-126-bytes": ([frame(PING, b"x" * 126)], {1002}),
    "B087-ping-in-fragments": ([frame(PING, b"x", fin=False)], {1002}),
    "B087-unmasked": ([frame(TEXT, b'{"type":"hb"}', masked=False)], {1002}),
    "B087-unmasked-ping": ([frame(PING, masked=False)], {1002}),
    "B087-unmasked-after-a-good-one": ([frame(TEXT, b'{"type":"hb"}'), frame(TEXT, b"{}", masked=False)], {1002}),
    "B087-reserved-bit-1": ([frame(TEXT, b"{}", reserved=4)], {1002}),
    "B087-reserved-bit-2": ([frame(TEXT, b"{}", reserved=2)], {1002}),
    "B087-reserved-bit-3": ([frame(TEXT, b"{}", reserved=1)], {1002}),
    "B087-reserved-opcode-3": ([frame(3, b"{}")], {1002}),
    "B087-reserved-opcode-11": ([frame(11)], {1002}),
    "B088-compressed": (
        [frame(TEXT, b"\xaa\x56\x2a\xa9\x2c\x48\x55\xb2\x52\xca\x48\x52\xaa\x05\x00", reserved=4)],
        {1002},
    ),
    "B092-close-999": ([frame(CLOSE, struct.pack("!H", 999))], {1002}),
    "B092-close-1005": ([frame(CLOSE, struct.pack("!H", 1005))], {1002}),
    "B092-close-of-1-byte": ([frame(CLOSE, b"\x03")], {1002}),
    "B092-close-with-124-bytes-of-reason": ([frame(CLOSE, struct.pack("!H", 1000) + b"x" * 124)], {1002}),
    "B092-close-with-reason-not-utf-8": ([frame(CLOSE, struct.pack("!H", 1000) + b"\xff")], {1002, 1007}),
}


@pytest.mark.parametrize(("frames", "codes"), FRAMES.values(), ids=FRAMES.keys())
async def test_frames_that_break_the_protocol(
    face: Face, frames: list[bytes], codes: set[int | None], capfd: pytest.CaptureFixture[str]
) -> None:
    """The connection ends with the code of the rule that was broken, nobody is harmed, and nothing is logged as a bug."""
    sent = await face.sent()
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    async with dialled(face.of.port, face.token, hello={}, extra=offer) as line:
        line.say(*frames)
        assert await line.closed() in codes
    assert [one["id"] for one in await face.inbox()] == [sent]
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "[error" not in out + err


BAD_SAYINGS = {
    "B089-unknown-type": '{"type":"nonsense"}',
    "B089-no-type": '{"ref":"1"}',
    "B089-type-null": '{"type":null}',
    "B089-type-object": '{"type":{}}',
    "B089-not-an-object": "[]",
    "B089-not-json": "{",
    "B089-depth-100": '{"type":"hb","x":' + "[" * 100 + "]" * 100 + "}",
    "B089-duplicate-keys": '{"type":"hb","type":"bye"}',
    "B089-number-too-large": '{"type":"ack","upto":9007199254740993}',
    "B089-number-negative": '{"type":"ack","upto":-1}',
    "B089-number-as-text": '{"type":"ack","upto":"1"}',
    "B089-ids-empty": '{"type":"ack","ids":[]}',
    "B089-range-reversed": '{"type":"fill","from":5,"to":2}',
    "B089-ack-beyond-what-was-sent": '{"type":"ack","upto":99}',
    "B089-cursor-garbage": '{"type":"ack","cursor":"garbage"}',
    "B089-timeline-unknown": '{"type":"ack","upto":0,"timeline":"x"}',
    "B089-null-character": '{"type":"hb","open_conversation":"\\u0000"}',
}


@pytest.mark.parametrize("text", BAD_SAYINGS.values(), ids=BAD_SAYINGS.keys())
async def test_ten_frames_that_mean_nothing_end_the_connection(face: Face, text: str) -> None:
    """`ref` may be missing: then the error has none. What was good before and between them was heard."""
    sent = await face.sent()
    async with dialled(face.of.port, face.token, hello={}) as line:
        for n in range(10):
            line.say(frame(TEXT, text.encode()))
            assert (await line.hear_of("error"))["code"] in {
                *("validation_failed", "json_invalid", "json_too_complex", "json_duplicate_key"),
                *("number_out_of_range", "invalid_cursor"),
            }
            if n == 5:
                line.tell(type="ack", ref="good", ids=[sent])
                assert (await line.hear_of("ack"))["results"] == {sent: "acked"}
        assert await line.closed() == 4400


async def test_b089_an_unknown_field_is_ignored(face: Face) -> None:
    """A newer client may say more than this relay understands (protocol 9.1)."""
    async with dialled(face.of.port, face.token, hello={"of_the_future": 1}) as line:
        line.tell(type="hb", ref="1", of_the_future={"a": [1]})
        assert (await line.hear_of("hb"))["ref"] == "1"


# --- floods -----------------------------------------------------------------------------------------------------------


async def test_b090_a_thousand_pings(face: Face) -> None:
    async with dialled(face.of.port, face.token, hello={}) as line:
        line.say(frame(PING, b"x") * 1000)
        assert await line.closed() == 4029


async def test_b090_a_thousand_pongs_that_nobody_asked_for(face: Face) -> None:
    async with dialled(face.of.port, face.token, hello={}) as line:
        line.say(frame(PONG, b"x") * 1000)
        assert await line.closed() == 4029


async def test_b090_a_thousand_acks_and_the_last_one_heard_counts(tmp_path: Path) -> None:
    with running(tmp_path, clock=HeldClock()) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            sent = [await face.sent(body=n) for n in range(100)]
            async with dialled(relay.port, face.token, hello={}) as line:
                await line.hear_of("batch")
                for n in range(1000):
                    line.tell(type="ack", ref=str(n), ids=[sent[n % 100]])
                assert await line.closed() == 4029
            traces = [(await face.call("GET", f"/v1/messages/{one}")).json for one in sent]
    states = [trace["recipients"][0]["devices"][0]["state"] for trace in traces]
    assert states.count("acked") == FRAMES_BURST + 1  # the one that went too far was heard, too


async def no_socket_is_left(face: Face) -> None:
    async with asyncio.timeout(20):
        while (await face.call("GET", "/metrics")).text.find("relay_sockets 0.0") < 0:
            await face.sync(wait=1)


async def test_b091_a_client_that_never_reads(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """F94: closed after 20 s by the product's own number; what it was sent stays owed."""
    assert WRITE_S == 20
    monkeypatch.setattr("relay.realtime.protocol.WRITE_S", 0.5)
    codes: list[Close] = []
    close = FrameWriter.close

    async def closing(writer: FrameWriter, code: Close) -> None:
        codes.append(code)
        await close(writer, code)

    monkeypatch.setattr(FrameWriter, "close", closing)
    sent = [await face.sent(body="x" * 60 * KIB) for _ in range(15)]
    async with dialled(face.of.port, face.token, hello={}, limit=KIB) as line:
        for n in range(40):
            line.tell(type="fill", ref=str(n), **{"from": 0, "to": 15})
        await no_socket_is_left(face)
        line.writer.transport.abort()
    assert codes[:1] == [Close.SLOW], codes
    assert [one["id"] for one in await face.inbox()] == sent


async def test_b091_each_of_four_connections_of_one_device_takes_the_place_of_the_one_before(face: Face) -> None:
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(dialled(face.of.port, face.token, hello={})) for _ in range(4)]
        assert [await old.closed() for old in lines[:-1]] == [4001] * 3
        lines[-1].tell(type="hb", ref="1")
        await lines[-1].hear_of("hb")


async def test_frames_may_come_in_any_pieces(face: Face) -> None:
    """Every byte by itself, a message in fragments, a long one among them: heard as if it had come at once."""
    long = json.dumps({"type": "hb", "ref": "long", "padding": "x" * 40 * KIB}).encode()
    whole = [
        frame(TEXT, b'{"type":"hb","re', fin=False),
        frame(PING, b"between"),
        frame(CONTINUATION, b'f":"pieces"}'),
        frame(TEXT, json.dumps({"type": "hb", "ref": "medium", "padding": "x" * 300}).encode()),
    ]
    async with dialled(face.of.port, face.token, hello={}) as line:
        for byte in b"".join(whole):
            line.say(bytes([byte]))
            await line.writer.drain()
        line.say(frame(TEXT, long)[:70], frame(TEXT, long)[70:])
        heard: list[Any] = []
        while "long" not in heard:
            opcode, payload = await line.hear()
            heard.append(json.loads(payload).get("ref") if opcode == TEXT else payload)
    assert [one for one in heard if one is not None] == [b"between", "pieces", "medium", "long"]


async def test_a_device_that_hangs_up_while_it_is_answered_and_comes_back_at_once(face: Face) -> None:
    """F41: its old connection is just ending when the new one takes its place; neither counts as a bug (`still_serves`).

    Until the relay has seen that three of them have gone, there is no room for a fourth: that is a 429.
    """
    for _ in range(12):
        async with dialled(face.of.port, face.token, patient=True) as line:
            line.tell(type="hello", ref="1", store={"id": "s"})
            line.say(*(frame(PING, b"x" * 100) for _ in range(30)))
            line.writer.transport.abort()
    async with dialled(face.of.port, face.token, hello={}, patient=True) as line:
        await face.sent(body="here")
        while not (said := await line.hear_of("batch"))["entries"]:
            pass
        assert [entry["body"] for entry in said["entries"]] == ["here"]
    await no_socket_is_left(face)
