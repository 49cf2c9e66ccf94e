"""Server-sent events: the same pages as on the socket, one way (protocol 9.3)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from running_relay import ORIGIN, Answer, Face, running

from relay.inbox.ack import AckRequest
from relay.model import DeviceKey
from relay.push.from_settings import DEFAULT_APP
from relay.realtime.hub import Connection
from relay.store.devices import device_row

WITHIN_S = 10


@dataclass
class Event:
    name: str
    data: Any
    id: str | None
    retry: str | None


@dataclass
class Events:
    """What comes on one stream, parsed as a browser does."""

    answer: aiohttp.ClientResponse

    async def next(self, name: str | None = None) -> Event:
        async with asyncio.timeout(WITHIN_S):
            while True:
                event = await self._one()
                if name in {None, event.name}:
                    return event

    async def _one(self) -> Event:
        fields: dict[str, str] = {}
        while line := (await self._line()):
            field, _, value = line.partition(": ")
            assert field not in fields, "each line of an event stands once"
            fields[field] = value
        return Event(fields["event"], json.loads(fields["data"]), fields.get("id"), fields.get("retry"))

    async def _line(self) -> str:
        line = await self.answer.content.readline()
        if not line:
            raise EOFError
        return line.decode().removesuffix("\n")

    async def ended(self) -> bool:
        """Whether nothing but what was under way comes any more."""
        async with asyncio.timeout(WITHIN_S):
            await self.answer.content.read()
        return True


@asynccontextmanager
async def stream(face: Face, token: str | None, query: str = "", **headers: str) -> AsyncIterator[Events]:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with face.http.get(f"{face.of.url}/v1/device/stream{query}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        yield Events(answer)


async def greeted(face: Face) -> dict[str, Any]:
    """The device has shaken hands; the answer."""
    answer = await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=face.token)
    assert answer.status == 200, answer.text
    return dict(answer.json)


async def asked(face: Face, token: str, query: str = "", **headers: str) -> Answer:
    """A stream that is refused."""
    return await face.call("GET", f"/v1/device/stream{query}", token=token, headers=headers)


def key(face: Face) -> DeviceKey:
    return DeviceKey(DEFAULT_APP, face.user, "phone")


async def at_relay(face: Face, what: Callable[[], Any]) -> None:
    """Has something done where the relay runs."""

    async def work() -> None:
        result = what()
        if asyncio.iscoroutine(result):
            await result

    await face.of.does(work())


def connections(face: Face) -> list[Connection]:
    return [one for one in face.of.relay.hub.all() if one.device == key(face)]


async def renumber(face: Face) -> None:
    """The user's numbers are lost."""
    statement = f"UPDATE inbox SET epoch = 'lost' WHERE user_id = '{face.user}'"
    await at_relay(face, lambda: face.of.relay.engine.write(lambda conn, _: conn.exec_driver_sql(statement)))


async def online(face: Face) -> bool:
    return bool((await face.call("GET", f"/v1/users/{face.user}/presence")).json["online"])


async def its_row_is_online(face: Face) -> bool:
    found: list[bool] = []

    async def look() -> None:
        row = await face.of.relay.engine.read(lambda conn, _: device_row(conn, key(face)))
        found.append(row is not None and row.online)

    await at_relay(face, look)
    return found[0]


def ids(batch: Event) -> list[str]:
    return [entry["id"] for entry in batch.data["entries"]]


async def test_what_was_there_and_what_comes_arrive_in_order_each_ending_with_its_cursor(face: Face) -> None:
    welcome = await greeted(face)
    before = [await face.sent(body=n) for n in range(3)]
    async with stream(face, face.token, f"?cursor={welcome['cursors']['inbox']}") as events:
        assert events.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert events.answer.headers["Cache-Control"] == "no-store"
        first = await events.next()
        assert (first.name, ids(first), first.data["caught_up"]) == ("batch", before, True)
        assert first.id == first.data["cursor"]
        live = await face.sent(body="live")
        second = await events.next("batch")
        assert ids(second) == [live]
        assert second.data["from"] == first.data["to"]
        assert second.data["caught_up"]


async def test_a_stream_goes_on_after_the_event_that_the_client_had_last(face: Face) -> None:
    await greeted(face)
    sent = [await face.sent(body=n) for n in range(2)]
    async with stream(face, face.token) as events:
        had = await events.next("batch")
        assert ids(had) == sent
    new = await face.sent(body="new")
    async with stream(face, face.token, **{"Last-Event-ID": had.id or ""}) as events:
        assert ids(await events.next("batch")) == [new]


