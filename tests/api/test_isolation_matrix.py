"""Nobody reaches what is another's (SEC-5, SEC-6): every route of the table, by every kind of caller.

The matrix is made from the route table, so a new route without a line here fails. A foreign id must be answered exactly
as one that never was: same status, same body, and nothing of the other app's changed.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from running_relay import OTHER_APP, Answer, Face, Running, running

from relay.api.principal import SCOPES
from relay.api.routes import DEVICE, PUBLIC, Route
from relay.api.table import ROUTES
from relay.store import endpoints
from relay.store.schema.webhooks import endpoint

CLOSED = [route for route in ROUTES if route.access != PUBLIC and not route.raw]  # sockets: test_corpus_sockets.py
WITH_IDS = [route for route in CLOSED if "{" in route.path]

# A body that the route takes; none where it takes none.
BODIES: Mapping[str, Any] = {
    "send": {"to": {"users": ["nobody"]}, "body": "x"},
    "send_batch": {"messages": [{"to": {"users": ["nobody"]}, "body": "x"}]},
    "put_device": {"platform": "android"},
    "post_presence": {"devices": [{"user": "nobody", "device": "none", "state": "foreground"}]},
    "query_presence": {"users": ["nobody"]},
    "create_endpoint": {"url": "https://127.0.0.1:9/hook"},
    "update_endpoint": {"description": "mine now"},
    "rotate_secret": {},
    "replay": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
    "handshake": {"store": {"id": "s"}},
    "heartbeat": {"session": 1},
    "ack": {"ids": ["01900000-0000-7000-8000-000000000001"]},
    "put_addresses": {"addresses": []},
    "prove_address": {"account": "log", "value": "x"},
    "send_from_device": {"to": {"users": ["nobody"]}, "body": "x"},
    "verify": {"cursor": "none", "ranges": [{"from": 0, "to": 1, "n": 0, "fp": "0"}]},
    "put_preferences": {},
    "change_members": {"add": ["nobody"]},
    "set_member": {"notify": "all"},
    "rename_user": {"to": "somebody-else"},
    "requeue_pushes": {"user": "nobody", "device": "none"},
}
# Ids in these name something of the caller's own app, which they make or look at there; the other app's stays untouched.
OWN_NAMES = {"put_device", "change_members", "user_presence", "revoke_user_tokens"}


on_both_stores = pytest.mark.parametrize("relay", ["sqlite", "postgres"], indirect=True)


def named(routes: list[Route]) -> list[Any]:
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in routes]


async def call(face: Face, route: Route, ids: Mapping[str, str], token: str, **headers: str) -> Answer:
    path = re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], route.path)
    headers["X-Forwarded-For"] = f"198.51.{next(face.of.names) % 256}.{next(face.of.names) % 256}"
    return await face.call(route.method, path, BODIES.get(route.handler), token=token, headers=headers)


def told(answer: Answer, ids: Mapping[str, str]) -> tuple[int, str]:
    """The answer without what differs from request to request: its id, and the ids that the caller gave itself."""
    text = re.sub(r'"(request_id|instance)":"[^"]*"', r'"\1":""', answer.text)
    for value in ids.values():
        text = text.replace(value, "ID")
    return answer.status, text


@pytest.fixture(scope="module")
def relay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that believes us where a request comes from: strangers are to be many, not one who is slowed down."""
    on_postgres = getattr(request, "param", "sqlite") == "postgres"
    settings = {
        "RELAY_WEBHOOKS__EXEMPT": '["127.0.0.1:9"]',
        "RELAY_ACCOUNTS__LOG__PROVIDER": "log",
        "RELAY_SERVER__TRUSTED_PROXIES": '["127.0.0.1/32"]',
    }
    if on_postgres:
        settings["RELAY_STORE__URL"] = request.getfixturevalue("new_postgres_url")
    with running(tmp_path_factory.mktemp("relay"), settings) as one:
        yield one


@pytest.fixture
async def theirs(face: Face) -> AsyncIterator[dict[str, str]]:
    """Ids of things of the app `default`: a message, a user, a device of it, an endpoint, a group."""
    group = f"{face.user}-friends"
    assert (await face.call("PUT", f"/v1/groups/{group}/members", {"add": [face.user]})).status == 200
    endpoint = await face.call("POST", "/v1/webhooks", {"url": "https://127.0.0.1:9/hook"})
    assert endpoint.status == 201, endpoint.text
    yield {
        "message": await face.sent(),
        "user": face.user,
        "device": "phone",
        "endpoint": endpoint.json["id"],
        "account": "log",
        "hour": "2020-01-01T00",
        "group": group,
    }
    for key in (face.of.key, face.of.other_key):
        for one in (await face.call("GET", "/v1/webhooks", token=key)).json["endpoints"]:
            assert (await face.call("DELETE", f"/v1/webhooks/{one['id']}", token=key)).status == 204


def never_were(theirs: Mapping[str, str]) -> dict[str, str]:
    """Ids of the same form that nobody ever had."""
    return {
        "message": theirs["message"][:-4] + ("0000" if theirs["message"][-4:] != "0000" else "1111"),
        "user": "nobody-at-all",
        "device": "no-device",
        "account": "no-account",
        "hour": "2020-01-01T01",
        "group": "no-group",
        "endpoint": theirs["endpoint"][:-4] + ("aaaa" if theirs["endpoint"][-4:] != "aaaa" else "bbbb"),
    }


