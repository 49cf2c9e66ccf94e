"""SEC-5: a statement that reads or changes rows of an app says which app's, whatever ids it is given."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from sqlalchemy import ClauseElement, CompoundSelect, Delete, Select, TextClause, Update

import relay
from relay.store.schema import metadata

OWNED = sorted(name for name, table in metadata.tables.items() if "app_id" in table.c)

# What is for all apps at once. Each gives keys or counts to code that then asks with the app, or is about the relay itself.
SWEEPS = {
    "addresses._some",
    "devices._online",
    "devices._online_at",
    "devices._silent",
    "escalations._escalating",
    "entry_ends._expiring",
    "fanout._due",
    "inbox._with_entries",
    "messages._content_over",
    "timelines._with_entries",
    "queue._suspect_users",
    "parked._parked",
    "parked._times",
    "parked._unreleased",
    "quota._held",
    "sequencer._waiting_apps",
    "vault._since",
    "vault._wrapped",
}
AGED = {"addresses._forget_moves", "messages._forget_keys", "quota._forget", "quota._forget_held"}
# A credential's id is known before its app is: it says which app that is. Ids are unique over all apps.
CREDENTIALS = {
    *("apps._by_key_id", "apps._leaked", "apps._renew", "apps._used", "apps._revoked"),
    *("tokens._renew", "tokens._revoked"),
}


def prepared() -> Iterator[tuple[str, ClauseElement]]:
    """The statements that are made when a module is loaded: nearly all there are."""
    for found in pkgutil.walk_packages(relay.__path__, "relay."):
        if "migrations" in found.name or found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if isinstance(value, Select | CompoundSelect | Update | Delete | TextClause):
                yield f"{found.name.rpartition('.')[2]}.{name}", value


def of_which_app(statement: ClauseElement) -> bool:
    """Whether what it finds or changes is narrowed to an app: beyond the columns that it only gives back, the place from which
    a walk goes on, and its order."""
    text = re.sub(r"\([^()]*\) > \([^()]*\)|\bORDER BY [\w., ]+", "", str(statement))
    if text.lstrip().startswith("INSERT"):
        return "app_id" in text
    narrowed = re.split(r"\bWHERE\b|\bON\b", text, maxsplit=1)
    return len(narrowed) > 1 and "app_id" in narrowed[1]


def test_every_statement_on_rows_of_an_app_names_the_app() -> None:
    unnamed = {
        name
        for name, statement in prepared()
        if any(re.search(rf"\b(FROM|JOIN|UPDATE|INTO)\s+{table}\b", str(statement)) for table in OWNED)
        and not of_which_app(statement)
    }
    assert unnamed == SWEEPS | AGED | CREDENTIALS


@pytest.mark.parametrize("table", OWNED)
def test_the_app_is_part_of_every_key(table: str) -> None:
    keys = [metadata.tables[table].primary_key, *metadata.tables[table].foreign_key_constraints]
    assert all("app_id" in key.columns for key in keys)
