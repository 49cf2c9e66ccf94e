"""What adapters for Android's vendors share: texts, the app's data, keys; and overrides in a vendor's words."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.app_message import app_data, cut, form_body, number_for, once_key, short, texts, utf16
from providers.contract import Push
from providers.fields import Rules, companions, flag, matching, merged, mistakes, one_of, strings, text, whole

PUSH = Push(id="m-1", token="t", title="Ann", body="hi")
any_text = st.text(st.characters(), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | any_text,
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from("abc"), json_values, max_size=3)


@pytest.mark.parametrize("length", [len, utf16])
@given(given_=any_text, most=st.integers(1, 30))
def test_a_cut_text_is_short_enough_and_says_that_it_was_cut(
    length: Callable[[str], int], given_: str, most: int
) -> None:
    shown = cut(given_, most, length=length)
    assert length(shown) <= most
    assert shown == given_ or (shown.endswith("…") and given_.startswith(shown[:-1]))


@given(title=st.none() | any_text, body=st.none() | any_text)
def test_neither_text_is_ever_blank_and_none_that_is_there_is_changed(title: str | None, body: str | None) -> None:
    shown = texts(replace(PUSH, title=title, body=body), blank="New")
    assert all(one.strip() for one in shown)
    for given_, one in zip((title, body), shown, strict=True):
        assert one == given_ or not (given_ and given_.strip())


@given(data=st.dictionaries(st.sampled_from(["relay", "_relay", "relay_id", "click", "thread", "k"]), any_text))
def test_the_apps_data_arrives_whole_beside_ours(data: dict[str, str]) -> None:
    push = replace(PUSH, data=data, click="chat://x", thread="t", relay={"v": 1})
    sent = app_data(push)
    ours = {"relay_id": "m-1", "relay": '{"v":1}', "click": "chat://x", "thread": "t"}
    assert {key: sent.pop(key) for key in ours} == ours
    assert len(sent) == len(data)
    assert sorted(sent.values()) == sorted(data.values())
    assert {key.lstrip("_") for key in sent} == {key.lstrip("_") for key in data}


@given(key=any_text, chars=st.integers(1, 40), below=st.integers(1, 2**31))
def test_keys_that_stand_for_ids_have_the_vendors_form(key: str, chars: int, below: int) -> None:
    assert re.fullmatch(rf"[a-z][0-9A-Za-z_-]{{{chars - 1}}}", short(key, chars))
    assert 0 <= number_for(key, below) < below
    assert (short(key, chars), number_for(key, below)) == (short(key, chars), number_for(key, below))


@pytest.mark.parametrize(
    "changed",
    [{"id": "m-2"}, {"title": "Bob"}, {"body": "2 new"}, {"urgent": False}, {"relay": {"ids": ["m-1", "m-2"]}}],
)
def test_only_the_very_same_push_is_a_repeat(changed: dict[str, Any]) -> None:
    assert once_key(PUSH, now_s=900) == once_key(PUSH, now_s=1700)
    assert once_key(replace(PUSH, token="other"), now_s=900) == once_key(PUSH, now_s=900), (
        "one call carries many tokens"
    )
    assert (
        once_key(PUSH, now_s=900, to="t-1")
        == once_key(PUSH, now_s=1700, to="t-1")
        != once_key(PUSH, now_s=900, to="t-2")
    )
    assert once_key(replace(PUSH, **changed), now_s=900) != once_key(PUSH, now_s=900)
    assert once_key(PUSH, now_s=900) != once_key(PUSH, now_s=900 + 3600)


def test_what_is_meant_to_be_seen_again_is_no_repeat() -> None:
    keys = [once_key(replace(PUSH, again=again), now_s=900) for again in (None, "knock 0", "knock 1")]
    assert len(set(keys)) == 3, "steps of a message may follow one another at once"
    assert once_key(replace(PUSH, again="knock 1"), now_s=900 + 86_400) == keys[2], "sent again after a lost answer"


@given(fields=st.dictionaries(st.sampled_from(["a", "b"]), st.text(max_size=20)))
def test_a_form_brings_its_values_unchanged_and_stumbles_over_nothing(fields: dict[str, str]) -> None:
    found = parse_qs(form_body(fields).decode("ascii"), keep_blank_values=True)
    assert {key: values[0] for key, values in found.items()} == {
        key: value.encode("utf-8", "replace").decode() for key, value in fields.items()
    }
    assert form_body({"a": "\ud800"}) == b"a=%3F"


# Overrides.

RULES: Rules = {
    "n": whole(1, 5),
    "on": flag,
    "word": matching("[a-z]+", "small letters"),
    "kind": one_of(0, "x"),
    "title": text(3, chars_min=1),
    "map": strings(2, 10),
    "under": {"n": whole(0, 1)},
}


@pytest.mark.parametrize(
    "fine",
    [
        {},
        {"n": 5, "on": False, "word": "ab", "kind": "x", "title": "abc", "map": {"a": "b"}, "under": {"n": 0}},
        {"kind": 0},
        dict.fromkeys(RULES),
        {"under": {"n": None}},
    ],
)
def test_what_keeps_to_the_rules_is_no_mistake(fine: dict[str, Any]) -> None:
    assert list(mistakes(fine, RULES)) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n": 6}, "n must be a whole number from 1 to 5."),
        ({"n": True}, "n must be"),
        ({"n": 1.0}, "n must be"),
        ({"on": 1}, "on must be true or false."),
        ({"word": "Ab"}, "word must be small letters."),
        ({"word": "a\n"}, "word must be"),
        ({"kind": False}, "kind must be one of 0, x."),
        ({"title": ""}, "title must be text of 1 to 3 characters."),
        ({"map": {"a": 1}}, "map must be"),
        ({"map": {"a": "b", "c": "d", "e": "f"}}, "map must be"),
        ({"map": {"a": "b" * 10}}, "map must be"),
        ({"under": 1}, "under must be an object."),
        ({"under": {"n": 2}}, "under.n must be"),
        ({"under": {"m": 2}}, "'under.m' may not be overridden; under.n may."),
        ({"x" * 500: 1}, f"'{'x' * 64}' may not be"),
        ({7: 1}, "'7' may not be"),
    ],
)
def test_each_mistake_is_named_without_the_value(wrong: dict[Any, Any], named: str) -> None:
    (sentence,) = mistakes(wrong, RULES)
    assert sentence.startswith(named)


def test_what_the_vendor_requires_may_be_another_but_not_taken_away() -> None:
    required = ("title", "under.n")
    (title, under) = mistakes({"title": None, "under": {"n": None}}, RULES, required=required)
    assert title == "title may not be taken away: the vendor requires it."
    assert under.startswith("under.n may not")
    assert list(mistakes({"title": "ab", "under": {"n": 0}, "n": None}, RULES, required=required)) == []


@pytest.mark.parametrize(
    ("given_", "count"), [({"type": 1}, 1), ({"type": 1, "b": "x"}, 0), ({"type": 2}, 0), ({}, 0), ({"type": []}, 0)]
)
def test_a_value_may_take_another_field_beside_it(given_: dict[str, Any], count: int) -> None:
    found = list(companions(given_, "type", {1: ("a", "b")}, under="click."))
    assert found == ["click.type 1 takes a or b beside it."] * count


@pytest.mark.parametrize(
    ("given_", "count"),
    [
        ({"b": None}, 1),
        ({"b": None, "type": None}, 0),
        ({"b": None, "type": 2}, 0),
        ({"b": "x"}, 0),
        ({"b": None, "a": "x"}, 0),
    ],
)
def test_what_a_value_takes_is_not_taken_away_while_that_may_be_there(given_: dict[str, Any], count: int) -> None:
    found = list(companions(given_, "type", {1: ("a", "b")}, under="click."))
    assert found == ["click.b may not be taken away without another type."] * count


@given(fields=objects, overrides=objects)
def test_what_is_laid_over_stands_null_takes_away_and_nothing_else_changes(
    fields: dict[str, Any], overrides: dict[str, Any]
) -> None:
    result = merged(fields, overrides)
    for key in {*fields, *overrides}:
        if key not in overrides:
            assert result[key] == fields[key]
        elif overrides[key] is None:
            assert key not in result
        elif isinstance(overrides[key], dict):
            assert result[key] == merged(fields[key] if isinstance(fields.get(key), dict) else {}, overrides[key])
        else:
            assert result[key] == overrides[key]
    assert set(result) <= {*fields, *overrides}
