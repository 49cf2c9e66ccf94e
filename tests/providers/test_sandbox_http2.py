"""The vendors' listener by HTTP/2: who has it, and that whatever is said and befalls there does by HTTP/1.1, too."""

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import ResponseReceived, StreamEnded
from http2_plain import PlainClient
from hyperframe.frame import RstStreamFrame

from providers import loading
from providers.fcm import FcmProvider
from providers.http import Reason, Request, TransportError
from providers.http2 import Http2Transport, tls_context
from providers.sandbox import Sandbox, http2_server
from providers.sandbox.authority import Authority
from providers.sandbox.http2_server import Http2Server
from providers.sandbox.http2_streams import answered_by

NOW = 1_800_000_000.0


@pytest.fixture
async def sandbox(state_dir: Path) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(
        now=lambda: NOW, rng=random.Random(1), vendors=("fcm", "gotify"), state_dir=state_dir, slow_s=60, tls=True
    )
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


def authority_of(sandbox: Sandbox) -> Authority:
    return sandbox.emulators["fcm"].host.authority


@pytest.fixture
async def http2(sandbox: Sandbox) -> AsyncIterator[Http2Transport]:
    async with Http2Transport(tls=tls_context(ca_data=authority_of(sandbox).pem)) as transport:
        yield transport


def plain(sandbox: Sandbox) -> PlainClient:
    return PlainClient(sandbox.emulators["fcm"].url, ca=authority_of(sandbox).pem)


@dataclass
class Google:
    """Who may send, by way of a login."""

    url: str
    path: str
    headers: dict[str, str]

    def push(self, token: str, **more: Any) -> Request:
        body = json.dumps({"message": {"token": token, "data": {"a": "b"}}}).encode()
        return Request(**{"url": self.url + self.path, "headers": self.headers, "body": body, **more})

    def tell(self, client: PlainClient, token: str) -> int:
        return client.tell(list(self.headers.items()), self.push(token).body, path=self.path)


@pytest.fixture
async def google(sandbox: Sandbox, http2: Http2Transport) -> Google:
    provider = loading.build(FcmProvider, sandbox.account_settings()["settings"], transport=http2, now=lambda: NOW)
    assert isinstance(provider, FcmProvider)
    bearer = (await provider.credential()).value
    account = provider.config.service_account
    return Google(
        url=sandbox.emulators["fcm"].url,
        path=f"/v1/projects/{account.project_id}/messages:send",
        headers={"content-type": "application/json", "authorization": f"Bearer {bearer}"},
    )


# Who has it.


