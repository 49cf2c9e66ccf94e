"""The one client, over real sockets: what strangers answer, what may be called, and what was certainly not sent."""

import asyncio
import datetime
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from providers import transport as transport_module
from providers.guard import ADDRESS_DENIED, Exemption, Guard, TargetRefused
from providers.http import Reason, Request, RequestInvalid, TransportError
from providers.transport import HttpTransport
from providers.trust import verifying

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Server:
    """A listener on loopback that remembers what came in."""

    port: int = 0
    connections: int = 0
    heads: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/x"


Behave = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(behave: Behave | bytes, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    open_writers: set[asyncio.StreamWriter] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        open_writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                server.heads.append(head.decode())
                server.heard.set()
                length = [line for line in head.decode().lower().split("\r\n") if line.startswith("content-length")]
                if length:
                    await reader.readexactly(int(length[0].partition(":")[2]))
                if isinstance(behave, bytes):
                    writer.write(behave)
                    await writer.drain()
                else:
                    await behave(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            server.gone.set()
            writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for writer in open_writers:
            writer.transport.abort()
        await listener.wait_closed()


async def timed_out(transport: HttpTransport, server: Server, monkeypatch: pytest.MonkeyPatch) -> TransportError:
    """The failure of a call whose time is over once the server has heard it: no waiting, however slow the machine."""
    limits: list[asyncio.Timeout] = []
    real = asyncio.timeout

    def recorded(delay: float | None) -> asyncio.Timeout:
        limits.append(real(delay))
        return limits[-1]

    monkeypatch.setattr(asyncio, "timeout", recorded)
    call = asyncio.ensure_future(transport(Request(url=server.url, total_s=600)))
    await server.heard.wait()
    limits[0].reschedule(asyncio.get_running_loop().time())  # the first is the whole call's
    with pytest.raises(TransportError) as caught:
        await call
    return caught.value


async def failing(transport: HttpTransport, request: Request) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await transport(request)
    return caught.value


# What goes out.


async def test_a_call_is_plain() -> None:
    async with serving(OK) as server, HttpTransport() as transport:
        answer = await transport(Request(url=f"{server.url}%2Fy?a=b%20c", headers={"x-a": "1"}, body=b"hello"))
        assert (answer.status, answer.body, answer.truncated) == (200, b"ok", False)
        head = server.heads[0].lower()
        assert head.startswith("post /x%2fy?a=b%20c http/1.1\r\n")
        assert "\r\nuser-agent: push-relay/" in head
        assert "\r\naccept-encoding: identity\r\n" in head
        assert "\r\nx-a: 1\r\n" in head
        assert "cookie" not in head


async def test_the_method_is_the_callers() -> None:
    async with serving(b"HTTP/1.1 204 No Content\r\n\r\n") as server, HttpTransport() as transport:
        assert (await transport(Request(url=server.url, method="DELETE"))).status == 204
        assert server.heads[0].startswith("DELETE ")


async def test_connections_are_kept_but_no_longer_than_a_minute() -> None:
    async with serving(OK) as server, HttpTransport() as transport:
        await transport(Request(url=server.url))
        await transport(Request(url=server.url))
        assert server.connections == 1
        assert transport._session is not None
        born = transport._session.connector._born_s  # type: ignore[union-attr]
        for protocol in list(born):
            born[protocol] -= 61
        await transport(Request(url=server.url))
        assert server.connections == 2


async def test_cookies_are_not_kept() -> None:
    answer = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with serving(answer) as server, HttpTransport() as transport:
        await transport(Request(url=server.url))
        await transport(Request(url=server.url))
        assert "cookie" not in server.heads[1].lower()


async def test_the_environments_proxies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(OK) as proxy, serving(OK) as server, HttpTransport() as transport:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await transport(Request(url=server.url))).status == 200
        assert proxy.connections == 0


@pytest.mark.parametrize("text", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b", "é", "\x7f", "x" * 1025])
def test_a_head_takes_no_line_breaks(text: str) -> None:
    for fields in ({"headers": {"x-a": text}}, {"headers": {text: "x"}}, {"url": f"https://a.example/{text * 9}"}):
        with pytest.raises(RequestInvalid):
            Request(**{"url": "https://a.example/", **fields})  # type: ignore[arg-type]
    with pytest.raises(RequestInvalid):
        Request(url="https://a.example/", method="GET /x HTTP/1.1\r\n")


# What comes back.


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with serving(OK) as other:
        moved = f"HTTP/1.1 307 Moved\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with serving(moved) as server, HttpTransport() as transport:
            assert (await transport(Request(url=server.url))).status == 307
            assert other.connections == 0


async def test_an_endless_body_is_read_to_the_limit_and_dropped() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with serving(endless) as server, HttpTransport() as transport:
        answer = await transport(Request(url=server.url))
        assert (len(answer.body), answer.truncated) == (64 * 1024, True)
        await asyncio.wait_for(server.gone.wait(), 5)
        short = await transport(Request(url=server.url, answer_bytes_max=100))
        assert (len(short.body), short.truncated) == (100, True)
        assert server.connections == 2


async def test_compressed_answers_stay_compressed() -> None:
    bomb = gzip.compress(b"\0" * 1_000_000)
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n".encode()
    async with serving(head + bomb) as server, HttpTransport() as transport:
        answer = await transport(Request(url=server.url))
        assert answer.body == bomb
        assert answer.json() == {}


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"a" * 65_536 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: " % n + b"a" * 65_536 + b"\r\n" for n in range(20)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    ],
)
async def test_garbage_is_no_answer(garbage: bytes) -> None:
    async with serving(garbage) as server, HttpTransport() as transport:
        error = await failing(transport, Request(url=server.url, total_s=5))
        assert (error.reason, error.sent) == (Reason.GARBAGE, True)


async def test_a_switch_of_protocols_ends_there() -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nxyz"
    async with serving(switching) as server, HttpTransport() as transport:
        assert (await transport(Request(url=server.url))).status == 101
        await asyncio.wait_for(server.gone.wait(), 5)


async def test_early_hints_without_end_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hints(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0)  # noqa: TID251 - passes no time

    async with serving(hints) as server, HttpTransport() as transport:
        error = await timed_out(transport, server, monkeypatch)
        assert (error.reason, error.sent) == (Reason.TIMEOUT, True)


# What is no answer, and whether it was sent.


async def test_a_slow_answer_times_out_and_may_have_been_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
        await asyncio.Event().wait()

    async with serving(never) as server, HttpTransport() as transport:
        error = await timed_out(transport, server, monkeypatch)
        assert (error.reason, error.sent) == (Reason.TIMEOUT, True)


async def test_a_reset_after_the_request_may_have_been_sent() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(reset) as server, HttpTransport() as transport:
        error = await failing(transport, Request(url=server.url, body=b"x"))
        assert (error.reason, error.sent) == (Reason.RESET, True)
        assert server.connections == 1  # nobody tried again by himself


async def test_an_answer_that_ends_early_may_have_been_sent() -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nab")
        await writer.drain()
        writer.close()

    async with serving(cut) as server, HttpTransport() as transport:
        error = await failing(transport, Request(url=server.url))
        assert (error.reason, error.sent) == (Reason.RESET, True)


async def test_a_refused_connection_was_certainly_not_sent() -> None:
    with socket.socket() as bound:  # and never listening: nobody else can take its port meanwhile
        bound.bind(("127.0.0.1", 0))
        async with HttpTransport() as transport:
            error = await failing(transport, Request(url=f"http://127.0.0.1:{bound.getsockname()[1]}/"))
        assert (error.reason, error.sent) == (Reason.CONNECT_FAILED, False)


async def test_a_name_that_does_not_resolve_was_not_sent() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError(f"no {host}:{port}")

    async def empty(host: str, port: int) -> list[str]:
        return [] if host and port else [host]

    for resolve in (unknown, empty):
        for guard in (None, Guard()):
            async with HttpTransport(resolve=resolve, guard=guard) as transport:
                error = await failing(transport, Request(url="https://hooks.example/"))
                assert (error.reason, error.sent) == (Reason.DNS_FAILED, False)


async def test_a_slow_resolver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "DNS_S", 0.02)

    async def slow(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return [f"{host}{port}"]

    for guard in (None, Guard()):
        async with HttpTransport(resolve=slow, guard=guard) as transport:
            error = await failing(transport, Request(url="https://hooks.example/"))
            assert not error.sent
            assert error.reason in {Reason.DNS_FAILED, Reason.TIMEOUT}


async def test_a_closed_transport_stays_closed() -> None:
    transport = HttpTransport()
    await transport.aclose()
    with pytest.raises(RuntimeError):
        await transport(Request(url="http://127.0.0.1:1/"))


# Guarded.


class Names:
    """A resolver that answers by a script; the last answer stays."""

    def __init__(self, *answers: Iterable[str]) -> None:
        self.answers = [list(answer) for answer in answers]
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        assert port
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def exempting(*texts: str) -> Guard:
    return Guard(exemptions=tuple(Exemption.parse(text) for text in texts))


async def refused(transport: HttpTransport, url: str) -> str:
    with pytest.raises(TargetRefused) as caught:
        await transport(Request(url=url))
    return caught.value.code


async def test_an_exempt_name_is_called_at_its_address() -> None:
    async with serving(OK) as server:
        names, url = Names(["127.0.0.1"]), f"http://hooks.internal:{server.port}/x?y"
        guard = exempting(f"hooks.internal:{server.port}")
        async with HttpTransport(guard=guard, resolve=names) as transport:
            answer = await transport(Request(url=url, headers={"Host": "evil.example"}))
            assert answer.status == 200
            assert f"\r\nhost: hooks.internal:{server.port}\r\n" in server.heads[0].lower()
            assert server.heads[0].startswith("POST /x?y HTTP/1.1")
            assert "evil" not in server.heads[0]
            await transport(Request(url=url))
            assert (names.asked, server.connections) == (["hooks.internal"] * 2, 1)


async def test_an_exempt_literal_is_called() -> None:
    async with serving(OK) as server:
        guard = exempting(f"127.0.0.0/8:{server.port}")
        async with HttpTransport(guard=guard, resolve=Names([])) as transport:
            assert (await transport(Request(url=server.url))).status == 200
            assert (await transport.check(server.url)).port == server.port
        async with HttpTransport(guard=Guard(allow_http=True, ports=frozenset({server.port}))) as transport:
            assert await refused(transport, server.url) == ADDRESS_DENIED
        assert server.connections == 1


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["::1"],
        ["8.8.8.8", "::1"],  # A public, AAAA private
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],  # a CNAME to the metadata name
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
    ],
)
async def test_no_packet_reaches_a_denied_address(addresses: list[str]) -> None:
    async with serving(OK) as server:
        guard = Guard(allow_http=True, ports=frozenset({server.port}))
        async with HttpTransport(guard=guard, resolve=Names(addresses)) as transport:
            assert await refused(transport, f"http://hooks.example:{server.port}/") == ADDRESS_DENIED
            with pytest.raises(TargetRefused):
                await transport.check(f"http://hooks.example:{server.port}/")
        assert server.connections == 0


