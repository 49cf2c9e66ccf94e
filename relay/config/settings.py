"""The operator's settings: what there is, what each may be, and what follows from all of them. Pure, frozen."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from providers.guard import Exemption
from relay.config.forms import (
    Denied,
    Exempt,
    FilePath,
    Hours,
    KeySet,
    Network,
    Origin,
    Printable,
    ProviderName,
    Start,
    StoreUrl,
    Text,
    UtcOffset,
    Version,
    as_network,
)
from relay.model import NotifyPolicy, Policy
from relay.secret import Secret

DAY_S: Final = 86_400
TTL_S_MAX: Final = 28 * DAY_S

A_LIST: Final = Field(strict=False)  # its items are strict; it may be a list, though it is kept as a tuple


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,
    )


class Server(Section):
    host: Text = Field("127.0.0.1", description="an address or name to listen on")
    port: int = Field(8080, ge=0, le=65_535)
    allowed_origins: Annotated[tuple[Origin, ...], A_LIST] = Field(
        (), description='a list of origins, each like "https://app.example"; "*" is not one'
    )
    trusted_proxies: Annotated[tuple[Network, ...], A_LIST] = Field(
        (), description='a list of networks, each like "10.0.0.0/8", with no bits set after the prefix'
    )
    https_only: bool = Field(False, description="true or false; true needs trusted_proxies, which end TLS")
    handlers_max: int = Field(512, ge=1, le=4096)
    drain_s: float = Field(28, ge=0, le=600)
    quiet_s: float = Field(1, ge=0, le=300)

    @field_validator("https_only")
    @classmethod
    def _by_whom(cls, value: bool, info: ValidationInfo) -> bool:
        if value and not info.data.get("trusted_proxies", True):
            raise ValueError("needs trusted_proxies")
        return value


class Store(Section):
    url: StoreUrl = Field(
        Secret("sqlite:///relay.db"),
        description="sqlite:///PATH (without ?, # and %) or postgresql://USER@HOST/DATABASE",
    )
    unsafe_storage: bool = False
    free_min_mib: int = Field(512, ge=0, le=1024 * 1024)
    free_min_percent: float = Field(5, ge=0, le=50)
    readers: int = Field(
        2, ge=1, le=4, description="a whole number from 1 to 4: more would keep SQLite from folding its log back"
    )
    workers: int = Field(8, ge=1, le=64)


class Keys(Section):
    file: FilePath = Field(Path("relay.keys"), description="the path of a file")


class App(Section):
    create_users: bool = False
    require_idempotency_key: bool = False
    sender_copies: bool = True
    device_sends: bool = False
    trust_presence: bool = False
    start: Start = Field("retained", description='"retained", "now" or "days:N" with N from 1 to 365')
    notify: Annotated[NotifyPolicy, Field(strict=False)] = NotifyPolicy.UNTIL_READ
    ttl_s: int = Field(7 * DAY_S, ge=1, le=TTL_S_MAX)
    inbox_max: int = Field(10_000, ge=1, le=10_000)
    privacy: Literal["full", "title", "sealed", "none"] = "full"
    min_app_version: Version = Field("", description='a version like "5.0.0", or empty')
    recommended_app_version: Version = Field("", description='a version like "5.4.0", or empty')


class DeviceJwt(Section):
    """Device tokens that the app's own login service signs. Off unless `issuer` is set."""

    issuer: Printable = Field("", description="the `iss` of the tokens; empty for none")
    audience: Printable = Field("push-relay", description="the `aud` of the tokens")
    keys: KeySet = Field("", description="the https URL or the path of a JSON Web Key Set; needed with an issuer")

    @field_validator("keys")
    @classmethod
    def _needed(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("issuer") and not value:
            raise ValueError("is needed with an issuer")
        return value

    @property
    def keys_are_remote(self) -> bool:
        return self.keys.startswith(("https://", "http://"))


class Heartbeat(Section):
    interval_s: int = Field(30, ge=10, le=600)
    lease_factor: float = Field(2.5, ge=2, le=4)


class PushSection(Section):
    ack_wait_s: float = Field(10, ge=2, le=60)
    ack_wait_background_s: float = Field(3, ge=2, le=60)
    ack_wait_max_s: float = Field(60, ge=2, le=60, description="a number from 2 to 60, and not below ack_wait_s")
    linger_s: float = Field(5, ge=0, le=300)
    linger_restart_s: float = Field(30, ge=0, le=300)
    restart_grace_s: float = Field(30, ge=0, le=300)
    debounce_s: float = Field(0.5, ge=0, le=60)
    elsewhere_s: float = Field(10, ge=0, le=60)
    knocks_s: Annotated[tuple[Annotated[float, Field(ge=1, le=TTL_S_MAX)], ...], A_LIST] = Field(
        (3_600, 21_600, 86_400),
        max_length=10,
        description=f"a list of at most 10 numbers from 1 to {TTL_S_MAX}",
    )
    separate_max: int = Field(3, ge=0, le=20)
    claim_s: float = Field(30, ge=5, le=600)
    concurrency: int = Field(100, ge=1, le=10_000)
    rate_per_s: float = Field(500.0, ge=0.1, le=100_000)
    burst: int = Field(500, ge=1, le=100_000)
    fallback_after_s: float = Field(60, ge=0, le=DAY_S)

    @field_validator("ack_wait_max_s")
    @classmethod
    def _not_below(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("ack_wait_s", 0):
            raise ValueError("is below ack_wait_s")
        return value


class Poll(Section):
    client_s: int = Field(5, ge=1, le=300)
    session_s: float = Field(5, ge=0.5, le=60)
    wait_max_s: int = Field(60, ge=0, le=60)


class Page(Section):
    entries: int = Field(200, ge=1, le=200)
    bytes: int = Field(1024 * 1024, ge=1024, le=1024 * 1024)


class Window(Section):
    entries: int = Field(200, ge=1, le=200)
    bytes: int = Field(1024 * 1024, ge=1024, le=1024 * 1024)


class Retention(Section):
    replay_window_d: int = Field(7, ge=1, le=28)
    shared_d: int = Field(7, ge=1, le=28)
    shared_tail: int = Field(200, ge=1, le=10_000)
    dormant_d: int = Field(30, ge=1, le=3650)
    gone_d: int = Field(180, ge=1, le=3650, description="a whole number from 1 to 3650, and above dormant_d")
    event_d: int = Field(
        30,
        ge=30,
        le=3650,
        description="a whole number from 30 to 3650: what became of a message can be asked for a month",
    )
    history_d: int = Field(36, ge=0, le=3650)
    log_d: int = Field(3, ge=1, le=7)
    upgrade_pin_d: int = Field(7, ge=1, le=90)
    upgrade_verify_h: int = Field(24, ge=1, le=720)

    @field_validator("gone_d")
    @classmethod
    def _above(cls, value: int, info: ValidationInfo) -> int:
        if value <= info.data.get("dormant_d", 0):
            raise ValueError("is not above dormant_d")
        return value


class Limits(Section):
    """Upwards only to the hard caps (safety 5)."""

    send_rate_per_s: float = Field(500, ge=0.1, le=100_000)
    send_burst: int = Field(1000, ge=1, le=100_000)
    anonymous_per_s: float = Field(20, ge=0.1, le=10_000)
    anonymous_burst: int = Field(40, ge=1, le=10_000)
    devices_per_user: int = Field(20, ge=1, le=100)
    open_deliveries: int = Field(1_000_000, ge=1, le=10_000_000)  # of one app
    lag_ms: int = Field(100, ge=1, le=60_000)
    memory_bytes: int = Field(0, ge=0, le=1 << 50)  # 0: what there is
    device_sends_per_s: float = Field(5, ge=0.1, le=1000)
    device_sends_burst: int = Field(50, ge=1, le=10_000)
    handshakes_per_s: int = Field(500, ge=1, le=100_000)  # of all devices with this node
    sockets_per_node: int = Field(20_000, ge=1, le=100_000)
    sockets_per_address: int = Field(200, ge=1, le=100_000)
    waits_per_node: int = Field(20_000, ge=1, le=100_000)
    body_bytes: int = Field(128 * 1024, ge=1024, le=256 * 1024)
    batch_bytes: int = Field(1024 * 1024, ge=1024, le=4 * 1024 * 1024)


class Webhooks(Section):
    allow_http: bool = False
    exempt: Annotated[tuple[Exempt, ...], A_LIST] = Field(
        (), description='a list of internal targets, each "HOST:PORT" or "NETWORK:PORT", several ports with commas'
    )
    deny: Annotated[tuple[Denied, ...], A_LIST] = Field(
        (), description='a list of names and networks, each like "relay.example" or "198.51.100.0/24"'
    )
    ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65_535)], ...], A_LIST] = Field(
        (443,), description="a list of numbers from 1 to 65535"
    )
    timeout_s: float = Field(15, ge=1, le=60)
    per_endpoint: int = Field(5, ge=1, le=100)

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        return tuple(Exemption.parse(text) for text in self.exempt)

    @property
    def names_denied(self) -> frozenset[str]:
        return frozenset(text.lower() for text in self.deny if as_network(text) is None)

    @property
    def networks_denied(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(net for net in map(as_network, self.deny) if net is not None)


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Account(Section):
    """A vendor account. What is not written for it here, it has from [push] and [app]; its rate, if the vendor publishes
    one, from the provider."""

    provider: ProviderName = Field(description='the name of a provider, like "fcm"')
    concurrency: int = Field(100, ge=1, le=10_000)
    rate_per_s: float | None = Field(None, ge=0.1, le=100_000, description="a number from 0.1 to 100000")
    burst: int | None = Field(None, ge=1, le=100_000, description="a whole number from 1 to 100000")
    start_per_s: float | None = Field(None, ge=0.1, le=100_000, description="a number from 0.1 to 100000")
    privacy: Literal["full", "title", "sealed", "none"] = "full"
    daily_quota: int | None = Field(None, ge=1, le=10_000_000_000, description="a whole number from 1")
    hours: Hours | None = Field(None, description='when the vendor takes pushes, like "07:00-23:00"')
    utc_offset: UtcOffset | None = Field(None, description='by which its days and hours go, like "+08:00"')
    fallback: bool = True  # while it is out for long, a device's next address has the push
    batch: bool = False  # one call for all devices that are told the same
    challenge: bool = False  # a device proves that it reads what goes to its address, before anything else goes there
    settings: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)  # the provider's own; has secrets


