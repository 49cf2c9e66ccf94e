"""What a request is counted among, however its target is written."""

import pytest
from aiohttp.test_utils import make_mocked_request

from relay.api.gate import Gate, Lane


@pytest.mark.parametrize("host", ["", "http://relay.example", "HTTPS://relay.example:8443"])
@pytest.mark.parametrize(
    ("target", "lane"),
    [
        ("/v1/device/ack", None),
        ("/v1/device/%61ck", None),
        ("/healthz", None),
        ("/healthz#x", None),
        ("/v1/device/sync", Lane.SYNCS),
        ("/v1/device/sync?cursor=x", Lane.SYNCS),
        ("/v1/device/sync?wait=0", Lane.SYNCS),
        ("/v1/device/sync?cursor=x&wait=30", None),
        ("/v1/device/sync?w%61it=30", None),
        ("/v1/device/s%79nc?wait=30", None),
        ("/v1/messages", Lane.HANDLERS),
    ],
)
def test_a_request_is_counted_among_its_kind(host: str, target: str, lane: Lane | None) -> None:
    """A target with the host in it is the same one (RFC 9112, 3.2.2): proxies write it so."""
    assert Gate().enter(make_mocked_request("GET", host + target)) is lane
