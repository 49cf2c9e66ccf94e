"""Devices that send to ultra groups themselves, where the app lets them (protocol 12.3, 12.5)."""

from running_relay import Face


async def test_a_member_posts_and_its_own_device_passes_the_number_while_others_read_it(face: Face) -> None:
    group, other = f"{face.user}-all", f"{face.user}-bob"
    token = await face.device(other)
    await face.call("PUT", f"/v1/groups/{group}/members", {"add": [face.user, other], "type": "ultra"})
    headers = {"Idempotency-Key": "k1"}
    body = {"to": {"group": group}, "body": "hi all"}
    sent = await face.call("POST", "/v1/device/messages", body, token=face.token, headers=headers)
    assert (sent.status, sent.json["seq"], sent.json["timeline"]) == (202, None, {"conversation": group, "seq": 1})
    theirs = (await face.sync(open=group, token=token)).json["batches"][1]
    assert [(one["body"], one["sender"]["user"]) for one in theirs["entries"]] == [("hi all", face.user)]
    own = (await face.sync(open=group)).json["batches"][1]
    assert (own["entries"], own["gaps"]) == ([], [{"from": 0, "to": 1, "why": "own"}])
    again = await face.call("POST", "/v1/device/messages", body, token=face.token, headers=headers)
    assert (again.status, again.json["timeline"]) == (200, sent.json["timeline"])


async def test_a_stranger_posts_nothing(face: Face) -> None:
    group, other = f"{face.user}-theirs", f"{face.user}-bob"
    await face.call("PUT", f"/v1/groups/{group}/members", {"add": [other], "type": "ultra"})
    body = {"to": {"group": group}, "body": "let me in"}
    headers = {"Idempotency-Key": "k2"}
    answer = await face.call("POST", "/v1/device/messages", body, token=face.token, headers=headers)
    assert answer.refused(422, "recipient_unknown")
