"""One WebSocket connection of a device (protocol 9.1, 9.2).

It holds no queue: it remembers the highest number that it has sent, and reads the inbox again from there whenever it is
told to look. So live messages and catch-up take one path, in order.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import msgspec
import structlog
from aiohttp import WSMessage, WSMsgType, web
from pydantic import ValidationError

from relay.clock import Clock
from relay.errors import Conflict, CursorRefused, Forbidden, Malformed, Problem, Unauthenticated
from relay.inbox.batch import Batch
from relay.inbox.cursor import INBOX
from relay.inbox.shared import Wanted
from relay.model import DeviceKey, TimelineKey
from relay.push.limits import Bucket
from relay.realtime import protocol
from relay.realtime.follows import Follows, unheard
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
from relay.realtime.service import DeviceService, ack_answer
from relay.realtime.window import Window
from relay.strictjson import parse

log = structlog.get_logger("relay.realtime")

PAGE_MAX = 200
SAY_S = 0.5  # to say why, before a connection is closed that must not last
_DEGRADED = {"type": "degraded", "until": None}
_encode = msgspec.json.Encoder().encode
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
        self._cut = cut
        self._group: asyncio.TaskGroup | None = None
        self._pump: asyncio.Task[None] | None = None
        self._again = False
        self._sent_seq = 0
        self._acked_seq = 0
        self._epoch = ""
        self._told_caught_up = False
        self._window = Window(entries=protocol.WINDOW_ENTRIES, bytes_=protocol.WINDOW_BYTES)
        self._follows = Follows(device, service.inbox.shared)
        self._follow: Callable[[TimelineKey], None] = lambda _: None
        self._fresh: dict[str, None] = {}  # followed timelines to look at
        self._looked = False
        self._told_heads: dict[str, int] = {}  # of those that are not followed
        self._head_seq = 0
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
                    self.look()
                    await self._read()
                    if self._pump is not None:
                        self._pump.cancel()
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
            await self._error(_mistake(error), ref)
            await self._close(Close.BAD_FRAME)
            return False
        except Problem as problem:
            await self._error(problem, ref)
            code = Close.UNAUTHENTICATED if problem.status in {401, 403} else Close.TRY_LATER
            await self._close(code)
            return False
        welcome = greeted.welcome
        self.session = welcome.session
        self._epoch = welcome.epoch
        self._head_seq = welcome.head_seq
        self._sent_seq = self._acked_seq = welcome.head_seq - welcome.missing
        self._window = Window(entries=greeted.window.entries, bytes_=greeted.window.bytes)
        await self._send({"type": "welcome", "ref": ref, **greeted.answer, "token": token})
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
                    await self._close(Close.RATE)
                    return False
                return True
            case WSMsgType.PING:
                if not self._rate.take(self._clock.monotonic_ms()):
                    await self._close(Close.RATE)
                    return False
                await self._ws.pong(message.data)
                return True
            case WSMsgType.TEXT:
                in_rate = self._rate.take(self._clock.monotonic_ms())
                going_on = await self._frame(message.data)
                if not in_rate:  # what it said was heard all the same: an ack is never refused for its rate
                    await self._close(Close.RATE)
                    return False
                return going_on
            case WSMsgType.BINARY:
                await self._error(Malformed("Frames are JSON text.", code="json_invalid"), None)
                await self._close(Close.BAD_FRAME)
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
            await self._error(problem, ref)
            return True
        except Malformed as problem:
            if problem.code == "json_not_utf8":  # RFC 6455 8.1: the connection has failed
                await self._error(problem, ref)
                await self._close(Close.NOT_UTF8)
                return False
            return await self._bad(problem, ref)
        except Problem as problem:
            await self._error(problem, ref)
            if problem.code == "state_conflict":
                await self._close(Close.REPLACED)
                return False
            return problem.status not in {401, 403}

    async def _bad(self, problem: Problem, ref: str | None) -> bool:
        self._bad_frames += 1
        await self._error(problem, ref)
        if self._bad_frames >= protocol.BAD_FRAMES_MAX:
            await self._close(Close.BAD_FRAME)
            return False
        return True

    async def _handle(self, body: protocol.Said, ref: str | None) -> bool:
        match body:
            case AckFrame():
                await self._ack(body, ref)
            case HeartbeatFrame():
                beat = await self._service.socket_heartbeat(
                    self.device,
                    self.session,
                    state=body.state,
                    open_conversation=body.open_conversation,
                    offer=body.heartbeat,
                )
                answer = self._service.beat_answer(self._head_seq, beat, behind=False)
                await self._send({"type": "hb", "ref": ref, **answer})
                if self._head_seq > self._sent_seq:
                    self.look()
                self._run_pump_if_it_missed_something()
            case FillFrame():
                await self._fill(body, ref)
            case FollowFrame():
                await self._take_follow(body, ref)
            case VerifyBody():
                answer = await self._service.verify(self.device, body)
                await self._send({"type": "verify", "ref": ref, **answer})
            case SendFrame():
                await self._send_message(body, ref)
            case ByeFrame():
                self._goodbye = True
                await self._close(Close.NORMAL)
                return False
            case _:
                raise AssertionError(body)
        return True

    async def _ack(self, body: AckFrame, ref: str | None) -> None:
        shared = body.timeline != INBOX
        follow = self._follows.get(body.timeline) if shared else None
        sent_seq = self._sent_seq if not shared else -1 if follow is None else follow.sent_seq
        if body.upto is not None and body.upto > sent_seq:
            raise Malformed("`upto` is beyond what was sent on this connection.", code="invalid_cursor")
        answer = await self._service.ack(
            self.device,
            body,
            session=self.session,
            upto=None if shared else body.upto,
            shared_upto=((body.timeline, body.upto),) if shared and body.upto is not None else (),
        )
        was_shut = self._window.room is None
        self._acked_seq = max(self._acked_seq, answer.acked_seq)
        self._window.acked(INBOX, self._acked_seq)
        for name, seq in answer.shared.items():
            self._window.acked(name, seq)
        await self._send({"type": "ack", "ref": ref, **ack_answer(answer)})
        if was_shut:
            self._look_at_all()
        else:  # what there is has been sent: no look at the rows for every ack
            self._run_pump_if_it_missed_something()

    async def _take_follow(self, body: FollowFrame, ref: str | None) -> None:
        for name in body.unfollow:
            self._follows.drop(name)
            self._hub.unfollow(self, self._follows.key(name))
            self._window.forget(name)
        added, answer = await self._follows.add(Wanted(cursors=tuple(body.shared), names=tuple(body.open)))
        for name in added:
            self._window.forget(name)  # what was sent of it before is sent again
            self._follow(self._follows.key(name))
        await self._send({"type": "follow", "ref": ref, **answer})
        for name in added:
            self.look_at(name)

    async def _send_message(self, body: SendFrame, ref: str | None) -> None:
        """A refusal ends nothing: it is of this message, not of the connection."""
        try:
            sent = await self._send_for_device(self.device, body.message, body.key)
        except Forbidden as problem:
            await self._error(problem, ref)
        else:
            await self._send({"type": "sent", "ref": ref, **sent})

    async def _fill(self, body: FillFrame, ref: str | None) -> None:
        if body.to <= body.from_:
            raise Malformed("`to` must be above `from`.", code="validation_failed")
        batch = await self._service.fill(self.device, body.timeline, body.from_, body.to, limit=PAGE_MAX)
        await self._send_batch(batch, extra={"ref": ref, "fill": True})

    # --- what the client is sent ---

    def look(self) -> None:
        """There may be something to send: runs the pump, or has it look again."""
        self._again = True
        self._run_pump()

    def look_at(self, timeline: str) -> None:
        """There may be something in a shared timeline that is followed."""
        self._fresh[timeline] = None
        self._run_pump()

    def _look_at_all(self) -> None:
        self._fresh |= dict.fromkeys(self._follows.names)
        self.look()

    def _run_pump_if_it_missed_something(self) -> None:
        """It stopped when the store was away: no hint comes for what it was to send."""
        if self._again or self._fresh:
            self._run_pump()

    def _run_pump(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = self._spawn(self._send_what_is_new(), "session-pump")

    async def _send_what_is_new(self) -> None:
        while (self._again or self._fresh) and not self._ws.closed:
            try:
                if self._again:
                    self._again = False
                    while await self._send_page():
                        pass
                else:
                    await self._send_timeline(self._fresh.popitem()[0])
            except Conflict:
                await self._close(Close.REPLACED)
            except Unauthenticated:
                await self._close(Close.UNAUTHENTICATED)
            except Problem as problem:
                if problem.status != 503:
                    raise
                # The store is away. The connection stays; the next ack, heartbeat or ping has us look again.
                self._again = True
                self._fresh |= dict.fromkeys(self._follows.names)
                await self._send(_DEGRADED)
                return

    async def _send_page(self) -> bool:
        """Sends one page if the window allows and there is one; gives whether there may be more."""
        room = self._window.room
        if room is None:
            return False
        reading = await self._service.inbox.read_after(
            self.device,
            self._sent_seq,
            limit=min(PAGE_MAX, room[0]),
            bytes_max=room[1],
            followed=self._follows.names,
            first=not self._looked,
        )
        snap, batch = reading.snap, reading.batch
        assert batch is not None
        if snap.device.session != self.session:
            await self._close(Close.REPLACED)
            return False
        if snap.epoch8.hex() != self._epoch:
            await self._resync()
            return False
        self._head_seq, self._looked = batch.head_seq, True
        moved = batch.to_seq > self._sent_seq
        if moved or (batch.caught_up and not self._told_caught_up):
            self._sent_seq = batch.to_seq
            self._window.sent(INBOX, batch.to_seq, entries=batch.entries, size=len(batch.json))
            self._told_caught_up = self._told_caught_up or batch.caught_up
            await self._send_batch(batch, extra={"caught_up": batch.caught_up})
        if reading.shared is not None and (heads := unheard(reading.shared.ahead, self._told_heads)):
            await self._send({"type": "heads", "shared": heads})
        return moved and batch.more

    async def _send_timeline(self, name: str) -> None:
        """Sends what is new in a followed timeline, as far as the window allows."""
        follow = self._follows.get(name)
        while follow is not None and (room := self._window.room) is not None:
            found = await self._follows.page(follow, self.session, limit=min(PAGE_MAX, room[0]), bytes_max=room[1])
            if found is None:
                return
            if isinstance(found, Batch):
                self._window.sent(name, found.to_seq, entries=found.entries, size=len(found.json))
                await self._send_batch(found, extra={"caught_up": found.caught_up})
            else:
                self._window.forget(name)
                await self._send({"type": "resync_required", "timeline": name, "resync": found})

    async def _resync(self) -> None:
        data = await self._service.inbox.reset(self.device, reason="epoch")
        await self._send({"type": "resync_required", "resync": data})
        await self._close(Close.RESTART)

    async def _send_batch(self, batch: Batch, *, extra: dict[str, Any]) -> None:
        more = _encode(extra)[1:-1]
        await self._write(b'{"type":"batch",' + more + b"," + batch.json[1:])

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._write(_encode(frame))

    async def _error(self, problem: Problem, ref: str | None) -> None:
        frame: dict[str, Any] = {"type": "error", "code": problem.code, "ref": ref, "detail": problem.detail}
        if problem.retry_after_s is not None:
            frame["retry_after_ms"] = int(problem.retry_after_s * 1000)
        if problem.errors:
            frame["errors"] = [asdict(one) for one in problem.errors]
        frame |= problem.extra
        await self._send(frame)

    async def _write(self, data: bytes) -> None:
        """Writes a frame; a client that does not read for 20 s is closed, and served later."""
        if self._ws.closed:
            return
        try:
            async with asyncio.timeout(protocol.WRITE_S):
                await self._ws.send_frame(data, WSMsgType.TEXT)
        except TimeoutError:
            log.info("realtime.slow", app=self.device.app_id, device=self.device.device_id)
            await self._close(Close.SLOW)
        except ConnectionError:
            return

    async def _close(self, code: Close) -> None:
        """Closes the connection; one whose client does not read is cut, for the close frame cannot get to it either."""
        if self._ws.closed:
            return
        try:
            async with asyncio.timeout(protocol.CLOSE_S):
                await self._ws.close(code=int(code), message=b"")
        except TimeoutError:
            self._cut()

    # --- what the hub says ---

    def acked(self, seq: int) -> None:
        self._acked_seq = max(self._acked_seq, seq)
        was_shut = self._window.room is None
        self._window.acked(INBOX, self._acked_seq)
        if was_shut:
            self._look_at_all()

    def replaced(self) -> None:
        self._later(self._close(Close.REPLACED))

    def expelled(self) -> None:
        self._later(self._say_expelled())

    async def _say_expelled(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SAY_S):
                await self._error(
                    Unauthenticated("The token that this connection was opened with counts no more."), None
                )
        await self._close(Close.UNAUTHENTICATED)

    def ping(self) -> None:
        if self._window.stalled(self._clock.monotonic_ms()):
            log.info("realtime.slow", app=self.device.app_id, device=self.device.device_id)
            self._later(self._close(Close.SLOW))
            return
        self._run_pump_if_it_missed_something()
        if self._missed_pongs >= protocol.PING_MISSES_MAX:
            self._later(self._close(Close.TRY_LATER))
            return
        self._missed_pongs += 1
        self._later(self._ws.ping())

    def drain(self, reconnect_ms: int) -> None:
        self._restart = True
        self._later(self._send({"type": "drain", "reconnect_ms": reconnect_ms, "resume_hint": self._sent_seq}))

    def degraded(self) -> None:
        self._later(self._send(_DEGRADED))

    def restart(self) -> None:
        self._restart = True
        self._later(self._close(Close.RESTART))

    def _later(self, what: Any) -> None:
        if self._spawn(_quietly(what), "session-word") is None:
            what.close()

    def _spawn(self, what: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """A task of this connection; None if it is about to end, and nothing is said any more.

        Who calls is often another connection or a sender: they must not fail because this one ends just now.
        """
        if self._group is not None and not self._ws.closed:
            try:
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
