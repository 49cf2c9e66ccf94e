"""The device's calls over HTTP, and the door to its socket."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import WSMessage, WSMsgType, web

from relay.api.auth import Authenticator
from relay.api.device_sends import DeviceSends
from relay.api.door import Door
from relay.api.issuing import Issuer
from relay.api.principal import Principal
from relay.api.routes import Answer, Call
from relay.api.schemas.devices import AddressesBody, ProofBody
from relay.clock import Clock, rfc3339
from relay.errors import FieldError, Forbidden, Invalid, Malformed, Problem, Unauthenticated
from relay.ids import Rng
from relay.inbox.addresses import AddressState
from relay.inbox.batch import Batch
from relay.inbox.cursor import INBOX
from relay.inbox.reading import Reading
from relay.inbox.service import InboxService
from relay.inbox.shared import Wanted
from relay.model import DeviceKey, TimelineKey
from relay.push.challenge import Challenger
from relay.realtime import protocol
from relay.realtime.addresses import address_answer
from relay.realtime.hub import Credential, Hub
from relay.realtime.protocol import AckBody, Close, HeartbeatBody, HelloBody, VerifyBody
from relay.realtime.service import DeviceService, ack_answer
from relay.realtime.session import Session
from relay.realtime.writer import error_frame
from relay.shedding import Shed, Shedding
from relay.store.scope import of_app
from relay.strictjson import parse

_REVALIDATED: Final = {"Cache-Control": "private, no-cache", "Vary": "Authorization"}


@dataclass(slots=True, kw_only=True)
class DeviceApi:
    """Handlers of the device's routes."""

    inbox: InboxService
    devices: DeviceService
    hub: Hub
    auth: Authenticator
    issuer: Issuer
    clock: Clock
    rng: Rng
    door: Door
    sends: DeviceSends
    challenger: Challenger
    shedding: Shedding = field(default_factory=Shedding)
    wait_max_s: int = 60

    async def handshake(self, call: Call) -> Answer:
        body: HelloBody = call.body
        self.door.check_handshakes()
        greeted = await self.devices.hello(_key(call), body)
        return Answer(200, greeted.answer | {"token": await self._next_token(call.principal)})

    async def renew_token(self, call: Call) -> Answer:
        return Answer(200, await self._next_token(call.principal))

    async def _next_token(self, bearer: Principal) -> dict[str, Any]:
        return (await self.issuer.next_token(bearer, self.clock.now_ms())).printed()

    async def heartbeat(self, call: Call) -> Answer:
        body: HeartbeatBody = call.body
        return Answer(200, await self.devices.heartbeat(_key(call), body))

    async def ack(self, call: Call) -> Answer:
        body: AckBody = call.body
        answer = await self.devices.ack(_key(call), body)
        self.hub.acked(_key(call), {**answer.shared, INBOX: answer.acked_seq})
        return Answer(200, ack_answer(answer))

    async def verify(self, call: Call) -> Answer:
        body: VerifyBody = call.body
        return Answer(200, await self.devices.comparer.verify(_key(call), body))

    async def addresses(self, call: Call) -> Answer:
        body: AddressesBody = call.body
        key = _key(call)
        states = await self.inbox.replace_addresses(key, self.devices.addresses.sealed(key, body.addresses))
        return Answer(200, _states(states))

    async def challenge(self, call: Call) -> Answer:
        return Answer(202, _states(await self.challenger.again(_key(call))))

    async def proof(self, call: Call) -> Answer:
        body: ProofBody = call.body
        return Answer(200, _states(await self.challenger.prove(_key(call), body.account, body.value)))

    async def accounts(self, call: Call) -> Answer:
        return Answer(200, {"accounts": self.devices.addresses.offers(_key(call).app_id)})

    async def ticket(self, call: Call) -> Answer:
        origin = call.request.headers.get("Origin")
        self.door.check_origin(origin, by_header=False)  # else nobody would let it in
        ticket, expires_ms = await self.issuer.ticket(call.principal, origin=origin)
        return Answer(201, {"ticket": ticket, "expires_at": rfc3339(expires_ms)})

    # --- sync ---

    async def sync(self, call: Call) -> Answer:
        """What the device lacks, at once or as soon as there is something."""
        key = _key(call)
        etag = _compared_weakly(call.request.headers.get("If-None-Match"))
        question = None if etag is None else (call.request.raw_path, etag)
        if etag is not None and question is not None:
            version = await self.inbox.unchanged.holds(key, question)
            if version is not None:
                self.devices.presence.renew(key, version.session)
                return _not_modified(etag)
        query = call.query
        if query.ids:
            return await self._messages(call)
        if query.range is not None:
            return await self._range(call)
        asked = Wanted(cursors=tuple(query.shared), names=tuple(query.open))
        if query.cursor is None:
            self.shedding.admit(Shed.RESYNCS)
        cursor = None if query.cursor is None else self.inbox.reader.unseal(query.cursor, key)
        look = partial(self.inbox.reader.read, key, cursor, limit=query.limit, etag=etag, asked=asked)
        reading = await (self._waited(call, look) if query.wait else look())
        self.devices.presence.renew(key, reading.snap.device.session)
        if question is not None and reading.batch is None and not query.wait and not asked:
            self.inbox.unchanged.answered(key, question, reading.snap.version)
        return self._synced(reading)

    async def _waited(self, call: Call, look: Callable[[], Awaitable[Reading]]) -> Reading:
        """Register, read, wait, read: what comes in between is not missed (protocol 8.4). Raises Unauthenticated."""
        self.door.check_wait()
        key = _key(call)
        with self.hub.waiting(key, _credential(call.principal)) as wait:
            reading = await look()
            if reading.says_nothing and not self.hub.draining:
                with self.hub.following(wait) as follow, suppress(TimeoutError):
                    for name in () if reading.shared is None else reading.shared.opened.snaps:
                        follow(TimelineKey(key.app_id, name))
                        wait.changed.set()  # what came before this is seen by another look
                    async with asyncio.timeout(min(call.query.wait, self.wait_max_s)):
                        while reading.says_nothing and not wait.dismissed:
                            await wait.changed.wait()
                            wait.changed.clear()
                            self.devices.presence.renew(key, reading.snap.device.session)
                            if not wait.dismissed:
                                reading = await look()
            if wait.expelled:
                raise Unauthenticated("The token of this request counts no more.")
        return reading

    def _synced(self, reading: Reading) -> Answer:
        etag = reading.etag
        if reading.batch is None:
            return _not_modified(etag)
        headers = _REVALIDATED | {"ETag": etag} if reading.caught_up else _REVALIDATED
        shared = reading.shared
        batches = [reading.batch, *(() if shared is None else shared.batches)]
        body = self._page(batches, caught_up=reading.caught_up, session=reading.snap.device.session)
        if shared is not None:
            body["shared"] = shared.ahead
            body["more"] = reading.batch.more or shared.more
            opened = shared.opened
            body |= {name: found for name, found in (("resync", opened.resets), ("refused", opened.refused)) if found}
        return Answer(200, body, headers=headers)

    def _page(self, batches: Sequence[Batch], *, caught_up: bool, session: int) -> dict[str, Any]:
        return {
            "batches": [msgspec.Raw(batch.json) for batch in batches],
            "caught_up": caught_up,
            "more": any(batch.more for batch in batches),
            "shared": [],
            "session": session,
            "next_poll_s": self.devices.poll_client_s,
            "now": rfc3339(self.clock.now_ms()),
        }

    async def _messages(self, call: Call) -> Answer:
        """What a push was about, before everything that stands before it has come."""
        query = call.query
        if query.cursor is not None or query.wait or query.range is not None or query.shared or query.open:
            raise Invalid(
                "`ids` asks for these messages alone: leave the other parameters out.",
                errors=(FieldError("?ids", "conflict", "goes with no other parameter"),),
            )
        snap, found = await self.inbox.reader.read_messages(_key(call), query.ids)
        body = self._page(found, caught_up=False, session=snap.device.session) | {"more": False}
        return Answer(200, body, headers=_REVALIDATED)

    async def _range(self, call: Call) -> Answer:
        low, dash, high = call.query.range.partition("-")
        if not (
            dash and low.isdecimal() and high.isdecimal() and len(low) < 16 and len(high) < 16 and int(low) < int(high)
        ):
            raise Invalid(
                "`range` is a-b: the numbers after a, up to b.",
                errors=(FieldError("?range", "wrong_form", "must be a-b with a below b, for example 12-40"),),
            )
        if call.query.wait:
            raise Invalid(
                "A range is filled at once: leave `wait` out.",
                errors=(FieldError("?wait", "conflict", "does not go with `range`"),),
            )
        if call.query.timeline == INBOX:
            reading = await self.inbox.reader.read(
                _key(call), None, limit=call.query.limit, range_=(int(low), int(high))
            )
            return self._synced(reading)
        snap, found = await self.inbox.shared.fill(
            _key(call), call.query.timeline, int(low), int(high), limit=call.query.limit
        )
        body = self._page([found], caught_up=found.caught_up, session=snap.device.session)
        return Answer(200, body, headers=_REVALIDATED)

    # --- the socket ---

    async def socket(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/device/ws`: checks who may come in, then hands over to the session."""
        self._check_upgrade(request)
        with self.door.opened_from(request.remote):
            return await self._serve(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        bearer, protocols = await self._who(request)
        ws = web.WebSocketResponse(
            protocols=protocols,
            autoping=False,
            compress=False,
            max_msg_size=protocol.FRAME_BYTES_MAX,
            timeout=1.0,
            decode_text=False,
        )
        await ws.prepare(request)
        first = await self._first_frame(ws)
        if first is None:
            return ws
        if bearer is None:
            bearer = await self._by_ticket(ws, request, first)
            if bearer is None:
                return ws
        assert bearer.device_key is not None
        session = Session(
            ws,
            bearer.device_key,
            self.devices,
            self.hub,
            self.clock,
            self.rng,
            credential=_credential(bearer),
            next_token=partial(self._next_token, bearer),
            send=self.sends.over_socket,
            cut=partial(_cut, request),
        )
        with of_app(bearer.app_id):
            await session.run(first)
        return ws

    def _check_upgrade(self, request: web.Request) -> None:
        headers = request.headers
        upgrade = (
            headers.get("Upgrade", "").lower() == "websocket" and "upgrade" in headers.get("Connection", "").lower()
        )
        if not upgrade or headers.get("Sec-WebSocket-Version") != "13":
            raise Problem("Ask for a WebSocket of version 13.", code="upgrade_required")
        self.door.check_origin(headers.get("Origin"), by_header="Authorization" in headers)
        offered = {one.strip() for one in headers.get("Sec-WebSocket-Protocol", "").split(",")}
        if protocol.SUBPROTOCOL not in offered:
            raise Malformed(f"Offer the subprotocol {protocol.SUBPROTOCOL}.", code="malformed_http")
        self.door.check_room()

    async def _who(self, request: web.Request) -> tuple[Principal | None, tuple[str, ...]]:
        """Who brings a token, or a ticket among the subprotocols; None if the hello is to bring a ticket."""
        bearer: Principal | None = None
        if "Authorization" in request.headers:
            bearer = await self.auth.authenticate(request)
            if bearer.device_key is None:
                raise Forbidden("A device's token is needed here, not an API key.")
        else:
            for offered in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
                text = offered.strip()
                if text.startswith(protocol.TICKET_PREFIX):
                    bearer = await self.auth.take_ticket(text.removeprefix(protocol.TICKET_PREFIX), request)
        if bearer is not None and bearer.device_key is not None:
            self.door.check_count(bearer.device_key)
            self.door.check_handshakes()
        return bearer, (protocol.SUBPROTOCOL,)

    async def _first_frame(self, ws: web.WebSocketResponse) -> dict[str, Any] | None:
        """The hello, within 5 s; None after closing the connection."""
        try:
            async with asyncio.timeout(protocol.HELLO_S):
                message = await _said(ws)
        except TimeoutError:
            await ws.close(code=int(Close.UNAUTHENTICATED))
            return None
        code = Close.BAD_FRAME
        try:
            frame = parse(message.data) if message.type is WSMsgType.TEXT else None
        except Problem as problem:
            frame = None
            if problem.code == "json_not_utf8":  # RFC 6455 8.1: the connection has failed
                code = Close.NOT_UTF8
        if not isinstance(frame, dict) or frame.get("type") != "hello":
            if not ws.closed:
                await ws.send_frame(
                    msgspec.json.encode(
                        {"type": "error", "code": "validation_failed", "ref": None, "detail": "Say hello first."}
                    ),
                    WSMsgType.TEXT,
                )
                await ws.close(code=int(code))
            return None
        return frame

    async def _by_ticket(
        self, ws: web.WebSocketResponse, request: web.Request, first: dict[str, Any]
    ) -> Principal | None:
        ticket = first.get("ticket")
        try:
            if not isinstance(ticket, str):
                raise Unauthenticated("Bring a bearer token, or a ticket.")
            bearer = await self.auth.take_ticket(ticket, request)
            assert bearer.device_key is not None
            self.door.check_count(bearer.device_key)
            self.door.check_handshakes()
        except Problem as problem:
            frame = error_frame(problem, first.get("ref"), self.rng)
            await ws.send_frame(msgspec.json.encode(frame), WSMsgType.TEXT)
            await ws.close(code=int(Close.UNAUTHENTICATED if problem.status == 401 else Close.TRY_LATER))
            return None
        return bearer


async def _said(ws: web.WebSocketResponse) -> WSMessage:
    """What comes first but for pings, which may come at any time and are answered (RFC 6455, 5.5.2); of many, one of them."""
    for _ in range(protocol.FRAMES_BURST):
        message = await ws.receive()
        if message.type is WSMsgType.PING:
            await ws.pong(message.data)
        elif message.type is not WSMsgType.PONG:
            break
    return message


def _compared_weakly(etag: str | None) -> str | None:
    """As ours is written: a proxy that compresses an answer makes its tag a weak one (RFC 9110, 13.1.2)."""
    return None if etag is None else etag.removeprefix("W/")


def _not_modified(etag: str) -> Answer:
    return Answer(304, None, {**_REVALIDATED, "ETag": etag})


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _credential(bearer: Principal) -> Credential:
    return Credential(bearer.credential_id, bearer.expires_ms)


def _states(addresses: Iterable[AddressState]) -> dict[str, Any]:
    return {"addresses": [address_answer(one) for one in addresses]}


def _key(call: Call) -> DeviceKey:
    device = call.principal.device_key
    assert device is not None  # the route table says so
    return device
