"""Callers who come too often (safety 5, SEC-3): each has a bucket, and there is a bound on buckets."""

import pytest

from relay.api.limits import RateLimiter, network_of


def test_a_caller_has_its_burst_and_then_its_rate() -> None:
    limiter = RateLimiter(rate_per_s=2, burst=3)
    assert [limiter.take("a", 1000) for _ in range(4)] == [True, True, True, False]
    assert not limiter.take("a", 1499)
    assert limiter.take("a", 1500)
    assert not limiter.take("a", 1500)


def test_one_caller_does_not_use_up_what_is_another_s() -> None:
    limiter = RateLimiter(rate_per_s=1, burst=1)
    assert limiter.take("a", 0)
    assert limiter.take("b", 0)


def test_asking_whether_there_is_something_left_takes_nothing() -> None:
    limiter = RateLimiter(rate_per_s=1, burst=1)
    assert not limiter.empty("a", 0)
    assert limiter.take("a", 0)
    assert limiter.empty("a", 0)
    assert not limiter.empty("a", 1000)
    assert limiter.take("a", 1000)


def test_the_caller_not_seen_for_longest_is_forgotten_first() -> None:
    limiter = RateLimiter(rate_per_s=1, burst=1, keys_max=2)
    for key in ("a", "b", "a", "c"):
        limiter.take(key, 0)
    assert len(limiter) == 2
    assert limiter.empty("a", 0)
    assert not limiter.empty("b", 0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
        ("", "unknown"),
        (None, "unknown"),
        ("/run/relay.sock", "unknown"),
    ],
)
def test_an_address_counts_for_its_network(address: str | None, network: str) -> None:
    assert network_of(address) == network


def test_an_ipv4_caller_on_an_ipv6_socket_is_not_taken_for_this_machine() -> None:
    assert network_of("::ffff:203.0.113.9") != network_of("::1")
