"""What several adapters say alike: cut texts, the app's own data, keys made of ids. Pure."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from providers.contract import Push
from providers.http import json_body

__all__ = [
    "app_data",
    "category_advice",
    "cut",
    "cuts",
    "form_body",
    "named",
    "number_for",
    "once_key",
    "present",
    "short",
    "texts",
    "utf16",
]

Length = Callable[[str], int]

ONCE_S = 1800  # of a vendor that hides what it knows from its own users
OUR_KEYS = frozenset({"relay", "relay_id"})


def cut(text: str, chars_max: int, *, length: Length = len) -> str:
    """At most so many characters, the last an ellipsis if some are missing. `length` counts them: code points, if nothing
    is said."""
    if length(text) <= chars_max:
        return text
    kept = text[: chars_max - 1]
    while length(kept) >= chars_max:
        kept = kept[:-1]
    return f"{kept.rstrip()}…"


def utf16(text: str) -> int:
    """Characters as Java counts them, an emoji as two: for a vendor that does not say how it does."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cuts(push: Push, *, title_max: int, body_max: int, length: Length = len) -> list[str]:
    """Which of a push's texts `cut` would shorten, as `Provider.losses` names them."""
    return named(title_cut=length(push.title or "") > title_max, body_cut=length(push.body or "") > body_max)


def named(**lost: bool) -> list[str]:
    """The names of what is lost."""
    return [name for name, is_lost in lost.items() if is_lost]


def texts(push: Push, *, blank: str) -> tuple[str, str]:
    """Title and body, neither blank: the one stands in for the other, `blank` for both."""
    title, body = (text if text and text.strip() else None for text in (push.title, push.body))
    return title or body or blank, body or title or blank


def app_data(push: Push) -> dict[str, str]:
    """The app's data and ours, all of it text. The app's gets underscores before a name that we need.

    `relay_id` is what the app recognises a repeat by, `relay` the relay's own object as JSON; `click` and `thread` are
    there for what a vendor cannot do itself.
    """
    ours = {
        "relay_id": push.id,
        "relay": json_body(dict(push.relay)).decode() if push.relay else None,
        "click": push.click,
        "thread": push.thread,
    }
    data = {key: value for key, value in ours.items() if value is not None}
    for key, value in push.data.items():
        name = key
        while name in data or name in OUR_KEYS:
            name = f"_{name}"
        data[name] = value if isinstance(value, str) else json_body(value).decode()
    return data


def category_advice(vendor: str, category: str | None, categories: Mapping[str, str]) -> list[str]:
    """What an operator should know of the categories that an account names (sheet huawei §6)."""
    treated = "shown without sound, not on the lock screen, two a device and day, and no error says so"
    claimed = sorted({one for one in (category, *categories.values()) if one not in {None, "MARKETING"}}, key=str)
    found = [f"category: without one, {vendor} takes it all for marketing: {treated}."] if category is None else []
    if claimed:
        found.append(
            f"category: {', '.join(map(str, claimed))} must be granted in the vendor's console (five working days); "
            f"until then {vendor} takes it for marketing: {treated}."
        )
    return found


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None."""
    return {key: value for key, value in fields.items() if value is not None}


def number_for(key: str, below: int) -> int:
    """A number from 0 to `below` - 1 that stands for `key`."""
    return int.from_bytes(_digest(key)[:8]) % below


def short(key: str, chars: int) -> str:
    """So many characters of [0-9A-Za-z_-] that stand for `key`, the first no underscore or hyphen."""
    digest = _digest(key)
    return f"{'abcdefghijklmnopqrstuvwxyz'[digest[0] % 26]}{base64.urlsafe_b64encode(digest[1:]).decode()}"[:chars]


def once_key(push: Push, *, now_s: float | None, chars: int = 20, to: str | None = None) -> str:
    """What a vendor may recognise a repeat of this very push by. `to`: whom it goes to, if a key is known whatever device it
    came for. `now_s`: of a first push, for a while only; None: for good, as of a reminder (`Push.again`).

    Not the push's id alone: a message has one for all devices, a summary keeps its id while its messages become more,
    and a reminder or a step of a message keeps it for hours; a vendor that took those for repeats would hide them. Nor
    all of the relay's object: `head` counts on when another message comes before the repeat.
    """
    span = int(now_s // ONCE_S) if push.again is None and now_s is not None else None
    relay = {name: value for name, value in push.relay.items() if name != "head"}
    said = [push.id, push.title, push.body, push.urgent, push.again, relay, span, to]
    return short(json_body(said).decode(), chars)


def form_body(fields: Mapping[str, object]) -> bytes:
    """`application/x-www-form-urlencoded` in UTF-8; what that cannot carry (a lone surrogate) becomes a question mark."""
    return urlencode({key: str(value) for key, value in fields.items()}, errors="replace").encode()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()
