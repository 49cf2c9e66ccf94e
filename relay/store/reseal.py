"""Seals an app's secrets again, under its newest data key: a few rows at a time, beside running relays, resumable.

A row that is current is passed over, so breaking off costs nothing; one that somebody changed meanwhile is left to the
next round. A row that cannot be opened is left as it is, and counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Row, Table, bindparam, func, select, tuple_, update

from relay.keys import SealBroken
from relay.model import DeviceKey
from relay.store.schema.devices import address
from relay.store.schema.webhooks import endpoint
from relay.store.vault import Vault, address_place, headers_place, number_of, secret_place

Place = Callable[[Row[Any]], tuple[str, ...]]
Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column of sealed values."""

    column: Column[bytes]
    place: Place

    @property
    def table(self) -> Table:
        return self.column.table

    @property
    def key(self) -> tuple[Column[Any], ...]:
        return tuple(self.table.primary_key.columns)


@dataclass(frozen=True, slots=True)
class Round:
    """What one step did. `at` is None at the end of the column."""

    at: Key | None
    seen: int
    sealed: int
    broken: int


def _of_address(row: Row[Any]) -> tuple[str, ...]:
    return address_place(DeviceKey(row.app_id, row.user_id, row.device_id), row.account)


SEALED = (
    Sealed(address.c.token_sealed, _of_address),
    Sealed(endpoint.c.secret_sealed, lambda row: secret_place(row.app_id, row.endpoint_id)),
    Sealed(endpoint.c.old_secret_sealed, lambda row: secret_place(row.app_id, row.endpoint_id)),
    Sealed(endpoint.c.headers_sealed, lambda row: headers_place(row.app_id, row.endpoint_id)),
    Sealed(address.c.keys_sealed, _of_address),
)


def count(conn: Connection, one: Sealed) -> int:
    """How many values the column holds."""
    holds = func.length(one.column) > 0
    return int(conn.execute(select(func.count()).select_from(one.table).where(holds)).scalar_one())


def reseal_some(conn: Connection, vault: Vault, one: Sealed, after: Key | None, *, limit: int) -> Round:
    """Seals the next values again that an older data key sealed."""
    wanted = select(one.table).where(func.length(one.column) > 0)
    if after is not None:
        wanted = wanted.where(tuple_(*one.key) > tuple_(*after))
    rows = list(conn.execute(wanted.order_by(*one.key).limit(limit)))
    changes: list[dict[str, Any]] = []
    broken = 0
    for row in rows:
        old = getattr(row, one.column.name)
        if number_of(old) == vault.newest(row.app_id):
            continue
        place = one.place(row)
        try:
            new = vault.seal(vault.open(old, place), place)
        except SealBroken:
            broken += 1
            continue
        changes.append({f"k_{c.name}": getattr(row, c.name) for c in one.key} | {"old": old, "new": new})
    if changes:
        here = [c == bindparam(f"k_{c.name}") for c in one.key]
        conn.execute(
            update(one.table).where(*here, one.column == bindparam("old")).values({one.column: bindparam("new")}),
            changes,
        )
    at = tuple(getattr(rows[-1], c.name) for c in one.key) if len(rows) == limit else None
    return Round(at, len(rows), len(changes), broken)
