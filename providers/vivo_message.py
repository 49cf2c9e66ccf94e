"""A push in vivo's words: vendor sheet `vivo` §3 (request), §6 (classes) and §7 (mapping). Pure."""

import unicodedata
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from providers.app_message import app_data, cut, cuts, number_for, once_key, present, short, texts, utf16
from providers.contract import Push
from providers.fields import Rule, Rules, companions, flag, mistakes, object_in, one_of, strings, text, whole
from providers.http import json_body

__all__ = [
    "CUSTOM_CHARS_MAX",
    "TITLE_CHARS_MAX",
    "TTL_S",
    "VivoClass",
    "class_of",
    "content_of",
    "custom_chars",
    "custom_of",
    "losses",
    "override_mistakes",
    "request_id",
]

SYSTEM = ("IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION")
OPERATIONAL = ("NEWS", "CONTENT", "MARKETING", "SOCIAL")
# How an emoji counts, the sheet does not say of any of these: as two, to be safe.
CUSTOM_CHARS_MAX = 1024  # of names and values in `clientCustomMap`
TITLE_CHARS_MAX = 40
CONTENT_CHARS_MAX = 100
CUSTOM_KEYS_MAX = 10
SKIP_CHARS_MAX = 1024  # newest document: 2048
TTL_S = (60, 86_400)
NOTIFY_IDS = 2**31 - 1

DISPLAY_MS_BELOW = 120 * 60 * 1000  # how long `timedDisplay` may last
REQUIRED = ("notifyType", "title", "content", "skipType")


# vivo refuses square and curly brackets in a title (sheet §9); it does not say which of the wide ones.
BRACKETS = str.maketrans("[]{}【】", "()()()")


def _worded_text(chars_max: int, *, brackets: bool = True) -> Rule:
    """vivo refuses digits and signs alone (sheet §5, code 10085)."""
    but = "" if brackets else ", and no square or curly bracket"

    def holds(value: object) -> bool:
        return (
            isinstance(value, str)
            and utf16(value) <= chars_max
            and any(map(str.isalpha, value))
            and (brackets or value == value.translate(BRACKETS))
        )

    return Rule(holds, f"text of 1 to {chars_max} characters with a letter in it{but}")


OVERRIDES: Rules = {
    "notifyType": whole(1, 4),
    "title": _worded_text(TITLE_CHARS_MAX, brackets=False),
    "content": _worded_text(CONTENT_CHARS_MAX),
    "timeToLive": whole(*TTL_S),
    "skipType": one_of(1, 2, 4),  # newer clients dropped 3
    "skipContent": text(2048, chars_min=1),
    "networkType": one_of(-1, 1),
    "classification": one_of(0, 1),
    "category": one_of(*SYSTEM, *OPERATIONAL),
    "clientCustomMap": strings(CUSTOM_KEYS_MAX, CUSTOM_CHARS_MAX, length=utf16),
    "notifyId": whole(1, NOTIFY_IDS),
    "sendOnline": flag,
    "foregroundShow": flag,
    "addBadge": flag,
    "timedDisplay": {"showStartTime": whole(0, 2**53), "showEndTime": whole(0, 2**53)},
}


class VivoClass(BaseModel):
    """What the pushes of one channel are. The category decides on the class: system, or operational."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    category: Literal[
        "IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION", "NEWS", "CONTENT", "MARKETING", "SOCIAL"
    ]


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for vivo's message, each a sentence."""
    found = list(mistakes(overrides, OVERRIDES, required=REQUIRED))
    found += companions(overrides, "skipType", {2: ("skipContent",), 4: ("skipContent",)})
    if not found and overrides.get("timedDisplay") is not None and not _can_show(object_in(overrides, "timedDisplay")):
        found.append("timedDisplay must have showStartTime and, less than 120 minutes later, showEndTime (code 10067).")
    category, class_ = overrides.get("category"), overrides.get("classification")
    if not found and category is not None and class_ is not None and (category in SYSTEM) != (class_ == 1):
        found.append("classification must be 1 for the system categories and 0 for the others (code 10097).")
    return found


def _can_show(timed: Mapping[str, Any]) -> bool:
    begins_ms, ends_ms = timed.get("showStartTime"), timed.get("showEndTime")
    return begins_ms is not None and ends_ms is not None and 0 < ends_ms - begins_ms < DISPLAY_MS_BELOW


def class_of(push: Push, named: VivoClass) -> dict[str, Any]:
    """Category and class, which agree: whichever the override names brings the other with it."""
    category = push.overrides.get("category") or named.category
    class_ = push.overrides.get("classification")
    if class_ is not None and (category in SYSTEM) != (class_ == 1):
        return {"classification": class_}
    return {"classification": 1 if category in SYSTEM else 0, "category": category}


def content_of(push: Push, *, wake_text: str, latin: bool, now_s: float) -> dict[str, Any]:
    """What is the same for every account. `wake_text` stands in for a text that is not there, and goes before one without a
    word; `latin`: whether Latin letters make words."""
    title, body = texts(push, blank=wake_text)
    waits = push.ttl_s > 0
    fields = {
        "requestId": request_id(push, push.token, now_s=now_s),
        "notifyType": 4 if push.urgent and not push.silent else 1,
        "title": cut(_worded(title, wake_text, latin=latin).translate(BRACKETS), TITLE_CHARS_MAX, length=utf16),
        "content": cut(_worded(body, wake_text, latin=latin), CONTENT_CHARS_MAX, length=utf16),
        "timeToLive": int(min(max(push.ttl_s, TTL_S[0]), TTL_S[1])) if waits else None,
        "sendOnline": None if waits else True,
        **_click(push.click),
        "clientCustomMap": app_data(push),
        "notifyId": 1 + number_for(push.collapse_key or push.id, NOTIFY_IDS),
    }
    return present(fields)


def losses(push: Push) -> list[str]:
    """What of it vivo will not have: see `Provider.losses`."""
    return cuts(push, title_max=TITLE_CHARS_MAX, body_max=CONTENT_CHARS_MAX, length=utf16)


def request_id(push: Push, tokens: str, *, now_s: float) -> str:
    """At most 64 characters; the same for a repeat. Whether vivo looks at that is not documented."""
    return f"{once_key(push, now_s=now_s)}-{short(tokens, 20)}"


def _worded(text_: str, wake_text: str, *, latin: bool) -> str:
    """vivo refuses a text of digits and signs alone, like a login code (sheet §5, code 10085, and §9)."""
    has_word = any(char.isalpha() and (latin or not _is_latin(char)) for char in text_)
    return text_ if has_word else f"{wake_text} {text_}"


def _is_latin(char: str) -> bool:
    return "LATIN" in unicodedata.name(char, "")


def _click(click: str | None) -> dict[str, Any]:
    """What a tap does. A deep link of another scheme opens the app, which finds it in its data."""
    if click and len(click) <= SKIP_CHARS_MAX:
        if click.startswith(("http://", "https://")):
            return {"skipType": 2, "skipContent": click}
        if click.startswith("intent:"):
            return {"skipType": 4, "skipContent": click}
    return {"skipType": 1}


def custom_of(data: Mapping[str, str]) -> dict[str, str]:
    """The app's data: as it is, or if those are too many names, as JSON under the one name `data`."""
    if len(data) <= CUSTOM_KEYS_MAX:
        return dict(data)
    return {"data": json_body(data).decode()}


def custom_chars(custom: Mapping[str, str]) -> int:
    """What vivo counts against its limit."""
    return sum(utf16(name) + utf16(value) for name, value in custom.items())
