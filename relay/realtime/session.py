"""One WebSocket connection of a device (protocol 9.1, 9.2): its life, and what the client says on it.

What is new goes out by its pump.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from aiohttp import WSMessage, WSMsgType, web
from pydantic import ValidationError

from relay.clock import Clock
from relay.errors import CursorRefused, Forbidden, Malformed, Problem, StoreOfAnother, Unauthenticated
from relay.ids import Rng
from relay.inbox.cursor import INBOX
from relay.inbox.shared import Wanted
from relay.model import DeviceKey, TimelineKey
from relay.push.limits import Bucket
from relay.realtime import protocol
from relay.realtime.hub import Credential, Hub
from relay.realtime.protocol import (
    AckFrame,
    ByeFrame,
    Close,
    FillFrame,
    FollowFrame,
    HeartbeatFrame,
    HelloBody,
    SendFrame,
    VerifyBody,
)
from relay.realtime.pump import PAGE_MAX, Pump
from relay.realtime.service import DeviceService, ack_answer
from relay.realtime.window import Window
from relay.realtime.writer import DEGRADED, FrameWriter
from relay.store.scope import of_app
from relay.strictjson import parse

log = structlog.get_logger("relay.realtime")

SAY_S = 0.5  # to say why, before a connection is closed that must not last
_ENDS = {401: Close.UNAUTHENTICATED, 403: Close.FORBIDDEN}  # what a refusal of this status ends a connection with
NextToken = Callable[[], Awaitable[dict[str, Any]]]  # what the welcome says of the device's token
SendForDevice = Callable[[DeviceKey, dict[str, Any], str], Awaitable[dict[str, Any]]]  # gives the fields of `sent`


class Session:
    """A connection from its hello to its close."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        device: DeviceKey,
        service: DeviceService,
        hub: Hub,
        clock: Clock,
        rng: Rng,
        *,
        credential: Credential,
        next_token: NextToken,
        send: SendForDevice,
        cut: Callable[[], None],
    ) -> None:
        self.device = device
        self.credential = credential
        self.session = 0
        self._ws = ws
        self._service = service
        self._hub = hub
        self._clock = clock
        self._next_token = next_token
        self._send_for_device = send
        self._writer = FrameWriter(ws, device, rng, cut)
        self._pump: Pump  # from the welcome on
        self._group: asyncio.TaskGroup | None = None
        self._follow: Callable[[TimelineKey], None] = lambda _: None
        self._missed_pongs = 0
        self._bad_frames = 0
        self._rate = Bucket(protocol.FRAMES_PER_S, protocol.FRAMES_BURST)
        self._goodbye = False
        self._restart = False

    # --- life ---

    async def run(self, first: dict[str, Any]) -> None:
        """Serves the connection; `first` is its hello, already read. Returns when it is closed."""
        if not await self._greet(first):
            return
        try:
            with self._hub.connected(self), self._hub.following(self) as self._follow:
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    if self._hub.draining:  # it began while this one said hello: nobody else closes it any more
                        self.restart()
                    self.look()
                    await self._read()
                    self._pump.stop()
        except* ConnectionError:
            log.debug("session.gone")  # the client hung up while we were writing; nothing is wrong with us
        finally:
            self._group = None
            await self._service.presence.closed(self.device, self.session, goodbye=self._goodbye, restart=self._restart)

    async def _greet(self, first: dict[str, Any]) -> bool:
        ref = first.get("ref")
        try:
            body = HelloBody.model_validate(protocol.body_of(first), extra="ignore")
            greeted = await self._service.hello(self.device, body)
            token = await self._next_token()
        except ValidationError as error:
            await self._writer.error(_mistake(error), ref)
            await self._writer.close(Close.BAD_FRAME)
            return False
        except Problem as problem:
            await self._writer.error(problem, ref)
            code = Close.UNAUTHENTICATED if problem.status in {401, 403} else Close.TRY_LATER
            if isinstance(problem, StoreOfAnother):
                code = Close.FORBIDDEN
            await self._writer.close(code)
            return False
        welcome = greeted.welcome
        self.session = welcome.session
        window = Window(entries=greeted.window.entries, bytes_=greeted.window.bytes)
        self._pump = Pump(
            self._writer,
            self.device,
            self._service,
            session=welcome.session,
            epoch=welcome.epoch,
            sent_seq=welcome.head_seq - welcome.missing,
            head_seq=welcome.head_seq,
            window=window,
            spawn=self._spawn,
            full=lambda: self._hub.shut(self),
        )
        await self._writer.send({"type": "welcome", "ref": ref, **greeted.answer, "token": token})
        return True

    async def _read(self) -> None:
        async for message in self._ws:
            if not await self._take(message):
                return

    async def _take(self, message: WSMessage) -> bool:
        """Handles what came; False ends the connection."""
        if not self._service.presence.renew(self.device, self.session) and message.type is WSMsgType.PONG:
            self.look()  # the lease had run out while the connection stood: the next heartbeat brings it back
        match message.type:
            case WSMsgType.PONG:
                self._missed_pongs = 0
                if not self._rate.take(self._clock.monotonic_ms()):
                    await self._writer.close(Close.RATE)
                    return False
                return True
            case WSMsgType.PING:
                if not self._rate.take(self._clock.monotonic_ms()):
                    await self._writer.close(Close.RATE)
                    return False
                await self._ws.pong(message.data)
                return True
            case WSMsgType.TEXT:
                in_rate = self._rate.take(self._clock.monotonic_ms())
                going_on = await self._frame(message.data)
                if not in_rate:  # what it said was heard all the same: an ack is never refused for its rate
                    await self._writer.close(Close.RATE)
                    return False
                return going_on
            case WSMsgType.BINARY:
                await self._writer.error(Malformed("Frames are JSON text.", code="json_invalid"), None)
                await self._writer.close(Close.BAD_FRAME)
                return False
            case _:
                return False

    # --- what the client says ---

    async def _frame(self, data: bytes) -> bool:
        ref = None
        try:
            frame = parse(data)
            if not isinstance(frame, dict):
                raise Malformed("A frame is a JSON object.", code="validation_failed")
            ref = frame.get("ref") if isinstance(frame.get("ref"), str) else None
            kind = frame.get("type")
            model = protocol.FRAMES.get(kind) if isinstance(kind, str) else None
            if model is None or model is HelloBody:
                raise Malformed(f"/type: {str(kind)[:32]!r} is none of {_KINDS} here.", code="validation_failed")
            body = model.model_validate(protocol.body_of(frame), extra="ignore")
            return await self._handle(body, ref)
        except ValidationError as error:
            return await self._bad(_mistake(error), ref)
        except CursorRefused as problem:
            await self._writer.error(problem, ref)
            return True
        except Malformed as problem:
            if problem.code == "json_not_utf8":  # RFC 6455 8.1: the connection has failed
                await self._writer.error(problem, ref)
                await self._writer.close(Close.NOT_UTF8)
                return False
            return await self._bad(problem, ref)
        except Problem as problem:
            await self._writer.error(problem, ref)
            code = Close.REPLACED if problem.code == "state_conflict" else _ENDS.get(problem.status)
            if code is not None:
                await self._writer.close(code)
            return code is None

    async def _bad(self, problem: Problem, ref: str | None) -> bool:
        self._bad_frames += 1
        await self._writer.error(problem, ref)
        if self._bad_frames >= protocol.BAD_FRAMES_MAX:
            await self._writer.close(Close.BAD_FRAME)
            return False
        return True

    async def _handle(self, body: protocol.Said, ref: str | None) -> bool:
        match body:
            case AckFrame():
                await self._ack(body, ref)
            case HeartbeatFrame():
                beat = await self._service.renew(
                    self.device,
                    self.session,
                    state=body.state,
                    open_conversation=body.open_conversation,
                    offer=body.heartbeat,
                )
                answer = self._service.beat_answer(self._pump.head_seq, beat, to_sync=False)
                await self._writer.send({"type": "hb", "ref": ref, **answer})
                self._pump.look_if_behind()
            case FillFrame():
                await self._fill(body, ref)
            case FollowFrame():
                await self._take_follow(body, ref)
            case VerifyBody():
                answer = await self._service.comparer.verify(self.device, body)
                await self._writer.send({"type": "verify", "ref": ref, **answer})
            case SendFrame():
                await self._send_message(body, ref)
            case ByeFrame():
                self._goodbye = True
                await self._writer.close(Close.NORMAL)
                return False
            case _:
                raise AssertionError(body)
        return True

    async def _ack(self, body: AckFrame, ref: str | None) -> None:
        shared = body.timeline != INBOX
        if body.upto is not None and body.upto > self._pump.sent_of(body.timeline):
            raise Malformed("`upto` is beyond what was sent on this connection.", code="invalid_cursor")
        answer = await self._service.ack(
            self.device,
            body,
            session=self.session,
            upto=None if shared else body.upto,
            shared_upto=((body.timeline, body.upto),) if shared and body.upto is not None else (),
        )
        await self._writer.send({"type": "ack", "ref": ref, **ack_answer(answer)})
        self._pump.acked({**answer.shared, INBOX: answer.acked_seq})

    async def _take_follow(self, body: FollowFrame, ref: str | None) -> None:
        for name in body.unfollow:
            self._pump.unfollow(name)
            self._hub.unfollow(self, self._timeline(name))
        added, answer = await self._pump.follow(Wanted(cursors=tuple(body.shared), names=tuple(body.open)))
        for name in added:
            self._follow(self._timeline(name))
        await self._writer.send({"type": "follow", "ref": ref, **answer})
        for name in added:
            self.look_at(name)

    def _timeline(self, name: str) -> TimelineKey:
        return TimelineKey(self.device.app_id, name)

    async def _send_message(self, body: SendFrame, ref: str | None) -> None:
        """A refusal ends nothing: it is of this message, not of the connection."""
        try:
            sent = await self._send_for_device(self.device, body.message, body.key)
        except Forbidden as problem:
            await self._writer.error(problem, ref)
        else:
            await self._writer.send({"type": "sent", "ref": ref, **sent})

    async def _fill(self, body: FillFrame, ref: str | None) -> None:
        if body.to <= body.from_:
            raise Malformed("`to` must be above `from`.", code="validation_failed")
        batch = await self._service.fill(self.device, body.timeline, body.from_, body.to, limit=PAGE_MAX)
        await self._writer.batch(batch, extra={"ref": ref, "fill": True})

    # --- what the hub says ---

    def look(self, head_seq: int | None = None) -> None:
        self._pump.look(head_seq)

    def look_at(self, timeline: str) -> None:
        self._pump.look_at(timeline)

    def withdrawn(self, message_ids: Sequence[str]) -> None:
        self._pump.withdrawn(message_ids)

    def acked(self, upto: Mapping[str, int]) -> None:
        self._pump.acked(upto)

    def replaced(self) -> None:
        self._later(self._writer.close(Close.REPLACED))

    def expelled(self) -> None:
        self._later(self._say_expelled())

    async def _say_expelled(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SAY_S):
                await self._writer.error(
                    Unauthenticated("The token that this connection was opened with counts no more."), None
                )
        await self._writer.close(Close.UNAUTHENTICATED)

    def still_shut(self) -> bool:
        if not self._pump.stalled(self._clock.monotonic_ms()):
            return self._pump.shut
        log.info("realtime.slow", app=self.device.app_id, user=self.device.user_id, device=self.device.device_id)
        self._later(self._writer.close(Close.SLOW))
        return False

    def ping(self) -> None:
        self._pump.go_on()
        self._pump.look_for_acks()
        if self._missed_pongs >= protocol.PING_MISSES_MAX:
            self._later(self._writer.close(Close.TRY_LATER))
            return
        self._missed_pongs += 1
        self._later(self._ws.ping())

    def drain(self, reconnect_ms: int) -> None:
        self._restart = True
        self._later(
            self._writer.send({"type": "drain", "reconnect_ms": reconnect_ms, "resume_hint": self._pump.sent_seq})
        )

    def degraded(self) -> None:
        self._later(self._writer.send(DEGRADED))

    def restart(self) -> None:
        self._restart = True
        self._later(self._writer.close(Close.RESTART))

    def _later(self, what: Any) -> None:
        if self._spawn(_quietly(what), "session-word") is None:
            what.close()

    def _spawn(self, what: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """A task of this connection; None if it is about to end, and nothing is said any more.

        Who calls is often another connection or a sender: they must not fail because this one ends just now.
        """
        if self._group is not None and not self._ws.closed:
            try:
                with of_app(self.device.app_id):  # whoever has something to tell
                    return self._group.create_task(what, name=name)
            except RuntimeError:  # the group ends because something in it failed, or has ended
                log.debug("session.ending")
        what.close()
        return None


async def _quietly(what: Any) -> None:
    try:
        await what
    except ConnectionError:
        return


_KINDS = ", ".join(kind for kind, model in protocol.FRAMES.items() if model is not HelloBody)


def _mistake(error: ValidationError) -> Malformed:
    """The first mistake in a frame: where, and what would be right."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = "/" + "/".join(map(str, first["loc"]))
    return Malformed(f"{where}: {first['msg']}"[:300], code="validation_failed")
