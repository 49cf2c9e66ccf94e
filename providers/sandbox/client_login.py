"""An OAuth token endpoint for client credentials (RFC 6749, 4.4): who may come in, and which bearers are good."""

import random
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum

BEARERS_MAX = 1000  # then the oldest goes


class Bearer(StrEnum):
    GOOD = "good"
    EXPIRED = "expired"
    UNKNOWN = "unknown"
    MISSING = "missing"


class ClientLogin:
    """One client. `lasts_s` is how long its bearers are good."""

    def __init__(
        self, *, client_id: str, client_secret: str, lasts_s: int, now: Callable[[], float], rng: random.Random
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.lasts_s = lasts_s
        self.key_deleted = False
        self._now = now
        self._rng = rng
        self._until: OrderedDict[str, float] = OrderedDict()

    def mistake(self, form: dict[str, str]) -> str | None:
        """The field of the form that is wrong; None: a bearer may be minted."""
        if form.get("grant_type") != "client_credentials":
            return "grant_type"
        if form.get("client_id") != self.client_id or self.key_deleted:
            return "client_id"
        return None if form.get("client_secret") == self.client_secret else "client_secret"

    def mint(self) -> str:
        """A new bearer. It has slashes and an equals sign in it, as real ones have."""
        bearer = f"CV/{self._rng.getrandbits(96):024x}/{self._rng.getrandbits(96):024x}="
        self._until[bearer] = self._now() + self.lasts_s
        if len(self._until) > BEARERS_MAX:
            self._until.popitem(last=False)
        return bearer

    def look(self, authorization: str | None) -> Bearer:
        scheme, _, bearer = (authorization or "").partition(" ")
        if scheme != "Bearer" or not bearer:
            return Bearer.MISSING
        until = self._until.get(bearer)
        if until is None:
            return Bearer.UNKNOWN
        return Bearer.GOOD if self._now() < until else Bearer.EXPIRED

    def revoke(self) -> None:
        self._until.clear()