@pytest.mark.parametrize(
    ("offered", "spoken"), [(["h2", "http/1.1"], "h2"), (["h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)]
)
async def test_whoever_asks_for_it_has_http2_and_anyone_else_http1(
    sandbox: Sandbox, offered: list[str], spoken: str | None
) -> None:
    context = ssl.create_default_context(cadata=authority_of(sandbox).pem)
    if offered:
        context.set_alpn_protocols(offered)
    host, _, port = sandbox.emulators["gotify"].host.url.removeprefix("https://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == spoken
    if spoken != "h2":
        writer.write(b"GET /gotify/health HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_there_are_the_vendors_and_nothing_else(sandbox: Sandbox, http2: Http2Transport) -> None:
    url = sandbox.emulators["gotify"].host.url
    for method, path, status in [
        ("GET", "/gotify/health", 200),
        ("POST", "/gotify/message", 401),
        ("GET", "/nowhere", 404),
        ("GET", "/_control/state", 404),
    ]:
        answer = await http2(Request(url=url + path, method=method, headers={}, body=b""))
        assert answer.status == status, path


async def test_what_http1_could_not_say_is_a_bad_request(sandbox: Sandbox) -> None:
    async with plain(sandbox) as client:
        client.tell([], path="/two words", method="GET")
        headers: list[ResponseReceived] = []
        while not headers:
            headers = await client.hear(ResponseReceived)
        assert dict(headers[0].headers or ())[":status"] == "400"


# Long ones.


async def test_a_body_that_is_too_long_is_told_so(sandbox: Sandbox, google: Google, http2: Http2Transport) -> None:
    answer = await http2(google.push("phone", body=b"x" * 2_000_000))
    assert (answer.status, answer.json()["error"]["message"]) == (400, "Request payload size exceeds the limit.")


async def test_a_long_answer_waits_for_the_client_s_windows(google: Google, http2: Http2Transport) -> None:
    huge = google.push("hugebody-1", answer_bytes_max=8 * 1024 * 1024)
    answers = await asyncio.gather(http2(huge), *(http2(google.push("phone")) for _ in range(20)))
    assert [one.status for one in answers] == [503] + [200] * 20
    assert len(answers[0].body) > 4 * 1024 * 1024
    assert answers[0].body.rstrip().endswith(b"all we know.</ins>")


# Ends.


async def test_a_reset_ends_every_stream_of_its_connection(
    sandbox: Sandbox, google: Google, http2: Http2Transport
) -> None:
    slow = asyncio.ensure_future(http2(google.push("slow-1")))
    assert await sandbox.phones.wait("slow-1", 1, timeout_s=10)
    for lost in (http2(google.push("reset-1")), slow):
        with pytest.raises(TransportError) as raised:
            await lost
        assert (raised.value.reason, raised.value.sent) == (Reason.RESET, True)
    assert (await http2(google.push("phone"))).status == 200


async def test_a_goodbye_names_the_request_that_it_was_said_to(sandbox: Sandbox, google: Google) -> None:
    async with plain(sandbox) as client:
        stream_id = google.tell(client, "goaway-1")
        while client.goaway is None:
            await client.hear()
        assert (client.goaway.last_stream_id, client.goaway.error_code) == (stream_id - 1, 0)
        await ended(client)
    assert sandbox.phones.count("goaway-1") == 0


async def test_who_gives_up_a_request_keeps_the_connection_and_after_a_goodbye_ends_it(
    sandbox: Sandbox, google: Google
) -> None:
    async with plain(sandbox) as client:
        given_up, waiting = (google.tell(client, token) for token in ("slow-1", "slow-2"))
        for token in ("slow-1", "slow-2"):
            assert await sandbox.phones.wait(token, 1, timeout_s=10)
        client.h2.reset_stream(given_up, ErrorCodes.CANCEL)
        again = google.tell(client, "phone")
        answered: list[StreamEnded] = []
        while not answered:
            answered = await client.hear(StreamEnded)
        assert answered[0].stream_id == again
        google.tell(client, "goaway-1")
        while client.goaway is None:
            await client.hear()
        cancel = RstStreamFrame(waiting, error_code=ErrorCodes.CANCEL)
        client.writer.write(cancel.serialize())  # h2 says nothing more after a goodbye
        await ended(client)


async def test_a_stop_answers_what_is_under_way_and_does_not_wait_for_the_idle(
    sandbox: Sandbox, google: Google, http2: Http2Transport
) -> None:
    async with plain(sandbox) as idle:
        slow = asyncio.ensure_future(http2(google.push("slow-1")))
        assert await sandbox.phones.wait("slow-1", 1, timeout_s=10)
        began_s = asyncio.get_running_loop().time()
        stopped = asyncio.create_task(sandbox.stop())
        await ended(idle)
        assert idle.goaway is not None
        assert (await slow).status == 200
        await stopped
        assert asyncio.get_running_loop().time() - began_s < http2_server.CLOSE_S


async def test_a_stop_cuts_off_who_does_not_come_to_an_end(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_server, "CLOSE_S", 0.05)
    async with plain(sandbox) as client:
        client.tell([], path="/token", ended=False)
        client.tell([], path="/nowhere", method="GET")
        while not await client.hear(StreamEnded):
            pass
        stopped = asyncio.create_task(sandbox.stop())
        await ended(client)
        await stopped


async def ended(client: PlainClient) -> None:
    """Waits for the end of the connection."""
    with suppress(ConnectionResetError):
        while True:
            await client.hear()


async def test_a_request_of_which_the_server_dies_has_an_answer_all_the_same() -> None:
    class Dies(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.close()

    authority = Authority.open(None)
    server = Http2Server(answered_by(Dies), streams_first=lambda _: 10, request_bytes_max=100)
    await server.open("127.0.0.1", 0, authority.server_context(alpn=["h2"]))
    async with Http2Transport(tls=tls_context(ca_data=authority.pem)) as http2:
        assert (await http2(Request(url=f"https://127.0.0.1:{server.port}/", headers={}, body=b"x"))).status == 502
    await server.close()
