"""A push in the words of Huawei's HMS line: sheet `huawei` §3 (request), §6 (classes) and §8 (mapping). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from providers.app_message import app_data, named, number_for, present, short, texts
from providers.contract import Push
from providers.field_lists import objects, several
from providers.fields import (
    Rule,
    Rules,
    companions,
    duration,
    flag,
    matching,
    merged,
    mistakes,
    moment,
    object_in,
    one_of,
    text,
    whole,
)
from providers.http import json_body
from providers.huawei_family import click_action, unseen

__all__ = ["Category", "Words", "losses", "message_of", "override_mistakes"]

TTL_S = (1, 1_296_000)  # 15 days; what 0 means is untested, so "now or never" is the shortest life there is (§8)
NOTIFY_ID_BELOW = 2**31
BADGE_MAX = 99
BI_TAG_BYTES_MAX = 64  # §4 says so of the other line; this one is silent
CACHE_GROUPS = 100
BLANK = " "  # for a notification that has neither title nor body: both are required

# §6. MISS_CALL and SYSTEM_REMINDER are seen in some places only.
Category = Literal[
    "IM", "VOIP", "MISS_CALL", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE", "DEVICE_REMINDER", "MAIL",
    "SUBSCRIPTION", "PLAY_VOICE", "SYSTEM_REMINDER", "MARKETING",
]  # fmt: skip

_RESOURCE = re.compile(r"[a-z0-9_]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What an account says beside the push itself."""

    category: str | None = None
    categories: Mapping[str, str] = field(default_factory=dict)
    badge_class: str | None = None
    receipt_id: str | None = None
    urgency_high: bool = False
    cache_newest: bool = False
    test: bool = False


def message_of(push: Push, words: Words) -> dict[str, Any]:
    """Huawei's `message` without its tokens. A silent push is `data` alone: a pass-through message."""
    ttl_s = min(max(int(push.ttl_s), TTL_S[0]), TTL_S[1])
    android = {
        "ttl": f"{ttl_s}s",  # text on this line (§10.1)
        "collapse_key": _cache_group(push, words),
        "category": words.categories.get(push.channel or "", words.category),
        # Only for data messages, and HIGH without the right fails every call (§10.5).
        "urgency": ("HIGH" if push.urgent and words.urgency_high else "NORMAL") if push.silent else None,
        "bi_tag": push.id if len(push.id.encode("utf-8", "replace")) <= BI_TAG_BYTES_MAX else short(push.id, 32),
        "receipt_id": words.receipt_id,
        "target_user_type": 1 if words.test else None,
        "notification": None if push.silent else _notification(push, words),
    }
    message = {"data": json_body(app_data(push)).decode(), "android": present(android)}
    said = merged(message, push.overrides)
    return unseen(said, click="click_action") if push.silent else said


def losses(push: Push, words: Words) -> list[str]:
    """What of it Huawei will not have: see `Provider.losses`."""
    return named(
        badge=push.badge is not None and (push.silent or not words.badge_class),
        image=push.image is not None and _image(push.image) is None,
        sound=push.sound not in {None, "default"} and _sound(push.sound) is None,
    )


def _cache_group(push: Push, words: Words) -> int:
    """Huawei keeps the newest of a group while a device is offline. There are 100 groups in all, so two conversations
    may meet in one, and the older one's notification is lost: only for accounts that want it (§8 maps it always)."""
    if not words.cache_newest or push.collapse_key in (None, push.id):
        return -1
    return 1 + number_for(str(push.collapse_key), CACHE_GROUPS)


def _notification(push: Push, words: Words) -> dict[str, Any]:
    title, body = texts(push, blank=BLANK)
    sound = _sound(push.sound)
    badge = None
    if push.badge is not None and words.badge_class:  # without the launcher's class it is ignored (§10.9)
        badge = {"set_num": min(max(push.badge, 0), BADGE_MAX), "class": words.badge_class}
    return present(
        {
            "title": title,
            "body": body,
            "title_loc_key": push.title_loc_key,
            "title_loc_args": list(push.title_loc_args) or None,
            "body_loc_key": push.body_loc_key,
            "body_loc_args": list(push.body_loc_args) or None,
            "image": _image(push.image),
            "importance": "NORMAL" if push.urgent else "LOW",
            # There is no idempotency key: a repeat replaces what it repeats (§8).
            "notify_id": number_for(push.collapse_key or push.id, NOTIFY_ID_BELOW),
            "click_action": click_action(push.click),
            "badge": badge,
            "sound": sound,
            "default_sound": False if sound else None,
            "channel_id": push.channel,
            "group": push.thread,
        }
    )


