"""Safety 9.4, B048 to B073: sends that are wrong, repeated or hostile, at a running relay.

Where the rows and the protocol differ, the protocol rules: the test of that row says how.
"""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from running_relay import Answer, Face, Running, running

from relay.api.schemas.messages import PushBody

KIB = 1024
PAYLOAD_BYTES_MAX = 64 * KIB  # design D12; the row's own 16 KiB were for another form of message
SQL = ["x' OR '1'='1", "'; DROP TABLE message; --", '" UNION SELECT * FROM api_key --', "%", "_", "\\'", "1;SELECT 1"]


@asynccontextmanager
async def relay_with(folder: Path, **settings: str) -> AsyncIterator[Face]:
    """A relay of its own, with these settings."""
    given = {f"RELAY_{name.upper()}": value for name, value in settings.items()}
    with running(folder, given) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            yield face


async def refused(face: Face, answer: Answer, status: int, code: str, pointer: str | None = None) -> None:
    """It got this problem, about this field, and nothing of it was stored."""
    assert (answer.status, answer.code) == (status, code), answer.text
    if pointer is not None:
        assert pointer in answer.pointers
        assert all(one["detail"] for one in answer.json["errors"])
    assert await face.head() == 0


# --- idempotency ------------------------------------------------------------------------------------------------------


async def test_b048_no_key(face: Face, tmp_path: Path) -> None:
    """Optional by design D11; required where the app's setting says so."""
    assert (await face.send()).status == 202
    async with relay_with(tmp_path, app__require_idempotency_key="true") as strict:
        await refused(strict, await strict.send(), 400, "idempotency_key_required")
        assert (await strict.send(key=face.user)).status == 202


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="B049-empty"),
        pytest.param("x" * 129, id="B049-129-characters"),
        pytest.param("a b", id="B049-space"),
        pytest.param("\U0001f600", id="B049-emoji"),
        pytest.param("a,b", id="B049-comma-list"),
        pytest.param("a/b", id="B049-slash"),
    ],
)
async def test_a_key_of_another_form(face: Face, key: str) -> None:
    await refused(face, await face.send(key=key), 400, "idempotency_key_invalid")


