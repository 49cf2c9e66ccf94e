"""Certificates that end: who is told, how often, and how long before."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.push.accounts import Account
from relay.push.expiry import DAY_MS, news, stage
from relay.push.limits import Bucket

NOW = 1_764_000_000_000


def account(expires_ms: int | None, *, knows: bool = True) -> Account:
    provider = SimpleNamespace(name="apns", capabilities=None)
    if knows:
        provider.credential_expires_s = lambda: None if expires_ms is None else expires_ms / 1000
    return Account(app_id="a", name="main", provider=cast(Any, provider), bucket=Bucket(9, 9))


@pytest.mark.parametrize(
    ("left_days", "told"),
    [(31, None), (30, 30), (15, 30), (14, 14), (7.5, 14), (7, 7), (2.9, 3), (1, 1), (0.5, 1), (0, 0), (-5, 0)],
)
def test_it_is_told_at_each_stage_before_the_end(left_days: float, told: int | None) -> None:
    assert stage(NOW + int(left_days * DAY_MS), NOW) == told


def test_one_stage_is_one_event_however_often_anybody_looks() -> None:
    expires_ms = NOW + 10 * DAY_MS
    (first,) = news([account(expires_ms)], NOW)
    (again,) = news([account(expires_ms)], NOW + DAY_MS)
    (later,) = news([account(expires_ms)], NOW + 4 * DAY_MS)
    (renewed,) = news([account(expires_ms + DAY_MS)], NOW)
    assert first.event_id == again.event_id
    assert len({first.event_id, later.event_id, renewed.event_id}) == 3
    assert (first.type, first.data["account"], first.data["days"]) == ("account.credential_expiring", "main", 14)


def test_of_keys_that_never_end_nothing_is_told() -> None:
    assert news([account(None), account(None, knows=False)], NOW) == []
