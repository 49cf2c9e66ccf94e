"""A push in FCM's words: sheet `fcm` §3 (request) and §8 (mapping). Pure."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from providers.contract import Push
from providers.fcm_overrides import RESERVED_KEY, TTL_S_MAX
from providers.fields import merged, object_in
from providers.http import json_body

__all__ = ["message_of", "payload_bytes", "ttl"]

APNS_COLLAPSE_BYTES_MAX = 64
APPLE_SHOWS = frozenset({"alert", "badge", "sound"})  # of `aps`
BACKGROUND = ("apns-push-type", "background")
OUR_KEYS = frozenset({"relay", "relay_id", "sealed"})  # in `data`


def message_of(push: Push, *, shown_by_app: bool, now_s: float, label: str | None = None) -> dict[str, Any]:
    """FCM's `message` without its target. A silent push, or one that the app shows itself, is data only."""
    drawn = not shown_by_app and not push.silent and push.sealed is None
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
    return _typed_for_apple(merged(message, push.overrides))


def _typed_for_apple(message: dict[str, Any]) -> dict[str, Any]:
    """The push type follows what an Apple device is to show, also after overrides: Apple drops a wake-up that shows
    something (sheet apns §4.1, §8). Of one that shows nothing only priority 5 goes (§3.3)."""
    apns = object_in(message, "apns")
    payload, headers = object_in(apns, "payload"), object_in(apns, "headers")
    aps = object_in(payload, "aps")
    if "live_activity_token" in apns or not headers:
        return message
    if "notification" in message or aps.keys() & APPLE_SHOWS:
        alert = {name: "alert" for name, value in headers.items() if (name.lower(), value) == BACKGROUND}
        return {**message, "apns": {**apns, "headers": {**headers, **alert}}}
    kept = {name: value for name, value in headers.items() if name.lower() not in {"apns-priority", "apns-push-type"}}
    wakes = {
        "headers": {**kept, "apns-priority": "5", "apns-push-type": "background"},
        "payload": {**payload, "aps": {**aps, "content-available": 1}},
    }
    return {**message, "apns": {**apns, **wakes}}


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
        "sealed": push.sealed,
    }
    if with_text and not push.silent:
        ours |= {
            "title": push.title,
            "body": push.body,
            "title_loc_key": push.title_loc_key,
            "title_loc_args": _string(list(push.title_loc_args)) if push.title_loc_args else None,
            "body_loc_key": push.body_loc_key,
            "body_loc_args": _string(list(push.body_loc_args)) if push.body_loc_args else None,
            "image": push.image,
            "channel": push.channel,
            "sound": push.sound,
        }
    if with_text:
        ours["badge"] = None if push.badge is None else str(push.badge)
    data = {key: value for key, value in ours.items() if value is not None}
    taken = {key for key in push.data if key in data or key in OUR_KEYS or RESERVED_KEY.fullmatch(key)}
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
            # Of what Google shows without one, the key is the app's name: of several that wait it would keep the newest.
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
