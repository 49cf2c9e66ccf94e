"""The operator's settings: what there is, what each may be, and what follows from all of them. Pure, frozen."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core.core_schema import ValidationInfo

from providers.endpoints import host_names
from providers.guard import Exemption
from relay.model import NotifyPolicy, Policy
from relay.secret import Secret

DAY_S: Final = 86_400
TTL_S_MAX: Final = 28 * DAY_S

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_VERSION = re.compile(r"(?:[0-9][0-9A-Za-z.+-]{0,63})?")
_START = re.compile(r"retained|now|days:([1-9]|[1-9][0-9]|[12][0-9][0-9]|3[0-5][0-9]|36[0-5])")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)")
_OFFSET = re.compile(r"[+-](0[0-9]|1[0-4]):[0-5][0-9]")
_PRINTABLE = re.compile(r"[\x21-\x7e]{0,512}")
_KEY_SET = re.compile(r"https?://[\x21-\x7e]{1,2000}|(?!https?:)[^\x00-\x1f\x7f]{0,1024}")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"https?://([a-z0-9.-]{1,253}|\[[0-9a-f:]{2,39}\])(:[1-9][0-9]{0,4})?")


def _matches(form: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError("has another form")
        return text

    return AfterValidator(check)


def _plain(text: str) -> str:
    if not text or CONTROL.search(text):
        raise ValueError("is empty or has control characters")
    return text


def _path(given: Any) -> Any:
    return Path(_plain(given)).expanduser() if isinstance(given, str) else given


def _network(given: Any) -> Any:
    if not isinstance(given, str):
        raise ValueError("is not text")  # noqa: TRY004 - pydantic lets a TypeError through
    return ip_network(given)


def _exemption(text: str) -> str:
    Exemption.parse(text)
    return text


def _as_network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _denied(text: str) -> str:
    if _as_network(text) is None:
        host_names((text,))
    return text


def _store_url(url: Secret) -> Secret:
    text = _plain(url.reveal())
    if text.startswith("sqlite:///"):
        # These would end or alter the path in the URI by which SQLite opens it.
        fits = len(text) > len("sqlite:///") and not set(text) & set("?#%")
    else:
        parts = urlsplit(text)
        fits = parts.scheme == "postgresql" and bool(parts.netloc) and len(parts.path) > 1
        fits = fits and ("," in parts.netloc or parts.port != 0)  # several hosts: the driver looks at each
    if not fits:
        raise ValueError("is no URL of a store")
    return url


def _bounded(low: float, high: float) -> Any:
    return Field(ge=low, le=high)


# An item of a list is strict; the list itself may be a list.
_LIST = Field(strict=False)
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Text = Annotated[str, AfterValidator(_plain)]


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
    allowed_origins: Annotated[tuple[Annotated[str, _matches(_ORIGIN)], ...], _LIST] = Field(
        (), description='a list of origins, each like "https://app.example"; "*" is not one'
    )
    trusted_proxies: Annotated[tuple[Network, ...], _LIST] = Field(
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
    url: Annotated[Secret, AfterValidator(_store_url)] = Field(
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
    file: Annotated[Path, BeforeValidator(_path)] = Field(Path("relay.keys"), description="the path of a file")


class App(Section):
    create_users: bool = False
    require_idempotency_key: bool = False
    sender_copies: bool = True
    device_sends: bool = False
    trust_presence: bool = False
    start: Annotated[str, _matches(_START)] = Field(
        "retained", description='"retained", "now" or "days:N" with N from 1 to 365'
    )
    notify: Annotated[NotifyPolicy, Field(strict=False)] = NotifyPolicy.UNTIL_READ
    ttl_s: int = Field(7 * DAY_S, ge=1, le=TTL_S_MAX)
    inbox_max: int = Field(10_000, ge=1, le=10_000)
    privacy: Literal["full", "title", "sealed", "none"] = "full"
    min_app_version: Annotated[str, _matches(_VERSION)] = Field("", description='a version like "5.0.0", or empty')
    recommended_app_version: Annotated[str, _matches(_VERSION)] = Field(
        "", description='a version like "5.4.0", or empty'
    )


class DeviceJwt(Section):
    """Device tokens that the app's own login service signs. Off unless `issuer` is set."""

    issuer: Annotated[str, _matches(_PRINTABLE)] = Field("", description="the `iss` of the tokens; empty for none")
    audience: Annotated[str, _matches(_PRINTABLE)] = Field("push-relay", description="the `aud` of the tokens")
    keys: Annotated[str, _matches(_KEY_SET)] = Field(
        "", description="the https URL or the path of a JSON Web Key Set; needed with an issuer"
    )

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
    knocks_s: Annotated[tuple[Annotated[float, _bounded(1, TTL_S_MAX)], ...], _LIST] = Field(
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
    exempt: Annotated[tuple[Annotated[str, AfterValidator(_exemption)], ...], _LIST] = Field(
        (), description='a list of internal targets, each "HOST:PORT" or "NETWORK:PORT", several ports with commas'
    )
    deny: Annotated[tuple[Annotated[str, AfterValidator(_denied)], ...], _LIST] = Field(
        (), description='a list of names and networks, each like "relay.example" or "198.51.100.0/24"'
    )
    ports: Annotated[tuple[Annotated[int, _bounded(1, 65_535)], ...], _LIST] = Field(
        (443,), description="a list of numbers from 1 to 65535"
    )
    timeout_s: float = Field(15, ge=1, le=60)
    per_endpoint: int = Field(5, ge=1, le=100)

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        return tuple(Exemption.parse(text) for text in self.exempt)

    @property
    def names_denied(self) -> frozenset[str]:
        return frozenset(text.lower() for text in self.deny if _as_network(text) is None)

    @property
    def networks_denied(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(net for net in map(_as_network, self.deny) if net is not None)


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Account(Section):
    """A vendor account. What is not written for it here, it has from [push] and [app]; its rate, if the vendor publishes
    one, from the provider."""

    provider: Annotated[str, _matches(_PROVIDER)] = Field(description='the name of a provider, like "fcm"')
    concurrency: int = Field(100, ge=1, le=10_000)
    rate_per_s: float | None = Field(None, ge=0.1, le=100_000, description="a number from 0.1 to 100000")
    burst: int | None = Field(None, ge=1, le=100_000, description="a whole number from 1 to 100000")
    privacy: Literal["full", "title", "sealed", "none"] = "full"
    daily_quota: int | None = Field(None, ge=1, le=10_000_000_000, description="a whole number from 1")
    hours: Annotated[str, _matches(_HOURS)] | None = Field(
        None, description='when the vendor takes pushes, like "07:00-23:00"'
    )
    utc_offset: Annotated[str, _matches(_OFFSET)] | None = Field(
        None, description='by which its days and hours go, like "+08:00"'
    )
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
