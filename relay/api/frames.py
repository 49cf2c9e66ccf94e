"""What stands before aiohttp's WebSocket parser, and ends connections for what that parser lets through.

A client must mask every frame (RFC 6455 5.1); and a message in endless empty fragments never grows, so never gets too big.
"""

from typing import Any, Final

FRAGMENTS_MAX: Final = 1024  # of one message
_CONTROL: Final = 0x8  # opcodes from here on
_MORE_LENGTH: Final = {126: 2, 127: 8}  # bytes of length after the first two of a frame
_MASK: Final = 4
# The parser is handed one of these in place of a frame that it would take; it then ends the connection by its own means.
_BROKEN: Final = b"\x83\x80"  # of an opcode that there is not: 1002
_TOO_BIG: Final = b"\x80\xff" + b"\x7f" * 8  # goes on with the message, for ever: 1009


class Frames:
    """Follows the heads of frames as bytes come in, and hands the bytes on. Takes the place of `parser`."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._head = bytearray()  # of the frame that has begun
        self._payload_left = 0
        self._fragments = 0
        self._ended = False

    def feed_eof(self) -> None:
        self._parser.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """As the parser's own: whether the connection is at its end, and what was left over."""
        if self._ended:
            return True, b""
        if len(self._head) == 1:  # was held back, so that a frame is judged before any of it is handed on
            data = bytes(self._head) + data
            self._head.clear()
        at, size = 0, len(data)
        while at < size:
            if self._payload_left:
                step = min(self._payload_left, size - at)
                self._payload_left -= step
                at += step
                continue
            begin = at
            step = min(self._head_size() - len(self._head), size - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == 1:
                return self._hand_on(data[:begin])
            if len(self._head) == 2 and (instead := self._judge()) is not None:
                self._ended = True
                return self._hand_on(data[:begin] + instead)
            if len(self._head) > 2 and len(self._head) == self._head_size():
                length = self._head[1] & 0x7F
                self._payload_left = int.from_bytes(self._head[2:-_MASK]) if length in _MORE_LENGTH else length
                self._head.clear()
        return self._hand_on(data)

    def _hand_on(self, data: bytes) -> tuple[bool, bytes]:
        ended, rest = self._parser.feed_data(data)
        return bool(ended), bytes(rest)

    def _head_size(self) -> int:
        if len(self._head) < 2:
            return 2
        return 2 + _MORE_LENGTH.get(self._head[1] & 0x7F, 0) + _MASK

    def _judge(self) -> bytes | None:
        """What to hand on instead of the frame, by its first two bytes; None if it may pass."""
        first, second = self._head
        if not second & 0x80:
            return _BROKEN
        if first & 0x0F < _CONTROL:
            self._fragments = 0 if first & 0x80 else self._fragments + 1
            if self._fragments > FRAGMENTS_MAX:
                return _TOO_BIG
        return None
