"""Message ids: sortable UUIDv7s whose tag follows from the key alone."""

import random
import uuid

from hypothesis import given
from hypothesis import strategies as st

from relay import ids

times = st.integers(0, 2**48 - 1)
tags = st.integers(0, 2**74 - 1)
keys = st.text(st.characters(codec="ascii", exclude_characters="\x1f"), min_size=1, max_size=64)


@given(times, tags)
def test_a_message_id_is_a_valid_uuid_of_version_7(ms: int, tag: int) -> None:
    one = uuid.UUID(ids.message_id(ms, tag))
    assert (one.version, one.variant) == (7, uuid.RFC_4122)
    assert one.int >> 80 == ms
    assert ids.is_message_id(str(one))


@given(times, tags)
def test_time_and_tag_come_back_from_the_id(ms: int, tag: int) -> None:
    id_ = ids.message_id(ms, tag)
    assert (ids.uuid7_ms(id_), ids.tag_of_id(id_)) == (ms, tag)
    assert ids.tag_of_id(id_.upper()) == tag


@given(times, times, tags, tags)
def test_ids_sort_by_their_time(early: int, late: int, one: int, other: int) -> None:
    early, late = sorted((early, late))
    if early < late:
        assert ids.message_id(early, one) < ids.message_id(late, other)


@given(keys, keys, st.sampled_from(["b", "d"]))
def test_a_tag_follows_from_app_namespace_and_key_alone(key: str, other: str, namespace: str) -> None:
    tag = ids.tag_of(key, namespace=namespace, secret=b"s")
    assert 0 <= tag < 2**ids.TAG_BITS
    assert tag == ids.tag_of(key, namespace=namespace, secret=b"s")
    assert (tag == ids.tag_of(other, namespace=namespace, secret=b"s")) == (key == other)
    assert tag != ids.tag_of(key, namespace=namespace, secret=b"t")
    assert tag != ids.tag_of(key, namespace=namespace + "x", secret=b"s")


@given(st.uuids(), times, tags)
def test_only_version_7_is_taken_for_a_time(other: uuid.UUID, ms: int, tag: int) -> None:
    assert ids.uuid7_ms(str(other)) is None or (other.version == 7 and other.variant == uuid.RFC_4122)
    assert ids.uuid7_ms(ids.message_id(ms, tag).upper()) == ms


@given(st.text(max_size=40))
def test_text_is_a_message_id_only_if_it_is_one(text: str) -> None:
    try:
        right = str(uuid.UUID(text)) == text and uuid.UUID(text).version == 7
    except ValueError:
        right = False
    assert ids.is_message_id(text) == right


def test_random_text_has_the_width_asked_for() -> None:
    assert {len(ids.random_hex(random.Random(seed), bits=64)) for seed in range(50)} == {16}


def test_running_ids_differ_and_keep_their_width_where_the_numbers_begin_anew() -> None:
    class Last(random.Random):
        def getrandbits(self, k: int, /) -> int:
            return (1 << k) - 1

    next_id = ids.running_ids(Last(), bits=64)
    assert [next_id() for _ in range(3)] == ["f" * 16, "0" * 16, "0" * 15 + "1"]
    assert ids.running_ids(random.Random(1), bits=64)() != ids.running_ids(random.Random(2), bits=64)()
