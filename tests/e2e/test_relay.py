"""The relay through its public faces, on both stores: HTTP and WebSocket, in one process, over real sockets."""

import asyncio
from typing import Any

import pytest
from relay_face import Face, next_frame

from relay.errors import Unavailable
from relay.inbox.reader import InboxReader
from relay.realtime.hub import Hub


async def test_what_was_sent_before_and_after_the_hello_comes_in_order_on_one_path(face: Face) -> None:
    token = await face.device()
    before = [await face.send(n) for n in range(3)]
    ws = await face.connect(token)
    assert (await next_frame(ws, "welcome"))["missing"] == 3
    first = await next_frame(ws, "batch")
    assert [entry["id"] for entry in first["entries"]] == before
    assert first["caught_up"]
    live = await face.send("live")
    second = await next_frame(ws, "batch")
    assert [entry["id"] for entry in second["entries"]] == [live]
    assert second["from"] == first["to"]
    await ws.close()


async def test_nothing_beyond_the_window_is_sent_before_it_is_acked(face: Face) -> None:
    token = await face.device()
    for n in range(5):
        await face.send(n)
    ws = await face.connect(token, window={"entries": 2, "bytes": 1_000_000})
    first = await next_frame(ws, "batch")
    assert first["to"] == 2
    with pytest.raises(TimeoutError):
        await ws.receive(timeout=0.3)
    await ws.send_json({"type": "ack", "ref": "2", "upto": 2})
    assert (await next_frame(ws, "batch"))["to"] == 4
    await ws.close()


async def test_a_heartbeat_tells_of_what_waits_behind_a_full_window(face: Face) -> None:
    ws = await face.connect(await face.device(), window={"entries": 1, "bytes": 1_000_000})
    await face.send()
    while (await next_frame(ws, "batch"))["to"] < 1:
        pass
    await face.send()
    await face.relay.hub.poll()  # comes by itself every few seconds
    await ws.send_json({"type": "hb", "ref": "7"})
    assert (await next_frame(ws, "hb"))["head"] == 2
    await ws.close()


async def test_an_ack_beyond_what_was_sent_is_refused(face: Face) -> None:
    ws = await face.connect(await face.device())
    await next_frame(ws, "welcome")
    await ws.send_json({"type": "ack", "ref": "2", "upto": 99})
    assert (await next_frame(ws, "error"))["code"] == "invalid_cursor"
    await ws.close()


async def test_a_newer_session_closes_the_older_one(face: Face) -> None:
    token = await face.device()
    old = await face.connect(token)
    await next_frame(old, "welcome")
    new = await face.connect(token)
    await next_frame(new, "welcome")
    async with asyncio.timeout(10):
        while not old.closed:
            await old.receive()
    assert old.close_code == 4001
    await new.close()


async def test_ten_frames_that_mean_nothing_end_the_connection(face: Face) -> None:
    ws = await face.connect(await face.device())
    for _ in range(10):
        await ws.send_json({"type": "nonsense"})
    async with asyncio.timeout(10):
        while not ws.closed:
            await ws.receive()
    assert ws.close_code == 4400


async def test_a_long_poll_returns_as_soon_as_there_is_something(face: Face) -> None:
    token = await face.device()
    _, welcome, _ = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
    path = f"/v1/device/sync?wait=30&cursor={welcome['cursors']['inbox']}"
    poll = asyncio.create_task(face.call("GET", path, token=token))
    sent = await face.send()
    async with asyncio.timeout(10):
        status, body, _ = await poll
    assert status == 200
    assert [entry["id"] for entry in body["batches"][0]["entries"]] == [sent]


