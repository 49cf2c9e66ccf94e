"""How answers look on the wire, byte by byte; and that every spelling of a path finds the same route."""

import pytest
from edge_app import Edge

from relay.api.reply import Reply


def request(line: str, *, who: str = "device", last: bool = True) -> bytes:
    ending = "Connection: close\r\n" if last else ""
    return f"{line}\r\nHost: a\r\nAuthorization: Bearer {who}\r\n{ending}\r\n".encode()


def parts(answer: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert len({line.partition(":")[0].lower() for line in lines}) == len(lines), "each header once"
    return first, dict(line.split(": ", 1) for line in lines), body


async def test_an_answer_has_the_headers_that_belong_to_it_and_no_other(edge: Edge) -> None:
    first, headers, body = parts(await edge.say(request("GET /v1/device/me HTTP/1.1")))
    assert (first, body) == ("HTTP/1.1 200 OK", b'{"id":"phone"}')
    assert set(headers) == {"Content-Type", "Cache-Control", "X-Request-Id", "Content-Length", "Date", "Connection"}
    assert (headers["Content-Length"], headers["Connection"]) == (str(len(body)), "close")


async def test_a_connection_stays_open_unless_the_caller_wants_otherwise(edge: Edge) -> None:
    answers = await edge.say(request("GET /v1/device/me HTTP/1.1", last=False) + request("GET /v1/device/me HTTP/1.1"))
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.count(b"Connection:") == 1


async def test_a_caller_of_http_1_0_is_told_that_the_connection_stays(edge: Edge) -> None:
    asked = request("GET /v1/device/me HTTP/1.0", last=False).replace(
        b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"
    )
    first, headers, _ = parts((await edge.say(asked + request("GET /v1/device/me HTTP/1.0"))).split(b"HTTP/1.0")[1])
    assert first == " 200 OK"
    assert headers["Connection"] == "keep-alive"


async def test_an_answer_without_a_body_says_nothing_of_its_length(edge: Edge) -> None:
    first, headers, body = parts(await edge.say(request("DELETE /v1/things/one HTTP/1.1", who="writer")))
    assert (first, body) == ("HTTP/1.1 204 No Content", b"")
    assert not {"Content-Length", "Content-Type", "Transfer-Encoding"} & set(headers)


@pytest.mark.parametrize("path", ["/v1/device/me", "/v1/device/%6de", "/v1/%64evice/me"])
async def test_every_spelling_of_a_path_finds_its_route(edge: Edge, path: str) -> None:
    first, _, body = parts(await edge.say(request(f"GET {path} HTTP/1.1")))
    assert (first, body) == ("HTTP/1.1 200 OK", b'{"id":"phone"}')


@pytest.mark.parametrize("line", ["POST /v1/device/me HTTP/1.1", "HEAD /v1/device/me HTTP/1.1"])
async def test_another_method_of_a_path_is_refused_with_those_there_are(edge: Edge, line: str) -> None:
    first, headers, _ = parts(await edge.say(request(line)))
    assert first == "HTTP/1.1 405 Method Not Allowed"
    assert headers["Allow"] == "GET"


async def test_an_answer_to_head_has_the_length_and_not_the_body(edge: Edge) -> None:
    first, headers, body = parts(await edge.say(request("HEAD /v1/nowhere HTTP/1.1")))
    assert (first, body) == ("HTTP/1.1 404 Not Found", b"")
    assert int(headers["Content-Length"]) > 0


async def test_a_header_cannot_be_broken_in_two(edge: Edge) -> None:
    """Whatever a handler may take over from a caller: rather no answer than two."""
    assert await edge.say(request("GET /v1/header HTTP/1.1", who="reader")) == b""


def test_an_answer_knows_whether_it_has_gone_out() -> None:
    reply = Reply(200, {"A": "b"}, b"c")
    assert (reply.prepared, reply.keep_alive) == (False, None)
    reply.force_close()
    assert reply.keep_alive is False
