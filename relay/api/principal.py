"""Who is calling. Only authentication makes one of these."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from relay.model import DeviceKey

SCOPES = (
    "messages:write",
    "messages:read",
    "messages:cancel",
    "devices:write",
    "devices:token",
    "events:read",
    "webhooks:write",
    "credentials:write",
    "admin:read",
    "admin:write",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A backend with its scopes, or one device."""

    app_id: str
    credential_id: str
    scopes: frozenset[str] = frozenset()
    device_key: DeviceKey | None = None
    expires_ms: int | None = None
    family: str = ""  # of a device's token
    renew_ms: int | None = None  # when a device's token is due to be followed by another
    networks: tuple[IPv4Network | IPv6Network, ...] = ()  # where a backend may call from; none named: anywhere
