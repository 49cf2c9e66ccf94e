"""The order in which transactions take their locks, and whether they write a user's rows under its lock (I42, protocol 6.4).

SQLite's writer is alone, so here nobody waits for anybody. But the statements that lock on PostgreSQL run here too, and say
so themselves: what each transaction locks, in which order, is seen in every run, and with it whether two could wait for
each other. Statements that take only what is free (SKIP LOCKED) wait for nobody, at whatever place.

It does not see what is left out on SQLite (the rows of jobs and accounts that are held, `hold_waiting`) and what the server
locks by itself, for foreign keys say; that, and deadlocks themselves, tests on PostgreSQL see (`tests/store/test_lock_order.py`).
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, Executable, Select

from relay.store.direct import DirectConnection

from .client import Broken

CONVERSATIONS, INBOXES = "conversation", "inbox"
ORDERED = frozenset({CONVERSATIONS, INBOXES})
CLAIMS_KEYS = ('INSERT INTO "idempotency"', 'INSERT OR IGNORE INTO "idempotency"')

User = tuple[str, str]
NAMED = {  # by table, the parameters that say which rows
    INBOXES: ("users",),
    CONVERSATIONS: ("names", "groups", "group"),
}
LISTS = frozenset({"users", "names", "groups"})  # as JSON


class Locks:
    """Those of the transaction that runs, and the first thing that was wrong in any."""

    def __init__(self) -> None:
        self.wrong: str | None = None
        self._inboxes: set[User] = set()
        self._conversations: set[User] = set()
        self._tables: dict[Select[Any], tuple[str, bool]] = {}

    def begin(self) -> None:
        """A transaction; on PostgreSQL each piece of work is one."""
        self._inboxes.clear()
        self._conversations.clear()

    def select(self, statement: Select[Any], params: Mapping[str, Any]) -> None:
        """A SELECT … FOR UPDATE, or a weaker one."""
        if statement not in self._tables:
            lock = statement._for_update_arg
            assert lock is not None
            tables = [getattr(one, "name", "") for one in statement.get_final_froms()]
            self._tables[statement] = next((one for one in tables if one in ORDERED), ""), bool(lock.skip_locked)
        table, skips = self._tables[statement]
        wanted = set(_named(table, params))
        if table == INBOXES:
            self._inbox(wanted, skips=skips)
        elif table == CONVERSATIONS:
            if self._inboxes and not skips and not (wanted and wanted <= self._conversations):
                self._say(f"a conversation {sorted(wanted)} is locked after the inboxes {sorted(self._inboxes)}")
            self._conversations |= wanted

    def _inbox(self, wanted: set[User], *, skips: bool) -> None:
        more = wanted - self._inboxes
        if more and self._inboxes and not skips and min(more) < max(self._inboxes):
            self._say(f"the inbox of {min(more)} is locked after that of {max(self._inboxes)}")
        self._inboxes |= wanted

    def keys(self) -> None:
        """The keys of messages are claimed: whoever has claimed the same is waited for."""
        if self._inboxes or self._conversations:
            self._say(f"keys are claimed after the locks of {sorted(self._inboxes | self._conversations)}")

    def written(self, user: User) -> None:
        """A row under this user's inbox."""
        if user not in self._inboxes:
            self._say(f"a row of {user} is written without its lock")

    def _say(self, what: str) -> None:
        self.wrong = self.wrong or what

    def committed(self) -> None:
        """Raises Broken."""
        if self.wrong is not None:
            raise Broken(f"I42: {self.wrong}")


def _named(table: str, params: Mapping[str, Any]) -> list[User]:
    """The rows that a statement of the store asks for, as far as it names them."""
    for name in NAMED.get(table, ()):
        if name in params:
            value = params[name]
            return [(params["app"], one) for one in (json.loads(value) if name in LISTS else [value])]
    return []


class WatchedConnection(DirectConnection):
    """A connection whose statements are seen by `locks`."""

    def __init__(self, engine: Engine, locks: Locks) -> None:
        super().__init__(engine)
        self._locks = locks

    def execute(self, statement: Executable, parameters: Any = None, **options: Any) -> Any:
        if type(statement) is Select and statement._for_update_arg is not None:
            self._locks.select(statement, parameters or {})
        return super().execute(statement, parameters, **options)

    def packed(self, statement: Executable, parameters: Mapping[str, Any]) -> Any:
        if type(statement) is Select and statement._for_update_arg is not None:
            self._locks.select(statement, parameters)
        return super().packed(statement, parameters)

    def run(self, text: str, values: Any = ()) -> int:
        if text == "SAVEPOINT work":
            self._locks.begin()
        elif text.startswith("INSERT") and text.startswith(CLAIMS_KEYS):
            self._locks.keys()
        return super().run(text, values)
