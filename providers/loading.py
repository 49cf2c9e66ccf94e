"""Which providers are installed, and how an account's provider is built from its settings."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from providers.contract import CONTRACT_VERSION, Capabilities, Provider, ProviderConfig, Transport
from providers.guard import Guard
from providers.transport import CONNECTIONS_MAX, HttpTransport
from providers.trust import verifying

__all__ = [
    "GROUP",
    "Loaded",
    "OwnedTransport",
    "SettingsInvalid",
    "build",
    "configured",
    "discover",
    "names",
    "transport_for",
]

GROUP = "relay.providers"
OURS = "push-relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A provider that is installed; `provider` is None if it cannot be used, and `reason` says why."""

    name: str
    origin: str  # distribution and version
    provider: type[Provider] | None = None
    reason: str | None = None


class SettingsInvalid(ValueError):  # noqa: N818
    """All that is wrong with an account's settings: `mistakes` are sentences without the values."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


def names() -> list[str]:
    """Of every installed provider; none is loaded."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def discover(found: Iterable[EntryPoint] | None = None, *, only: Collection[str] | None = None) -> tuple[Loaded, ...]:
    """Every installed provider, or `only` those of these names. One that does not work takes nothing else down with it.

    If two distributions offer the same name, ours stands, else the first by the distribution's name; the other is
    listed with the reason.
    """
    points = entry_points(group=GROUP) if found is None else found
    taken: dict[str, str] = {}
    listed = []
    wanted = [point for point in points if only is None or point.name in only]
    for point in sorted(wanted, key=lambda point: (point.name, _origin(point) != OURS, _origin(point))):
        loaded = _load(point)
        if point.name in taken:
            reason = f"the name {point.name!r} belongs to {taken[point.name]}"
            loaded = Loaded(name=point.name, origin=loaded.origin, reason=reason)
        taken.setdefault(point.name, loaded.origin)
        listed.append(loaded)
    return tuple(listed)


def _origin(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _load(point: EntryPoint) -> Loaded:
    origin = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
    try:
        found = point.load()
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything while it is imported
        return Loaded(name=point.name, origin=origin, reason=f"cannot be imported: {type(error).__name__}: {error}")
    if reason := _unfit(found, point.name):
        return Loaded(name=point.name, origin=origin, reason=reason)
    return Loaded(name=point.name, origin=origin, provider=found)


def _unfit(found: Any, name: str) -> str | None:
    if not isinstance(found, type):
        return f"{found!r:.80} is not a class"
    version = getattr(found, "contract", 1)
    if version != CONTRACT_VERSION:
        return f"is written for contract version {version!r:.20}, this is {CONTRACT_VERSION}"
    if getattr(found, "name", None) != name:
        return f"is installed as {name!r} but names itself {getattr(found, 'name', None)!r:.80}"
    capabilities = getattr(found, "capabilities", None)
    if not isinstance(capabilities, Capabilities):
        return "has no capabilities"
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, ProviderConfig)):
        return "has no Config that derives from ProviderConfig"
    methods = ["send", "aclose", "address", "check_overrides", *(["send_many"] if capabilities.batch_max > 1 else [])]
    missing = [method for method in methods if not callable(getattr(found, method, None))]
    if missing:
        return f"has no {', '.join(missing)}"
    if left := getattr(found, "__abstractmethods__", None):
        return f"does not say how to {', '.join(sorted(left))}"
    return None


def build(
    provider: type[Provider],
    settings: Mapping[str, Any],
    *,
    transport: Transport,
    now: Callable[[], float],
    trusted: bool = True,
) -> Provider:
    """An account's provider. Raises SettingsInvalid with all mistakes.

    `trusted` is whether the operator wrote these settings; a tenant may not set those that name a host or a file.
    """
    return provider(configured(provider, settings, trusted=trusted), transport=transport, now=now)


