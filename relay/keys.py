"""The key ring: what seals, and what proves.

The ring is a short list of 32-byte keys with numbers. The first seals, all open. To rotate, put a new key first and
restart; keep the others, above all the last: address look-ups hang on it (`KeyRing.token_hash`).

Stored form of what is sealed: version (1 byte) | key id (1) | nonce (12) | AES-256-GCM ciphertext and tag.
"""

import base64
import binascii
import contextlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relay.errors import ConfigError
from relay.ids import Rng, system_rng
from relay.mac import hmac_sha256

KEYS_ENV: Final = "RELAY_KEYS"  # holds what the file would
KEY_BYTES: Final = 32
KEY_ID_MAX: Final = 255
FILE_BYTES_MAX: Final = 64 * 1024
SUBKEYS_MAX: Final = 1024  # kept; purposes are words of our code, so there are a few dozen

VERSION: Final = 1
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
HEADER_BYTES: Final = 2


class SealBroken(ValueError):  # noqa: N818 - it is what happened
    """No key fits, what is sealed was altered, or it stands in another's place."""

    def __init__(self) -> None:
        super().__init__(
            "This cannot be opened: it was altered, moved, or sealed with a key that the ring does not have."
        )


class KeyRing:
    """Keys by id, in the order of the file: the first is the newest and seals, the last is the oldest."""

    def __init__(self, keys: Sequence[tuple[int, bytes]], rng: Rng) -> None:
        assert keys
        assert all(0 <= key_id <= KEY_ID_MAX and len(key) == KEY_BYTES for key_id, key in keys)
        self._keys = dict(keys)
        assert len(self._keys) == len(keys)
        self._rng = rng
        self._newest, self._oldest = keys[0][0], keys[-1][0]
        self._subkeys: dict[tuple[str, int], bytes] = {}
        self._ciphers = {key_id: AESGCM(self._subkey("seal", key_id)) for key_id in self._keys}

    def __repr__(self) -> str:
        return f"KeyRing(ids={list(self._keys)})"

    @property
    def key_ids(self) -> tuple[int, ...]:
        """Newest first."""
        return tuple(self._keys)

    # --- where it comes from ---

    @classmethod
    def create(cls, path: Path, rng: Rng) -> Self:
        """A new ring of one key in a new file that only its owner can read. Raises ConfigError; never overwrites."""
        text = _printed([(1, rng.randbytes(KEY_BYTES))])
        # Whole before it has its name: a power cut leaves no half of a ring.
        new = path.with_name(f"{path.name}.{rng.randbytes(4).hex()}.new")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                [f"{path}: cannot be made ({error.strerror}); its folder must exist and be yours."]
            ) from None
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(new, path)  # unlike a renaming, it never overwrites
            _sync_folder(path.parent)
        except FileExistsError:
            raise ConfigError(
                [f"{path}: exists already and is kept; without these keys, what they sealed is lost."]
            ) from None
        except OSError as error:
            raise ConfigError([f"{path}: cannot be written ({error.strerror})."]) from None
        finally:
            with contextlib.suppress(OSError):
                new.unlink()
        return cls.parse(text, rng, origin=str(path))

    @classmethod
    def load(cls, path: Path, rng: Rng | None = None) -> Self:
        """The ring in the file. Raises ConfigError; a missing ring is never made up."""
        return cls.parse(_read(path), rng, origin=str(path))

    @classmethod
    def parse(cls, text: str, rng: Rng | None = None, *, origin: str = KEYS_ENV) -> Self:
        """From `{"keys": [{"id": 1, "key": "<32 bytes in base64>"}]}`. Raises ConfigError, which repeats no key."""
        return cls(_parsed(text, origin), rng or system_rng())

    @classmethod
    def find(cls, path: Path, environ: Mapping[str, str], rng: Rng | None = None) -> Self:
        """From RELAY_KEYS, if it is set, else from the file. Raises ConfigError."""
        text = environ.get(KEYS_ENV)
        return cls.load(path, rng) if text is None else cls.parse(text, rng)

    # --- proving ---

    def mac(self, purpose: str, data: bytes, key_id: int | None = None) -> bytes:
        """32 bytes of HMAC-SHA-256, by default with the newest key. Compare with `macs`: rotation changes it."""
        return hmac_sha256(self._subkey(f"mac:{purpose}", self._newest if key_id is None else key_id), data)

    def macs(self, purpose: str, data: bytes) -> list[bytes]:
        """What `mac` gives under each key, newest first: one of them is the stored one."""
        return [self.mac(purpose, data, key_id) for key_id in self._keys]

    def cursor_keys(self) -> tuple[int, dict[int, bytes]]:
        """The id of the key that seals cursors, and every key that reads them."""
        return self._newest, {key_id: self._subkey("cursor", key_id) for key_id in self._keys}

    def token_hash(self, app_id: str, account: str, token: str) -> bytes:
        """32 bytes to look an address up by.

        It comes from the *oldest* key, the last of the file, so a new key at the front leaves every look-up as it was.
        Whoever removes the last key makes all addresses unfindable until their devices register anew.
        """
        return hmac_sha256(self._subkey("token-hash", self._oldest), bound((app_id, account, token)))

    # --- sealing ---

    def seal(self, plaintext: bytes, aad: tuple[str, ...]) -> bytes:
        """Sealed with the newest key and bound to `aad`: table, column, and the row's own key."""
        header = bytes((VERSION, self._newest))
        nonce = self._rng.randbytes(NONCE_BYTES)
        return header + nonce + self._ciphers[self._newest].encrypt(nonce, plaintext, header + bound(aad))

    def open(self, sealed: bytes, aad: tuple[str, ...]) -> bytes:
        """What was sealed with this very `aad`. Raises SealBroken."""
        if len(sealed) < HEADER_BYTES + NONCE_BYTES + TAG_BYTES or sealed[0] != VERSION:
            raise SealBroken
        cipher = self._ciphers.get(sealed[1])
        if cipher is None:
            raise SealBroken
        header, rest = bytes(sealed[:HEADER_BYTES]), sealed[HEADER_BYTES:]
        try:
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], header + bound(aad))
        except InvalidTag:
            raise SealBroken from None

    def stale(self, sealed: bytes) -> bool:
        """Whether an older key than the newest sealed this, so that it should be sealed again."""
        return sealed[:HEADER_BYTES] != bytes((VERSION, self._newest))

    def _subkey(self, purpose: str, key_id: int) -> bytes:
        """HKDF-SHA-256 (RFC 5869) of the key, one for each purpose."""
        found = self._subkeys.get((purpose, key_id))
        if found is None:
            info = b"push-relay.v1\x1f" + purpose.encode() + b"\x1f" + bytes((key_id,))
            found = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._keys[key_id])
            if len(self._subkeys) >= SUBKEYS_MAX:
                self._subkeys.clear()
            self._subkeys[purpose, key_id] = found
        return found


