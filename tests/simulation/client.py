"""What a client does right (protocol §15), as a pure core: a database with the cursor inside, and what each answer does to it.

Nothing here waits or talks; `phone.py` carries its words.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from .ledger import Ledger

FULL, RAW = "full", "raw"


class Broken(AssertionError):
    """The relay broke its word to a client."""


@dataclass(slots=True)
class Database:
    """The client's message database. Copying it is a backup; a new one has another `store_id`."""

    store_id: str
    epoch: str = ""
    seq: int = 0
    cursor: str | None = None
    messages: dict[str, str] = field(default_factory=dict)  # id -> form; control entries: their kind
    ledger: Ledger = field(default_factory=Ledger)
    rotten: bool = False  # some of it is gone, and the cursor does not know
    owed: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # refusals, kept until the relay has heard them, by id
    drafts: set[str] = field(default_factory=set)  # keys of what its user wrote here

    def copy(self) -> "Database":
        return deepcopy(self)


@dataclass(slots=True)
class Client:
    """One installation: its database and what it can show."""

    user_id: str
    device_id: str
    database: Database
    version: int = 1
    schema: int = 1
    session: int = 0
    twin: bool = False  # it has been cloned: somebody else speaks for this device, too
    nacks: dict[str, dict[str, str]] = field(default_factory=dict)  # what can't be shown of the page just stored, by id
    formerly: set[str] = field(default_factory=set)  # names that its user had before
    ever_stored: set[str] = field(default_factory=set)  # the referee's memory, over all databases
    ever_full: set[str] = field(default_factory=set)  # of these, what it had in full

    # --- words ---

    @property
    def app_version(self) -> str:
        return f"{self.version}.0.0"

    def hello(self, *, background: bool, token: tuple[str, str] | None) -> dict[str, Any]:
        """The body of a handshake."""
        said: dict[str, Any] = {
            "app_version": self.app_version,
            "schema": self.schema,
            "platform": "android",
            "state": "background" if background else "foreground",
            "store": {"id": self.database.store_id},
            "cursors": {"inbox": self.database.cursor},
            "window": {"entries": 5 if self.device_id.startswith("d1") else 200},
        }
        if token is not None:
            said["addresses"] = [{"account": token[0], "token": token[1]}]
        return said

    def concerns(self, body: dict[str, Any]) -> bool:
        """Whether the sender meant this user."""
        return not {self.user_id, *self.formerly}.isdisjoint(body["for"])

    # --- answers ---

    def welcomed(self, answer: dict[str, Any]) -> None:
        """The handshake's answer: the session, and where to go on."""
        database = self.database
        at = answer["head"] - answer["missing"]
        if answer["verdict"] != "resync":
            if database.cursor is None:
                raise Broken(f"I35: {answer['verdict']} for a client without a cursor")
            if (answer["epoch"], at) != (database.epoch, database.seq):
                raise Broken(f"I7: {answer['verdict']} goes on at {at}, the client is at {database.seq}")
        if (answer["verdict"] == "resume") != (answer["missing"] == 0 and answer["verdict"] != "resync"):
            raise Broken(f"{answer['verdict']} with {answer['missing']} missing")
        self.session = answer["session"]
        if answer["verdict"] == "resync":
            database.ledger.begin(at, answer["floor"], anew=answer["epoch"] != database.epoch)
        database.ledger.floor = answer["floor"]
        database.epoch, database.seq, database.cursor = answer["epoch"], at, answer["cursors"]["inbox"]

    def reset(self, resync: dict[str, Any]) -> None:
        """A refused cursor: everything stays, reading begins again elsewhere; a handshake follows."""
        anew = resync["epoch"] != self.database.epoch
        self.database.ledger.begin(resync["floor"], resync["floor"], anew=anew)
        self.database.cursor = resync["cursor"]
        self.database.epoch = resync["epoch"]
        self.database.seq = max(resync["floor"], 0)

    def forget_cursor(self) -> None:
        self.database.cursor = None

    def batch(self, batch: dict[str, Any]) -> bool:
        """Stores a page with its cursor, in one transaction; False: it doesn't fit what is here, and is dropped."""
        _covered(batch)
        database = self.database
        if batch["epoch"] != database.epoch or batch["from"] != database.seq:
            return False
        self.nacks = {}
        for entry in batch["entries"]:
            self._keep(entry)
        for gap in batch["gaps"]:
            if gap["why"] == "own":
                database.ledger.own |= {*range(gap["from"] + 1, gap["to"] + 1)} - set(database.ledger.lines)
        database.owed |= self.nacks
        database.seq, database.cursor = batch["to"], batch["cursor"]
        return True

    def fetched(self, batch: dict[str, Any]) -> list[str]:
        """Keeps what came beside the cursor, and gives the ids to ack."""
        _covered(batch)
        self.nacks = {}
        for entry in batch["entries"]:
            self._keep(entry)
        self.database.ledger.own -= {*range(batch["from"] + 1, batch["to"] + 1)}
        self.database.owed |= self.nacks
        return [entry["id"] for entry in batch["entries"] if "body" in entry and entry["id"] not in self.nacks]

    def _keep(self, entry: dict[str, Any]) -> None:
        id_ = entry["id"]
        self.database.ledger.enter(entry)
        if "body" not in entry:
            self.database.messages.setdefault(id_, entry["kind"])
            return
        body = entry["body"]
        if not self.concerns(body):
            raise Broken(f"I45: {id_} is for {body['for']}, {self.user_id} got it")
        form = entry["form"]
        if form == FULL and body["schema"] > self.schema and self.twin:
            form = RAW  # the device's other installation told the relay what it can show
        elif form == FULL and body["schema"] > self.schema:
            raise Broken(f"{id_} needs schema {body['schema']}, the client has {self.schema}")
        had = self.database.messages.get(id_) == FULL  # by an earlier version, it may be
        if self.version in body["bad"] and form == FULL and not had:
            self.nacks[id_] = {"id": id_, "code": "undecodable", "app_version": self.app_version}
            form = RAW
        if not had:
            self.database.messages[id_] = form
        self.ever_stored.add(id_)
        if form == FULL:
            self.ever_full.add(id_)


def _covered(batch: dict[str, Any]) -> None:
    """I5: entries and gaps together name every number of (from, to] exactly once, in order."""
    named = [entry["seq"] for entry in batch["entries"]]
    if named != sorted(named):
        raise Broken(f"I30: a page out of order: {named}")
    for gap in batch["gaps"]:
        named += range(gap["from"] + 1, gap["to"] + 1)
    if sorted(named) != list(range(batch["from"] + 1, batch["to"] + 1)):
        raise Broken(f"I5: {batch['from']}..{batch['to']} names {sorted(named)}")
    if batch["to"] > batch["head"]:
        raise Broken(f"I2: a page up to {batch['to']} with head {batch['head']}")
