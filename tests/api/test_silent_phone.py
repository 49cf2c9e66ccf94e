"""A phone that nobody has heard of for a month, as its backend sees it."""

from pathlib import Path

import aiohttp
from own_process import Ahead, process
from running_relay import Face

MONTH_MS = 30 * 86_400_000


async def test_its_addresses_are_called_stale_until_it_is_heard_of(tmp_path: Path) -> None:
    clock = Ahead()
    async with aiohttp.ClientSession() as http, process(tmp_path, clock) as relay:
        face, phone = Face(http, relay, "ann"), "/v1/users/ann/devices/phone"
        chain = {"addresses": [{"account": "first", "kind": "token", "token": "t"}]}
        assert (await face.call("PUT", phone, chain)).json["addresses"][0]["state"] == "active"
        clock.ahead_ms += MONTH_MS
        assert (await face.call("GET", phone)).json["addresses"][0]["state"] == "stale"
        assert (await face.call("PUT", phone, chain)).json["addresses"][0]["state"] == "active"
