"""Building blocks for a vendor's JSON schema: each check takes a value and its path, and notes what is wrong with it.

Written by hand because it stands in the hot path: a check is a closure, a whole message takes a few microseconds.
The rules of the protobuf JSON mapping hold: names in snake_case or lowerCamelCase, null means absent.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

Json = dict[str, object]
SHOWN_CHARS_MAX = 100  # of a wrong value, in its complaint


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with which field. `parsed` tells a wrong meaning from JSON that does not fit the types at all."""

    field: str
    description: str
    parsed: bool = False


Complaints = list[Violation]
Check = Callable[[object, str, Complaints], object]  # gives the value in its canonical form
ObjectCheck = Callable[[object, str, Complaints], Json]

_DURATION = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?s", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def read_json(text: bytes | str) -> Any:
    """What it says. None for what is no JSON, or nested too deeply to be read; `null` is nobody's message either."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def seconds(duration: str) -> float | None:
    """`"3.5s"` as 3.5; None when it is not a duration that FCM takes (no sign, at most nine decimals, ends in s)."""
    match = _DURATION.fullmatch(duration)
    return None if match is None else float(f"{match[1]}.{match[2] or 0}")


def wrong_type(path: str, kind: str, value: object) -> Violation:
    """As Google words it: `Invalid value at 'message.data[0].value' (TYPE_STRING), 42`."""
    shown = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, dict | list):
        shown = "Starting an object on a scalar field" if isinstance(value, dict) else "List found on a scalar field"
    return Violation(path, f"Invalid value at '{path}' ({kind}), {shown[:SHOWN_CHARS_MAX]}")


def text(value: object, path: str, wrong: Complaints) -> object:
    if type(value) is str:
        return value
    wrong.append(wrong_type(path, "TYPE_STRING", value))
    return ""


def flag(value: object, path: str, wrong: Complaints) -> object:
    if value is True or value is False:
        return value
    wrong.append(wrong_type(path, "TYPE_BOOL", value))
    return False


def integer(value: object, path: str, wrong: Complaints) -> object:
    """A whole number of 32 bits, not negative."""
    if type(value) is int and 0 <= value < 2**31:
        return value
    wrong.append(wrong_type(path, "TYPE_INT32", value))
    return 0


def fraction(value: object, path: str, wrong: Complaints) -> object:
    """0 to 1."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return value
    wrong.append(wrong_type(path, "TYPE_FLOAT", value))
    return 0.0


def moment(value: object, path: str, wrong: Complaints) -> object:
    """RFC 3339, with its offset."""
    if type(value) is str and _RFC3339.fullmatch(value):
        try:
            datetime.fromisoformat(re.sub(r"\.\d+", "", value.upper()))
        except ValueError:
            pass
        else:
            return value
    wrong.append(wrong_type(path, "type.googleapis.com/google.protobuf.Timestamp", value))
    return ""


def duration(*, seconds_max: float = 315_576_000_000) -> Check:
    def check(value: object, path: str, wrong: Complaints) -> object:
        length_s = seconds(value) if type(value) is str else None
        if length_s is None:
            wrong.append(wrong_type(path, "type.googleapis.com/google.protobuf.Duration", value))
        elif length_s > seconds_max:
            wrong.append(Violation(path, f"Invalid value at '{path}': must be from 0s to {seconds_max:.0f}s", True))
        return value

    return check


def matching(pattern: str, complaint: str) -> Check:
    """A string that `pattern` describes from end to end; `complaint` says so in the vendor's words."""
    matches = re.compile(pattern).fullmatch

    def check(value: object, path: str, wrong: Complaints) -> object:
        if type(value) is not str:
            return text(value, path, wrong)
        if matches(value) is None:
            wrong.append(Violation(path, complaint, True))
        return value

    return check


def one_of(kind: str, *words: str, any_case: bool = False) -> Check:
    """A word of an enum; canonical is the upper-case one."""

    def check(value: object, path: str, wrong: Complaints) -> object:
        word = value.upper() if any_case and type(value) is str else value
        if type(word) is str and word in words:
            return word
        wrong.append(wrong_type(path, f"type.googleapis.com/{kind}", value))
        return words[0]

    return check


def list_of(item_check: Check) -> Check:
    def check(value: object, path: str, wrong: Complaints) -> object:
        if type(value) is not list:
            wrong.append(Violation(path, f"Invalid value at '{path}': a list is needed"))
            return []
        return [item_check(item, f"{path}[{i}]", wrong) for i, item in enumerate(value)]

    return check


def string_map(key_complaint: Callable[[str], str | None] = lambda _key: None) -> ObjectCheck:
    """Strings to strings. `key_complaint` says what is wrong with a key, if anything."""

    def check(value: object, path: str, wrong: Complaints) -> Json:
        if type(value) is not dict:
            wrong.append(Violation(path, f"Invalid value at '{path}': a map of strings is needed"))
            return {}
        for i, (key, item) in enumerate(value.items()):
            if type(item) is not str:
                wrong.append(wrong_type(f"{path}[{i}].value", "TYPE_STRING", item))
            complaint = key_complaint(key)
            if complaint is not None:
                wrong.append(Violation(path, complaint, True))
        return value

    return check


def struct(value: object, path: str, wrong: Complaints) -> Json:
    """A free JSON object."""
    if type(value) is dict:
        return value
    wrong.append(Violation(path, f"Invalid value at '{path}' (type.googleapis.com/google.protobuf.Struct)"))
    return {}


def record(**fields: Check) -> ObjectCheck:
    """An object with these fields and no others; canonical are the snake_case names."""
    known = {name: (name, check) for name, check in fields.items()}
    known |= {_camel(name): entry for name, entry in known.items()}

    def check(value: object, path: str, wrong: Complaints) -> Json:
        if type(value) is not dict:
            wrong.append(Violation(path, f"Invalid value at '{path}': an object is needed"))
            return {}
        canonical: Json = {}
        for given, item in value.items():
            entry = known.get(given)
            if entry is None:
                where = f" at '{path}'" if path else ""
                name = given[:SHOWN_CHARS_MAX]
                sentence = f'Invalid JSON payload received. Unknown name "{name}"{where}: Cannot find field.'
                wrong.append(Violation(path, sentence))
                continue
            if item is None:
                continue
            name, field_check = entry
            if name in canonical:
                wrong.append(Violation(path, f"Invalid JSON payload received. \"{name}\" is given twice at '{path}'."))
            canonical[name] = field_check(item, f"{path}.{name}" if path else name, wrong)
        return canonical

    return check


def _camel(snake: str) -> str:
    first, *rest = snake.split("_")
    return first + "".join(word.capitalize() for word in rest)