async def test_of_two_cursors_the_further_one_counts(face: Face) -> None:
    welcome = await greeted(face)
    old = welcome["cursors"]["inbox"]
    await face.sent(body=1)
    async with stream(face, face.token, f"?cursor={old}") as events:
        further = (await events.next("batch")).id or ""
    for query, last in ((f"?cursor={old}", further), (f"?cursor={further}", old)):
        async with stream(face, face.token, query, **{"Last-Event-ID": last}) as events:
            assert (await events.next("batch")).data["entries"] == []


@pytest.mark.parametrize("last", ["garbage", "A" * 4000])
async def test_what_is_no_cursor_of_ours_is_refused(face: Face, last: str) -> None:
    await greeted(face)
    assert (await asked(face, face.token, **{"Last-Event-ID": last})).refused(400, "invalid_cursor")


async def test_another_devices_cursor_is_refused(face: Face) -> None:
    await greeted(face)
    tablet = await face.device(device="tablet")
    other = (await face.sync(token=tablet)).json["batches"][0]["cursor"]
    assert (await asked(face, face.token, f"?cursor={other}")).refused(400, "invalid_cursor")


async def test_a_device_shakes_hands_first(face: Face) -> None:
    assert (await asked(face, face.token)).refused(409, "state_conflict")


async def test_an_older_version_shakes_hands_again_once_a_newer_one_has(face: Face) -> None:
    """What it passed before, it passed as it saw things: a page after that may not be acked as the newer one's."""
    for version in ("1.0", "2.0"):
        answer = await face.call("PUT", "/v1/device", {"store": {"id": "s"}, "app_version": version}, token=face.token)
        if version == "1.0":
            older = answer.json["cursors"]["inbox"]
    assert (await asked(face, face.token, f"?cursor={older}")).refused(409, "state_conflict")
    async with stream(face, face.token, f"?cursor={answer.json['cursors']['inbox']}") as events:
        assert (await events.next()).name == "batch"


async def test_an_unknown_parameter_is_named(face: Face) -> None:
    await greeted(face)
    assert (await asked(face, face.token, "?curser=x")).refused(400, "unknown_field")


async def test_a_cursor_of_another_numbering_is_answered_in_the_stream_with_where_to_begin(face: Face) -> None:
    welcome = await greeted(face)
    sent = await face.sent(body=1)
    await renumber(face)
    async with stream(face, face.token, f"?cursor={welcome['cursors']['inbox']}") as events:
        event = await events.next()
        assert (event.name, event.id) == ("resync_required", None)
        assert event.data["resync"]["reason"] == "epoch"
        assert await events.ended()
    async with stream(face, face.token, f"?cursor={event.data['resync']['cursor']}") as events:
        assert ids(await events.next("batch")) == [sent]


async def test_numbers_that_begin_anew_under_a_stream_are_told(face: Face) -> None:
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        await renumber(face)
        await face.sent(body=1)
        assert (await events.next()).name == "resync_required"
        assert await events.ended()


async def test_an_ack_by_post_is_one(face: Face) -> None:
    await greeted(face)
    id_ = await face.sent(body=1)
    async with stream(face, face.token) as events:
        batch = await events.next("batch")
        answer = await face.call("POST", "/v1/device/ack", {"cursor": batch.id}, token=face.token)
        assert answer.json["acked"] == 1
    trace = (await face.call("GET", f"/v1/messages/{id_}")).json
    assert trace["recipients"][0]["devices"][0]["state"] == "acked"


async def test_nothing_beyond_the_window_comes_before_it_is_acked(tmp_path: Path) -> None:
    """I29. An ack is a call of its own; where another node took it, the next look at the rows finds it."""
    with running(tmp_path, {"RELAY_WINDOW__ENTRIES": "2", "RELAY_POLL__SESSION_S": "1"}) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            await greeted(face)
            sent = [await face.sent(body=n) for n in range(6)]
            async with stream(face, face.token) as events:
                first = await events.next("batch")
                assert ids(first) == sent[:2]
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await events.next("batch")
                ack = {"cursor": first.id}
                assert (await face.call("POST", "/v1/device/ack", ack, token=face.token)).json["acked"] == 2
                second = await events.next("batch")
                assert ids(second) == sent[2:4]
                cursor = relay.relay.inbox.reader.unseal(second.id or "", key(face))
                elsewhere = AckRequest(device=key(face), cursor=cursor)
                await at_relay(face, lambda: relay.relay.inbox.ack(elsewhere))
                assert ids(await events.next("batch")) == sent[4:]


async def test_signs_of_life_come_by_themselves_and_keep_the_device_online(face: Face) -> None:
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        await at_relay(face, lambda: [one.ping() for one in connections(face)])
        beat = await events.next("hb")
        assert beat.data["head"] == 0
        assert {"interval_s", "lease_s", "now"} <= set(beat.data)
        assert await online(face)


