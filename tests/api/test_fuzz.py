"""Bytes that no client would send, at the sockets of a running relay: whatever they are, the answer is no 5xx, nobody
crashes, and the next request is served (safety §0, §9).

Requests and frames are good ones that were damaged: cut, doubled, with other bytes, numbers, or names in them, so that they
get past the first check. CI does a few hundred; by hand, output shown:

    RELAY_FUZZ=100000 pytest tests/api/test_fuzz.py -n 0 -s
"""

import asyncio
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_socket import BINARY, CLOSE, CONTINUATION, KEY, PING, PONG, TEXT, frame
from running_relay import Face, Running, running

EXAMPLES = int(os.environ.get("RELAY_FUZZ", "150"))
WITHIN_S = 20
SILENCE_S = 0.1
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
ROUTES = (
    ("POST", "/v1/messages", {"to": {"users": ["{user}"]}, "body": {"a": [1, 2.5, "é"]}, "ttl_s": 60}),
    ("POST", "/v1/messages/batch", {"messages": [{"to": {"users": ["{user}"]}, "body": 1}]}),
    ("PUT", "/v1/users/{user}/devices/x", {"addresses": []}),
    ("POST", "/v1/presence/query", {"users": ["{user}"]}),
    ("PUT", "/v1/device", {"store": {"id": "s"}, "cursors": {}}),
    ("POST", "/v1/device/ack", {"upto": 1}),
    ("GET", "/v1/device/sync?limit=5&wait=0", None),
    ("GET", "/v1/events?limit=2", None),
    ("POST", "/v1/webhooks", {"url": "https://example.com/", "types": ["*"]}),
    ("GET", "/healthz", None),
)
ODDITIES = (
    *(
        b"\0",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"%00",
        b"%",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(b"-1", b"0", b"99999999999999999999", b"1e999", b"NaN", b"null", b"[]", b"{}", b'""', b'"\\ud800"', b"[" * 40),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: other\r\n", b"Expect: 100-continue\r\n"),
    *(
        b"Upgrade: websocket\r\n",
        b"../",
        b"//",
        b"HTTP/2.0",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01",
        b"CONNECT",
        b"?",
        b"#",
    ),
)
SAID: tuple[dict[str, Any], ...] = (
    {"type": "hello", "ref": "1", "store": {"id": "s"}},
    {"type": "hb", "ref": "2", "state": "foreground"},
    {"type": "ack", "ref": "3", "upto": 0},
    {"type": "fill", "ref": "4", "from": 0, "to": 3},
    {"type": "bye"},
)

UPGRADE = (
    "GET /v1/device/ws HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: relay.v1.json\r\n"
    "Authorization: Bearer TOKEN\r\n\r\n"
).encode()
PHONES = 19  # of one user, who may have 20

seeds = st.integers(min_value=0, max_value=2**48)
several = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The same with up to four things wrong with it."""
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at, size = rng.randrange(len(data) + 1), rng.choice((0, 1, 1, 2, 8, 50))
        match rng.randrange(6):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + data[at + size :]
            case 2:
                data = data[:at] + data[at : at + size] * rng.choice((2, 3, 100)) + data[at + size :]
            case 3:
                data = data[:at] + rng.choice(ODDITIES) + data[at + size :]
            case 4:
                data = data[:at] + rng.randbytes(size) + data[at + size :]
            case _:
                other = rng.randrange(len(data) + 1)
                data = data[:at] + data[other : other + size] + data[at:]
    return data


def request(face: Face, rng: random.Random) -> bytes:
    method, path, content = rng.choice(ROUTES)
    body = b"" if content is None else json.dumps(content).replace("{user}", face.user).encode()
    token = rng.choice((face.of.key, face.token, "rk_live_none", ""))
    head = f"{method} {path.replace('{user}', face.user)} HTTP/1.1\r\nHost: relay\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if rng.random() < 0.3:
        head += f"Idempotency-Key: k{rng.randrange(50)}\r\n"
    if body:
        body = damaged(body, rng) if rng.random() < 0.7 else body
        if rng.random() < 0.2:
            head += "Transfer-Encoding: chunked\r\n"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            head += f"Content-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n"
    whole = head.encode() + b"\r\n" + body
    return damaged(whole, rng) if rng.random() < 0.6 else whole


def frames(rng: random.Random) -> bytes:
    """What is said on a socket after its upgrade: mostly a good hello first."""
    said = [frame(TEXT, json.dumps(SAID[0]).encode())] if rng.random() < 0.8 else []
    for _ in range(rng.randrange(1, 6)):
        payload = damaged(json.dumps(rng.choice(SAID)).encode(), rng)
        opcode = rng.choice((TEXT, TEXT, TEXT, TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG, 3, 11))
        said.append(
            frame(
                opcode,
                payload[: rng.choice((5, 100, 5000))],
                fin=rng.random() < 0.9,
                masked=rng.random() < 0.95,
                reserved=rng.choice((0,) * 20 + (1, 2, 4)),
            )
        )
    whole = b"".join(said)
    return damaged(whole, rng) if rng.random() < 0.4 else whole


async def spoken(port: int, said: bytes) -> bytes:
    """Everything that comes back until the relay hangs up; when it waits for more, we have said our last."""
    answered = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(OSError):  # it may have hung up in the middle
            writer.write(said)
            await writer.drain()
            with suppress(TimeoutError):
                while piece := await asyncio.wait_for(reader.read(65_536), SILENCE_S):
                    answered += piece
            writer.write_eof()
        async with asyncio.timeout(WITHIN_S):
            return answered + await reader.read()
    except ConnectionError:
        return answered
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def framed(port: int, token: str, said: bytes) -> bytes:
    """What a socket answers until it is closed, or there is silence; then we hang up without a word."""
    answered = b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(UPGRADE.replace(b"TOKEN", token.encode()))
        status = int(STATUS.findall(await reader.readuntil(b"\r\n\r\n"))[0])
        assert status in {101, 429}
        if status == 429:  # a device may not come that often
            return b""
        writer.write(said)
        await writer.drain()
        async with asyncio.timeout(WITHIN_S):
            while piece := await asyncio.wait_for(reader.read(65_536), SILENCE_S):
                answered += piece
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    return answered


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that does not mind failed logins: else it would soon hear nobody of this address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relay.api.auth.FAILED_PER_ADDRESS_PER_MIN", 10**9)
        patch.setattr("relay.api.auth.FAILED_PER_KEY_PER_MIN", 10**9)
        with running(tmp_path_factory.mktemp("relay")) as one:
            yield one


@pytest.fixture(scope="module")
def seen() -> Any:
    """How often each status came; printed at the end."""
    seen: Counter[int] = Counter()
    yield seen
    print(f"{sum(seen.values())} answers: {dict(sorted(seen.items()))}")


async def test_damaged_requests_get_no_5xx_and_hurt_nobody(
    face: Face, seen: Counter[int], caplog: pytest.LogCaptureFixture
) -> None:
    @several
    @given(seed=seeds)
    def many(seed: int) -> None:
        rng = random.Random(seed)
        said = [request(face, rng) for _ in range(rng.choice((1, 1, 3)))]
        answered = asyncio.run(spoken(face.of.port, b"".join(said)))
        statuses = [int(one) for one in STATUS.findall(answered)]
        seen.update(statuses)
        assert not [one for one in statuses if one >= 500], (said, answered)

    await asyncio.to_thread(many)
    assert "Error handling request" not in caplog.text, "a caller that hangs up is no error of ours"
    assert {200, 400, 401} <= seen.keys(), "nothing got through, or nothing was refused: this tests nothing"


async def test_damaged_frames_hurt_nobody(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    tokens = [await face.device(device=f"d{n}") for n in range(PHONES)]
    closed: Counter[str] = Counter()

    @several
    @given(seed=seeds)
    def many(seed: int) -> None:
        rng = random.Random(seed)
        token, said = rng.choice(tokens), frames(rng)
        answered = asyncio.run(framed(face.of.port, token, said))
        assert b"HTTP/1.1" not in answered, (said, answered)
        closed["welcome" if b'"type":"welcome"' in answered else "none"] += 1

    await asyncio.to_thread(many)
    print(dict(closed))
    assert "Error handling request" not in caplog.text
    assert closed["welcome"] > EXAMPLES / 4, "hardly a hello got through: this tests little"
