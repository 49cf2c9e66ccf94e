"""A push in the words of Huawei's HarmonyOS line: sheet `huawei` §4 (request), §6 (classes) and §8 (mapping). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from providers.app_message import app_data, named, number_for, once_key, present, short, texts
from providers.contract import Push
from providers.field_lists import several
from providers.fields import Rule, Rules, companions, flag, matching, merged, mistakes, object_in, one_of, text, whole
from providers.http import json_body

__all__ = ["Category", "Words", "body_of", "losses", "notify_id", "override_mistakes", "push_type"]

TTL_S = (1, 1_296_000)  # 15 days; what 0 means is untested (§8)
NOTIFY_ID_BELOW = 2**31
UNIQUE = -1  # as none at all: nothing replaces it, and nothing takes it back
BADGE_MAX = 99
BI_TAG_BYTES_MAX = 64
CACHE_GROUPS = 101  # 0 to 100
BLANK = " "
ALERT, BACKGROUND = "0", "6"

# §6. PLAY_VOICE goes with another push type.
Category = Literal[
    "IM", "VOIP", "MISS_CALL", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE", "DEVICE_REMINDER", "MAIL",
    "SUBSCRIPTION", "MARKETING",
]  # fmt: skip

_SOUND = re.compile(r"[A-Za-z0-9._-]{1,128}")
# What only other push types have: an override of it is for those (§4).
_OF_OTHER_TYPES: dict[str, dict[str, frozenset[str]]] = {
    ALERT: {"pushOptions": frozenset({"backgroundMode"}), "payload": frozenset({"extraData", "proxyData"})},
    BACKGROUND: {"pushOptions": frozenset({"collapseKey"}), "payload": frozenset({"notification"})},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What an account says beside the push itself."""

    category: str
    categories: Mapping[str, str] = field(default_factory=dict)
    receipt_id: str | None = None
    cache_newest: bool = False
    background_im: bool = False
    test: bool = False


def push_type(push: Push) -> str:
    return BACKGROUND if push.silent else ALERT


def body_of(push: Push, words: Words, *, now_s: float) -> dict[str, Any]:
    """The body without its target. A silent push is of the background type: the app gets `extraData`, nothing is shown."""
    options = {
        "testMessage": True if words.test else None,
        "ttl": min(max(int(push.ttl_s), TTL_S[0]), TTL_S[1]),  # a number on this line (§10.1)
        "biTag": push.id if len(push.id.encode("utf-8", "replace")) <= BI_TAG_BYTES_MAX else short(push.id, 32),
        "receiptId": words.receipt_id,
        "collapseKey": None if push.silent else _cache_group(push, words),
        "backgroundMode": 1 if push.silent and words.background_im else None,
    }
    payload: dict[str, Any] = (
        {"extraData": json_body(app_data(push)).decode()}
        if push.silent
        else {"notification": _notification(push, words, now_s=now_s)}
    )
    body = merged({"pushOptions": present(options), "payload": payload}, push.overrides)
    for part, others in _OF_OTHER_TYPES[push_type(push)].items():
        body[part] = {name: value for name, value in body.get(part, {}).items() if name not in others}
    return body


def losses(push: Push) -> list[str]:
    """What of it Huawei will not have: see `Provider.losses`."""
    fits = push.sound in {None, "default"} or _SOUND.fullmatch(str(push.sound)) is not None
    return named(badge=push.badge is not None and push.silent, sound=not fits)


def _cache_group(push: Push, words: Words) -> int:
    """As on the other line: two conversations may meet in one group, so only for accounts that want it."""
    if not words.cache_newest or push.collapse_key in (None, push.id):
        return -1
    return number_for(str(push.collapse_key), CACHE_GROUPS)


def notify_id(push: Push) -> int | None:
    """What the notification is replaced, and taken back, by; None: the push's overrides let it have none."""
    ours = {"payload": {"notification": {"notifyId": number_for(push.collapse_key or push.id, NOTIFY_ID_BELOW)}}}
    found = merged(ours, push.overrides)["payload"]["notification"].get("notifyId", UNIQUE)
    return None if found == UNIQUE else int(found)


