"""Accounts whose URLs are no vendor's: settings that say which hosts may be called (safety SEC-8)."""

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from providers.contract import ProviderConfig
from providers.guard import Exemption, Guard, Target

__all__ = ["EndpointConfig", "GuardedConfig", "host_names", "on_host"]


def on_host(host: str, names: tuple[str, ...]) -> bool:
    """Whether `host` is one of `names` or lies below one."""
    return any(host == name or host.endswith(f".{name}") for name in names)


class GuardedConfig(ProviderConfig):
    """Public https hosts may be called, at port 443; what else may be is listed, host by host."""

    exempt: tuple[str, ...] = ()  # "ntfy.lan:80", "10.1.0.0/16:443,8443": internal hosts, http, other ports

    operator_only: ClassVar[frozenset[str]] = frozenset({"exempt"})

    @field_validator("exempt")
    @classmethod
    def _listed(cls, listed: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Exemption.parse(text)) for text in listed)

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        return tuple(map(Exemption.parse, self.exempt))


class EndpointConfig(GuardedConfig):
    """Devices bring the URL that they are reached at."""

    hosts: tuple[str, ...] = ()  # these alone, and what lies below them; none named: all
    hosts_denied: tuple[str, ...] = ()  # never, nor what lies below them
    host_rate_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = (
        None  # to each that `hosts` does not name
    )

    @field_validator("hosts", "hosts_denied")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return host_names(names)

    @property
    def guard(self) -> Guard:
        """For the transport, and for the text of an endpoint before that."""
        return Guard(exemptions=self.exemptions, names_denied=frozenset(self.hosts_denied))

    def allows(self, target: Target) -> bool:
        """Whether `hosts` does, or the operator exempted the host or the range that it has to be in."""
        return not self.hosts or on_host(target.host, self.hosts) or target.host_exempt or target.range_only


def host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """In lower case. Raises ValueError for what is not the name of a host."""
    for name in names:
        if not name or name != name.strip(" .") or not all(c.isascii() and (c.isalnum() or c in "-.") for c in name):
            raise ValueError("must be names of hosts, like push.example.org")
    return tuple(name.lower() for name in names)
