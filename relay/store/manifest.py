"""What a backup says of itself, and whether it is one that may be restored here (safety BAK-1)."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec
from sqlalchemy import Connection, func, inspect, select, table

from relay.clock import rfc3339
from relay.errors import ConfigError
from relay.keys import KeyRing
from relay.store import apps, vault
from relay.store.migrate import HEAD, known, revision
from relay.store.schema.conversations import conversation
from relay.store.schema.inboxes import inbox
from relay.store.schema.itself import store_meta
from relay.store.sql import is_sqlite

NAME: Final = "manifest.json"
BYTES_MAX: Final = 1024 * 1024
PRODUCT: Final = "push-relay"

Why = Literal["absent", "exists", "busy", "bad", "disk"]


class Refused(Exception):  # noqa: N818 - it is what happened
    """A backup or a restore that is not done, and left everything as it was.

    `why`: there is nothing to read (absent), something is there already (exists), somebody is using it (busy), the
    backup is not whole or not for here (bad), or the disk fails or is full (disk).
    """

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why: Why = why


class DataFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file beside the manifest."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json` of a backup."""

    product: Literal["push-relay"] = PRODUCT
    format: Literal[1] = 1
    store: Literal["sqlite", "postgresql"]
    at: str  # RFC 3339; everything accepted before is in the backup
    at_ms: int
    schema: str
    epoch: str
    ticks: int
    highest_seq: int
    apps: dict[str, str]  # id -> what tells two apps of the same name apart
    key_ids: list[int]  # of the key ring: without these, the secrets in the store can't be opened
    tables: dict[str, int]  # rows
    file: DataFile | None = None  # None where the server makes the backup

    def save(self, folder: Path) -> None:
        """Writes it; the caller syncs the folder. Raises OSError."""
        with (folder / NAME).open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def load(folder: Path) -> Manifest:
    """The manifest of the backup in this folder. Raises Refused, and ConfigError if a newer relay made it."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise Refused(
            "bad",
            f"{folder}: has no {NAME}, so it is no backup; `relay backup` makes one. "
            "A copy of the database file of a running relay is none: it may lack what is only in the log.",
        ) from None
    except OSError as error:
        raise Refused("disk", f"{path}: cannot be read ({error.strerror}).") from None
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as error:
        raise Refused("bad", f"{path}: is not the manifest of a push-relay backup ({error}).") from None


# --- taking it --------------------------------------------------------------------------------------------------------


def take(conn: Connection, at_ms: int, *, counts: dict[str, int] | None = None) -> Manifest:
    """What the store is now; `at_ms` is no later than the snapshot. Raises Refused for what is no store of ours."""
    at = revision(conn)
    state = None if at is None else conn.execute(select(store_meta.c.epoch, store_meta.c.ticks)).one_or_none()
    if at is None or state is None:
        raise Refused("absent", "The store is empty: no relay has used it yet.")
    return Manifest(
        store="sqlite" if is_sqlite(conn) else "postgresql",
        at=rfc3339(at_ms),
        at_ms=at_ms,
        schema=at,
        epoch=state.epoch,
        ticks=state.ticks,
        highest_seq=max(
            conn.execute(select(func.coalesce(func.max(column), 0))).scalar_one()
            for column in (inbox.c.head_seq, conversation.c.head_seq)
        ),
        apps={app_id: fingerprint(secret) for app_id, secret in sorted(apps.apps(conn).items())},
        key_ids=vault.ring_key_ids(conn),
        tables=count(conn, table_names(conn)) if counts is None else counts,
    )


def table_names(conn: Connection) -> list[str]:
    """The tables whose rows are counted."""
    return sorted(set(inspect(conn).get_table_names()) - {"alembic_version"})


def count(conn: Connection, names: Iterable[str]) -> dict[str, int]:
    """Rows of each table."""
    return {name: int(conn.execute(select(func.count()).select_from(table(name))).scalar_one()) for name in names}


def fingerprint(id_secret: bytes) -> str:
    """Tells apps of the same name apart, and gives nothing away of the secret."""
    return hashlib.sha256(b"push-relay app\x1f" + id_secret).hexdigest()[:16]


# --- judging it -------------------------------------------------------------------------------------------------------


def check_schema(manifest: Manifest) -> None:
    """Raises ConfigError for a backup that a newer relay made."""
    if manifest.schema not in known():
        raise ConfigError(
            [
                f"backup: it is of schema {manifest.schema}, which is newer than this relay's {HEAD}; run the newer relay."
            ]
        )


def check_ring(manifest: Manifest, ring: KeyRing) -> None:
    """Raises ConfigError if the ring lacks a key that the backup's secrets need."""
    lacking = sorted(set(manifest.key_ids) - set(ring.key_ids))
    if lacking:
        raise ConfigError(
            [
                f"keys: the backup's secrets are sealed with the ring's key {', '.join(map(str, lacking))}, and this ring "
                f"has only {', '.join(map(str, sorted(ring.key_ids)))}; put the key file of the backup's time in its place."
            ]
        )


def check_content(conn: Connection, manifest: Manifest, ring: KeyRing) -> None:
    """Raises Refused if the data is not what the manifest says; ConfigError if the ring's keys do not open its secrets."""
    found = take(conn, manifest.at_ms)
    for what in ("schema", "epoch", "ticks", "highest_seq", "apps", "key_ids", "tables"):
        if getattr(found, what) != getattr(manifest, what):
            raise Refused("bad", f"backup: its data and its {NAME} do not belong together: they differ in {what}.")
    vault.check_ring(conn, ring)
