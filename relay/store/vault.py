"""Sealing of what must be readable again: push tokens, webhook secrets (safety SEC-11).

Every app has a data key, which seals; the key ring seals only the data keys. So a new ring key means re-wrapping a row
for each app, and a new data key means sealing the app's rows again (`relay.store.reseal`), both beside running relays.

Stored form of what is sealed: version (1 byte) | data key's number (2) | nonce (12) | AES-256-GCM ciphertext and tag.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Row, bindparam, func, select, update

from relay.errors import ConfigError
from relay.ids import Rng
from relay.keys import KEY_BYTES, NONCE_BYTES, TAG_BYTES, KeyRing, SealBroken, bound, key_id_of
from relay.model import DeviceKey
from relay.store.schema.apps import app, data_key
from relay.store.sql import beyond, insert_missing

VERSION: Final = 2
HEADER_BYTES: Final = 3
NUMBER_MAX: Final = 0xFFFF
RIPE_MS: Final = 15_000  # a data key seals only when every node has had the time to learn of it
LATE_MS: Final = 60_000  # how late a row may appear, by the times that it bears


class Vault:
    """The apps' data keys, opened. A place is (table.column, app, the row's own key...): nothing opens in another one."""

    def __init__(self, ring: KeyRing, rng: Rng, *, ripe_ms: int = RIPE_MS) -> None:
        self._ring = ring
        self._rng = rng
        self._ripe_ms = ripe_ms
        self._ciphers: dict[str, dict[int, AESGCM]] = {}
        self._born_ms: dict[str, dict[int, int]] = {}
        self._newest: dict[str, int] = {}
        self._learned_ms = 0

    # --- its keys ---

    def news(self, conn: Connection, _: int) -> list[Row[Any]]:
        """The rows of data keys that it may not know."""
        return list(conn.execute(_since, {"since": self._learned_ms - LATE_MS}))

    def learn(self, rows: Iterable[Row[Any]], now_ms: int) -> None:
        """Takes what `news` gave. Raises ConfigError if the ring cannot open one."""
        for row in rows:
            if row.number in self._ciphers.get(row.app_id, {}):
                continue
            self._ciphers.setdefault(row.app_id, {})[row.number] = AESGCM(_unwrapped(self._ring, row))
            self._born_ms.setdefault(row.app_id, {})[row.number] = row.created_ms
        for app_id, born in self._born_ms.items():
            first = min(born)
            ripe = [number for number, born_ms in born.items() if number == first or born_ms + self._ripe_ms <= now_ms]
            self._newest[app_id] = max(ripe)
        self._learned_ms = now_ms

    def newest(self, app_id: str) -> int:
        """The number of the data key that seals."""
        return self._newest[app_id]

    # --- sealing ---

    def seal(self, plaintext: bytes, place: tuple[str, ...]) -> bytes:
        """Sealed with the app's newest data key, for this place."""
        number = self._newest[place[1]]
        header = bytes((VERSION,)) + number.to_bytes(2, "big")
        nonce = self._rng.randbytes(NONCE_BYTES)
        cipher = self._ciphers[place[1]][number]
        return header + nonce + cipher.encrypt(nonce, plaintext, header + bound(place))

    def open(self, sealed: bytes, place: tuple[str, ...]) -> bytes:
        """What was sealed for this very place. Raises SealBroken."""
        number = number_of(sealed)
        cipher = None if number is None else self._ciphers.get(place[1], {}).get(number)
        if cipher is None:
            raise SealBroken
        header, rest = bytes(sealed[:HEADER_BYTES]), sealed[HEADER_BYTES:]
        try:
            return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], header + bound(place))
        except InvalidTag:
            raise SealBroken from None


def number_of(sealed: bytes) -> int | None:
    """The number of the data key that sealed this; None if it is nothing sealed."""
    if len(sealed) < HEADER_BYTES + NONCE_BYTES + TAG_BYTES or sealed[0] != VERSION:
        return None
    return int.from_bytes(sealed[1:HEADER_BYTES], "big")


OpenToken = Callable[[tuple[str, ...], bytes], str]  # (place, sealed) -> text; raises SealBroken


# --- places -----------------------------------------------------------------------------------------------------------


def address_place(device: DeviceKey, account: str) -> tuple[str, ...]:
    """Where a push token is sealed, and the keys that came with it."""
    return ("address.token", device.app_id, device.user_id, device.device_id, account)


