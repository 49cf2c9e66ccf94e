"""The law of the rows, in simulated worlds with their faults: after commits, not only where a test's own story leads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import law
import pytest
from simulation.client import Broken
from simulation.invariants import Referee
from simulation.run import simulate
from simulation.scenario import drawn

EVERY = 10  # commits; each look reads a whole app
# How an entry stood when it was pruned: it may have ended in that very commit.
NOTES = (
    "CREATE TEMP TABLE IF NOT EXISTS pruned (app_id TEXT, user_id TEXT, seq INTEGER, state TEXT)",
    """CREATE TEMP TRIGGER IF NOT EXISTS note_pruned AFTER DELETE ON inbox_entry BEGIN
        INSERT INTO pruned VALUES (OLD.app_id, OLD.user_id, OLD.seq, OLD.state);
    END""",
)
MINUTES = 10


@dataclass
class Found:
    _mapping: dict[str, Any]


class Plain:
    """The simulation's bare connection, as the law reads one."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def execute(self, statement: Any, params: dict[str, Any]) -> list[Found]:
        cursor = self._raw.execute(str(statement), params)
        names = [column[0] for column in cursor.description]
        return [Found(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


class Court:
    """Reads along with the referee."""

    def __init__(self) -> None:
        self.before: dict[str, law.Rows] = {}
        self.looks = 0
        self._commits = 0

    def committed(self, raw: Any, apps: Iterable[str], now_ms: int) -> None:
        self._commits += 1
        for note in NOTES:
            raw.execute(note)
        for app in sorted(apps):
            self._note_ended(raw, app)
            if self._commits % EVERY and self._floors(raw, app) == self._known(app):
                continue
            self.looks += 1
            conn = Plain(raw)
            rows = law.Rows(conn, app)
            wrong = [*law.numbers(conn, now_ms, app), *law.pruned(self.before.get(app), rows, now_ms)]
            self.before[app] = rows
            if wrong:
                raise Broken("; ".join(wrong))

    def _note_ended(self, raw: Any, app: str) -> None:
        """What has ended since the last look is owed no more, and may be pruned before the next."""
        if (before := self.before.get(app)) is not None:
            over = raw.execute(
                "SELECT user_id, seq, state FROM inbox_entry WHERE app_id = ? AND state <> 'live' "
                "UNION SELECT user_id, seq, state FROM pruned WHERE app_id = ? AND state <> 'live'",
                (app, app),
            )
            ended = {(user, seq): state for user, seq, state in over.fetchall()}
            for user, entries in before.entries.items():
                for entry in entries:
                    entry["state"] = ended.get((user, entry["seq"]), entry["state"])

    def _floors(self, raw: Any, app: str) -> dict[str, int]:
        return dict(raw.execute("SELECT user_id, floor_seq FROM inbox WHERE app_id = ?", (app,)).fetchall())

    def _known(self, app: str) -> dict[str, int]:
        before = self.before.get(app)
        return {} if before is None else {user: row["floor_seq"] for user, row in before.inboxes.items()}


@pytest.mark.parametrize("seed", range(2))
def test_the_rows_are_lawful_whatever_the_seed_brings(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    court, committed, forget = Court(), Referee.committed, Referee.forget

    def both(self: Referee, users: Iterable[tuple[str, str]]) -> None:
        users = list(users)
        committed(self, users)
        court.committed(self._store.raw, {app for app, _ in users}, self.now_ms)

    def none(self: Referee) -> None:
        court.before.clear()
        forget(self)

    monkeypatch.setattr(Referee, "committed", both)
    monkeypatch.setattr(Referee, "forget", none)
    result = simulate(drawn(seed, minutes=MINUTES), keep=False)
    assert result.error is None
    assert court.looks > 20


def test_i15_the_law_sees_what_is_pruned_too_early() -> None:
    entry = {
        **dict.fromkeys(("only_device", "scope", "kind", "origin_device", "origin_session", "min_schema"), None),
        **dict.fromkeys(("min_app_version", "fallback_h"), None),
        "seq": 1,
        "state": "live",
        "expires_ms": 100,
        "accepted_ms": 0,
    }
    device = {"user_id": "ann", "device_id": "phone", "state": "active", "start_seq": 0, "acked_seq": 0}

    def rows(floor: int, **more: Any) -> law.Rows:
        found: Any = object.__new__(law.Rows)
        found.inboxes = {"ann": {"epoch": "e", "floor_seq": floor}}
        found.devices = [
            device | {"created_ms": 0, "session": 1, "schema": 1, "app_version": None, "platform": None} | more
        ]
        found.entries = {"ann": [entry] if floor == 0 else []}
        found.acks, found.held = [], []
        return found  # type: ignore[no-any-return]

    assert law.pruned(rows(0), rows(1), 50) == ["I15: ann/phone is owed 1, which is below the floor"]
    assert law.pruned(rows(0), rows(1), 100) == [], "it was over"
    assert law.pruned(rows(0), rows(1, acked_seq=1), 50) == []
    assert law.pruned(rows(0), rows(1, state="dormant"), 50) == []
    assert law.pruned(None, rows(1), 50) == []
