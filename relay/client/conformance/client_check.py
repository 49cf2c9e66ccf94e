"""Plays the server of the recorded conversations for a client under test, which is started anew for each.

The client's command finds RELAY_URL, RELAY_TOKEN and RELAY_CACHE (a path in an empty folder) in its environment. It
connects by WebSocket, stores what comes, acks it, and comes back when the connection ends; it is killed at the end.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from relay.client.conformance.server_check import Verdict
from relay.client.conformance.vectors import CLIENT, Differs, Names, Vector, compare, filled, load
from relay.client.transports import SUBPROTOCOL
from relay.clock import SystemClock

ANSWER_S = 15.0
READ_S = 0.2  # some WebSocket libraries (undici 6) drop frames that come in one piece with a close frame
RETURN_S = 30.0  # the first back-offs, with jitter, lie well within
TOKEN = "rd_conformance"  # noqa: S105 - opens nothing
Frames = asyncio.Queue[dict[str, Any] | None]  # what one connection's client said; None: it has ended
HEARTBEAT = {"interval_s": 30, "lease_s": 75}


async def check_client(command: Sequence[str], *, only: Sequence[str] = ()) -> AsyncIterator[Verdict]:
    """Starts the command for each conversation and plays the server for it."""
    for vector in load(CLIENT):
        if not only or vector.name in only:
            yield await _Stage(vector).run(command)


class _Stage:
    """One conversation, from the server's side."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        self.names: Names = dict(vector.given)
        self._connections: asyncio.Queue[tuple[web.WebSocketResponse, Frames]] = asyncio.Queue()
        self._socket: web.WebSocketResponse | None = None
        self._frames: Frames = asyncio.Queue()
        self._said: set[str] = set()  # cursors that the client may ack
        self._upto = 0

    async def run(self, command: Sequence[str]) -> Verdict:
        app = web.Application()
        app.router.add_get("/v1/device/ws", self._connected)
        app.router.add_post("/v1/device/ack", self._acked_aside)
        app.router.add_post("/v1/device/ticket", self._ticket)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        step = 0
        with tempfile.TemporaryDirectory() as home:
            environ = {"RELAY_URL": url, "RELAY_TOKEN": TOKEN, "RELAY_CACHE": str(Path(home) / "cache")}
            child = await asyncio.create_subprocess_exec(
                *command, env=os.environ | environ, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
            )
            try:
                for step, one in enumerate(self.vector.steps, 1):  # noqa: B007 - told where it ended
                    await self._step(one)
            except (Differs, ConnectionError) as error:
                return Verdict(self.vector, ok=False, step=step, detail=str(error) or type(error).__name__)
            except TimeoutError:
                return Verdict(self.vector, ok=False, step=step, detail="the client did not say it in time")
            finally:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
                await runner.cleanup()
        return Verdict(self.vector, ok=True)

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
            await socket.send_json({"type": "hb", "ref": ref, "head": self._upto, **HEARTBEAT})
        elif frame.get("type") == "ack":
            await socket.send_json({"type": "ack", "ref": ref, "acked": frame.get("upto", self._upto), "results": {}})
            frames.put_nowait(frame)
        elif frame.get("type") == "bye":
            await socket.close()
        else:
            frames.put_nowait(frame)

    async def _acked_aside(self, request: web.Request) -> web.Response:
        return web.json_response({"acked": 0, "results": {}})

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
                await SystemClock().sleep(READ_S)
                await self._socket.close(code=said)
            case "C":
                compare(said, await self._heard({said["type"]}), self.names)
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
            self._upto = max(self._upto, frame["to"])
        elif frame["type"] == "welcome":
            self._said.add(frame["cursors"]["inbox"])
        await self._socket.send_json(frame)

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
        cursor, upto = frame.get("cursor"), frame.get("upto")
        if cursor is not None and cursor not in self._said:
            raise Differs(f"acked a cursor that it was never given: {str(cursor)[:40]!r}")
        if upto is not None and upto > self._upto:
            raise Differs(f"acked up to {upto}, but was sent up to {self._upto}")

    async def _acks(self, said: Mapping[str, Any]) -> None:
        wanted = filled(said["cursor"], self.names, invent=False)
        while True:
            frame = await self._heard({"ack"})
            if frame.get("cursor") == wanted or frame.get("upto") == said["upto"]:
                return

    async def _does_not_ack(self, cursor: str) -> None:
        """The client gives up this connection, or asks for what is missing; it must not ack this."""
        self._said.discard(cursor)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while (frame := await self._frames.get()) is not None:
                    if frame.get("type") == "ack":
                        self._check_ack(frame)
