"""The operator's settings: from one TOML file and the environment, checked as a whole, frozen.

The environment wins: `RELAY_PUSH__ACK_WAIT_S=12` is `ack_wait_s` of `[push]`; lists are written in JSON. All mistakes
are told at once, with what was found and what would be right; what may be a secret is never repeated.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ValidationInfo

from providers.guard import Exemption
from relay.errors import ConfigError
from relay.keys import Secret
from relay.model import NotifyPolicy, Policy

FILE_NAME: Final = "relay.toml"
ENV: Final = "RELAY_"
FILE_BYTES_MAX: Final = 1024 * 1024
SHOWN_CHARS_MAX: Final = 60
ACCOUNTS_MAX: Final = 1000
DAY_S: Final = 86_400
TTL_S_MAX: Final = 28 * DAY_S

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_START = re.compile(r"retained|now|days:([1-9]|[1-9][0-9]|[12][0-9][0-9]|3[0-5][0-9]|36[0-5])")
_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"https?://([a-z0-9.-]{1,253}|\[[0-9a-f:]{2,39}\])(:[1-9][0-9]{0,4})?")


def _matches(form: re.Pattern[str]) -> AfterValidator:
    def check(text: str) -> str:
        if not form.fullmatch(text):
            raise ValueError("has another form")
        return text

    return AfterValidator(check)


def _plain(text: str) -> str:
    if not text or _CONTROL.search(text):
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


def _store_url(url: Secret) -> Secret:
    text = _plain(url.reveal())
    if text.startswith("sqlite:///"):
        # These would end or alter the path in the URI by which SQLite opens it.
        fits = len(text) > len("sqlite:///") and not set(text) & set("?#%")
    else:
        parts = urlsplit(text)
        fits = parts.scheme == "postgresql" and bool(parts.netloc) and len(parts.path) > 1 and parts.port != 0
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
    readers: int = Field(2, ge=1, le=64)
    workers: int = Field(8, ge=1, le=64)


class Keys(Section):
    file: Annotated[Path, BeforeValidator(_path)] = Field(Path("relay.keys"), description="the path of a file")


class App(Section):
    create_users: bool = False
    require_idempotency_key: bool = False
    sender_copies: bool = True
    trust_presence: bool = False
    start: Annotated[str, _matches(_START)] = Field(
        "retained", description='"retained", "now" or "days:N" with N from 1 to 365'
    )
    notify: Annotated[NotifyPolicy, Field(strict=False)] = NotifyPolicy.UNTIL_READ
    ttl_s: int = Field(7 * DAY_S, ge=1, le=TTL_S_MAX)
    inbox_max: int = Field(10_000, ge=1, le=10_000)
    privacy: Literal["full", "none"] = "full"


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
    dormant_d: int = Field(30, ge=1, le=3650)
    gone_d: int = Field(180, ge=1, le=3650, description="a whole number from 1 to 3650, and above dormant_d")
    event_d: int = Field(30, ge=1, le=3650)
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
    addresses_per_device: int = Field(8, ge=1, le=8)
    sockets_per_node: int = Field(20_000, ge=1, le=100_000)
    body_bytes: int = Field(128 * 1024, ge=1024, le=256 * 1024)
    batch_bytes: int = Field(1024 * 1024, ge=1024, le=4 * 1024 * 1024)


class Webhooks(Section):
    allow_http: bool = False
    exempt: Annotated[tuple[Annotated[str, AfterValidator(_exemption)], ...], _LIST] = Field(
        (), description='a list of internal targets, each "HOST:PORT" or "NETWORK:PORT", several ports with commas'
    )
    timeout_s: float = Field(15, ge=1, le=60)
    per_endpoint: int = Field(5, ge=1, le=100)

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        return tuple(Exemption.parse(text) for text in self.exempt)


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Account(Section):
    """A vendor account. What is not written for it here, it has from [push] and [app]."""

    provider: Annotated[str, _matches(_PROVIDER)] = Field(description='the name of a provider, like "fcm"')
    concurrency: int = Field(100, ge=1, le=10_000)
    rate_per_s: float = Field(500.0, ge=0.1, le=100_000)
    burst: int = Field(500, ge=1, le=100_000)
    privacy: Literal["full", "none"] = "full"
    settings: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)  # the provider's own; has secrets


class Settings(Section):
    """Everything that the operator can set."""

    server: Server = Server()
    store: Store = Store()
    keys: Keys = Keys()
    app: App = App()
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
            upgrade_pin_ms=_ms(retention.upgrade_pin_d * DAY_S),
            upgrade_verify_ms=_ms(retention.upgrade_verify_h * 3600),
            dormant_ms=_ms(retention.dormant_d * DAY_S),
            gone_ms=_ms(retention.gone_d * DAY_S),
            devices_max=self.limits.devices_per_user,
            addresses_max=self.limits.addresses_per_device,
            origins=self.server.allowed_origins,
        )

    def sqlite_path(self) -> Path | None:
        """The database file; None when the store is PostgreSQL."""
        return _sqlite_path(self.store.url)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file at `path`, or of the first that is found, with those of the environment above them.

    Relative paths in a file are relative to its folder, others to the working directory. Raises ConfigError.
    """
    file = path if path is not None else _found(environ)
    given = _Given("configuration" if file is None else str(file))
    if file is not None:
        given.add_file(_document(file, given.mistakes))
    given.add_environment(environ)
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(given.tables)
    except ValidationError as error:
        given.mistakes += [given.line(one) for one in error.errors(include_url=False)]
    if given.mistakes or settings is None:
        raise ConfigError(list(dict.fromkeys(given.mistakes)))
    folder = Path.cwd() if file is None else file.parent.resolve()
    from_env = {place for place, origin in given.origins.items() if origin != given.file}
    return _inherited(_rooted(settings, folder, from_env))


