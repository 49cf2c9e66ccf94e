"""Bringing single messages into the cache: what a push was about, before everything that stands before it has come."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import urlencode

from relay.client import http, news, said, wire
from relay.client.cache import Cache
from relay.client.repair import OnDisk

AT_ONCE = 10  # as many ids as a push or a question has at most


async def fetch(
    cache: Cache,
    on_disk: OnDisk,
    call: Callable[..., Awaitable[http.Answer]],
    tell: Callable[[news.News], None],
    ids: Sequence[str],
) -> dict[str, dict[str, object]]:
    """Stores those that the cache lacks, then acks by id what can be shown; the cursor stays. Gives words that are owed to
    the relay: refusals of the others.

    Raises Problem, Unreachable, sqlite3.Error.
    """
    words: dict[str, dict[str, object]] = {}
    for at in range(0, len(ids), AT_ONCE):
        some = ids[at : at + AT_ONCE]
        lacking = [id_ for id_ in some if await on_disk(partial(cache.message, id_)) is None]
        if not lacking:
            continue
        answer = await call("GET", "/v1/device/sync?" + urlencode([("ids", id_) for id_ in lacking]))
        stored: list[str] = []
        for page in answer.read(wire.pages)[0]:
            outcome, _ = await on_disk(partial(cache.fill, page))
            words |= outcome.words
            if (
                page.epoch == outcome.position.epoch
            ):  # else nothing was stored: the cache has yet to learn of this epoch
                stored += [one.entry.id for one in page.received if said.nack_key(one.entry.id) not in outcome.words]
            for one in outcome.told:
                tell(one)
        if stored:
            (await call("POST", "/v1/device/ack", body={"ids": stored})).having("acked")
    return words
