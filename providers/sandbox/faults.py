"""Faults on demand: what may go wrong at a vendor, by a token's beginning or by a rule given to the control API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

RULES_MAX = 1000
COUNTED_TOKENS_MAX = 10_000  # `quota3-…`: how often each has failed already; then the oldest start anew
DELAY_S_MAX = 600.0
PLATFORM_BEGINNINGS = ("ios-", "web-", "android-")  # may stand before the fault's word


class Ending(StrEnum):
    """What the client gets to see."""

    ANSWER = "answer"
    SLOW = "slow"  # the answer, after a long time
    RESET = "reset"  # no answer: the connection is reset
    GOAWAY = "goaway"  # HTTP/2: the connection is being ended, this stream was not worked on; by HTTP/1.1 as RESET


class Place(StrEnum):
    """Which of the vendor's services is ill."""

    SEND = "send"
    TOKEN = "token"  # noqa: S105 - the OAuth token endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "application/json; charset=UTF-8"
    retry_after: str | None = None
    headers: tuple[tuple[str, str], ...] = ()  # besides


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail. `arrives`: the message was taken and reaches the phone all the same."""

    meaning: str
    answer: Answer | None = None  # None: the usual one
    arrives: bool = False
    ending: Ending = Ending.ANSWER
    delay_s: float | None = None  # None: the sandbox's setting


@dataclass(slots=True, kw_only=True)
class Rule:
    """A fault that strikes one token, or all, a number of times, or for a while, or until it is deleted."""

    fault: str
    place: Place = Place.SEND
    token: str | None = None  # None: all
    times_left: int | None = None
    until: float | None = None  # by the sandbox's clock
    retry_after: str | None = None  # instead of the fault's own; "" takes the header away
    delay_s: float | None = None
    struck: int = 0


class TooManyRules(Exception):  # noqa: N818 - it says what is the matter
    """There are RULES_MAX rules already."""


class FaultBook:
    """The faults in force. Rules for a token go before rules for all, and these before a token's beginning."""

    def __init__(self, faults: Mapping[Place, Mapping[str, Fault]], *, now: Callable[[], float]) -> None:
        self._faults = faults
        self._now = now
        self._rules: list[Rule] = []
        self._struck: dict[str, int] = {}  # by token, for beginnings with a number

    def add(self, rule: Rule) -> None:
        """Raises KeyError for a fault that this place does not know, and TooManyRules."""
        self._faults.get(rule.place, {})[rule.fault]
        self._drop_spent()
        if len(self._rules) >= RULES_MAX:
            raise TooManyRules
        self._rules.append(rule)

    def clear(self) -> None:
        self._rules.clear()
        self._struck.clear()

    def rules(self) -> list[Rule]:
        self._drop_spent()
        return self._rules

    def strike(self, place: Place, token: str = "") -> tuple[str, Fault] | None:
        """The fault that befalls this request, by name; it counts as used."""
        if self._rules:
            rule = self._rule_for(place, token)
            if rule is not None:
                rule.struck += 1
                if rule.times_left is not None:
                    rule.times_left -= 1
                return rule.fault, _adjusted(self._faults[place][rule.fault], rule)
        return self._by_beginning(place, token)

    def _rule_for(self, place: Place, token: str) -> Rule | None:
        self._drop_spent()
        mine = [rule for rule in self._rules if rule.place is place and rule.token in {None, token}]
        return min(mine, key=lambda rule: rule.token is None, default=None)

    def _drop_spent(self) -> None:
        now = self._now()
        self._rules = [
            rule
            for rule in self._rules
            if (rule.times_left is None or rule.times_left > 0) and (rule.until is None or now < rule.until)
        ]

    def _by_beginning(self, place: Place, token: str) -> tuple[str, Fault] | None:
        """`quota-abc` fails always, `quota3-abc` three times, `ios-quota-abc` on an iPhone."""
        if token.startswith(PLATFORM_BEGINNINGS):
            token = token.partition("-")[2]
        word, dash, _ = token.partition("-")
        if not dash:
            return None
        faults = self._faults.get(place, {})
        fault = faults.get(word)
        if fault is not None:
            return word, fault
        name = word.rstrip("0123456789")
        fault = faults.get(name)
        if fault is None:
            return None
        struck = self._struck.pop(token, 0)
        times = int(word[len(name) :][:9])
        self._struck[token] = min(struck + 1, times)
        if len(self._struck) > COUNTED_TOKENS_MAX:
            del self._struck[next(iter(self._struck))]
        return (name, fault) if struck < times else None


def _adjusted(fault: Fault, rule: Rule) -> Fault:
    if rule.retry_after is not None and fault.answer is not None:
        fault = replace(fault, answer=replace(fault.answer, retry_after=rule.retry_after or None))
    return fault if rule.delay_s is None else replace(fault, delay_s=rule.delay_s)