async def test_b049_two_keys(face: Face) -> None:
    """Which of them counts would be a guess."""
    body = {"to": {"users": [face.user]}, "body": 1}
    headers = [("Authorization", f"Bearer {face.of.key}"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with face.http.post(f"{face.of.url}/v1/messages", json=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "idempotency_key_invalid")
    assert await face.head() == 0


async def test_b049_line_break_in_a_key(face: Face) -> None:
    """On the wire it ends the header: what follows it is no header, and the request is not HTTP."""
    body = json.dumps({"to": {"users": [face.user]}, "body": 1})
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {face.of.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nIdempotency-Key: a\r\nb\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", face.of.port)
    writer.write((head + body).encode())
    answer = await reader.read()
    writer.close()
    assert b" 400 Bad Request" in answer.splitlines()[0]
    assert await face.head() == 0


async def test_b050_the_same_send_64_times_at_once(face: Face) -> None:
    answers = await asyncio.gather(*(face.send(key=face.user, body={"n": 1}) for _ in range(64)))
    assert Counter(one.status for one in answers) == {202: 1, 200: 63}
    assert all(one.headers.get("Idempotent-Replay") == "true" for one in answers if one.status == 200)
    assert len({one.text for one in answers}) == 1
    assert await face.head() == 1


async def test_b051_the_same_key_for_another_body(face: Face) -> None:
    assert (await face.send(key=face.user, body={"a": 1, "b": [1, 2]})).status == 202
    assert (await face.send(key=face.user, body={"a": 1, "b": [2, 1]})).refused(409, "idempotency_conflict")
    assert (await face.send(key=face.user, body={"a": 1, "b": [1, 2]}, priority="high")).refused(
        409, "idempotency_conflict"
    )
    assert await face.head() == 1


async def test_b051_the_same_content_in_another_order_is_a_repeat(face: Face) -> None:
    first = await face.send(key=face.user, body={"a": 1, "b": {"c": 2, "d": 3}})
    raw = b'{"body" : {"b":{"d":3,"c":2}, "a":1},\n"to":{"users":["%s"]}}' % face.user.encode()
    again = await face.call("POST", "/v1/messages", raw=raw, headers={"Idempotency-Key": face.user})
    assert (again.status, again.json) == (200, first.json)
    assert await face.head() == 1


async def test_b052_another_app_has_keys_of_its_own(face: Face) -> None:
    other = face.of.other_key
    theirs = await face.device(key=other)
    first = await face.send(key=face.user)
    second = await face.send(key=face.user, body="theirs", token=other)
    assert (first.status, second.status) == (202, 202)
    assert first.json["id"] != second.json["id"]
    assert [one["body"] for one in await face.inbox()] == ["hi"]
    assert [one["body"] for one in await face.inbox(token=theirs)] == ["theirs"]


# --- fields -----------------------------------------------------------------------------------------------------------


async def test_b053_unknown_field(face: Face) -> None:
    answer = await face.send(pritority="high")
    await refused(face, answer, 400, "unknown_field", "/pritority")
    assert "priority" in answer.json["errors"][0]["detail"]


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "B054-no-recipient": ({"to": {}}, "/to"),
    "B054-empty-list": ({"to": {"users": []}}, "/to/users"),
    "B054-null": ({"to": None}, "/to"),
    "B054-null-list": ({"to": {"users": None}}, "/to"),
    "B054-both-kinds": ({"to": {"users": ["a"], "devices": [{"user": "a", "device": "b"}]}}, "/to"),
    "B054-null-among-them": ({"to": {"users": ["a", None]}}, "/to/users/1"),
    "B057-ttl-negative": ({"ttl_s": -1}, "/ttl_s"),
    "B057-ttl-over-28-days": ({"ttl_s": 2_419_201}, "/ttl_s"),
    "B057-ttl-fraction": ({"ttl_s": 1.5}, "/ttl_s"),
    "B057-ttl-text": ({"ttl_s": "60"}, "/ttl_s"),
    "B057-ttl-float": ({"ttl_s": 1e10}, "/ttl_s"),
    "B057-ttl-true": ({"ttl_s": True}, "/ttl_s"),
    "B060-title-4097": ({"push": {"title": "x" * 4097}}, "/push/title"),
    "B060-title-empty": ({"push": {"title": ""}}, "/push/title"),
    "B060-title-1000-combining-marks": ({"push": {"title": "e" + "\u0301" * 1000}}, "/push/title"),
    "B060-title-zero-width-only": ({"push": {"title": "\u200b\u200c\u200d\u2060\ufeff"}}, "/push/title"),
    "B060-title-blank": ({"push": {"title": " \u00a0\u3000\t"}}, "/push/title"),
    "B060-title-bidi-override": ({"push": {"title": "invoice \u202egpj.exe"}}, "/push/title"),
    "B060-body-bidi-isolate": ({"push": {"body": "\u2067x"}}, "/push/body"),
    "B060-title-escape-character": ({"push": {"title": "\x1b[31mred"}}, "/push/title"),
    "B063-collapse-key-65": ({"collapse_key": "x" * 65}, "/collapse_key"),
    "B063-collapse-key-control": ({"collapse_key": "a\x01b"}, "/collapse_key"),
    "B063-collapse-key-empty": ({"collapse_key": ""}, "/collapse_key"),
    "B063-priority": ({"priority": "urgent!!"}, "/priority"),
    "B063-channel-path": ({"push": {"channel": "a/../b"}}, "/push/channel"),
    "B065-collapse-key-header": ({"collapse_key": "a\r\nX-Injected: 1"}, "/collapse_key"),
    "B065-channel-header": ({"push": {"channel": "a\r\nX-Injected: 1"}}, "/push/channel"),
    "B065-sound-header": ({"push": {"sound": "a\r\nX-Injected: 1"}}, "/push/sound"),
    "B065-sound-line-end": ({"push": {"sound": "a\n"}}, "/push/sound"),
    "B065-thread-header": ({"push": {"thread": "a\r\nX-Injected: 1"}}, "/push/thread"),
    "B065-click-header": ({"push": {"click": "https://a.example/\r\nX-Injected: 1"}}, "/push/click"),
    "B065-image-header": ({"push": {"image": "https://a.example/\r\nX-Injected: 1"}}, "/push/image"),
    "B065-type-header": ({"type": "a\r\nX-Injected: 1"}, "/type"),
    "B065-id-of-a-conversation": ({"conversation": {"id": "a\r\nb"}}, "/conversation/id"),
    "B060-loc-key-path": ({"push": {"title": "x", "title_loc_key": "a/b"}}, "/push/title_loc_key"),
    "B060-loc-key-long": ({"push": {"body": "x", "body_loc_key": "k" * 129}}, "/push/body_loc_key"),
    "B060-loc-key-without-text": ({"push": {"title_loc_key": "k"}}, "/push/title_loc_key"),
    "B060-loc-args-without-key": ({"push": {"title": "x", "title_loc_args": ["a"]}}, "/push/title_loc_args"),
    "B060-loc-args-11": (
        {"push": {"title": "x", "title_loc_key": "k", "title_loc_args": ["a"] * 11}},
        "/push/title_loc_args",
    ),
    "B060-loc-args-number": (
        {"push": {"title": "x", "title_loc_key": "k", "title_loc_args": [1]}},
        "/push/title_loc_args/0",
    ),
    "B060-loc-args-text": (
        {"push": {"title": "x", "title_loc_key": "k", "title_loc_args": "ab"}},
        "/push/title_loc_args",
    ),
    "B066-click-javascript": ({"push": {"click": "javascript:alert(1)"}}, "/push/click"),
    "B066-click-javascript-mixed": ({"push": {"click": "JaVaScRiPt:alert(1)"}}, "/push/click"),
    "B066-click-javascript-blank": ({"push": {"click": " javascript:alert(1)"}}, "/push/click"),
    "B066-click-javascript-tab": ({"push": {"click": "java\tscript:alert(1)"}}, "/push/click"),
    "B066-click-vbscript": ({"push": {"click": "vbscript:x"}}, "/push/click"),
    "B066-click-data": ({"push": {"click": "data:text/html,<script>alert(1)</script>"}}, "/push/click"),
    "B066-click-file": ({"push": {"click": "file:///etc/passwd"}}, "/push/click"),
    "B066-click-blob": ({"push": {"click": "blob:https://a.example/1"}}, "/push/click"),
    "B066-click-no-scheme": ({"push": {"click": "//a.example/"}}, "/push/click"),
    "B066-click-9-kib": ({"push": {"click": "https://a.example/" + "x" * 9 * KIB}}, "/push/click"),
    "B066-click-nothing-but-a-scheme": ({"push": {"click": "myapp:"}}, "/push/click"),
    "B066-click-a-scheme-of-digits": ({"push": {"click": "9app://x"}}, "/push/click"),
    "B066-click-no-host": ({"push": {"click": "https://"}}, "/push/click"),
    "B066-click-no-slashes": ({"push": {"click": "https:a.example"}}, "/push/click"),
    "B066-click-half-an-address": ({"push": {"click": "https://[::1/"}}, "/push/click"),
    "B066-image-no-host": ({"push": {"image": "https:///i.png"}}, "/push/image"),
    "B066-image-of-another-scheme": ({"push": {"image": "ftp://a.example/i.png"}}, "/push/image"),
    "B066-image-javascript": ({"push": {"image": "javascript:alert(1)"}}, "/push/image"),
    "B068-sql-in-the-type": ({"type": "x' OR '1'='1"}, "/type"),
    "B068-sql-in-the-collapse-key": ({"collapse_key": "x' OR '1'='1"}, "/collapse_key"),
}


@pytest.mark.parametrize(("fields", "pointer"), INVALID.values(), ids=INVALID.keys())
async def test_a_field_that_does_not_hold_what_it_should(face: Face, fields: dict[str, Any], pointer: str) -> None:
    """B057 has null among the mistakes; here it is the same as leaving the field out, as everywhere in this API."""
    await refused(face, await face.send(**fields), 422, "validation_failed", pointer)


@pytest.mark.parametrize(
    "click", ["https://a.example", "http://[::1]:8080/x", "myapp://chat/9", "tel:+49", "intent:#Intent;end"]
)
async def test_b066_a_click_that_some_vendor_can_take(face: Face, click: str) -> None:
    assert (await face.send(push={"title": "x", "click": click})).status == 202


def test_b066_a_scheme_is_handed_on_in_small_letters() -> None:
    """RFC 3986, 3.1: they mean the same, and vendors look for `https`."""
    push = PushBody(title="x", click="HTTPS://A.example/B", image="Http://a.example/I.png")
    assert (push.click, push.image) == ("https://A.example/B", "http://a.example/I.png")


async def test_b054_a_recipient_named_twice_gets_it_once(face: Face) -> None:
    """The note that the row asks for is the answer's list: each receiver stands in it once."""
    answer = await face.send(to={"users": [face.user, face.user]})
    assert [one["user"] for one in answer.json["recipients"]] == [face.user]
    assert await face.head() == 1


@pytest.mark.parametrize("to", ["users", "devices"])
async def test_b055_who_is_unknown_and_who_is_another_apps_look_alike(face: Face, to: str) -> None:
    await face.device("foreign", "theirs", key=face.of.other_key)

    def receiver(user: str) -> Any:
        return {"users": [user]} if to == "users" else {"devices": [{"user": user, "device": "theirs"}]}

    unknown = await face.send(to=receiver("unknown"))
    foreign = await face.send(to=receiver("foreign"))
    await refused(face, unknown, 422, "recipient_unknown")
    await refused(face, foreign, 422, "recipient_unknown")
    assert unknown.json["detail"].replace("unknown", "foreign") == foreign.json["detail"]


async def test_b055_a_device_that_the_user_does_not_have(face: Face) -> None:
    """Nobody could ever get it, so the promise must not be made."""
    to = {"devices": [{"user": face.user, "device": "nowhere"}]}
    await refused(face, await face.send(to=to), 422, "recipient_unknown")


async def test_b056_too_many_recipients(face: Face) -> None:
    users = [face.user, *(f"u{n}" for n in range(1000))]
    await refused(face, await face.send(to={"users": users}), 422, "too_many_recipients", "/to")


async def test_b058_ttl_0_with_the_device_offline_is_reported_as_expired(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 30 s by the product's own number; here within the round of the sweep."""
    monkeypatch.setattr("relay.inbox.send.ZERO_TTL_MS", 100)
    sent = await face.sent(ttl_s=0)
    async with asyncio.timeout(20):
        while True:
            events = (await face.call("GET", "/v1/events?types=delivery.expired&limit=200")).json["events"]
            if any(sent in json.dumps(one) for one in events):
                break
            await face.sync(wait=1)
    assert await face.inbox() == []


async def test_b060_a_title_of_1_mib(face: Face) -> None:
    await refused(face, await face.send(push={"title": "x" * KIB * KIB}), 413, "body_too_large")


@pytest.mark.parametrize("character", ["x", "\u20ac", "\U0001f600"])
async def test_b061_the_payload_is_counted_in_bytes(face: Face, character: str) -> None:
    size = len(character.encode())
    fits = "x" * (PAYLOAD_BYTES_MAX - 2 - size) + character  # two are the quotes
    await refused(face, await face.send(body=fits + "x"), 413, "payload_too_large")
    assert (await face.send(body=fits)).status == 202


async def test_b062_deep_data_arrives_byte_for_byte(face: Face) -> None:
    leaf = {"n": 9007199254740991, "f": 0.1, "t": True, "z": None, "s": '\u00e9\u4e2d\U0001f600/\\"'}
    nested: Any = [leaf] * 12
    for depth in range(10):
        nested = {f"level{depth}": nested, "more": [leaf] * 24}
    raw = json.dumps(nested, ensure_ascii=False, separators=(",", ":"))
    assert 16 * KIB < len(raw.encode()) < 32 * KIB
    await face.sent(body=nested)
    assert f'"body":{raw}' in (await face.sync()).text


HOSTILE_TEXT = [
    pytest.param("<script>alert(1)</script>", id="B064-script"),
    pytest.param('"><img src=x onerror=alert(1)>', id="B064-attribute"),
    pytest.param("<svg/onload=alert(1)><!--", id="B064-svg"),
    pytest.param("</title></textarea></style><iframe src=javascript:alert(1)>", id="B064-closing-tags"),
    pytest.param("two\r\nSet-Cookie: a=b\r\n\r\nlines", id="B065-title-with-lines"),
    pytest.param("%s%n%x{0}{{7*7}}#{7*7}${jndi:ldap://x.example/a}", id="B067-templates"),
    pytest.param("'; DROP TABLE message; --", id="B068-sql"),
]


@pytest.mark.parametrize("text", HOSTILE_TEXT)
async def test_text_of_any_content_arrives_as_it_was_sent(face: Face, text: str, capfd: pytest.CaptureFixture) -> None:
    """There is no dashboard yet to look at it; the log must not repeat it."""
    push = {"title": text, "body": text, "data": {"k": text}}
    await face.sent(body={"text": text, text: 1}, push=push)
    (entry,) = await face.inbox()
    assert entry["body"] == {"text": text, text: 1}
    out, err = capfd.readouterr()
    assert text not in out + err


@pytest.mark.parametrize("sql", [pytest.param(text, id=f"B068-{n}") for n, text in enumerate(SQL)])
async def test_sql_in_names_is_a_name(face: Face, sql: str) -> None:
    sent = await face.sent()
    quoted = quote(sql, safe="")
    assert (await face.send(to={"users": [sql]})).refused(422, "recipient_unknown")
    for path in (f"/v1/messages/{quoted}", f"/v1/webhooks/{quoted}", f"/v1/users/{quoted}/devices/{quoted}"):
        assert (await face.call("GET", path)).refused(404, "not_found")
        assert (await face.call("DELETE", path)).refused(404, "not_found")
    assert (await face.call("GET", f"/v1/users/{quoted}/presence")).json["devices"] == []
    assert (await face.call("POST", "/v1/presence/query", {"users": [sql]})).json["users"][0]["devices"] == []
    assert (await face.call("GET", f"/v1/events?types={quoted}")).refused(422, "validation_failed")
    assert (await face.call("GET", f"/v1/events?cursor={quoted}")).refused(400, "invalid_cursor")
    assert (await face.call("GET", f"/v1/events?sort={quoted}")).refused(400, "unknown_field")
    assert (await face.sync(cursor=quoted)).refused(400, "invalid_cursor")
    assert (await face.call("POST", "/v1/device/ack", {"ids": [sql]}, token=face.token)).json["results"] == {
        sql: "unknown"
    }
    assert [one["id"] for one in await face.inbox()] == [sent]


# --- batches ----------------------------------------------------------------------------------------------------------


def items(face: Face, count: int) -> list[Any]:
    return [{"to": {"users": [face.user]}, "body": n} for n in range(count)]


async def batch(face: Face, messages: Any) -> Answer:
    return await face.call("POST", "/v1/messages/batch", {"messages": messages})


async def test_b069_empty_batch(face: Face) -> None:
    await refused(face, await batch(face, []), 422, "validation_failed", "/messages")


async def test_a_batch_is_an_array_or_a_message_a_line_or_an_object(face: Face) -> None:
    one, other = items(face, 2)
    path, lines = "/v1/messages/batch", {"Content-Type": "application/x-ndjson; charset=utf-8"}
    ndjson = f"{json.dumps(one)}\r\n\n{json.dumps(other)}".encode()
    for answer in (
        await batch(face, [one, other]),
        await face.call("POST", path, [one, other]),
        await face.call("POST", path, raw=ndjson, headers=lines),
    ):
        assert (answer.status, answer.json["accepted"]) == (202, 2)
    assert await face.head() == 6


async def test_lines_that_are_no_messages_are_refused_by_their_number(face: Face) -> None:
    async def lines(raw: bytes, path: str = "/v1/messages/batch") -> Answer:
        return await face.call("POST", path, raw=raw, headers={"Content-Type": "application/x-ndjson"})

    (one,) = items(face, 1)
    torn = await lines(f"{json.dumps(one)}\n\n{json.dumps(one)[:-1]}".encode())
    await refused(face, torn, 400, "json_invalid")
    assert torn.json["detail"].startswith("Line 3: The body is not JSON")
    await refused(face, await lines(b" \n"), 422, "validation_failed", "")
    await refused(face, await lines(b"1\n" * 30_000), 400, "json_too_complex")
    await refused(face, await lines(json.dumps(one).encode(), "/v1/messages"), 415, "unsupported_media_type")


async def test_what_is_for_devices_online_now_is_for_now_or_never(face: Face) -> None:
    await refused(face, await face.send(scope={"state": "online"}), 422, "validation_failed", "/scope/state")
    await face.sent(scope={"state": "online"}, ttl_s=0)
    assert await face.inbox() == [], "its only device is offline"


async def test_b069_batch_of_501(face: Face) -> None:
    await refused(face, await batch(face, items(face, 501)), 413, "batch_too_large")


async def test_b069_batch_of_more_than_1_mib(face: Face) -> None:
    await refused(face, await batch(face, [{"x": "x" * KIB * KIB}]), 413, "batch_too_large")


async def test_b069_items_that_are_no_messages(face: Face) -> None:
    answer = await batch(face, [None, 1, "x", [], {}, *items(face, 1)])
    assert answer.status == 202
    results = answer.json["results"]
    assert [one["status"] for one in results] == ["rejected"] * 5 + ["accepted"]
    assert all(one["problem"]["code"] == "validation_failed" for one in results[:5])
    assert await face.head() == 1


async def test_b069_a_key_twice_in_one_batch(face: Face) -> None:
    one, other = items(face, 2)
    key = {"key": face.user}
    answer = await batch(face, [one | key, one | key, other | key, other | {"key": "a b"}])
    results = answer.json["results"]
    assert [each["status"] for each in results] == ["accepted", "replayed", "rejected", "rejected"]
    assert results[0]["id"] == results[1]["id"]
    assert results[2]["problem"]["code"] == "idempotency_conflict"
    assert await face.head() == 1


async def test_b070_invalid_items_do_not_disturb_the_others(face: Face) -> None:
    messages = items(face, 10)
    messages[3]["ttl_s"] = -1
    messages[7]["to"] = {"users": ["nobody"]}
    answer = await batch(face, messages)
    assert (answer.status, answer.json["accepted"], answer.json["rejected"]) == (202, 8, 2)
    results = answer.json["results"]
    assert [one["index"] for one in results] == list(range(10))
    assert {n: one["problem"]["code"] for n, one in enumerate(results) if one["status"] == "rejected"} == {
        3: "validation_failed",
        7: "recipient_unknown",
    }
    assert results[3]["problem"]["errors"][0]["pointer"] == "/ttl_s"
    assert [one["body"] for one in await face.inbox()] == [0, 1, 2, 4, 5, 6, 8, 9]


# --- states -----------------------------------------------------------------------------------------------------------


async def test_b071_a_full_inbox_refuses_new_sends_and_drops_nothing_old(tmp_path: Path) -> None:
    async with relay_with(tmp_path, app__inbox_max="3") as face:
        kept = [await face.sent(body=n) for n in range(3)]
        answer = await face.send(body="one too many")
        assert answer.refused(429, "recipient_queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json["retryable"]
        assert [one["id"] for one in await face.inbox()] == kept
        cursor = (await face.sync()).json["batches"][0]["cursor"]
        assert (await face.call("POST", "/v1/device/ack", {"cursor": cursor}, token=face.token)).status == 200
        assert (await face.send(body="now there is room")).status == 202


async def test_b072_cancelling_what_is_unknown_or_another_apps_looks_alike(face: Face) -> None:
    await face.device(key=face.of.other_key)
    theirs = (await face.send(token=face.of.other_key)).json["id"]
    unknown = theirs[:-12] + "0" * 12
    for one in (theirs, unknown, "x", "%C3%A9"):
        answer = await face.call("DELETE", f"/v1/messages/{one}")
        assert answer.refused(404, "not_found")
        assert answer.json["detail"] == "There is no such message."
    trace = (await face.call("GET", f"/v1/messages/{theirs}", token=face.of.other_key)).json
    assert "cancelled" not in json.dumps(trace)


async def test_b072_cancelling_what_was_acked_recalls_it(face: Face) -> None:
    """Not 409 as in the row: taking back what a device has tells it so (design 4)."""
    sent = await face.sent()
    assert (await face.call("POST", "/v1/device/ack", {"ids": [sent]}, token=face.token)).status == 200
    assert (await face.call("DELETE", f"/v1/messages/{sent}")).json["status"] == "recalled"
    assert [one["of"] for one in await face.inbox() if one["kind"] == "recall"] == [[sent]]


async def test_b072_cancelling_twice(face: Face) -> None:
    sent = await face.sent()
    assert (await face.call("DELETE", f"/v1/messages/{sent}")).json["status"] == "cancelled"
    assert (await face.call("DELETE", f"/v1/messages/{sent}")).refused(409, "state_conflict")


async def test_b073_one_key_again_and_again_takes_nothing_from_others(tmp_path: Path) -> None:
    """2,000 at once instead of 1,000/s for a minute; how fast others are served meanwhile is the benchmark's to say."""
    own_pace = {"limits__send_rate_per_s": "50", "limits__send_burst": "100"}
    async with relay_with(tmp_path, **own_pace) as face:
        await face.device(key=face.of.other_key)
        repeats = [face.send(key=face.user) for _ in range(2000)]
        others = [face.send(key=f"o{n}", token=face.of.other_key) for n in range(50)]
        answers = await asyncio.gather(*repeats, *others)
        statuses = Counter(one.status for one in answers[:2000])
        assert set(statuses) <= {200, 202, 429}
        assert statuses[202] == 1
        assert statuses[429] > 0
        assert [one.status for one in answers[2000:]] == [202] * 50
        assert await face.head() == 1


async def test_b001_a_send_that_is_cut_off_stores_nothing(face: Face, relay: Running) -> None:
    body = json.dumps({"to": {"users": [face.user]}, "body": "x" * 5000}).encode()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {relay.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", relay.port)) as line:
        line.sendall(head.encode() + body[:-1])
    assert await face.head() == 0