async def test_304_when_there_is_nothing_newer(face: Face) -> None:
    token = await face.device()
    _, welcome, _ = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
    path = f"/v1/device/sync?cursor={welcome['cursors']['inbox']}"
    _, _, headers = await face.call("GET", path, token=token)
    etag = headers["ETag"]
    for _ in range(3):  # the first is worked out, the others are known to be the same
        status, _, headers = await face.call("GET", path, token=token, **{"If-None-Match": etag})
        assert (status, headers["ETag"], headers["Cache-Control"]) == (304, etag, "private, no-cache")
    status, _, _ = await face.call("GET", path, token=token, **{"If-None-Match": f"W/{etag}"})
    assert status == 304, "a proxy that compresses the answers weakens their tags"
    status, body, _ = await face.call("GET", f"{path}&what=1", token=token, **{"If-None-Match": etag})
    assert (status, body["code"]) == (400, "unknown_field")
    sent = await face.send()
    status, body, headers = await face.call("GET", path, token=token, **{"If-None-Match": etag})
    assert (status, [one["id"] for one in body["batches"][0]["entries"]]) == (200, [sent])
    assert headers["ETag"] != etag


@pytest.mark.parametrize(
    ("method", "path", "as_device"),
    [("POST", "/v1/messages", True), ("GET", "/v1/events", True), ("GET", "/v1/device/sync", False)],
)
async def test_a_credential_of_the_other_kind_is_forbidden(face: Face, method: str, path: str, as_device: bool) -> None:
    token = await face.device() if as_device else None
    status, body, _ = await face.call(method, path, token=token)
    assert (status, body["code"]) == (403, "forbidden")


async def test_a_signed_out_device_is_a_stranger(face: Face) -> None:
    token = await face.device()
    assert (await face.call("DELETE", "/v1/users/ann/devices/phone"))[0] == 204
    status, body, _ = await face.call("GET", "/v1/device/sync", token=token)
    assert (status, body["code"]) == (401, "unauthenticated")


async def test_a_foreign_gateway_reports_presence_in_batches(face: Face) -> None:
    await face.device()
    items = [
        {"user": "ann", "device": "phone", "state": "foreground"},
        {"user": "ann", "device": "nobody", "state": "foreground"},
    ]
    status, body, _ = await face.call("POST", "/v1/presence", {"devices": items})
    assert status == 200
    assert [one["status"] for one in body["results"]] == ["ok", "rejected"]
    assert (await face.call("GET", "/v1/users/ann/presence"))[1]["online"]


async def test_a_gateway_does_not_speak_for_a_socket_that_is_open_here(face: Face) -> None:
    """Protocol 9.5: it reports of sockets that it owns; whose is open here, is online until that ends."""
    ws = await face.connect(await face.device())
    await next_frame(ws, "welcome")

    async def online_once_it_says_offline() -> bool:
        body = {"devices": [{"user": "ann", "device": "phone", "state": "offline"}]}
        assert (await face.call("POST", "/v1/presence", body))[1]["results"][0]["status"] == "ok"
        return bool((await face.call("GET", "/v1/users/ann/presence"))[1]["online"])

    assert await online_once_it_says_offline()
    await ws.close()
    async with asyncio.timeout(10):
        while face.relay.hub.of_device(face.device_key()):
            await face.relay.clock.sleep(0.01)
    assert not await online_once_it_says_offline()


async def test_what_a_gateway_reports_of_many_devices_at_once_is_written_together(face: Face) -> None:
    users = [f"u{n}" for n in range(40)]
    for user in users:
        assert (await face.call("PUT", f"/v1/users/{user}/devices/phone", {}))[0] == 201
    twice = {"user": "u0", "device": "phone"}
    items = [{"user": user, "device": "phone", "state": "foreground"} for user in users]
    before = commits(face)
    status, body, _ = await face.call("POST", "/v1/presence", {"devices": [*items, twice | {"state": "offline"}]})
    assert (status, [one["status"] for one in body["results"]]) == (200, ["ok"] * 41)
    assert [one["user"] for one in body["results"]] == [*users, "u0"]
    assert commits(face) - before < 20, "of devices apart, the store takes the words together"
    assert not (await face.call("GET", "/v1/users/u0/presence"))[1]["online"], "of one device, in their order"
    assert (await face.call("GET", "/v1/users/u1/presence"))[1]["online"]


def commits(face: Face) -> float:
    return face.relay.metrics.registry.get_sample_value("relay_commit_seconds_count") or 0


