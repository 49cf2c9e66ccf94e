"""What a provider is: the words that the relay and an adapter for a vendor exchange."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator

from providers.key_files import from_files
from providers.trust import Authorities

if TYPE_CHECKING:
    from providers.http import Request, Response

__all__ = [
    "CONTRACT_VERSION",
    "AddressInvalid",
    "BatchProvider",
    "Capabilities",
    "Outcome",
    "Provider",
    "ProviderConfig",
    "Push",
    "RecallProvider",
    "Scope",
    "Transport",
    "Verdict",
    "left_out",
    "slimmer",
]

CONTRACT_VERSION = 1  # a provider class may state its own as `contract`; unstated means 1


class Verdict(StrEnum):
    """What became of one push. The relay's queue acts on this word alone."""

    ACCEPTED = "accepted"  # the vendor took it over
    RETRY = "retry"  # not our fault, not final: try again later
    REAUTH = "reauth"  # the credential went stale: renew it, try once more; never leaves `send`
    TOKEN_DEAD = "token_dead"  # noqa: S105 - this address will never work again
    REFUSED = "refused"  # this message will never work, the address is fine
    TOO_LARGE = "too_large"  # as REFUSED, but a smaller one might work
    MISCONFIGURED = "misconfigured"  # an operator must act: park, delete nothing


class AddressInvalid(ValueError):  # noqa: N818
    """No device can be reached at this. The sentence says what is wrong, without the address."""


class Scope(StrEnum):
    """How much should slow down or stop."""

    MESSAGE = "message"  # with MISCONFIGURED: all of the push's channel, and no other
    TOKEN = "token"  # noqa: S105
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    verdict: Verdict
    scope: Scope = Scope.MESSAGE
    retry_after_s: float | None = None  # the vendor's wish, if it stated one
    # RETRY only: a quota is used up until the vendor's day ends (Capabilities.zone): the whole account's (scope
    # ACCOUNT), that of the push's channel (MESSAGE), or of that channel for this device (TOKEN). Other channels go on.
    spent: bool = False
    channels: tuple[
        str | None, ...
    ] = ()  # `spent` with scope MESSAGE: they share that quota (None: pushes that name none)
    batch_spent: bool = False  # RETRY only: calls for many are used up until the vendor's day ends; single ones go on
    shut: bool = False  # RETRY only: the vendor takes this channel's at other hours; it is well, and takes others now
    # RETRY only: the vendor's documents do not have its code. Tried twice more, then hourly, and an operator is told.
    unknown: bool = False
    # Whatever becomes of the push, an operator is told of the code: it asks for a mend, or is a mistake of ours. How much is
    # concerned says `scope`. MISCONFIGURED tells anyway.
    alert: bool = False
    dead_since_ms: int | None = None  # TOKEN_DEAD only: newer registrations survive
    # RETRY of a TOKEN, MISCONFIGURED of a TOKEN: the address is dead if such an answer is all that it gets for so long.
    dead_after_s: float | None = None
    # It says nothing of the vendor, who was not asked; or no more, as the call was for many and is counted once.
    local: bool = field(default=False, compare=False)
    maybe_sent: bool = False  # the answer was lost: a retry may show twice
    vendor_id: str | None = None
    vendor_code: str | None = None  # short and stable; never a body, token or title


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """One notification for one device, in words that every vendor can translate."""

    # Stable across retries; but a message has one for all its devices, and a summary while it grows. What a vendor that
    # drops repeats may know one by is `app_message.once_key`.
    id: str
    token: str = field(repr=False)
    kind: str = "token"  # what sort of address `token` is: Capabilities.kinds
    title: str | None = field(default=None, repr=False)  # no title and no body: a silent wake-up
    body: str | None = field(default=None, repr=False)
    # Names of texts in the app's own resources, and what fills their gaps. Where the vendor has no such thing
    # (Capabilities.localised), or the app lacks the name, title and body are shown: they go with the names.
    title_loc_key: str | None = field(default=None, repr=False)
    title_loc_args: Sequence[str] = field(default=(), repr=False)
    body_loc_key: str | None = field(default=None, repr=False)
    body_loc_args: Sequence[str] = field(default=(), repr=False)
    image: str | None = field(default=None, repr=False)  # URL
    data: Mapping[str, str] = field(default_factory=dict, repr=False)
    badge: int | None = None  # absolute number
    sound: str | None = None
    channel: str | None = None  # Android's channel, Apple's category
    thread: str | None = None  # what the notification is grouped by
    click: str | None = field(default=None, repr=False)  # a URL or the name of an action
    mutable: bool = False  # the app may change it before it is shown
    # What is to be shown, encrypted for the device (Capabilities.sealed); the title is then a placeholder for it.
    sealed: str | None = field(default=None, repr=False)
    urgent: bool = True
    ttl_s: float = 86_400
    collapse_key: str | None = None
    # Told before, and meant to be seen once more: which reminder or step of a message it is, alike in each of its tries.
    again: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict, repr=False)  # in this vendor's own words
    relay: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the relay's own small object (protocol 7.6)

    @property
    def silent(self) -> bool:
        return self.title is None and self.body is None


