"""Whatever a backend may send, every vendor takes: what the edge lets in, put together at random, is refused by no emulator."""

import random
from typing import Any

import pytest
from meeting import meeting

from providers.contract import Push, Verdict
from relay.api.schemas.messages import PushBody

PUSHES = 250
FIELDS: dict[str, tuple[Any, ...]] = {
    "title": (
        None,
        "Ann",
        "482 911",
        "你好,世界",
        "x" * 200,
        "a\nb",
        "😀" * 60,
        "<b>",
        "42 %",
        "…",
        "=&?,;",
        "[a] {b} 【c】",
    ),
    "body": (None, "hi", "1234", "x" * 500, "é", "💬", "a, b; c"),
    "image": (None, "https://a.example/i.png", "http://a.example/i.png", "HTTPS://a.example/I.png"),
    "sound": (None, "default", "ding", "ding.caf", "/raw/ding", "a@b", "x" * 64, "../x"),
    "badge": (None, 0, 1, 100, 99_999),
    "channel": (None, "default", "news", "unheard.of", "x" * 64),
    "thread": (None, "t", "c/9"),
    "click": (
        *(
            None,
            "https://a.example/x?y=1#z",
            "http://a.example",
            "HTTPS://a.example/X",
            "https://a.example/" + "x" * 2000,
        ),
        *("myapp://chat/9", "intent:#Intent;end", "mailto:a@b.example", "tel:+49", "x:y"),
    ),
    "mutable": (False, True),
    "data": (
        {},
        {"k": "v"},
        {"from": "x", "aps": "y", "relay": "z"},
        {f"k{n}": "é" for n in range(14)},
        {"a.b": "x" * 900},
    ),
}
BESIDE: dict[str, tuple[Any, ...]] = {
    "urgent": (True, False),
    "ttl_s": (0, 0.3, 1, 59, 3600, 86_400, 28 * 86_400),
    "collapse_key": (None, "room:42", "x" * 300, "ключ", "a b"),
    "relay": ({}, {"v": 1, "ids": [f"{n:036}" for n in range(10)], "n": 10}),
}
VENDORS = (
    "fcm",
    "gotify",
    "harmony",
    "honor",
    "http",
    "huawei",
    "meizu",
    "ntfy",
    "oppo",
    "unifiedpush",
    "vivo",
    "webpush",
    "xiaomi",
)


def drawn(rng: random.Random, number: int, token: str) -> Push:
    body = PushBody(**{name: rng.choice(values) for name, values in FIELDS.items()})
    own = {name: getattr(body, name) for name in FIELDS}
    return Push(id=f"p{number}", token=token, **own, **{name: rng.choice(values) for name, values in BESIDE.items()})


@pytest.mark.parametrize("vendor", VENDORS)
async def test_no_push_that_the_edge_lets_in_is_refused(vendor: str) -> None:
    rng, refused, large = random.Random(vendor), [], 0
    async with meeting(vendor) as m:
        for number in range(PUSHES):
            push = drawn(rng, number, m.sandbox.emulators[vendor].address(f"phone{number}"))
            outcome = await m.provider.send(push)
            large += outcome.verdict is Verdict.TOO_LARGE
            if outcome.verdict not in {Verdict.ACCEPTED, Verdict.TOO_LARGE}:
                refused.append((outcome.verdict, outcome.vendor_code, push.title, push.body, push.click, push.image))
    assert refused == []
    assert large < PUSHES / 2
