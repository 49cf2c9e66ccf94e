"""What the API's handlers may rely on."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from webhook_bench import Bench, ToySeals

from providers.guard import Guard, Target
from providers.http import Reason, TransportError
from relay.errors import Conflict, CursorRefused, Invalid, Malformed, Missing
from relay.store import claims, event_log, sequencer
from relay.store.apps import create_app
from relay.store.endpoints import EndpointKey
from relay.store.events import NewEvent, emit
from relay.store.schema.apps import app
from relay.store.schema.itself import store_meta
from relay.store.schema.webhooks import delivery, endpoint, event
from relay.webhooks import event_types
from relay.webhooks.sealed import opened
from relay.webhooks.service import Changes, WebhookService
from relay.webhooks.signing import Scheme, signing_key

URL = "https://backend.example.com/hook"
ADDRESSES = {"inside.example.com": ["10.0.0.1"], "both.example.com": ["1.1.1.1", "127.0.0.1"]}


async def check(url: str) -> Target:
    guard = Guard()
    target = guard.parse(url)
    if target.host == "nowhere.example.com":
        raise TransportError(Reason.DNS_FAILED, sent=False)
    guard.check(target, ADDRESSES.get(target.host, ["1.1.1.1"]))
    return target


@pytest.fixture
def nudges() -> list[int]:
    return []


@pytest.fixture
async def service(bench: Bench, nudges: list[int]) -> WebhookService:
    await bench.engine.write(lambda conn, now_ms: create_app(conn, now_ms, app_id="b", id_secret=b"s"))
    meta = {"id": 1, "epoch": "e" * 32, "epoch_since_ms": 0, "ticks": 0, "pruning_frozen_until_ms": 0}
    await bench.engine.write(lambda conn, _: conn.execute(insert(store_meta).values(**meta)) and None)
    return WebhookService(bench.engine, bench.seals, check, rng=random.Random(3), nudge=lambda: nudges.append(1))


async def number(bench: Bench) -> None:
    await bench.engine.write(
        lambda conn, now_ms: sequencer.number_events(conn, now_ms, limit=5000, wants=event_types.wants)
    )


async def claimed(bench: Bench) -> list[claims.Claimed]:
    return await bench.engine.write(
        lambda conn, now_ms: claims.claim_deliveries(
            conn,
            now_ms,
            owner="n",
            hold_ms=1,
            limit=100,
            after_loss=lambda n, _: ("waiting", n + 1, now_ms),
            per_endpoint=100,
        )
    )


# --- endpoints ---


async def test_a_new_endpoint_shows_its_secret_once_and_gets_a_test_first(
    bench: Bench, service: WebhookService, nudges: list[int]
) -> None:
    made = await service.create("a", url=URL, types=["device.online"], description="ours", headers={"x-team": "push"})
    assert made.secret.startswith("whsec_")
    assert made.warnings == ()
    assert (made.endpoint.url, made.endpoint.types, made.endpoint.description) == (URL, ("device.online",), "ours")
    assert nudges
    (first,) = await claimed(bench)
    assert (first.type, first.url) == ("endpoint.test", URL)
    keys, headers = opened(bench.seals, made.endpoint.key, first.sealed)
    assert (keys, headers) == ([signing_key(made.secret)], {"x-team": "push"})
    assert await service.get("a", made.endpoint.key.endpoint_id) == made.endpoint
    assert made.secret not in repr(await service.list("a"))


async def test_secrets_are_stored_only_sealed(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL, headers={"authorization": "Bearer top-secret"})
    (row,) = await bench.engine.read(lambda conn, _: conn.execute(select(endpoint)).all())
    assert made.secret not in repr(row)
    assert "top-secret" not in repr(row)


async def test_a_sealed_secret_opens_only_for_its_own_endpoint(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL)
    (first,) = await claimed(bench)
    with pytest.raises(ValueError):
        opened(ToySeals(), EndpointKey("b", made.endpoint.key.endpoint_id), first.sealed)


async def test_an_ed25519_endpoint_shows_only_the_public_half(service: WebhookService) -> None:
    made = await service.create("a", url=URL, scheme=Scheme.ED25519)
    assert made.secret.startswith("whpk_")
    rotated = await service.rotate("a", made.endpoint.key.endpoint_id)
    assert rotated.secret.startswith("whpk_")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://backend.example.com/", "endpoint_url_invalid"),
        ("http://backend.example.com/", "endpoint_url_invalid"),
        ("", "endpoint_url_invalid"),
        ("https://u:p@backend.example.com/", "endpoint_url_invalid"),
        ("https://backend.example.com/#x", "endpoint_url_invalid"),
        ("https://backend.example.com:22/", "endpoint_url_invalid"),
        ("https://backend.example.com/" + "x" * 2049, "endpoint_url_invalid"),
        ("https://nowhere.example.com/", "endpoint_url_invalid"),
        ("https://localhost/", "endpoint_address_denied"),
        ("https://127.0.0.1/", "endpoint_address_denied"),
        ("https://0x7f.1/", "endpoint_address_denied"),
        ("https://inside.example.com/", "endpoint_address_denied"),
        ("https://both.example.com/", "endpoint_address_denied"),
    ],
)
async def test_a_url_that_may_not_be_called_is_refused_at_creation_and_at_change(
    service: WebhookService, url: str, code: str
) -> None:
    made = await service.create("a", url=URL)
    for attempt in (
        service.create("a", url=url),
        service.update("a", made.endpoint.key.endpoint_id, Changes(url=url)),
    ):
        with pytest.raises(Invalid) as refused:
            await attempt
        assert (refused.value.code, refused.value.status) == (code, 422)
        assert refused.value.errors[0].pointer == "/url"
        assert "10.0.0.1" not in refused.value.detail
        own = code == "endpoint_address_denied" or url.startswith("http:")
        assert ("webhooks.exempt" in refused.value.detail) == own  # who runs the relay may call what is inside
    assert len(await service.list("a")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": ["delivery.eaten"]},
        {"types": []},
        {"types": ["*", "device.online"]},
        {"types": ["device.online"] * 1000},
        {"headers": {"host": "x"}},
        {"headers": {"authorization": "a\r\nb: c"}},
        {"description": "x" * 257},
        {"description": "a\nb"},
    ],
)
async def test_other_mistakes_are_refused(service: WebhookService, wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        await service.create("a", url=URL, **wrong)
    assert refused.value.code == "validation_failed"
    assert refused.value.errors
    made = await service.create("a", url=URL)
    with pytest.raises(Invalid):
        await service.update("a", made.endpoint.key.endpoint_id, Changes(**wrong))


async def test_mistakes_are_named_together(service: WebhookService) -> None:
    with pytest.raises(Invalid) as refused:
        await service.create("a", url=URL, types=["delivery.eaten"], headers={"host": "x"}, description="x" * 257)
    assert {one.pointer.split("/")[1] for one in refused.value.errors} == {"types", "headers", "description"}


async def test_an_app_has_at_most_fifty_endpoints(service: WebhookService) -> None:
    for _ in range(50):
        made = await service.create("a", url=URL)
    assert made.warnings
    with pytest.raises(Invalid):
        await service.create("a", url=URL)
    await service.create("b", url=URL)
    await service.delete("a", made.endpoint.key.endpoint_id)
    await service.create("a", url=URL)


async def test_changes_change_only_what_they_name(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL, description="ours", headers={"x-a": "1"})
    name = made.endpoint.key.endpoint_id
    changed = await service.update("a", name, Changes(types=["device.online"]))
    assert (changed.types, changed.description, changed.url) == (("device.online",), "ours", URL)
    changed = await service.update("a", name, Changes(url="https://other.example.com", description="", headers={}))
    assert (changed.types, changed.description, changed.url) == (("device.online",), None, "https://other.example.com/")
    (first,) = await claimed(bench)
    assert opened(bench.seals, made.endpoint.key, first.sealed)[1] == {}


async def test_disabling_by_hand_and_enabling_again(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL)
    name = made.endpoint.key.endpoint_id
    assert (await service.update("a", name, Changes(enabled=False))).state == "disabled"
    assert await claimed(bench) == []
    for refused in (
        service.test("a", name),
        service.replay("a", name, ["evt_1"]),
        service.replay_range("a", name, from_ms=0, to_ms=1),
    ):
        with pytest.raises(Conflict):
            await refused
    assert (await service.update("a", name, Changes(enabled=True))).state == "active"
    assert [one.type for one in await claimed(bench)] == ["endpoint.test"]


async def test_rotation_keeps_the_old_secret_for_a_while(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL)
    name = made.endpoint.key.endpoint_id
    rotated = await service.rotate("a", name)
    assert (await service.get("a", name)).old_secret_until_ms == rotated.old_secret_until_ms
    (first,) = await claimed(bench)
    keys, _ = opened(bench.seals, made.endpoint.key, first.sealed)
    assert keys == [signing_key(rotated.secret), signing_key(made.secret)]
    again = await service.rotate("a", name, keep_old_s=0)
    await service.test("a", name)
    keys, _ = opened(bench.seals, made.endpoint.key, (await claimed(bench))[-1].sealed)
    assert keys == [signing_key(again.secret)]
    for keep_old_s in (-1, 7 * 86_400 + 1):
        with pytest.raises(Invalid):
            await service.rotate("a", name, keep_old_s=keep_old_s)


async def test_a_test_goes_to_this_endpoint_alone(bench: Bench, service: WebhookService) -> None:
    one = await service.create("a", url=URL, types=["device.online"])
    await service.create("a", url=URL)
    await claimed(bench)
    event_id = await service.test("a", one.endpoint.key.endpoint_id)
    rows = [row for row in await bench.deliveries() if row.event_id == event_id]
    assert [row.endpoint_id for row in rows] == [one.endpoint.key.endpoint_id]


@pytest.mark.parametrize(
    "call",
    [
        lambda s, app_id, name: s.get(app_id, name),
        lambda s, app_id, name: s.update(app_id, name, Changes(description="x")),
        lambda s, app_id, name: s.delete(app_id, name),
        lambda s, app_id, name: s.rotate(app_id, name),
        lambda s, app_id, name: s.test(app_id, name),
        lambda s, app_id, name: s.deliveries(app_id, name),
        lambda s, app_id, name: s.replay(app_id, name, ["evt_1"]),
        lambda s, app_id, name: s.replay_range(app_id, name, from_ms=0, to_ms=1),
    ],
)
async def test_another_apps_endpoint_is_as_if_it_were_not(
    service: WebhookService, call: Callable[[WebhookService, str, str], Any]
) -> None:
    made = await service.create("a", url=URL)
    found = []
    for name in (made.endpoint.key.endpoint_id, "ep_none"):
        with pytest.raises(Missing) as missing:
            await call(service, "b", name)
        found.append(str(missing.value))
    assert len(set(found)) == 1
    assert len(await service.list("a")) == 1


# --- deliveries ---


async def test_deliveries_come_in_pages_with_a_cursor_for_this_list_only(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL)
    other = await service.create("a", url=URL)
    name = made.endpoint.key.endpoint_id
    await bench.tell(6)
    await number(bench)
    seen, cursor = [], None
    while True:
        page = await service.deliveries("a", name, cursor=cursor, limit=3)
        seen += [one.key.event_id for one in page.deliveries]
        if page.next is None:
            break
        cursor = page.next
    assert len(seen) == len(set(seen)) == 7
    assert cursor is not None
    for wrong in (cursor[:-1], "x", "", "é", cursor + "A", "A" * 5000, (await service.events("a")).cursor):
        with pytest.raises(Malformed) as refused:
            await service.deliveries("a", name, cursor=wrong)
        assert refused.value.code == "invalid_cursor"
    with pytest.raises(Malformed):
        await service.deliveries("a", other.endpoint.key.endpoint_id, cursor=cursor)
    for limit in (0, 201, -1):
        with pytest.raises(Invalid):
            await service.deliveries("a", name, limit=limit)


async def test_a_replay_by_id_sends_again_whatever_the_filter(bench: Bench, service: WebhookService) -> None:
    ids = await bench.tell(3)
    await number(bench)
    made = await service.create("a", url=URL, types=["device.online"])
    name = made.endpoint.key.endpoint_id
    assert (await service.replay("a", name, [*ids, ids[0]])).count == 3
    assert sorted(one.key.event_id for one in await claimed(bench) if one.type != "endpoint.test") == ids
    for wrong in ([], ["evt_none"], [*ids, "evt_none"], [f"evt_{n}" for n in range(501)]):
        with pytest.raises(Invalid):
            await service.replay("a", name, wrong)


async def test_a_replay_of_a_range_sends_what_the_endpoint_wants_of_it(
    bench: Bench, service: WebhookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.webhooks.deliveries.REPLAY_RANGE_MAX", 2)
    acked = await bench.tell(3)
    online = await bench.tell(2, type_="device.online")
    await number(bench)
    made = await service.create("a", url=URL, types=["device.online"])
    name = made.endpoint.key.endpoint_id
    await bench.engine.write(lambda conn, _: conn.execute(update(event).values(created_ms=1000)) and None)
    count, cursor = 0, None
    while True:
        replayed = await service.replay_range("a", name, from_ms=1000, to_ms=1001, cursor=cursor)
        count += replayed.count
        if replayed.next is None:
            break
        cursor = replayed.next
    assert count == 2
    assert sorted(one.key.event_id for one in await claimed(bench) if one.type != "endpoint.test") == online
    assert not set(acked) & {row.event_id for row in await bench.deliveries()}
    assert (await service.replay_range("a", name, from_ms=0, to_ms=1000)).count == 0
    with pytest.raises(Invalid):
        await service.replay_range("a", name, from_ms=5, to_ms=5)
    with pytest.raises(Malformed):
        await service.replay_range("a", name, from_ms=1, to_ms=5, cursor="x")


# --- events by pull ---


async def test_pulling_gives_every_event_once_and_in_order(bench: Bench, service: WebhookService) -> None:
    ids = await bench.tell(7)
    await bench.tell(1, type_="delivery.pushed")
    seen: list[str] = []
    page = await service.events("a", limit=3)
    assert (page.events, page.more) == ((), False)  # not numbered yet
    await number(bench)
    cursor: str | None = None
    while True:
        page = await service.events("a", cursor=cursor, limit=3)
        seen += [one.id for one in page.events]
        cursor = page.cursor
        if not page.more:
            break
    assert seen == ids
    assert json.loads(bytes(page.events[-1].data))["id"] == ids[-1]
    more = await bench.tell(2)
    await number(bench)
    page = await service.events("a", cursor=cursor)
    assert ([one.id for one in page.events], [one.sequence for one in page.events]) == (more, [9, 10])
    pushed = await service.events("a", types=["delivery.pushed"])
    assert [one.sequence for one in pushed.events] == [8]


async def test_a_cursor_is_good_for_its_app_only(service: WebhookService) -> None:
    cursor = (await service.events("a")).cursor
    flipped = ("B" if cursor[0] != "B" else "C") + cursor[1:]
    for app_id, wrong in (("b", cursor), ("a", cursor[:-2]), ("a", flipped), ("a", ""), ("a", "0"), ("a", "\x00")):
        with pytest.raises(Malformed) as refused:
            await service.events(app_id, cursor=wrong)
        assert refused.value.code == "invalid_cursor"
    with pytest.raises(Invalid):
        await service.events("a", types=["nothing"])


async def test_a_cursor_below_what_is_kept_says_so_and_where_to_go_on(bench: Bench, service: WebhookService) -> None:
    await bench.tell(1)
    await number(bench)
    cursor = (await service.events("a")).cursor
    await bench.tell(4)
    await number(bench)
    await bench.engine.write(lambda conn, now_ms: event_log.prune_events(conn, now_ms + 1, limit=3, keep_ms=0))
    with pytest.raises(CursorRefused) as refused:
        await service.events("a", cursor=cursor)
    assert (refused.value.code, refused.value.status) == ("cursor_too_old", 410)
    page = await service.events("a", cursor=refused.value.extra["resync"]["cursor"])
    assert [one.sequence for one in page.events] == [4, 5]


@pytest.mark.parametrize("how", ["epoch", "rolled back"])
async def test_a_cursor_from_before_a_restore_says_so(bench: Bench, service: WebhookService, how: str) -> None:
    await bench.tell(3)
    await number(bench)
    cursor = (await service.events("a")).cursor

    def restore(conn: Any, _: int) -> None:
        if how == "epoch":
            conn.execute(update(store_meta).values(epoch="f" * 32))
        else:
            conn.execute(update(app).values(event_head=1))

    await bench.engine.write(restore)
    with pytest.raises(CursorRefused) as refused:
        await service.events("a", cursor=cursor)
    assert (refused.value.code, refused.value.status) == ("cursor_epoch_changed", 409)
    await service.events("a", cursor=refused.value.extra["resync"]["cursor"])


# --- chores ---


async def test_tidying_removes_what_is_past_its_time(bench: Bench, service: WebhookService) -> None:
    made = await service.create("a", url=URL)
    await bench.tell(1500)
    await number(bench)
    await service.delete("a", made.endpoint.key.endpoint_id)
    await bench.engine.write(lambda conn, _: conn.execute(update(event).values(created_ms=1)) and None)
    fresh = NewEvent(app_id="a", event_id="evt_fresh", type="device.online", data={})
    await bench.engine.write(lambda conn, now_ms: emit(conn, now_ms, [fresh]))
    await number(bench)
    assert await service.tidy() == 1501 + 1
    assert await bench.engine.read(lambda conn, _: conn.execute(select(event.c.event_id)).scalars().all()) == [
        "evt_fresh"
    ]
    assert await bench.engine.read(lambda conn, _: conn.execute(select(endpoint)).all()) == []
    assert await bench.engine.read(lambda conn, _: conn.execute(select(delivery)).all()) == []
    assert await service.tidy() == 0
