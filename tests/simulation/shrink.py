"""Makes a failing scenario smaller (safety SIM-12): less time, fewer devices, fewer kinds of faults, then quieter draws.

Each step is kept if the run still fails in the same way.
"""

import time
from collections.abc import Callable, Iterator

import msgspec

from .faults import KINDS
from .run import Result, simulate
from .scenario import Scenario

RUNS_MAX = 500
CHUNKS = 8  # into which a stream of draws is cut to be silenced


def shrink(
    scenario: Scenario, *, limit_s: float, runs_max: int = RUNS_MAX, say: Callable[[str], None] = lambda _: None
) -> Result:
    """The smallest failing run that was found within `limit_s` real seconds and `runs_max` runs."""
    end = time.perf_counter() + limit_s
    best = simulate(scenario)
    runs = 1
    assert best.error is not None
    kind = _kind(best.error)
    smaller = True
    while smaller:
        smaller = False
        for tried in _steps(best):
            if runs >= runs_max or time.perf_counter() > end:
                return best
            runs += 1
            result = simulate(tried)
            if result.error is not None and _kind(result.error) == kind:
                say(f"  {kind}: {_size(result)} after {runs} runs")
                best, smaller = result, True
                break
    return best


def _kind(error: BaseException) -> str:
    """Which failure it is: its type, and the word that its text begins with."""
    return f"{type(error).__name__} {str(error).partition(' ')[0]}"


def _size(result: Result) -> str:
    scenario = result.scenario
    kinds = len(KINDS) - len(scenario.without)
    return (
        f"{scenario.minutes:.1f} minutes, {scenario.devices} devices, {kinds} kinds of faults, {result.commits} commits"
    )


def _steps(best: Result) -> Iterator[Scenario]:
    """Smaller scenarios to try, the boldest first."""
    scenario = best.scenario
    change = msgspec.structs.replace
    broke_min = best.virtual_s / 60
    for minutes in (scenario.minutes / 4, scenario.minutes / 2, broke_min + 0.1, scenario.minutes * 0.9):
        if 0.2 < minutes < scenario.minutes * 0.95:
            yield change(scenario, minutes=minutes)
    if scenario.shuffle:
        yield change(scenario, shuffle=False)
    if scenario.apps > 1:
        yield change(scenario, apps=1)
    for devices in (2, scenario.devices // 2, scenario.devices - 1):
        if 1 <= devices < scenario.devices:
            yield change(scenario, devices=devices, users=max(1, min(scenario.users, devices)))
    for users in (1, scenario.users // 2):
        if 1 <= users < scenario.users:
            yield change(scenario, users=users)
    on = [kind for kind in KINDS if kind in best.fired]
    if never := [kind for kind in KINDS if kind not in best.fired and kind not in scenario.without]:
        yield change(scenario, without=(*scenario.without, *never))
    for size in (len(on) // 2, len(on) // 4, 1):
        for start in range(0, len(on), size or 1):
            yield change(scenario, without=(*scenario.without, *on[start : start + (size or 1)]))
    for name, count in best.draws.items():
        if name.startswith(("fault/", "message/")):
            zeroed = list(scenario.zeroed.get(name, ()))
            step = max(1, count // CHUNKS)
            for start in range(0, count, step):
                stretch = (start, start + step)
                if stretch not in [tuple(one) for one in zeroed]:
                    yield change(scenario, zeroed={**scenario.zeroed, name: [*zeroed, stretch]})
