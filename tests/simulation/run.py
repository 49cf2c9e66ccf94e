"""One run: a scenario in, its story and what broke out."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import structlog

from relay import message_logs
from relay.inbox import fanout, send

from . import answers, due_times, handshakes, past_words
from .client import Broken
from .draws import Draws
from .loop import now_s, run
from .scenario import Scenario
from .story import Story
from .vendors import Raised
from .world import World

PUT_ASIDE = frozenset({"push.broke", "webhook.broke", "fanout.broke"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run."""

    scenario: Scenario
    hash: str
    error: BaseException | None
    story: Story
    fired: dict[str, int]
    draws: dict[str, int]
    virtual_s: float
    cpu_s: float
    commits: int

    @property
    def speed(self) -> float:
        return self.virtual_s / self.cpu_s


def listening(worlds: list[World]) -> Callable[[Any, str, MutableMapping[str, Any]], NoReturn]:
    """Hears what the relay logs, and prints nothing. It names no body, title or token (SIM-I18).

    Nor does it survive a mistake of its own: in operation one push, event or step that breaks is put aside, so that the others
    go on; here it is what the run was made to find, and so is an invariant that a vendor sees broken.
    """

    def heard(_: Any, __: str, event: MutableMapping[str, Any]) -> NoReturn:
        text = str(event)
        if "hush-" in text or "tok-" in text:
            worlds[0].fail(Broken(f"SIM-I18: a secret in the log: {text}"))
        if isinstance(sys.exc_info()[1], Raised):
            raise structlog.DropEvent  # that one was meant
        if event["event"] in PUT_ASIDE or (event["event"] == "push.quarantined" and event.get("reason") is not None):
            worlds[0].fail(sys.exc_info()[1] or Broken(f"something was put aside: {text}"))
        raise structlog.DropEvent

    return heard


STEPS = ((send, "AT_ONCE_MAX"), (fanout, "AT_ONCE_MAX"), (message_logs, "CHUNK"))


@contextmanager
def small_steps() -> Iterator[None]:
    """More than three receivers are served by a job, in steps: as it is with more than 200 in real life. And a log is read
    by three messages at a time, not 500."""
    before = [getattr(module, name) for module, name in STEPS]
    for module, name in STEPS:
        setattr(module, name, 3)
    try:
        yield
    finally:
        for (module, name), size in zip(STEPS, before, strict=True):
            setattr(module, name, size)


def simulate(scenario: Scenario, *, keep: bool = True) -> Result:
    """Runs a scenario to its end, or to the first thing that must not be."""
    story = Story(keep=keep)
    worlds: list[World] = []

    async def main() -> None:
        world = World(scenario, story, Path(folder))
        worlds.append(world)
        try:
            await world.run()
        finally:
            ended.append(now_s())

    ended: list[float] = []
    began = time.process_time()
    error: BaseException | None = None
    order = Draws(scenario.seed).ids("order") if scenario.shuffle else None
    structlog.configure(
        processors=[listening(worlds)], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
    )
    try:
        with (
            small_steps(),
            TemporaryDirectory() as folder,
            due_times.heard(lambda: worlds[0].referee.due_times),
            answers.heard(lambda: worlds[0].referee.answers),
            past_words.heard(lambda: worlds[0].referee.past_words),
            handshakes.heard(lambda: worlds[0].referee.handshakes),
        ):
            run(main, order=order)
    except Exception as broken:  # noqa: BLE001 - whatever it is, it is what the run found
        error = broken
    finally:
        structlog.reset_defaults()
    world = worlds[0]
    world.store.close()
    return Result(
        scenario=scenario,
        hash=story.hash,
        error=error,
        story=story,
        fired=dict(world.faults.fired),
        draws=world.draws.counts(),
        virtual_s=ended[-1],
        cpu_s=time.process_time() - began,
        commits=world.store.commits,
    )
