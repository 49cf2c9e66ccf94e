"""Messages that this device is to send: kept in the cache's own file from before the first try until it is decided.

A message has one key for all its tries, so that however often it is sent there is one (protocol §15, 10).
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.client.wire import Entry, Received, hash_of, stored_entry

CREATE = """CREATE TABLE outbox (
    place INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, raw TEXT NOT NULL, created_ms INTEGER NOT NULL,
    refused TEXT)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent:
    """A message that the relay has not taken yet. `refused`: its problem (code, detail, errors), if it never will."""

    key: str
    message: Mapping[str, Any]
    created_ms: int
    refused: Mapping[str, Any] | None = None

    @property
    def receivers(self) -> str:
        """Messages to the same receivers keep their order."""
        return json.dumps(self.message.get("to"), sort_keys=True)


class Outbox:
    """The table, in an open cache."""

    def __init__(
        self, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]], rows: Callable[..., list[Any]]
    ) -> None:
        self._transaction = transaction
        self._rows = rows

    def put(self, key: str, message: Mapping[str, Any], *, now_ms: int) -> None:
        """Keeps a message to send; one whose key is here already stays as it is. Raises sqlite3.Error."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO outbox (key, raw, created_ms) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (key, msgspec.json.encode(message).decode(), now_ms),
            )

    def all(self) -> list[Unsent]:
        """What is not sent, in the order in which it was given."""
        return [
            Unsent(
                key=key,
                message=json.loads(raw),
                created_ms=created_ms,
                refused=None if refused is None else json.loads(refused),
            )
            for key, raw, created_ms, refused in self._rows(
                "SELECT key, raw, created_ms, refused FROM outbox ORDER BY place"
            )
        ]

    def refuse(self, key: str, problem: Mapping[str, Any]) -> None:
        """The relay will never take it: it stays, for the app to show and to drop."""
        with self._transaction() as db:
            db.execute("UPDATE outbox SET refused = ? WHERE key = ?", (json.dumps(problem), key))

    def drop(self, *keys: str) -> None:
        with self._transaction() as db:
            db.executemany("DELETE FROM outbox WHERE key = ?", [(key,) for key in keys])

    @staticmethod
    def settle(db: sqlite3.Connection, key: str) -> str | None:
        """Takes out what has been sent, within a transaction; gives its text if it was there."""
        row = db.execute("DELETE FROM outbox WHERE key = ? RETURNING raw", (key,)).fetchone()
        return None if row is None else str(row[0])

    @staticmethod
    def settle_copy(db: sqlite3.Connection, entry: Entry) -> str | None:
        """Takes out the message that this is a copy of, within a transaction; gives its key if it was there.

        Keys are each device's own: with another body it is what another device has sent under the same one.
        """
        for key, raw in db.execute("SELECT key, raw FROM outbox WHERE key = ?", (entry.client_ref,)).fetchall():
            if hash_of(_body_of(raw)) == entry.h:
                db.execute("DELETE FROM outbox WHERE key = ?", (key,))
                return str(key)
        return None


def _body_of(raw: str) -> msgspec.Raw:
    return msgspec.json.decode(raw, type=dict[str, msgspec.Raw])["body"]


def own_entry(raw: str, key: str, sent: Mapping[str, Any]) -> Received | None:
    """The entry that the relay has made of a message, as it would send it; None if its body is not the same text there."""
    body = _body_of(raw)
    if hash_of(body) != sent["h"]:
        return None
    message = json.loads(raw)
    conversation = message.get("conversation") or {}
    group = message["to"].get("group")
    text = msgspec.json.encode(
        {
            "seq": sent["seq"] or 0,
            "id": sent["id"],
            "kind": "own",
            "h": sent["h"],
            "accepted_at": sent["accepted_at"],
            "expires_at": sent["expires_at"],
            "conversation": {
                "type": "direct" if group is None else "group",
                "id": conversation.get("id") or group,
            },
            "sender": sent["sender"],
            "type": message.get("type", "text"),
            "body": body,
            "form": "full",
            "client_ref": message.get("client_ref", key),
        }
    ).decode()
    entry: Entry = stored_entry(text)
    return Received(entry, text)