def secret_place(app_id: str, endpoint_id: str) -> tuple[str, ...]:
    """Where a webhook endpoint's signing secret is sealed, the present one and the one before."""
    return ("endpoint.secret", app_id, endpoint_id)


def headers_place(app_id: str, endpoint_id: str) -> tuple[str, ...]:
    """Where the headers that an endpoint is sent are sealed."""
    return ("endpoint.headers", app_id, endpoint_id)


def _place(app_id: str, number: int) -> tuple[str, ...]:
    return ("data_key.wrapped", app_id, str(number))


# --- rows of data keys ------------------------------------------------------------------------------------------------

k = data_key.c
_since = select(data_key).where(k.created_ms >= bindparam("since"))
_bare = select(app.c.app_id).where(app.c.app_id.not_in(select(k.app_id))).order_by(app.c.app_id)
_wrapped = (
    select(data_key)
    .where(beyond((k.app_id, k.number), "app", "number"))
    .order_by(k.app_id, k.number)
    .limit(bindparam("count"))
)
_rewrap = (
    update(data_key)
    .where(k.app_id == bindparam("app"), k.number == bindparam("of"), k.wrapped == bindparam("old"))
    .values(wrapped=bindparam("new"))
)


def _unwrapped(ring: KeyRing, row: Row[Any]) -> bytes:
    """The data key itself. Raises ConfigError."""
    try:
        return ring.open(row.wrapped, _place(row.app_id, row.number))
    except SealBroken:
        raise ConfigError(
            [f"keys: the ring has not the key that app {row.app_id!r} was sealed with; restore the key file."]
        ) from None


def give_keys(conn: Connection, now_ms: int, ring: KeyRing, rng: Rng) -> None:
    """Makes the first data key of every app that has none."""
    _add(conn, now_ms, ring, rng, [(app_id, 1) for app_id in conn.execute(_bare).scalars()])


def add_keys(conn: Connection, now_ms: int, ring: KeyRing, rng: Rng) -> int:
    """A further data key for every app; gives how many."""
    newest = conn.execute(select(k.app_id, func.max(k.number)).group_by(k.app_id).order_by(k.app_id))
    wanted = [(app_id, number + 1) for app_id, number in newest]
    _add(conn, now_ms, ring, rng, wanted)
    return len(wanted)


def _add(conn: Connection, now_ms: int, ring: KeyRing, rng: Rng, wanted: Iterable[tuple[str, int]]) -> None:
    rows: list[dict[str, Any]] = []
    for app_id, number in wanted:
        assert number <= NUMBER_MAX
        wrapped = ring.seal(rng.randbytes(KEY_BYTES), _place(app_id, number))
        rows.append({"app_id": app_id, "number": number, "wrapped": wrapped, "created_ms": now_ms})
    insert_missing(conn, data_key, rows)  # another node may have been first: its key counts


def ring_key_ids(conn: Connection) -> list[int]:
    """The keys of the ring that some data key is wrapped under."""
    return sorted({key_id_of(wrapped) for wrapped in conn.execute(select(k.wrapped)).scalars()})


def check_ring(conn: Connection, ring: KeyRing) -> None:
    """Raises ConfigError unless this ring opens every data key."""
    for row in conn.execute(select(data_key)):
        _unwrapped(ring, row)


def keys_count(conn: Connection) -> int:
    """How many data keys there are."""
    return int(conn.execute(select(func.count()).select_from(data_key)).scalar_one())


def rewrap_some(
    conn: Connection, ring: KeyRing, after: tuple[str, int], *, limit: int
) -> tuple[tuple[str, int] | None, int, int]:
    """Wraps the next data keys under the ring's newest key; gives where it came to, how many it saw and wrapped.

    Repeatable, and nothing changes for relays that run: they hold the data keys themselves. Raises ConfigError.
    """
    rows: list[Row[Any]] = list(conn.execute(_wrapped, {"app": after[0], "number": after[1], "count": limit}))
    changes = []
    for row in rows:
        if ring.stale(row.wrapped):
            place = _place(row.app_id, row.number)
            new = ring.seal(_unwrapped(ring, row), place)
            changes.append({"app": row.app_id, "of": row.number, "old": row.wrapped, "new": new})
    if changes:
        conn.execute(_rewrap, changes)
    return (rows[-1].app_id, rows[-1].number) if rows else None, len(rows), len(changes)
