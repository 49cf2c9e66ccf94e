"""Plays the server of the recorded conversations for a client under test, which is started anew for each.

The client's command finds RELAY_URL, RELAY_TOKEN and RELAY_CACHE (a path in an empty folder) in its environment. It
connects by WebSocket, stores what comes, acks it, and comes back when the connection ends; it is killed at the end. In
some it finds RELAY_FOLLOW, a shared timeline to follow, or RELAY_SEND, the JSON of a message to send: over the socket or
by POST, as it likes.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from relay.client.conformance.server_check import Verdict, in_order
from relay.client.conformance.vectors import CLIENT, Differs, Names, Vector, compare, filled, load, short
from relay.client.conformance.whole import text_of, whole
from relay.client.transports import SUBPROTOCOL
from relay.clock import SystemClock

ANSWER_S = 15.0
READ_S = 0.2  # some WebSocket libraries (undici 6) drop frames that come in one piece with a close frame
RETURN_S = 30.0  # the first back-offs, with jitter, lie well within
TOKEN = "rd_conformance"  # noqa: S105 - opens nothing
INBOX = "inbox"
Frames = asyncio.Queue[dict[str, Any] | None]  # what one connection's client said; None: it has ended
HEARTBEAT = {"interval_s": 30, "lease_s": 75}


async def check_client(command: Sequence[str], *, only: Sequence[str] = ()) -> AsyncIterator[Verdict]:
    """Starts the command for each conversation and plays the server for it."""
    stages = [_Stage(vector) for vector in load(CLIENT) if not only or vector.name in only]
    async for verdict in in_order([partial(stage.run, command) for stage in stages]):
        yield verdict


def _awaited(step: Mapping[str, Any]) -> str:
    """What the client should have done, as it stands in the conversation."""
    ((kind, said),) = step.items()
    if kind == "connect":
        return "connect"
    return f"{'ack' if kind == 'C acks' else 'say'} {short(said, 160)}"


class _Stage:
    """One conversation, from the server's side."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.names: Names = dict(vector.given)
        self._connections: asyncio.Queue[tuple[web.WebSocketResponse, Frames]] = asyncio.Queue()
        self._socket: web.WebSocketResponse | None = None
        self._frames: Frames = asyncio.Queue()
        self._said: set[str] = set()  # cursors that the client may ack
        self._upto: dict[str, int] = {INBOX: 0}  # by timeline
        self._posts: Frames = asyncio.Queue()  # sends by POST, which no connection orders
        self._posted: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # their answers; None: none comes
        self._sent_by_post = False

    async def run(self, command: Sequence[str]) -> Verdict:
        app = web.Application()
        app.router.add_get("/v1/device/ws", self._connected)
        app.router.add_post("/v1/device/ack", self._acked_aside)
        app.router.add_post("/v1/device/ticket", self._ticket)
        app.router.add_post("/v1/device/messages", self._sent_aside)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        step = 0
        with tempfile.TemporaryDirectory() as home:
            environ = {
                "RELAY_URL": url,
                "RELAY_TOKEN": TOKEN,
                "RELAY_CACHE": str(Path(home) / "cache"),
                **self._wishes(),
            }
            child = await asyncio.create_subprocess_exec(
                *command, env=os.environ | environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
            )
            ended = asyncio.create_task(child.wait())
            try:
                for step, one in enumerate(self.vector.steps, 1):  # noqa: B007 - told where it ended
                    await self._step_while_it_runs(one, ended)
            except (Differs, ConnectionError) as error:
                return Verdict(self.vector, ok=False, step=step, detail=str(error) or type(error).__name__)
            except TimeoutError:
                return Verdict(
                    self.vector,
                    ok=False,
                    step=step,
                    detail=f"the client did not {_awaited(self.vector.steps[step - 1])} in time",
                )
            finally:
                with suppress(ProcessLookupError):
                    child.kill()
                await ended
                await runner.cleanup()
        return Verdict(self.vector, ok=True)

    def _wishes(self) -> dict[str, str]:
        """What its app wants, for the client's environment."""
        wishes: dict[str, Any] = filled(self.vector.app, self.names, invent=False)
        found = {} if "follow" not in wishes else {"RELAY_FOLLOW": wishes["follow"]}
        return found if "send" not in wishes else found | {"RELAY_SEND": json.dumps(wishes["send"])}

    async def _step_while_it_runs(self, step: Mapping[str, Any], ended: "asyncio.Task[int]") -> None:
        """Raises Differs if the client's process ends."""
        playing = asyncio.create_task(self._step(step))
        await asyncio.wait((playing, ended), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            raise Differs(f"the client's process ended with {ended.result()}; its own output says why")
        playing.result()

    # --- what the client does ---

    async def _connected(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=[SUBPROTOCOL])
        await socket.prepare(request)
        frames: Frames = asyncio.Queue()
        self._connections.put_nowait((socket, frames))
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self._took(socket, frames, json.loads(message.data))
        frames.put_nowait(None)
        return socket

    async def _took(self, socket: web.WebSocketResponse, frames: Frames, frame: dict[str, Any]) -> None:
        """Heartbeats and acks are answered at once; everything is then for the conversation."""
        ref = frame.get("ref")
        if frame.get("type") == "hb":
            await socket.send_json({"type": "hb", "ref": ref, "head": self._upto[INBOX], **HEARTBEAT})
        elif frame.get("type") == "ack":
            await socket.send_json({"type": "ack", "ref": ref, "acked": self._upto[INBOX], "results": {}, "shared": {}})
            frames.put_nowait(frame)
        elif frame.get("type") == "bye":
            await socket.close()
        else:
            frames.put_nowait(frame)

    async def _acked_aside(self, request: web.Request) -> web.Response:
        return web.json_response({"acked": 0, "results": {}})

    async def _sent_aside(self, request: web.Request) -> web.Response:
        """A send by POST is played as the frame would be."""
        frame = {"type": "send", "key": request.headers.get("Idempotency-Key"), "message": await request.json()}
        self._posts.put_nowait(frame)
        answer = await self._posted.get()
        if answer is None and request.transport is not None:
            request.transport.abort()
        return web.json_response(answer, status=202)

    async def _ticket(self, request: web.Request) -> web.Response:
        """For clients that can't set headers on a socket."""
        return web.json_response({"ticket": "conformance", "expires_at": "2099-01-01T00:00:00Z"}, status=201)

    # --- the conversation ---

    async def _step(self, step: Mapping[str, Any]) -> None:
        ((kind, said),) = step.items()
        match kind:
            case "backend" | "disconnect" | "http":
                return
            case "connect":
                async with asyncio.timeout(RETURN_S):
                    self._socket, self._frames = await self._connections.get()
            case "S":
                await self._say(filled(said, self.names, invent=False))
            case "S closes":
                assert self._socket is not None
                if self._sent_by_post:  # what it waits for does not come either
                    self._sent_by_post = False
                    self._posted.put_nowait(None)
                await SystemClock().sleep(READ_S)
                await self._socket.close(code=said)
            case "C":
                heard = await (self._sent() if said["type"] == "send" else self._heard({said["type"]}))
                compare(said, heard, self.names)
            case "C acks":
                await self._acks(said)
            case "C does not ack":
                await self._does_not_ack(filled(said, self.names, invent=False))
            case _:
                raise Differs(f"unknown step {kind!r}")

    async def _say(self, frame: dict[str, Any]) -> None:
        assert self._socket is not None
        if frame["type"] == "batch":
            self._said.add(frame["cursor"])
            timeline = frame["timeline"]
            self._upto[timeline] = max(self._upto.get(timeline, 0), frame["to"])
        elif frame["type"] == "welcome":
            self._said.add(frame["cursors"]["inbox"])
        elif frame["type"] == "resync_required":
            self._said.add(frame["resync"]["cursor"])
        if frame["type"] == "sent" and self._sent_by_post:
            self._sent_by_post = False
            self._posted.put_nowait(frame)
            return
        await self._socket.send_json(whole(frame), dumps=text_of)

    async def _sent(self) -> dict[str, Any]:
        """A send, whichever way it comes."""
        posted = asyncio.create_task(self._posts.get())
        framed = asyncio.create_task(self._heard({"send"}))
        await asyncio.wait((posted, framed), return_when=asyncio.FIRST_COMPLETED)
        self._sent_by_post = posted.done()
        first, other = (posted, framed) if posted.done() else (framed, posted)
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        frame = first.result()
        assert frame is not None
        return frame if "ref" in frame else frame | {"ref": "post"}

    async def _heard(self, kinds: set[str]) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_S):
            while True:
                frame = await self._frames.get()
                if frame is None:
                    raise Differs(f"the client ended the connection, and did not say {' or '.join(sorted(kinds))}")
                if frame.get("type") == "ack":
                    self._check_ack(frame)
                if frame.get("type") in kinds:
                    return frame

    def _check_ack(self, frame: Mapping[str, Any]) -> None:
        """Only what was said may be acked."""
        cursors = [frame.get("cursor"), *(frame.get("shared") or ())]
        for cursor in cursors:
            if cursor is not None and cursor not in self._said:
                raise Differs(f"acked a cursor that it was never given: {str(cursor)[:40]!r}")
        upto, sent = frame.get("upto"), self._upto.get(frame.get("timeline", INBOX), 0)
        if upto is not None and upto > sent:
            raise Differs(f"acked up to {upto}, but was sent up to {sent}")

    async def _acks(self, said: Mapping[str, Any]) -> None:
        wanted = filled(said, self.names, invent=False)
        timeline = wanted.get("timeline", INBOX)
        while True:
            frame = await self._heard({"ack"})
            cursors = [frame.get("cursor")] if timeline == INBOX else frame.get("shared") or ()
            if wanted["cursor"] in cursors or (frame.get("timeline", INBOX), frame.get("upto")) == (
                timeline,
                wanted["upto"],
            ):
                return

    async def _does_not_ack(self, cursor: str) -> None:
        """The client gives up this connection, or asks for what is missing; it must not ack this."""
        self._said.discard(cursor)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while (frame := await self._frames.get()) is not None:
                    if frame.get("type") == "ack":
                        self._check_ack(frame)
