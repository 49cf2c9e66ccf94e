"""A request's header fields, and how fields are written and read (RFC 7541)."""

from functools import lru_cache

from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from providers.http import Request
from providers.http2_huffman import plain

__all__ = ["NO_TABLE", "Head", "HeadReader", "HeadUnreadable", "block_of"]

Head = list[tuple[bytes, bytes]]

_METHODS, _SCHEMES = {"GET": 2, "POST": 3}, {"http": 6, "https": 7}  # by their places in the static table
_STATIC = HeaderTable.STATIC_TABLE
NO_TABLE = b"\x20"  # a table of no bytes, 6.3
_COUNT_MAX = 0x7F  # from here on a string's length takes more than a byte


def block_of(request: Request, *, authority: str, scheme: str, path: str, user_agent: str) -> bytes:
    """A request's header fields as they are written: without the table and Huffman's code, every field but the commonest a
    literal, 6.2.3. Apple asks that paths and tokens stay out of its small table (sheet §3)."""
    given = {name.lower(): value for name, value in request.headers.items()}
    given.pop("host", None)
    given.setdefault("user-agent", user_agent)
    if request.body:
        given["content-length"] = str(len(request.body))
    block = bytearray(_begun(request.method, scheme, authority))
    for name, value in ((":path", path), *given.items()):
        text = value.encode()
        block += _named(name)
        if len(text) < _COUNT_MAX:
            block.append(len(text))
            block += text
        else:
            block += _counted(text)
    return bytes(block)


@lru_cache(maxsize=256)
def _begun(method: str, scheme: str, authority: str) -> bytes:
    """What all requests of a kind to one place begin with."""
    known = _METHODS.get(method)
    first = _named(":method") + _counted(method.encode()) if known is None else bytes((0x80 | known,))
    return first + bytes((0x80 | _SCHEMES[scheme],)) + _named(":authority") + _counted(authority.encode())


@lru_cache(maxsize=256)
def _named(name: str) -> bytes:
    return b"\x10" + _counted(name.encode())


def _counted(text: bytes) -> bytes:
    """A string literal, 5.2."""
    size = len(text)
    if size < _COUNT_MAX:
        return bytes((size,)) + text
    prefix, size = bytearray((_COUNT_MAX,)), size - _COUNT_MAX
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + text


class HeadUnreadable(ValueError):  # noqa: N818
    """These bytes are no header fields, or too many."""


class HeadReader:
    """Reads one connection's blocks of fields.

    A peer that was told to keep no table writes fields that stand for themselves, and repeats most of them in every
    answer: those are read here. A block that speaks of the table goes to the library, which keeps one.
    """

    def __init__(self, *, list_bytes_max: int) -> None:
        self._decoder = Decoder(max_header_list_size=list_bytes_max)
        self._bytes_max = list_bytes_max

    def read(self, block: bytes) -> Head:
        """The fields, names in whatever case they came in. Raises HeadUnreadable."""
        try:
            fields = _without_table(block, kept=self._decoder.header_table_size > 0)
            if fields is None:
                return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError):
            raise HeadUnreadable from None
        if sum(len(name) + len(value) + 32 for name, value in fields) > self._bytes_max:
            raise HeadUnreadable
        return fields


def _without_table(block: bytes, *, kept: bool) -> Head | None:
    """The fields, if none of them has to do with the dynamic table; else None. Raises IndexError for a block cut short.

    Not `kept`: the table has no room for anything, so what is said to be kept (6.2.1) stands for itself as well (4.4).
    """
    fields: Head = []
    at, size = 0, len(block)
    while at < size:
        first = block[at]
        if first & 0x80:  # indexed, 6.1
            index = first & 0x7F
            if not 0 < index <= len(_STATIC):
                return None
            at += 1
            name, value = _STATIC[index - 1]
        elif first & 0x60 == 0x20 or (first & 0x40 and kept):  # about the table's size (6.3), or to be kept
            return None
        else:  # a literal
            index, at = _number(block, at, 0x3F if first & 0x40 else 0x0F)
            if index > len(_STATIC):
                return None
            if index:
                name = _STATIC[index - 1][0]
            else:
                name, at = _string(block, at)
            value, at = _string(block, at)
        fields.append((name, value))
    return fields


def _number(block: bytes, at: int, most: int) -> tuple[int, int]:
    """5.1: a number whose first byte has room up to `most`; and where it ends."""
    number = block[at] & most
    at += 1
    if number < most:
        return number, at
    for shift in range(0, 28, 7):
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if not byte & 0x80:
            return number, at
    raise HeadUnreadable


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """5.2"""
    coded = block[at] & 0x80
    size, at = _number(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise HeadUnreadable
    text = block[at:end]
    return (plain(text) if coded else text), end
