"""Erasing a user over HTTP: its connection ends, its token counts no more, and another app's user stays."""

import asyncio

from running_relay import Face


async def test_an_erased_user_is_gone_with_its_connection_and_its_token(face: Face) -> None:
    sent = await face.sent()
    headers = {"Authorization": f"Bearer {face.token}"}
    async with face.http.ws_connect(
        f"{face.of.url}/v1/device/ws", headers=headers, protocols=["relay.v1.json"]
    ) as socket:
        await socket.send_json({"type": "hello", "store": {"id": "s"}})
        assert (await socket.receive_json(timeout=10))["type"] == "welcome"
        assert (await face.call("DELETE", f"/v1/users/{face.user}")).status == 204
        async with asyncio.timeout(10):
            while not socket.closed:
                await socket.receive()
        assert socket.close_code == 4401
    assert (await face.sync()).refused(401, "unauthenticated")
    assert (await face.call("GET", f"/v1/messages/{sent}")).refused(404, "not_found")
    assert (await face.send()).refused(422, "recipient_unknown"), "a stranger, as before it was registered"


async def test_who_is_erased_already_is_erased(face: Face) -> None:
    assert (await face.call("DELETE", "/v1/users/nobody")).status == 204


async def test_an_app_erases_its_own_users_only(face: Face) -> None:
    assert (await face.call("DELETE", f"/v1/users/{face.user}", token=face.of.other_key)).status == 204
    assert (await face.sync()).status == 200


async def test_a_renamed_user_is_reached_by_the_new_name_with_a_new_token(face: Face) -> None:
    sent = await face.sent()
    name = f"{face.user}-renamed"
    assert (await face.call("POST", f"/v1/users/{face.user}/rename", {"to": name})).status == 204
    assert (await face.sync()).refused(401, "unauthenticated")
    assert (await face.call("GET", f"/v1/users/{face.user}/devices/phone")).refused(404, "not_found")
    token = (await face.call("POST", f"/v1/users/{name}/devices/phone/token")).json["token"]
    assert [one["id"] for one in await face.inbox(token=token)] == [sent]
    assert (await face.call("POST", f"/v1/users/{name}/rename", {"to": name})).refused(409, "state_conflict")
