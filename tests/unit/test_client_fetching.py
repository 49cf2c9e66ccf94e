"""What a push has named comes before everything else: it is acked once it is in the cache and can be shown, not before."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from relay.client import fetching, http
from relay.client.cache import Cache
from relay.client.steps import Position

T = TypeVar("T")


def page_of(seq: int, type_: str, *, epoch: str) -> dict[str, Any]:
    entry = {"seq": seq, "id": f"m{seq}", "kind": "message", "h": "00", "type": type_, "body": "hi", "form": "full"}
    return {"epoch": epoch, "from": seq - 1, "to": seq, "head": 9, "entries": [entry], "gaps": []}


async def at_once(what: Callable[[], T]) -> T:
    return what()


async def test_neither_what_is_of_an_epoch_not_heard_of_yet_nor_what_cannot_be_shown_is_acked(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=1, types=["text"])
    cache.adopt(Position("e", 0, "c0"), session=1, reason=None, floor=0)
    pages = [page_of(4, "text", epoch="e"), page_of(5, "poll", epoch="e"), page_of(6, "text", epoch="after a restore")]
    acked: list[Any] = []

    async def call(method: str, path: str, *, body: Any = None) -> http.Answer:
        acked.extend([] if body is None else body["ids"])
        return http.Answer(200, json.dumps({"batches": pages}).encode())

    words = await fetching.fetch(cache, at_once, call, lambda _: None, ["m4", "m5", "m6"])
    assert acked == ["m4"]
    assert [word["code"] for word in words.values()] == ["unknown_type"]
    cache.close()