def _notification(push: Push, words: Words, *, now_s: float) -> dict[str, Any]:
    title, body = texts(push, blank=BLANK)
    return present(
        {
            "category": words.categories.get(push.channel or "", words.category),
            "title": title,
            "body": body,
            "clickAction": _click(push),
            "notifyId": number_for(push.collapse_key or push.id, NOTIFY_ID_BELOW),
            # A phone shows only the first of an id in 24 h, even where `notifyId` would replace it (§4): so the id is
            # that of this very text, else a conversation's next summary would never be seen.
            "appMessageId": once_key(push, now_s=now_s, chars=32),
            "badge": None if push.badge is None else {"setNum": min(max(push.badge, 0), BADGE_MAX)},
            "sound": push.sound if push.sound and push.sound != "default" and _SOUND.fullmatch(push.sound) else None,
        }
    )


def _click(push: Push) -> dict[str, Any]:
    """Required. There is no opening of web pages: the app's home gets the link in its data."""
    click, data = push.click, app_data(push)
    if click is None or click.startswith(("http://", "https://")):
        return {"actionType": 0, "data": data}
    return {"actionType": 1, "uri" if ":" in click else "action": click, "data": data}


_TEXT, _WORDS = text(4096), text(4096, chars_min=1)
_NOTIFICATION: Rules = {
    "category": one_of(*get_args(Category)),
    "title": _WORDS,
    "body": _WORDS,
    "clickAction": {
        "actionType": one_of(0, 1),
        "action": _WORDS,
        "uri": _WORDS,
        "data": Rule(lambda value: isinstance(value, Mapping), "an object"),
    },
    "image": matching(r"https://[\x21-\x7e]{1,2048}", "an https URL"),
    "style": one_of(0, 1, 3),
    "inboxContent": several(text(1024), 3, "at most 3 texts of at most 1024 characters"),
    "notifyId": whole(-1, NOTIFY_ID_BELOW - 1),
    "appMessageId": matching(r"[A-Za-z0-9+/=\-_ ]{1,64}", "1 to 64 of letters, digits, + / = - _ and blank"),
    "profileId": text(64, chars_min=1),
    "badge": {"addNum": whole(1, 99), "setNum": whole(0, 99)},
    "sound": text(128, chars_min=1),
    "soundDuration": whole(1, 60),
    "foregroundShow": flag,
}
_RULES: Rules = {
    "pushOptions": {
        "testMessage": flag,
        "ttl": whole(*TTL_S),
        "biTag": Rule(
            lambda value: isinstance(value, str) and len(value.encode("utf-8", "replace")) <= BI_TAG_BYTES_MAX,
            f"text of at most {BI_TAG_BYTES_MAX} bytes",
        ),
        "collapseKey": whole(-1, 100),
        "backgroundMode": one_of(0, 1),
    },
    "payload": {"notification": _NOTIFICATION, "extraData": _TEXT, "proxyData": one_of("ENABLE")},
}
_SHOWN = "payload.notification."
_REQUIRED = tuple(_SHOWN + name for name in ("category", "title", "body", "clickAction", "clickAction.actionType"))
_GOES_TO = {1: ("action", "uri")}  # what a tap needs to know, by its actionType
_STYLED = {3: ("inboxContent",)}  # what a style shows


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for the v3 body, each a sentence."""
    shown = object_in(object_in(overrides, "payload"), "notification")
    found = list(mistakes(overrides, _RULES, required=("payload", _SHOWN[:-1], *_REQUIRED)))
    found += companions(object_in(shown, "clickAction"), "actionType", _GOES_TO, under=f"{_SHOWN}clickAction.")
    found += companions(shown, "style", _STYLED, under=_SHOWN)
    if shown.get("soundDuration") is not None and shown.get("sound") is None:
        found.append(f"{_SHOWN}soundDuration goes with a sound.")
    return found
