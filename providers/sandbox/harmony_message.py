"""What a v3 body must hold, and what a phone makes of it. Source: vendor sheet huawei.md §4, §6."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from providers.sandbox.checks import Json, read_json
from providers.sandbox.coded import Fields, Wrong, among, boolean, chars, like, look, number, object_of

ALERT, BACKGROUND = "0", "6"
COLLAPSING = frozenset({"0", "2"})
TOKENS_MAX, TEST_TOKENS_MAX = 1000, 10
STRUCTURE, PARAMETER, IMAGE, TOKENS, TEST_TOKENS = 80100003, 80100001, 80100022, 80300010, 80300030
INT_MAX = 2**31 - 1
GRANTED = frozenset({"IM"})  # a category beyond these is marketing without a word of warning


def _object_there(value: object) -> bool:
    return isinstance(value, dict)


def _texts(most: int, chars_max: int) -> Callable[[object], bool]:
    one = chars(0, chars_max)
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(one, value))


def _bytes(most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and len(value.encode()) <= most


_TEXT = chars(1, 10**9)

ROOT: Fields = {
    "payload": (_object_there, STRUCTURE),
    "target": (_object_there, TOKENS),
    "pushOptions": (_object_there, STRUCTURE),
}
OPTIONS: Fields = {
    "testMessage": (boolean, STRUCTURE),
    "ttl": (number(1, 1_296_000), PARAMETER),
    "biTag": (_bytes(64), PARAMETER),
    "receiptId": (_TEXT, STRUCTURE),
    "collapseKey": (number(-1, 100), PARAMETER),
    "backgroundMode": (among(0, 1), PARAMETER),
}
NOTIFICATION: Fields = {
    "category": (like(r"[A-Z_]+"), PARAMETER),
    "title": (_TEXT, STRUCTURE),
    "body": (_TEXT, STRUCTURE),
    "clickAction": (_object_there, STRUCTURE),
    "image": (lambda _: False, IMAGE),  # nobody has verified one here
    "style": (among(0, 1, 3), PARAMETER),
    "inboxContent": (_texts(3, 1024), PARAMETER),
    "notifyId": (number(-1, INT_MAX), PARAMETER),
    "appMessageId": (like(r"[A-Za-z0-9+/=\-_ ]{1,64}"), PARAMETER),
    "profileId": (chars(1, 64), PARAMETER),
    "badge": (_object_there, STRUCTURE),
    "sound": (_TEXT, STRUCTURE),
    "soundDuration": (number(1, 60), PARAMETER),
    "foregroundShow": (boolean, STRUCTURE),
}
CLICK: Fields = {
    "actionType": (among(0, 1), PARAMETER),
    "action": (_TEXT, STRUCTURE),
    "uri": (_TEXT, STRUCTURE),
    "data": (_object_there, STRUCTURE),
}
BADGE: Fields = {"addNum": (number(1, 99), PARAMETER), "setNum": (number(0, 99), PARAMETER)}
WAKE: Fields = {"extraData": (_TEXT, STRUCTURE), "proxyData": (among("ENABLE"), PARAMETER)}


def tokens_of(body: object) -> list[str]:
    """Raises Wrong."""
    root = object_of(body)
    if root is None:
        raise Wrong(STRUCTURE, "body")
    target = object_of(root.get("target"))
    tokens = None if target is None or set(target) != {"token"} else target["token"]
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= TOKENS_MAX:
        raise Wrong(TOKENS, "target.token")
    if not all(isinstance(token, str) and token for token in tokens):
        raise Wrong(PARAMETER, "target.token")
    if _part(root, "pushOptions").get("testMessage") is True and len(tokens) > TEST_TOKENS_MAX:
        raise Wrong(TEST_TOKENS, "target.token")
    return tokens


def check_body(body: Json, push_type: str | None) -> None:
    """Raises Wrong. The payload of a push type that the app has no right to (None) is not looked at."""
    look(body, ROOT, unknown=STRUCTURE)
    options = _part(body, "pushOptions")
    look(options, OPTIONS, unknown=STRUCTURE)
    if "backgroundMode" in options and push_type != BACKGROUND:
        raise Wrong(PARAMETER, "pushOptions.backgroundMode")
    if "collapseKey" in options and push_type not in {None, *COLLAPSING}:
        raise Wrong(PARAMETER, "pushOptions.collapseKey")
    payload = _part(body, "payload")
    if push_type == ALERT:
        look(payload, {"notification": (_object_there, STRUCTURE)}, unknown=STRUCTURE)
        _check_notification(_part(payload, "notification"))
    elif push_type == BACKGROUND:
        look(payload, WAKE, unknown=STRUCTURE)
        if "extraData" not in payload:
            raise Wrong(STRUCTURE, "payload.extraData")


def _check_notification(shown: Mapping[str, Any]) -> None:
    look(shown, NOTIFICATION, unknown=STRUCTURE)
    for name in ("category", "title", "body", "clickAction"):
        if name not in shown:
            raise Wrong(STRUCTURE, f"payload.notification.{name}")
    click = shown["clickAction"]
    look(click, CLICK, unknown=STRUCTURE)
    kind = click.get("actionType")
    if kind is None or (kind == 1 and not (click.get("action") or click.get("uri"))):
        raise Wrong(STRUCTURE, "payload.notification.clickAction")
    look(_part(shown, "badge"), BADGE, unknown=STRUCTURE)
    if "soundDuration" in shown and "sound" not in shown:
        raise Wrong(PARAMETER, "payload.notification.soundDuration")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a phone gets. `once`: it shows only the first of these; `said`: in the words of `Emulator.deliver`."""

    once: str | None = None
    marketing: bool = False
    im_background: bool = False
    said: dict[str, Any] = field(default_factory=dict)


def content_of(body: Mapping[str, Any]) -> Said:
    options, payload = _part(body, "pushOptions"), _part(body, "payload")
    ttl = str(options.get("ttl", 86_400))
    if "notification" not in payload:
        said = {"data": _read(str(payload["extraData"])), "ttl": ttl}
        return Said(im_background=options.get("backgroundMode") == 1, said=said)
    shown = _part(payload, "notification")
    notify_id, badge = shown.get("notifyId", -1), _part(shown, "badge")
    return Said(
        once=shown.get("appMessageId"),
        marketing=shown["category"] not in GRANTED,
        said={
            "title": shown["title"],
            "body": shown["body"],
            "data": _part(_part(shown, "clickAction"), "data"),
            "collapse": None if notify_id == -1 else str(notify_id),
            "badge": badge.get("setNum", badge.get("addNum")),
            "sound": shown.get("sound"),
            "channel": shown["category"],
            "ttl": ttl,
        },
    )


def _read(data: str) -> Json:
    value = read_json(data)
    return value if isinstance(value, dict) else {"extraData": data}


def _part(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}