class OwnedTransport(Transport, Protocol):
    """A transport as its owner has it."""

    async def aclose(self) -> None: ...


def transport_for(
    provider: type[Provider], config: ProviderConfig, *, guard: Guard | None, calls_max: int = 0
) -> OwnedTransport:
    """A new one for an account's provider: HTTP/1.1, held back by `guard`, or what the provider makes by `own_transport`.
    `calls_max`: so many may be under way at once, each of which has a connection of HTTP/1.1.

    The latter is for vendors with demands on their connections: another protocol, a client certificate.
    """
    own: Callable[[ProviderConfig], OwnedTransport] | None = getattr(provider, "own_transport", None)
    if own is not None:
        return own(config)
    return HttpTransport(
        guard=guard,
        tls=None if config.ca is None else verifying(config.ca),
        connections_max=max(CONNECTIONS_MAX, calls_max),
    )


def configured(provider: type[Provider], settings: Mapping[str, Any], *, trusted: bool = True) -> ProviderConfig:
    """The settings, checked. Raises SettingsInvalid with all mistakes."""
    if not trusted and (foreign := sorted(_operator_only(provider.Config) & set(settings))):
        raise SettingsInvalid([f"{key}: only the operator's configuration file may set this" for key in foreign])
    try:
        return provider.Config.model_validate(dict(settings))
    except ValidationError as invalid:
        # Its own text, and its cause, would show the values.
        errors = invalid.errors(include_url=False, include_context=False, include_input=False)
    mistakes = []
    for error in errors:
        where = ".".join(str(part) for part in error["loc"])
        said = _said(provider.Config, error["loc"], error["type"], error["msg"])
        mistakes.append(f"{where}: {said}" if where else said)
    raise SettingsInvalid(mistakes)


def _operator_only(config: type[ProviderConfig]) -> frozenset[str]:
    return config.operator_only | {"ca", "ca_file"}


def _said(config: type[ProviderConfig], place: Sequence[int | str], kind: str, message: str) -> str:
    """What is wrong at a place in the settings, and what would be right."""
    key, (table, field) = str(place[-1]) if place else "", _at(config, place)
    own = _operator_only(config) if table is config else frozenset()
    if kind == "missing":
        file = f"{key}_file"
        return f"found nothing; must be given{f', or {file}' if file in own else ''}"
    if kind == "extra_forbidden":
        known = sorted({*table.model_fields, *own})
        close = get_close_matches(key, known, n=1)
        return f"is not known; did you mean {close[0]}?" if close else f"is not known; there are: {', '.join(known)}"
    if kind == "string_pattern_mismatch" and field is not None and (right := _in_words(field, field.annotation)):
        return f"must be {right}"
    if kind in {"too_short", "string_too_short"} and message.partition("at least ")[2].startswith("1 "):
        return "must not be empty"
    said = message.removeprefix("Value error, ").replace("URL scheme should be", "must begin with")
    return re.sub(r"^(Input|String|Value|List|Dictionary|URL) should ", "must ", said)


def _in_words(described: Any, annotation: Any) -> str | None:
    """The description of a field, or of what its type may be."""
    if isinstance(described, FieldInfo) and described.description is not None:
        return described.description
    found = (_in_words(part, part) for part in get_args(annotation))
    return next((words for words in found if words is not None), None)


def _at(config: type[BaseModel], place: Sequence[int | str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The table that a place is in, and its field there, if it is one."""
    table, field, left = config, None, list(place)
    while left:
        field = table.model_fields.get(str(left.pop(0)))
        inner, keyed = (None, False) if field is None else _table_in(field.annotation)
        if inner is None or len(left) <= keyed:
            break
        table, left = inner, left[keyed:]
    return table, field


def _table_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The table that a field of this type holds, if any, and whether it holds several, by key or by number."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        found, keyed = _table_in(part)
        if found is not None:
            return found, keyed or get_origin(annotation) in {dict, list, tuple}
    return None, False
