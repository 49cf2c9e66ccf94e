"""Huffman's code of header fields, read a byte at a time (RFC 7541, 5.2 and appendix B).

The library reads half a byte at a time: for an answer of APNs, whose ids are always new, that was a seventh of what our
adapter costs for a push. The table is the library's.
"""

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

__all__ = ["plain"]


class _State(dict[int, "tuple[_State, int, bytes]"]):
    """One of the table's 256. By the next byte, of those that were met: the state after it, whether a text may end there,
    and the characters that are whole by then."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __missing__(self, byte: int) -> "tuple[_State, int, bytes]":
        """Raises ValueError for a byte with which no text goes on."""
        number, flags, text = self._number, 0, bytearray()
        for half in (byte >> 4, byte & 0x0F):
            number, flags, character = HUFFMAN_TABLE[number * 16 + half]
            if flags & HUFFMAN_FAIL:
                raise ValueError("not in Huffman's code")
            if flags & HUFFMAN_EMIT_SYMBOL:
                text.append(character)
        self[byte] = found = _STATES[number], flags & HUFFMAN_COMPLETE, bytes(text)
        return found


_STATES = [_State(number) for number in range(256)]


def plain(coded: bytes) -> bytes:
    """The text. Raises ValueError for what is none, or was cut short."""
    state, whole, text = _STATES[0], 1, bytearray()
    for byte in coded:
        state, whole, characters = state[byte]
        text += characters
    if not whole:
        raise ValueError("cut short")
    return bytes(text)
