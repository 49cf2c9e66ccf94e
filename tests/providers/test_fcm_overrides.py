"""What an override may say in FCM's words (sheet `fcm` §3.1 to §3.4): the mistakes are named here, Google takes the rest."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from providers import loading
from providers.contract import Push, Verdict
from providers.fcm import FcmProvider
from providers.sandbox import Sandbox
from providers.transport import HttpTransport

NOW = 1_800_000_000.0

# What Google answers 400 to, and the field that the sentence has to name.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"android": {"notification": {"notification_priority": "LOUD"}}}, "android.notification.notification_priority"),
    ({"android": {"notification": {"notification_count": "5"}}}, "android.notification.notification_count"),
    ({"android": {"notification": {"sticky": "yes"}}}, "android.notification.sticky"),
    ({"android": {"notification": {"color": "red"}}}, "android.notification.color"),
    ({"android": {"notification": {"visibility": "HIDDEN"}}}, "android.notification.visibility"),
    ({"android": {"notification": {"event_time": "yesterday"}}}, "android.notification.event_time"),
    ({"android": {"notification": {"event_time": "2026-02-31T09:12:44Z"}}}, "android.notification.event_time"),
    ({"android": {"notification": {"vibrate_timings": ["1.5"]}}}, "android.notification.vibrate_timings"),
    ({"android": {"notification": {"title_loc_args": [1]}}}, "android.notification.title_loc_args"),
    ({"android": {"notification": {"volume": 1}}}, "android.notification.volume"),
    (
        {"android": {"notification": {"light_settings": {"color": {"red": 2}}}}},
        "android.notification.light_settings.color.red",
    ),
    ({"android": {"direct_boot_ok": 1}}, "android.direct_boot_ok"),
    ({"android": {"fcm_options": {"link": "https://a.example"}}}, "android.fcm_options.link"),
    ({"android": {"collapse_key": 5}}, "android.collapse_key"),
    ({"notification": {"icon": "x"}}, "notification.icon"),
    ({"notification": {"title": 5}}, "notification.title"),
    ({"apns": {"headers": {"apns-priority": "7"}}}, "apns.headers"),
    ({"apns": {"headers": {"apns-collapse-id": "x" * 65}}}, "apns.headers"),
    ({"apns": {"payload": {"aps": "x"}}}, "apns.payload"),
    ({"apns": {"topic": "x"}}, "apns.topic"),
    ({"apns": {"fcm_options": {"link": "https://a.example"}}}, "apns.fcm_options.link"),
    ({"webpush": {"fcm_options": {"link": "http://a.example"}}}, "webpush.fcm_options.link"),
    ({"webpush": {"headers": {"Urgency": "loud"}}}, "webpush.headers"),
    ({"webpush": {"headers": {"Topic": "a b"}}}, "webpush.headers"),
    ({"webpush": {"data": {"n": 1}}}, "webpush.data"),
    ({"webpush": {"notification": "x"}}, "webpush.notification"),
    ({"fcm_options": {"link": "https://a.example"}}, "fcm_options.link"),
]

EVERYTHING: dict[str, Any] = {
    "data": {"k": "v", "gone": None},
    "notification": {"title": "t", "body": "b", "image": "https://a.example/i.png"},
    "android": {
        "collapse_key": "c",
        "priority": "high",
        "ttl": "1.5s",
        "restricted_package_name": "com.example.app",
        "data": {"k": "w"},
        "fcm_options": {"analytics_label": "l"},
        "direct_boot_ok": True,
        "bandwidth_constrained_ok": True,
        "restricted_satellite_ok": False,
        "notification": {
            **dict.fromkeys(("title", "body", "icon", "sound", "tag", "click_action", "title_loc_key"), "x"),
            **dict.fromkeys(("body_loc_key", "channel_id", "ticker", "image"), "x"),
            **dict.fromkeys(("sticky", "local_only", "default_sound", "default_vibrate_timings"), True),
            **dict.fromkeys(("default_light_settings", "bypass_proxy_notification"), False),
            "color": "#a0B1c2",
            "title_loc_args": ["Ann"],
            "body_loc_args": [],
            "event_time": "2026-05-03T09:12:44.5+02:00",
            "notification_priority": "PRIORITY_MAX",
            "vibrate_timings": ["0.1s", "2s"],
            "visibility": "SECRET",
            "notification_count": 5,
            "light_settings": {
                "color": {"red": 1, "green": 0.5, "blue": 0, "alpha": 1.0},
                "light_on_duration": "1s",
                "light_off_duration": "0.5s",
            },
            "proxy": "IF_PRIORITY_LOWERED",
        },
    },
    "apns": {
        "headers": {"apns-priority": "5", "apns-expiration": "0", "apns-collapse-id": "c"},
        "payload": {"aps": {"interruption-level": "passive"}, "x": [1, None]},
        "fcm_options": {"analytics_label": "l", "image": "https://a.example/i.png"},
        "live_activity_token": "t",
    },
    "webpush": {
        "headers": {"TTL": "60", "Urgency": "very-low", "Topic": "a_b"},
        "data": {"k": "v"},
        "notification": {"requireInteraction": True, "vibrate": [1], "actions": [{"action": "a", "title": "t"}]},
        "fcm_options": {"link": "https://a.example/x", "analytics_label": "l"},
    },
    "fcm_options": {"analytics_label": "l"},
}


@pytest.mark.parametrize(("overrides", "field"), WRONG)
def test_what_google_would_answer_400_to_is_named_before(overrides: Mapping[str, Any], field: str) -> None:
    (sentence,) = FcmProvider.check_overrides(overrides)
    assert sentence.startswith((f"{field} must be ", f"{field!r} may not be overridden; "))


async def test_google_takes_every_field_that_may_be_overridden() -> None:
    assert FcmProvider.check_overrides(EVERYTHING) == []
    sandbox = Sandbox(now=lambda: NOW, rng=random.Random(1))
    await sandbox.start()
    try:
        async with HttpTransport() as transport:
            settings = sandbox.account_settings()["settings"]
            fcm = loading.build(FcmProvider, settings, transport=transport, now=lambda: NOW)
            push = Push(id="p", token="phone-1", title="Ann", body="hello", overrides=EVERYTHING)
            assert (await fcm.send(push)).verdict is Verdict.ACCEPTED
            await fcm.aclose()
    finally:
        await sandbox.stop()


def test_null_takes_any_part_of_ours_away() -> None:
    assert FcmProvider.check_overrides({"webpush": None, "apns": {"headers": None}, "android": {"ttl": None}}) == []
