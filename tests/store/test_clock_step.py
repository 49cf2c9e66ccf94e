"""A clock that jumps is told of once, and again when it jumps anew (safety FLT-26)."""

from house import House

from relay.store.apps import create_app


async def test_a_jump_of_the_clock_is_an_event_once(house: House) -> None:
    await house.engine.write(lambda conn, now_ms: create_app(conn, now_ms, app_id=house.app, id_secret=b"s"))
    step_ms: list[int | None] = [None]
    chores = house.chores(step_ms=lambda: step_ms[0])

    async def looks(now: int | None) -> list[int]:
        step_ms[0] = now
        house.clock.forward(s=5)
        await chores.watch_clock()
        return [data["step_ms"] for type_, data in await house.events() if type_ == "clock_step"]

    assert await looks(None) == []
    assert await looks(3_600_000) == [3_600_000]
    assert await looks(3_600_000) == [3_600_000], "it is known"
    assert await looks(None) == [3_600_000]
    assert await looks(-90_000) == [3_600_000, -90_000]
