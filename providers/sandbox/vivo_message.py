"""What a message must hold for vivo to take it, and what a phone makes of it. Source: vendor sheet vivo.md §3, §5, §6, §9.

Several codes for wrong fields are known only as a range (10045 to 10067); which is which here is a guess.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from providers.sandbox.checks import Json
from providers.sandbox.coded import BEIJING_AHEAD_S, DAY_S, Fields, Wrong, among, boolean, chars, like, look, number

APP_ID = 100001
TARGETS = (2, 1000)
OPEN_FROM_S, OPEN_UNTIL_S = 7 * 3600, 23 * 3600

SYSTEM = {"IM", "ACCOUNT", "TODO", "DEVICE_REMINDER", "ORDER", "SUBSCRIPTION"}
OPERATIONAL = {"NEWS", "CONTENT", "MARKETING", "SOCIAL"}
WORDS, NOT_LATIN = r"[^\W\d_]", r"[^\W\d_A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]"
TEST_WORDS = ("测试", "test")
TIMED = {"showStartTime", "showEndTime"}


def _chars(text: str) -> int:
    """An emoji counts as two, the stricter reading of a sheet that does not say."""
    return len(text.encode("utf-16-le", "replace")) // 2


def _custom_map(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 10
        and all(isinstance(part, str) for pair in value.items() for part in pair)
        and sum(_chars(key) + _chars(item) for key, item in value.items()) <= 1024
    )


def _text(most: int) -> Callable[[object], bool]:
    """Not blank."""
    return lambda value: isinstance(value, str) and bool(value.strip()) and _chars(value) <= most


def _callback(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"callback", "callback.param", "callback.id"}
        and all(isinstance(item, str) for item in value.values())
        and len(value.get("callback", "")) <= 128
        and len(value.get("callback.param", "")) <= (192 if "callback.id" in value else 64)
        and len(value.get("callback.id", "")) + len(value.get("callback.param", "")) <= 192
    )


def _targets(value: object) -> bool:
    return isinstance(value, list) and TARGETS[0] <= len(value) <= TARGETS[1] and all(map(_TARGET, value))


_TARGET = like(r"[\x21-\x7e]+")
CONTENT: Fields = {
    "appId": (among(APP_ID), 10094),
    "requestId": (chars(1, 64), 10303),
    "notifyType": (number(1, 4), 10050),
    "title": (_text(40), 10054),
    "content": (_text(100), 10055),
    "timeToLive": (number(60, 86_400), 10056),
    "skipType": (number(1, 4), 10057),
    "skipContent": (chars(1, 2048), 10058),
    "networkType": (among(-1, 1), 10059),
    "classification": (among(0, 1), 10097),
    "category": (among(*SYSTEM, *OPERATIONAL), 10096),
    "clientCustomMap": (_custom_map, 10060),
    "extra": (_callback, 10061),
    "pushMode": (among(0, 1), 10089),
    "notifyId": (number(1, 2_147_483_647), 10062),
    "sendOnline": (boolean, 10063),
    "foregroundShow": (boolean, 10064),
    "auditReview": (lambda value: isinstance(value, list), 10065),
    "addBadge": (boolean, 10066),
    "timedDisplay": (lambda value: isinstance(value, dict) and set(value) == TIMED, 10067),
}
SINGLE: Fields = {
    **CONTENT,
    "regId": (_TARGET, 10302),
    "profileId": (chars(1, 64), 10061),
}
LIST: Fields = {
    "appId": CONTENT["appId"],
    "requestId": CONTENT["requestId"],
    "taskId": (chars(1, 64), 10045),
    "regIds": (_targets, 10045),
}


def check_single(message: Json, *, now_s: float, latin: bool) -> None:
    """A message and the device that it is for. Raises Wrong. `latin`: Latin letters make words."""
    if "regId" not in message:
        raise Wrong(10045, "regId")
    _check(message, SINGLE, now_s=now_s, latin=latin)


def check_content(message: Json, *, now_s: float, latin: bool) -> None:
    """A message for a list that is named later. Raises Wrong. `latin`: as for `check_single`."""
    _check(message, CONTENT, now_s=now_s, latin=latin)


def check_list(call: Json) -> None:
    """A list of devices, and the task that is for them. Raises Wrong."""
    for field, code in (("appId", 10094), ("requestId", 10303), ("taskId", 10045), ("regIds", 10045)):
        if field not in call:
            raise Wrong(code, field)
    look(call, LIST, unknown=10050)


def check_hour(message: Json, *, now_s: float) -> None:
    """Raises Wrong for an operational message at another hour than it may be sent."""
    if not of_system(message) and not _is_open(now_s):
        raise Wrong(10071, "classification")


def of_system(message: Json) -> bool:
    """Whether it is of the system class; else it is an operational one."""
    category = message.get("category")
    return category in SYSTEM if category is not None else message.get("classification", 1) == 1


def content_of(message: Json) -> dict[str, Any]:
    """What a phone gets, in the words of `Emulator.deliver`."""
    custom, notify_id = message.get("clientCustomMap", {}), message.get("notifyId")
    return {
        "title": str(message["title"]),
        "body": str(message["content"]),
        "data": custom if isinstance(custom, dict) else {},
        "collapse": None if notify_id is None else str(notify_id),
        "channel": str(message.get("category")),
        "priority": str(message["notifyType"]),
        "ttl": str(message.get("timeToLive", "")),
    }


def _check(message: Json, fields: Fields, *, now_s: float, latin: bool) -> None:
    for field, code in (
        *(("appId", 10094), ("requestId", 10303), ("notifyType", 10050)),
        *(("title", 10054), ("content", 10055), ("skipType", 10057)),
    ):
        if field not in message:
            raise Wrong(code, field)
    look(message, fields, unknown=10050)
    if message["skipType"] in {2, 3, 4} and "skipContent" not in message:
        raise Wrong(10058, "skipContent")
    category, class_ = message.get("category"), message.get("classification")
    if category is not None and class_ is not None and (category in SYSTEM) != (class_ == 1):
        raise Wrong(10097, "classification")
    if message.get("pushMode", 0) == 0:
        _check_words(message, latin=latin)
    if not _in_time(message, now_s=now_s):
        raise Wrong(10067, "timedDisplay")
    check_hour(message, now_s=now_s)


def _check_words(message: Mapping[str, object], *, latin: bool) -> None:
    for field in ("title", "content"):
        text = str(message[field])
        if not re.search(WORDS if latin else NOT_LATIN, text):
            raise Wrong(10085, field)
        if any(word == text.lower() or (not word.isascii() and word in text) for word in TEST_WORDS):
            raise Wrong(10104, field)
    if re.search(r"[][{}【】]", str(message["title"])):
        raise Wrong(10104, "title")  # in which form, and by which of the two codes, the sheet does not say (§9)


def _in_time(message: Json, *, now_s: float) -> bool:
    """Ten minutes ahead at least, a day at most, and for less than two hours; what is operational, in its hours."""
    timed = message.get("timedDisplay")
    if timed is None:
        return True
    begin, end = (timed.get(name) for name in ("showStartTime", "showEndTime")) if isinstance(timed, dict) else (0, 0)
    if type(begin) is not int or type(end) is not int:
        return False
    if not 600 <= begin / 1000 - now_s <= DAY_S or not 0 < end - begin < 7200 * 1000:
        return False
    return of_system(message) or (_is_open(begin / 1000) and _is_open((end - 1) / 1000))


def _is_open(at_s: float) -> bool:
    return OPEN_FROM_S <= (at_s + BEIJING_AHEAD_S) % DAY_S < OPEN_UNTIL_S
