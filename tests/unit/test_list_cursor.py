"""Cursors of lists: whatever a place holds comes back, and what is none is refused."""

import base64
import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Malformed
from relay.list_cursor import TEXT_LENGTH_MAX, Name, Number, parsed, printed


class Shelf(msgspec.Struct, frozen=True, tag="s", array_like=True):
    name: Name
    at: Number


class Drawer(msgspec.Struct, frozen=True, tag="w", array_like=True):
    name: Name
    at: Number


IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=128)


def forged(*row: object) -> str:
    """A cursor with a right check that holds what we never printed."""
    body = json.dumps(["s", *row]).encode()
    check = hashlib.sha256(b"shop\x00" + body).digest()[:9]
    return base64.urlsafe_b64encode(check + body).decode().rstrip("=")


@given(name=IDS, at=st.integers(0, 2**53 - 1))
def test_a_place_comes_back_as_it_was(name: str, at: int) -> None:
    text = printed(Shelf(name, at), app_id="shop")
    assert parsed(text, Shelf, app_id="shop") == Shelf(name, at)
    assert len(text) <= TEXT_LENGTH_MAX


def test_it_is_good_for_its_list_and_its_app_alone() -> None:
    text = printed(Shelf("n", 1), app_id="shop")
    for kind, app_id in ((Drawer, "shop"), (Shelf, "other")):
        with pytest.raises(Malformed):
            parsed(text, kind, app_id=app_id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "é",
        printed(Shelf("n", 1), app_id="shop")[:-2],
        printed(Shelf("n", 1), app_id="shop") + "A",
        "A" * 5000,
        forged("\x00", 1),
        forged("line\n", 1),
        forged("\ud800", 1),
        forged("n" * 129, 1),
        forged("n", -1),
        forged("n", 2**53),
        forged("n", True),
        forged("", 1),
        forged(1, 1),
        forged("n"),
    ],
)
def test_what_we_never_printed_is_refused(text: str) -> None:
    with pytest.raises(Malformed) as refused:
        parsed(text, Shelf, app_id="shop")
    assert refused.value.code == "invalid_cursor"


def test_the_forger_s_check_is_right() -> None:
    assert parsed(forged("n", 1), Shelf, app_id="shop") == Shelf("n", 1)
