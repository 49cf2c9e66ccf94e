"""Which pushes share a call, what a vendor cannot express, and who may claim to take batches."""

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from providers.batch import alike
from providers.contract import Capabilities, Push, left_out
from providers.loading import discover
from providers.log import LogProvider

PUSH = Push(id="m1", token="t0", title="Ann", body="hi", data={"k": "v"}, relay={"v": 1})


@given(
    picks=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.sampled_from(["c1", None])), max_size=30),
    most=st.integers(1, 4),
)
def test_a_group_differs_in_the_token_alone_and_everybody_is_in_one(
    picks: list[tuple[int, str, str | None]], most: int
) -> None:
    pushes = [replace(PUSH, token=f"t{n}", data={"k": what}, collapse_key=key) for n, what, key in picks]
    groups = alike(pushes, range(len(pushes)), most)
    assert sorted(place for group in groups for place in group) == list(range(len(pushes)))
    for group in groups:
        assert 1 <= len(group) <= most
        assert group == sorted(group)
        assert len({pushes[place].token for place in group}) == len(group)
        first = pushes[group[0]]
        assert all(replace(pushes[place], token=first.token) == first for place in group)


@given(count=st.integers(0, 40), most=st.integers(1, 9))
def test_as_few_calls_as_possible_are_made_of_different_tokens(count: int, most: int) -> None:
    pushes = [replace(PUSH, token=f"t{n}") for n in range(count)]
    assert len(alike(pushes, range(count), most)) == -(-count // most)


def test_what_a_vendor_cannot_express_is_known_from_its_capabilities() -> None:
    poor = Capabilities(payload_bytes_max=1, ttl_s_max=1, sound=False, channel=False, thread=False)
    full = replace(
        PUSH,
        image="https://a.example/i.png",
        badge=0,
        sound="s",
        channel="c",
        thread="t",
        mutable=True,
        title_loc_key="T",
        body_loc_key="B",
    )
    said = ("image", "badge", "sound", "channel", "thread", "mutable", "title_loc_key", "body_loc_key")
    assert left_out(full, poor) == said
    assert left_out(PUSH, poor) == ()
    rich = replace(poor, image=True, badge=True, sound=True, channel=True, thread=True, mutable=True, localised=True)
    assert left_out(full, rich) == ()


class Boastful(LogProvider):
    name: ClassVar[str] = "boastful"
    capabilities: ClassVar[Capabilities] = replace(LogProvider.capabilities, batch_max=10)


def test_a_provider_with_batches_must_be_able_to_send_them() -> None:
    (loaded,) = discover([EntryPoint("boastful", f"{__name__}:Boastful", "relay.providers")])
    assert loaded.provider is None
    assert loaded.reason == "has no send_many"
