"""The frames of one HTTP/2 connection as a client writes and reads them (RFC 9113), without I/O.

By hand because of two things: h2 takes no answer after a GOAWAY, though those below its last stream are still to come; and
it costs more for each push than everything else about that push together. Strict where leniency would cost an answer or
memory; what a peer does to its own loss alone is let pass.
"""

from collections.abc import Iterator
from typing import NamedTuple

from providers.http2_headers import NO_TABLE, Head, HeadReader, HeadUnreadable

__all__ = [
    "Answered",
    "Carried",
    "Changed",
    "Frames",
    "FramesBroken",
    "Goaway",
    "Kind",
    "Pong",
    "Reset",
    "Setting",
    "StreamsUsedUp",
    "Widened",
]

# Plain numbers: an enum's operators cost more than all of a small frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES_MAX = 16_384  # of a payload that we read, as nobody was told otherwise
WINDOW = 65_535  # at the beginning, of a stream and of the connection, either way
OUR_WINDOW = 2**24  # for all answers together, that is; each has the usual one, and is cut off above the caller's limit
WINDOW_MAX = STREAM_ID_MAX = 2**31 - 1
BLOCK_BYTES_MAX = 65_536  # of an answer's header fields, as they are written
REFUSED_STREAM, CANCEL = 0x7, 0x8


class Kind:
    """Types of frames, 6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


class Flag:
    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting:
    """6.5.2"""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class FramesBroken(Exception):  # noqa: N818
    """These bytes are not HTTP/2, or not of a peer that keeps to it."""


class StreamsUsedUp(Exception):  # noqa: N818
    """This connection has no number left for a further stream."""


class Changed(NamedTuple):
    """The peer's settings are here, or others."""


class Widened(NamedTuple):
    """More of a body may be sent: on one stream, or (0) on all."""

    stream_id: int


class Answered(NamedTuple):
    """Header fields of an answer: its head, or what comes after its body."""

    stream_id: int
    fields: Head
    ended: bool


class Carried(NamedTuple):
    """A part of an answer's body."""

    stream_id: int
    data: bytes
    ended: bool


class Reset(NamedTuple):
    stream_id: int
    code: int


class Pong(NamedTuple):
    data: bytes


class Goaway(NamedTuple):
    """RFC 9113, 6.8. Streams above `last_stream_id` were not and will not be processed."""

    last_stream_id: int
    code: int
    debug: bytes


Event = Changed | Widened | Answered | Carried | Reset | Pong | Goaway