def key_id_of(sealed: bytes) -> int:
    """The id of the ring's key that sealed this."""
    return sealed[1]


def bound(parts: tuple[str, ...]) -> bytes:
    """One byte string for these parts and no others."""
    coded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in coded)


# --- the file ---------------------------------------------------------------------------------------------------------


def _printed(keys: Sequence[tuple[int, bytes]]) -> str:
    listed = [{"id": key_id, "key": base64.urlsafe_b64encode(key).decode()} for key_id, key in keys]
    return json.dumps({"keys": listed}, indent=2) + "\n"


def _read(path: Path) -> str:
    try:
        # Without O_NONBLOCK, a named pipe put here would hang the start.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError([f"{path}: is not a file; keys.file must name the file with the relay's keys."])
            if found.st_mode & 0o077:
                mode = f"{stat.S_IMODE(found.st_mode):04o}"
                raise ConfigError([f"{path}: others than its owner have access (mode {mode}); chmod 600 it."])
            with os.fdopen(fd, "rb", closefd=False) as file:
                raw = file.read(FILE_BYTES_MAX + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        way_out = f"restore it from where you keep it, or set {KEYS_ENV}; a new one would not open what is stored"
        raise ConfigError([f"{path}: the file with the relay's keys is missing; {way_out}."]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror}); the relay's own user must own it."]) from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError([f"{path}: is larger than {FILE_BYTES_MAX} bytes; it is no key file."])
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: is not UTF-8 text; restore it from where you keep it."]) from None


def _parsed(text: str, origin: str) -> list[tuple[int, bytes]]:
    form = 'write {"keys": [{"id": 1, "key": "<32 bytes in base64>"}]}, the newest first'
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise ConfigError([f"{origin}: is not a key ring; {form}."]) from None
    listed = document.get("keys") if isinstance(document, dict) and set(document) == {"keys"} else None
    if not isinstance(listed, list) or not listed:
        raise ConfigError([f"{origin}: lists no keys; {form}."])
    keys: dict[int, bytes] = {}
    mistakes: list[str] = []
    for place, one in enumerate(listed, start=1):
        where = f"{origin}: key {place}"
        if not isinstance(one, dict) or set(one) != {"id", "key"}:
            mistakes.append(f'{where}: must have "id" and "key", and nothing else.')
            continue
        key_id, key = one["id"], _decoded(one["key"])
        if type(key_id) is not int or not 0 <= key_id <= KEY_ID_MAX:
            mistakes.append(f'{where}: its "id" must be a number from 0 to {KEY_ID_MAX}.')
        elif key is None:
            mistakes.append(f'{where}: its "key" must be {KEY_BYTES} random bytes in base64.')
        elif key_id in keys or key in keys.values():
            mistakes.append(f"{where}: its id or key stands in the ring already; each must be its own.")
        else:
            keys[key_id] = key
    if mistakes:
        raise ConfigError(mistakes)
    return list(keys.items())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _decoded(text: object) -> bytes | None:
    if not isinstance(text, str) or not text.isascii():
        return None
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    # A key of one byte repeated is somebody's placeholder.
    return key if len(key) == KEY_BYTES and len(set(key)) > 1 else None


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
