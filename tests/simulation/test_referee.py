"""The referee of the simulation blames the relay for what it has done, and for nothing else."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from relay.model import DeviceKey

from .client import RAW, Broken, Client, Database
from .invariants import Owed, _content

BODY = {"for": ["ann"], "schema": 1, "bad": [1]}
ENTRY: dict[str, Any] = {
    "seq": 7,
    "id": "m",
    "kind": "own",
    "h": "00",
    "form": "full",
    "body": BODY,
    "expires_at": "2099-01-01T00:00:00Z",
    "collapse_key": None,
}
OWED = Owed("m", 7, "own", "live", None, None, None, 0, json.dumps(BODY), "ann", "tablet", None, own=1)


@pytest.mark.parametrize("had", [True, False])
def test_a_copy_that_was_acked_in_full_does_not_come_again_to_who_lost_it_and_could_not_read_it_then(had: bool) -> None:
    """It was had by version 2; its store was lost under version 1, whose refusal the relay need not hear: it was acked."""
    client = Client("ann", "phone", Database("s"), version=2)
    phone: Any = SimpleNamespace(client=client, key=DeviceKey("app", "ann", "phone"))
    if had:
        client._keep(ENTRY)
    client.database, client.version = Database("t"), 1
    client._keep(ENTRY)
    assert client.database.messages == {"m": RAW}
    client.version = 2
    if had:
        _content(phone, OWED, [])
    else:
        with pytest.raises(Broken, match="LOST"):
            _content(phone, OWED, [])
