"""What a vendor refuses of an override, whoever sends the message hears at once: every value that an adapter takes for any
field of its schema, and every field's absence that it allows, passes at the emulator, which knows nothing of that schema."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from meeting import NOON_BEIJING, meeting

from providers import (
    fcm_overrides,
    harmony_message,
    honor_message,
    huawei_message,
    meizu_message,
    ntfy,
    oppo_message,
    vivo_message,
    xiaomi_message,
)
from providers.contract import Verdict
from providers.fields import Rules

SCHEMAS: dict[str, Rules] = {
    "fcm": fcm_overrides._RULES,
    "harmony": harmony_message._RULES,
    "honor": honor_message._RULES,
    "huawei": huawei_message._RULES,
    "meizu": meizu_message.OVERRIDES,
    "ntfy": ntfy.RULES,
    "oppo": oppo_message.OVERRIDES,
    "vivo": vivo_message.OVERRIDES,
    "xiaomi": xiaomi_message.OVERRIDES,
}
SOON_MS = int(NOON_BEIJING + 900) * 1000
VALUES: tuple[Any, ...] = (
    *(0, 1, 2, 3, 16, -1, 60, 1800, SOON_MS, True, False),
    *(
        "",
        "0",
        "1",
        "2",
        "3",
        "X",
        "7 + 8",
        "text",
        "IM",
        "NEWS",
        "MARKETING",
        "LOW",
        "NORMAL",
        "HIGH",
        "ENABLE",
        "PUBLIC",
    ),
    *("https://a.example/x", "intent:#Intent;end", "com.example.Main", "/raw/ding", "#206CFF", "wifi", "3600s"),
    *('{"a":"b"}', "2026-01-31 18:00:00", "2026-05-03T09:12:44Z", "android.resource://org.example.chat/raw/ding"),
    *({}, {"a": "b"}, [], ["text"]),
)
# What only the account, the vendor's console or the clock knows.
UNKNOWN_HERE = {
    "huawei": {"android.urgency"},
    "oppo": {"notify_level", "private_msg_template_id"},
    "xiaomi": {"extra.channel_id", "time_to_send"},
    "harmony": {"payload.notification.image"},
}


def fields(rules: Rules, *within: str) -> Iterator[tuple[str, ...]]:
    for name, rule in rules.items():
        yield (*within, name)
        if isinstance(rule, Mapping):
            yield from fields(rule, *within, name)


def override(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


@pytest.mark.parametrize("vendor", SCHEMAS)
async def test_what_the_adapter_takes_as_an_override_the_vendor_takes(vendor: str) -> None:
    refused: dict[str, list[Any]] = {}
    sent = 0
    async with meeting(vendor) as m:
        for path in fields(SCHEMAS[vendor]):
            if ".".join(path) in UNKNOWN_HERE.get(vendor, ()):
                continue
            for value in (None, *VALUES):
                own = override(path, value)
                if m.provider.check_overrides(own):
                    continue
                sent += 1
                outcome = await m.send(f"phone{sent}", id=f"p{sent}", overrides=own)
                if outcome.verdict is not Verdict.ACCEPTED:
                    refused.setdefault(".".join(path), []).append((value, outcome.vendor_code))
    assert refused == {}
    assert sent > len(list(fields(SCHEMAS[vendor])))


# What a tap opens, by vendor: where it stands, and a click that it is of.
TAPS: dict[str, tuple[str, str]] = {
    "harmony": ("payload.notification.clickAction.uri", "chat://room/1"),
    "honor": ("android.notification.clickAction.url", "https://a.example/x"),
    "huawei": ("android.notification.click_action.url", "https://a.example/x"),
    "meizu": ("clickTypeInfo.url", "https://a.example/x"),
    "oppo": ("click_action_url", "https://a.example/x"),
    "vivo": ("skipContent", "https://a.example/x"),
    "xiaomi": ("extra.web_uri", "https://a.example/x"),
}


@pytest.mark.parametrize("vendor", TAPS)
async def test_a_tap_keeps_what_it_opens_unless_it_becomes_another(vendor: str) -> None:
    where, click = TAPS[vendor]
    own = override((where,) if vendor == "xiaomi" else tuple(where.split(".")), None)
    async with meeting(vendor) as m:
        (said,) = m.provider.check_overrides(own)
        assert said.startswith(f"{where} may not be taken away")
        assert (await m.send("phone", click=click)).verdict is Verdict.ACCEPTED
        m.provider.check_overrides = lambda _: []
        assert (await m.send("phone", id="p2", click=click, overrides=own)).verdict is Verdict.REFUSED, "by the vendor"


# What a tap of an app's own page is known by: either of two.
PAGES = {
    "harmony": ("payload.notification.clickAction", "action", "uri"),
    "honor": ("android.notification.clickAction", "action", "intent"),
    "huawei": ("android.notification.click_action", "action", "intent"),
}


@pytest.mark.parametrize("vendor", PAGES)
async def test_a_tap_may_open_its_page_by_the_other_of_two_names(vendor: str) -> None:
    where, ours, theirs = PAGES[vendor]
    own = override(tuple(where.split(".")), {ours: None, theirs: "chat://room/1"})
    async with meeting(vendor) as m:
        assert m.provider.check_overrides(own) == []
        assert (await m.send("phone", click="OPEN_CHAT", overrides=own)).verdict is Verdict.ACCEPTED
