"""What a phone makes of an FCM message: what stands on the screen, and what it replaces there. Pure.

Source: vendor sheet fcm.md §3 and §8. A token that begins with `ios-` or `web-` stands for an iPhone or a browser.
"""

from providers.sandbox.checks import Json
from providers.sandbox.fcm_message import FcmRequest, android_data, part
from providers.sandbox.phones import Content


def platform_of(token: str) -> str:
    if token.startswith("ios-"):
        return "ios"
    return "web" if token.startswith("web-") else "android"


def content_of(request: FcmRequest, *, name: str, platform: str) -> Content | None:
    """The message as this platform's phone gets it; `name` is FCM's name for it. None: Apple drops it without a word."""
    if platform == "ios":
        return None if _is_loud_wake(request.message) else _on_ios(request, name)
    return _on_web(request, name) if platform == "web" else _on_android(request, name)


def _on_android(request: FcmRequest, name: str) -> Content:
    message = request.message
    android = part(message, "android")
    shown = {**part(message, "notification"), **part(android, "notification")}
    by_system = "notification" in message or "notification" in android
    data = android_data(message)
    return Content(
        vendor="fcm",
        name=name,
        kind=request.kind,
        platform="android",
        shown_by=_shown_by(by_system, data),
        title=_text(shown if by_system else data, "title"),
        body=_text(shown if by_system else data, "body"),
        data=data,
        collapse=_text(shown, "tag") or _text(android, "collapse_key"),
        badge=_number(shown, "notification_count"),
        sound=_text(shown, "sound"),
        channel=_text(shown, "channel_id"),
        priority=_text(android, "priority") or ("HIGH" if by_system else "NORMAL"),
        ttl=_text(android, "ttl"),
    )


def _is_loud_wake(message: Json) -> bool:
    """A wake-up that shows something (sheet apns.md §4.1: it must not; §4: a mismatch may be dropped)."""
    headers = _lower_names(part(message, "apns", "headers"))
    shows = "notification" in message or part(message, "apns", "payload", "aps").keys() & {"alert", "badge", "sound"}
    return headers.get("apns-push-type") == "background" and bool(shows)


def _on_ios(request: FcmRequest, name: str) -> Content:
    message = request.message
    payload = part(message, "apns", "payload")
    aps = part(payload, "aps")
    headers = _lower_names(part(message, "apns", "headers"))
    alert = aps.get("alert")
    shown = {**part(message, "notification"), **(alert if isinstance(alert, dict) else {})}
    if isinstance(alert, str):
        shown["body"] = alert
    by_system = bool(shown)
    return Content(
        vendor="fcm",
        name=name,
        kind=request.kind,
        platform="ios",
        shown_by="system" if by_system else None,  # no app runs here that could draw
        title=_text(shown, "title"),
        body=_text(shown, "body"),
        data=part(message, "data") | {key: value for key, value in payload.items() if key != "aps"},
        collapse=_text(headers, "apns-collapse-id"),
        badge=_number(aps, "badge"),
        sound=_text(aps, "sound"),
        channel=_text(aps, "category"),
        priority=_text(headers, "apns-priority") or ("10" if by_system else "5"),
        ttl=_text(headers, "apns-expiration"),
    )


def _on_web(request: FcmRequest, name: str) -> Content:
    message = request.message
    web = part(message, "webpush")
    shown = {**part(message, "notification"), **part(web, "notification")}
    headers = _lower_names(part(web, "headers"))
    data = part(web, "data") or part(message, "data")
    by_system = bool(shown)
    return Content(
        vendor="fcm",
        name=name,
        kind=request.kind,
        platform="web",
        shown_by=_shown_by(by_system, data),
        title=_text(shown if by_system else data, "title"),
        body=_text(shown if by_system else data, "body"),
        data=data,
        collapse=_text(shown, "tag") or _text(headers, "topic"),
        priority=_text(headers, "urgency"),
        ttl=_text(headers, "ttl"),
    )


def _shown_by(by_system: bool, data: Json) -> str | None:
    """A data-only message runs the app's code, which draws what it finds; without words there is nothing to draw."""
    if by_system:
        return "system"
    return "app" if data.get("title") or data.get("body") else None


def _text(values: Json, name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and value else None


def _number(values: Json, name: str) -> int | None:
    value = values.get(name)
    return value if type(value) is int else None


def _lower_names(headers: Json) -> Json:
    return {name.lower(): value for name, value in headers.items()}
