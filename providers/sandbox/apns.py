"""Apple Push Notification service, on a listener of its own: HTTP/2 over TLS by the sandbox's authority.

Source: vendor sheet `apns` (Apple documentation of autumn 2026). A request goes through the checks: path, credential and
what the connection is bound to, headers and body; then a fault strikes, if one is due; then the push reaches its phone.
For a phone that is off, Apple keeps one push, the newest (§8). On the sandbox's own listener there are, for tests:

    POST /apns/phones/NAME/off, POST /apns/phones/NAME/on    switches a phone off and on
    POST /apns/goodbye  {"reason": "IdleTimeout"}            GOAWAY on every connection
    POST /apns/streams  {"max": 1}                           moves the stream limit of every connection
"""

import asyncio
import ssl
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import msgspec
from aiohttp import web

from providers.sandbox.apns_account import client_certificate, open_key, pem
from providers.sandbox.apns_checks import BY_TOKEN_ONLY, Asked, Wrong, check, path_token
from providers.sandbox.apns_credentials import Gate, Key, Memory, certificate_topics
from providers.sandbox.apns_faults import APNS_FAULTS, error
from providers.sandbox.checks import Json
from providers.sandbox.emulator import Emulator, Host, json_answer, response
from providers.sandbox.faults import Answer, Ending, Fault, Place
from providers.sandbox.http2_server import Call, Headers, Http2Server, Wire

BUNDLE = "com.example.relay"
TEAM_ID, KEY_ID = "RELAYTEAM1", "SANDBOXKEY"
REQUEST_BYTES_MAX = 64 * 1024
OPEN_STREAMS = 1000  # what Apple's servers used to allow
FIRST_STREAMS = 1  # until a provider token has proved good (§3)
STORED_MAX = 10_000  # phones that are off, with a push for each
STORED_S_MAX = 30 * 86_400
ERRORS_SHRINK = 25  # 4xx on a connection, after each of which it gets half its streams (§3 gives no numbers)
ERRORS_MAX = 100  # then it is disconnected
BAD_TOKEN_WEIGHT = 2  # "brings that sooner"


