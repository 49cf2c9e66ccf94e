"""Words that a client owes the relay until it has heard them: refusals, read markers, receipts. Pure.

Each has a key, so that a newer word takes the place of an older one, and lives in the cache until it is answered.
"""

import json
from collections.abc import Mapping
from typing import Any

WORDS_MAX = 200  # in one ack
WORDS_BYTES_MAX = 48 * 1024  # beside its cursors: the relay reads frames and bodies of 64 KiB
Words = Mapping[str, Mapping[str, Any]]

READ = "read:"  # begins the keys of read markers
_FIELDS = {"nack": "nack", "read": "read", "receipt": "receipts"}


def nack(id_: str, code: str, app_version: str | None = None) -> tuple[str, dict[str, Any]]:
    """The message can't be shown by this version of the app: `unknown_type`, `undecodable` or `too_big`."""
    return nack_key(id_), {"id": id_, "code": code} | ({} if app_version is None else {"app_version": app_version})


def nack_key(id_: str) -> str:
    return f"nack:{id_}"


def read(conversation: str, read_seq: int) -> tuple[str, dict[str, Any]]:
    """The user has read the conversation up to this number of the inbox."""
    return f"{READ}{conversation}", {"conversation": conversation, "read_seq": read_seq}


def further(word: Mapping[str, Any], kept: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Which of two words of one key is owed, the new one or the one that is kept: a read marker only grows (protocol 8.6)."""
    return word if kept is None or word.get("read_seq", 0) >= kept.get("read_seq", 0) else kept


def receipt(id_: str, what: str, at: str | None = None) -> tuple[str, dict[str, Any]]:
    """The message was `shown` or `opened` on this device."""
    return f"receipt:{what}:{id_}", {"id": id_, "what": what} | ({} if at is None else {"at": at})


def is_nack(key: str) -> bool:
    return key.startswith("nack:")


def portion(words: Words) -> dict[str, Mapping[str, Any]]:
    """The first of these words, as many as one ack takes; one at least."""
    some: dict[str, Mapping[str, Any]] = {}
    room = WORDS_BYTES_MAX
    for key, word in words.items():
        room -= len(json.dumps(word)) + len(",")  # as a call has it, which is longer than in a frame
        if len(some) == WORDS_MAX or (some and room < 0):
            break
        some[key] = word
    return some


def ack_body(words: Words) -> dict[str, Any]:
    """The parts of an ack that say these words."""
    parts: dict[str, Any] = {}
    for key, said in words.items():
        parts.setdefault(_FIELDS[key.partition(":")[0]], []).append(dict(said))
    return parts
