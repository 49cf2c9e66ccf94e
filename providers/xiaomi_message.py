"""A push in Xiaomi's words: vendor sheet `xiaomi` §3 (request), §6 (channels) and §7 (mapping). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from providers.app_message import app_data, cut, cuts, named, number_for, once_key, present, texts
from providers.contract import Push
from providers.fields import Rule, Rules, companions, matching, mistakes, one_of, text, whole
from providers.http import json_body

__all__ = [
    "PAYLOAD_BYTES_MAX",
    "TITLE_CHARS_MAX",
    "TTL_S_MAX",
    "Words",
    "fields_of",
    "losses",
    "notify_id",
    "override_mistakes",
]

PAYLOAD_BYTES_MAX = 4095  # "less than 4 KB"
TITLE_CHARS_MAX = 49  # "less than 50"
BODY_CHARS_MAX = 127
TTL_S_MAX = 1_209_600  # two weeks
NOTIFY_ID_BELOW = 2**31

_SOUND = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What an account says beside the push itself."""

    package: str
    channels: Mapping[str, str]  # the push's channel to Xiaomi's channel id; with a "default"
    foreground: bool
    wake_shown: bool  # whether a push without words is shown; else it passes through to the app, unseen
    wake_text: str  # what stands in for a text that is not there


def fields_of(push: Push, words: Words, *, now_s: float) -> dict[str, Any]:
    """Xiaomi's form, but for whom it goes to and what becomes of it."""
    unseen = push.silent and not words.wake_shown and push.overrides.get("pass_through") != 0
    ttl_s = min(max(push.ttl_s, 0), TTL_S_MAX)
    fields = {
        "restricted_package_name": words.package,
        "pass_through": 1 if unseen else 0,
        "payload": json_body(app_data(push)).decode(),
        "time_to_live": max(int(ttl_s * 1000), 1) if ttl_s else None,  # milliseconds
        "extra.only_send_once": None if ttl_s else "1",
        "extra.channel_id": words.channels.get(push.channel or "default", words.channels["default"]),
        # A device shows only the first of several with the same key: for repeats, never for collapsing.
        "extra.jobkey": once_key(push, now_s=now_s),
    }
    return present(fields if unseen else fields | _shown(push, words))


def losses(push: Push) -> list[str]:
    """What of it Xiaomi will not have: see `Provider.losses`."""
    heard = push.sound in {None, "default"} or _resource(push.sound) is not None
    return [*cuts(push, title_max=TITLE_CHARS_MAX, body_max=BODY_CHARS_MAX), *named(sound=not heard)]


def notify_id(push: Push) -> int | None:
    """What the notification is replaced, and taken back, by; None: the push's overrides let it have none."""
    number: int | None = push.overrides.get("notify_id", _number(push))
    return number


def _number(push: Push) -> int:
    return number_for(push.collapse_key or push.id, NOTIFY_ID_BELOW)


def _shown(push: Push, words: Words) -> dict[str, Any]:
    title, body = texts(push, blank=words.wake_text)
    sound = _resource(push.sound)
    return {
        "title": cut(title, TITLE_CHARS_MAX),
        "description": cut(body, BODY_CHARS_MAX),
        "notify_type": -1 if push.urgent and not push.silent else 4,  # all, or the light alone
        "notify_id": _number(push),
        "extra.notify_foreground": "1" if words.foreground else "0",
        "extra.sound_uri": None if sound is None else f"android.resource://{words.package}/raw/{sound}",
        **_click(push.click),
    }


def _resource(sound: str | None) -> str | None:
    """A file in the app's `raw` folder, heard only in a channel that was made for it; None for the usual sound."""
    name = (sound or "default").rpartition("/")[2].partition(".")[0]
    return name if name != "default" and _SOUND.fullmatch(name) else None


def _click(click: str | None) -> dict[str, str]:
    """What a tap does. A deep link of another scheme opens the app, which finds it in its data."""
    if click and click.startswith(("http://", "https://")):
        return {"extra.notify_effect": "3", "extra.web_uri": click}
    if click and click.startswith("intent:"):
        return {"extra.notify_effect": "2", "extra.intent_uri": click}
    return {"extra.notify_effect": "1"}


def _worded(chars_max: int) -> Rule:
    """Xiaomi refuses what is blank (sheet §9)."""
    return matching(rf"(?s)(?=.*\S).{{1,{chars_max}}}", f"text of 1 to {chars_max} characters, not all blank")


OVERRIDES: Rules = {
    "title": _worded(TITLE_CHARS_MAX),
    "description": _worded(BODY_CHARS_MAX),
    "payload": text(PAYLOAD_BYTES_MAX, chars_min=1),
    "pass_through": one_of(0, 1),
    "notify_type": whole(-1, 7),
    "notify_id": whole(0, NOTIFY_ID_BELOW - 1),
    "time_to_live": whole(0, TTL_S_MAX * 1000),
    "time_to_send": whole(0, 2**53),
    "extra.channel_id": text(128, chars_min=1),
    "extra.channel_name": text(128),
    "extra.channel_description": text(512),
    "extra.notify_effect": one_of("1", "2", "3"),
    "extra.intent_uri": matching(r"intent:[\x21-\x7e]{1,2040}", "an intent: URI"),
    "extra.web_uri": matching(r"https?://[\x21-\x7e]{1,2040}", "an http or https URL"),
    "extra.notify_foreground": one_of("0", "1"),
    "extra.sound_uri": matching(r"android\.resource://[\x21-\x7e]{1,500}", "an android.resource:// URI"),
    "extra.ticker": text(128),
    "extra.flow_control": matching(r"[0-9]{1,9}", "a number in text"),
    "extra.jobkey": matching(r"[0-9A-Za-z-][0-9A-Za-z_-]{0,19}", "1 to 20 of 0-9 A-Z a-z _ -, not starting with _"),
    "extra.only_send_once": one_of("0", "1"),
    "extra.locale": text(512, chars_min=1),
    "extra.locale_not_in": text(512, chars_min=1),
    "extra.model": text(512, chars_min=1),
    "extra.model_not_in": text(512, chars_min=1),
    "extra.app_version": text(512, chars_min=1),
    "extra.app_version_not_in": text(512, chars_min=1),
    "extra.connpt": one_of("wifi"),
    "extra.mi_template_id": text(128, chars_min=1),  # as aggregators name them; Xiaomi's own names are not confirmed
    "extra.mi_template_param": text(1024, chars_min=1),
}

REQUIRED = ("title", "description", "pass_through", "extra.channel_id")
GOES_TO = {"2": ("extra.intent_uri",), "3": ("extra.web_uri",)}  # what a tap needs to know, by extra.notify_effect


def override_mistakes(overrides: Mapping[str, Any]) -> list[str]:
    """Every mistake in overrides for Xiaomi's form, each a sentence."""
    found = mistakes(overrides, OVERRIDES, required=REQUIRED)
    return [*found, *companions(overrides, "extra.notify_effect", GOES_TO)]
