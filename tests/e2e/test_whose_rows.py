"""SEC-5: whose rows the store is asked for, from the moment on when it is known who asks."""

from collections import defaultdict
from typing import Any

import pytest
from relay_face import Face, next_frame

from relay.inbox.address_tokens import AddressTokens
from relay.inbox.reader import InboxReader
from relay.inbox.service import InboxService
from relay.push.from_settings import DEFAULT_APP
from relay.store.scope import ALL, Scope, current

ITS_OWN = {frozenset({DEFAULT_APP})}


@pytest.fixture
def scopes(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Scope]]:
    """Of each of these that was called: in which scopes. Comes before the relay, which takes hold of some of them."""
    seen: defaultdict[str, set[Scope]] = defaultdict(set)

    def spy(of: type, name: str) -> None:
        real = getattr(of, name)

        async def spying(self: Any, *arguments: Any, **named: Any) -> Any:
            seen[name].add(current())
            return await real(self, *arguments, **named)

        monkeypatch.setattr(of, name, spying)

    for name in ("register", "accept", "hello", "ack"):
        spy(InboxService, name)
    for name in ("read", "read_after"):
        spy(InboxReader, name)
    spy(AddressTokens, "follow")
    return seen


async def looks_once_woken(scopes: dict[str, set[Scope]], face: Face) -> set[Scope]:
    """In which scopes a connection that has come to rest looks, when the relay itself wakes it."""
    connection: Any
    (connection,) = face.relay.hub.all()
    await connection._pump._task
    scopes["read_after"].clear()
    face.relay.hub.wake(face.device_key().user)
    await connection._pump._task
    return scopes["read_after"]


async def test_what_a_request_asks_for_is_its_callers_app(scopes: dict[str, set[Scope]], face: Face) -> None:
    token = await face.device()
    await face.send()
    await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
    _, page, _ = await face.call("GET", "/v1/device/sync", token=token)
    await face.call("POST", "/v1/device/ack", {"cursor": page["batches"][0]["cursor"]}, token=token)
    for name in ("register", "accept", "hello", "read", "ack"):
        assert scopes[name] == ITS_OWN, name


async def test_so_is_what_a_socket_asks_for_whoever_wakes_it(scopes: dict[str, set[Scope]], face: Face) -> None:
    token = await face.device()
    ws = await face.connect(token)
    await next_frame(ws, "welcome")
    await face.send()
    upto = (await next_frame(ws, "batch"))["to"]
    await ws.send_json({"type": "ack", "ref": "2", "upto": upto})
    await next_frame(ws, "ack")
    for name in ("hello", "read_after", "ack"):
        assert scopes[name] == ITS_OWN, name
    assert await looks_once_woken(scopes, face) == ITS_OWN
    await ws.close()


async def test_and_what_a_stream_asks_for(scopes: dict[str, set[Scope]], face: Face) -> None:
    token = await face.device()
    await face.call("PUT", "/v1/device", {"store": {"id": "s"}}, token=token)
    headers = {"Authorization": f"Bearer {token}"}
    async with face.http.get(f"{face.url}/v1/device/stream", headers=headers) as answer:
        await face.send()
        while b"event: batch" not in await answer.content.readline():
            pass
        assert scopes["read"] == ITS_OWN
        assert await looks_once_woken(scopes, face) == ITS_OWN


async def test_a_look_for_all_apps_that_a_request_asks_for_is_one(scopes: dict[str, set[Scope]], face: Face) -> None:
    """Credentials that were revoked: else those of other apps, revoked at another node, would be looked past."""
    await face.device()
    scopes["follow"].clear()
    assert (await face.call("DELETE", "/v1/users/ann/tokens"))[0] == 204
    assert scopes["follow"] == {ALL}
