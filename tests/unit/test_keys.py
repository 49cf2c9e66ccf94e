import base64
import json
import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_rings import NEW, OLD, ring

from relay.errors import ConfigError
from relay.keys import KEYS_ENV, KeyRing, SealBroken

AAD = ("address", "shop", "ada")

# Known answers.
SEALED = "0101f5b165224a58b791df6af1d88677f2342305e314bcaf8f1e17a1f008fb2531c8cd"
TOKEN_HASH = "39f70bcad670a8be73587f3466eef9772d797001b0a5616193e22a95f7bbc4d6"
MAC = "959734708b7aaa4d0324975a8e6a23f832969ac05652c56b62311752110632aa"
CURSOR_KEY = "d7df19becc3a1050a81f21f846c0d91ec97c52706c2cf605eb2b37f4fb3c2c8a"


def rng() -> random.Random:
    return random.Random(1)


def document(*keys: tuple[object, bytes]) -> str:
    return json.dumps({"keys": [{"id": i, "key": base64.b64encode(key).decode()} for i, key in keys]})


# --- the file ---


def test_a_new_ring_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "relay.keys"
    before = os.umask(0)
    try:
        made = KeyRing.create(path, rng())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing.load(path).open(made.seal(b"x", AAD), AAD) == b"x"


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "relay.keys"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists already"):
        KeyRing.create(path, rng())
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]  # nothing half made stays beside it


def test_a_ring_is_not_made_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder"):
        KeyRing.create(tmp_path / "no" / "relay.keys", rng())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602, 0o610, 0o644])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "relay.keys"
    KeyRing.create(path, rng())
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeyRing.load(path)


def test_a_missing_file_is_not_made_up(tmp_path: Path) -> None:
    path = tmp_path / "relay.keys"
    with pytest.raises(ConfigError, match="missing; restore it"):
        KeyRing.load(path)
    assert not path.exists()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a file"):
        KeyRing.load(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a file"):
        KeyRing.load(tmp_path)


def test_a_file_of_any_size_or_bytes_is_refused_with_words(tmp_path: Path) -> None:
    path = tmp_path / "relay.keys"
    path.touch(0o600)
    for raw, words in ((b" " * 70_000, "larger"), (b"\xff", "UTF-8"), (b"", "not a key ring")):
        path.write_bytes(raw)
        with pytest.raises(ConfigError, match=words):
            KeyRing.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"keys": []}',
        '{"keys": [1]}',
        '{"keys": [{"id": 1}]}',
        '{"keys": [{"id": 1, "key": 5}]}',
        '{"keys": [{"id": 1, "key": "é"}]}',
        "[" * 100_000,
        document((1, OLD))[:-1] + ', "more": 1}',
        document((1, OLD)).replace('"id"', '"id": 2, "id"'),
        document((-1, OLD)),
        document((256, OLD)),
        document((True, OLD)),
        document(("1", OLD)),
        document((1, OLD[:31])),
        document((1, OLD + b"x")),
        document((1, bytes(32))),
        document((1, OLD), (1, NEW)),
        document((1, OLD), (2, OLD)),
    ],
)
def test_a_malformed_ring_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        KeyRing.parse(text)


def test_no_key_stands_in_an_error_or_a_repr() -> None:
    key = base64.b64encode(OLD).decode()
    with pytest.raises(ConfigError) as raised:
        KeyRing.parse(document((1, OLD), (1, OLD), (300, NEW)))
    assert len(raised.value.mistakes) == 2
    assert key not in str(raised.value)
    assert repr(ring(2, 1)) == "KeyRing(ids=[2, 1])"


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.keys"
    KeyRing.create(path, rng())
    assert KeyRing.find(path, {}).key_ids == (1,)
    assert KeyRing.find(path, {KEYS_ENV: document((7, OLD))}).key_ids == (7,)
    with pytest.raises(ConfigError, match=KEYS_ENV):
        KeyRing.find(path, {KEYS_ENV: ""})


def test_base64_of_either_alphabet_is_read() -> None:
    key = b"\xfb\xff" * 16
    for text in (base64.b64encode(key), base64.urlsafe_b64encode(key), base64.urlsafe_b64encode(key).rstrip(b"=")):
        parsed = KeyRing.parse(json.dumps({"keys": [{"id": 0, "key": text.decode()}]}))
        assert parsed.mac("p", b"") == KeyRing([(0, key)], rng()).mac("p", b"")


