"""What an override may say in FCM's own words: the schema of sheet `fcm` §3.1 to §3.4. Pure.

Names are Google's in snake_case: it takes camelCase too, but beside ours that is the same field twice.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from providers.field_lists import several
from providers.fields import Rule, Rules, flag, is_json, matching, mistakes, moment, one_of, text, whole

__all__ = ["DURATION", "LABEL", "RESERVED_KEY", "TTL_S_MAX", "override_mistakes"]

TTL_S_MAX = 2_419_200  # 28 days
OVERRIDE_DEPTH_MAX = 16

DURATION = re.compile(r"([0-9]{1,12})(\.[0-9]{1,9})?s")
LABEL = re.compile(r"[a-zA-Z0-9\-_.~%]{1,50}")
RESERVED_KEY = re.compile(r"from|message_type|collapse_key|google.*|gcm.*", re.IGNORECASE | re.DOTALL)

_TEXT = text(4096)
_TEXTS = several(_TEXT, 100, "a list of at most 100 texts")
_LABEL = matching(LABEL.pattern, "1 to 50 of a-z A-Z 0-9 - _ . ~ %")
_OBJECT = Rule(lambda value: isinstance(value, Mapping), "an object")
_DURATION = matching(DURATION.pattern, 'like "1.5s"')


def _data(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        (text is None or isinstance(text, str)) and not RESERVED_KEY.fullmatch(key) for key, text in value.items()
    )


def _fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _headers(rules: Rules) -> Rule:
    """An object of texts without line ends. What `rules` say is of headers, whose names have no case."""

    def holds(value: object) -> bool:
        return (
            isinstance(value, Mapping)
            and all(
                text is None or (isinstance(text, str) and text.isprintable() and text.isascii())
                for text in value.values()
            )
            and not any(mistakes({name.lower(): text for name, text in value.items() if name.lower() in rules}, rules))
        )

    known = ", ".join(f"{name} {rule.must}" for name, rule in rules.items() if isinstance(rule, Rule))
    return Rule(holds, f"an object of plain texts ({known})")


def _lives(value: object) -> bool:
    return isinstance(value, str) and DURATION.fullmatch(value) is not None and float(value[:-1]) <= TTL_S_MAX


_DATA = Rule(
    _data, "an object of texts, none of them named from, message_type, collapse_key, or beginning with google or gcm"
)
_FRACTION = Rule(_fraction, "a number from 0 to 1")
_ANDROID_NOTIFICATION: Rules = {
    "title": _TEXT,
    "body": _TEXT,
    "icon": _TEXT,
    "color": matching(r"#[0-9A-Fa-f]{6}", 'like "#rrggbb"'),
    "sound": _TEXT,
    "tag": _TEXT,
    "click_action": _TEXT,
    "title_loc_key": _TEXT,
    "title_loc_args": _TEXTS,
    "body_loc_key": _TEXT,
    "body_loc_args": _TEXTS,
    "channel_id": _TEXT,
    "ticker": _TEXT,
    "sticky": flag,
    "event_time": moment(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", "a time, like 2026-05-03T09:12:44Z"
    ),
    "local_only": flag,
    "notification_priority": one_of(
        "PRIORITY_MIN", "PRIORITY_LOW", "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"
    ),
    "default_sound": flag,
    "default_vibrate_timings": flag,
    "default_light_settings": flag,
    "vibrate_timings": several(_DURATION, 100, 'a list of at most 100 durations, like "1.5s"'),
    "visibility": one_of("PRIVATE", "PUBLIC", "SECRET"),
    "notification_count": whole(0, 2**31 - 1),
    "light_settings": {
        "color": {"red": _FRACTION, "green": _FRACTION, "blue": _FRACTION, "alpha": _FRACTION},
        "light_on_duration": _DURATION,
        "light_off_duration": _DURATION,
    },
    "image": _TEXT,
    "proxy": one_of("ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
    "bypass_proxy_notification": flag,
}
_RULES: Rules = {
    "data": _DATA,
    "notification": {"title": _TEXT, "body": _TEXT, "image": _TEXT},
    "android": {
        "collapse_key": _TEXT,
        "priority": one_of("HIGH", "NORMAL", "high", "normal"),
        "ttl": Rule(_lives, f'like "3600s", at most {TTL_S_MAX}s'),
        "restricted_package_name": _TEXT,
        "data": _DATA,
        "notification": _ANDROID_NOTIFICATION,
        "fcm_options": {"analytics_label": _LABEL},
        "direct_boot_ok": flag,
        "bandwidth_constrained_ok": flag,
        "restricted_satellite_ok": flag,
    },
    "apns": {
        "headers": _headers(
            {
                "apns-priority": one_of("10", "5", "1"),
                "apns-expiration": matching(r"[0-9]{1,12}", "UNIX seconds in digits"),
                "apns-collapse-id": text(64, chars_min=1),
            }
        ),
        "payload": Rule(
            lambda value: isinstance(value, Mapping) and isinstance(value.get("aps", {}), Mapping),
            "an object, and so its aps",
        ),
        "fcm_options": {"analytics_label": _LABEL, "image": _TEXT},
        "live_activity_token": _TEXT,
    },
    "webpush": {
        "headers": _headers(
            {
                "ttl": matching(r"[0-9]{1,12}", "seconds in digits"),
                "urgency": one_of("very-low", "low", "normal", "high"),
                "topic": matching(r"[A-Za-z0-9_-]{1,32}", "1 to 32 of A-Z a-z 0-9 - _"),
            }
        ),
        "data": Rule(
            lambda value: (
                isinstance(value, Mapping) and all(item is None or isinstance(item, str) for item in value.values())
            ),
            "an object of texts",
        ),
        "notification": _OBJECT,  # the browser's own fields, of any kind
        "fcm_options": {"link": matching(r"https://[\x21-\x7e]{1,2048}", "an https URL"), "analytics_label": _LABEL},
    },
    "fcm_options": {"analytics_label": _LABEL},
}


def override_mistakes(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Every mistake in overrides for FCM's `message`, each a sentence."""
    if not is_json(dict(overrides), OVERRIDE_DEPTH_MAX):
        yield f"The override must be JSON, at most {OVERRIDE_DEPTH_MAX} levels deep."
        return
    yield from mistakes(overrides, _RULES)