async def test_a_name_that_changes_its_mind_is_refused() -> None:
    async with serving(OK) as server:
        guard = Guard(allow_http=True, ports=frozenset({server.port}))
        names = Names(["8.8.8.8"], ["127.0.0.1"])
        async with HttpTransport(guard=guard, resolve=names) as transport:
            url = f"http://hooks.example:{server.port}/"
            assert (await transport.check(url)).host == "hooks.example"  # when it was created: public
            assert await refused(transport, url) == ADDRESS_DENIED  # when it is called: not any more
        assert server.connections == 0


async def test_an_open_connection_does_not_shield_a_name_that_changed() -> None:
    async with serving(OK) as server:
        guard = exempting(f"127.0.0.1/32:{server.port}")
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        async with HttpTransport(guard=guard, resolve=names) as transport:
            url = f"http://hooks.example:{server.port}/"
            assert (await transport(Request(url=url))).status == 200
            assert await refused(transport, url) == ADDRESS_DENIED
        assert server.connections == 1


async def test_one_resolution_between_check_and_use() -> None:
    async with serving(OK) as server:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        guard = exempting(f"127.0.0.1/32:{server.port}")
        async with HttpTransport(guard=guard, resolve=names) as transport:
            await transport(Request(url=f"http://hooks.example:{server.port}/"))
        assert names.asked == ["hooks.example"]


