"""FLT-37: one recipient with ten thousand messages that wait. It gets them by pages; nobody else notices."""

import time
from pathlib import Path

import aiohttp
from running_relay import Face, running

QUEUED, BATCH, PAGE = 10_000, 500, 200


async def test_flt_37_ten_thousand_wait_for_one_and_others_are_unaffected(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            bob = Face(http, relay, "bob")
            bob.token = await bob.device()
            for begin in range(0, QUEUED, BATCH):
                messages = [{"to": {"users": ["ann"]}, "body": n} for n in range(begin, begin + BATCH)]
                answer = await face.call("POST", "/v1/messages/batch", {"messages": messages})
                assert answer.status in {200, 202}, answer.text
            refused = await face.send(body="one more")
            assert refused.refused(429, "recipient_queue_full")
            both = await face.send(to={"users": ["ann", "bob"]}, body="to both")
            assert both.status == 202
            assert [(one["user"], one["status"]) for one in both.json["recipients"]] == [
                ("ann", "rejected"),
                ("bob", "accepted"),
            ]
            began = time.perf_counter()
            assert (await bob.send(body="hello")).status == 202
            assert [one["body"] for one in await bob.inbox()] == ["to both", "hello"]
            assert time.perf_counter() - began < 2, "it does not wait for what ann has"
            got: list[int] = []
            query: dict[str, str] = {}
            while True:
                page = (await face.sync(**query)).json
                (batch,) = page["batches"]
                assert len(batch["entries"]) <= PAGE
                got += [entry["body"] for entry in batch["entries"]]
                if page["caught_up"]:
                    break
                query = {"cursor": batch["cursor"]}
            assert got == list(range(QUEUED))
            ack = await face.call("POST", "/v1/device/ack", {"cursor": batch["cursor"]}, token=face.token)
            assert ack.json["acked"] == QUEUED
            assert (await face.send(body="there is room again")).status == 202