def _image(url: str | None) -> str | None:
    return url if url and url.startswith("https://") else None


def _sound(sound: str | None) -> str | None:
    """A resource of the app, by its name without an ending; None for the usual sound."""
    name = (sound or "default").removeprefix("/raw/").partition(".")[0]
    return f"/raw/{name}" if name != "default" and _RESOURCE.fullmatch(name) else None


_TEXT, _WORDS = text(4096), text(4096, chars_min=1)
_HTTPS = matching(r"https://[\x21-\x7e]{1,2048}", "an https URL")
_LOC_ARGS = several(_TEXT, 100, "a list of texts")
_CLICK: Rules = {"type": one_of(1, 2, 3), "intent": _WORDS, "action": _WORDS, "url": _HTTPS}
_NOTIFICATION: Rules = {
    "title": _WORDS,
    "body": _WORDS,
    "click_action": _CLICK,
    "image": _HTTPS,
    "icon": matching(r"/raw/[A-Za-z0-9_]{1,100}", 'like "/raw/name"'),
    "color": matching(r"#[0-9A-Fa-f]{6}", 'like "#RRGGBB"'),
    "sound": matching(r"/raw/[A-Za-z0-9_]{1,100}", 'like "/raw/name"'),
    "default_sound": flag,
    "channel_id": text(1000),
    "importance": one_of("LOW", "NORMAL"),  # HIGH is granted to nobody any more
    "notify_id": whole(-1, NOTIFY_ID_BELOW - 1),
    "tag": text(1000),
    "group": text(1000),
    "style": one_of(0, 1, 3),
    "big_title": _TEXT,
    "big_body": _TEXT,
    "inbox_content": several(text(1024), 5, "at most 5 texts of at most 1024 characters"),
    "auto_clear": whole(0, 2**31 - 1),
    "badge": {
        "add_num": whole(1, 99),
        "set_num": whole(0, 99),
        "class": matching(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)+", "the full name of the launcher's class"),
    },
    "when": moment(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", "a time in UTC, like 2026-05-03T09:12:44Z"),
    "foreground_show": flag,
    "profile_id": text(64, chars_min=1),
    "buttons": objects(
        {
            "name": text(40),
            "action_type": one_of(0, 1, 2, 3, 4),
            "intent_type": one_of(0, 1),
            "intent": _TEXT,
            "data": text(1024),
        },
        3,
        "at most 3 buttons (name up to 40, data up to 1024 characters, action_type 0 to 4)",
    ),
    "visibility": one_of("VISIBILITY_UNSPECIFIED", "PUBLIC", "SECRET", "PRIVATE"),
    "title_loc_key": text(1000),
    "title_loc_args": _LOC_ARGS,
    "body_loc_key": text(1000),
    "body_loc_args": _LOC_ARGS,
    "multi_lang_key": Rule(
        lambda value: (
            isinstance(value, Mapping)
            and all(isinstance(words, Mapping) and len(words) <= 3 for words in value.values())
        ),
        "an object of objects with at most 3 languages each",
    ),
    "vibrate_config": several(
        matching(r"([1-9]|[1-5]\d|60)(\.\d{1,9})?s?|0\.\d{1,9}s?", "seconds"),
        10,
        "at most 10 durations of up to 60 s, like 1.5s",
    ),
}
_RULES: Rules = {
    "data": _TEXT,
    "notification": {"title": _TEXT, "body": _TEXT, "image": _HTTPS},
    "android": {
        "collapse_key": whole(-1, 100),
        "urgency": one_of("HIGH", "NORMAL"),
        "category": one_of(*get_args(Category)),
        "ttl": duration(*TTL_S),
        "bi_tag": text(1000),
        "target_user_type": one_of(0, 1),
        "fast_app_target": one_of(1, 2),
        "data": _TEXT,
        "notification": _NOTIFICATION,
    },
}

_SHOWN = "android.notification."
_REQUIRED = tuple(_SHOWN + name for name in ("title", "body", "click_action", "click_action.type"))
_GOES_TO = {1: ("intent", "action"), 2: ("url",)}  # what a tap needs to know, by its type
_STYLED = ({1: ("big_title",), 3: ("inbox_content",)}, {1: ("big_body",)})  # what a style shows


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for Huawei's `message`, each a sentence."""
    shown = object_in(object_in(overrides, "android"), "notification")
    found = list(mistakes(overrides, _RULES, required=_REQUIRED))
    found += companions(object_in(shown, "click_action"), "type", _GOES_TO, under=f"{_SHOWN}click_action.")
    for wanted in _STYLED:
        found += companions(shown, "style", wanted, under=_SHOWN)
    return found
