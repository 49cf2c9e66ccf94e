"""One run: a recording, power cuts all over it, and what the referee says of each."""

import asyncio
import logging
import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from .images import Cut, cuts, images
from .load import Recording, record
from .referee import verdict


@dataclass(frozen=True, slots=True)
class Found:
    """What a power cut left, and the complaints about it."""

    number: int
    cut: Cut
    complaints: list[str]

    def __str__(self) -> str:
        return f"image {self.number}, {self.cut.mode} after {self.cut.at} events: " + "; ".join(self.complaints[:5])


async def opened_images(recording: Recording, home: Path, *, count: int, seed: int) -> AsyncIterator[Found]:
    """Opens `count` images one after another. Those that are bad stay in `home`, as a relay left them."""
    rng = random.Random(seed)
    where = cuts(rng, count, recording.events, [one.at for one in recording.ledger.promises])
    for number, (cut, files) in enumerate(images(recording.events, where, rng)):
        folder = home / f"image-{number}"
        complaints = await verdict(folder, files, recording.ledger, cut.at)
        if not complaints:
            shutil.rmtree(folder)
        yield Found(number, cut, complaints)


@dataclass(frozen=True, slots=True)
class Said:
    """What the process of one recording tells the one that started it."""

    events: int
    promises: int
    bad: list[str]


def run(home: Path, images: int, sends: int, seed: int) -> Said:
    """Records once, and opens what each power cut left."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    home.mkdir()
    return asyncio.run(_run(home, images, sends, seed))


async def _run(home: Path, images: int, sends: int, seed: int) -> Said:
    recording = await record(home / "recorded", sends=sends, seed=seed)
    found = opened_images(recording, home, count=images, seed=seed)
    bad = [f"{home.name}: {one}" async for one in found if one.complaints]
    return Said(len(recording.events), len(recording.ledger.promises), bad)
