"""A token that spoils a call for many is sought, and whoever the vendor has named is not asked about again: calls count
against its limits."""

import pytest
from meeting import meeting

from providers.contract import Verdict


@pytest.mark.parametrize("vendor", ["xiaomi", "oppo", "vivo", "meizu"])
async def test_a_batch_in_which_everybody_is_named_as_dead_takes_one_call(vendor: str) -> None:
    async with meeting(vendor) as met:
        outcomes = await met.send_many([f"unregistered-{n}" for n in range(8)])
        assert {one.verdict for one in outcomes} == {Verdict.TOKEN_DEAD}
        assert met.sandbox.emulators[vendor].outcomes["unregistered"] == 8


REFUSES = {"huawei": "badparam", "harmony": "badparam", "honor": "badparam", "oppo": "code41"}


@pytest.mark.parametrize("vendor", REFUSES)
@pytest.mark.parametrize("places", [(0,), (3,), (7,), (2, 5), (0, 1), (0, 6)])
async def test_a_token_for_which_a_call_is_refused_takes_no_other_with_it(vendor: str, places: tuple[int, ...]) -> None:
    """Sheets huawei §5, 80100001 (maybe some tokens), and oppo §5, 41 (includes malformed registration id)."""
    tokens = [f"{REFUSES[vendor]}-{n}" if n in places else f"t{n}" for n in range(8)]
    async with meeting(vendor) as met:
        outcomes = await met.send_many(tokens)
        refused = [place for place, one in enumerate(outcomes) if one.verdict is Verdict.REFUSED]
        assert refused == list(places)
        assert [len(met.received(token)) for token in tokens] == [int(n not in places) for n in range(8)]


@pytest.mark.parametrize("vendor", REFUSES)
@pytest.mark.parametrize("count", [2, 8])
async def test_a_message_that_is_refused_costs_two_calls_more(vendor: str, count: int) -> None:
    async with meeting(vendor) as met:
        await met.control("faults", all=True, fault=REFUSES[vendor])
        outcomes = await met.send_many([f"t{n}" for n in range(count)])
        assert {one.verdict for one in outcomes} == {Verdict.REFUSED}
        assert met.sandbox.emulators[vendor].outcomes[REFUSES[vendor]] == 3
