"""Safety 9.6, B093 to B110 as far as there is such a thing: webhooks, lists and metrics, at a running relay.

How a hostile receiver is borne (B098) and what the guard denies in every spelling (B094, B095) is told at length by the
tests of the worker and of the guard; here is what a caller of the API sees of it.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from running_relay import Answer, Face, running

INSIDE = "http://127.0.0.1:9/"  # internal, but listed by the operator; nothing listens there


async def create(face: Face, **fields: Any) -> Answer:
    return await face.call("POST", "/v1/webhooks", {"url": INSIDE} | fields)


async def endpoints(face: Face) -> list[Any]:
    return list((await face.call("GET", "/v1/webhooks")).json["endpoints"])


async def refused(face: Face, answer: Answer, status: int, code: str, pointer: str) -> None:
    """It got this problem, about this field, and there is no endpoint of it."""
    assert (answer.status, answer.code) == (status, code), answer.text
    assert any(one.startswith(pointer) for one in answer.pointers), answer.pointers
    assert await endpoints(face) == []


# The module's relay is shared, so each test leaves no endpoint behind.
@pytest.fixture(autouse=True)
async def _no_endpoints(face: Face) -> AsyncIterator[None]:
    yield
    for one in await endpoints(face):
        assert (await face.call("DELETE", f"/v1/webhooks/{one['id']}")).status == 204


@pytest.fixture
async def endpoint(face: Face) -> str:
    """The path of an endpoint."""
    return f"/v1/webhooks/{(await create(face)).json['id']}"


# --- where events are told --------------------------------------------------------------------------------------------

BAD_URLS = {
    "B093-ftp": "ftp://hooks.example/",
    "B093-file": "file:///etc/passwd",
    "B093-gopher": "gopher://hooks.example/",
    "B093-no-scheme": "//hooks.example/",
    "B093-empty": "",
    "B093-2049-characters": "https://hooks.example/" + "a" * 2027,
    "B093-user": "https://user:password@hooks.example/",
    "B093-host-in-the-user": "https://hooks.example@127.0.0.1/",
    "B093-fragment": "https://hooks.example/#f",
    "B093-space": "https://hooks.example/ x",
    "B093-tab": "https://hooks.example/\tx",
    "B093-line-break": "https://hooks.example/\r\nX-Injected: 1",
    "B093-line-end": "https://hooks.example/\n",
    "B093-backslash": "https:\\\\hooks.example/",
    "B093-http": "http://hooks.example/",
    "B097-port-0": "https://hooks.example:0/",
    "B097-port-22": "https://hooks.example:22/",
    "B097-port-25": "https://hooks.example:25/",
    "B097-port-6379": "https://hooks.example:6379/",
    "B097-port-65536": "https://hooks.example:65536/",
    "B097-port-443x": "https://hooks.example:443x/",
}
BAD_HOSTS = {
    "B094-loopback": "127.0.0.1",
    "B094-loopback-of-ipv6": "[::1]",
    "B094-mapped": "[::ffff:127.0.0.1]",
    "B094-octal": "0177.0.0.1",
    "B094-hexadecimal": "0x7f.1",
    "B094-one-number": "2130706433",
    "B094-two-numbers": "127.1",
    "B094-full-width": "\uff11\uff12\uff17.0.0.1",
    "B094-localhost": "localhost",
    "B094-localhost-with-a-dot": "localhost.",
    "B094-below-localhost": "a.localhost",
    "B094-metadata-name": "metadata.google.internal",
    "B094-metadata-address": "169.254.169.254",
    "B094-without-a-dot": "backend",
    "B094-public-address": "8.8.8.8",
}


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS.keys())
async def test_a_url_that_is_not_valid(face: Face, url: str) -> None:
    await refused(face, await create(face, url=url), 422, "endpoint_url_invalid", "/url")


@pytest.mark.parametrize("host", BAD_HOSTS.values(), ids=BAD_HOSTS.keys())
async def test_a_host_that_may_not_be_called(face: Face, host: str) -> None:
    await refused(face, await create(face, url=f"https://{host}/"), 422, "endpoint_address_denied", "/url")


@pytest.mark.parametrize("url", [pytest.param(one, id=f"B093-update-{one:.20}") for one in ("", "https://127.0.0.1/")])
async def test_an_endpoint_keeps_its_url_when_the_new_one_is_refused(face: Face, endpoint: str, url: str) -> None:
    answer = await face.call("PATCH", endpoint, {"url": url, "description": "new"})
    assert answer.status == 422
    assert answer.pointers == ["/url"]
    kept = (await face.call("GET", endpoint)).json
    assert (kept["url"], kept["description"]) == (INSIDE, None)


def names(monkeypatch: pytest.MonkeyPatch, face: Face, *answers: list[str]) -> None:
    """What the relay's resolver gives, call after call; the last answer stays."""
    waiting = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    monkeypatch.setattr(face.of.relay._webhook_transport, "_resolve", resolve)


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(one.split(), id=f"B095-{one}")
        for one in (
            *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.100.100.200", "::1", "fd00:ec2::254", "fe80::1"),
            *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0", "8.8.8.8 127.0.0.1", "8.8.8.8 ::1"),
        )
    ],
)
async def test_a_name_with_an_address_that_may_not_be_called(
    face: Face, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """The answer names no address: what a name inside resolves to is nobody's business (SEC-8 rule 6)."""
    names(monkeypatch, face, addresses)
    answer = await create(face, url="https://hooks.example/")
    await refused(face, answer, 422, "endpoint_address_denied", "/url")
    assert not any(address in answer.text for address in addresses)


async def test_b096_a_name_that_turned_inward_after_it_was_looked_at(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, face, ["8.8.8.8"], ["127.0.0.1"])
    made = (await create(face, url="https://hooks.example/")).json
    async with asyncio.timeout(20):
        while True:
            told = (await face.call("GET", f"/v1/webhooks/{made['id']}/deliveries")).json["deliveries"]
            if told and told[0]["last_result"] is not None:
                break
            await face.sync(wait=1)
    assert told[0]["last_result"] == "endpoint_address_denied"
    assert "127.0.0.1" not in json.dumps(told)


# --- which events, and how --------------------------------------------------------------------------------------------

BAD_ENDPOINTS: dict[str, tuple[dict[str, Any], str]] = {
    "B099-unknown-type": ({"types": ["delivery.acked", "nope"]}, "/types/1"),
    "B099-1000-types": ({"types": [f"t{n}" for n in range(1000)]}, "/types"),
    "B099-all-and-some": ({"types": ["*", "delivery.acked"]}, "/types"),
    "B099-none": ({"types": []}, "/types"),
    "B099-twice": ({"types": ["delivery.acked", "delivery.acked"]}, "/types/1"),
    "B099-null-among-them": ({"types": [None]}, "/types/0"),
    "B101-host": ({"headers": {"Host": "evil.example"}}, "/headers/Host"),
    "B101-content-length": ({"headers": {"content-length": "0"}}, "/headers/content-length"),
    "B101-transfer-encoding": ({"headers": {"Transfer-Encoding": "chunked"}}, "/headers/Transfer-Encoding"),
    "B101-signature": ({"headers": {"webhook-signature": "v1,x"}}, "/headers/webhook-signature"),
    "B101-webhook-id": ({"headers": {"Webhook-Id": "x"}}, "/headers/Webhook-Id"),
    "B101-value-with-line-break": ({"headers": {"Authorization": "a\r\nX-Injected: 1"}}, "/headers/Authorization"),
    "B101-value-with-line-end": ({"headers": {"X-A": "a\n"}}, "/headers/X-A"),
    "B101-value-not-ascii": ({"headers": {"X-A": "\u00e9"}}, "/headers/X-A"),
    "B101-name-with-line-break": ({"headers": {"X-A\r\nX-B": "a"}}, "/headers"),
    "B101-name-with-colon": ({"headers": {"X-A: b": "a"}}, "/headers"),
    "B101-name-empty": ({"headers": {"": "a"}}, "/headers"),
    "B101-same-name-twice": ({"headers": {"X-A": "1", "x-a": "2"}}, "/headers/x-a"),
    "B101-100-headers": ({"headers": {f"X-{n}": "a" for n in range(100)}}, "/headers"),
    "B101-value-of-2-KiB": ({"headers": {"X-A": "a" * 2048}}, "/headers/X-A"),
    "B064-description-with-line-break": ({"description": "a\nb"}, "/description"),
    "B060-description-bidi": ({"description": "\u202ereversed"}, "/description"),
}


@pytest.mark.parametrize(("fields", "pointer"), BAD_ENDPOINTS.values(), ids=BAD_ENDPOINTS.keys())
async def test_an_endpoint_that_is_none(face: Face, fields: dict[str, Any], pointer: str) -> None:
    answer = await create(face, **fields)
    await refused(face, answer, 422, "validation_failed", pointer)
    made = f"/v1/webhooks/{(await create(face)).json['id']}"
    moving = {"state": None, "failing_since": None}  # nothing listens there, and events are on their way
    before = (await face.call("GET", made)).json | moving
    assert (await face.call("PATCH", made, fields)).refused(422, "validation_failed")
    assert (await face.call("GET", made)).json | moving == before


async def test_b101_headers_of_their_own_are_never_shown(face: Face) -> None:
    answer = await create(face, headers={"Authorization": "Bearer canary-7f3a"})
    assert answer.status == 201
    everything = answer.text + json.dumps(await endpoints(face))
    assert "canary-7f3a" not in everything


async def test_b100_the_51st_endpoint(face: Face) -> None:
    for _ in range(50):
        assert (await create(face)).status == 201
    answer = await create(face)
    assert answer.refused(422, "validation_failed")
    assert len(await endpoints(face)) == 50


async def test_b100_the_same_url_twice_is_allowed_with_a_warning(face: Face) -> None:
    first, second = await create(face), await create(face)
    assert (first.status, first.json["warnings"]) == (201, [])
    assert second.status == 201
    assert "same URL" in second.json["warnings"][0]


async def test_an_endpoint_of_another_app_looks_like_none(face: Face, endpoint: str) -> None:
    other = face.of.other_key
    none = endpoint[:-8] + "00000000"
    body = {"PATCH": {"enabled": False}}
    for method, end in [
        *(("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/rotate"), ("GET", "/deliveries")),
        ("POST", "/replay"),
    ]:
        sent = {"events": ["evt_x"]} if end == "/replay" else body.get(method, {} if end == "/rotate" else None)
        seen = await face.call(method, endpoint + end, sent, token=other)
        unseen = await face.call(method, none + end, sent, token=other)
        assert seen.refused(404, "not_found")
        assert seen.json["detail"] == unseen.json["detail"]
    assert (await face.call("GET", endpoint)).json["state"] != "disabled"


BAD_REPLAYS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "B099-replay-of-nothing": ({}, 422, "validation_failed", ""),
    "B099-replay-unknown-event": ({"events": ["evt_nope"]}, 422, "validation_failed", "/events"),
    "B099-replay-empty-list": ({"events": []}, 422, "validation_failed", "/events"),
    "B099-replay-501": ({"events": [str(n) for n in range(501)]}, 422, "validation_failed", "/events"),
    "B099-replay-both-ways": (
        {"events": ["evt_x"], "since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
        *(422, "validation_failed", ""),
    ),
    "B099-replay-events-and-half-a-range": (
        {"events": ["evt_x"], "since": "2026-01-01T00:00:00Z"},
        *(422, "validation_failed", ""),
    ),
    "B099-replay-half-a-range": ({"since": "2026-01-01T00:00:00Z"}, 422, "validation_failed", ""),
    "B099-replay-reversed": (
        {"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"},
        *(422, "validation_failed", "/until"),
    ),
    **{
        f"B059-time-{name}": ({"since": text, "until": "2026-01-02T00:00:00Z"}, 422, "validation_failed", "/since")
        for name, text in {
            "without-zone": "2026-01-01T00:00:00",
            "february-30": "2025-02-30T00:00:00Z",
            "leap-second": "2025-12-31T23:59:60Z",
            "year-10000": "10000-01-01T00:00:00Z",
            "number": "1764000000",
            "empty": "",
        }.items()
    },
    "B109-replay-cursor": (
        {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "cursor": "garbage"},
        *(400, "invalid_cursor", ""),
    ),
}


@pytest.mark.parametrize(("body", "status", "code", "pointer"), BAD_REPLAYS.values(), ids=BAD_REPLAYS.keys())
async def test_a_replay_that_is_none(
    face: Face, endpoint: str, body: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    answer = await face.call("POST", f"{endpoint}/replay", body)
    assert answer.refused(status, code)
    assert not pointer or answer.pointers == [pointer]


@pytest.mark.parametrize("year", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
async def test_b120_a_replay_of_all_of_time(face: Face, endpoint: str, year: str) -> None:
    """The ends of the calendar are times like others."""
    since, until = sorted([year, "2026-01-01T00:00:00Z"])
    answer = await face.call("POST", f"{endpoint}/replay", {"since": since, "until": until})
    assert answer.status == 202, answer.text


@pytest.mark.parametrize("overlap_s", [-1, 604_801, 1.5, "60", None])
async def test_a_rotation_that_keeps_the_old_secret_too_long(face: Face, endpoint: str, overlap_s: Any) -> None:
    answer = await face.call("POST", f"{endpoint}/rotate", {"overlap_s": overlap_s})
    assert answer.refused(422, "validation_failed")
    assert answer.pointers == ["/overlap_s"]


# --- lists ------------------------------------------------------------------------------------------------------------


def forged(app: str, place: Any) -> str:
    """A cursor of events as anybody can make one: its check has no key."""
    body = json.dumps(place, separators=(",", ":")).encode()
    check = hashlib.sha256(app.encode() + b"\x00" + body).digest()[:9]
    return base64.urlsafe_b64encode(check + body).decode().rstrip("=")


async def test_b109_an_altered_cursor_of_events(face: Face) -> None:
    await face.sent(ttl_s=0)
    cursor = (await face.call("GET", "/v1/events")).json["cursor"]
    assert (await face.call("GET", f"/v1/events?cursor={cursor}")).status == 200
    for bad in ("", cursor[:-1], cursor + "A", "A" + cursor[1:], "A" * 600, "%F0%9F%98%80", cursor.swapcase()):
        assert (await face.call("GET", f"/v1/events?cursor={bad}")).refused(400, "invalid_cursor")
    answer = await face.call("GET", f"/v1/events?cursor={cursor}", token=face.of.other_key)
    assert answer.refused(400, "invalid_cursor")


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, id=f"B109-forged-{n}")
        for n, place in enumerate(
            [
                ["e", "0" * 16, -1],
                ["e", "0" * 16, 2**63],
                ["e", "0" * 16, 10**40],
                ["e", "0" * 16, 1.5],
                ["e", "\x00", 1],
                ["e", "0" * 16, None],
                ["d", "ep", 1, "evt"],
                ["x"],
                {},
                [["e"]],
            ]
        )
    ],
)
async def test_a_cursor_of_events_that_was_made_up(face: Face, place: Any) -> None:
    assert (await face.call("GET", f"/v1/events?cursor={forged('default', place)}")).refused(400, "invalid_cursor")


