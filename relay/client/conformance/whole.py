"""What a relay says beside what a conversation is about, so that a client under test hears whole frames. Pure."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_INSTANTS = {"accepted_at": "2026-05-03T09:12:44.018Z", "expires_at": "2099-05-10T09:12:44.018Z"}
_WELCOME: dict[str, Any] = {
    "reason": None,
    "acked": 0,
    "upgrade": None,
    "ack_wait_s": 10.0,
    "window": {"entries": 200, "bytes": 1048576},
    "addresses": [],
    "next_poll_s": 5,
    "now": "2026-05-03T09:12:45.000Z",
    "advice": {"min_app_version": None, "upgrade": "none"},
    "token": {"token": None, "expires_at": "2099-06-02T09:12:44.018Z", "renew_at": None},
}
_MESSAGE: dict[str, Any] = _INSTANTS | {
    "conversation": {"type": "direct", "id": None},
    "sender": None,
    "priority": "normal",
    "collapse_key": None,
    "client_ref": None,
}


def whole(frame: Mapping[str, Any]) -> dict[str, Any]:
    """The frame with the members that it leaves to the relay, each as an ordinary relay has it."""
    match frame["type"]:
        case "welcome":
            return _WELCOME | dict(frame)
        case "batch":
            return {**frame, "entries": [_entry(one) for one in frame["entries"]]}
        case _:
            return dict(frame)


def text_of(value: Any) -> str:
    """JSON as a relay writes it, which is what `h` is made from."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    if "body" not in entry:
        return dict(entry)
    digest = hashlib.sha256(text_of(entry["body"]).encode()).digest()
    return _MESSAGE | {"h": digest[:8].hex()} | dict(entry)