async def test_the_next_checked_address_is_tried() -> None:
    async with serving(OK) as server:
        guard = exempting(f"hooks.internal:{server.port}")
        async with HttpTransport(guard=guard, resolve=Names(["127.0.0.2", "127.0.0.1"])) as transport:
            assert (await transport(Request(url=f"http://hooks.internal:{server.port}/"))).status == 200
        async with HttpTransport(guard=guard, resolve=Names(["127.0.0.2", "127.0.0.3"])) as transport:
            error = await failing(transport, Request(url=f"http://hooks.internal:{server.port}/"))
            assert (error.reason, error.sent) == (Reason.CONNECT_FAILED, False)
        assert server.connections == 1


class Protocol:
    """In the place of aiohttp's own."""


async def test_a_connection_to_another_peer_is_dropped_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = []
    peer = SimpleNamespace(get_extra_info=lambda _: ("10.0.0.1", 443))

    async def elsewhere(*_: Any) -> Any:
        return SimpleNamespace(protocol=Protocol(), transport=peer, close=lambda: closed.append(True))

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", elsewhere)
    async with HttpTransport(guard=Guard(), resolve=Names(["8.8.8.8"])) as transport:
        assert await refused(transport, "https://hooks.example/") == ADDRESS_DENIED
    assert closed


