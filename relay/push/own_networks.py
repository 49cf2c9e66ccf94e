"""The addresses at which the relay itself listens: no URL that others chose may lead back to it (safety SEC-8)."""

import contextlib
import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

# Of the documentation: a datagram socket that is connected to them sends nothing, and has the address it would send from.
ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def own_networks(host: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """What `host` to listen on stands for, one network an address: for all interfaces, those that this machine goes out by."""
    found: set[str] = set()
    with contextlib.suppress(OSError):  # a name that isn't found: the start will tell
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    if any(ip_address(one.partition("%")[0]).is_unspecified for one in found):
        with contextlib.suppress(OSError):
            found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
        for family, elsewhere in ELSEWHERE:
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                found.add(probe.getsockname()[0])
    return tuple(ip_network(one.partition("%")[0]) for one in sorted(found))
