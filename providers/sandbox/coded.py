"""What emulators have in common whose vendor answers status 200 with a code, and takes many devices in one call.

The vendors' rules for fields stand in tables: a name, what it may hold, and the code for anything else.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from aiohttp import web

from providers.sandbox.checks import Json
from providers.sandbox.emulator import Emulator, Host, response
from providers.sandbox.faults import Answer, Fault, Place
from providers.sandbox.receipts import Console, Event, Form, Reporter, Told

BEIJING_AHEAD_S = 8 * 3600
DAY_S = 86_400
REMEMBERED_MAX = 10_000
UNINSTALLED = {Event.UNINSTALLED.value: Fault(meaning="taken; only the receipt says that the app is gone")}

Fields = Mapping[str, tuple[Callable[[object], bool], int]]


class Wrong(Exception):  # noqa: N818 - it says what is the matter
    """The vendor's code for what is wrong with a request, and the field."""

    def __init__(self, code: int, field: str) -> None:
        super().__init__(f"{code} {field}")
        self.code = code
        self.field = field


def look(given: Mapping[str, object], fields: Fields, *, unknown: int) -> None:
    """Raises Wrong for the first field that may not be there, or not hold that."""
    for name, value in given.items():
        rule = fields.get(name)
        if rule is None:
            raise Wrong(unknown, name)
        holds, code = rule
        if not holds(value):
            raise Wrong(code, name)


def chars(low: int, high: int, *, not_blank: bool = False) -> Callable[[object], bool]:
    def holds(value: object) -> bool:
        return isinstance(value, str) and low <= len(value) <= high and not (not_blank and not value.strip())

    return holds


def number(low: int, high: int) -> Callable[[object], bool]:
    """A JSON number, whole."""
    return lambda value: type(value) is int and low <= value <= high


def digits(low: int, high: int) -> Callable[[object], bool]:
    """A whole number in a form, where everything is text."""
    return lambda value: (
        isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,16}", value) is not None and low <= int(value) <= high
    )


def among(*allowed: object) -> Callable[[object], bool]:
    return lambda value: any(type(value) is type(each) and value == each for each in allowed)


def like(pattern: str) -> Callable[[object], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def moment(pattern: str) -> Callable[[object], bool]:
    """A time of this form that there is."""
    written = like(pattern)

    def holds(value: object) -> bool:
        if not written(value):
            return False
        try:
            datetime.fromisoformat(str(value))
        except ValueError:
            return False
        return True

    return holds


def boolean(value: object) -> bool:
    return value is True or value is False


class Tally:
    """How often something happened today, by Beijing's days; yesterday's is forgotten."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._day = 0
        self._counts: dict[Hashable, int] = {}

    def of(self, key: Hashable) -> int:
        day = int((self._now() + BEIJING_AHEAD_S) // DAY_S)
        if day != self._day:
            self._day, self._counts = day, {}
        return self._counts.get(key, 0)

    def add(self, key: Hashable) -> int:
        self._counts[key] = count = self.of(key) + 1
        return count

    def clear(self) -> None:
        self._counts.clear()


class Remembered(OrderedDict[Hashable, object]):
    """The newest so many things that an emulator has seen."""

    def saw(self, key: Hashable, value: object = True) -> bool:
        """Whether it is here already; now it is."""
        known = key in self
        self[key] = value
        if len(self) > REMEMBERED_MAX:
            self.popitem(last=False)
        return known


class CodedEmulator(Emulator):
    """Faults in `of_one_device` befall one device of a call, and are told in its answer; all others the whole call."""

    of_one_device: ClassVar[frozenset[str]]
    receipts: ClassVar[Form]

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.today = Tally(host.now)
        self.seen_before = Remembered()
        self.console: Console | None = None  # what an operator has entered there about receipts
        self._reporter = Reporter(self.outcomes, host.stopping)
        self._told = Remembered()  # by device: the newest message that it got, and its name
        self._uninstalled: set[str] = set()  # of the call at hand

    def reset(self) -> None:
        super().reset()
        self.today.clear()
        self.seen_before.clear()
        self._told.clear()

    async def close(self) -> None:
        """See `Emulator`."""
        await self._reporter.aclose()

    def receipts_to(self, url: str) -> Json:
        """Enters in the vendor's console what there is to be, and gives the account's table `receipts`."""
        self.console = self.receipts.console(url)
        return self.receipts.settings(url)

    def click(self, target: str) -> bool:
        """Somebody taps the newest notification of this phone; whether there was any, and the vendor tells of it."""
        told = self._told.get(target)
        return isinstance(told, tuple) and self.report(Event.CLICKED, target, *told)

    def report(self, event: Event, target: str, name: str, message: Json) -> bool:
        """Tells the relay, if the vendor would; whether it does."""
        at_ms, nonce = int(self.host.now() * 1000), f"{self.host.rng.getrandbits(64):016x}"
        told = Told(event=event, target=target, name=name, message=message, at_ms=at_ms, nonce=nonce)
        post = self.receipts.post(told, self.console)
        if post is not None:
            self._reporter.bring(post)
        return post is not None

    def deliver(self, target: str, *, message: Json, **said: Any) -> None:
        """See `Emulator`; and the vendor reports it."""
        name = str(said["name"])
        if target in self._uninstalled:
            self.report(Event.UNINSTALLED, target, name, message)
            return
        super().deliver(target, message=message, **said)
        self._told.saw(target, (name, message))
        self.report(Event.DELIVERED, target, name, message)

    def message_name(self) -> str:
        return f"{self.name}-{self.host.rng.getrandbits(64):016x}"

    async def reply_many(
        self,
        request: web.Request,
        targets: Sequence[str],
        take: Callable[[str, str], str | None],
        answer: Callable[[Mapping[str, str], str], Answer],
    ) -> web.StreamResponse:
        """Answers a call that passed the checks.

        `take` brings the message to a device under the message's name, or gives the word for why that device cannot
        have it; `answer` makes the answer of those words, by device, and the message's name.
        """
        name = self.message_name()
        failed: dict[str, str] = {}
        self._uninstalled.clear()
        for target in targets:
            struck = self.faults.strike(Place.SEND, target)
            if struck is None:
                continue
            word, fault = struck
            if word == Event.UNINSTALLED:
                self._uninstalled.add(target)
                continue
            if word in self.of_one_device:
                failed[target] = word
                continue
            self.note(word, target)
            if fault.arrives:
                self._bring((one for one in targets if one not in failed), name, take)
            return await self.fail(request, fault, fault.answer or answer(failed, name))
        failed |= self._bring((one for one in targets if one not in failed), name, take)
        for target in targets:
            self.note(failed.get(target, "accepted"), target)
        return response(answer(failed, name))

    @staticmethod
    def _bring(targets: Iterable[str], name: str, take: Callable[[str, str], str | None]) -> dict[str, str]:
        return {target: word for target in targets if (word := take(target, name)) is not None}


async def form_of(request: web.Request) -> dict[str, str]:
    """A form's fields, decoded once; of a name that comes twice the last. Empty when it is no form, or not in UTF-8."""
    if request.content_type != "application/x-www-form-urlencoded":
        return {}
    try:
        fields = parse_qsl((await request.read()).decode(), keep_blank_values=True)
    except UnicodeDecodeError:
        return {}
    return dict(fields)


def object_of(value: object) -> Json | None:
    return value if isinstance(value, dict) else None
