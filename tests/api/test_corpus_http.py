"""Safety 9.1, B019 and B020: what is about HTTP, but needs a whole relay. The other rows stand in test_http_form."""

import asyncio
import select
import socket
from pathlib import Path

import aiohttp
import pytest
from running_relay import Face, running

from relay.api import connections
from relay.config import load
from relay.errors import ConfigError

PIPELINED = 2000


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        pytest.param({"X-Forwarded-Proto": "https"}, True, id="B019-https"),
        pytest.param({"X-Forwarded-Proto": "HTTPS"}, True, id="B019-capitals"),
        pytest.param({"X-Forwarded-Proto": "http, https"}, True, id="B019-the-nearest-proxy-counts"),
        pytest.param({"X-Forwarded-Proto": "http"}, False, id="B019-http"),
        pytest.param({"X-Forwarded-Proto": "https, http"}, False, id="B019-made-up-by-the-caller"),
        pytest.param({"X-Forwarded-Proto": "https\u00e9"}, False, id="B019-garbage"),
        pytest.param({"Forwarded": "proto=https"}, False, id="B019-another-header"),
        pytest.param({}, False, id="B019-no-header"),
    ],
)
async def test_only_https_where_the_operator_wants_it(tmp_path: Path, headers: dict[str, str], let_in: bool) -> None:
    settings = {"RELAY_SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]', "RELAY_SERVER__HTTPS_ONLY": "true"}
    with running(tmp_path, settings) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            body = {"users": ["ann"]}
            answer = await face.call("POST", "/v1/presence/query", body, headers=headers)
            assert answer.status == 200 if let_in else answer.refused(400, "https_required")
            assert (await face.call("GET", "/healthz")).status == 200  # probes come straight


async def test_b019_a_peer_that_is_no_proxy_does_not_say_how_it_came(tmp_path: Path) -> None:
    settings = {"RELAY_SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]', "RELAY_SERVER__HTTPS_ONLY": "true"}
    with running(tmp_path, settings) as relay:
        async with aiohttp.ClientSession() as http:
            answer = await Face(http, relay, "ann").call("GET", "/v1/webhooks", headers={"X-Forwarded-Proto": "https"})
            assert answer.refused(400, "https_required")


def test_b019_https_only_without_a_proxy_would_let_nobody_in() -> None:
    with pytest.raises(ConfigError, match=r"https_only.*trusted_proxies"):
        load(None, {"RELAY_SERVER__HTTPS_ONLY": "true"})


async def test_who_asks_and_never_reads_is_cut_off(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a socket (B091): the connection, and what is to be sent, would stay here for as long as the peer likes."""
    monkeypatch.setattr(connections, "UNREAD_S", 0.2)
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(peer.connect, ("127.0.0.1", face.of.port))
        peer.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: relay\r\n\r\n" * 100)
        assert await asyncio.to_thread(_is_cut_off, peer), "it stays connected"


def _is_cut_off(peer: socket.socket) -> bool:
    """Whether it is within ten seconds. Who takes nothing hears nothing either, before it says something."""
    told = select.poll()
    told.register(peer, 0)  # an end is told in any case
    for _ in range(200):
        try:
            peer.send(b"G")
        except ConnectionError:
            return True
        if told.poll(50):
            return True
    return False


async def test_b020_two_thousand_requests_pipelined(face: Face) -> None:
    """Answered in order, and others are served in between."""
    request = (
        "GET /v1/users/u{n}/devices/d HTTP/1.1\r\nHost: relay\r\n"
        f"Authorization: Bearer {face.of.key}\r\nX-Padding: {{n}}\r\n\r\n"
    )
    for n in (0, PIPELINED // 2):
        assert (await face.call("PUT", f"/v1/users/u{n}/devices/d", {})).status == 201
    reader, writer = await asyncio.open_connection("127.0.0.1", face.of.port)

    async def ask() -> None:
        for n in range(PIPELINED):
            writer.write(request.format(n=n).encode())
            await writer.drain()  # the relay may let us wait: that is its bound

    asking = asyncio.create_task(ask())
    statuses = []
    async with asyncio.timeout(60):
        for n in range(PIPELINED):
            head = await reader.readuntil(b"\r\n\r\n")
            statuses.append(int(head[9:12]))
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            if n == 100:
                assert (await face.call("GET", "/healthz")).status == 200
        await asking
    writer.close()
    assert [n for n, status in enumerate(statuses) if status == 200] == [0, PIPELINED // 2]
    assert set(statuses) == {200, 404}
