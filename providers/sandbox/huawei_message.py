"""What an HMS message must hold, and what a phone makes of it. Source: vendor sheet huawei.md §3, §6."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import Fields, Wrong, among, boolean, chars, like, look, moment, number, object_of

TOKENS_MAX = 1000
STRUCTURE, PARAMETER, TTL, COLLAPSE, TOKENS, HIGH = 80100003, 80100001, 80100004, 80100013, 80300010, 80300011
INT_MAX = 2**31 - 1
# Granted here; any other word, and none, is marketing without a word of warning.
SERVICE = frozenset(
    {"IM", "VOIP", "MISS_CALL", "TRAVEL", "HEALTH", "WORK", "ACCOUNT", "EXPRESS", "FINANCE", "DEVICE_REMINDER", "MAIL"}
    | {"SUBSCRIPTION", "PLAY_VOICE", "SYSTEM_REMINDER"}
)


def listed(item: Callable[[object], bool], most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(item, value))


def an_object(value: object) -> bool:
    return isinstance(value, dict)


def _languages(value: object) -> bool:
    """Each text by its language, of which there are at most three."""
    return isinstance(value, dict) and all(isinstance(words, dict) and len(words) <= 3 for words in value.values())


_ANY = chars(0, 10**9)
_HTTPS = like(r"https://\S+")
_RAW = like(r"/raw/\w+")
_SECONDS = like(r"\d{1,2}(\.\d{1,9})?s?")

ROOT: Fields = {
    "validate_only": (boolean, STRUCTURE),
    "message": (an_object, TOKENS),
    "review": (lambda value: isinstance(value, list), STRUCTURE),
}
MESSAGE: Fields = {
    "token": (lambda value: isinstance(value, list), TOKENS),
    "topic": (_ANY, STRUCTURE),
    "condition": (_ANY, STRUCTURE),
    "data": (_ANY, STRUCTURE),
    "notification": (an_object, STRUCTURE),
    "android": (an_object, STRUCTURE),
    "apns": (an_object, STRUCTURE),
    "webpush": (an_object, STRUCTURE),
}
BASIC: Fields = {"title": (_ANY, STRUCTURE), "body": (_ANY, STRUCTURE), "image": (_HTTPS, STRUCTURE)}
ANDROID: Fields = {
    "collapse_key": (number(-1, 100), COLLAPSE),
    "urgency": (among("HIGH", "NORMAL"), PARAMETER),
    "category": (_ANY, STRUCTURE),
    "ttl": (like(r"[0-9]{1,7}s"), STRUCTURE),
    "bi_tag": (_ANY, STRUCTURE),
    "receipt_id": (_ANY, STRUCTURE),
    "target_user_type": (among(0, 1), PARAMETER),
    "fast_app_target": (among(1, 2), PARAMETER),
    "data": (_ANY, STRUCTURE),
    "notification": (an_object, STRUCTURE),
}
NOTIFICATION: Fields = {
    "title": (_ANY, STRUCTURE),
    "body": (_ANY, STRUCTURE),
    "click_action": (an_object, STRUCTURE),
    "image": (_HTTPS, STRUCTURE),
    "icon": (_RAW, STRUCTURE),
    "color": (like(r"#[0-9A-Fa-f]{6}"), STRUCTURE),
    "sound": (_RAW, STRUCTURE),
    "default_sound": (boolean, STRUCTURE),
    "channel_id": (_ANY, STRUCTURE),
    "importance": (among("LOW", "NORMAL"), PARAMETER),
    "notify_id": (number(-1, INT_MAX), PARAMETER),
    "tag": (_ANY, STRUCTURE),
    "group": (_ANY, STRUCTURE),
    "style": (among(0, 1, 3), PARAMETER),
    "big_title": (_ANY, STRUCTURE),
    "big_body": (_ANY, STRUCTURE),
    "inbox_content": (listed(chars(0, 1024), 5), STRUCTURE),
    "auto_clear": (number(0, INT_MAX), PARAMETER),
    "badge": (an_object, STRUCTURE),
    "when": (moment(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), PARAMETER),
    "foreground_show": (boolean, STRUCTURE),
    "profile_id": (chars(1, 64), PARAMETER),
    "buttons": (listed(an_object, 3), STRUCTURE),
    "visibility": (among("VISIBILITY_UNSPECIFIED", "PUBLIC", "SECRET", "PRIVATE"), PARAMETER),
    "vibrate_config": (listed(_SECONDS, 10), STRUCTURE),
    "title_loc_key": (_ANY, STRUCTURE),
    "title_loc_args": (listed(_ANY, 1000), STRUCTURE),
    "body_loc_key": (_ANY, STRUCTURE),
    "body_loc_args": (listed(_ANY, 1000), STRUCTURE),
    "multi_lang_key": (_languages, STRUCTURE),
}
CLICK: Fields = {
    "type": (among(1, 2, 3), STRUCTURE),
    "intent": (_ANY, STRUCTURE),
    "action": (_ANY, STRUCTURE),
    "url": (_HTTPS, STRUCTURE),
}
BADGE: Fields = {
    "add_num": (number(1, 99), PARAMETER),
    "set_num": (number(0, 99), PARAMETER),
    "class": (_ANY, STRUCTURE),
}
BUTTON: Fields = {
    "name": (chars(1, 40), STRUCTURE),
    "action_type": (number(0, 4), STRUCTURE),
    "intent_type": (among(0, 1), STRUCTURE),
    "intent": (_ANY, STRUCTURE),
    "data": (chars(0, 1024), STRUCTURE),
}


def tokens_of(body: object) -> list[str]:
    """Raises Wrong."""
    root = object_of(body)
    if root is None:
        raise Wrong(STRUCTURE, "body")
    message = object_of(root.get("message"))
    if message is None:
        raise Wrong(TOKENS, "message")
    if sum(name in message for name in ("token", "topic", "condition")) != 1:
        raise Wrong(STRUCTURE, "message.token")
    tokens = message.get("token", [])
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= TOKENS_MAX:
        raise Wrong(TOKENS, "message.token")  # the sandbox has no topics
    if not all(isinstance(token, str) and token for token in tokens):
        raise Wrong(PARAMETER, "message.token")
    return tokens


def check_message(body: Json) -> Json:
    """The message, if it keeps to the rules. Raises Wrong."""
    look(body, ROOT, unknown=STRUCTURE)
    message = _object(body["message"])
    look(message, MESSAGE, unknown=STRUCTURE)
    basic = _object(message.get("notification"))
    look(basic, BASIC, unknown=STRUCTURE)
    android = _object(message.get("android"))
    look(android, ANDROID, unknown=STRUCTURE)
    life_s = int(str(android.get("ttl", "86400s"))[:-1])
    if life_s <= 0:
        raise Wrong(TTL, "android.ttl")
    if life_s > 1_296_000:
        raise Wrong(PARAMETER, "android.ttl")
    if android.get("urgency") == "HIGH":
        raise Wrong(HIGH, "android.urgency")  # this app was not granted it
    if basic or "notification" in android:
        _check_notification(_object(android.get("notification")), basic)
    elif "data" not in message and "data" not in android:
        raise Wrong(STRUCTURE, "message.data")
    return message


def _check_notification(shown: Json, basic: Json) -> None:
    look(shown, NOTIFICATION, unknown=STRUCTURE)
    for name in ("title", "body"):
        if not shown.get(name) and not basic.get(name):
            raise Wrong(STRUCTURE, f"notification.{name}")
    click = shown.get("click_action")
    if not isinstance(click, dict):
        raise Wrong(STRUCTURE, "notification.click_action")
    look(click, CLICK, unknown=STRUCTURE)
    needed = {1: ("intent", "action"), 2: ("url",)}.get(click.get("type", 0), ())
    if "type" not in click or (needed and not any(click.get(name) for name in needed)):
        raise Wrong(STRUCTURE, "notification.click_action")
    look(_object(shown.get("badge")), BADGE, unknown=STRUCTURE)
    for button in shown.get("buttons", []):  # type: ignore[attr-defined]
        look(button, BUTTON, unknown=STRUCTURE)
    if shown.get("style") == 1 and not (shown.get("big_title") and shown.get("big_body")):
        raise Wrong(STRUCTURE, "notification.big_body")
    for seconds in shown.get("vibrate_config", []):  # type: ignore[attr-defined]
        if not 0 < float(str(seconds).rstrip("s")) <= 60:
            raise Wrong(PARAMETER, "notification.vibrate_config")


@dataclass(frozen=True, slots=True)
class Said:
    marketing: bool
    said: dict[str, Any] = field(default_factory=dict)


def content_of(message: Mapping[str, Any]) -> Said:
    """What a phone gets, in the words of `Emulator.deliver`."""
    android = _object(message.get("android"))
    shown = {**_object(message.get("notification")), **_object(android.get("notification"))}
    data = str(android.get("data", message.get("data", "")))
    said: dict[str, Any] = {
        "data": read(data),
        "ttl": android.get("ttl"),
        "priority": android.get("urgency") or shown.get("importance"),
    }
    if not shown:
        return Said(False, said)
    notify_id = shown.get("notify_id", -1)
    badge = _object(shown.get("badge"))
    said |= {
        "title": shown.get("title"),
        "body": shown.get("body"),
        "collapse": shown.get("tag") or (None if notify_id == -1 else str(notify_id)),
        "badge": badge.get("set_num", badge.get("add_num")) if badge.get("class") else None,
        "sound": shown.get("sound"),
        "channel": shown.get("channel_id"),
    }
    return Said(android.get("category") not in SERVICE, said)


def read(data: str) -> Json:
    """The app's data: its JSON object, or as it is."""
    if not data:
        return {}
    value = read_json(data)
    return value if isinstance(value, dict) else {"data": data}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