async def snapshot(face: Face, theirs: Mapping[str, str]) -> list[Any]:
    """What the other app can see of its things."""
    seen = [
        await face.call("GET", f"/v1/messages/{theirs['message']}"),
        await face.call("GET", f"/v1/users/{theirs['user']}/devices/phone"),
        await face.call("GET", f"/v1/webhooks/{theirs['endpoint']}"),
        await face.call("GET", f"/v1/groups/{theirs['group']}/members"),
    ]
    assert {one.status for one in seen} == {200}
    moving = {"state", "failing_since", "last_contact_at"}  # by deliveries and devices of its own
    return [{name: value for name, value in one.json.items() if name not in moving} for one in seen]


@on_both_stores
@pytest.mark.parametrize("route", named(WITH_IDS))
async def test_another_apps_ids_are_as_ids_that_never_were(face: Face, theirs: dict[str, str], route: Route) -> None:
    before = await snapshot(face, theirs)
    missing = never_were(theirs)
    foreign = await call(face, route, theirs, face.of.other_key)
    if route.handler in OWN_NAMES:
        assert foreign.status < 300, foreign.text
    else:
        assert foreign.status in {404, 204}, "404, or a deletion of what is not there"
        assert told(foreign, theirs) == told(await call(face, route, missing, face.of.other_key), missing)
    assert await snapshot(face, theirs) == before
    assert (await face.sync()).status == 200, "the device's credential was touched"


@pytest.mark.parametrize("route", named([route for route in CLOSED if route.access != DEVICE]))
async def test_a_key_needs_the_scope_of_the_route(face: Face, theirs: dict[str, str], route: Route) -> None:
    others = tuple(scope for scope in SCOPES if scope != route.access)
    lesser = await minted(face, others)
    answer = await call(face, route, theirs, lesser)
    assert answer.refused(403, "forbidden")
    assert route.access in answer.json["detail"], "it does not say which scope is missing"
    enough = await call(face, route, theirs, await minted(face, (route.access,)))
    assert enough.status not in {401, 403}, enough.text


async def minted(face: Face, scopes: tuple[str, ...]) -> str:
    """A key of the app `default` with just these scopes."""
    name = f"k{next(face.of.names)}"
    made = face.of.relay.issuer.api_key("default", name=name, scopes=scopes)
    return await face.of.does(made)


@pytest.mark.parametrize("route", named(CLOSED))
async def test_a_credential_of_the_other_kind_is_refused(face: Face, theirs: dict[str, str], route: Route) -> None:
    wrong = face.of.key if route.access == DEVICE else face.token
    assert (await call(face, route, theirs, wrong)).refused(403, "forbidden")


@pytest.mark.parametrize("route", named(CLOSED))
async def test_a_stranger_is_told_nothing(face: Face, theirs: dict[str, str], route: Route) -> None:
    missing = never_were(theirs)
    seen = await call(face, route, theirs, "", Authorization="")
    assert seen.refused(401, "unauthenticated")
    assert told(seen, theirs) == told(await call(face, route, missing, "", Authorization=""), missing)


@on_both_stores
async def test_a_device_reaches_nothing_of_another_device(face: Face) -> None:
    """Same app: what another user's device has, and what another app's has, is `unknown` like what never was."""
    mine = await face.sent()
    bob = await face.device(f"{face.user}-bob")
    far = await face.device(f"{face.user}", key=face.of.other_key)
    never = mine[:-4] + ("0000" if mine[-4:] != "0000" else "1111")
    for token in (bob, far):
        answer = await face.call("POST", "/v1/device/ack", {"ids": [mine, never]}, token=token)
        assert answer.status == 200
        assert answer.json["results"] == {mine: "unknown", never: "unknown"}
    cursor = (await face.sync()).json["batches"][0]["cursor"]
    for token in (bob, far):
        assert (await face.sync(token=token, cursor=cursor)).refused(400, "invalid_cursor")
        assert (await face.call("POST", "/v1/device/ack", {"cursor": cursor}, token=token)).refused(
            400, "invalid_cursor"
        )
    assert [one["id"] for one in await face.inbox()] == [mine], "somebody acked it for this device"


@pytest.mark.parametrize("relay", ["postgres"], indirect=True)
@pytest.mark.parametrize("route", named([route for route in WITH_IDS if "{endpoint}" in route.path]))
async def test_what_a_statement_forgets_to_ask_for_postgresql_does_not_forget(
    face: Face, theirs: dict[str, str], route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the statements on endpoints planted with a bug: they find them by their own id alone."""
    before = await snapshot(face, theirs)
    missing = never_were(theirs)
    monkeypatch.setattr(endpoints, "_is", lambda key: endpoint.c.endpoint_id == key.endpoint_id)
    foreign = await call(face, route, theirs, face.of.other_key)
    assert foreign.status in {404, 204}
    assert told(foreign, theirs) == told(await call(face, route, missing, face.of.other_key), missing)
    assert await snapshot(face, theirs) == before


def test_the_matrix_covers_every_route_that_takes_a_body() -> None:
    taking = {route.handler for route in CLOSED if route.request is not None}
    assert taking == set(BODIES), "a route without a body in the matrix, or the other way round"
    assert OTHER_APP != "default"
