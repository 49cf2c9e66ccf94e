"""A push in FCM's words: sheet `fcm` §3 (request) and §8 (mapping). Pure."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from providers.contract import Push
from providers.fields import is_json, object_in
from providers.http import json_body

__all__ = ["message_of", "override_mistakes", "payload_bytes", "ttl"]

TTL_S_MAX = 2_419_200  # 28 days
OVERRIDE_DEPTH_MAX = 16
APNS_COLLAPSE_BYTES_MAX = 64
OUR_KEYS = frozenset({"relay", "relay_id"})  # in `data`

DURATION = re.compile(r"([0-9]{1,12})(\.[0-9]{1,9})?s")
LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
_RESERVED_KEY = re.compile(r"from|message_type|collapse_key|google.*|gcm.*", re.IGNORECASE | re.DOTALL)


def message_of(push: Push, *, shown_by_app: bool, now_s: float, label: str | None = None) -> dict[str, Any]:
    """FCM's `message` without its target. A silent push, or one that the app shows itself, is data only."""
    drawn = not shown_by_app and not push.silent
    ttl_s = min(max(push.ttl_s, 0), TTL_S_MAX)
    message = _present(
        {
            "data": _data(push, with_text=not drawn),
            "notification": _text(push) if drawn else None,
            "android": _android(push, ttl_s=ttl_s, drawn=drawn),
            "apns": _apns(push, ttl_s=ttl_s, now_s=now_s, drawn=drawn),
            "webpush": _webpush(push, ttl_s=ttl_s, drawn=drawn),
            "fcm_options": {"analytics_label": label} if label else None,
        }
    )
    return _merged(message, push.overrides)


def ttl(seconds: float) -> str:
    """A duration as FCM wants it: `0s`, `3600s`, `1.500000000s`."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds:.9f}s"


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is None or an empty object."""
    return {key: value for key, value in fields.items() if value is not None and value != {}}


def _text(push: Push) -> dict[str, Any]:
    return _present({"title": push.title, "body": push.body, "image": push.image})


def _data(push: Push, *, with_text: bool) -> dict[str, str]:
    """The app's data and ours. All values are strings; a key that FCM or we need gets underscores before it."""
    ours: dict[str, str | None] = {
        "relay_id": push.id,  # FCM does not recognise repeats; the app does, by this
        "relay": json_body(dict(push.relay)).decode() if push.relay else None,
        "click": push.click,
        "thread": push.thread,  # Android has no field for it
    }
    if with_text and not push.silent:
        ours |= {
            "title": push.title,
            "body": push.body,
            "image": push.image,
            "channel": push.channel,
            "sound": push.sound,
        }
    if with_text:
        ours["badge"] = None if push.badge is None else str(push.badge)
    data = {key: value for key, value in ours.items() if value is not None}
    taken = {key for key in push.data if key in data or key in OUR_KEYS or _RESERVED_KEY.fullmatch(key)}
    data |= {key: _string(value) for key, value in push.data.items() if key not in taken}
    for key in (key for key in push.data if key in taken):
        name = f"_{key}"
        while name in data:
            name = f"_{name}"
        data[name] = _string(push.data[key])
    return data


def _string(value: Any) -> str:
    return value if isinstance(value, str) else json_body(value).decode()


def _android(push: Push, *, ttl_s: float, drawn: bool) -> dict[str, Any]:
    shown = {
        "title_loc_key": push.title_loc_key,  # in the app's resources; title and body stand in where they lack it
        "title_loc_args": list(push.title_loc_args) or None,
        "body_loc_key": push.body_loc_key,
        "body_loc_args": list(push.body_loc_args) or None,
        "channel_id": push.channel,
        "sound": push.sound,
        "notification_count": push.badge,
        "tag": push.collapse_key or push.id,  # a repeat replaces what is shown
        "click_action": push.click if push.click and ":" not in push.click else None,  # an intent, not a URL
    }
    return _present(
        {
            "priority": "HIGH" if push.urgent and not push.silent else "NORMAL",
            "ttl": ttl(ttl_s),
            # Only the caller's: a device keeps at most four different keys, and a fifth drives one out.
            "collapse_key": push.collapse_key,
            "notification": _present(shown) if drawn else None,
        }
    )


def _apns(push: Push, *, ttl_s: float, now_s: float, drawn: bool) -> dict[str, Any]:
    collapse = push.collapse_key or push.id
    if len(collapse.encode("utf-8", "replace")) > APNS_COLLAPSE_BYTES_MAX or not collapse.isascii():
        collapse = _short(collapse)
    headers = {
        "apns-push-type": "background" if push.silent else "alert",
        "apns-priority": "10" if push.urgent and not push.silent else "5",
        "apns-expiration": str(int(now_s + ttl_s) if ttl_s else 0),
        "apns-collapse-id": collapse,
    }
    if push.silent:
        return {"headers": headers, "payload": {"aps": _present({"content-available": 1, "badge": push.badge})}}
    names = _present(
        {
            "title-loc-key": push.title_loc_key,
            "title-loc-args": list(push.title_loc_args) or None,
            "loc-key": push.body_loc_key,
            "loc-args": list(push.body_loc_args) or None,
        }
    )
    aps = {
        # In data mode there is no `notification`, and an Apple device without an alert would show nothing; an alert
        # of ours takes the place of the one that Google makes of `notification`, so it needs the texts, too.
        "alert": None if drawn and not names else _present({"title": push.title, "body": push.body}) | names,
        "badge": push.badge,
        "sound": push.sound,
        "category": push.channel,
        "thread-id": push.thread,
        "mutable-content": 1 if push.mutable or push.image or not drawn else None,
    }
    options = {"image": push.image} if push.image else None
    return _present({"headers": headers, "payload": _present({"aps": _present(aps)}), "fcm_options": options})


