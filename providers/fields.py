"""Overrides in a vendor's own words: a flat or nested schema, what is wrong with what was given, and laying it over. Pure.

RULES = {"notify_id": whole(0, 2**31 - 1), "extra": {"callback": text(128)}}
list(mistakes({"notify_id": -1}, RULES))  # ["notify_id must be a whole number from 0 to 2147483647."]
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

__all__ = [
    "Rule",
    "Rules",
    "companions",
    "duration",
    "flag",
    "is_json",
    "matching",
    "merged",
    "mistakes",
    "moment",
    "object_in",
    "one_of",
    "strings",
    "text",
    "whole",
]

_SECONDS = re.compile(r"[0-9]{1,7}s")
NAME_CHARS_MAX = 64  # of a name that is repeated in a sentence


@dataclass(frozen=True, slots=True)
class Rule:
    """What a field may hold: `must` completes the sentence "X must be …"."""

    holds: Callable[[object], bool]
    must: str


Rules: TypeAlias = "Mapping[str, Rule | Rules]"


def text(chars_max: int, *, chars_min: int = 0, length: Callable[[str], int] = len) -> Rule:
    """`length` counts the characters: code points, if nothing is said."""

    def holds(value: object) -> bool:
        return isinstance(value, str) and chars_min <= length(value) <= chars_max

    return Rule(holds, f"text of {chars_min} to {chars_max} characters")


def matching(pattern: str, must: str) -> Rule:
    """Text that `pattern` describes from end to end."""
    matches = re.compile(pattern).fullmatch
    return Rule(lambda value: isinstance(value, str) and matches(value) is not None, must)


def whole(low: int, high: int) -> Rule:
    def holds(value: object) -> bool:
        return type(value) is int and low <= value <= high

    return Rule(holds, f"a whole number from {low} to {high}")


def duration(low_s: int, high_s: int) -> Rule:
    """A time in whole seconds, as text: `3600s`."""

    def holds(value: object) -> bool:
        return isinstance(value, str) and _SECONDS.fullmatch(value) is not None and low_s <= int(value[:-1]) <= high_s

    return Rule(holds, f'like "3600s", from {low_s}s to {high_s}s')


def moment(form: str, must: str) -> Rule:
    """A time that `form`, a pattern, describes from end to end, and that there is: no 31st of February."""
    matches = re.compile(form, re.ASCII).fullmatch

    def holds(value: object) -> bool:
        if not isinstance(value, str) or matches(value) is None:
            return False
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return False
        return True

    return Rule(holds, must)


def one_of(*allowed: int | str) -> Rule:
    def holds(value: object) -> bool:
        return any(type(value) is type(each) and value == each for each in allowed)

    return Rule(holds, f"one of {', '.join(map(str, allowed))}")


def strings(keys_max: int, chars_max: int, *, length: Callable[[str], int] = len) -> Rule:
    """An object of text: so many keys, and so many characters of keys and values together. `length`: as for `text`."""

    def holds(value: object) -> bool:
        return (
            isinstance(value, Mapping)
            and len(value) <= keys_max
            and all(isinstance(part, str) for pair in value.items() for part in pair)
            and sum(length(key) + length(item) for key, item in value.items()) <= chars_max
        )

    return Rule(holds, f"an object of at most {keys_max} texts, {chars_max} characters with their names")


flag = Rule(lambda value: isinstance(value, bool), "true or false")


def mistakes(
    given: Mapping[str, Any], rules: Rules, *, under: str = "", required: Collection[str] = ()
) -> Iterator[str]:
    """Every mistake in `given`, each a sentence without the value.

    None takes a field away, which is right but for those `required`, named with what they are in: `android.ttl`.
    """
    for name, value in given.items():
        rule = rules.get(name) if isinstance(name, str) else None
        where = f"{under}{str(name)[:NAME_CHARS_MAX]}"
        if rule is None:
            yield f"{where!r} may not be overridden; {', '.join(f'{under}{known}' for known in sorted(rules))} may."
        elif value is None:
            if where in required:
                yield f"{where} may not be taken away: the vendor requires it."
        elif isinstance(rule, Rule):
            if not rule.holds(value):
                yield f"{where} must be {rule.must}."
        elif isinstance(value, Mapping):
            yield from mistakes(value, rule, under=f"{where}.", required=required)
        else:
            yield f"{where} must be an object."


def companions(
    given: Mapping[str, Any], field: str, wanted: Mapping[Any, Sequence[str]], *, under: str = ""
) -> Iterator[str]:
    """A mistake, if `field` has a value beside which one of `wanted` must stand, and none does; or if one of these is taken away,
    and no other put in its place, while `field` is left as it is, which may need it.

    list(companions({"type": 2}, "type", {2: ["url"]}))  # ["type 2 takes url beside it."]
    list(companions({"url": None}, "type", {2: ["url"]}))  # ["url may not be taken away without another type."]
    """
    value = given.get(field)
    names = wanted.get(value, ()) if isinstance(value, int | str) else ()
    if names and not any(given.get(name) for name in names):
        yield f"{under}{field} {value} takes {' or '.join(names)} beside it."
    if field not in given:
        bare = (names for names in wanted.values() if not any(given.get(name) for name in names))
        taken = dict.fromkeys(name for names in bare for name in names if given.get(name, "") is None)
        yield from (f"{under}{name} may not be taken away without another {field}." for name in taken)


def is_json(value: Any, levels: int) -> bool:
    """Whether it can be written as JSON, of at most so many levels of objects and lists."""
    if isinstance(value, dict):
        return levels > 0 and all(isinstance(key, str) and is_json(item, levels - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return levels > 0 and all(is_json(item, levels - 1) for item in value)
    if isinstance(value, float):
        return value - value == 0  # neither infinite nor NaN
    return value is None or isinstance(value, str | int | bool)


def object_in(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under `key`; an empty one if there is none."""
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}


def merged(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` laid over `fields` (JSON Merge Patch, RFC 7396)."""
    result = dict(fields)
    for key, value in overrides.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            under = result.get(key)
            result[key] = merged(under if isinstance(under, Mapping) else {}, value)
        else:
            result[key] = value
    return result
