"""A push in Honor's words: vendor sheet `honor` §3 (request), §5 (classes) and §6 (mapping). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from providers.app_message import app_data, named, number_for, present, short, texts
from providers.contract import Push
from providers.field_lists import objects
from providers.fields import (
    Rules,
    companions,
    duration,
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

__all__ = ["TTL_S", "Importance", "Words", "body_of", "losses", "override_mistakes"]

TTL_S = (1, 1_296_000)  # 15 days
NOTIFY_ID_BELOW = 2**31
BADGE_MAX = 99
BI_TAG_BYTES_MAX = 64  # the sheet has no bound; Huawei's
BLANK = " "

Importance = Literal["LOW", "NORMAL"]  # marketing, or service and communication (needs a right, else it is marketing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What an account says beside the push itself."""

    importance: str = "NORMAL"
    importances: Mapping[str, str] = field(default_factory=dict)  # by channel
    badge_class: str | None = None
    test: bool = False


def body_of(push: Push, words: Words) -> dict[str, Any]:
    """The body without its tokens. A silent push is `data` alone: a pass-through message."""
    android = {
        "ttl": f"{min(max(int(push.ttl_s), TTL_S[0]), TTL_S[1])}s",
        "biTag": push.id if len(push.id.encode("utf-8", "replace")) <= BI_TAG_BYTES_MAX else short(push.id, 32),
        "targetUserType": 1 if words.test else None,
        "notification": None if push.silent else _notification(push, words),
    }
    message = {"data": json_body(app_data(push)).decode(), "android": present(android)}
    said = merged(message, push.overrides)
    return unseen(said, click="clickAction") if push.silent else said


def losses(push: Push, words: Words) -> list[str]:
    """What of it Honor will not have: see `Provider.losses`."""
    return named(
        badge=push.badge is not None and (push.silent or not words.badge_class),
        image=push.image is not None and _image(push.image) is None,
    )


def _notification(push: Push, words: Words) -> dict[str, Any]:
    title, body = texts(push, blank=BLANK)
    badge = None
    if push.badge is not None and words.badge_class:
        badge = {"setNum": min(max(push.badge, 0), BADGE_MAX), "badgeClass": words.badge_class}
    replaces = push.collapse_key or push.id
    return present(
        {
            "title": title,
            "body": body,
            "clickAction": click_action(push.click),  # required (§8.4)
            "image": _image(push.image),
            "importance": words.importances.get(push.channel or "", words.importance) if push.urgent else "LOW",
            # There is no idempotency key: a repeat replaces what it repeats (§6).
            "notifyId": number_for(replaces, NOTIFY_ID_BELOW),
            "tag": short(replaces, 32),
            "group": push.thread,
            "badge": badge,
        }
    )


def _image(url: str | None) -> str | None:
    return url if url and url.startswith("https://") else None


_TEXT, _WORDS = text(4096), text(4096, chars_min=1)
_HTTPS = matching(r"https://[\x21-\x7e]{1,2048}", "an https URL")
_RULES: Rules = {
    "data": _TEXT,
    "notification": {"title": _TEXT, "body": _TEXT, "image": _HTTPS},
    "android": {
        "ttl": duration(*TTL_S),
        "biTag": text(1000),
        "data": _TEXT,
        "targetUserType": one_of(0, 1),
        "notification": {
            "title": _WORDS,
            "body": _WORDS,
            "clickAction": {"type": one_of(1, 2, 3), "intent": _WORDS, "action": _WORDS, "url": _HTTPS},
            "image": _HTTPS,
            "style": one_of(0, 1),
            "bigTitle": _TEXT,
            "bigBody": _TEXT,
            "importance": one_of("LOW", "NORMAL"),
            "when": moment(
                r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", "a time, like 2026-05-03T09:12:44Z"
            ),
            "buttons": objects(
                {
                    "name": text(40),
                    "actionType": one_of(0, 1, 2),
                    "intentType": one_of(0, 1),
                    "intent": _TEXT,
                    "data": text(1024),
                },
                3,
                "at most 3 buttons (name up to 40, data up to 1024 characters, actionType 0 to 2)",
            ),
            "badge": {
                "addNum": whole(0, 99),
                "setNum": whole(0, 99),
                "badgeClass": matching(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)+", "the full name of the launcher's class"),
            },
            "notifyId": whole(0, NOTIFY_ID_BELOW - 1),
            "tag": text(1000),
            "group": text(1000),
        },
    },
}

_SHOWN = "android.notification."
_REQUIRED = tuple(_SHOWN + name for name in ("title", "body", "clickAction", "clickAction.type"))
_GOES_TO = {1: ("intent", "action"), 2: ("url",)}  # what a tap needs to know, by its type


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for Honor's body, each a sentence."""
    shown = object_in(object_in(overrides, "android"), "notification")
    found = list(mistakes(overrides, _RULES, required=_REQUIRED))
    found += companions(object_in(shown, "clickAction"), "type", _GOES_TO, under=f"{_SHOWN}clickAction.")
    found += [
        f"{_SHOWN}{big} must equal {small}: Honor refuses or ignores another text."
        for big, small in (("bigTitle", "title"), ("bigBody", "body"))
        if shown.get(big) is not None and shown.get(big) != shown.get(small)
    ]
    return found
