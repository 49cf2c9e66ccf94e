"""Safety 9.1, B001 to B020, on real sockets: what is not one plain request is refused, and the connection closed."""

import asyncio
import gzip
import json
import time
from ipaddress import ip_network

import pytest
from aiohttp import ClientSession
from edge_app import BODY_MAX, Edge, running

from relay.api import connections, limits

CLOSE = b"Connection: close\r\n"
WHO = b"Host: relay\r\nAuthorization: Bearer writer\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = b'{"name":"x"}'


def get(path: bytes, *, headers: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + WHO + CLOSE + headers + b"\r\n"


def post(body: bytes = BODY, *, headers: bytes = b"", kind: bytes = JSON, length: bytes | None = None) -> bytes:
    said = b"Content-Length: %d\r\n" % len(body) if length is None else length
    return b"POST /v1/things HTTP/1.1\r\n" + WHO + CLOSE + kind + headers + said + b"\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked\r\n"


def code_of(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["code"])


async def test_a_plain_request_is_served(edge: Edge) -> None:
    assert await edge.status(post()) == 200
    assert await edge.status(post(chunked(BODY, 5), headers=CHUNKED, length=b"")) == 200
    assert await edge.status(get(b"/v1/things/x")) == 200


# --- framing ---


@pytest.mark.parametrize(
    "request_",
    [
        *(
            post(length=b"Content-Length: " + value + b"\r\n")
            for value in (b"-1", b"abc", b"1e3", b"+5", b"5, 5", b"0x5", b"")
        ),
        post(length=b"Content-Length: 5\r\nContent-Length: 6\r\n"),
        post(length=b"Content-Length: 12\r\nContent-Length: 12\r\n"),
        post(length="Content-Length: \u0661\u0662\r\n".encode()),
        post(chunked(BODY, 5), headers=CHUNKED),
        *(
            post(chunked(BODY, 5), headers=b"Transfer-Encoding:" + value + b"\r\n", length=b"")
            for value in (
                b" xchunked",
                b" chunked, identity",
                b" \x0bchunked",
                " chun\u212aed".encode(),
                b" chunked, chunked",
            )
        ),
        post(b"FFFFFFFFFFFFFFFFF\r\n", headers=CHUNKED, length=b""),
        post(b"-5\r\nabcde\r\n0\r\n\r\n", headers=CHUNKED, length=b""),
        post(b"5 \r\nabcde\r\n0\r\n\r\n", headers=CHUNKED, length=b""),
    ],
)
async def test_a_body_whose_length_can_be_read_in_two_ways_is_refused(edge: Edge, request_: bytes) -> None:
    assert await edge.status(request_) == 400
    assert await edge.status(post()) == 200


async def test_a_chunk_as_large_as_can_be_written_is_read_up_to_the_limit(edge: Edge) -> None:
    assert await edge.status(post(b"FFFFFFFFFFFFFFFF\r\n" + b" " * 5000, headers=CHUNKED, length=b"")) == 413


async def test_a_body_that_is_cut_off_gets_no_success_and_leaves_no_bug(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(post(length=b"Content-Length: 100\r\n"))
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    assert not answer.startswith(b"HTTP/1.1 2")
    assert b'status="500"' not in edge.metrics.render()


@pytest.mark.parametrize(
    "headers",
    [
        *(
            b"X: " + b"y" * 9216 + b"\r\n",
            b"".join(b"X-%d: y\r\n" % i for i in range(65)),
            b"no colon\r\n",
            b"Name : value\r\n",
        ),
        *(
            b"X: a\nY: b\r\n",
            b"X: a\x00b\r\n",
            b"X: a\rb\r\n",
            b": empty\r\n",
            b"X: a\r\n folded\r\n",
            "N\u00e4me: x\r\n".encode(),
        ),
        b"".join(b"X-%d: %s\r\n" % (i, b"y" * 4000) for i in range(9)),
    ],
)
async def test_headers_that_are_malformed_or_too_many_are_refused(edge: Edge, headers: bytes) -> None:
    assert await edge.status(get(b"/v1/things/x", headers=headers)) == 400


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"GET /" + b"x" * 9216 + b" HTTP/1.1",
            b"GET http://other/v1/things/x HTTP/1.1",
            b"GET /v1/things/\x00 HTTP/1.1",
        ),
        *(b"GET /v1/things/%00 HTTP/1.1", b"GET /v1/../admin HTTP/1.1", b"GET //v1/things/x HTTP/1.1"),
        *(b"GET /v1/things/%zz HTTP/1.1", b"GET /v1/things/%c0%ae HTTP/1.1", b"GET /v1/things/x?limit=%zz HTTP/1.1"),
        *(b"GET /v1/things/x?limit=%c0%ae HTTP/1.1", b"GET /v1/things/%ff HTTP/1.1", b"GET /v1/things/. HTTP/1.1"),
        *(b"GET /v1/things/%2e%2E HTTP/1.1", b"GET /v1/things/x/../y HTTP/1.1", b"GET /v1/things/%0d%0a HTTP/1.1"),
        *(
            b"GET /v1/things/x",
            b"GET /v1/things/x HTTP/0.9",
            b"GET /v1/things/x HTTP/3.7",
            b"GET\t/v1/things/x HTTP/1.1",
        ),
        *(
            b"get /v1/things/x HTTP/1.1",
            b"TRACE /v1/things/x HTTP/1.1",
            b"CONNECT relay:80 HTTP/1.1",
            b"G@T / HTTP/1.1",
        ),
        *(b"GET v1/things/x HTTP/1.1", b"OPTIONS * HTTP/1.1", b"\x16\x03\x01\x02\x00"),
    ],
)
async def test_a_request_line_of_another_form_never_reaches_a_route(edge: Edge, line: bytes) -> None:
    answer = await edge.say(line + b"\r\n" + WHO + CLOSE + b"\r\n")
    assert int(answer[9:12]) in {400, 404, 405}
    assert not edge.auth.asked
    assert b"\r\nserver:" not in answer.lower()


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n", b"Host: me@relay\r\n"])
async def test_there_must_be_one_host_without_a_user(edge: Edge, hosts: bytes) -> None:
    assert await edge.status(b"GET /healthz HTTP/1.1\r\n" + hosts + CLOSE + b"\r\n") == 400