def slimmer(push: Push) -> Push | None:
    """The same push with only the newer half of `relay["ids"]`; None when there is nothing left to cut.

    Ids are a convenience for the app (it syncs anyway), so they go before any of the message does.
    """
    ids = push.relay.get("ids")
    if not isinstance(ids, list | tuple) or not ids:
        return None
    kept = list(ids)[-(len(ids) // 2) :] if len(ids) > 1 else []
    rest = {key: value for key, value in push.relay.items() if key != "ids"}
    return replace(push, relay={**rest, "ids": kept} if kept else rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the vendor can do. The planner and the contract tests both read it."""

    payload_bytes_max: int
    ttl_s_max: int
    kinds: frozenset[str] = frozenset({"token"})
    silent: bool = True  # a push without words stays unseen; else the adapter shows a text of its settings
    collapse: bool = False
    idempotent: bool = False
    withdraw: bool = False  # the app can be told silently to remove what it shows
    recall: bool = False  # the vendor takes back by itself what was shown: it is a `RecallProvider`
    badge: bool = False
    image: bool = False
    mutable: bool = False
    sound: bool = True
    channel: bool = True
    thread: bool = True
    localised: bool = False  # title and body by names in the app's resources
    sealed: bool = False  # `Push.sealed` reaches the app's code, which shows what is in it
    encrypted: bool = False  # whatever it carries is encrypted for the device: nothing need be sealed
    batch_max: int = 1  # tokens in one call, all with the same content; above 1 it is a `BatchProvider`
    tells_dead: bool = True  # whether the vendor ever says that a token is dead
    guarded: bool = False  # its URL is data of the account: hand it a guarded transport (safety SEC-8)
    own_hosts: bool = False  # each device brings its URL: a host's trouble is that device's, never the account's
    # What one account may call a second and at once, where the vendor publishes so little that it matters; an account's own
    # settings go before it, and those of all accounts ([push]) after it.
    rate_per_s: float | None = None
    burst: int | None = None
    start_per_s: float | None = (
        None  # what it takes a second out of the blue; beyond that load is to grow over a minute
    )
    retry_s_min: float = 0.0  # the vendor's published shortest wait before any retry
    # Different ones that wait for one device; a further one may evict any of them. 1: it keeps one notification at all.
    collapse_keys_max: int | None = None
    silent_gap_s: float = 0.0  # between silent pushes to one device: more frequent ones may be dropped
    zone: str = "UTC"  # by which the vendor's days and hours go
    # Devices of these platforms, in small letters, are reached through another vendor still, whose limits they have.
    platforms: Mapping[str, "Capabilities"] = field(default_factory=dict, hash=False, repr=False)

    def on(self, platform: str | None) -> "Capabilities":
        """The same for a device of this platform, as it was registered."""
        return self.platforms.get((platform or "").lower(), self)


_NEEDS = {  # a field of what is shown -> the capability that it takes
    "image": "image",
    "badge": "badge",
    "sound": "sound",
    "channel": "channel",
    "thread": "thread",
    "mutable": "mutable",
    "title_loc_key": "localised",
    "body_loc_key": "localised",
}


def left_out(shown: object, capabilities: Capabilities) -> tuple[str, ...]:
    """The names of what `shown` (a `Push`, or anything with its fields) has and the vendor cannot express."""
    lacked = (field for field, capability in _NEEDS.items() if not getattr(capabilities, capability))
    return tuple(field for field in lacked if getattr(shown, field) is not None and getattr(shown, field) is not False)


class ProviderConfig(BaseModel):
    """Base of every provider's settings: unknown keys are errors, values never change, secrets never print."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    ca: Authorities | None = None  # in PEM form, or `ca_file`; trusted for all of its calls, the machine's own are not

    # Keys that may only stand in the operator's own file; `ca` and `ca_file` are, whatever a provider adds.
    operator_only: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="wrap")
    @classmethod
    def _trusts(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return from_files(given, check, "ca")

    def advice(self) -> list[str]:
        """What is right and may work out otherwise than meant, each a sentence: rights that the vendor has to grant, say.

        `relay check` shows it.
        """
        return []


class Transport(Protocol):
    """Carries one request and gives its answer. Raises `TransportError` or, when guarded, `TargetRefused`."""

    async def __call__(self, request: "Request", /) -> "Response": ...


class Provider(Protocol):
    """One vendor's adapter, for one account."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    Config: ClassVar[type[ProviderConfig]]

    def __init__(self, config: Any, *, transport: Transport, now: Callable[[], float]) -> None: ...

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """Every mistake in `Push.overrides`, each a sentence; empty when the vendor can take them."""
        ...

    def address(self, kind: str, token: str) -> str:
        """A device's address as it is kept, and later sent to. Raises AddressInvalid. `kind` is one of its kinds."""
        ...

    def offer(self) -> Mapping[str, str]:
        """What an app has to know before it can have an address, for all the world to read: a public key, say."""
        ...

    # One that need not be there: `def losses(self, push: Push) -> Sequence[str]`, the names of what this very push has and
    # the vendor will not have of it, beyond what the capabilities say (`left_out`): a field's own name, or `title_cut` and
    # `body_cut` for a text that goes in part. Pure; the trace shows it.

    # Likewise `def host(self, token: str) -> str`, of one whose devices bring their own hosts: which one this is. Where a host
    # calls many of its devices dead at once, the relay does not believe it; without this, only where all hosts together do.

    # Likewise `channels`, an attribute: the channels that its settings tell apart. A push of any other is to the vendor as one
    # of none, and shares its quota and its mistakes. Without it, each channel is its own.

    def send(self, push: Push) -> Awaitable[Outcome]:
        """Hands the push over. Never raises for anything a network or a vendor can do."""
        ...

    async def aclose(self) -> None: ...


class BatchProvider(Provider, Protocol):
    """One that can tell many devices the same thing in one call: `capabilities.batch_max` is above 1."""

    def send_many(self, pushes: Sequence[Push]) -> Awaitable[list[Outcome]]:
        """Hands all of them over; one outcome for each, in their order. Never raises, as `send`.

        At once there are at most `batch_max` of them: an attribute of the adapter, if it has one, else its capabilities'.
        Any pushes will do: those that differ in their token alone share a call.
        """
        ...


class RecallProvider(Provider, Protocol):
    """One whose vendor takes a notification off the screen, or out of its queue, by name: `capabilities.recall`."""

    def recall(self, push: Push, vendor_id: str | None) -> Awaitable[Outcome]:
        """Takes back what `push` showed, which the vendor accepted before as `vendor_id`. Never raises, as `send`.

        Of the push, all but its words is as it was: id, token, kind, collapse key, overrides. ACCEPTED: the vendor will
        see to it; RETRY and REFUSED: it will not. Nothing else: what is wrong with an account or an address shows when
        something is sent.
        """
        ...
