"""API keys that came where keys leak: in a URL or a cookie (safety SEC-1). Told once; to revoke one is its owner's to say."""

from relay.clock import rfc3339
from relay.store import apps as rows
from relay.store.engine import Conn
from relay.store.events import NewEvent, derived_id, emit

EVENT = "api_key.leaked"


def flag_leaked(conn: Conn, now_ms: int, *, app_id: str, key_id: str) -> bool:
    """Marks the key for rotation and tells its app; gives whether that is news."""
    if not rows.flag_leaked(conn, now_ms, key_id):
        return False
    key = rows.api_key_row(conn, key_id)
    assert key is not None  # it was just marked
    data = {"key_id": key_id, "name": key.name, "at": rfc3339(now_ms)}
    event_id = derived_id("evt_", EVENT, app_id, key_id)
    emit(conn, now_ms, [NewEvent(app_id=app_id, event_id=event_id, type=EVENT, data=data)])
    return True
