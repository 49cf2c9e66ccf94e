"""The recorded conversations are well-formed, and comparing notices what differs."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.api.schemas.device import WelcomeOut
from relay.api.schemas.pages import PageOut
from relay.client.conformance.vectors import CLIENT, Differs, Names, Vector, compare, filled, load
from relay.client.conformance.whole import whole
from relay.realtime.protocol import FRAMES, Close

ALL = load()
PAGE = Path(__file__).parents[2] / "config/docs/protocol.md"


@pytest.mark.parametrize("vector", ALL, ids=lambda one: one.name)
def test_a_vector_can_be_played_by_every_side_that_it_names(vector: Vector) -> None:
    assert set(vector.plays) <= {"server", "client"}
    assert vector.says.endswith(".")
    for step in vector.steps:
        assert len(step) == 1
    if CLIENT in vector.plays:
        names: Names = dict(vector.given)
        for step in vector.steps:
            if "C" in step:
                compare(step["C"], filled(step["C"], dict(names), invent=True), names)
            elif "S" in step:
                json.dumps(filled(step["S"], names, invent=False))


@pytest.mark.parametrize(
    "vector", [one for one in load(CLIENT) if one.name != "unknown-words"], ids=lambda one: one.name
)
def test_a_client_hears_whole_welcomes_and_pages(vector: Vector) -> None:
    """As the relay's own document has them, and each body by the hash of what stands there."""
    frames = [whole(filled(step["S"], dict(vector.given), invent=True)) for step in vector.steps if "S" in step]
    for frame in frames:
        said = {name: one for name, one in frame.items() if name not in {"type", "ref"}}
        if frame["type"] == "welcome":
            WelcomeOut.model_validate(said)
        elif frame["type"] == "batch":
            page = PageOut.model_validate(said)
            assert [one.id for one in page.entries if one.body is not None and one.h is None] == []


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {}),
        ({"a": 1}, [1]),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"a": None}, {"a": 1}),
        ({"a": True}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": "{{*}}"}, {"a": None}),
        ({"a": "{{new}}"}, {}),
        (["{{x}}", "{{x}}"], [1, 2]),
        ({"a": {"b": "c"}}, {"a": {"b": "d"}}),
    ],
)
def test_a_difference_is_noticed(pattern: Any, value: Any) -> None:
    with pytest.raises(Differs):
        compare(pattern, value, {})


def test_more_members_than_the_pattern_has_are_no_difference() -> None:
    compare({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}, {})


def test_a_name_is_noted_once_and_then_compared() -> None:
    names: Names = {}
    compare({"cursor": "{{c}}"}, {"cursor": "AQ"}, names)
    assert filled({"cursor": "{{c}}", "do": "GET /?c={{c}}", "no": None}, names, invent=False) == {
        "cursor": "AQ",
        "do": "GET /?c=AQ",
    }
    with pytest.raises(KeyError):
        filled("{{unknown}}", names, invent=False)


def test_the_protocols_page_lists_every_conversation_as_it_is() -> None:
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| `") and line.endswith(". |")]
    rows = [f"| `{one.name}` | {', '.join(one.plays)} | {one.says} |" for one in ALL]
    assert [line for line in listed if line in rows] == rows


def test_the_protocols_page_names_every_frame_and_close_code() -> None:
    page = PAGE.read_text()
    assert [frame for frame in FRAMES if f"`{frame}`" not in page] == []
    codes = [str(int(code)) for code in Close if code not in {Close.TOO_BIG, Close.NOT_UTF8}]
    assert [code for code in codes if code not in page] == []