async def test_a_cancelled_message_is_never_delivered_and_the_trace_says_so(face: Face) -> None:
    token = await face.device()
    sent = await face.send()
    assert (await face.call("DELETE", f"/v1/messages/{sent}"))[1]["status"] == "cancelled"
    _, body, _ = await face.call("GET", "/v1/device/sync", token=token)
    assert body["batches"][0]["entries"] == []
    _, trace, _ = await face.call("GET", f"/v1/messages/{sent}")
    assert trace["recipients"][0]["devices"][0]["state"] == "cancelled"


async def test_every_heartbeat_is_answered_within_what_the_device_offered(face: Face) -> None:
    """Protocol 6.2: the offer of the handshake holds for its session, on a socket and over HTTP."""
    token = await face.device()
    ws = await face.connect(token, heartbeat={"min_s": 50, "max_s": 90, "prefer_s": 60})
    welcome = await next_frame(ws, "welcome")
    assert welcome["heartbeat"] == {"interval_s": 60, "lease_s": 150}
    await ws.send_json({"type": "hb", "ref": "7"})
    beat = await next_frame(ws, "hb")
    assert (beat["interval_s"], beat["lease_s"]) == (60, 150)
    _, beat, _ = await face.call("POST", "/v1/device/heartbeat", {"session": welcome["session"]}, token=token)
    assert (beat["interval_s"], beat["lease_s"]) == (60, 150)
    await ws.close()


async def test_what_a_store_that_was_away_for_a_moment_held_up_comes_with_the_next_word(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll of heads knows this head already, so nothing else would have the socket look again."""
    token = await face.device()
    ws = await face.connect(token)
    await next_frame(ws, "batch")
    read_after, failed = InboxReader.read_after, []

    async def once_away(self: InboxReader, *args: Any, **more: Any) -> Any:
        if not failed:
            failed.append(True)
            raise Unavailable("The store is away.", code="storage_unavailable")
        return await read_after(self, *args, **more)

    async def no_poll(_: Hub) -> None: ...

    monkeypatch.setattr(InboxReader, "read_after", once_away)
    monkeypatch.setattr(Hub, "poll", no_poll)
    sent = await face.send()
    await next_frame(ws, "degraded")
    await ws.send_json({"type": "hb", "ref": "7"})
    assert [one["id"] for one in (await next_frame(ws, "batch"))["entries"]] == [sent]
    await ws.close()


async def test_f8_what_comes_in_the_middle_of_a_long_catch_up_comes_after_it_and_may_be_shown_before(
    face: Face,
) -> None:
    token = await face.device()
    owed = []
    for start in range(0, 5000, 500):
        items = [{"to": {"users": ["ann"]}, "key": f"k{start + n}", "body": start + n} for n in range(500)]
        _, answer, _ = await face.call("POST", "/v1/messages/batch", {"messages": items})
        owed += [one["id"] for one in answer["results"]]
    ws = await face.connect(token)
    came: list[str] = []
    live = ""
    while len(came) <= 5000:
        batch = await next_frame(ws, "batch")
        came += [entry["id"] for entry in batch["entries"]]
        await ws.send_json({"type": "ack", "ref": "2", "upto": batch["to"]})
        if not live:
            live = await face.send("live")
            _, pushed, _ = await face.call("GET", f"/v1/device/sync?ids={live}", token=token)
            assert [entry["id"] for entry in pushed["batches"][0]["entries"]] == [live]
            assert "cursor" not in pushed["batches"][0]
    assert came == [*owed, live]
    await ws.close()


async def test_f10_what_is_stored_between_the_look_and_the_wait_is_answered_at_once(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await face.device()
    _, welcome, _ = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
    read, sent = InboxReader.read, []

    async def then_something_comes(*args: Any, **more: Any) -> Any:
        reading = await read(*args, **more)
        if not sent:
            sent.append("on its way")
            sent[0] = await face.send()
        return reading

    monkeypatch.setattr(InboxReader, "read", then_something_comes)
    async with asyncio.timeout(3):  # without having registered before the look, the next one is 4 to 6 s later
        path = f"/v1/device/sync?wait=30&cursor={welcome['cursors']['inbox']}"
        _, body, _ = await face.call("GET", path, token=token)
    assert [entry["id"] for entry in body["batches"][0]["entries"]] == sent
