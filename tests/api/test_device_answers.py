"""What a device is answered has the members that the relay's document names, each of them, and no others."""

import hashlib
from typing import Any

from running_relay import Face

from relay.api.schemas.device import DeviceHistoryOut, SyncOut, WelcomeOut

NOTHING = {"n": 0, "fp": "0"}


async def hello(face: Face, **facts: Any) -> dict[str, Any]:
    answer = await face.call("PUT", "/v1/device", {"store": {"id": "s"}} | facts, token=face.token)
    assert answer.status == 200, answer.text
    WelcomeOut.model_validate(answer.json)
    return dict(answer.json)


async def test_a_handshake_with_everything_that_it_may_tell(face: Face) -> None:
    group = f"town-{face.user}"
    await face.call("PUT", f"/v1/groups/{group}/members", {"add": [face.user], "type": "ultra"})
    await face.sent()
    first = await hello(face, app_version="1.0")
    assert (first["verdict"], first["upgrade"]) == ("resync", None)
    inbox, town = (await face.sync(open=group)).json["batches"]
    cursors = {"inbox": inbox["cursor"], group: town["cursor"], "nowhere": town["cursor"]}
    second = await hello(face, app_version="2.0", digest=NOTHING, cursors=cursors)
    assert (second["verdict"], second["upgrade"]["from"], second["upgrade"]["digest"]) == ("resume", "1.0", "differs")
    assert {one["conversation"]: one["verdict"] for one in second["shared"]} == {group: "resume", "nowhere": "unknown"}


async def test_pages_with_every_kind_of_entry_that_a_device_gets(face: Face) -> None:
    group = f"town-{face.user}"
    await face.call("PUT", f"/v1/groups/{group}/members", {"add": [face.user], "type": "ultra"})
    await hello(face)
    taken = await face.sent(conversation={"type": "direct", "id": "c"})
    await face.send(to={"group": group}, mentions=[face.user], sender={"user": "town hall"})
    cursor = (await face.sync()).json["batches"][0]["cursor"]
    read = {"cursor": cursor, "read": [{"conversation": "c", "read_seq": 1}]}
    assert (await face.call("POST", "/v1/device/ack", read, token=face.token)).status == 200
    assert (await face.call("DELETE", f"/v1/messages/{taken}")).status == 200
    other = await face.device(device="tablet")
    whole = (await face.sync(token=other, open="nowhere", shared="none")).json
    SyncOut.model_validate(whole)
    assert [one["kind"] for one in whole["batches"][0]["entries"]] == ["pointer", "read", "recall"]
    assert whole["refused"]
    assert whole["shared"]
    seen = (await face.call("GET", "/v1/device/history", token=other)).json
    DeviceHistoryOut.model_validate(seen)
    assert [one["kind"] for one in seen["entries"]] == ["pointer"]


async def test_h_is_of_the_body_as_it_stands_in_the_page(face: Face) -> None:
    """And not as the sender wrote it: so a client hashes the text that came."""
    await face.call("POST", "/v1/messages", raw=b'{"to": {"users": ["%s"]}, "body": {"b" :  1.0}}' % face.user.encode())
    answer = await face.sync()
    assert '"body":{"b":1.0},' in answer.text
    h = hashlib.sha256(b'{"b":1.0}').digest()[:8].hex()
    assert answer.json["batches"][0]["entries"][0]["h"] == h
