"""Keys in settings: read from the file that `…_file` names, and RSA keys of service accounts looked at."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

__all__ = ["account_of", "from_files", "rsa_key"]

FILE_BYTES_MAX = 64 * 1024
RSA_BITS_MIN = 2048  # no vendor names a minimum


Model = TypeVar("Model", bound=BaseModel)


def from_files(given: Any, check: Callable[[Any], Model], *names: str) -> Model:
    """The settings as `check` has them, with each of these taken from the file at `<name>_file`, where that is given.

    For a validator of the mode "wrap". Raises ValidationError with all mistakes: those of the files beside all others.
    """
    if not isinstance(given, Mapping):
        return check(given)
    settings, mistakes, unread = dict(given), list[InitErrorDetails](), set[str]()
    for name in names:
        setting = f"{name}_file"
        path = settings.pop(setting, None)
        if path is None:
            continue
        try:
            if name in settings:
                raise ValueError(f"give this or {name}, not both")
            settings[name] = _text_of(Path(str(path)))
        except ValueError as error:
            mistakes.append(InitErrorDetails(type=PydanticCustomError("file", str(error)), loc=(setting,), input=None))
            unread.add(name)
    try:
        checked = check(settings)
    except ValidationError as invalid:
        mistakes += [
            InitErrorDetails(type=_kind(one), loc=one["loc"], input=one["input"], ctx=one.get("ctx", {}))
            for one in invalid.errors(include_url=False)
            if not (one["type"] == "missing" and one["loc"][0] in unread)
        ]
    else:
        if not mistakes:
            return checked
    raise ValidationError.from_exception_data("settings", mistakes, hide_input=True)


def _kind(error: ErrorDetails) -> str | PydanticCustomError:
    """One of pydantic's, or ours of another file: settings that are a part of others have theirs read first."""
    return PydanticCustomError("file", error["msg"]) if error["type"] == "file" else error["type"]


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"must not be larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8-sig")
    except ValueError:
        raise ValueError("is not UTF-8 text") from None


def account_of(given: Any, whose: str) -> Any:
    """The object of a service account, given as it is or as its text. Raises ValueError."""
    text = given.get_secret_value() if isinstance(given, SecretStr) else given
    try:
        if isinstance(text, Mapping):
            text = json.dumps(text)
        if not isinstance(text, str):
            return given
        account = json.loads(text) if len(text) <= FILE_BYTES_MAX else None
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"must be the JSON object of a {whose} service account") from None
    if account is None and len(text) > FILE_BYTES_MAX:
        raise ValueError(f"must not be larger than {FILE_BYTES_MAX} bytes")
    return account


def rsa_key(pem: str, *, checked: bool = False) -> RSAPrivateKey:
    """The key in PEM form. `checked`: it was looked at before, and its primes need not be once more. Raises ValueError."""
    try:
        # Checking the primes takes most of the time; once is enough.
        key = load_pem_private_key(
            pem.encode("utf-8", "replace"), password=None, unsafe_skip_rsa_key_validation=checked
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("must be an unencrypted RSA private key in PEM form") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < RSA_BITS_MIN:
        raise ValueError(f"must be an RSA key of at least {RSA_BITS_MIN} bits")
    return key