class ApnsEmulator(Emulator):
    """One team with one app, at first, and one key."""

    name = "apns"
    known_faults: ClassVar[Mapping[Place, Mapping[str, Fault]]] = APNS_FAULTS

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._server = Http2Server(self._take, streams_first=_streams_first, request_bytes_max=REQUEST_BYTES_MAX)
        self._host_name = ""
        self.bundles = {BUNDLE}  # the team's apps; a connection knows those that there were at its first push (§2.1)
        self._off: set[str] = set()
        self._stored: dict[tuple[str, str], tuple[float, Asked]] = {}  # (phone, topic) -> until when, the newest
        self._dead_since_ms: dict[str, int] = {}

    # What the sandbox asks.

    async def prepare(self) -> None:
        """The signing key and the authority. Raises ValueError for a spoilt file."""
        self._key, self._key_file = await asyncio.to_thread(open_key, self.host.state_dir)
        await asyncio.to_thread(lambda: self.host.authority)
        self.gate = Gate({KEY_ID: Key(team_id=TEAM_ID, public=self._key.public_key())})

    async def open(self, host: str, port: int) -> None:
        """See `Emulator`."""
        tls = self.host.authority.server_context(alpn=["h2"])
        tls.verify_mode = ssl.CERT_OPTIONAL
        tls.load_verify_locations(cadata=self.host.authority.pem)
        await self._server.open(host, port, tls)
        self._host_name = "localhost" if host in {"", "0.0.0.0", "::", "127.0.0.1", "::1"} else host  # noqa: S104

    async def close(self) -> None:
        """See `Emulator`."""
        await self._server.close()

    @property
    def url(self) -> str:
        """Of the listener for Apple's API."""
        return f"https://{self._host_name}:{self._server.port}"

    def settings(self) -> Json:
        return {**self._names(), "key": pem(self._key), "ca": self.host.authority.pem}

    def settings_in_files(self) -> Json:
        """Raises ValueError if key and authority are in memory only."""
        ca_file = self.host.authority.file
        if self._key_file is None or ca_file is None:
            raise ValueError("A TOML table names the key's file: give the sandbox a state_dir.")
        return {**self._names(), "key_file": str(self._key_file), "ca_file": str(ca_file)}

    def _names(self) -> Json:
        return {"topic": BUNDLE, "team_id": TEAM_ID, "key_id": KEY_ID, "base_url": self.url}

    def certificate_settings(self, topics: Sequence[str] = ()) -> Json:
        """The same account by a client certificate, newly made; `topics`: those that it lists, if it is for several."""
        return {
            "topic": BUNDLE,
            "certificate": client_certificate(self.host.authority, BUNDLE, topics),
            "base_url": self.url,
            "ca": self.host.authority.pem,
        }

    def address(self, phone: str) -> str:
        """A device token is bytes: here those of the phone's name."""
        return phone.encode().hex()

    def revoke(self, *, key: bool) -> None:
        """The key; and every connection ends, as Apple asks of those who revoke one (§2.1)."""
        super().revoke(key=key)
        self.gate.keys[KEY_ID] = replace(self.gate.keys[KEY_ID], revoked=self.revoked)
        if key:
            self.goodbye("InvalidProviderToken")

    def reset(self) -> None:
        super().reset()
        self.gate.keys[KEY_ID] = replace(self.gate.keys[KEY_ID], revoked=False)
        self.bundles = {BUNDLE}
        self._off.clear()
        self._stored.clear()
        self._dead_since_ms.clear()

    def state(self) -> Json:
        wires = [
            {"streams_max": wire.streams_max, "tokens": memory.tokens, "errors": memory.errors}
            for wire in self._server.wires
            if isinstance(memory := wire.memory, Memory)
        ]
        return {**super().state(), "connections": wires, "off": sorted(self._off), "stored": len(self._stored)}

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/apns/phones/{phone}/{state:on|off}", self._switch),
            web.post("/apns/goodbye", self._goodbye),
            web.post("/apns/streams", self._streams),
        ]

    # What a test or a person asks.

    def switch_off(self, phone: str) -> None:
        self._off.add(phone)

    def switch_on(self, phone: str) -> None:
        """It gets what was kept for it, if that is still good."""
        self._off.discard(phone)
        for place in [one for one in self._stored if one[0] == phone]:
            until, asked = self._stored.pop(place)
            if self.host.now() < until:
                self._show(phone, asked)

    def goodbye(self, reason: str | None = None) -> None:
        for wire in list(self._server.wires):
            wire.goaway(_because(reason))

    def allow_streams(self, streams_max: int) -> None:
        for wire in self._server.wires:
            wire.allow(streams_max)

    async def _switch(self, request: web.Request) -> web.Response:
        switch = self.switch_on if request.match_info["state"] == "on" else self.switch_off
        switch(request.match_info["phone"])
        return web.Response(status=204)

    async def _goodbye(self, request: web.Request) -> web.Response:
        try:
            self.goodbye(msgspec.json.decode(await request.read() or b"{}", type=dict[str, str]).get("reason"))
        except msgspec.MsgspecError:
            return response(json_answer(400, {"error": 'give {"reason": "…"} or nothing'}))
        return web.Response(status=204)

    async def _streams(self, request: web.Request) -> web.Response:
        try:
            streams_max = msgspec.json.decode(await request.read(), type=dict[str, int])["max"]
        except (msgspec.MsgspecError, KeyError):
            streams_max = -1
        if not 0 <= streams_max <= OPEN_STREAMS:
            return response(json_answer(400, {"error": f'give {{"max": 0 to {OPEN_STREAMS}}}'}))
        self.allow_streams(streams_max)
        return web.Response(status=204)

    # One push.

    def _take(self, call: Call) -> Awaitable[None] | None:
        memory = call.wire.memory
        if not isinstance(memory, Memory):
            memory = call.wire.memory = Memory()
        given = [(name, value) for name, value in call.headers if not name.startswith(":")]
        message_id = next((value for name, value in given if name == "apns-id"), None)
        try:
            asked = self._checked(call, memory, given)
        except Wrong as wrong:
            answer = error(str(wrong))
            self.note(f"refused:{answer.status}")
            self._answer(call, answer, message_id)
            return None
        message_id = asked.id or self._new_id()
        phone = _phone(asked.token)
        struck = self.faults.strike(Place.SEND, phone)
        if struck is None:
            self.note("accepted", phone)
            self._arrive(phone, asked)
            self._accept(call, message_id)
            return None
        name, fault = struck
        self.note(name, phone)
        if fault.arrives:
            self._arrive(phone, asked)
        return self._fail(call, name, fault, message_id, phone)

    def _checked(self, call: Call, memory: Memory, given: Headers) -> Asked:
        """Raises Wrong."""
        token = path_token(call.header(":method") or "", call.header(":path") or "")
        certificate = call.wire.certificate
        if certificate is None:
            proved = memory.tokens > 0
            self.gate.pass_token(call.header("authorization"), memory, now_s=self.host.now())
            if not proved:  # once: a limit that is moved later stays
                call.wire.allow(OPEN_STREAMS)
        else:
            memory.topics = memory.topics or certificate_topics(certificate)
            if self.revoked:
                raise Wrong("BadCertificate")
            if call.header("apns-push-type") in BY_TOKEN_ONLY:
                raise Wrong("MissingProviderToken")  # the sheet says that it needs a token, not with which reason
        if memory.bundles is None:
            memory.bundles = frozenset(self.bundles)
        if call.too_long:
            raise Wrong("PayloadTooLarge")
        return check(token, given, bytes(call.body), bundles=memory.bundles, certified=memory.topics)

    def _fail(self, call: Call, name: str, fault: Fault, message_id: str, phone: str) -> Awaitable[None] | None:
        match fault.ending:
            case Ending.RESET:
                call.reset()
            case Ending.GOAWAY:
                call.goodbye(_because("Shutdown"))
            case Ending.SLOW:
                return self._later(call, fault, message_id)
            case Ending.ANSWER if name == "refused":
                call.refuse()
            case Ending.ANSWER if fault.answer is None:
                self._accept(call, message_id)
                call.wire.allow(FIRST_STREAMS)
            case Ending.ANSWER:
                answer = fault.answer
                assert answer is not None
                if answer.status == 410:
                    answer = self._dated(answer, phone)
                self._answer(call, answer, message_id)
                if name in {"shutdown", "idletimeout"}:
                    call.wire.goaway(_because("Shutdown" if name == "shutdown" else "IdleTimeout"))
        return None

    async def _later(self, call: Call, fault: Fault, message_id: str) -> None:
        await self.linger(fault)
        self._accept(call, message_id)

    def _accept(self, call: Call, message_id: str) -> None:
        unique = ("apns-unique-id", self._new_id())  # in Apple's sandbox alone (§6)
        call.answer(200, headers=[("apns-id", message_id), unique])

    def _answer(self, call: Call, answer: Answer, message_id: str | None) -> None:
        call.answer(
            answer.status,
            answer.body,
            [("apns-id", message_id or self._new_id()), ("content-type", answer.content_type)],
        )
        self._mind_errors(call.wire, answer)

    def _mind_errors(self, wire: Wire, answer: Answer) -> None:
        """4xx cost a connection its streams and in the end its life; 410 does not count (§3)."""
        memory = wire.memory
        if not isinstance(memory, Memory) or not 400 <= answer.status < 500 or answer.status == 410:
            return
        before = memory.errors
        memory.errors += BAD_TOKEN_WEIGHT if b"BadDeviceToken" in answer.body else 1
        if memory.errors // ERRORS_SHRINK > before // ERRORS_SHRINK:
            wire.allow(max(1, wire.streams_max // 2))
        if memory.errors >= ERRORS_MAX:
            wire.goaway()

    def _dated(self, answer: Answer, phone: str) -> Answer:
        since_ms = self._dead_since_ms.setdefault(phone, int(self.host.now() * 1000))
        body = msgspec.json.decode(answer.body, type=dict[str, object])
        return replace(answer, body=msgspec.json.encode({**body, "timestamp": since_ms}))

    def _new_id(self) -> str:
        digits = f"{self.host.rng.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    # To the phone.

    def _arrive(self, phone: str, asked: Asked) -> None:
        if phone not in self._off:
            self._show(phone, asked)
            return
        if asked.expiration == 0:
            return  # one attempt, and it failed
        # Not said: the sheet leaves it to Apple; here it is kept as long as anything is.
        until = self.host.now() + STORED_S_MAX
        if asked.expiration is not None:
            until = min(until, asked.expiration)
        self._stored.pop((phone, asked.topic), None)
        self._stored[phone, asked.topic] = (until, asked)  # the one before is gone for good
        if len(self._stored) > STORED_MAX:
            del self._stored[next(iter(self._stored))]

    def _show(self, phone: str, asked: Asked) -> None:
        """Unless Apple or the phone would drop it without a word: a wake-up that shows something (§4.1), a live activity
        without its parts (§9)."""
        aps = asked.aps
        wakes = not asked.visible and aps.get("content-available") == 1
        if (asked.type == "background" and not wakes) or (asked.type == "liveactivity" and not asked.tells_activity):
            self.note("dropped", phone)
            return
        alert = aps.get("alert")
        words = alert if isinstance(alert, dict) else {"body": alert}
        title, body = _text(words.get("title")), _text(words.get("body"))
        badge, sound = aps.get("badge"), aps.get("sound")
        self.deliver(
            phone,
            message=asked.payload,
            title=title,
            body=body,
            platform="ios",
            kind=asked.type,
            name=asked.id or "",
            shown_by=_shown_by(asked, title, body),
            data={key: value for key, value in asked.payload.items() if key != "aps"},
            collapse=asked.collapse_id,
            badge=badge if type(badge) is int else None,  # a badge that is not a number is ignored
            sound=_text(sound.get("name") if isinstance(sound, dict) else sound),
            channel=_text(aps.get("category")),
            priority=str(asked.priority),
            ttl=None if asked.expiration is None else str(asked.expiration),
        )


def _streams_first(wire: Wire) -> int:
    """With a certificate all of them at once (§2.2)."""
    return FIRST_STREAMS if wire.certificate is None else OPEN_STREAMS


def _because(reason: str | None) -> bytes:
    """What a GOAWAY of Apple's says besides (§3)."""
    return b"" if reason is None else msgspec.json.encode({"reason": reason})


def _shown_by(asked: Asked, title: str | None, body: str | None) -> str | None:
    if not (title or body):
        return None
    return "system" if asked.type in {"alert", "liveactivity"} else "app"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _phone(token: str) -> str:
    """The name of the phone that has this token; a token that is no name stands for itself."""
    try:
        name = bytes.fromhex(token).decode()
    except ValueError:
        return token
    return name if name.isprintable() else token
