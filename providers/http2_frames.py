"""What h2 must not see of a server's bytes: GOAWAY, after which it refuses the answers that are still to come. Pure."""

from dataclasses import dataclass

__all__ = ["FramesBroken", "Goaway", "GoawayFilter"]

GOAWAY = 0x07
HEAD_BYTES = 9
GOAWAY_BYTES = (8, 16_384)  # of its payload; more than the second no server may send unasked (RFC 9113, 4.2)


@dataclass(frozen=True, slots=True)
class Goaway:
    """RFC 9113, 6.8. Streams above `last_stream_id` were not and will not be processed."""

    last_stream_id: int
    error_code: int
    debug: bytes


class FramesBroken(Exception):  # noqa: N818
    """These bytes are not HTTP/2."""


class GoawayFilter:
    """Parts one connection's bytes, in their order, into what h2 may have and the GOAWAY frames among them."""

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a frame's head, or of a GOAWAY
        self._through = 0  # bytes still to come of a frame that passes

    def feed(self, data: bytes) -> list[bytes | Goaway]:
        """Raises FramesBroken for a GOAWAY that cannot be one."""
        data = self._rest + data if self._rest else data
        parts: list[bytes | Goaway] = []
        size = len(data)
        start = 0
        at = min(self._through, size)
        self._through -= at
        while size - at >= HEAD_BYTES:
            length = int.from_bytes(data[at : at + 3])
            end = at + HEAD_BYTES + length
            if data[at + 3] != GOAWAY:
                self._through = max(0, end - size)
                at = min(end, size)
                continue
            if not GOAWAY_BYTES[0] <= length <= GOAWAY_BYTES[1]:
                raise FramesBroken
            if end > size:
                break
            if at > start:
                parts.append(data[start:at])
            parts.append(_goaway(data[at + HEAD_BYTES : end]))
            start = at = end
        if at > start:
            parts.append(data[start:at])
        self._rest = data[at:]
        return parts


def _goaway(payload: bytes) -> Goaway:
    last_stream_id = int.from_bytes(payload[:4]) & 0x7FFF_FFFF
    return Goaway(last_stream_id, int.from_bytes(payload[4:8]), payload[8:])
