"""Which URLs may be called when somebody else chose them (SSRF; safety SEC-8). Pure: no socket, no resolver.

`parse_target` judges the text, `Guard.check` judges the addresses that the name turned out to have; the transport
connects to exactly those. The deny table is ours: the standard library's `is_global` has other opinions.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

__all__ = ["Exemption", "Guard", "Target", "TargetRefused", "address_denied", "parse_target"]

URL_CHARS_MAX = 2048
HOST_CHARS_MAX = 253
PORTS = frozenset({443})
URL_INVALID = "endpoint_url_invalid"
ADDRESS_DENIED = "endpoint_address_denied"

Ip = IPv4Address | IPv6Address
Net = IPv4Network | IPv6Network

DENIED_V4 = tuple(
    IPv4Network(net)
    for net in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",
    )
)
ALLOWED_V6 = IPv6Network("2000::/3")  # global unicast; everything outside is denied
DENIED_V6 = tuple(
    IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
)
# No exemption reaches these: link-local, and where clouds serve credentials.
NEVER = tuple(
    ip_network(net)
    for net in (
        *("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32"),
        *("fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128"),
    )
)
MAPPED = IPv6Network("::ffff:0:0/96")
CARRIERS_96 = (MAPPED, IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))  # an IPv4 address in the last 32 bits
SIX_TO_FOUR = IPv6Network("2002::/16")  # ... and here in the bits after the prefix

NAMES_DENIED = frozenset(  # each also as the end of a longer name
    ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "svc", "cluster.local", "onion")
)

_URL = re.compile(r"(?i:(https?))://([^/?#]*)(/[^?#]*)?(\?[^#]*)?")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([1-9][0-9]{0,4}))?")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\u2028\u2029]")
_LABEL = re.compile(r"[a-z0-9-]{1,63}")


class TargetRefused(Exception):  # noqa: N818 - it is a refusal, by design
    """A URL that must not be called: `code` is `endpoint_url_invalid` or `endpoint_address_denied`.

    The sentence is for whoever wrote the URL; it never names an address that the relay resolved.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def _unwrapped(ip: Ip) -> Ip:
    if isinstance(ip, IPv6Address) and ip in MAPPED:
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip


def address_denied(ip: str | Ip, *, also: Iterable[Net] = ()) -> bool:
    """Whether no request may go to `ip`: by the deny table, or by the configured networks in `also`."""
    try:
        plain = _unwrapped(ip_address(ip) if isinstance(ip, str) else ip)
    except ValueError:
        return True
    if any(plain in net for net in also):
        return True
    if isinstance(plain, IPv4Address):
        return any(plain in net for net in DENIED_V4)
    return plain.scope_id is not None or plain not in ALLOWED_V6 or any(plain in net for net in DENIED_V6)


def _never(ip: Ip) -> bool:
    """Link-local or metadata, also when carried inside another address."""
    forms: list[Ip] = [ip]
    if isinstance(ip, IPv6Address):
        if any(ip in net for net in CARRIERS_96):
            forms.append(IPv4Address(int(ip) & 0xFFFF_FFFF))
        if ip in SIX_TO_FOUR:
            forms.append(IPv4Address((int(ip) >> 80) & 0xFFFF_FFFF))
    return any(form in net for form in forms for net in NEVER)


