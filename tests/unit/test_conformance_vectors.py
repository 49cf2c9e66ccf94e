"""The recorded conversations are well-formed, and comparing notices what differs."""

import json
from typing import Any

import pytest

from relay.client.conformance.vectors import CLIENT, Differs, Names, Vector, compare, filled, load

ALL = load()


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
