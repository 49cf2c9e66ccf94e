"""What FCM takes as a request body: fields, types, ranges, sizes, and the rules between fields. Pure.

Source: vendor sheet fcm.md §3 and §4 (Firebase REST reference projects.messages, 2026).
"""

import re
from dataclasses import dataclass

import msgspec

from providers.sandbox.checks import (
    Check,
    Complaints,
    Json,
    Violation,
    duration,
    flag,
    fraction,
    integer,
    list_of,
    matching,
    moment,
    one_of,
    record,
    string_map,
    struct,
    text,
)
from providers.sandbox.fcm_topics import TOPIC, Holds, parse_condition

PAYLOAD_BYTES_MAX = 4096  # keys + values
PAYLOAD_BYTES_MAX_TOPIC = 2048  # also for conditions
TTL_S_MAX = 2_419_200  # 28 days
TARGETS = ("token", "fid", "topic", "condition")
TARGET_CHARS_MAX = 4096
RESERVED_KEYS = frozenset({"from", "message_type"})
# The documents reserve `google.` and `gcm.notification.`, older ones every word that begins so (§3.1: avoid both).
RESERVED_BEGINNINGS = ("google", "gcm")

_ADDRESS = re.compile(rf"[\x21-\x7e]{{1,{TARGET_CHARS_MAX}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FcmRequest:
    """A request that FCM takes. `message` holds the canonical names; `addresses` is set for a condition only."""

    validate_only: bool
    kind: str  # one of TARGETS
    target: str
    message: Json
    addresses: Holds | None = None


def check_request(body: object, *, body_bytes: int) -> FcmRequest | Complaints:
    """The request, or everything that is wrong with it. `body_bytes` is its length on the wire."""
    wrong: Complaints = []
    checked = _REQUEST(body, "", wrong)
    message = part(checked, "message")
    if wrong:
        return wrong
    if not message:
        return [Violation("message", "Message is not set.", parsed=True)]
    kinds = [kind for kind in TARGETS if kind in message]
    if not kinds:
        return [Violation("message", "Recipient of the message is not set.", parsed=True)]
    if len(kinds) > 1:
        first, second = kinds[:2]
        sentence = f"oneof field 'target' is already set to '{first}'. Cannot set '{second}'"
        return [Violation("message", f"Invalid value at 'message' (oneof), {sentence}")]
    kind = kinds[0]
    target = str(message[kind])
    holds: Holds | None = None
    if kind == "condition":
        try:
            holds = parse_condition(target)
        except ValueError as error:
            return [Violation("message.condition", str(error), parsed=True)]
    elif kind == "topic":
        if not TOPIC.fullmatch(target):
            return [Violation("message.topic", "Invalid topic name.", parsed=True)]
    elif not _ADDRESS.fullmatch(target):
        return [Violation(f"message.{kind}", address_complaint(kind), parsed=True)]
    wrong += _between_fields(message)
    payload_bytes_max = PAYLOAD_BYTES_MAX if kind in {"token", "fid"} else PAYLOAD_BYTES_MAX_TOPIC
    if body_bytes > payload_bytes_max:  # otherwise its payload cannot be larger either
        wrong += _too_big(message, payload_bytes_max)
    if wrong:
        return wrong
    return FcmRequest(
        validate_only=checked.get("validate_only") is True, kind=kind, target=target, message=message, addresses=holds
    )


def address_complaint(kind: str) -> str:
    if kind == "fid":
        return "The Firebase Installation ID is not a valid FCM registration"
    return "The registration token is not a valid FCM registration token"


def part(message: Json, *path: str) -> Json:
    """The object at `path`, empty if there is none."""
    for name in path:
        inner = message.get(name)
        if not isinstance(inner, dict):
            return {}
        message = inner
    return message


def android_data(message: Json) -> Json:
    """What an Android app gets: `android.data` overrides the top-level map."""
    android = part(message, "android")
    return part(android, "data") if "data" in android else part(message, "data")


def _between_fields(message: Json) -> Complaints:
    """Only `apns-priority: 5` goes with a message that shows nothing (§3.3). FCM fills in an absent priority itself."""
    apns = message.get("apns")
    if not isinstance(apns, dict) or "notification" in message or "live_activity_token" in apns:
        return []
    if part(apns, "payload", "aps").keys() & {"alert", "badge", "sound"}:
        return []
    priorities = [value for key, value in part(apns, "headers").items() if key.lower() == "apns-priority"]
    if any(priority != "5" for priority in priorities):
        sentence = "Invalid apns-priority: a data-only message to an Apple device must use priority 5."
        return [Violation("message.apns.headers", sentence, parsed=True)]
    return []


def _too_big(message: Json, bytes_max: int) -> Complaints:
    """Each platform's own payload counts: keys + values for Android, else the JSON that FCM has to pass on."""
    notification = part(message, "notification")
    android = _length(android_data(message)) + _length({**notification, **part(message, "android", "notification")})
    apns = _length(part(message, "data")) + _length(part(message, "apns", "payload") or notification)
    web = _length(part(message, "webpush", "data") or part(message, "data"))
    web += _length({**notification, **part(message, "webpush", "notification")})
    sizes = (("android", "Android", android), ("apns", "iOS", apns), ("webpush", "WebPush", web))
    return [
        Violation(f"message.{name}" if name in message else "message", f"{word} message is too big", parsed=True)
        for name, word, size in sizes
        if size > bytes_max and (name == "android" or name in message)
    ]


def _length(value: object) -> int:
    """UTF-8 bytes of keys and values, without JSON's punctuation."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict):
        return sum(len(key.encode()) + _length(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(msgspec.json.encode(value))


def _reserved(key: str) -> str | None:
    if key in RESERVED_KEYS or key.startswith(RESERVED_BEGINNINGS):
        return f"Invalid data payload key: {key[:100]}"
    return None


def _headers(**rules: str) -> Check:
    """A map of header names to strings; names in any case, `rules` give patterns of bytes for some (`_` stands for `-`)."""
    patterns = {name.replace("_", "-"): re.compile(rule.encode()) for name, rule in rules.items()}
    strings = string_map()

    def check(value: object, path: str, wrong: Complaints) -> object:
        before = len(wrong)
        headers = strings(value, path, wrong)
        if len(wrong) > before:
            return {}
        for name, item in headers.items():
            rule = patterns.get(name.lower())
            if rule is not None and not rule.fullmatch(str(item).encode()):
                wrong.append(Violation(path, f"Invalid value of the header {name!r}: {str(item)[:100]!r}", parsed=True))
        return headers

    return check


def _apns_payload(value: object, path: str, wrong: Complaints) -> object:
    payload = struct(value, path, wrong)
    if not isinstance(payload.get("aps", {}), dict):
        wrong.append(Violation(f"{path}.aps", "Invalid value: 'aps' must be an object", parsed=True))
    return payload


_LABEL = matching(r"[a-zA-Z0-9\-_.~%]{1,50}", "Invalid analytics label.")
_DATA = string_map(_reserved)
_COLOR = record(red=fraction, green=fraction, blue=fraction, alpha=fraction)
_V1 = "google.firebase.fcm.v1."

_ANDROID_NOTIFICATION = record(
    title=text,
    body=text,
    icon=text,
    color=matching(r"#[0-9a-fA-F]{6}", "Invalid color: it must be of the form #rrggbb."),
    sound=text,
    tag=text,
    click_action=text,
    title_loc_key=text,
    title_loc_args=list_of(text),
    body_loc_key=text,
    body_loc_args=list_of(text),
    channel_id=text,
    ticker=text,
    sticky=flag,
    event_time=moment,
    local_only=flag,
    notification_priority=one_of(
        _V1 + "AndroidNotification.NotificationPriority",
        "PRIORITY_MIN",
        "PRIORITY_LOW",
        "PRIORITY_DEFAULT",
        "PRIORITY_HIGH",
        "PRIORITY_MAX",
    ),
    default_sound=flag,
    default_vibrate_timings=flag,
    default_light_settings=flag,
    vibrate_timings=list_of(duration()),
    visibility=one_of(_V1 + "AndroidNotification.Visibility", "PRIVATE", "PUBLIC", "SECRET"),
    notification_count=integer,
    light_settings=record(color=_COLOR, light_on_duration=duration(), light_off_duration=duration()),
    image=text,
    proxy=one_of(_V1 + "AndroidNotification.Proxy", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
    bypass_proxy_notification=flag,
)

_ANDROID = record(
    collapse_key=text,
    priority=one_of(_V1 + "AndroidMessagePriority", "NORMAL", "HIGH", any_case=True),
    ttl=duration(seconds_max=TTL_S_MAX),
    restricted_package_name=text,
    data=_DATA,
    notification=_ANDROID_NOTIFICATION,
    fcm_options=record(analytics_label=_LABEL),
    direct_boot_ok=flag,
    bandwidth_constrained_ok=flag,
    restricted_satellite_ok=flag,
)

_APNS = record(
    headers=_headers(apns_priority="1|5|10", apns_expiration="[0-9]{1,12}", apns_collapse_id=r"[\s\S]{1,64}"),
    payload=_apns_payload,
    fcm_options=record(analytics_label=_LABEL, image=text),
    live_activity_token=text,
)

_WEBPUSH = record(
    headers=_headers(ttl="[0-9]{1,12}", urgency="very-low|low|normal|high", topic="[A-Za-z0-9_-]{1,32}"),
    data=string_map(),
    notification=struct,
    fcm_options=record(link=matching(r"https://\S+", "Invalid link: it must be an HTTPS URL."), analytics_label=_LABEL),
)

_REQUEST = record(
    validate_only=flag,
    message=record(
        token=text,
        fid=text,
        topic=text,
        condition=text,
        name=text,  # output only: taken and overwritten
        data=_DATA,
        notification=record(title=text, body=text, image=text),
        android=_ANDROID,
        apns=_APNS,
        webpush=_WEBPUSH,
        fcm_options=record(analytics_label=_LABEL),
    ),
)