class Settings(Section):
    """Everything that the operator can set."""

    server: Server = Server()
    store: Store = Store()
    keys: Keys = Keys()
    app: App = App()
    device_jwt: DeviceJwt = DeviceJwt()
    heartbeat: Heartbeat = Heartbeat()
    push: PushSection = PushSection()
    poll: Poll = Poll()
    page: Page = Page()
    window: Window = Window()
    retention: Retention = Retention()
    limits: Limits = Limits()
    webhooks: Webhooks = Webhooks()
    log: Log = Log()
    accounts: dict[str, Account] = Field(default_factory=dict)

    def policy(self) -> Policy:
        """What the rules need to know."""
        app, push, retention = self.app, self.push, self.retention
        return Policy(
            create_users=app.create_users,
            require_idempotency_key=app.require_idempotency_key,
            sender_copies=app.sender_copies,
            device_sends=app.device_sends,
            trust_presence=app.trust_presence,
            start=app.start,
            notify=app.notify,
            ttl_s=app.ttl_s,
            inbox_max=app.inbox_max,
            ack_wait_ms=_ms(push.ack_wait_s),
            ack_wait_background_ms=_ms(push.ack_wait_background_s),
            ack_wait_max_ms=_ms(push.ack_wait_max_s),
            linger_ms=_ms(push.linger_s),
            linger_restart_ms=_ms(push.linger_restart_s),
            restart_grace_ms=_ms(push.restart_grace_s),
            debounce_ms=_ms(push.debounce_s),
            elsewhere_ms=_ms(push.elsewhere_s),
            knocks_ms=tuple(_ms(wait_s) for wait_s in push.knocks_s),
            separate_max=push.separate_max,
            claim_ms=_ms(push.claim_s),
            replay_window_ms=_ms(retention.replay_window_d * DAY_S),
            shared_retention_ms=_ms(retention.shared_d * DAY_S),
            shared_tail=retention.shared_tail,
            upgrade_pin_ms=_ms(retention.upgrade_pin_d * DAY_S),
            upgrade_verify_ms=_ms(retention.upgrade_verify_h * 3600),
            dormant_ms=_ms(retention.dormant_d * DAY_S),
            gone_ms=_ms(retention.gone_d * DAY_S),
            history_ms=_ms(retention.history_d * DAY_S),
            devices_max=self.limits.devices_per_user,
            origins=self.server.allowed_origins,
        )

    def log_folder(self) -> Path:
        """Where message logs are kept once they are made: beside the store, or beside the keys."""
        beside = self.sqlite_path() or self.keys.file
        return beside.parent / "message-logs"

    def sqlite_path(self) -> Path | None:
        """The database file; None when the store is PostgreSQL."""
        text = self.store.url.reveal()
        return Path(text.removeprefix("sqlite:///")) if text.startswith("sqlite:///") else None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