# --- sealing ---


@given(st.binary(max_size=200), st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4))
def test_what_is_sealed_opens_with_its_own_place_only(plaintext: bytes, parts: list[str]) -> None:
    aad = tuple(parts)
    sealed = ring(1).seal(plaintext, aad)
    assert ring(1).open(sealed, aad) == plaintext
    for other in ((*aad, ""), ("x", *aad), ("\x1f".join(aad) + "!",)):
        with pytest.raises(SealBroken):
            ring(1).open(sealed, other)


def test_parts_do_not_run_into_each_other() -> None:
    sealed = ring(1).seal(b"x", ("ab", "c"))
    with pytest.raises(SealBroken):
        ring(1).open(sealed, ("a", "bc"))


def test_any_flipped_bit_is_noticed() -> None:
    keys = ring(2, 1)
    sealed = keys.seal(b"token", AAD)
    for bit in range(len(sealed) * 8):
        broken = bytearray(sealed)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            keys.open(bytes(broken), AAD)


def test_what_is_cut_off_is_noticed() -> None:
    sealed = ring(1).seal(b"token", AAD)
    for length in range(len(sealed)):
        with pytest.raises(SealBroken):
            ring(1).open(sealed[:length], AAD)


def test_the_form_is_version_key_id_nonce_ciphertext() -> None:
    sealed = ring(2, 1).seal(b"token", AAD)
    assert sealed[:2] == bytes((1, 2))
    assert sealed[2:14] == rng().randbytes(12)
    assert len(sealed) == 2 + 12 + 5 + 16


def test_the_form_does_not_change() -> None:
    """A known answer: what is stored must open for ever."""
    sealed = bytes.fromhex(SEALED)
    assert ring(1).seal(b"token", AAD) == sealed
    assert ring(1).token_hash("shop", "main", "t").hex() == TOKEN_HASH
    assert ring(1).mac("api-key", b"s").hex() == MAC
    assert ring(1).cursor_keys()[1][1].hex() == CURSOR_KEY


def test_rotation_seals_with_the_new_key_and_opens_the_old() -> None:
    old = ring(1).seal(b"x", AAD)
    assert ring(2, 1).open(old, AAD) == b"x"
    assert ring(2, 1).stale(old)
    assert not ring(2, 1).stale(ring(2, 1).seal(b"x", AAD))
    with pytest.raises(SealBroken):
        ring(2).open(old, AAD)


def test_seal_broken_is_a_value_error() -> None:
    assert issubclass(SealBroken, ValueError)


# --- proving ---


def test_a_mac_made_before_a_rotation_is_among_those_after() -> None:
    stored = ring(1).mac("api-key", b"secret")
    assert stored in ring(2, 1).macs("api-key", b"secret")
    assert stored != ring(2, 1).mac("api-key", b"secret")
    assert stored == ring(2, 1).mac("api-key", b"secret", key_id=1)
    with pytest.raises(KeyError):
        ring(1).mac("api-key", b"secret", key_id=2)


def test_purposes_do_not_share_keys() -> None:
    keys = ring(1)
    seen = {keys.mac(purpose, b"x") for purpose in ("a", "b", "seal", "cursor", "token-hash")}
    assert len(seen) == 5
    assert keys.cursor_keys()[1][1] not in {OLD, keys.mac("cursor", b"")}


def test_many_purposes_do_not_pile_up() -> None:
    keys = ring(1)
    first = keys.mac("0", b"")
    for number in range(3000):
        keys.mac(str(number), b"")
    assert len(keys._subkeys) <= 1024
    assert keys.mac("0", b"") == first


def test_cursors_sealed_before_a_rotation_stay_readable() -> None:
    """F97: the key ring keeps what sealed them."""
    assert ring(1).cursor_keys()[0] == 1
    newest, keys = ring(2, 1).cursor_keys()
    assert newest == 2
    assert set(keys) == {1, 2}
    assert keys[1] == ring(1).cursor_keys()[1][1]


def test_the_look_up_of_a_token_survives_a_rotation() -> None:
    before = ring(1).token_hash("shop", "main", "token")
    assert ring(2, 1).token_hash("shop", "main", "token") == before
    assert (
        len({before, *(ring(1).token_hash(*key) for key in (("shop", "mai", "ntoken"), ("s", "main", "token")))}) == 3
    )
