"""Vendors: each takes pushes for the tokens it gave out, or fails in one of the ways vendors do (safety FLT-1 to FLT-9)."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Scope, Verdict
from relay.model import DeviceKey, UserKey

from .client import Broken
from .clocks import Wall
from .draws import Stream
from .faults import Faults
from .loop import NODE, now_s, sleep
from .story import Story

PAUSE_SLACK_S = 25.0  # what had been claimed before the vendor said "wait" may still come

Arrived = Callable[[Push], None]


class Raised(Exception):
    """The adapter does not know what to make of a push."""


class Vendor:
    """One vendor, as seen through its account."""

    name: ClassVar[str] = "vendor"
    Config: ClassVar[type[ProviderConfig]] = ProviderConfig
    capabilities: ClassVar[Capabilities] = Capabilities(payload_bytes_max=4096, ttl_s_max=86_400)

    def __init__(
        self,
        account: str,
        *,
        faults: Faults,
        draws: Stream,
        story: Story,
        wall: Wall,
        unwanted: Callable[[Push, UserKey], None],
        names: Callable[[UserKey], Iterable[UserKey]],
        said_dead: Callable[[str, str, str, int], None],
    ) -> None:
        """`said_dead`: told of each token that it calls dead: app, account, token, and as of when."""
        self.account = account
        self.outage = False
        self.misconfigured = False
        self.accepted = 0
        self.showed = 0
        self._faults = faults
        self._draws = draws
        self._story = story
        self._wall = wall
        self._unwanted = unwanted
        self._names_of = names
        self._said_dead = said_dead
        self._tokens: dict[str, tuple[DeviceKey, Arrived]] = {}  # token -> device it was given to, its phone
        self._former: dict[str, list[tuple[DeviceKey, float | None]]] = {}  # token -> who had it before, and until when
        self._dead: dict[str, int] = {}
        self._wait: dict[tuple[str | None, str], tuple[float, float]] = {}  # (node, app) -> told when, to wait until

    def register(self, token: str, device: DeviceKey, arrived: Arrived) -> None:
        self._tokens[token] = device, arrived

    def forget(self, token: str) -> None:
        """The app got another token, or was removed."""
        if self._tokens.pop(token, None) is not None:
            self._dead[token] = self._wall.true_ms()

    def hand_over(self, token: str, device: DeviceKey, arrived: Arrived) -> None:
        """Another user signs in where somebody else was, with the app's token as it is (F72)."""
        # Whoever had it before that one may be all that the relay knows of: the owner in between may never have come.
        self._former.setdefault(token, []).append((self._tokens[token][0], None))
        self._tokens[token] = device, arrived

    def settled(self, token: str) -> None:
        """The relay has confirmed the new owner: from here on nothing may come for the old one."""
        former = self._former.get(token, [])
        former[:] = [(device, now_s() if until_s is None else until_s) for device, until_s in former]

    def unsettled(self) -> None:
        """The relay's store was set back: whom it knows of as a token's owner may be one that had it before."""
        self._former = {token: [(device, None) for device, _ in former] for token, former in self._former.items()}

    def address(self, kind: str, token: str) -> str:
        del kind
        return token

    def offer(self) -> Mapping[str, str]:
        return {}

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        return []

    async def aclose(self) -> None:
        return None

    async def send(self, push: Push) -> Outcome:
        self._check(push)
        raises = self._faults.strikes("adapter_raises")
        if raises and self._draws.chance(0.5):
            raise Raised
        outcome = self._outcome(push)
        self._story.tell("vendor", self.account, push.token, outcome.verdict, *push.relay["ids"])
        slow = self._faults.strikes("vendor_slow") and not self.outage
        await sleep(self._draws.between(5, 40) if slow else self._draws.between(0.02, 1.0))
        if raises:  # whatever the vendor said, nobody heard it
            raise Raised
        if outcome.scope is Scope.ACCOUNT and outcome.retry_after_s is not None:
            self._told_to_wait(push, outcome.retry_after_s)
        return outcome

    def _check(self, push: Push) -> None:
        owner, former = self._tokens.get(push.token), self._former.get(push.token, ())
        if owner is not None and not self._names(push, owner[0]):
            untils = [until_s for device, until_s in former if self._names(push, device)]
            if not untils:
                raise Broken(f"SIM-I10: a push for {push.relay['device']} went to the token of {owner[0]}")
            if all(until_s is not None and now_s() > until_s + PAUSE_SLACK_S for until_s in untils):
                raise Broken(f"I22: {push.relay['device']} was pushed to although its token had moved to {owner[0]}")
        if owner is not None and self._names(push, owner[0]):
            self._unwanted(push, owner[0].user)
        told_s, until_s = self._wait.get((NODE.get(), push.relay["app"]), (0.0, 0.0))
        if told_s + PAUSE_SLACK_S < now_s() < until_s:
            raise Broken(f"SIM-I11: {self.account} had asked to be left alone until {until_s:.0f}")

    def _names(self, push: Push, device: DeviceKey) -> bool:
        """Whether the push is for this device: by a name that its user has, is being given, or had when it was claimed."""
        return any(_names(push, device._replace(user_id=user.user_id)) for user in self._names_of(device.user))

    def _outcome(self, push: Push) -> Outcome:
        strikes = self._faults.strikes
        if self.outage:
            return Outcome(verdict=Verdict.RETRY, vendor_code="down")
        if self.misconfigured:
            return Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="bad_credential")
        if strikes("vendor_5xx"):
            return Outcome(verdict=Verdict.RETRY, vendor_code="503")
        if strikes("vendor_429"):
            return self._too_many()
        if push.token in self._dead:
            return self._called_dead(push, self._dead[push.token])
        if strikes("false_dead"):
            return self._called_dead(push, self._wall.true_ms() - 10 * 86_400_000)
        if not push.silent and strikes("vendor_refuses"):
            return Outcome(verdict=Verdict.REFUSED, vendor_code="400")
        if not push.silent and strikes("vendor_too_large"):
            return Outcome(verdict=Verdict.TOO_LARGE, vendor_code="413")
        self.accepted += 1
        if not strikes("vendor_silent") and (owner := self._tokens.get(push.token)) is not None:
            self.showed += 1
            owner[1](push)
        if strikes("vendor_ambiguous"):
            return Outcome(verdict=Verdict.RETRY, maybe_sent=True, vendor_code="reset")
        return Outcome(verdict=Verdict.ACCEPTED, vendor_id=push.id)

    def _called_dead(self, push: Push, since_ms: int) -> Outcome:
        self._said_dead(push.relay["app"], self.account, push.token, since_ms)
        return Outcome(verdict=Verdict.TOKEN_DEAD, dead_since_ms=since_ms, vendor_code="410")

    def _too_many(self) -> Outcome:
        if self._draws.chance(0.5):
            return Outcome(verdict=Verdict.RETRY, scope=Scope.TOKEN, retry_after_s=self._draws.count(1, 120))
        wait_s = self._draws.count(1, 300)
        return Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=wait_s, vendor_code="429")

    def _told_to_wait(self, push: Push, wait_s: float) -> None:
        client = NODE.get(), push.relay["app"]
        told_s, until_s = self._wait.get(client, (0.0, 0.0))
        if now_s() > until_s:
            told_s = now_s()
        self._wait[client] = told_s, max(until_s, now_s() + wait_s)


def _names(push: Push, device: DeviceKey) -> bool:
    """Whether the push is for this device of this user of this app."""
    hint = hashlib.sha256(device.user_id.encode()).hexdigest()[:16]
    return (push.relay["app"], push.relay["user_hint"], push.relay["device"]) == (device.app_id, hint, device.device_id)