@pytest.mark.parametrize(
    ("created_ms", "event"),
    [
        pytest.param(*one, id=f"B109-forged-{n}")
        for n, one in enumerate([(2**63, "e"), (-1, "e"), (1, "\x00"), (1, "")])
    ],
)
async def test_a_cursor_of_deliveries_that_was_made_up(face: Face, endpoint: str, created_ms: int, event: str) -> None:
    place = ["d", endpoint.rpartition("/")[2], created_ms, event]
    answer = await face.call("GET", f"{endpoint}/deliveries?cursor={forged('default', place)}")
    assert answer.refused(400, "invalid_cursor")


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "types=nope", "types=*,delivery.acked"])
async def test_b080_bad_parameters_of_events(face: Face, query: str) -> None:
    assert (await face.call("GET", f"/v1/events?{query}")).refused(422, "validation_failed")


async def test_b109_sorting_is_not_offered(face: Face, endpoint: str) -> None:
    assert (await face.call("GET", f"{endpoint}/deliveries?sort=state")).refused(400, "unknown_field")
    assert (await face.call("GET", "/v1/webhooks?sort=url")).refused(400, "unknown_field")


# --- the operator's own -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def from_afar(folder: Path) -> AsyncIterator[tuple[Face, dict[str, str]]]:
    """A relay behind a proxy, and the header by which a caller of another machine comes."""
    with running(folder, {"RELAY_SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]'}) as relay:
        async with aiohttp.ClientSession() as http:
            yield Face(http, relay, "ann"), {"X-Forwarded-For": "203.0.113.9"}


async def test_b110_metrics_are_for_this_machine_or_an_admins_key(tmp_path: Path) -> None:
    async with from_afar(tmp_path) as (face, afar):
        url = f"{face.of.url}/metrics"
        async with face.http.get(url) as here, face.http.get(url, headers=afar) as there:
            assert (here.status, there.status) == (200, 401)
        face.token = await face.device()
        assert (await face.call("GET", "/metrics", headers=afar)).status == 200
        assert (await face.call("GET", "/metrics", token=face.token, headers=afar)).refused(403, "forbidden")


async def test_b110_who_comes_by_a_proxy_that_nobody_named_is_not_this_machine(face: Face) -> None:
    afar = {"X-Forwarded-For": "203.0.113.9"}
    async with face.http.get(f"{face.of.url}/metrics", headers=afar) as there:
        assert there.status == 401
    assert (await face.call("GET", "/metrics", headers=afar)).status == 200


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/api/apps", "/v1/admin", "/debug", "/server-status"])
async def test_b110_there_is_nothing_for_operators_here(face: Face, path: str) -> None:
    """The dashboard will have a listener of its own."""
    assert (await face.call("GET", path)).refused(404, "not_found")