class Frames:
    """One connection's state. `take` gives what is to be written."""

    def __init__(self, *, header_list_bytes_max: int) -> None:
        self.peer_streams_max = STREAM_ID_MAX  # what the peer allows: without a word, any number
        self.peer_window = WINDOW  # of a new stream
        self.peer_frame_max = FRAME_BYTES_MAX
        self.window = WINDOW  # left of the connection's, for bodies of ours
        self._windows: dict[int, int] = {}  # left of those streams' whose body is not all sent
        self._read = 0  # of our window for all answers, since it was last given back
        self._read_of: dict[int, int] = {}  # likewise of a stream
        self._next_id = 1
        self._open: set[int] = set()  # streams whose answer has not ended
        self._greeted = False  # the peer's first frame was here
        self._tell_table = True  # say once more that our fields enter no table
        self._reader = HeadReader(list_bytes_max=header_list_bytes_max)
        self._rest = b""  # of a frame that has not come whole
        self._block: tuple[int, bool, bytearray] | None = None  # fields that go on in the next frame
        self._out = bytearray(PREFACE)
        ours = {
            Setting.HEADER_TABLE_SIZE: 0,  # so each answer's fields stand for themselves, and cost little to read
            Setting.ENABLE_PUSH: 0,
            Setting.MAX_HEADER_LIST_SIZE: header_list_bytes_max,
        }
        self._write(Kind.SETTINGS, 0, 0, b"".join(k.to_bytes(2) + v.to_bytes(4) for k, v in ours.items()))
        self._write(Kind.WINDOW_UPDATE, 0, 0, (OUR_WINDOW - WINDOW).to_bytes(4))

    # What goes out.

    def take(self) -> bytes:
        """What is to be written now."""
        out, self._out = bytes(self._out), bytearray()
        return out

    def request(self, block: bytes, *, with_body: bool) -> int:
        """Begins a request with these header fields, as they are written; gives its stream's number. Raises StreamsUsedUp."""
        if self._next_id > STREAM_ID_MAX:
            raise StreamsUsedUp
        stream_id, self._next_id = self._next_id, self._next_id + 2
        if self._tell_table:
            block, self._tell_table = NO_TABLE + block, False
        flags = 0 if with_body else Flag.END_STREAM
        size, kind = self.peer_frame_max, Kind.HEADERS
        while len(block) > size:
            self._write(kind, flags, stream_id, block[:size])
            block, kind, flags = block[size:], Kind.CONTINUATION, 0
        self._write(kind, flags | Flag.END_HEADERS, stream_id, block)
        self._open.add(stream_id)
        if with_body:
            self._windows[stream_id] = self.peer_window
        return stream_id

    def room(self, stream_id: int) -> int:
        """Bytes of the stream's body that may go now."""
        return min(self.window, self._windows.get(stream_id, 0))

    def upload(self, stream_id: int, data: bytes, *, ended: bool) -> None:
        """Sends a part of a body, no more than there is room for."""
        self.window -= len(data)
        self._windows[stream_id] -= len(data)
        for at in range(0, len(data), self.peer_frame_max):
            part = data[at : at + self.peer_frame_max]
            last = ended and at + len(part) == len(data)
            self._write(Kind.DATA, Flag.END_STREAM if last else 0, stream_id, part)
        if ended:
            del self._windows[stream_id]

    def reset(self, stream_id: int) -> None:
        """Nobody wants the answer any more."""
        self._ended(stream_id)
        self._windows.pop(stream_id, None)
        self._write(Kind.RST_STREAM, 0, stream_id, CANCEL.to_bytes(4))

    def ping(self, data: bytes) -> None:
        self._write(Kind.PING, 0, 0, data)

    def goodbye(self) -> None:
        self._write(Kind.GOAWAY, 0, 0, bytes(8))

    def _write(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self._out += len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload

    # What comes in.

    def receive(self, data: bytes) -> Iterator[Event]:
        """What the peer says, one after the other. Raises FramesBroken; then nothing more is to be read."""
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        while size - at >= 9:
            length = int.from_bytes(data[at : at + 3])
            if length > FRAME_BYTES_MAX:
                raise FramesBroken
            end = at + 9 + length
            kind, flags = data[at + 3], data[at + 4]
            if not self._greeted and (kind != Kind.SETTINGS or flags & Flag.ACK):
                raise FramesBroken
            if end > size:
                break
            stream_id = int.from_bytes(data[at + 5 : at + 9]) & STREAM_ID_MAX
            at = end
            event = self._frame(kind, flags, stream_id, data[end - length : end])
            if event is not None:
                yield event
        self._rest = data[at:]

    def _frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if self._block is not None and (kind != Kind.CONTINUATION or stream_id != self._block[0]):
            raise FramesBroken
        match kind:
            case Kind.DATA:
                return self._data(flags, stream_id, payload)
            case Kind.HEADERS:
                self._opened(stream_id)
                payload = _unpadded(flags, payload)
                payload = payload[5:] if flags & Flag.PRIORITY else payload
                return self._fields(stream_id, flags, bool(flags & Flag.END_STREAM), bytearray(payload))
            case Kind.CONTINUATION if self._block is not None:
                _, ended, block = self._block
                return self._fields(stream_id, flags, ended, block + payload)
            case Kind.SETTINGS if stream_id == 0:
                return self._settings(flags, payload)
            case Kind.WINDOW_UPDATE if len(payload) == 4:
                return self._widened(stream_id, int.from_bytes(payload) & WINDOW_MAX)
            case Kind.RST_STREAM if len(payload) == 4:
                self._opened(stream_id)
                self._ended(stream_id)
                self._windows.pop(stream_id, None)
                return Reset(stream_id, int.from_bytes(payload))
            case Kind.PING if len(payload) == 8 and stream_id == 0:
                if flags & Flag.ACK:
                    return Pong(payload)
                self._write(Kind.PING, Flag.ACK, 0, payload)
            case Kind.GOAWAY if len(payload) >= 8 and stream_id == 0:
                return Goaway(int.from_bytes(payload[:4]) & STREAM_ID_MAX, int.from_bytes(payload[4:8]), payload[8:])
            case _ if kind <= Kind.CONTINUATION and kind != Kind.PRIORITY:
                raise FramesBroken  # a promise that we forbade, or one of the above in the wrong place
        return None  # of an extension (4.1), or of no interest

    def _opened(self, stream_id: int) -> None:
        """Raises FramesBroken for a stream that we have not begun."""
        if stream_id % 2 == 0 or stream_id >= self._next_id:
            raise FramesBroken

    def _ended(self, stream_id: int) -> None:
        self._open.discard(stream_id)
        self._read_of.pop(stream_id, None)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        self._opened(stream_id)
        self._read += len(payload)  # with its padding; also of a stream that nobody listens to any more
        if self._read > OUR_WINDOW // 2:
            self._write(Kind.WINDOW_UPDATE, 0, 0, self._read.to_bytes(4))
            self._read = 0
        if stream_id not in self._open:
            return None
        ended = bool(flags & Flag.END_STREAM)
        if ended:
            self._ended(stream_id)
        else:
            read = self._read_of.get(stream_id, 0) + len(payload)
            if read > WINDOW // 2:
                self._write(Kind.WINDOW_UPDATE, 0, stream_id, read.to_bytes(4))
                read = 0
            self._read_of[stream_id] = read
        return Carried(stream_id, _unpadded(flags, payload), ended)

    def _fields(self, stream_id: int, flags: int, ended: bool, block: bytearray) -> Event | None:
        if len(block) > BLOCK_BYTES_MAX:
            raise FramesBroken
        if not flags & Flag.END_HEADERS:
            self._block = stream_id, ended, block
            return None
        self._block = None
        try:
            fields = self._reader.read(bytes(block))  # also of a stream that has ended: the reader's table goes on
        except HeadUnreadable:
            raise FramesBroken from None
        if stream_id not in self._open:
            return None
        if ended:
            self._ended(stream_id)
        return Answered(stream_id, fields, ended)

    def _settings(self, flags: int, payload: bytes) -> Event | None:
        if flags & Flag.ACK:
            if payload:
                raise FramesBroken
            return None
        if len(payload) % 6:
            raise FramesBroken
        self._greeted = True
        for at in range(0, len(payload), 6):
            self._set(int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6]))
        self._write(Kind.SETTINGS, Flag.ACK, 0, b"")
        return Changed()

    def _set(self, name: int, value: int) -> None:
        match name:
            case Setting.HEADER_TABLE_SIZE:
                self._tell_table = True
            case Setting.MAX_CONCURRENT_STREAMS:
                self.peer_streams_max = value
            case Setting.INITIAL_WINDOW_SIZE if value <= WINDOW_MAX:
                for stream_id in self._windows:
                    self._windows[stream_id] += value - self.peer_window  # may fall below zero (6.9.2)
                self.peer_window = value
            case Setting.MAX_FRAME_SIZE if FRAME_BYTES_MAX <= value < 2**24:
                self.peer_frame_max = value
            case Setting.ENABLE_PUSH if value == 0:
                pass
            case Setting.INITIAL_WINDOW_SIZE | Setting.MAX_FRAME_SIZE | Setting.ENABLE_PUSH:
                raise FramesBroken

    def _widened(self, stream_id: int, by: int) -> Event | None:
        if stream_id == 0:
            self.window += by
            if by == 0 or self.window > WINDOW_MAX:
                raise FramesBroken
            return Widened(0)
        self._opened(stream_id)
        if stream_id not in self._windows:
            return None
        self._windows[stream_id] += by
        if by == 0 or self._windows[stream_id] > WINDOW_MAX:
            raise FramesBroken
        return Widened(stream_id)


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise FramesBroken
    return payload[1 : len(payload) - payload[0]]
