"""What goes out on one WebSocket: frames, each in time or the connection ends, and the close (protocol 9.2)."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec
import structlog
from aiohttp import WSMsgType, web

from relay.errors import Problem
from relay.ids import Rng
from relay.inbox.batch import Batch
from relay.model import DeviceKey
from relay.realtime import protocol
from relay.realtime.protocol import Close

log = structlog.get_logger("relay.realtime")

DEGRADED = {"type": "degraded", "until": None}
_encode = msgspec.json.Encoder().encode


def error_frame(problem: Problem, ref: str | None, rng: Rng) -> dict[str, Any]:
    """What a client is told on its socket; with when to come again, where that may help."""
    frame: dict[str, Any] = {
        "type": "error",
        "code": problem.code,
        "status": problem.status,
        "ref": ref,
        "detail": problem.detail,
    }
    retry_after_s = problem.drawn_s(rng)
    if retry_after_s is not None:
        frame["retry_after_ms"] = int(retry_after_s * 1000)
    if problem.errors:
        frame["errors"] = [asdict(one) for one in problem.errors]
    return frame | problem.extra


class FrameWriter:
    """Writes to one client. What is written to a closed connection goes nowhere, and nobody is told."""

    def __init__(self, ws: web.WebSocketResponse, device: DeviceKey, rng: Rng, cut: Callable[[], None]) -> None:
        self._ws = ws
        self._device = device
        self._rng = rng
        self._cut = cut

    @property
    def closed(self) -> bool:
        return self._ws.closed

    async def send(self, frame: dict[str, Any]) -> None:
        await self._write(_encode(frame))

    async def batch(self, batch: Batch, *, extra: dict[str, Any]) -> None:
        """Sends a batch, whose JSON is made already, with `extra` beside it."""
        more = _encode(extra)[1:-1]
        await self._write(b'{"type":"batch",' + more + b"," + batch.json[1:])

    async def error(self, problem: Problem, ref: str | None) -> None:
        await self.send(error_frame(problem, ref, self._rng))

    async def close(self, code: Close) -> None:
        """Closes the connection; one whose client does not read is cut, for the close frame cannot get to it either."""
        if self._ws.closed:
            return
        try:
            async with asyncio.timeout(protocol.CLOSE_S):
                await self._ws.close(code=int(code), message=b"")
        except TimeoutError:
            self._cut()

    async def _write(self, data: bytes) -> None:
        """Writes a frame; a client that does not read for 20 s is closed, and served later."""
        if self._ws.closed:
            return
        try:
            async with asyncio.timeout(protocol.WRITE_S):
                await self._ws.send_frame(data, WSMsgType.TEXT)
        except TimeoutError:
            log.info("realtime.slow", app=self._device.app_id, user=self._device.user_id, device=self._device.device_id)
            await self.close(Close.SLOW)
        except ConnectionError:
            return
