"""Plays the recorded conversations against a server: each with a user of its own."""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from uuid_utils import uuid7

from relay.client.backend import Backend
from relay.client.conformance.vectors import SERVER, Differs, Names, Vector, compare, filled, load, read, read_frame
from relay.client.http import ClientError
from relay.client.transports import FRAME_BYTES_MAX, SUBPROTOCOL
from relay.client.ways import long_lines

ANSWER_S = 10.0
AT_ONCE = 4
BESIDE = frozenset({"hb", "ack"})  # frames that may come between those of a conversation
ANSWERS = frozenset({"sent"})  # a page may come before them
DEVICE_SENDS = "app.device_sends"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a conversation went. `step` counts from 1; `detail` says what came instead of what, or why it was `skipped`."""

    vector: Vector
    ok: bool
    step: int = 0
    detail: str = ""
    skipped: bool = False


async def check_server(url: str, key: str, *, only: Sequence[str] = ()) -> AsyncIterator[Verdict]:
    """Plays all conversations, or those named. `key` is an API key that may send and mint tokens.

    Raises ClientError at once where the server does not answer, or refuses the key: no conversation can say more.
    """
    async with Backend(url, key, try_for_s=ANSWER_S) as backend, aiohttp.ClientSession() as http:
        knocking = f"conformance-{uuid7()}"
        await backend.put_device(knocking, "device")
        await backend.delete_device(knocking, "device")
        plays = [_Play(one, url.rstrip("/"), backend, http) for one in load(SERVER) if not only or one.name in only]
        async for verdict in in_order([play.run for play in plays]):
            yield verdict


async def in_order(plays: Sequence[Callable[[], Awaitable[Verdict]]]) -> AsyncIterator[Verdict]:
    """Plays some at a time, and gives what came of them in order: most of a conversation is waiting for the other side."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def run(play: Callable[[], Awaitable[Verdict]]) -> Verdict:
        async with turn:
            return await play()

    tasks = [asyncio.create_task(run(play)) for play in plays]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Play:
    """One conversation."""

    def __init__(self, vector: Vector, url: str, backend: Backend, http: aiohttp.ClientSession) -> None:
        self.vector, self.url, self.backend, self.http = vector, url, backend, http
        user, other, group = (f"conformance-{uuid7()}" for _ in range(3))
        self.names: Names = {"user": user, "device": "device", "other": other, "group": group}
        self._early: deque[dict[str, Any]] = deque()  # what came before an answer
        self._refs = itertools.count(100)
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._stream: aiohttp.ClientResponse | None = None
        self._lines: AsyncIterator[bytes] | None = None
        self._token = ""

    async def run(self) -> Verdict:
        step = 0
        try:
            await self.backend.put_device(self.names["user"], "device")
            self._token = await self.backend.mint_token(self.names["user"], "device")
            if self.vector.needs == DEVICE_SENDS and not await self._may_send():
                return Verdict(self.vector, ok=True, skipped=True, detail=f"the server has not {DEVICE_SENDS}")
            for step, one in enumerate(self.vector.steps, 1):  # noqa: B007 - told where it ended
                await self._step(one)
        except (Differs, ClientError, aiohttp.ClientError, OSError) as error:
            return Verdict(self.vector, ok=False, step=step, detail=str(error) or type(error).__name__)
        except TimeoutError:
            return Verdict(self.vector, ok=False, step=step, detail=f"nothing came within {ANSWER_S:.0f} s")
        finally:
            if self._socket is not None:
                with suppress(Exception):
                    await self._socket.close()
            if self._stream is not None:
                self._stream.close()
            with suppress(ClientError):
                await self.backend.delete_device(self.names["user"], "device")
        return Verdict(self.vector, ok=True)

    async def _step(self, step: Mapping[str, Any]) -> None:
        ((kind, said),) = step.items()
        match kind:
            case "backend":
                await self._backend(said)
            case "connect":
                self._early.clear()
                self._socket = await self.http.ws_connect(
                    self.url + "/v1/device/ws",
                    protocols=[SUBPROTOCOL],
                    headers={"Authorization": f"Bearer {self._token}"},
                    max_msg_size=FRAME_BYTES_MAX,
                )
            case "disconnect":
                assert self._socket is not None
                await self._socket.close()
            case "C":
                await self._say(filled(said, self.names, invent=True))
            case "S":
                compare(said, await self._hear(said), self.names)
            case "C acks":
                await self._ack(filled(said, self.names, invent=False))
            case "S closes":
                await self._closed(said)
            case "http":
                await self._call(said)
            case "stream":
                await self._open_stream(said)
            case "E":
                compare(said, await self._event(said["event"]), self.names)
            case _:
                raise Differs(f"unknown step {kind!r}")

    async def _may_send(self) -> bool:
        """Asks by a message that is in order, as the fields are checked first; to a group of strangers, so none is sent."""
        headers = {"Authorization": f"Bearer {self._token}", "Idempotency-Key": "conformance"}
        message = {"to": {"group": f"conformance-{uuid7()}"}, "body": ""}
        async with self.http.post(self.url + "/v1/device/messages", json=message, headers=headers) as answer:
            return answer.status not in {403, 404}

    async def _ack(self, said: Mapping[str, Any]) -> None:
        ref = str(next(self._refs))
        if "timeline" in said:
            frame: dict[str, Any] = {"shared": [said["cursor"]]}
            heard: dict[str, Any] = {"shared": {said["timeline"]: said["upto"]}}
        else:
            frame, heard = {"cursor": said["cursor"]}, {"acked": said["upto"]}
        await self._say({"type": "ack", "ref": ref} | frame)
        wanted = {"type": "ack", "ref": ref} | heard
        compare(wanted, await self._hear(wanted), self.names)

    async def _backend(self, said: Mapping[str, Any]) -> None:
        if "send" in said:
            fields = filled(said["send"], self.names, invent=False)
            answer = await self.backend.send(self.names["user"], fields.pop("body"), **fields)
            self.names[said["as"]] = answer["id"]
        elif "cancel" in said:
            await self.backend.cancel(filled(said["cancel"], self.names, invent=False))
        elif "device" in said:
            await self.backend.put_device(filled(said["device"], self.names, invent=False), "device")
        elif "group" in said:
            change = filled(said["group"], self.names, invent=False)
            await self.backend.change_group(change.pop("name"), **change)
        else:
            raise Differs(f"unknown word for the backend: {sorted(said)}")

    async def _say(self, frame: Mapping[str, Any]) -> None:
        assert self._socket is not None
        await self._socket.send_str(json.dumps(frame))

    async def _hear(self, pattern: Mapping[str, Any]) -> dict[str, Any]:
        """The next frame, without those that may come beside."""
        assert self._socket is not None
        wanted = pattern.get("type")
        if self._early and wanted not in ANSWERS | BESIDE:
            return self._early.popleft()
        async with asyncio.timeout(ANSWER_S):
            while True:
                message = await self._socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise Differs(f"the connection ended ({self._socket.close_code}), not {wanted}")
                frame = read_frame(message.data)
                if wanted in ANSWERS and frame["type"] == "batch":
                    self._early.append(frame)
                elif frame["type"] not in BESIDE or frame["type"] == wanted:
                    return frame

    async def _closed(self, code: int) -> None:
        assert self._socket is not None
        async with asyncio.timeout(ANSWER_S):
            while True:
                message = await self._socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
        if self._socket.close_code != code:
            raise Differs(f"closed with {self._socket.close_code}, not {code}")

    async def _open_stream(self, said: Mapping[str, Any]) -> None:
        """A stream takes the place of the one that is open; `path` and `headers` are as for a call."""
        if self._stream is not None:
            self._stream.close()
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "text/event-stream"}
        headers |= filled(said.get("headers", {}), self.names, invent=False)
        path = filled(said["path"], self.names, invent=False)
        self._stream = await self.http.get(self.url + path, headers=headers)
        if self._stream.status != 200:
            raise Differs(f"{self._stream.status}, not 200: {(await self._stream.text())[:160]}")
        self._lines = long_lines(self._stream.content)

    async def _event(self, wanted: str) -> dict[str, Any]:
        """The next event, without signs of life, as {event, data, id}."""
        assert self._lines is not None
        event: dict[str, Any] = {}
        async with asyncio.timeout(ANSWER_S):
            async for line in self._lines:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    event[name] = read(value) if name == "data" else value
                elif event.get("event") not in BESIDE or event.get("event") == wanted:
                    return event
                else:
                    event = {}
        raise Differs(f"the stream ended, not {wanted}")

    async def _call(self, said: Mapping[str, Any]) -> None:
        """A device's call over HTTP: `do`, `body`, `headers`; `status`, `answer` and `answer_headers` are expected."""
        method, _, path = filled(said["do"], self.names, invent=True).partition(" ")
        headers = {"Authorization": f"Bearer {self._token}"} | filled(said.get("headers", {}), self.names, invent=False)
        body = filled(said["body"], self.names, invent=True) if "body" in said else None
        async with (
            asyncio.timeout(ANSWER_S),
            self.http.request(method, self.url + path, json=body, headers=headers) as answer,
        ):
            text = await answer.text()
            if answer.status != said["status"]:
                raise Differs(f"{answer.status}, not {said['status']}: {text[:160]}")
            for name, pattern in said.get("answer_headers", {}).items():
                compare(pattern, answer.headers.get(name), self.names, f"header {name}")
            if "answer" in said:
                compare(said["answer"], read(text), self.names)
