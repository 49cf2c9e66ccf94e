"""A push in Meizu's words: vendor sheet `meizu` §3 (request), §5 (classes) and §6 (mapping). Pure."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from providers.app_message import app_data, cut, cuts, present, short, texts, utf16
from providers.contract import Push
from providers.fields import Rules, companions, matching, mistakes, moment, object_in, one_of, text, whole

__all__ = [
    "PARAMETERS_BYTES_MAX",
    "TITLE_CHARS_MAX",
    "VALID_H",
    "MeizuClass",
    "losses",
    "message_of",
    "override_mistakes",
]

PARAMETERS_BYTES_MAX = 4096  # of `clickTypeInfo.parameters`; the sheet knows no limit, so the usual one
TITLE_CHARS_MAX = 32  # how an emoji counts, the sheet does not say: as two, to be safe
CONTENT_CHARS_MAX = 100
VALID_H = (1, 72)
NOTIFY_KEY_CHARS = 8


class MeizuClass(BaseModel):
    """What the pushes of one channel are: personal and expected (chats, orders), or public, of which a device gets few."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    private: bool


def message_of(push: Push, class_: MeizuClass, *, wake_text: str) -> dict[str, Any]:
    """Meizu's `messageJson`. `wake_text` stands in for a text that is not there."""
    title, body = texts(push, blank=wake_text)
    waits = push.ttl_s > 0
    loud = 1 if push.urgent and not push.silent else 0
    valid_h = min(max(math.ceil(push.ttl_s / 3600), VALID_H[0]), VALID_H[1])
    return {
        "noticeBarInfo": {
            "noticeMsgType": 1 if class_.private else 0,
            "title": cut(title, TITLE_CHARS_MAX, length=utf16),
            "content": cut(body, CONTENT_CHARS_MAX, length=utf16),
        },
        "clickTypeInfo": {**_click(push.click), "parameters": app_data(push)},
        "pushTimeInfo": present({"offLine": 1 if waits else 0, "validTime": valid_h if waits else None}),
        "advanceInfo": {
            "suspend": loud,
            "notificationType": {"vibrate": loud, "lights": 1, "sound": loud},
            "notifyKey": short(push.collapse_key or push.id, NOTIFY_KEY_CHARS),
        },
    }


def losses(push: Push) -> list[str]:
    """What of it Meizu will not have: see `Provider.losses`."""
    return cuts(push, title_max=TITLE_CHARS_MAX, body_max=CONTENT_CHARS_MAX, length=utf16)


def _click(click: str | None) -> dict[str, Any]:
    """What a tap does: a URI of any scheme, else the app, which finds the action's name in its data."""
    return {"clickType": 2, "url": click} if click and ":" in click else {"clickType": 0}


_SWITCH = one_of(0, 1)
_MOMENT = moment(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "a time, like 2026-01-31 18:00:00")

OVERRIDES: Rules = {
    "noticeBarInfo": {
        "noticeMsgType": _SWITCH,
        "noticeBarType": one_of(0, 2),
        "title": text(TITLE_CHARS_MAX, chars_min=1, length=utf16),
        "content": text(CONTENT_CHARS_MAX, chars_min=1, length=utf16),
    },
    "noticeExpandInfo": {
        "noticeExpandType": one_of(0, 1, 2),
        "noticeExpandContent": text(4000, chars_min=1),
        "noticeExpandImgUrl": text(2048, chars_min=1),
    },
    "clickTypeInfo": {
        "clickType": one_of(0, 1, 2),  # 3 is withdrawn for Android 12 and later
        "activity": matching(r"[A-Za-z_][\w$]*(\.[A-Za-z_][\w$]*)+", "the full name of a class"),
        "url": matching(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]{1,2000}", "a URI"),
    },
    "pushTimeInfo": {"offLine": _SWITCH, "validTime": whole(*VALID_H)},
    "advanceInfo": {
        "suspend": _SWITCH,
        "clearNoticeBar": _SWITCH,
        "fixDisplay": _SWITCH,
        "fixStartDisplayTime": _MOMENT,
        "fixEndDisplayTime": _MOMENT,
        "notificationType": {"vibrate": _SWITCH, "lights": _SWITCH, "sound": _SWITCH},
        "notifyKey": matching(r"[0-9A-Za-z_-]{1,8}", "1 to 8 of 0-9 A-Z a-z _ -"),
    },
    "vipInfo": {  # for apps that Meizu grants it to
        "subtitle": text(16, chars_min=1, length=utf16),
        "pullDownTop": _SWITCH,
        "timeTop": whole(1800, 7200),
        "notGroup": _SWITCH,
        "titleColor": one_of("#206CFF", "#E42D22"),
    },
}

REQUIRED = ("noticeBarInfo", "noticeBarInfo.title", "noticeBarInfo.content")
# What has to stand beside a field of a part, by that field's value.
GOES_WITH: dict[str, tuple[str, dict[int, tuple[str, ...]]]] = {
    "clickTypeInfo": ("clickType", {1: ("activity",), 2: ("url",)}),
    "noticeExpandInfo": ("noticeExpandType", {1: ("noticeExpandContent",), 2: ("noticeExpandImgUrl",)}),
}


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for Meizu's `messageJson`, each a sentence."""
    found = list(mistakes(overrides, OVERRIDES, required=REQUIRED))
    for part, (field, wanted) in GOES_WITH.items():
        found += companions(object_in(overrides, part), field, wanted, under=f"{part}.")
    timed = object_in(overrides, "advanceInfo")
    if not found and timed.get("fixDisplay") == 1 and not _can_show(timed):
        found.append("advanceInfo.fixDisplay 1 takes fixStartDisplayTime and, later, fixEndDisplayTime beside it.")
    return found


def _can_show(timed: Mapping[str, Any]) -> bool:
    begins, ends = timed.get("fixStartDisplayTime"), timed.get("fixEndDisplayTime")
    return begins is not None and ends is not None and begins < ends
