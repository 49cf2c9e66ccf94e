"""Safety B031 to B047, as far as they are about JSON itself; and that no body can hold the relay up."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Malformed
from relay.strictjson import LIMITS, Limits, parse

SEND = b'{"to":{"users":["ann"]},"type":"text","body":{"text":"Lunch? \\u2615","n":12,"f":0.5},"push":null,"hold":true}'


def refused(body: bytes, *, limits: Limits = LIMITS) -> str:
    with pytest.raises(Malformed) as caught:
        parse(body, limits=limits)
    assert caught.value.status == 400
    assert len(caught.value.detail) <= 300
    return caught.value.code


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


# --- what is read ---


def test_an_ordinary_send_is_read_as_json_would_read_it() -> None:
    assert parse(SEND) == json.loads(SEND)


@pytest.mark.parametrize("body", [b" 1 ", b"\r\n\t{}\n", b'"x"', b"null", b"true", b"[]", b"[[], {}]"])
def test_any_value_may_stand_at_the_top_with_space_around_it(body: bytes) -> None:
    assert parse(body) == json.loads(body)


def test_minus_zero_is_zero() -> None:
    assert repr(parse(b"-0")) == "0"


@pytest.mark.parametrize("body", [b"1.0", b"1e0"])
def test_a_number_with_a_fraction_or_an_exponent_is_no_integer(body: bytes) -> None:
    assert type(parse(body)) is float


def test_a_pair_of_escaped_surrogates_is_one_character() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_names_with_a_meaning_elsewhere_are_plain_keys() -> None:
    body = b'{"__proto__":1,"constructor":2,"__class__":3,"":4}'
    assert parse(body) == {"__proto__": 1, "constructor": 2, "__class__": 3, "": 4}


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")), inner, max_size=6
        )
    ),
    max_leaves=60,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@given(JSON_VALUES, st.booleans())
def test_what_was_written_as_json_is_read_back(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    if depth_of(value) > LIMITS.depth:
        assert refused(body) == "json_too_complex"
    else:
        assert parse(body) == value


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail_otherwise_than_by_saying_so(body: bytes) -> None:
    try:
        value = parse(body)
    except Malformed:
        return
    assert value == json.loads(body)


# --- what is not JSON ---


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" \n", b"{", b"}", b"[]x", b"{}{}", b"1 2", b'{"a":1,}', b"[1,]", b"{'a':1}", b"{a:1}", b"undefined"),
        *(
            b"// no\n{}",
            b"{} /* no */",
            b"NaN",
            b"Infinity",
            b"-Infinity",
            b'{"a":NaN}',
            b"01",
            b"+1",
            b".5",
            b"1.",
            b"0x1",
        ),
        *(b"tru", b"True", b'"open', b'"\\x41"', b'"\\u12"', b"\x0b1", b"\xc2\xa01", b"\xe2\x80\xa81", b"\x1f"),
    ],
)
def test_what_is_not_one_json_value_is_refused(body: bytes) -> None:
    assert refused(body) == "json_invalid"


def test_what_is_wrong_is_said_in_full() -> None:
    with pytest.raises(Malformed, match=r"property name enclosed in double quotes near line 1, column 2\.$"):
        parse(b"{'a': 1}")
    with pytest.raises(Malformed, match="is empty"):
        parse(b" ")


@pytest.mark.parametrize("body", [b'"a\x01"', b'"a\nb"', b'"a\tb"', b'{"a\x1f":1}', b'"\x00"', b'"abc\x00"'])
def test_a_raw_control_character_in_a_string_is_refused(body: bytes) -> None:
    assert refused(body) == "json_invalid"


@pytest.mark.parametrize(
    "body",
    [b'"\\u0000"', b'{"a\\u0000":1}', b'[{"a":["x\\u0000y"]}]', b'"\\ud800"', b'"\\udc00\\ud800"', b'{"\\udfff":1}'],
)
def test_an_escape_for_a_zero_or_half_a_surrogate_pair_is_refused(body: bytes) -> None:
    assert refused(body) == "json_invalid"


def test_a_backslash_before_such_an_escape_makes_it_text() -> None:
    assert parse(b'"\\\\u0000"') == "\\u0000"


# --- what is not UTF-8 ---


@pytest.mark.parametrize("text", ['{"a":1}', '"x"', "[]", "1", '{"é":"☕"}'])
@pytest.mark.parametrize("form", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_encoding_of_unicode_is_refused(text: str, form: str) -> None:
    assert refused(text.encode(form)) == "json_not_utf8"


@pytest.mark.parametrize(
    "bad",
    [b"\xff", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xe2\x98", b"\xed\xa0\x80", b"\xc0\xae", b"\xf8\x88\x80\x80\x80"],
)
def test_bytes_that_are_not_strict_utf_8_are_refused(bad: bytes) -> None:
    assert refused(b'{"a":"' + bad + b'"}') == "json_not_utf8"
    assert refused(b'"' + bad) == "json_not_utf8"


# --- numbers ---


@pytest.mark.parametrize(
    "number",
    [
        *("9007199254740992", "-9007199254740992", "9007199254740993", str(2**63), "1" + "0" * 4000, "7" * 5000),
        *("0." + "1" * 5000, "1e999", "-1e999", "1E400000000", "0" + "." + "0" * 31),
    ],
)
def test_a_number_that_not_everyone_can_hold_is_refused(number: str) -> None:
    assert refused(f'{{"a":[{number}]}}'.encode()) == "number_out_of_range"


@pytest.mark.parametrize(
    "number", ["9007199254740991", "-9007199254740991", "1e308", "-1.7976931348623157e308", "5e-324"]
)
def test_the_largest_and_the_smallest_numbers_are_read(number: str) -> None:
    assert parse(number.encode()) == json.loads(number)


def test_a_number_may_have_32_characters() -> None:
    assert parse(b"0." + b"1" * 30) == 0.1111111111111111
    assert refused(b"0." + b"1" * 31) == "number_out_of_range"


# --- keys ---


@pytest.mark.parametrize(
    "body", [b'{"a":1,"a":1}', b'{"x":[{"a":1,"b":2,"a":3}]}', b'{"a":1,"\\u0061":2}', b'{"\\u00e9":1,"\xc3\xa9":2}']
)
def test_a_key_that_stands_twice_is_refused_however_it_is_written(body: bytes) -> None:
    assert refused(body) == "json_duplicate_key"


def keyed(count: int) -> bytes:
    return json.dumps({f"k{i}": i for i in range(count)}).encode()


def test_an_object_may_have_256_keys() -> None:
    assert len(parse(keyed(256))) == 256
    assert refused(keyed(257)) == "json_too_complex"
    assert refused(b"[[" + keyed(257) + b"]]") == "json_too_complex"


def test_a_list_may_have_more_entries_than_an_object_keys() -> None:
    assert len(parse(b"[" + b",".join([b"1"] * 5000) + b"]")) == 5000


# --- depth and size ---


def test_values_may_be_nested_16_deep() -> None:
    assert parse(nested(16)) == json.loads(nested(16))
    assert refused(nested(17)) == "json_too_complex"


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    text = "[{" * 5000 + '"\\'
    assert parse(json.dumps([text, {text: 1}]).encode()) == [text, {text: 1}]


def test_depth_is_not_hidden_by_escaped_quotes() -> None:
    assert refused(b'["\\"",' * 17 + b"1" + b"]" * 17) == "json_too_complex"
    assert refused(b'["\\\\",' * 17 + b"1" + b"]" * 17) == "json_too_complex"


@given(st.text(st.sampled_from('"\\[]{},: a1'), max_size=40))
def test_no_tangle_of_quotes_and_backslashes_hides_depth_from_the_closer_look(text: str) -> None:
    body = text.encode() + b"[" * 100_000
    assert refused(body) in {"json_too_complex", "json_invalid"}


@pytest.mark.parametrize("count", [19_998, 19_999])
def test_a_document_may_hold_20_000_values(count: int) -> None:
    flat = b"[" + b",".join([b"1"] * count) + b"]"  # and the list itself
    assert len(parse(flat)) == count
    assert refused(b"[" + flat + b",1,1]") == "json_too_complex"


def test_empty_containers_count_once() -> None:
    limits = Limits(nodes=5)
    assert parse(b"[[],{ },[ ],{}]", limits=limits) == [[], {}, [], {}]
    assert refused(b"[[],{},[],{},[]]", limits=limits) == "json_too_complex"
    assert parse(b'[[""],[0]]', limits=limits) == [[""], [0]]
    assert refused(b'[[""],[0,1]]', limits=limits) == "json_too_complex"


def test_other_limits_can_be_asked_for() -> None:
    small = Limits(depth=1, keys=1, nodes=3, number_chars=2)
    assert parse(b'{"a":12}', limits=small) == {"a": 12}
    assert refused(b'{"a":[]}', limits=small) == "json_too_complex"
    assert refused(b'{"a":1,"b":2}', limits=small) == "json_too_complex"
    assert refused(b"123", limits=small) == "number_out_of_range"


# --- time ---

HOSTILE = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "empty lists": b"[" + b"[]," * 20_000 + b"[]]",
    "long integer": b"7" * 5_000,
    "long fraction": b"0." + b"7" * 5_000,
    "many keys": b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}",
    "commas": b"," * 250_000,
    "open string of quotes": b"[" * 10 + b"," * 300 + b'"' + b'\\"' * 60_000,
    "deep, then quotes": b"[" * 17 + b'"' + b'\\"' * 60_000,
    "backslashes": b"[" * 17 + b"\\" * 120_000,
    "quotes": b"[" * 17 + b'"' * 120_000,
    "strings": b"[" + b'"",' * 40_000 + b'""]',
    "spaces": b"[" * 17 + b" " * 120_000,
    "spaces after": b"1" + b" " * 120_000 + b"x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_within_10_ms(name: str) -> None:
    body = HOSTILE[name]

    def once() -> float:
        began = time.thread_time()
        refused(body)
        return time.thread_time() - began

    assert min(once() for _ in range(5)) < 0.010
