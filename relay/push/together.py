"""Pushes that say the same to many devices share a call, where the account's terms allow it.

What is asked for in one turn of the event loop is looked at together: the dispatcher begins the attempts of one PLAN at once,
so that a message to a group meets itself here. Nothing waits for company.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from providers.batch import alike
from providers.contract import BatchProvider, Outcome, Push, Verdict


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    push: Push
    answer: "asyncio.Future[Outcome]"


class Together:
    """The way to one account's vendor, shared by those who have the same to say."""

    def __init__(self, provider: BatchProvider) -> None:
        self._provider = provider
        self._asked: list[_Asked] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def send(self, push: Push) -> Outcome:
        """As `Provider.send`. A call ends early only when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        one = _Asked(push, loop.create_future())
        if not self._asked:
            loop.call_soon(self._call_all)
        self._asked.append(one)
        return await one.answer

    def _call_all(self) -> None:
        asked = [one for one in self._asked if not one.answer.done()]
        self._asked = []
        pushes = [one.push for one in asked]
        # An account's own settings may say another number than the vendor's.
        most = getattr(self._provider, "batch_max", self._provider.capabilities.batch_max)
        for places in alike(pushes, range(len(pushes)), most):
            some = [asked[place] for place in places]
            call = asyncio.get_running_loop().create_task(self._call(some), name="push-call")
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            for one in some:
                one.answer.add_done_callback(partial(_let_go, some, call))

    async def _call(self, some: Sequence[_Asked]) -> None:
        try:
            if len(some) == 1:
                outcomes = [await self._provider.send(some[0].push)]
            else:
                outcomes = _counted_once(await self._provider.send_many([one.push for one in some]))
        except Exception as error:  # noqa: BLE001 - each who waits has it
            for one in some:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, outcome in zip(some, outcomes, strict=True):
            if not one.answer.done():
                one.answer.set_result(outcome)


def _let_go(some: Sequence[_Asked], call: "asyncio.Task[None]", _: object) -> None:
    if all(one.answer.cancelled() for one in some):
        call.cancel()


def _counted_once(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """A call that failed for all of its devices is one failure of the vendor's, not as many as it had devices."""
    first, *others = outcomes
    if first.verdict is Verdict.RETRY and all(one == first for one in others):
        return [first, *(replace(one, local=True) for one in others)]
    return list(outcomes)
