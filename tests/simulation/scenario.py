"""What a run is made of: everything that its seed doesn't decide, as a small file that replays it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from .draws import Draws, Stretch

TOWN_SHARE = 1 / 8
SMALL_SHARE = 1 / 4  # of the others: their inboxes are soon full
NOT_IN_TOWN = ("store_restored",)  # its senders would have to send again what the store has lost


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A run, whole: the same scenario gives the same history."""

    seed: int
    minutes: float = 30
    apps: int = 1
    users: int = 6
    devices: int = 12
    send_s: float = 20  # a message of each app every so often, on average
    away_s: float = 240  # a phone is away for at most this
    stay_s: float = 120
    look_s: float = 1  # how often a worker looks at the store unasked
    shuffle: bool = True
    town: bool = False  # there is an ultra group
    inbox_max: int = 10_000  # what waits for a user; more is refused, until the world is healed
    without: tuple[str, ...] = ()  # fault kinds taken out
    rates: Mapping[str, float] = {}  # how often a kind of fault strikes, whatever the seed has drawn for it
    zeroed: Mapping[str, Sequence[Stretch]] = {}

    def print(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self)).decode()


def drawn(seed: int, *, minutes: float) -> Scenario:
    """The scenario of a seed in the standard mix."""
    rng = Draws(seed).ids("scenario")
    apps = rng.choice((1, 1, 1, 2, 3))
    devices = rng.choice((10, 10, 12, 15, 20, 30, 200))
    crowd = devices / 12
    scenario = Scenario(
        seed=seed,
        minutes=minutes,
        apps=apps,
        users=max(2, round(devices / rng.choice((1.2, 2, 3)))),
        devices=devices,
        send_s=rng.choice((10, 20, 40, 80)) * apps * max(1, crowd / 2),
        away_s=rng.choice((60, 240, 900)) * crowd,
        stay_s=rng.choice((20, 120, 600)),
        shuffle=rng.random() < 0.5,
    )
    town, small = rng.random() < TOWN_SHARE, rng.random() < SMALL_SHARE
    if town:
        return replace(scenario, town=True, without=NOT_IN_TOWN)
    return replace(scenario, inbox_max=rng.choice((3, 10, 30))) if small else scenario


def calm(seed: int, *, minutes: float) -> Scenario:
    """A small quiet world, for long times: second knocks, what lives for an hour, phones that are away for hours."""
    rng = Draws(seed).ids("scenario")
    return Scenario(
        seed=seed,
        minutes=minutes,
        users=rng.choice((3, 5, 8)),
        devices=10,
        send_s=rng.choice((600, 900, 1800)),
        away_s=rng.choice((3600, 7200, 5 * 3600)),
        stay_s=rng.choice((20, 60, 300)),
        shuffle=rng.random() < 0.5,
        look_s=rng.choice((10, 60)),
    )


def read(path: Path) -> Scenario:
    return msgspec.json.decode(path.read_bytes(), type=Scenario)