# --- where it stands --------------------------------------------------------------------------------------------------


def _found(environ: Mapping[str, str]) -> Path | None:
    """./relay.toml, the user's own, or the machine's."""
    homes = [Path(FILE_NAME)]
    if environ.get("XDG_CONFIG_HOME"):
        homes.append(Path(environ["XDG_CONFIG_HOME"]) / "relay" / FILE_NAME)
    elif environ.get("HOME"):
        homes.append(Path(environ["HOME"]) / ".config" / "relay" / FILE_NAME)
    homes.append(Path("/etc/relay") / FILE_NAME)
    return next((home for home in homes if home.exists()), None)


def _document(file: Path, mistakes: list[str]) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        mistakes.append(
            f"{file}: cannot be read ({error.strerror}); name a file that is there and that the relay may read."
        )
        return {}
    if len(raw) > FILE_BYTES_MAX:
        mistakes.append(f"{file}: is larger than {FILE_BYTES_MAX} bytes; it is no configuration.")
        return {}
    text = ""
    try:
        text = raw.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError:
        mistakes.append(f"{file}: is not UTF-8 text.")
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file}: {_not_toml(text, str(error))}")
    except (ValueError, RecursionError):
        mistakes.append(f"{file}: is not TOML: a number or a nesting is too large.")
    return {}


def _not_toml(text: str, message: str) -> str:
    """tomllib does not name the key that stands twice, so we look for it."""
    if "overwrite" not in message and "twice" not in message:
        return f"is not TOML: {message}."
    table, seen = "", set()
    for number, line in enumerate(text.splitlines(), start=1):
        head = re.match(r"\s*\[([\w.-]+)\]", line)
        key = re.match(r"\s*([\w-]{1,64})\s*=", line)
        if head is not None:
            table = head[1]
            place = f"[{table}]"
        elif key is not None:
            place = f"[{table}] {key[1]}" if table else key[1]
        else:
            continue
        if place in seen:
            return f"{place}: found it a second time, in line {number}; must stand once."
        seen.add(place)
    return f"is not TOML: {message}."


# --- what was given ---------------------------------------------------------------------------------------------------

Place = tuple[str, ...]  # section, key; or "accounts", name, key

