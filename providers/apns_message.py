"""A push in Apple's words: sheet `apns` §4 (headers and payload), §5 (push types), §8 (mapping), §9 (live activities). Pure."""

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from providers.contract import Outcome, Push, Verdict
from providers.fields import Rule, Rules, is_json, matching, merged, mistakes, object_in, one_of, whole
from providers.http import Refusal, json_body

__all__ = ["KINDS", "Kind", "headers_of", "kind_of", "override_mistakes", "payload_of"]

TTL_S_MAX = 30 * 86_400  # Apple stores no longer
PAYLOAD_BYTES_MAX = 4096
VOIP_BYTES_MAX = 5120
COLLAPSE_BYTES_MAX = 64
OVERRIDE_DEPTH_MAX = 16
OUR_KEYS = frozenset({"aps", "relay", "relay_id", "click", "image", "sealed"})  # beside the app's data
SHOWN = ("alert", "badge", "sound")  # what makes a push more than a wake-up

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:push-relay:apns-id")
_COLLAPSE_ID = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,62}[\x21-\x7e])?")
_HEADERS: Rules = {
    "apns-priority": one_of("10", "5", "1"),
    "apns-expiration": matching(r"0|[1-9][0-9]{0,11}", "UNIX seconds as a string of digits"),
    "apns-collapse-id": matching(_COLLAPSE_ID.pattern, f"1 to {COLLAPSE_BYTES_MAX} plain characters"),
}
_STRING = Rule(lambda value: isinstance(value, str), "a string")
_OBJECT = Rule(lambda value: isinstance(value, Mapping), "an object")
_NUMBER = Rule(lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number")
_TEXT_OR_OBJECT = Rule(lambda value: isinstance(value, str | Mapping), "a string or an object")
_SECONDS = whole(0, 2**53)
# What is fixed in `aps`; Apple ignores other keys of it. A number sent as a string is accepted, and ignored by the
# device (§10.7), so types are looked at here.
_APS: Mapping[str, Rule] = {
    "alert": _TEXT_OR_OBJECT,
    "badge": whole(0, 2**31 - 1),
    "sound": _TEXT_OR_OBJECT,
    "thread-id": _STRING,
    "category": _STRING,
    "content-available": one_of(1),
    "mutable-content": one_of(1),
    "target-content-id": _STRING,
    "interruption-level": one_of("passive", "active", "time-sensitive", "critical"),
    "relevance-score": _NUMBER,
    "filter-criteria": _STRING,
    "event": one_of("start", "update", "end"),
    "timestamp": _SECONDS,
    "content-state": _OBJECT,
    "stale-date": _SECONDS,
    "dismissal-date": _SECONDS,
    "attributes-type": _STRING,
    "attributes": _OBJECT,
    "input-push-token": one_of(1),
    "input-push-channel": _STRING,
}
_VOLUME = Rule(lambda value: _NUMBER.holds(value) and 0 <= float(str(value)) <= 1, "from 0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A sort of address: its push type, what its topic has after the bundle id, and where it lives (§1, §5)."""

    type: str
    suffix: str = ""
    bytes_max: int = PAYLOAD_BYTES_MAX
    token_only: bool = False  # not with a certificate (§2.2)
    environment: str | None = None  # None: the account's


_PLAIN = {
    "token": Kind(type="alert"),
    "voip": Kind(type="voip", suffix=".voip", bytes_max=VOIP_BYTES_MAX),
    "liveactivity": Kind(type="liveactivity", suffix=".push-type.liveactivity", token_only=True),
}
KINDS: dict[str, Kind] = _PLAIN | {
    f"{name}_{environment}": Kind(
        type=kind.type,
        suffix=kind.suffix,
        bytes_max=kind.bytes_max,
        token_only=kind.token_only,
        environment=environment,
    )
    for name, kind in _PLAIN.items()
    for environment in ("production", "sandbox")
}


def kind_of(push: Push) -> Kind:
    """Raises KeyError for a kind that is not Apple's."""
    return KINDS[push.kind]


def payload_of(push: Push, *, now_s: float) -> dict[str, Any]:
    """The body. Raises Refusal if the push says nothing that this kind of address can carry."""
    kind = kind_of(push)
    if kind.type == "liveactivity":
        ours = {"aps": _activity(push, now_s=now_s)}
    else:
        ours = {"aps": _aps(push, voip=kind.type == "voip"), **_beside(push)}
    override = push.overrides.get("payload")
    payload = merged(ours, override) if isinstance(override, Mapping) else ours
    if kind.type == "liveactivity" and not _tells_activity(payload["aps"]):
        raise Refusal(Outcome(verdict=Verdict.REFUSED, vendor_code="activity_without_state"))
    return payload


def headers_of(push: Push, payload: Mapping[str, Any], *, topic: str, now_s: float) -> dict[str, str]:
    """The `apns-…` headers. The push type follows the payload: a mismatch is an error or a silent drop (§4)."""
    kind = kind_of(push)
    aps = payload["aps"]
    wakes = kind.type == "alert" and aps.get("content-available") == 1 and not any(key in aps for key in SHOWN)
    urgent = kind.type == "voip" or (push.urgent and not push.silent)
    headers = {
        "apns-topic": topic + kind.suffix,
        "apns-push-type": "background" if wakes else kind.type,
        "apns-id": _apns_id(push),
        "apns-expiration": _expiration(push.ttl_s, now_s=now_s),
        "apns-priority": "10" if urgent else "5",
        "apns-collapse-id": _collapse_id(push, kind),
    }
    override = push.overrides.get("headers")
    headers |= override if isinstance(override, Mapping) else {}
    if wakes and headers["apns-priority"] == "10":
        headers["apns-priority"] = "5"  # 10 is an error here
    return {name: value for name, value in headers.items() if value}


def _apns_id(push: Push) -> str:
    """The same for each try of the same push to the same device (§8)."""
    said = f"{push.id}\n{push.token}".encode("utf-8", "replace")
    # RFC 9562, 5.5: a UUID by name. The library's takes three times as long.
    digest = bytearray(hashlib.sha1(_NAMESPACE.bytes + said, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _expiration(ttl_s: float, *, now_s: float) -> str:
    """Never left out: what Apple does then is not said. 0: one attempt, nothing stored."""
    if ttl_s <= 0:
        return "0"
    return str(max(int(now_s) + 1, int(now_s + min(ttl_s, TTL_S_MAX))))


def _collapse_id(push: Push, kind: Kind) -> str:
    """The caller's, else the push's own: a repeat after a lost answer then replaces instead of stacking up (§8).

    Not for an activity's updates, if nobody asks for it: there is nothing that could stack up.
    """
    key = push.collapse_key or push.id
    if kind.type == "liveactivity" and key == push.id:
        return ""
    if not key or _COLLAPSE_ID.fullmatch(key):
        return key
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode("utf-8", "replace")).digest())[:32].decode()


def _aps(push: Push, *, voip: bool) -> dict[str, Any]:
    if push.silent:
        # With a badge to set it is more than a wake-up: then it goes as an alert that shows nothing else.
        return _present({"content-available": None if voip else 1, "badge": push.badge})
    alert = {
        "title": push.title,
        "body": push.body,
        "title-loc-key": push.title_loc_key,
        "title-loc-args": list(push.title_loc_args) or None,
        "loc-key": push.body_loc_key,
        "loc-args": list(push.body_loc_args) or None,
    }
    return _present(
        {
            "alert": _present(alert),
            "badge": push.badge,
            "sound": push.sound,
            "category": push.channel,
            "thread-id": push.thread,
            "mutable-content": 1 if push.mutable or push.image else None,  # the app's extension fetches the image
        }
    )


def _beside(push: Push) -> dict[str, Any]:
    """The app's data and ours, peers of `aps`. A key that Apple or we need gets underscores before it."""
    beside: dict[str, Any] = {"relay_id": push.id}  # by this the app recognises a repeat
    if push.relay:
        beside["relay"] = dict(push.relay)
    if push.click:
        beside["click"] = push.click
    if push.image:
        beside["image"] = push.image
    if push.sealed:
        beside["sealed"] = push.sealed
    beside |= {key: value for key, value in push.data.items() if key not in OUR_KEYS}
    for key in push.data.keys() & OUR_KEYS:
        name = f"_{key}"
        while name in beside:
            name = f"_{name}"
        beside[name] = push.data[key]
    return beside


def _activity(push: Push, *, now_s: float) -> dict[str, Any]:
    """What can be said of a live activity without knowing the app; its state comes as an override (§9)."""
    alert = None if push.silent else _present({"title": push.title, "body": push.body})
    return _present({"timestamp": int(now_s), "event": "update", "alert": alert, "sound": push.sound})


def _tells_activity(aps: Mapping[str, Any]) -> bool:
    needed = ["timestamp", "event", "content-state"]
    if aps.get("event") == "start":
        needed += ["alert", "attributes-type", "attributes"]
    return all(key in aps for key in needed)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is None."""
    return {key: value for key, value in fields.items() if value is not None}


def override_mistakes(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Every mistake in `{"headers": …, "payload": …}`, each a sentence."""
    if not is_json(dict(overrides), OVERRIDE_DEPTH_MAX):
        yield f"The override must be JSON, at most {OVERRIDE_DEPTH_MAX} levels deep."
        return
    for part, value in overrides.items():
        if part not in ("headers", "payload"):
            yield f"{part[:64]!r} may not be overridden; headers and payload may."
        elif not isinstance(value, Mapping):
            yield f"{part} must be an object."
    yield from mistakes(object_in(overrides, "headers"), _HEADERS, under="headers.")
    payload = object_in(overrides, "payload")
    if "aps" in payload and not isinstance(payload["aps"], Mapping):
        yield "payload.aps must be an object."
    aps = object_in(payload, "aps")
    yield from mistakes({key: value for key, value in aps.items() if key in _APS}, _APS, under="payload.aps.")
    volume = object_in(aps, "sound").get("volume")
    if volume is not None and not _VOLUME.holds(volume):
        yield f"payload.aps.sound.volume must be {_VOLUME.must}."
    if len(json_body(dict(payload))) > VOIP_BYTES_MAX:
        yield f"payload must not be larger than {VOIP_BYTES_MAX} bytes."
