"""JSON from strangers: strict, bounded, and quick for the small documents that are nearly all of them (safety SEC-14).

The standard library's C scanner reads it, with hooks that see every object and every number. What hooks see too late,
nesting and size, is bounded beforehand by counting bytes; only a document that might be too complex is looked at
closely, and that in time linear in its length whatever it holds.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import isfinite
from typing import Any, Never

from relay.errors import Malformed

SAFE_INTEGER = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How complex a document may be."""

    depth: int = 16
    keys: int = 256  # of one object
    nodes: int = 20_000  # values, containers among them
    number_chars: int = 32


LIMITS = Limits()

_SPACE = " \t\n\r"
_STEPS = {0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}
_NOT_BRACKETS = bytes(set(range(256)) - set(_STEPS))
_UNSPEAKABLE = re.compile("[\x00\ud800-\udfff]")


def parse(body: bytes, *, limits: Limits = LIMITS) -> Any:
    """The one JSON value in `body`.

    Raises Malformed: json_not_utf8, json_invalid, json_duplicate_key, json_too_complex, number_out_of_range.
    """
    if b"\x00" in body and _is_wide(body):
        raise _not_utf8("it looks like UTF-16 or UTF-32")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(f"the first byte that is not stands at {error.start}") from None
    if text[:1] == "\ufeff":
        raise _not_utf8("it begins with a byte order mark")
    opens = body.count(b"{") + body.count(b"[")
    # Brackets and commas inside strings count here too, so this errs on the side of a closer look.
    if opens > limits.depth or opens + body.count(b",") >= limits.nodes:
        _look_closely(body, limits)
    text = text.strip(_SPACE)
    if not text:
        raise Malformed("The body is empty; JSON is due here.")
    try:
        value, end = (_read if limits is LIMITS else _reader(limits))(text)
    except _Found as found:
        raise Malformed(found.detail, code=found.code) from None
    except json.JSONDecodeError as error:
        raise Malformed(
            f"The body is not JSON: {error.msg[:80]} near line {error.lineno}, column {error.colno}."
        ) from None
    if end != len(text):
        raise Malformed("The body holds more than one JSON value.")
    if b"\\u" in body:
        _check_escaped(value)
    return value


def parse_lines(body: bytes, *, limits: Limits = LIMITS) -> list[Any]:
    """The values of an NDJSON document, one a line; blank lines count for nothing. Raises as `parse`, with the line."""
    lines = body.split(b"\n")
    if len(lines) > limits.nodes:
        raise _too_many(limits)
    values = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values.append(parse(line, limits=limits))
        except Malformed as problem:
            raise Malformed(f"Line {number}: {problem.detail}", code=problem.code) from None
    return values


def _not_utf8(why: str) -> Malformed:
    return Malformed(f"The body must be UTF-8 without a byte order mark; {why}.", code="json_not_utf8")


def _is_wide(body: bytes) -> bool:
    """Whether it is text in units of two or four bytes. JSON begins with an ASCII character, and rarely has one alone."""
    if body[:1] == b"\x00" or body[1:4] == b"\x00\x00\x00":
        return True
    return body[1:2] == b"\x00" and (len(body) == 2 or body[3:4] == b"\x00")


class _Found(Exception):  # noqa: N818 - what a hook found; not a ValueError, as the scanner's own are something else
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def _look_closely(body: bytes, limits: Limits) -> None:
    """Exact depth and size of a well-formed document; of another, enough for the scanner to refuse it safely."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * limits.nodes:  # a value has at most two strings: itself and its key
        raise _too_many(limits)
    # What stands outside of strings is every other piece between quotes. Splitting is linear even if a quote is missing,
    # where a pattern for strings would begin anew at each quote, and right up to the first place that is not JSON.
    bare = b'"'.join(body.split(b'"')[::2]).translate(None, b" \t\n\r")
    opens = bare.count(b"{") + bare.count(b"[")
    empty = bare.count(b"{}") + bare.count(b"[]")
    # Each container but an empty one holds one value more than it has commas; and then there is the outermost value.
    if 1 + opens - empty + bare.count(b",") > limits.nodes:
        raise _too_many(limits)
    steps = map(_STEPS.__getitem__, bare.translate(None, _NOT_BRACKETS))
    if max(accumulate(steps), default=0) > limits.depth:
        raise Malformed(f"JSON may be nested {limits.depth} deep; this is deeper.", code="json_too_complex")


def _too_many(limits: Limits) -> Malformed:
    return Malformed(f"JSON may hold {limits.nodes} values; this has more.", code="json_too_complex")


@cache
def _reader(limits: Limits) -> Callable[[str], tuple[Any, int]]:
    """What reads one value from the start of a text and says where it ended."""
    keys_max, chars_max = limits.keys, limits.number_chars

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(pairs) > keys_max:
            raise _Found("json_too_complex", f"An object may have {keys_max} keys; one here has more.")
        if len(value) != len(pairs):
            raise _Found("json_duplicate_key", "An object names a key twice; each must stand once.")
        return value

    def as_integer(text: str) -> int:
        if len(text) > chars_max or not -SAFE_INTEGER <= (value := int(text)) <= SAFE_INTEGER:
            raise _Found("number_out_of_range", "A whole number must lie within ±9007199254740991 (2^53 - 1).")
        return value

    def as_float(text: str) -> float:
        if len(text) > chars_max or not isfinite(value := float(text)):
            raise _Found(
                "number_out_of_range", f"A number must be finite and written in {chars_max} characters or less."
            )
        return value

    def as_constant(text: str) -> Never:
        raise _Found("json_invalid", f"{text} is not JSON.")

    return json.JSONDecoder(
        object_pairs_hook=as_object, parse_int=as_integer, parse_float=as_float, parse_constant=as_constant
    ).raw_decode


_read = _reader(LIMITS)


def _check_escaped(value: Any) -> None:
    """Escapes can spell what UTF-8 can't: half a surrogate pair; and U+0000, at which stores and C code cut."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if _UNSPEAKABLE.search(one):
                raise Malformed("A string or key holds U+0000 or half of a surrogate pair.")
        elif isinstance(one, dict):
            waiting += one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
