"""The store's own row: its epoch, its ticks, and the witness outside that notices when the store was set back."""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
from sqlalchemy import Connection, delete, select, text, update

from relay.ids import random_hex
from relay.store.schema.itself import node, store_meta
from relay.store.sql import insert_missing, upsert

FREEZE_MS = 7 * 86_400_000
NODE_KEEP_MS = 86_400_000
TICK_S = 5.0
NODE_DEAD_MS = 15_000  # without a tick (protocol 6.6)


def prepare(conn: Connection, now_ms: int, rng: random.Random) -> None:
    """Makes the store's row, once."""
    insert_missing(
        conn,
        store_meta,
        [
            {
                "id": 1,
                "epoch": random_hex(rng, bits=128),
                "epoch_since_ms": now_ms,
                "ticks": 0,
                "timeline_mark": None,
                "pruning_frozen_until_ms": 0,
            }
        ],
    )


def is_new(conn: Connection, now_ms: int) -> bool:
    """Whether nothing has been kept here yet: there are at most empty tables."""
    del now_ms
    return conn.execute(select(store_meta.c.id)).first() is None


def pruning_frozen_until_ms(conn: Connection) -> int:
    """Until when nothing may be pruned, since the store was set back."""
    return int(conn.execute(select(store_meta.c.pruning_frozen_until_ms)).scalar_one())


def epoch_since_ms(conn: Connection) -> int:
    """When the store was made, or last found set back."""
    return int(conn.execute(select(store_meta.c.epoch_since_ms)).scalar_one())


def set_back_ms(conn: Connection) -> int | None:
    """When the store was last found set back; None if it never was."""
    row = conn.execute(select(store_meta.c.epoch_since_ms, store_meta.c.pruning_frozen_until_ms)).one()
    return int(row.epoch_since_ms) if row.pruning_frozen_until_ms else None


def begin_epoch(conn: Connection, now_ms: int, rng: random.Random) -> tuple[str, str]:
    """Numbers were lost: every cursor made before is void from here on, and nothing acked is pruned for a week.

    Gives the old and the new epoch.
    """
    old = str(conn.execute(select(store_meta.c.epoch)).scalar_one())
    new = random_hex(rng, bits=128)
    conn.execute(
        update(store_meta).values(epoch=new, epoch_since_ms=now_ms, pruning_frozen_until_ms=now_ms + FREEZE_MS)
    )
    return old, new


class Witness(msgspec.Struct, frozen=True):
    """What the witness file says: this epoch had come at least this far."""

    epoch: str
    ticks: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class WitnessFile:
    """A small file outside the store: a database that was set back doesn't bring its witness along."""

    path: Path

    @classmethod
    def beside(cls, path: Path) -> Self:
        """The witness of the store whose database, or whose key file, is at `path`."""
        return cls(path.with_name(path.name + ".witness"))

    def read(self) -> Witness | None:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Witness)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, witness: Witness) -> None:
        """Replaces it, whole even after a power cut: what it tells has been committed before. Raises OSError."""
        new = self.path.with_name(self.path.name + ".new")
        with new.open("wb") as file:
            file.write(msgspec.json.encode(witness))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


def behind(conn: Connection, witness: Witness | None) -> bool:
    """Whether the store is behind its witness: it was set back without being told so."""
    if witness is None:
        return False
    row = conn.execute(select(store_meta.c.epoch, store_meta.c.ticks)).one()
    return bool(row.epoch == witness.epoch and row.ticks < witness.ticks)


_tick = update(store_meta).values(ticks=store_meta.c.ticks + 1)
_how_far = select(store_meta.c.epoch, store_meta.c.ticks)


def tick(conn: Connection, now_ms: int, node_id: str) -> Witness:
    """Every 5 s: the store moves on, and so does this node's row. Gives what the witness is to remember."""
    conn.execute(_tick)
    upsert(
        conn,
        node,
        [{"node_id": node_id, "started_ms": now_ms, "beat_ms": now_ms}],
        set_={"beat_ms": "excluded.beat_ms"},
    )
    return witness(conn, now_ms)


def witness(conn: Connection, now_ms: int) -> Witness:
    """How far the store has come."""
    row = conn.execute(_how_far).one()
    return Witness(epoch=row.epoch, ticks=row.ticks, at_ms=now_ms)


_last_beat = text("SELECT max(beat_ms) FROM node")


def last_beat_ms(conn: Connection) -> int | None:
    """When any node was last alive."""
    found = conn.execute(_last_beat).scalar()
    return None if found is None else int(found)


def nodes(conn: Connection, now_ms: int, *, dead: bool) -> frozenset[str]:
    """Those that have not ticked for a while, of the last day; or those that have."""
    last = node.c.beat_ms
    wanted = last < now_ms - NODE_DEAD_MS if dead else last >= now_ms - NODE_DEAD_MS
    return frozenset(conn.scalars(select(node.c.node_id).where(wanted)))


def forget_nodes(conn: Connection, now_ms: int) -> None:
    """Drops the rows of nodes that have not beaten for a day: each start of a relay makes a new one."""
    conn.execute(delete(node).where(node.c.beat_ms < now_ms - NODE_KEEP_MS))
