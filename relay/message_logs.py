"""Hourly message logs: what an app accepted in an hour and what happened in it, as gzip NDJSON (protocol §13).

A log is made from the rows when it is first asked for, once its hour is closed, and kept as a file from then on. Its last
line has the number and the SHA-256 of the lines before it, so that a download can be checked.

A file bears the time at which it was made, by the clock that says which hours are closed. One of a time that is still to
come was made while that clock stood ahead, perhaps before its hour was over: it is made anew.
"""

import asyncio
import gzip
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from relay.clock import Clock, rfc3339
from relay.errors import Conflict, Missing
from relay.inbox.history import message_json
from relay.store import history as rows
from relay.store.engine import Conn, Engine
from relay.store.history import Place

HOUR_MS = 3_600_000
# No statement takes so long, so no older transaction is still open; and by less than that a clock that stands ahead does no harm.
CLOSED_AFTER_MS = 900_000
CHUNK = 500
HALF = ".part"
FANOUTS_MAX = 1000
_encode = msgspec.json.Encoder().encode


def hour_text(start_ms: int) -> str:
    """`2026-05-03T09`, in UTC."""
    return rfc3339(start_ms)[:13]


def start_of(text: str) -> int | None:
    """When this hour began; None if it is none."""
    try:
        at = datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(at.timestamp() * 1000) if hour_text(int(at.timestamp() * 1000)) == text else None


@dataclass(frozen=True, slots=True)
class Hour:
    """One whose log can be had. `empty`: nothing was accepted in it, and nothing happened."""

    name: str
    empty: bool


class MessageLogs:
    """The logs of all apps on this node. Other nodes make the same from the same rows."""

    def __init__(self, engine: Engine, clock: Clock, folder: Path, *, keep_ms: int) -> None:
        self._engine = engine
        self._clock = clock
        self._folder = folder
        self._keep_ms = keep_ms
        self._making = asyncio.Lock()  # one at a time: they are large, and nobody hurries

    async def hours(self, app_id: str) -> list[Hour]:
        """Those whose log can be had, the newest first."""
        now_ms = self._clock.now_ms()
        newest_ms = (now_ms - CLOSED_AFTER_MS) // HOUR_MS * HOUR_MS - HOUR_MS
        starts = range(newest_ms, now_ms - self._keep_ms - HOUR_MS, -HOUR_MS)
        in_use = await self._engine.read(
            lambda conn, _: rows.spans_in_use(
                conn, app_id, since_ms=starts[-1], end_ms=newest_ms + HOUR_MS, span_ms=HOUR_MS
            )
        )
        kept = await asyncio.to_thread(lambda: {path.name for path in self._folder_of(app_id).glob("*")})
        names = {start_ms: hour_text(start_ms) for start_ms in starts}
        return [Hour(name, empty=start_ms not in in_use and name not in kept) for start_ms, name in names.items()]

    async def log(self, app_id: str, hour: str) -> Path:
        """The file of one hour. Raises Missing, Conflict where the hour is not closed yet."""
        start_ms = start_of(hour)
        now_ms = self._clock.now_ms()
        if start_ms is None or start_ms + HOUR_MS <= now_ms - self._keep_ms:
            raise Missing("Nothing is kept of this hour; ask for the list of hours.")
        if start_ms + HOUR_MS + CLOSED_AFTER_MS > now_ms:
            raise Conflict("This hour is not closed yet; its log can be had a quarter of an hour after its end.")
        path = self._folder_of(app_id) / hour
        async with self._making:
            if not path.exists() or _made_ms(path) > now_ms:
                await self._make(path, app_id, start_ms, now_ms)
        return path

    def _folder_of(self, app_id: str) -> Path:
        return self._folder / hashlib.sha256(app_id.encode()).hexdigest()[:32]

    async def _make(self, path: Path, app_id: str, start_ms: int, now_ms: int) -> None:
        half = path.with_suffix(HALF)
        path.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as out:
                async for lines in self._lines(app_id, start_ms):
                    await asyncio.to_thread(out.write, lines)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        os.utime(half, ns=(now_ms * 1_000_000, now_ms * 1_000_000))
        half.replace(path)

    async def _lines(self, app_id: str, start_ms: int) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        counts, ends = {"messages": 0, "events": 0}, {"first": None, "last": None}
        for kind, read, line, place_of in (
            ("messages", rows.messages_of, _message_line, lambda row: Place(row.accepted_ms, row.message_id)),
            ("events", rows.events_of, _event_line, lambda row: Place(row.created_ms, row.event_id)),
        ):
            async for found in self._walk(read, place_of, app_id, start_ms):
                text = await asyncio.to_thread(_text, found, line)  # as large as the messages are
                digest.update(text)
                counts[kind] += len(found)
                if kind == "messages":
                    ends = {"first": ends["first"] or found[0].message_id, "last": found[-1].message_id}
                yield text
        end_ms = start_ms + HOUR_MS
        fanouts = await self._engine.read(
            lambda conn, _: rows.open_fanouts(conn, app_id, end_ms=end_ms, limit=FANOUTS_MAX)
        )
        trailer = {"hour": hour_text(start_ms), **counts, **ends, "fanouts": fanouts, "sha256": digest.hexdigest()}
        yield _encode({"trailer": trailer}) + b"\n"

    async def _walk(
        self, read: Callable[..., Sequence[Any]], place_of: Callable[[Any], Place], app_id: str, start_ms: int
    ) -> AsyncIterator[Sequence[Any]]:
        def chunk(after: Place, conn: Conn, _: int) -> Sequence[Any]:
            return read(conn, app_id, after=after, end_ms=start_ms + HOUR_MS, limit=CHUNK)

        place = Place(start_ms, "")
        while found := await self._engine.read(partial(chunk, place)):
            yield found
            place = place_of(found[-1])

    async def prune(self) -> None:
        """Removes files that are kept no longer, and those of a time to come: asked more often than an hour takes to be closed,
        it finds them all."""
        await asyncio.to_thread(self._prune, self._clock.now_ms())

    def _prune(self, now_ms: int) -> None:
        for path in self._folder.glob("*/*"):
            start_ms = start_of(path.stem)
            over = start_ms is None or start_ms + HOUR_MS <= now_ms - self._keep_ms
            if over or (path.suffix != HALF and _made_ms(path) > now_ms):  # a half one bears the time of the machine
                path.unlink(missing_ok=True)


def _made_ms(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _text(rows_: Sequence[Any], line: Callable[[Any], dict[str, Any]]) -> bytes:
    return b"".join(_encode(line(row)) + b"\n" for row in rows_)


def _message_line(row: Any) -> dict[str, Any]:
    recipients = [
        {"user": user, "seq": seq} if refusal is None else {"user": user, "code": refusal}
        for user, seq, refusal in msgspec.json.decode(row.recipients)
    ]
    return {"kind": "message", **message_json(row), "recipients": recipients}


def _event_line(row: Any) -> dict[str, Any]:
    return {
        "kind": "event",
        "id": row.event_id,
        "type": row.type,
        "at": rfc3339(row.created_ms),
        "data": msgspec.Raw(row.data.encode()),
    }
