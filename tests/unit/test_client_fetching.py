"""What a push has named comes before everything else: it is acked once it is in the cache and can be shown, not before."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from relay.client import Client, fetching, http
from relay.client.cache import Cache
from relay.client.steps import Position

T = TypeVar("T")


def page_of(seq: int, type_: str, *, epoch: str) -> dict[str, Any]:
    entry = {"seq": seq, "id": f"m{seq}", "kind": "message", "h": "00", "type": type_, "body": "hi", "form": "full"}
    return {"epoch": epoch, "from": seq - 1, "to": seq, "head": 9, "entries": [entry], "gaps": []}


async def at_once(what: Callable[[], T]) -> T:
    return what()


def answered(body: Any) -> http.Answer:
    return http.Answer(200, json.dumps(body).encode())


async def test_neither_what_is_of_an_epoch_not_heard_of_yet_nor_what_cannot_be_shown_is_acked(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=1, types=["text"])
    cache.adopt(Position("e", 0, "c0"), session=1, reason=None, floor=0)
    pages = [page_of(4, "text", epoch="e"), page_of(5, "poll", epoch="e"), page_of(6, "text", epoch="after a restore")]
    acked: list[Any] = []

    async def call(method: str, path: str, *, body: Any = None) -> http.Answer:
        acked.extend([] if body is None else body["ids"])
        return answered({"batches": pages} if body is None else {"acked": 0, "results": {}})

    words = await fetching.fetch(cache, at_once, call, lambda _: None, ["m4", "m5", "m6"])
    assert acked == ["m4"]
    assert [word["code"] for word in words.values()] == ["unknown_type"]
    cache.close()


async def test_an_ack_that_something_before_the_relay_has_answered_has_not_been_heard(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "a.db", rng=random.Random(1), now_ms=1)
    cache.adopt(Position("e", 0, "c0"), session=1, reason=None, floor=0)

    async def call(method: str, path: str, *, body: Any = None) -> http.Answer:
        return answered({"batches": [page_of(4, "text", epoch="e")]} if body is None else {"status": "ok"})

    with pytest.raises(http.Unreachable):
        await fetching.fetch(cache, at_once, call, lambda _: None, ["m4"])
    assert cache.message("m4") is not None
    cache.close()


async def test_a_proof_that_something_before_the_relay_has_answered_has_not_been_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client("http://relay", "rd_x", cache=tmp_path / "a.db")
    answers = iter([{"status": "ok"}, {"addresses": []}])

    async def call(method: str, path: str, *, body: Any = None) -> http.Answer:
        return answered(next(answers))

    monkeypatch.setattr(client, "_call", call)
    pushed = {"v": 1, "prove": {"account": "up", "value": "x"}}
    with pytest.raises(http.Unreachable):
        await client.pushed(pushed)
    await client.pushed(pushed)
    client.cache.close()
