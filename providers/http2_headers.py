"""A request's header fields, and how they are written (RFC 7541). Pure."""

from collections.abc import Iterable
from typing import Any

from hpack import Encoder

from providers.http import Request

__all__ = ["Head", "PlainEncoder", "head_of"]

Head = list[tuple[bytes, bytes]]


def head_of(request: Request, *, authority: str, scheme: str, path: str, user_agent: str) -> Head:
    """A request's header fields."""
    head = [
        (b":method", request.method.encode()),
        (b":scheme", scheme.encode()),
        (b":authority", authority.encode()),
        (b":path", path.encode()),
    ]
    given = {name.lower(): value for name, value in request.headers.items()}
    given.pop("host", None)
    given.setdefault("user-agent", user_agent)
    if request.body:
        given["content-length"] = str(len(request.body))
    head += [(name.encode(), value.encode()) for name, value in given.items()]
    return head


class PlainEncoder(Encoder):
    """HPACK (RFC 7541) without its table and without Huffman's code: every field but the commonest as a literal, 6.2.3.

    Apple asks that paths and tokens stay out of its small table (sheet §3). And the library's own way is a third of what
    a push costs here.
    """

    def encode(self, headers: Iterable[Any], huffman: bool = False) -> bytes:
        del huffman
        block = bytearray(super().encode(()))  # tells a change of the table's size, when the server has asked for one
        for name, value in headers:
            index = _STATIC.get((name, value))
            if index is not None:
                block.append(0x80 | index)
            else:
                block += b"\x10" + _counted(name) + _counted(value)
        return bytes(block)


_STATIC = {(b":method", b"GET"): 2, (b":method", b"POST"): 3, (b":scheme", b"http"): 6, (b":scheme", b"https"): 7}


def _counted(text: bytes) -> bytes:
    """A string literal, 5.2."""
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    prefix, size = bytearray((0x7F,)), size - 0x7F
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + text