_SECTIONS: Final[dict[str, type[Section]]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
_OWN: Final = set(Account.model_fields) - {"settings"}


class _Given:
    """The tables from all sources, where each value came from, and what is wrong with them."""

    def __init__(self, file: str) -> None:
        self.file = _CONTROL.sub("?", file)
        self.tables: dict[str, dict[str, Any]] = {}
        self.origins: dict[Place, str] = {}
        self.mistakes: list[str] = []

    def add_file(self, document: Mapping[str, Any]) -> None:
        for section, table in document.items():
            if section != "accounts" and section not in _SECTIONS:
                self.mistakes.append(f"{self.file}: [{_name(section)}]: {_unknown_section(section)}")
            elif not isinstance(table, dict):
                self.mistakes.append(f"{self.file}: [{section}]: found {_shown(table)}; must be a table.")
            elif section == "accounts":
                for name, settings in table.items():
                    self._add_account(name, settings)
            else:
                for key, value in table.items():
                    self._add(self.file, section, key, value)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        for name in sorted(environ):
            section, cut, key = name.removeprefix(ENV).partition("__")
            if not name.startswith(ENV) or not cut or not section:
                continue
            section, key, text, origin = section.lower(), key.lower(), environ[name], _name(name)
            if section == "accounts":
                account, _, key = key.partition("__")
                self._add_account_text(origin, account, key, text)
            elif section not in _SECTIONS:
                self.mistakes.append(f"{origin}: [{_name(section)}]: {_unknown_section(section)}")
            elif _CONTROL.search(text):
                self.mistakes.append(f"{origin}: [{section}] {_name(key)}: has a line break or a control character.")
            else:
                field = _SECTIONS[section].model_fields.get(key)
                self._add(origin, section, key, text if field is None or _is_text(field) else _from_json(text))

    def _add(self, origin: str, section: str, key: str, value: Any) -> None:
        if key not in _SECTIONS[section].model_fields:
            self.mistakes.append(f"{origin}: [{section}] {_name(key)}: {_unknown_key(section, key)}")
            return
        self.tables.setdefault(section, {})[key] = value
        self.origins[section, key] = origin

    def _add_account(self, name: str, table: Any) -> None:
        if not isinstance(table, dict):
            hint = "must be a table; write it under [accounts.NAME]" if name in _OWN else "must be a table"
            self.mistakes.append(f"{self.file}: [accounts.{_name(name)}]: found a value that is not shown; {hint}.")
            return
        account = self._account(self.file, name)
        for key, value in table.items():
            if account is not None:
                self._set(account, self.file, name, key, value)

    def _add_account_text(self, origin: str, name: str, key: str, text: str) -> None:
        """The environment has only capitals and "_": an account of the file is found whatever its spelling."""
        if not name or not key:
            self.mistakes.append(f"{origin}: must be {ENV}ACCOUNTS__NAME__KEY.")
            return
        known = self.tables.get("accounts", {})
        name = next((one for one in known if re.sub(r"[.-]", "_", one.lower()) == name), name)
        account = self._account(origin, name)
        if account is not None:
            field = Account.model_fields[key] if key in _OWN else None
            parse = text[:1] in {"[", "{"} if field is None else not _is_text(field)
            self._set(account, origin, name, key, _from_json(text) if parse else text)

    def _account(self, origin: str, name: str) -> dict[str, Any] | None:
        accounts = self.tables.setdefault("accounts", {})
        if not _ACCOUNT.fullmatch(name):
            self.mistakes.append(
                f"{origin}: [accounts.{_name(name)}]: a name must be 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'."
            )
            return None
        if name not in accounts and len(accounts) >= ACCOUNTS_MAX:
            self.mistakes.append(f"{origin}: [accounts.{name}]: must be at most {ACCOUNTS_MAX} accounts.")
            return None
        account: dict[str, Any] = accounts.setdefault(name, {"settings": {}})
        return account

    def _set(self, account: dict[str, Any], origin: str, name: str, key: str, value: Any) -> None:
        (account if key in _OWN else account["settings"])[key] = value
        self.origins["accounts", name, key] = origin

    def line(self, error: ErrorDetails) -> str:
        """One mistake that pydantic found, as a line for whoever mends it."""
        loc = [str(part) for part in error["loc"]]
        hidden = loc[0] == "accounts" or loc[:2] == ["store", "url"]
        if loc[0] == "accounts":
            place: Place = tuple(loc[:3])
            field = Account.model_fields[loc[2]]
            where = f"[accounts.{loc[1]}] {loc[2]}"
        else:
            place = tuple(loc[:2])
            field = _SECTIONS[loc[0]].model_fields[loc[1]]
            where = f"[{loc[0]}] {loc[1]}"
        if error["type"] == "missing":
            found = "nothing"
        elif hidden:
            found = "a value that is not shown"
        else:
            found = _shown(error["input"])
        return f"{self.origins.get(place, self.file)}: {where}: found {found}; must be {_wanted(field)}."


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # of the wrong type, which will be told


def _is_text(field: FieldInfo) -> bool:
    kind = field.annotation
    return kind in {str, Path, Secret, NotifyPolicy} or get_origin(kind) is Literal


def _name(text: str) -> str:
    """A key or section as it may be printed."""
    return _CONTROL.sub("?", text)[:SHOWN_CHARS_MAX]


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a very large number"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__}"
    text = _CONTROL.sub("?", text)
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "…"


def _wanted(field: FieldInfo) -> str:
    """What would be right."""
    if field.description is not None:
        return field.description
    kind = field.annotation
    if kind is bool:
        return "true or false"
    if kind is NotifyPolicy:
        return _one_of(NotifyPolicy)
    if get_origin(kind) is Literal:
        return _one_of(get_args(kind))
    low = next(one.ge for one in field.metadata if hasattr(one, "ge"))
    high = next(one.le for one in field.metadata if hasattr(one, "le"))
    return f"{'a whole number' if kind is int else 'a number'} from {low} to {high}"


def _one_of(words: Iterable[str]) -> str:
    *most, last = [json.dumps(str(word)) for word in words]
    return f"{', '.join(most)} or {last}"


def _unknown_section(section: str) -> str:
    homes = [name for name, model in _SECTIONS.items() if section in model.model_fields]
    if homes:
        return f"is not known here; it is a key of [{homes[0]}]."
    return "is not known" + _did_you_mean(section, [*_SECTIONS, "accounts"], "[{}]")


def _unknown_key(section: str, key: str) -> str:
    hint = _did_you_mean(key, list(_SECTIONS[section].model_fields), "{}")
    homes = [name for name, model in _SECTIONS.items() if key in model.model_fields]
    return f"is not known; did you mean [{homes[0]}] {key}?" if homes else "is not known" + hint


def _did_you_mean(word: str, known: list[str], form: str) -> str:
    close = get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {form.format(close[0])}?"
    return f"; must be one of {', '.join(known)}."


# --- what follows from it ---------------------------------------------------------------------------------------------


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _sqlite_path(url: Secret) -> Path | None:
    text = url.reveal()
    return Path(text.removeprefix("sqlite:///")) if text.startswith("sqlite:///") else None


def _rooted(settings: Settings, folder: Path, from_env: set[Place]) -> Settings:
    """The same with absolute paths: those of the environment from the working directory, all others from `folder`."""

    def base(*place: str) -> Path:
        return Path.cwd() if place in from_env else folder

    store, keys = settings.store, settings.keys
    database = settings.sqlite_path()
    if database is not None:
        url = Secret(f"sqlite:///{base('store', 'url') / database}")
        store = store.model_copy(update={"url": url})
    keys = keys.model_copy(update={"file": base("keys", "file") / keys.file})
    accounts = {}
    for name, account in settings.accounts.items():
        rooted = {
            key: str(base("accounts", name, key) / value) if key.endswith("_file") and isinstance(value, str) else value
            for key, value in account.settings.items()
        }
        accounts[name] = account.model_copy(update={"settings": rooted})
    return settings.model_copy(update={"store": store, "keys": keys, "accounts": accounts})


def _inherited(settings: Settings) -> Settings:
    shared = {
        "concurrency": settings.push.concurrency,
        "rate_per_s": settings.push.rate_per_s,
        "burst": settings.push.burst,
        "privacy": settings.app.privacy,
    }
    accounts = {
        name: account.model_copy(update={k: v for k, v in shared.items() if k not in account.model_fields_set})
        for name, account in settings.accounts.items()
    }
    return settings.model_copy(update={"accounts": accounts})
