"""JSON from strangers: strict, bounded, and quick for the small documents that are nearly all of them (safety SEC-14).

The standard library's scanner reads it, with hooks that see every object and number. What the hooks can't see, nesting
and size, is bounded beforehand by counting bytes; only a document that might be too complex is scanned character by
character.
"""

import json
import re
from math import isfinite
from typing import Any, Never

from relay.errors import Malformed

DEPTH_MAX = 16
KEYS_MAX = 256
NODES_MAX = 20_000
NUMBER_MAX = 32  # characters
SAFE_INTEGER = 2**53 - 1

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(data: bytes) -> Any:
    """The one JSON value in `data`.

    Raises Malformed: json_not_utf8, json_invalid, json_duplicate_key, json_too_complex, number_out_of_range.
    """
    if data[:3] == b"\xef\xbb\xbf":
        raise Malformed("The body begins with a byte order mark; send plain UTF-8.", code="json_not_utf8")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.", code="json_not_utf8") from None
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or b"\x00" in data[:4]:
        raise Malformed("The body is not UTF-8.", code="json_not_utf8")
    _bound(data)
    try:
        value = _decode(text)
    except _Stop as stop:
        raise Malformed(stop.detail, code=stop.code) from None
    except (ValueError, RecursionError):
        raise Malformed("The body is not one valid JSON value.") from None
    if b"\\u" in data:
        _check_escapes(value)
    return value


class _Stop(ValueError):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def _bound(data: bytes) -> None:
    """Nesting and size. The counts are upper limits (brackets in strings count too), so they settle most documents."""
    opens = data.count(b"{") + data.count(b"[")
    if opens <= DEPTH_MAX and opens + data.count(b",") < KEYS_MAX:
        return
    depth = nodes = 0
    for match in _STRUCTURE.finditer(data):
        match match.group()[0]:
            case 0x7B | 0x5B:
                depth += 1
                nodes += 1
                if depth > DEPTH_MAX:
                    raise Malformed(f"JSON may be nested {DEPTH_MAX} deep.", code="json_too_complex")
            case 0x7D | 0x5D:
                depth -= 1
            case 0x2C:
                nodes += 1
        if nodes > NODES_MAX:
            raise Malformed(f"JSON may hold {NODES_MAX} values.", code="json_too_complex")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > KEYS_MAX:
        raise _Stop("json_too_complex", f"An object may have {KEYS_MAX} keys.")
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Stop("json_duplicate_key", "An object names a key twice.")
    return value


def _integer(text: str) -> int:
    if len(text) > NUMBER_MAX or not -SAFE_INTEGER <= (value := int(text)) <= SAFE_INTEGER:
        raise _Stop("number_out_of_range", "Whole numbers lie within ±(2^53 - 1).")
    return value


def _float(text: str) -> float:
    if len(text) > NUMBER_MAX or not isfinite(value := float(text)):
        raise _Stop("number_out_of_range", f"Numbers are finite and have at most {NUMBER_MAX} characters.")
    return value


def _constant(text: str) -> Never:
    raise _Stop("json_invalid", f"{text} is not JSON.")


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
).decode


def _check_escapes(value: Any) -> None:
    """Escapes can spell what UTF-8 can't: lone surrogates, and U+0000 that stores cut at."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            if "\x00" in one or _SURROGATE.search(one):
                raise Malformed("A string holds U+0000 or half of a surrogate pair.")
        elif isinstance(one, dict):
            stack.extend(one)
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
