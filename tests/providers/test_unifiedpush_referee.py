"""Prosody's mod_unified_push (written by others) as the push server, for a device that is connected by XMPP."""

import asyncio
import json
import os
import re
import shutil
import socket
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

import http_ece
import pytest

from providers.contract import Outcome, Push, Scope, Verdict
from providers.loading import configured
from providers.testing import NOW_S
from providers.transport import HttpTransport
from providers.unifiedpush import UnifiedPushConfig, UnifiedPushProvider
from providers.webpush_crypto import base64url, private_key, public_bytes

PHONE = private_key(base64url(b"\x09" * 32))
AUTH = b"\x0a" * 16
HOST, DEVICE, SECRET = "push.localhost", "device.localhost", "s3cret"
UP = "http://gultsch.de/xmpp/drafts/unified-push"
MODULES = Path("/usr/lib/prosody/modules")

CONFIG = """
run_as_root = true
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}"
plugin_paths = {{ "{modules}" }}
modules_disabled = {{ "s2s", "c2s" }}
log = {{ warn = "*console" }}
http_ports = {{ {http} }}
http_interfaces = {{ "127.0.0.1" }}
https_ports = {{ }}
component_ports = {{ {component} }}
component_interfaces = {{ "127.0.0.1" }}
VirtualHost "localhost"
Component "{device}"
    component_secret = "{secret}"
Component "{host}" "unified_push"
    unified_push_acl = {{ "{device}" }}
    unified_push_backend = "storage"
    http_external_url = "http://{host}:{http}/"
"""


class Server(NamedTuple):
    http: int
    component: int


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    program = shutil.which("prosody")
    if program is None or not (MODULES / "mod_unified_push").is_dir():
        missing = "there is no prosody with mod_unified_push (Debian's prosody and prosody-modules)"
        if os.environ.get("CI") and shutil.which("apt-get"):
            pytest.fail(missing)
        pytest.skip(missing)
    ports = Server(free_port(), free_port())
    config = tmp_path / "prosody.cfg.lua"
    config.write_text(
        CONFIG.format(folder=tmp_path, modules=MODULES, device=DEVICE, host=HOST, secret=SECRET, **ports._asdict())
    )
    process = await asyncio.create_subprocess_exec(program, "--config", str(config), "-F")
    try:
        yield ports
    finally:
        process.terminate()
        await process.wait()


class Device:
    """A phone that is reached as an XMPP component (XEP-0114): no more of XMPP than this test needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.answer = "<iq type='result' id='{id}' from='{me}' to='{them}'/>"
        self.pushes: list[bytes] = []

    @classmethod
    async def connected(cls, port: int) -> "Device":
        async with asyncio.timeout(30):
            while True:
                try:
                    device = cls(*await asyncio.open_connection("127.0.0.1", port))
                    break
                except ConnectionError:
                    await asyncio.sleep(0.05)  # noqa: TID251 - until it listens
            device.say(
                "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'"
                f" to='{DEVICE}'>"
            )
            opening = await device.until(rb"<stream:stream[^>]*>")
            stream_id = re.search(rb"id=['\"]([^'\"]+)", opening)
            assert stream_id is not None
            device.say(f"<handshake>{sha1(stream_id[1] + SECRET.encode()).hexdigest()}</handshake>")
            await device.until(rb"<handshake\s*/>")
        return device

    async def closed(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    def say(self, text: str) -> None:
        self.writer.write(text.encode())

    async def until(self, pattern: bytes) -> bytes:
        """What came, up to and with `pattern`."""
        found = b""
        while re.search(pattern, found) is None:
            chunk = await self.reader.read(65_536)
            assert chunk, f"the stream ended with {found!r}"
            found += chunk
        return found

    async def endpoint(self) -> str:
        """Registers an app; the URL that it would give its server."""
        name = b64encode(b"\1" * 32).decode()
        self.say(
            f"<iq type='set' id='r1' from='{DEVICE}' to='{HOST}'>"
            f"<register xmlns='{UP}' instance='{name}' application='{name}'/></iq>"
        )
        answer = await self.until(rb"</iq>")
        url = re.search(rb"endpoint=['\"]([^'\"]+)", answer)
        assert url is not None, answer
        return url[1].decode()

    async def receive(self) -> None:
        """One push; answers as `answer` says."""
        came = await self.until(rb"</iq>")
        name, body = re.search(rb"\sid=['\"]([^'\"]+)", came), re.search(rb"<push[^>]*>([^<]+)</push>", came)
        assert name is not None
        assert body is not None
        self.pushes.append(b64decode(body[1]))
        self.say(self.answer.format(id=name[1].decode(), me=DEVICE, them=HOST))


async def test_it_carries_what_we_send_to_the_device_and_says_how_that_went(server: Server) -> None:
    settings = {
        "vapid_private_key": base64url(b"\x05" * 32),
        "vapid_subject": "mailto:push@example.com",
        "exempt": [f"{HOST}:{server.http}"],
    }
    config = configured(UnifiedPushProvider, settings)
    assert isinstance(config, UnifiedPushConfig)

    async def here(_: str, __: int) -> list[str]:
        return ["127.0.0.1"]

    device = await Device.connected(server.component)
    keys = {"p256dh": base64url(public_bytes(PHONE)), "auth": base64url(AUTH)}
    endpoint = await device.endpoint()
    async with HttpTransport(guard=config.guard, resolve=here) as transport:
        provider = UnifiedPushProvider(config, transport=transport, now=lambda: NOW_S)

        async def sent(url: str = endpoint) -> Outcome:
            token = provider.address("token", json.dumps({"endpoint": url, "keys": keys}))
            push = Push(id="m-1", token=token, title="Ann", body="x" * 3000, ttl_s=60, collapse_key="room:42")
            return await provider.send(push)

        async def sent_and_received() -> Outcome:
            async with asyncio.timeout(20):
                outcome, _ = await asyncio.gather(sent(), device.receive())
            return outcome

        assert await sent_and_received() == Outcome(verdict=Verdict.ACCEPTED)
        (body,) = device.pushes
        envelope = json.loads(http_ece.decrypt(body, private_key=PHONE, auth_secret=AUTH))
        assert (envelope["title"], envelope["tag"]) == ("Ann", "room:42")

        # Debian's version stumbles over any error of a device, and answers 500.
        device.answer = (
            "<iq type='error' id='{id}' from='{me}' to='{them}'><error type='wait'>"
            "<recipient-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
        )
        outcome = await sent_and_received()
        assert (outcome.verdict, outcome.scope) == (Verdict.RETRY, Scope.TOKEN)
        allowed = UnifiedPushProvider(
            config.model_copy(update={"allow_plaintext": True}), transport=transport, now=lambda: NOW_S
        )
        plain = Push(
            id="m-2", token=allowed.address("token", json.dumps({"endpoint": endpoint})), title="Ann", body="x"
        )
        async with asyncio.timeout(20):
            await asyncio.gather(allowed.send(plain), device.receive())
        assert json.loads(device.pushes[-1])["title"] == "Ann"
        unknown = await sent(endpoint[:-4] + "beef")
        assert (unknown.verdict, unknown.vendor_code) == (Verdict.TOKEN_DEAD, "status_404")
    await device.closed()
