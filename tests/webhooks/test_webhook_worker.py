"""The worker in virtual time, with endpoints that are functions."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from webhook_bench import SECRET, Bench, VirtualClock, virtual_bench, virtually

from relay.errors import Unavailable
from relay.store.engine import Engine
from relay.webhooks.post import Answer, PostFailed
from relay.webhooks.signing import signing_key, verify
from relay.webhooks.worker import Pace, WebhookWorker

Behaviour = Callable[[], Awaitable[Answer]]


async def fine() -> Answer:
    return Answer(status=200)


async def hangs() -> Answer:
    await asyncio.sleep(15)  # noqa: TID251 - virtual
    raise PostFailed("timeout")


def answers(status: int) -> Behaviour:
    async def answer() -> Answer:
        return Answer(status=status)

    return answer


class Web:
    """Endpoints by URL, what they were sent and when."""

    def __init__(self) -> None:
        self.behaviours: dict[str, Behaviour] = {}
        self.sent: list[tuple[float, str, str, bytes, dict[str, str]]] = []
        self.open: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def __call__(
        self, *, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float, answer_bytes_max: int
    ) -> Answer:
        assert (timeout_s, answer_bytes_max) == (15, 4096)
        self.sent.append((asyncio.get_running_loop().time(), url, headers["webhook-id"], body, dict(headers)))
        self.open[url] = self.open.get(url, 0) + 1
        self.most[url] = max(self.most.get(url, 0), self.open[url])
        try:
            return await self.behaviours.get(url, fine)()
        finally:
            self.open[url] -= 1

    def ids(self, url: str) -> list[str]:
        return [event_id for _, to, event_id, _, _ in self.sent if to == url]


def worker(
    bench: Bench, web: Any, *, owner: str = "n1", pace: Pace | None = None, engine: Engine | None = None
) -> WebhookWorker:
    return WebhookWorker(
        engine or bench.engine, web, bench.seals, clock=VirtualClock(), rng=random.Random(2), owner=owner, pace=pace
    )


@asynccontextmanager
async def running(made: WebhookWorker) -> Any:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(made.run(stop))
        yield made
        stop.set()


async def passed(seconds: float) -> None:
    await asyncio.sleep(seconds)  # noqa: TID251 - virtual


def test_an_event_reaches_each_endpoint_that_wants_it_signed_within_a_poll() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        await bench.endpoint("one")
        await bench.endpoint("two", types=["device.online"])
        async with running(worker(bench, web)):
            await passed(10)
            (event_id,) = await bench.tell()
            told_s = asyncio.get_running_loop().time()
            await passed(3)
        ((at_s, url, sent_id, body, headers),) = web.sent
        assert (url, sent_id) == ("https://one.example/", event_id)
        assert at_s - told_s <= 1.2
        now_s = int(headers["webhook-timestamp"])
        verify([signing_key(SECRET)], headers, body, now_s=now_s)  # type: ignore[list-item]
        assert now_s == 1_764_000_000 + int(at_s)
        assert headers["content-type"] == "application/json"
        assert [row.state for row in await bench.deliveries()] == ["delivered"]

    virtually(test)


def test_flt_23_an_event_that_cannot_be_sent_is_tried_by_its_plan_and_holds_up_no_other() -> None:
    """B116: somebody edited its row by hand; it is too long to be sent whole, and cannot be cut."""

    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        await bench.endpoint("one")
        (spoilt,) = await bench.tell()
        await bench.engine.write(
            lambda conn, _: conn.exec_driver_sql("UPDATE event SET data = ?", ("{" + " " * 30_000,))
        )
        async with running(worker(bench, web, pace=Pace(poll_s=1800))):
            (good,) = await bench.tell()
            await passed(400_000)
        assert web.ids("https://one.example/") == [good]
        found = {row.event_id: row for row in await bench.deliveries()}
        assert (found[good].state, found[spoilt].state) == ("delivered", "abandoned")
        assert found[spoilt].last_result == "relay_error"

    virtually(test)


def test_a_nudge_sends_at_once() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        await bench.endpoint("one")
        async with running(worker(bench, web)) as made:
            await passed(10)
            await bench.tell()
            made.nudge()
            await passed(0.001)
            assert len(web.sent) == 1

    virtually(test)


@pytest.mark.parametrize(("slow", "known"), [(1, False), (40, False), (120, True)])
def test_endpoints_that_hang_delay_others_by_at_most_a_second(slow: int, known: bool) -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        for n in range(slow):
            web.behaviours[f"https://slow{n}.example/"] = hangs
            await bench.endpoint(f"slow{n}")
        async with running(worker(bench, web)):
            if known:  # so many fill all hands at first; once they are known to fail, the others have their reserve
                await bench.tell(3)
                await passed(20)
            for n in range(5):
                await bench.endpoint(f"quick{n}")
            told: dict[str, float] = {}
            for _ in range(20):
                for event_id in await bench.tell(2):
                    told[event_id] = asyncio.get_running_loop().time()
                await passed(1.25)
            await passed(3)
            for n in range(5):
                assert sorted(web.ids(f"https://quick{n}.example/")) == sorted(told)
        delays = [at_s - told[event_id] for at_s, url, event_id, _, _ in web.sent if "quick" in url]
        assert max(delays) <= 1.2  # the poll: an idle relay is no quicker
        assert web.most["https://slow0.example/"] <= 5
        assert slow > 1 or web.most["https://slow0.example/"] == 5

    virtually(test)


def test_attempts_follow_the_plan_under_one_id_until_it_is_abandoned() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        web.behaviours["https://one.example/"] = answers(503)
        key = await bench.endpoint("one")
        async with running(worker(bench, web, pace=Pace(poll_s=30))):
            (event_id,) = await bench.tell()
            await passed(110 * 3600)
        assert web.ids("https://one.example/") == [event_id] * 10
        bodies = {body for _, _, _, body, _ in web.sent}
        assert len(bodies) == 1
        stamps = [int(headers["webhook-timestamp"]) for *_, headers in web.sent]
        assert stamps == sorted(set(stamps))
        times = [at_s for at_s, *_ in web.sent]
        planned = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
        for before, after, wait_s in zip(times, times[1:], planned, strict=False):
            assert 0.8 * wait_s <= after - before <= 1.2 * wait_s + 36
        assert [row.state for row in await bench.deliveries()] == ["abandoned"]
        assert await bench.health(key) == "failing"

    virtually(test)


def test_an_endpoint_that_comes_back_is_active_again() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        web.behaviours["https://one.example/"] = answers(500)
        key = await bench.endpoint("one")
        async with running(worker(bench, web)):
            await bench.tell()
            await passed(2)
            assert await bench.health(key) == "failing"
            web.behaviours.clear()
            await passed(10)
            assert await bench.health(key) == "active"
        assert [(row.state, row.attempts) for row in await bench.deliveries()] == [("delivered", 2)]

    virtually(test)


def test_410_disables_at_once_and_others_are_told() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        web.behaviours["https://one.example/"] = answers(410)
        key = await bench.endpoint("one")
        await bench.endpoint("watch", types=["endpoint.disabled"])
        async with running(worker(bench, web)):
            await bench.tell()
            await passed(2)
            await bench.tell(3)
            await passed(100)
        assert await bench.health(key) == "disabled"
        assert len(web.ids("https://one.example/")) == 1
        assert len(web.ids("https://watch.example/")) == 1

    virtually(test)


def test_a_crash_between_the_answer_and_its_settling_sends_again_under_the_same_id() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        await bench.endpoint("one")
        (event_id,) = await bench.tell()
        tasks: list[asyncio.Task[None]] = []

        async def answers_and_kills() -> Answer:
            tasks[0].cancel()
            return Answer(status=200)

        web.behaviours["https://one.example/"] = answers_and_kills
        tasks.append(asyncio.create_task(worker(bench, web, owner="n1").run(asyncio.Event())))
        await asyncio.wait(tasks)
        assert [(row.state, row.claim) for row in await bench.deliveries()] == [("waiting", "n1")]
        web.behaviours.clear()
        async with running(worker(bench, web, owner="n2")):
            await passed(2)
        assert web.ids("https://one.example/") == [event_id, event_id]
        assert [(row.state, row.attempts) for row in await bench.deliveries()] == [("delivered", 2)]

    virtually(test)


def test_a_stop_waits_a_little_and_gives_the_rest_back_unburnt() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()

        async def soon() -> Answer:
            await passed(3)
            return Answer(status=200)

        web.behaviours |= {"https://soon.example/": soon, "https://never.example/": hangs}
        await bench.endpoint("soon")
        await bench.endpoint("never")
        await bench.tell()
        async with running(worker(bench, web)):
            await passed(1)
            began_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began_s <= 5.1
        never, done = await bench.deliveries()
        assert (never.state, never.attempts, never.claim, never.claim_until_ms) == ("waiting", 0, None, None)
        assert (done.state, done.attempts) == ("delivered", 1)

    virtually(test)


def test_a_worker_that_was_frozen_changes_nothing_with_its_late_results() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        late: list[int] = []

        class Watching:
            def attempted(self, word: str, seconds: float) -> None: ...

            def in_flight(self, count: int) -> None: ...

            def late(self, count: int) -> None:
                late.append(count)

        async def frozen() -> Answer:
            await passed(40)
            return Answer(status=410)

        web.behaviours["https://one.example/"] = frozen
        key = await bench.endpoint("one")
        await bench.tell()
        first = WebhookWorker(
            bench.engine,
            web,
            bench.seals,
            clock=VirtualClock(),
            rng=random.Random(1),
            owner="n1",
            watch=Watching(),
            pace=Pace(poll_s=1000),
        )
        async with running(first):
            await passed(31)
            web.behaviours.clear()
            second = worker(bench, web, owner="n2")
            async with running(second):
                await passed(2)
                assert [row.state for row in await bench.deliveries()] == ["delivered"]
            await passed(20)
        assert late == [1]
        assert await bench.health(key) == "active"
        assert [row.state for row in await bench.deliveries()] == ["delivered"]

    virtually(test)


class Flaky:
    """An engine that is away for a while."""

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.away = False
        self.tried = 0

    async def write(self, work: Any) -> Any:
        if self.away:
            self.tried += 1
            raise Unavailable("The store cannot be reached.", code="storage_unavailable")
        return await self.inner.write(work)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_while_the_store_is_away_results_are_kept_and_nothing_spins() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        flaky = Flaky(bench.engine)

        async def meanwhile() -> Answer:
            flaky.away = True
            return Answer(status=200)

        web.behaviours["https://one.example/"] = meanwhile
        await bench.endpoint("one")
        await bench.tell()
        async with running(worker(bench, web, engine=flaky)) as made:  # type: ignore[arg-type]
            await passed(1)
            for _ in range(100):
                made.nudge()
                await passed(0.2)
            assert 4 <= flaky.tried <= 20
            assert made.in_flight == 1
            flaky.away = False
            await passed(6)
            assert made.in_flight == 0
        assert [(row.state, row.attempts) for row in await bench.deliveries()] == [("delivered", 1)]
        assert len(web.sent) == 1

    virtually(test)


def test_what_no_key_opens_waits_for_the_operator() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()
        key = await bench.endpoint("one")
        bench.seals.open = lambda sealed, aad: (_ for _ in ()).throw(ValueError("no key"))  # type: ignore[method-assign]
        await bench.tell()
        async with running(worker(bench, web)):
            await passed(600)
            assert web.sent == []
            del bench.seals.open
            await passed(80)
        assert len(web.sent) == 1
        assert await bench.health(key) == "active"

    virtually(test)


def test_a_burst_goes_out_in_full_within_bounds() -> None:
    async def test() -> None:
        bench, web = await virtual_bench(), Web()

        async def brief() -> Answer:
            await passed(0.01)
            return Answer(status=204)

        for n in range(30):
            web.behaviours[f"https://e{n}.example/"] = brief
            await bench.endpoint(f"e{n}")
        async with running(worker(bench, web, pace=Pace(in_flight_max=40, reserve=10, number_max=50))) as made:
            await bench.tell(120)
            for _ in range(200):
                assert made.in_flight <= 40
                await passed(0.01)
        assert len(web.sent) == len({(url, event_id) for _, url, event_id, _, _ in web.sent}) == 120 * 30

    virtually(test)