@pytest.mark.parametrize("left", [None, SimpleNamespace(get_extra_info=lambda _: None)])
async def test_a_connection_that_is_reset_as_soon_as_it_is_made_is_no_denied_address(
    monkeypatch: pytest.MonkeyPatch, left: SimpleNamespace | None
) -> None:
    """Else a vendor that restarts would park its account, as one whose address may not be called."""

    async def reset(*_: Any) -> Any:
        return SimpleNamespace(protocol=Protocol(), transport=left, close=lambda: None)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", reset)
    async with HttpTransport(guard=Guard(), resolve=Names(["8.8.8.8"])) as transport:
        error = await failing(transport, Request(url="https://hooks.example/"))
    assert (error.reason, error.sent) == (Reason.CONNECT_FAILED, False)


async def test_an_address_that_swallows_everything_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = aiohttp.TCPConnector.connect

    async def swallowed(self: aiohttp.TCPConnector, req: Any, *rest: Any) -> Any:
        if req.url.raw_host == "127.0.0.2":
            raise aiohttp.ConnectionTimeoutError
        return await connect(self, req, *rest)

    monkeypatch.setattr(aiohttp.TCPConnector, "connect", swallowed)
    async with serving(OK) as server:
        guard = exempting(f"hooks.internal:{server.port}")
        async with HttpTransport(guard=guard, resolve=Names(["127.0.0.2", "127.0.0.1"])) as transport:
            assert (await transport(Request(url=f"http://hooks.internal:{server.port}/"))).status == 200
        async with HttpTransport(guard=guard, resolve=Names(["127.0.0.2"])) as transport:
            error = await failing(transport, Request(url=f"http://hooks.internal:{server.port}/"))
            assert (error.reason, error.sent) == (Reason.TIMEOUT, False)


async def test_a_redirect_to_loopback_is_not_followed() -> None:
    async with serving(OK) as inner:
        moved = f"HTTP/1.1 301 Moved\r\nlocation: {inner.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with serving(moved) as server:
            guard = exempting(f"hooks.internal:{server.port}")
            async with HttpTransport(guard=guard, resolve=Names(["127.0.0.1"])) as transport:
                assert (await transport(Request(url=f"http://hooks.internal:{server.port}/"))).status == 301
        assert inner.connections == 0


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for hooks.internal, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.internal")])
    now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - OpenSSL looks at the real clock
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.internal")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return path


def serving_tls(certificate: Path, names: list[str | None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)
    return context


async def test_a_certificate_is_checked_against_the_name_not_the_address(certificate: Path) -> None:
    names: list[str | None] = []
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(OK, tls=serving_tls(certificate, names)) as server:
        guard = exempting(f"127.0.0.0/8:{server.port}")
        async with HttpTransport(guard=guard, resolve=Names(["127.0.0.1"]), tls=trusting) as transport:
            assert (await transport(Request(url=f"https://hooks.internal:{server.port}/"))).status == 200
            assert names == ["hooks.internal"]
            for host in ("other.internal", "127.0.0.1"):
                error = await failing(transport, Request(url=f"https://{host}:{server.port}/"))
                assert (error.reason, error.sent) == (Reason.TLS_FAILED, False)
        assert len(server.heads) == 1


async def test_an_unknown_certificate_and_plain_text_fail(certificate: Path) -> None:
    async with serving(OK, tls=serving_tls(certificate, [])) as server, HttpTransport() as transport:
        error = await failing(transport, Request(url=f"https://127.0.0.1:{server.port}/"))
        assert (error.reason, error.sent) == (Reason.TLS_FAILED, False)

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with listener, HttpTransport() as transport:
        port = listener.sockets[0].getsockname()[1]
        error = await failing(transport, Request(url=f"https://127.0.0.1:{port}/"))
        assert (error.reason, error.sent) == (Reason.TLS_FAILED, False)


def test_tls_is_new_enough_and_verifies() -> None:
    context = verifying(None)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
