"""Whoever is called dead by name is not asked about again: calls count against vendors' limits."""

import pytest
from meeting import meeting

from providers.contract import Verdict


@pytest.mark.parametrize("vendor", ["xiaomi", "oppo", "vivo", "meizu"])
async def test_a_batch_in_which_everybody_is_named_as_dead_takes_one_call(vendor: str) -> None:
    async with meeting(vendor) as met:
        outcomes = await met.send_many([f"unregistered-{n}" for n in range(8)])
        assert {one.verdict for one in outcomes} == {Verdict.TOKEN_DEAD}
        assert met.sandbox.emulators[vendor].outcomes["unregistered"] == 8
