"""Where settings come from: one TOML file and the environment. What is wrong with them is told all at once.

The environment wins: `RELAY_PUSH__ACK_WAIT_S=12` is `ack_wait_s` of `[push]`; lists are written in JSON. A mistake is told
with what was found and what would be right; what may be a secret is never repeated.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from relay.config.forms import CONTROL
from relay.config.settings import Account, Section, Settings
from relay.model import NotifyPolicy
from relay.secret import Secret

FILE_NAME: Final = "relay.toml"
ENV: Final = "RELAY_"
FILE_BYTES_MAX: Final = 1024 * 1024
SHOWN_CHARS_MAX: Final = 60
ACCOUNTS_MAX: Final = 1000

_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


# --- where it stands --------------------------------------------------------------------------------------------------


def found(environ: Mapping[str, str]) -> Path | None:
    """./relay.toml, the user's own, or the machine's."""
    homes = [Path(FILE_NAME)]
    if environ.get("XDG_CONFIG_HOME"):
        homes.append(Path(environ["XDG_CONFIG_HOME"]) / "relay" / FILE_NAME)
    elif environ.get("HOME"):
        homes.append(Path(environ["HOME"]) / ".config" / "relay" / FILE_NAME)
    homes.append(Path("/etc/relay") / FILE_NAME)
    return next((home for home in homes if _may_be(home)), None)


def _may_be(file: Path) -> bool:
    """A file that is not to be had, as in a folder that is closed to us, may be the one that is meant: whoever reads it says so,
    with its name."""
    try:
        file.stat()  # `exists` would say no from Python 3.14 on
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def document(file: Path, mistakes: list[str]) -> dict[str, Any]:
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


class Given:
    """The tables from all sources, where each value came from, and what is wrong with them."""

    def __init__(self, file: str) -> None:
        self.file = CONTROL.sub("?", file)
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
            elif CONTROL.search(text):
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

    def sound(self) -> Settings:
        """The settings without what is wrong by itself: that has its default, and such an account is not there."""
        tables = {name: dict(table) for name, table in self.tables.items()}
        while True:
            try:
                return Settings.model_validate(tables)
            except ValidationError as error:
                section, *keys = (str(step) for step in error.errors(include_url=False)[0]["loc"])
            if not keys or tables[section].pop(keys[0], None) is None:
                del tables[section]  # what is wrong is not a value alone, but that it stands beside the others

    def origin_of(self, mistake: str) -> str:
        """Where that stands of which a line tells that begins with "[section] key:"."""
        for place, origin in self.origins.items():
            if mistake.startswith(f"[{'.'.join(place[:-1])}] {place[-1]}:"):
                return origin
        return self.file

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
    return CONTROL.sub("?", text)[:SHOWN_CHARS_MAX]


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a very large number"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return f"a {type(value).__name__}"
    text = CONTROL.sub("?", text)
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