def _webpush(push: Push, *, ttl_s: float, drawn: bool) -> dict[str, Any]:
    headers = {"TTL": str(int(ttl_s)), "Urgency": "high" if push.urgent and not push.silent else "normal"}
    if push.collapse_key:
        headers["Topic"] = _short(push.collapse_key)  # always: Apple refuses what is not decodable (sheet webpush §4)
    link = {"link": push.click} if push.click and push.click.startswith("https://") else None
    shown = {"tag": push.collapse_key or push.id}
    return _present(
        {"headers": headers, "notification": shown if drawn else None, "fcm_options": link if drawn else None}
    )


def _short(text: str) -> str:
    """32 characters of base64url that stand for `text`."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode("utf-8", "replace")).digest())[:32].decode()


def payload_bytes(message: Mapping[str, Any]) -> int:
    """What the limit is about: keys and values of what one device gets, at the platform that gets most.

    Google does not say how it counts; this is JSON, so slightly more than keys and values.
    """
    parts = (
        (("android", "data"), ("android", "notification")),
        (("apns", "payload"),),
        (
            ("webpush", "data"),
            ("webpush", "notification"),
        ),
    )
    shared = {key: message[key] for key in ("data", "notification") if key in message}
    sizes = []
    for part in parts:
        own = {f"{platform}.{key}": object_in(message, platform).get(key) for platform, key in part}
        sizes.append(len(json_body(_present(shared | own))))
    return max(sizes)


def _merged(message: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`overrides` laid over `message` (JSON Merge Patch, RFC 7396)."""
    merged = dict(message)
    for key, value in overrides.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            under = merged.get(key)
            merged[key] = _merged(under if isinstance(under, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def override_mistakes(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Every mistake in overrides for FCM's `message`, each a sentence."""
    if not is_json(dict(overrides), OVERRIDE_DEPTH_MAX):
        yield f"The override must be JSON, at most {OVERRIDE_DEPTH_MAX} levels deep."
        return
    known = ("data", "notification", "android", "apns", "webpush", "fcm_options")
    for part, value in overrides.items():
        if part not in known:
            yield f"{part[:64]!r} may not be overridden; {', '.join(known)} may."
        elif value is not None and not isinstance(value, Mapping):
            yield f"{part} must be an object."
    parts = {part: value for part, value in overrides.items() if part in known and isinstance(value, Mapping)}
    android = parts.get("android", {})
    for where, keys in (
        ("notification", parts.get("notification", {})),
        ("android", android),
        ("android.notification", object_in(android, "notification")),
        ("apns", parts.get("apns", {})),
        ("webpush", parts.get("webpush", {})),
    ):
        # Google takes camelCase too, but beside our own snake_case it is the same field twice.
        yield from (f"{where}: write {key[:64]!r} in snake_case." for key in keys if key != key.lower())
    for where, data in (
        ("data", parts.get("data", {})),
        ("android.data", object_in(android, "data")),
        ("webpush.data", object_in(parts.get("webpush", {}), "data")),
    ):
        for key, value in data.items():
            if value is not None and not isinstance(value, str):
                yield f"{where}: every value must be a string."
            if _RESERVED_KEY.fullmatch(key):
                yield f"{where}: the key {key[:64]!r} is reserved by FCM."
    for where in ("apns", "webpush"):
        for value in object_in(parts.get(where, {}), "headers").values():
            if value is not None and not (isinstance(value, str) and value.isprintable() and value.isascii()):
                yield f"{where}.headers: every value must be a string of plain characters."
    life = android.get("ttl")
    if life is not None:
        match = DURATION.fullmatch(life) if isinstance(life, str) else None
        if match is None or float(life[:-1]) > TTL_S_MAX:
            yield f'android.ttl must be like "3600s", at most {TTL_S_MAX}s.'
    if android.get("priority") not in (None, "HIGH", "NORMAL", "high", "normal"):
        yield "android.priority must be HIGH or NORMAL."
    for holder in (parts, android, parts.get("apns", {}), parts.get("webpush", {})):
        label = object_in(holder, "fcm_options").get("analytics_label")
        if label is not None and not (isinstance(label, str) and LABEL.fullmatch(label)):
            yield "fcm_options.analytics_label must be 1 to 50 of a-z A-Z 0-9 - _ . ~ %."