@dataclass(frozen=True, slots=True)
class Exemption:
    """An internal target that the operator allows: an exact host or a range of addresses, with ports."""

    host: str | None
    network: Net | None
    ports: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `backend.internal:8080`, `127.0.0.1:8080,8081`, `10.1.0.0/16:443`, `[fd00::/8]:8443`.

        Raises ValueError with a sentence.
        """
        name, colon, listed = text.strip().rpartition(":")
        ports = [port.strip() for port in listed.split(",")]
        if not colon or not all(p.isascii() and p.isdigit() and 0 < int(p) < 65_536 for p in ports):
            raise ValueError(f"{text!r}: write host:port or network:port, several ports with commas between.")
        name = name.removeprefix("[").removesuffix("]").lower()
        allowed = frozenset(int(port) for port in ports)
        try:
            return cls(None, ip_network(name), allowed)
        except ValueError:
            if "/" in name or not all(_LABEL.fullmatch(label) for label in name.split(".")) or _numeric(name):
                raise ValueError(f"{text!r}: {name!r} is neither a host name nor a network.") from None
        return cls(name, None, allowed)

    def __str__(self) -> str:
        where = self.host if self.host is not None else str(self.network)
        where = f"[{where}]" if ":" in where else where
        return f"{where}:{','.join(str(port) for port in sorted(self.ports))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL that passed the rules about its text. Its addresses still have to pass `Guard.check`."""

    scheme: str
    host: str  # ASCII, lower case, without a final dot or brackets
    port: int
    path: str  # with the query
    host_exempt: bool = False  # the operator listed this very host and port
    range_only: bool = False  # it passed only because of an exempt range: every address must be in one

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"https": 443, "http": 80}[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def _numeric(host: str) -> bool:
    """Whether some resolver may read `host` as an address: 127.1, 0x7f.1, 2130706433, 0177.0.0.1."""
    last = host.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


def _ascii_host(text: str) -> str:
    try:
        host = text.encode("idna").decode("ascii") if not text.isascii() else text
    except UnicodeError:
        raise TargetRefused(URL_INVALID, "The URL's host is not a valid name.") from None
    host = host.lower().removesuffix(".")
    if not host or len(host) > HOST_CHARS_MAX:
        raise TargetRefused(URL_INVALID, f"The URL's host must have 1 to {HOST_CHARS_MAX} characters.")
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise TargetRefused(URL_INVALID, "The URL's host may only have labels of a-z, 0-9 and '-', up to 63 each.")
    return host


def parse_target(
    url: str,
    *,
    exemptions: Iterable[Exemption] = (),
    allow_http: bool = False,
    ports: Iterable[int] = PORTS,
    names_denied: Iterable[str] = (),
) -> Target:
    """The parts of `url`, if its text is fit to be called (SEC-8 rules 1 to 3). Raises TargetRefused."""
    if len(url) > URL_CHARS_MAX:
        raise TargetRefused(URL_INVALID, f"The URL is longer than {URL_CHARS_MAX} characters.")
    if _FORBIDDEN.search(url):
        raise TargetRefused(URL_INVALID, "The URL has a space, a backslash or a control character.")
    if "#" in url:
        raise TargetRefused(URL_INVALID, "The URL has a fragment; leave out '#' and what follows.")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise TargetRefused(URL_INVALID, "Write an absolute https:// URL.")
    scheme, authority, path, query = parts[1].lower(), parts[2], parts[3] or "/", parts[4] or ""
    if "@" in authority:
        raise TargetRefused(URL_INVALID, "The URL has a user name or password; leave it out.")
    if not (path + query).isascii():
        raise TargetRefused(URL_INVALID, "Percent-encode what is not ASCII in the URL's path and query.")
    place = _AUTHORITY.fullmatch(authority)
    if place is None:
        raise TargetRefused(URL_INVALID, "The URL's host or port is not valid.")
    port = int(place[2]) if place[2] else (443 if scheme == "https" else 80)
    if port > 65_535:
        raise TargetRefused(URL_INVALID, "The URL's port is not valid.")

    literal = _canonical_address(place[1])
    host = str(literal) if literal is not None else _host_or_refuse(place[1])
    rules = [rule for rule in exemptions if port in rule.ports]
    host_exempt = any(rule.host == host for rule in rules)
    in_range = any(rule.network is not None for rule in rules)
    if literal is not None:
        # The one literal that is let through: written plainly, and inside what the operator listed.
        if not any(rule.network is not None and literal in rule.network for rule in rules) or _never(literal):
            raise TargetRefused(ADDRESS_DENIED, "The URL names an address; use a host name.")
        return Target(scheme=scheme, host=host, port=port, path=path + query, range_only=True)

    refusal = _plain_refusal(scheme, host, port, allow_http=allow_http, ports=ports, names_denied=names_denied)
    if refusal is not None and not host_exempt and not in_range:
        raise refusal
    return Target(
        scheme=scheme,
        host=host,
        port=port,
        path=path + query,
        host_exempt=host_exempt,
        range_only=refusal is not None and not host_exempt,
    )


def _canonical_address(text: str) -> Ip | None:
    try:
        if text.startswith("["):
            return IPv6Address(text[1:-1])
        return IPv4Address(text) if text.isascii() else None
    except ValueError:
        return None


def _host_or_refuse(text: str) -> str:
    if text.startswith("["):
        raise TargetRefused(ADDRESS_DENIED, "The URL names an address; use a host name.")
    host = _ascii_host(text)
    if _numeric(host):
        raise TargetRefused(ADDRESS_DENIED, "The URL names an address; use a host name.")
    return host


def _plain_refusal(
    scheme: str, host: str, port: int, *, allow_http: bool, ports: Iterable[int], names_denied: Iterable[str]
) -> TargetRefused | None:
    """What an exemption may forgive: http, the port, and names of internal places."""
    if scheme != "https" and not allow_http:
        return TargetRefused(URL_INVALID, "Write an https:// URL; http is not allowed here.")
    if port not in ports and not (scheme == "http" and port == 80):
        return TargetRefused(URL_INVALID, f"Port {port} may not be called.")
    if "." not in host:
        return TargetRefused(ADDRESS_DENIED, "The URL's host is a name without a dot.")
    for name in (*NAMES_DENIED, *(own.lower().rstrip(".") for own in names_denied)):
        if host == name or host.endswith(f".{name}"):
            return TargetRefused(ADDRESS_DENIED, f"Hosts named {name} may not be called.")
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """The operator's policy for URLs that others chose."""

    exemptions: tuple[Exemption, ...] = ()
    allow_http: bool = False
    ports: frozenset[int] = PORTS
    names_denied: frozenset[str] = frozenset()  # e.g. the relay's own public names
    networks_denied: tuple[Net, ...] = ()  # e.g. the relay's own addresses

    def parse(self, url: str) -> Target:
        """See `parse_target`."""
        return parse_target(
            url,
            exemptions=self.exemptions,
            allow_http=self.allow_http,
            ports=self.ports,
            names_denied=self.names_denied,
        )

    def check(self, target: Target, addresses: Iterable[str]) -> tuple[str, ...]:
        """The addresses, in their order, if all of them may be called. One that may not refuses all."""
        seen = tuple(dict.fromkeys(addresses))
        if not seen or any(not self._permits(target, address) for address in seen):
            raise TargetRefused(ADDRESS_DENIED, "The URL's host has an address that may not be called.")
        return seen

    def _permits(self, target: Target, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        if _never(ip):
            return False
        if target.host_exempt:
            return True
        plain = _unwrapped(ip)
        if any(
            rule.network is not None and target.port in rule.ports and plain in rule.network for rule in self.exemptions
        ):
            return True
        return not target.range_only and not address_denied(plain, also=self.networks_denied)