async def test_what_is_not_http_is_answered_with_a_problem_without_a_word_on_our_software(edge: Edge) -> None:
    answer = await edge.say(b"NONSENSE\r\n\r\n")
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert code_of(answer) == "malformed_http"
    assert b"application/problem+json" in answer
    assert b"aiohttp" not in answer
    assert b"Python" not in answer


async def test_many_pipelined_requests_are_answered_in_order(edge: Edge) -> None:
    ask = b"".join(b"GET /v1/things/%d HTTP/1.1\r\n" % i + WHO + b"\r\n" for i in range(2000))
    answers = (await edge.say(ask + get(b"/v1/things/last"))).split(b'{"id":"')
    assert [one.partition(b'"')[0] for one in answers[1:]] == [*(b"%d" % i for i in range(2000)), b"last"]


# --- bodies ---


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"x", b"identity, gzip"])
async def test_a_compressed_body_is_refused_without_inflating_it(edge: Edge, encoding: bytes) -> None:
    answer = await edge.say(post(gzip.compress(BODY), headers=b"Content-Encoding: " + encoding + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert code_of(answer) == "unsupported_encoding"


async def test_a_second_content_encoding_does_not_slip_through(edge: Edge) -> None:
    said = b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"
    assert await edge.status(post(gzip.compress(BODY), headers=said)) == 415
    assert await edge.status(post(headers=b"Content-Encoding: identity\r\n")) == 200


async def test_a_gzip_bomb_costs_nothing(edge: Edge) -> None:
    bomb = gzip.compress(b"\x00" * 50_000_000)[: BODY_MAX - 1]
    request_ = post(bomb, headers=b"Content-Encoding: gzip\r\n")
    began = time.thread_time()
    assert await edge.status(request_) == 415
    assert time.thread_time() - began < 0.05


@pytest.mark.parametrize(
    "kind",
    [
        *(
            b"",
            b"text/plain",
            b"application/xml",
            b"application/json; charset=utf-16",
            b"multipart/form-data; boundary=x",
        ),
        *(b"application/json, text/plain", b"application/jsonx"),
        b"application/json; charset=utf-8; charset=utf-16",
    ],
)
async def test_only_json_is_taken(edge: Edge, kind: bytes) -> None:
    answer = await edge.say(post(kind=b"Content-Type: " + kind + b"\r\n" if kind else b""))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert code_of(answer) == "unsupported_media_type"


async def test_two_content_types_are_none(edge: Edge) -> None:
    assert await edge.status(post(kind=JSON + JSON)) in {400, 415}


@pytest.mark.parametrize("kind", [b"application/json;charset=UTF-8", b'Application/JSON; charset="utf-8"'])
async def test_json_may_name_its_charset(edge: Edge, kind: bytes) -> None:
    assert await edge.status(post(kind=b"Content-Type: " + kind + b"\r\n")) == 200


async def test_a_body_may_have_so_many_bytes_and_not_one_more(edge: Edge) -> None:
    full = BODY + b" " * (BODY_MAX - len(BODY))
    assert await edge.status(post(full)) == 200
    assert code_of(await edge.say(post(full + b" "))) == "payload_too_large"
    assert await edge.status(post(chunked(full, 1000), headers=CHUNKED, length=b"")) == 200
    assert await edge.status(post(chunked(full + b" ", 1000), headers=CHUNKED, length=b"")) == 413


async def test_a_body_of_a_million_small_chunks_is_not_read_to_its_end(edge: Edge) -> None:
    began = time.thread_time()
    assert await edge.status(post(b"1\r\n \r\n" * 100_000, headers=CHUNKED, length=b"")) in {413, 0}
    assert time.thread_time() - began < 1.0


async def test_a_body_that_is_too_large_is_refused_before_it_is_asked_for(edge: Edge) -> None:
    head = post(b"", headers=b"Expect: 100-continue\r\n", length=b"Content-Length: 5000\r\n")
    answer = await edge.say(head)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


async def test_nobody_unknown_is_asked_for_a_body(edge: Edge) -> None:
    head = post(b"", headers=b"Expect: 100-continue\r\n", length=b"Content-Length: 12\r\n")
    answer = await edge.say(head.replace(b"Bearer writer", b"Bearer nobody"))
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_body_is_asked_for_once(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(post(b"", headers=b"Expect: 100-continue\r\n", length=b"Content-Length: 12\r\n"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_another_expectation_is_refused(edge: Edge) -> None:
    answer = await edge.say(post(b"", headers=b"Expect: 200-ok\r\n", length=b"Content-Length: 12\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_body_with_a_get_is_ignored(edge: Edge) -> None:
    said = b"Content-Length: 5\r\nContent-Encoding: gzip\r\n\r\nhello"
    assert await edge.status(b"GET /v1/things/x HTTP/1.1\r\n" + WHO + CLOSE + said) == 200


# --- time ---


async def test_a_head_that_does_not_come_to_its_end_is_answered_with_408(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    answer = await edge.say(b"GET /v1/things/x HT")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert code_of(answer) == "request_timeout"


async def test_a_second_head_that_does_not_come_to_its_end_is_answered_with_408(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(get(b"/v1/things/x").replace(CLOSE, b""))
    await reader.readuntil(b"}}")
    writer.write(b"GET /v1/thi")
    assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_connection_that_says_nothing_is_closed_without_a_word(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    assert await edge.say() == b""


async def test_a_connection_between_requests_is_left_alone(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    ask = post().replace(CLOSE, b"")
    writer.write(ask[:-5])
    await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.06)
    writer.write(ask[-5:])
    await reader.readuntil(b"}}")
    await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=0.06)
    assert not reader.at_eof()
    writer.close()


async def test_a_socket_is_not_taken_for_a_head_that_is_late(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.02)
    async with ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{edge.port}/v1/device/ws") as socket:
        for word in ("one", "two", "three"):
            await socket.send_str(word)
            assert await socket.receive_str() == word
            with pytest.raises(TimeoutError):
                await socket.receive_str(timeout=0.03)


async def test_a_body_that_comes_too_slowly_is_answered_with_408(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SLOW_S", 0.05)
    answer = await edge.say(post(b"{", length=b"Content-Length: 12\r\n"))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert code_of(answer) == "request_timeout"


async def test_a_body_buys_time_with_its_bytes_but_not_without_end(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SLOW_S", 0.05)
    monkeypatch.setattr(limits, "BODY_S", 0.1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await edge.say(post(b" " * 4000, length=b"Content-Length: 4001\r\n"))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert loop.time() - began >= 0.1


# --- credentials where they leak ---

KEY = "rk_live_vpmlgrqqv3gs_32rx2DA-Yc3Eu4bD0cQnEDw0TEGJ6y8ee9XUfkRvzsI_1SOOfL"


@pytest.mark.parametrize(
    "query",
    [
        *(f"{name}=x" for name in sorted(limits.CREDENTIAL_NAMES)),
        "ACCESS_TOKEN=x",
        "limit=1&key=x",
        "%61uth=x",
        f"order={KEY}",
        f"%6Bey={KEY}",
    ],
)
async def test_a_credential_in_the_query_is_refused(edge: Edge, query: str) -> None:
    answer = await edge.say(get(f"/v1/things/x?{query}".encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert code_of(answer) == "credential_in_url"
    assert KEY.encode() not in answer
    assert not edge.auth.asked


async def test_a_credential_in_a_cookie_is_refused_but_other_cookies_are_ignored(edge: Edge) -> None:
    assert (
        code_of(await edge.say(get(b"/v1/things/x", headers=f"Cookie: a=1; k={KEY}\r\n".encode())))
        == "credential_in_url"
    )
    assert await edge.status(get(b"/v1/things/x", headers=b"Cookie: rd_seen=1; token=abc\r\n")) == 200


async def test_a_credential_in_the_body_is_refused(edge: Edge) -> None:
    body = json.dumps({"name": "x", "api_key": KEY}).encode()
    assert code_of(await edge.say(post(body))) == "credential_in_url"


async def test_text_like_a_credential_is_passed_on_where_content_may_stand(edge: Edge) -> None:
    assert await edge.status(post(json.dumps({"name": "x", "data": {"token": KEY}}).encode())) == 200


async def test_two_credentials_are_none(edge: Edge) -> None:
    answer = await edge.say(get(b"/v1/things/x", headers=b"Authorization: Bearer writer\r\n"))
    assert answer.startswith(b"HTTP/1.1 401 ")


# --- who it came from ---


async def test_a_peer_that_is_no_proxy_can_not_give_itself_an_address() -> None:
    async with running(trusted_proxies=[ip_network("10.0.0.0/8")]) as edge:
        await edge.say(get(b"/v1/things/x", headers=b"X-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n"))
        assert edge.auth.asked == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("X-Forwarded-For: 9.9.9.9, 1.2.3.4, 10.0.0.7", "1.2.3.4"),
        ("X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 1.2.3.4", "1.2.3.4"),
        ("X-Forwarded-For: 1.2.3.4, nonsense", "127.0.0.1"),
        ("X-Forwarded-For: 10.0.0.8", "10.0.0.8"),
        ("X-Forwarded-For: 2001:db8::1, ::ffff:10.0.0.7", "2001:db8::1"),
        ("Forwarded: for=1.2.3.4", "127.0.0.1"),
        ("X-Real-IP: 1.2.3.4", "127.0.0.1"),
    ],
)
async def test_behind_a_proxy_the_right_most_address_that_is_no_proxy_counts(header: str, address: str) -> None:
    async with running(trusted_proxies=[ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8")]) as edge:
        await edge.say(get(b"/v1/things/x", headers=header.encode() + b"\r\n"))
        assert edge.auth.asked == [address]
        assert b'route="/v1/things/{thing}"' in edge.metrics.render()


def test_aiohttp_has_its_strict_parser() -> None:
    assert connections.COMPILED
