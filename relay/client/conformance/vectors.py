"""The recorded conversations: how they are written, read and compared. Pure.

A vector is a list of steps. `C` is a frame of the client, `S` one of the server; both are patterns for whoever did not
say them: an object may have more members, `{{name}}` stands for a value that is first noted and later compared, `{{*}}`
for any. Playing the client, unknown names in its frames are made up; playing the server, they come from `given`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

SERVER, CLIENT = "server", "client"
_NAME = re.compile(r"\{\{([\w*]+)\}\}")
_WHOLE = re.compile(r"^\{\{([\w*]+)\}\}$")
Names = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """One conversation. `plays`: which side it can test; `needs`: a setting that the server must have on.

    `app` is what the client's app does at its start: `follow` (a timeline), `send` (a message).
    """

    name: str
    says: str
    plays: tuple[str, ...]
    steps: tuple[Mapping[str, Any], ...]
    given: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    app: Mapping[str, Any] = field(default_factory=dict)


class Differs(Exception):  # noqa: N818 - an outcome
    """What came is not what the conversation says."""


def load(side: str | None = None) -> list[Vector]:
    """All vectors, or those that can test a side, by name."""
    found = []
    for file in sorted(resources.files(__package__).joinpath("vectors").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".json"):
            read = json.loads(file.read_text())
            vector = Vector(
                name=file.name.removesuffix(".json"),
                says=read["says"],
                plays=tuple(read["plays"]),
                steps=tuple(read["steps"]),
                given=read.get("given", {}),
                needs=read.get("needs"),
                app=read.get("app", {}),
            )
            if side is None or side in vector.plays:
                found.append(vector)
    return found


def filled(template: Any, names: Names, *, invent: bool) -> Any:
    """The template with its names' values; null members are left out. `invent`: an unknown name becomes its own value.

    Raises KeyError for an unknown name that may not be made up.
    """
    if isinstance(template, str):
        whole = _WHOLE.match(template)
        if whole:
            return _value(whole[1], names, invent=invent)
        return _NAME.sub(lambda found: str(_value(found[1], names, invent=invent)), template)
    if isinstance(template, dict):
        return {
            filled(key, names, invent=invent): filled(one, names, invent=invent)
            for key, one in template.items()
            if one is not None
        }
    if isinstance(template, list):
        return [filled(one, names, invent=invent) for one in template]
    return template


def _value(name: str, names: Names, *, invent: bool) -> Any:
    return names.setdefault(name, name) if invent else names[name]


def compare(pattern: Any, value: Any, names: Names, where: str = "") -> None:
    """Notes the names that are new. Raises Differs, with the place and both sides."""
    if isinstance(pattern, str) and (whole := _WHOLE.match(pattern)):
        if value is None and whole[1] not in names:
            raise Differs(f"{where or '/'}: is missing")
        if whole[1] == "*":
            return
        expected = names.setdefault(whole[1], value)
        if expected != value:
            raise Differs(f"{where or '/'}: {value!r}, where {whole[1]} is {expected!r}")
    elif isinstance(pattern, dict):
        if not isinstance(value, dict):
            raise Differs(f"{where or '/'}: {short(value)}, not an object")
        for name, one in pattern.items():
            key = filled(name, names, invent=False)
            compare(one, value.get(key), names, f"{where}/{key}")
    elif isinstance(pattern, list):
        if not isinstance(value, list) or len(value) != len(pattern):
            raise Differs(f"{where or '/'}: {short(value)}, not {len(pattern)} elements")
        for index, one in enumerate(pattern):
            compare(one, value[index], names, f"{where}/{index}")
    elif pattern is None:
        if value is not None and not (isinstance(value, dict) and not any(value.values())):
            raise Differs(f"{where or '/'}: {short(value)}, but nothing should be there")
    elif pattern != value or isinstance(pattern, bool) != isinstance(value, bool):
        raise Differs(f"{where or '/'}: {short(value)}, not {pattern!r}")


def read(text: str) -> Any:
    """An answer. Raises Differs for what is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        raise Differs(f"no JSON: {text[:80]}") from None


def read_frame(text: str) -> dict[str, Any]:
    """A frame. Raises Differs for what is none."""
    frame = read(text)
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise Differs(f"no object with a `type`: {text[:80]}")
    return frame


def short(value: Any, limit: int = 80) -> str:
    """As JSON, of at most `limit` characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 1] + "…"
