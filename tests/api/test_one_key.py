"""DUR-3: one key is one message, whoever sends what with it at the same time."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
from running_relay import Face, running

SENDERS = 64


async def test_dur_3_of_64_different_messages_with_one_key_one_is_accepted_and_63_are_conflicts(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            answers = await asyncio.gather(*(face.send(key="same", body=n) for n in range(SENDERS)))
            assert Counter((one.status, one.code) for one in answers) == {
                (202, None): 1,
                (409, "idempotency_conflict"): SENDERS - 1,
            }
            (taken,) = (n for n, one in enumerate(answers) if one.status == 202)
            again = await face.send(key="same", body=taken)
            assert (again.status, again.json["id"]) == (200, answers[taken].json["id"])
            assert [entry["body"] for entry in await face.inbox()] == [taken]
            assert await face.still_serves()


async def test_dur_3_of_64_equal_messages_with_one_key_one_is_accepted_and_63_are_replays(tmp_path: Path) -> None:
    with running(tmp_path) as relay:
        async with aiohttp.ClientSession() as http:
            face = Face(http, relay, "ann")
            face.token = await face.device()
            answers = await asyncio.gather(*(face.send(key="same") for _ in range(SENDERS)))
            assert Counter(one.status for one in answers) == {202: 1, 200: SENDERS - 1}
            assert len({one.json["id"] for one in answers}) == 1
            assert len(await face.inbox()) == 1