async def test_a_device_whose_stream_ends_lingers_and_goes_offline(face: Face) -> None:
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        assert await online(face)
    await face.sent()  # writing to who has gone tells
    async with asyncio.timeout(WITHIN_S):
        while await online(face):
            await asyncio.sleep(0.05)  # noqa: TID251 - the other end of a real connection


async def test_a_stream_after_a_lost_lease_makes_the_device_online_again(face: Face) -> None:
    session = (await greeted(face))["session"]
    relay = face.of.relay
    await at_relay(face, lambda: relay.presence.book.drop(key(face), session))
    await at_relay(face, lambda: relay.inbox.went(key(face), session, linger_ms=0, tell=True))
    assert not await online(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        assert await online(face)


async def test_a_stream_that_comes_back_while_the_device_lingers_has_it_online_at_once(face: Face) -> None:
    """As a page's EventSource does by itself, without a handshake: until the next beat all was pushed beside it."""
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
    await face.sent()  # writing to who has gone tells
    async with asyncio.timeout(WITHIN_S):
        while await its_row_is_online(face):
            await asyncio.sleep(0.05)  # noqa: TID251 - the other end of a real connection
    async with stream(face, face.token) as events:
        await events.next("batch")
        assert await its_row_is_online(face)


async def test_a_newer_session_ends_the_stream(face: Face) -> None:
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        await greeted(face)
        assert await events.ended()


async def test_a_revoked_token_ends_the_stream(face: Face) -> None:
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        assert (await face.call("DELETE", f"/v1/users/{face.user}/devices/phone/token")).status == 204
        assert await events.ended()
    assert (await asked(face, face.token)).refused(401, "unauthenticated")


async def test_a_relay_that_stops_says_when_to_come_back(face: Face) -> None:
    await greeted(face)
    async with stream(face, face.token) as events:
        await events.next("batch")
        await at_relay(face, lambda: [one.drain(1234) for one in connections(face)])
        told = await events.next()
        assert (told.name, told.retry, told.data["reconnect_ms"]) == ("drain", "1234", 1234)
        await at_relay(face, lambda: [one.restart() for one in connections(face)])
        assert await events.ended()


async def test_a_page_comes_with_a_ticket_that_works_once(face: Face) -> None:
    await greeted(face)
    page = {"Origin": ORIGIN}
    ticket = (await face.call("POST", "/v1/device/ticket", token=face.token, headers=page)).json["ticket"]
    async with face.http.get(f"{face.of.url}/v1/device/stream?ticket={ticket}") as answer:
        assert answer.status == 403, "without its origin it is no page's"
    async with stream(face, None, f"?ticket={ticket}", **page) as events:
        await events.next("batch")
    async with face.http.get(f"{face.of.url}/v1/device/stream?ticket={ticket}", headers=page) as answer:
        assert answer.status == 401


async def test_b084_bytes_that_are_no_text_are_no_cursor_of_a_shared_timeline_either(face: Face) -> None:
    inbox = (await greeted(face))["cursors"]["inbox"]
    last = b"Last-Event-ID: " + inbox.encode() + b",\xff\r\n"
    head, _, body = (await said(face, b"GET /v1/device/stream HTTP/1.1\r\n" + last, token=face.token)).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["code"] == "invalid_cursor"


async def said(face: Face, head: bytes, *, token: str) -> bytes:
    """The whole answer to a head that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", face.of.port)
    writer.write(head + f"Host: relay\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    async with asyncio.timeout(WITHIN_S):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_page_of_an_origin_that_is_not_allowed_is_refused(face: Face) -> None:
    await greeted(face)
    assert (await asked(face, face.token, Origin="https://evil.example")).refused(403, "forbidden")


async def test_a_backends_key_opens_no_stream(face: Face) -> None:
    assert (await asked(face, face.of.key)).refused(403, "forbidden")


async def test_a_device_has_so_many_connections_at_once_and_no_more(face: Face) -> None:
    """F41."""
    await greeted(face)
    async with stream(face, face.token) as one, stream(face, face.token) as two, stream(face, face.token) as three:
        for events in (one, two, three):
            await events.next("batch")
        assert (await asked(face, face.token)).refused(429, "rate_limited")


# --- shared timelines -------------------------------------------------------------------------------------------------


@pytest.fixture
async def group(face: Face) -> str:
    """An ultra group that the face's user is a member of."""
    name = f"{face.user}-everybody"
    await face.call("PUT", f"/v1/groups/{name}/members", {"add": [face.user], "type": "ultra"})
    return name


async def timeline(events: Events, name: str) -> Event:
    """The next page of a timeline that has entries."""
    while True:
        event = await events.next("batch")
        if event.data["timeline"] == name and event.data["entries"]:
            return event


def at(events_id: str | None) -> list[str]:
    """The cursors in an event's id."""
    return (events_id or "").split(",")


async def test_a_followed_timeline_comes_as_on_a_socket_and_the_id_says_where_all_stand(face: Face, group: str) -> None:
    await greeted(face)
    old = await face.sent(to={"group": group})
    async with stream(face, face.token, f"?open={group}&open=nonsense") as events:
        told = await events.next("follow")
        assert (told.data["following"], told.data["refused"]) == (
            [group],
            [{"conversation": "nonsense", "code": "not_found"}],
        )
        first = await timeline(events, group)
        assert (ids(first), first.data["caught_up"], len(at(first.id))) == ([old], True, 2)
        assert at(first.id)[1] == first.data["cursor"]
        live = await face.sent(to={"group": group})
        assert ids(await timeline(events, group)) == [live]
        mine = await face.sent()
        inbox = await timeline(events, "inbox")
        assert (ids(inbox), at(inbox.id)[0]) == ([mine], inbox.data["cursor"])


async def test_a_browser_that_comes_back_by_itself_goes_on_in_all_timelines(face: Face, group: str) -> None:
    """It says the address that it began with, and the last id."""
    await greeted(face)
    await face.sent(to={"group": group})
    path = f"?open={group}"
    async with stream(face, face.token, path) as events:
        last = await timeline(events, group)
    missed = [await face.sent(to={"group": group}), await face.sent()]
    async with stream(face, face.token, path, **{"Last-Event-ID": last.id or ""}) as events:
        came = {group: await timeline(events, group)}
    async with stream(face, face.token, path, **{"Last-Event-ID": last.id or ""}) as events:
        came["inbox"] = await timeline(events, "inbox")
    assert [ids(came[group]), ids(came["inbox"])] == [[missed[0]], [missed[1]]]
    # Of two cursors of one timeline the further one counts, in whichever place it stands.
    path = f"?shared={at(last.id)[1]}"
    async with stream(face, face.token, path, **{"Last-Event-ID": came[group].id or ""}) as events:
        await face.sent(to={"group": group})
        assert (await timeline(events, group)).data["from"] == 2


async def test_timelines_that_are_not_followed_are_told_of(face: Face, group: str) -> None:
    await greeted(face)
    await face.sent(to={"group": group})
    async with stream(face, face.token) as events:
        heads = await events.next("heads")
        assert [(one["conversation"], one["head"]) for one in heads.data["shared"]] == [(group, 1)]


async def test_a_timeline_whose_numbers_begin_anew_is_told_and_spoils_nothing(face: Face, group: str) -> None:
    await greeted(face)
    await face.sent(to={"group": group})
    async with stream(face, face.token, f"?open={group}") as events:
        before = await timeline(events, group)
        lost = f"UPDATE conversation SET epoch = 'lost' WHERE conversation_id = '{group}'"
        await at_relay(face, lambda: face.of.relay.engine.write(lambda conn, _: conn.exec_driver_sql(lost)))
        second = await face.sent(to={"group": group})
        told = await events.next("resync_required")
        assert (told.id, told.data["timeline"], told.data["resync"]["reason"]) == (None, group, "epoch")
        came = ids(await timeline(events, group))
        while second not in came:  # that the numbers begin anew may have been seen before it was there
            came = ids(await timeline(events, group))
        assert came[-1] == second
    async with stream(face, face.token, f"?shared={before.data['cursor']}") as events:
        (again,) = (await events.next("follow")).data["resync"]
        assert (again["timeline"], again["reason"]) == (group, "epoch")
        assert ids(await timeline(events, group))[-1] == second


async def test_one_window_holds_all_timelines_and_opens_by_an_ack_of_any(tmp_path: Path) -> None:
    with running(tmp_path, {"RELAY_WINDOW__ENTRIES": "2"}) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            await face.call("PUT", "/v1/groups/g/members", {"add": ["ann"], "type": "ultra"})
            await greeted(face)
            posted = [await face.sent(to={"group": "g"}) for _ in range(3)]
            async with stream(face, face.token, "?open=g") as events:
                page = await timeline(events, "g")
                assert ids(page) == posted[:2]
                mine = await face.sent()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await events.next("batch")
                ack = {"shared": [page.data["cursor"]]}
                await face.call("POST", "/v1/device/ack", ack, token=face.token)
                came = {
                    one.data["timeline"]: ids(one) for one in (await events.next("batch"), await events.next("batch"))
                }
                assert came == {"inbox": [mine], "g": posted[2:]}
