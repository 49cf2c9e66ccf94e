"""What a transaction of the client's database came to."""

from dataclasses import dataclass, field
from typing import Any

from relay.client import news
from relay.client.steps import Position


class Moved(Exception):  # noqa: N818 - an outcome
    """Another process has stored something meanwhile; `position` is where the database stands."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the database stands now, words owed to the relay, news for the app."""

    position: Position
    words: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: list[news.News] = field(default_factory=list)
