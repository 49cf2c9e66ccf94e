"""What credentials look like: which texts a relay can have minted, and which not."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.credentials import mint_api_key, mint_device_token, mint_ticket, parse_api_key, parse_device_token
from relay.ids import system_rng

API_KEY = "rk_live_vpmlgrqqv3gs_32rx2DA-Yc3Eu4bD0cQnEDw0TEGJ6y8ee9XUfkRvzsI_1SOOfL"


def rng() -> random.Random:
    return random.Random(1)


@given(st.integers(), st.booleans())
def test_an_api_key_parses_to_what_was_minted(seed: int, live: bool) -> None:
    text, key_id, secret = mint_api_key(random.Random(seed), live)
    assert text.startswith("rk_live_" if live else "rk_test_")
    assert (len(key_id), len(secret), len(text)) == (12, 43, 71)
    assert parse_api_key(text) == (key_id, secret)
    assert parse_device_token(text) is None


@given(st.integers())
def test_a_device_token_parses_to_what_was_minted(seed: int) -> None:
    text, token_id, secret = mint_device_token(random.Random(seed))
    assert parse_device_token(text) == (token_id, secret)
    assert parse_api_key(text) is None


@given(st.integers(0, 70), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_typing_error_is_noticed_without_a_look_up(place: int, typed: str) -> None:
    text, key_id, secret = mint_api_key(rng())
    wrong = text[:place] + typed + text[place + 1 :]
    assert parse_api_key(wrong) == ((key_id, secret) if wrong == text else None)


@given(st.text())
def test_any_other_text_is_no_credential(text: str) -> None:
    assert parse_api_key(text) is None
    assert parse_device_token(text) is None


@pytest.mark.parametrize(
    "change", [lambda t: t + "\n", lambda t: " " + t, lambda t: t.upper(), lambda t: t[:-1], lambda t: t * 2]
)
def test_a_credential_has_one_spelling(change: "object") -> None:
    assert parse_api_key(change(mint_api_key(rng())[0])) is None  # type: ignore[operator]


def test_the_form_of_a_key_does_not_change() -> None:
    assert mint_api_key(rng())[0] == API_KEY


def test_a_ticket_has_256_bits() -> None:
    assert len(mint_ticket(rng())) == 43
    assert len(base64.urlsafe_b64decode(mint_ticket(rng()) + "=")) == 32
    assert mint_ticket(system_rng()) != mint_ticket(system_rng())
