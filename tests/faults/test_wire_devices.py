"""What can befall the connections of devices to a running relay, and the process between them: rows FLT-23 to FLT-41 of
safety §4 as far as they need real sockets, each in its test's name. README.md says where the others are."""

import asyncio
import fcntl
import json
import os
import resource
import signal
import struct
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from relay_process import RelayProcess
from scene import ENVIRON, Scene, account, eventually, frame, scene
from wire import DOWN, UP

from relay.api.files import RESERVE

STORM = int(os.environ.get("RELAY_STORM", "150"))  # devices; safety FLT-34 asks for 10,000 on a machine of its own
FILES = 200  # what a process with few file descriptors has
PIPE_BYTES = 4096
SAYING_ALL = {"RELAY_LOG__LEVEL": "debug", "RELAY_WEBHOOKS__EXEMPT": '["127.0.0.1:1"]'}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One relay for all; each test has users of its own."""
    settings = {"RELAY_PUSH__CLAIM_S": "5", "RELAY_LOG__LEVEL": "debug"}
    async with scene(tmp_path_factory.mktemp("relay"), settings) as at:
        yield at


@pytest_asyncio.fixture(loop_scope="module")
async def at(one_scene: Scene) -> AsyncIterator[Scene]:
    yield one_scene
    await one_scene.clear()


@pytest.fixture
def ann(request: pytest.FixtureRequest) -> str:
    return f"ann.{request.node.name.encode().hex()[-60:]}"


def bodies(batch: dict[str, Any]) -> list[Any]:
    return [entry["body"] for entry in batch["entries"]]


async def news(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    """The next batch with something in it."""
    while not (batch := await frame(ws, "batch"))["entries"]:
        pass
    return batch


@pytest.mark.parametrize("way", [UP, DOWN])
async def test_flt_32_f16_what_a_half_open_connection_does_not_ack_is_pushed(at: Scene, ann: str, way: str) -> None:
    """Nobody is told that the network is gone. After the wait for the ack the vendor tells the phone, which comes back
    beside its dead connection and gets everything, nothing twice."""
    token = await at.device(ann, "gate")
    ws = await at.connect(token)
    await at.send(ann, 1)
    batch = await news(ws)
    await ws.send_json({"type": "ack", "ref": "a", "upto": batch["to"]})
    assert (await frame(ws, "ack"))["acked"] == batch["to"]
    at.near.holes.add(way)
    await at.send(ann, 2)
    if way == UP:
        lost = await news(ws)
        assert bodies(lost) == [2]
        await ws.send_json({"type": "ack", "ref": "b", "upto": lost["to"]})  # swallowed
    (push,) = await at.vendors["gate"].calls_are(1)
    assert push["data"]["relay"]["n"] == 1
    at.near.holes.clear()
    again = await at.connect(token, cursors={"inbox": batch["cursor"]})
    assert bodies(await news(again)) == [2]
    await at.send(ann, 3)
    assert bodies(await news(again)) == [3]
    await again.close()
    await ws.close()


async def test_flt_35_of_two_connections_of_a_device_the_newer_stays(at: Scene, ann: str) -> None:
    """F41: the last session wins."""
    token = await at.device(ann)
    old = await at.connect(token)
    new = await at.connect(token)
    while not old.closed:
        await old.receive(timeout=10)
    assert old.close_code == 4001
    await at.send(ann, "for the newer")
    assert bodies(await news(new)) == ["for the newer"]
    await new.close()


async def test_f44_a_connection_cut_in_the_middle_of_a_batch_costs_a_repeat_and_nothing_else(
    at: Scene, ann: str
) -> None:
    token = await at.device(ann)
    for n in range(20):
        await at.send(ann, f"{n}" + "x" * 5000)
    at.near.cut_after = 50_000
    ws = await at.connect(token)
    ended = await ws.receive(timeout=10)
    assert ended.type in {aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE}
    at.near.heal()
    again = await at.connect(token)
    got = await news(again)
    assert [text[:2].rstrip("x") for text in bodies(got)] == [str(n) for n in range(20)]
    await again.close()


async def test_a_half_closed_connection_ends_and_leaves_nothing_behind(at: Scene, ann: str) -> None:
    token = await at.device(ann, "gate")
    ws = await at.connect(token)
    at.near.half_close()
    while (ended := await ws.receive(timeout=10)).type is aiohttp.WSMsgType.TEXT:
        pass  # what was on its way
    assert ended.type in {aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE}
    await at.send(ann, "by push")
    await at.vendors["gate"].calls_are(1)  # it counts as offline now: the relay has noticed
    assert await at.inbox(token) == ["by push"]


async def test_flt_33_a_send_that_comes_in_small_pieces_is_taken_if_it_comes_in_time(at: Scene, ann: str) -> None:
    token = await at.device(ann)
    at.near.bytes_per_s = 20_000
    url = f"http://127.0.0.1:{at.near.port}/v1/messages"
    body = {"to": {"users": [ann]}, "body": "y" * 15_000}
    async with at.http.post(url, json=body, headers={"Authorization": f"Bearer {at.relay.key}"}) as answer:
        assert answer.status == 202
    assert await at.inbox(token) == ["y" * 15_000]


async def test_a_sender_whose_answer_is_lost_repeats_and_there_is_one_message(at: Scene, ann: str) -> None:
    token = await at.device(ann)
    url = f"http://127.0.0.1:{at.near.port}/v1/messages"
    headers = {"Authorization": f"Bearer {at.relay.key}", "Idempotency-Key": ann}
    body = {"to": {"users": [ann]}, "body": "once"}
    at.near.cut_after = 0
    with pytest.raises((aiohttp.ClientError, OSError)):
        async with at.http.post(url, json=body, headers=headers):
            pass
    at.near.heal()
    async with at.http.post(url, json=body, headers=headers) as answer:
        assert answer.status == 200  # a repeat of what it never heard of
    assert await at.inbox(token) == ["once"]


async def test_flt_27_after_a_pause_late_answers_and_old_claims_cost_at_most_one_push_each(at: Scene, ann: str) -> None:
    """F33: SIGSTOP for longer than a claim lasts, with calls to the vendor in flight."""
    tokens = {f"{ann}{n}": await at.device(f"{ann}{n}", "gate") for n in range(5)}
    at.vendor_wires["gate"].delay_s = 0.5
    for user in tokens:
        await at.send(user, user)
    await at.vendors["gate"].calls_are(5)
    at.relay.tell(signal.SIGSTOP)
    await asyncio.sleep(7)  # noqa: TID251 - a claim lasts 5 s
    at.relay.tell(signal.SIGCONT)
    at.vendor_wires["gate"].heal()
    for user, token in tokens.items():
        assert await at.inbox(token) == [user]
    await at.device(f"{ann}.x", "gate")
    await at.send(f"{ann}.x", "after")

    async def told() -> bool:
        return any(call["data"]["token"].startswith(f"{ann}.x") for call in at.vendors["gate"].calls)

    await eventually(told)
    for user in tokens:
        ids = [call["data"]["id"] for call in at.vendors["gate"].calls if call["data"]["token"] == f"{user}.gate"]
        assert 1 <= len(ids) <= 2, user
        assert len(set(ids)) == 1, "a repeat has the id of the first"


@dataclass
class Phone:
    """Comes back until it may, and acks what it gets."""

    at: Scene
    token: str
    got: list[Any] = field(default_factory=list)
    refused: int = 0
    ws: aiohttp.ClientWebSocketResponse | None = None

    async def live(self) -> None:
        while True:
            try:
                async with asyncio.timeout(30):
                    self.ws = ws = await self.at.connect(self.token)
                while True:
                    said = await ws.receive_json(timeout=90)
                    if said["type"] == "batch":
                        self.got += bodies(said)
                        await ws.send_json({"type": "ack", "ref": "a", "upto": said["to"]})
            except (aiohttp.ClientError, OSError, TypeError, TimeoutError):
                self.refused += 1
                await asyncio.sleep(0.2)  # noqa: TID251 - as a client does

    async def online(self) -> bool:
        return self.ws is not None and not self.ws.closed


async def test_flt_34_f35_all_devices_come_back_at_once_and_nothing_is_lost(at: Scene, ann: str) -> None:
    """Nobody starves; a sender is served meanwhile. How long it took is printed: `RELAY_STORM=10000 pytest -s`."""
    clock = asyncio.get_running_loop().time
    users = [f"{ann}{n}" for n in range(STORM)]
    phones = [Phone(at, await at.device(user)) for user in users]
    lives = [asyncio.create_task(phone.live()) for phone in phones]

    async def all_online() -> bool:
        return all([await phone.online() for phone in phones])

    await eventually(all_online, within_s=60)
    at.near.refuses = True
    at.near.cut()
    for user in users:
        await at.send(user, "while away", push=None)
    at.near.heal()
    began, slowest_s = clock(), 0.0
    while not all(phone.got for phone in phones):
        sent = clock()
        await at.send(users[0], "meanwhile", push=None)
        slowest_s = max(slowest_s, clock() - sent)
        assert clock() - began < 60
        await asyncio.sleep(0.05)  # noqa: TID251 - a sender in between
    took_s, refused = clock() - began, sum(phone.refused for phone in phones)
    print(f"{STORM} devices back in {took_s:.1f} s, {refused} tries failed, slowest send {slowest_s * 1000:.0f} ms")
    assert all(phone.got[0] == "while away" for phone in phones)
    assert all(phone.got.count("while away") == 1 for phone in phones[1:])
    for one in lives:
        one.cancel()
    await asyncio.wait(lives)


async def test_flt_41_a_log_that_nobody_reads_holds_nobody_up(at: Scene, ann: str) -> None:
    """At level debug, into a pipe that is full. (That dropped lines are counted is a unit test's.)"""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    home = at.relay.home.parent / "unread"
    home.mkdir()
    other = RelayProcess(home, ENVIRON | account("gone", "http://127.0.0.1:1/") | SAYING_ALL)
    other.stderr = write
    await other.start()
    os.close(write)
    try:
        beside = replace(at, relay=other, users=[])
        for n in range(40):  # each says at least that its push came to nothing
            await beside.device(f"u{n}", "gone")
            await beside.send(f"u{n}")

        async def full() -> bool:
            return struct.unpack("i", fcntl.ioctl(read, termios.FIONREAD, b"\0" * 4))[0] >= PIPE_BYTES - 1024

        await eventually(full)
        for n in range(40):
            await beside.send(f"u{n}")
        async with at.http.get(other.url + "/readyz") as answer:
            assert answer.status == 200
        assert await other.end(signal.SIGTERM) == 0  # nor does it hold up the end
    finally:
        await other.aclose()
        os.close(read)


async def test_flt_29_with_no_file_left_nothing_breaks_and_it_recovers_by_itself(at: Scene, ann: str) -> None:
    """More connections than file descriptors: who is inside is served, and once they go, others are."""
    assert at.relay.child is not None
    token = await at.device(ann)
    soft, hard = resource.prlimit(at.relay.child.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(at.relay.child.pid, resource.RLIMIT_NOFILE, (FILES, hard))
    inside = await at.connect(token)
    crowd: list[asyncio.StreamWriter] = []
    try:
        for _ in range(FILES + 50):
            _, writer = await asyncio.open_connection("127.0.0.1", at.relay.port)
            crowd.append(writer)
        await asyncio.sleep(1)  # noqa: TID251 - so that it has met its limit
        assert FILES - RESERVE <= len(list(Path(f"/proc/{at.relay.child.pid}/fd").iterdir())) < FILES
        await inside.send_json({"type": "hb", "ref": "h", "state": "foreground"})
        await frame(inside, "hb")
    finally:
        for writer in crowd:
            writer.close()

    async def served() -> bool:
        try:
            async with (
                asyncio.timeout(2),
                aiohttp.ClientSession() as fresh,
                fresh.get(at.relay.url + "/readyz") as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    await eventually(served)
    resource.prlimit(at.relay.child.pid, resource.RLIMIT_NOFILE, (soft, hard))
    await at.send(ann, "after")
    assert bodies(await news(inside)) == ["after"]
    await inside.close()


async def test_flt_29_the_last_descriptors_are_for_vendors_and_whoever_comes_is_told_to_come_again(
    at: Scene, ann: str
) -> None:
    """A crowd that says nothing holds all that it can get; a backend that is inside goes on, and its pushes leave."""
    assert at.relay.child is not None
    token = await at.device(ann, "gate")
    soft, hard = resource.prlimit(at.relay.child.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(at.relay.child.pid, resource.RLIMIT_NOFILE, (FILES, hard))
    crowd: list[asyncio.StreamWriter] = []

    async def fresh(path: str, **headers: str) -> tuple[int, Any, Any]:
        """A request by a connection of its own; asked again if there was not even room for an answer."""
        headers["Authorization"] = f"Bearer {token}"
        async with asyncio.timeout(9):  # the crowd is cut off after 10 s
            while True:
                try:
                    async with (
                        aiohttp.ClientSession() as http,
                        http.get(at.relay.url + path, headers=headers) as answer,
                    ):
                        return answer.status, answer.headers, await answer.read()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.1)  # noqa: TID251 - looks again

    try:
        for _ in range(FILES + 50):
            _, writer = await asyncio.open_connection("127.0.0.1", at.relay.port)
            crowd.append(writer)
        status, headers, body = await fresh("/v1/device/sync")
        assert (status, json.loads(body)["code"], headers["Connection"]) == (503, "overloaded", "close")
        assert 3 <= int(headers["Retry-After"]) <= 7
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "relay.v1.json"}
        assert (await fresh("/v1/device/ws", **upgrade))[0] == 503
        assert (await fresh("/healthz"))[0] == 200
        await at.send(ann, "within")
        assert len(await at.vendors["gate"].calls_are(1)) == 1
        _, _, page = await fresh("/metrics")
        assert b'relay_queue_refused_total{queue="files"}' in page
    finally:
        for writer in crowd:
            writer.close()

    async def served() -> bool:
        return (await fresh("/v1/device/sync"))[0] == 200

    await eventually(served)
    resource.prlimit(at.relay.child.pid, resource.RLIMIT_NOFILE, (soft, hard))
