"""Closed-loop HTTP load: each connection sends its next request when the answer to the last one is whole.

Runs as a process of its own (`python -m tests.bench.load`), so that it does not share the server's interpreter. Requests
are ready-made bytes and answers are only measured for their end, so that the client costs little of the machine.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

NEXT = b"\r\n\r\n"


def request(method: str, path: str, *, token: str = "", body: bytes = b"", key: str | None = None) -> bytes:
    """A whole HTTP/1.1 request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: relay\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    if key is not None:
        head += f"Idempotency-Key: {key}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection that works through its requests."""

    def __init__(self, requests: Sequence[bytes], done: "asyncio.Future[None]", *, keep: bool) -> None:
        self._requests = iter(requests)
        self._keep = keep
        self.bodies: list[str] = []
        self._done = done
        self._buffer = b""
        self.statuses: dict[int, int] = {}
        self.last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def go(self) -> None:
        sent = next(self._requests, None)
        if sent is None:
            self._transport.close()
            self._done.set_result(None)
        else:
            self._transport.write(sent)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(NEXT)
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length: ")
        length = 0 if at < 0 else int(head[at + 16 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        status = int(head[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.last = self._buffer
        if self._keep:
            self.bodies.append(self._buffer[end + 4 :].decode())
        self._buffer = b""
        self.go()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError(f"closed early, after {self.last[:300]!r}"))


async def run(
    host: str, port: int, work: Sequence[Sequence[bytes]], *, keep: bool = False
) -> tuple[float, dict[int, int], list[str]]:
    """Sends each connection's requests; gives the seconds from the first byte to the last answer, the statuses, and
    if asked for the bodies, connection by connection."""
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    ends = []
    for requests in work:
        done = loop.create_future()
        _, one = await loop.create_connection(lambda r=requests, d=done: Connection(r, d, keep=keep), host, port)  # type: ignore[misc]
        connections.append(one)
        ends.append(done)
    awake = True

    def stay_awake() -> None:
        if awake:
            loop.call_soon(stay_awake)

    stay_awake()  # else each answer has its server wake this process first: 15 µs here, and the more the slower it is
    began = time.perf_counter()
    for one in connections:
        one.go()
    await asyncio.gather(*ends)
    awake = False
    took = time.perf_counter() - began
    statuses: dict[int, int] = {}
    for one in connections:
        for status, count in one.statuses.items():
            statuses[status] = statuses.get(status, 0) + count
    return took, statuses, [body for one in connections for body in one.bodies]


def main() -> None:
    """Reads JSON: port, work (per connection a list of requests, as text), keep; writes what `run` found to the file
    that is its argument."""
    import uvloop

    asked = json.load(sys.stdin)
    work = [[one.encode("latin-1") for one in requests] for requests in asked["work"]]
    took, statuses, bodies = uvloop.run(run("127.0.0.1", asked["port"], work, keep=asked["keep"]))
    Path(sys.argv[1]).write_text(json.dumps({"seconds": took, "statuses": statuses, "bodies": bodies}))


if __name__ == "__main__":
    main()
