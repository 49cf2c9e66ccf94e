"""The forms of single values in the configuration. Each check raises ValueError, which pydantic reports with its place."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from providers.endpoints import host_names
from providers.guard import Exemption
from relay.secret import Secret

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def matching(form: str) -> AfterValidator:
    """Texts that match this regular expression as a whole."""
    compiled = re.compile(form)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError("has another form")
        return text

    return AfterValidator(check)


def plain(text: str) -> str:
    """A text that says something, and only that."""
    if not text or CONTROL.search(text):
        raise ValueError("is empty or has control characters")
    return text


def as_network(text: str) -> IPv4Network | IPv6Network | None:
    """None if the text is none."""
    try:
        return ip_network(text)
    except ValueError:
        return None


def _path(given: Any) -> Any:
    return Path(plain(given)).expanduser() if isinstance(given, str) else given


def _network(given: Any) -> Any:
    if not isinstance(given, str):
        raise ValueError("is not text")  # noqa: TRY004 - pydantic lets a TypeError through
    return ip_network(given)


def _exemption(text: str) -> str:
    Exemption.parse(text)
    return text


def _denied(text: str) -> str:
    if as_network(text) is None:
        host_names((text,))
    return text


def _store_url(url: Secret) -> Secret:
    text = plain(url.reveal())
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


Text = Annotated[str, AfterValidator(plain)]
FilePath = Annotated[Path, BeforeValidator(_path)]
StoreUrl = Annotated[Secret, AfterValidator(_store_url)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Exempt = Annotated[str, AfterValidator(_exemption)]  # an internal target of webhooks
Denied = Annotated[str, AfterValidator(_denied)]  # a name or network that webhooks never go to
Origin = Annotated[str, matching(r"https?://([a-z0-9.-]{1,253}|\[[0-9a-f:]{2,39}\])(:[1-9][0-9]{0,4})?")]
Version = Annotated[str, matching(r"(?:[0-9][0-9A-Za-z.+-]{0,63})?")]
Start = Annotated[
    str, matching(r"retained|now|days:([1-9]|[1-9][0-9]|[12][0-9][0-9]|3[0-5][0-9]|36[0-5])")
]  # from where a new device reads
Hours = Annotated[
    str, matching(r"(?!(.{5})-\1)([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)")
]  # the end is not the beginning, which would say none as well as all
UtcOffset = Annotated[str, matching(r"[+-](0[0-9]|1[0-4]):[0-5][0-9]")]
Printable = Annotated[str, matching(r"[\x21-\x7e]{0,512}")]
KeySet = Annotated[str, matching(r"https?://[\x21-\x7e]{1,2000}|(?!https?:)[^\x00-\x1f\x7f]{0,1024}")]
ProviderName = Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")]
