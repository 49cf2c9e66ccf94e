"""Certificates that end: who is told, how often, and how long before."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from relay.clock import SystemClock
from relay.config import Settings
from relay.push.accounts import Account
from relay.push.expiry import DAY_MS, news, stage
from relay.push.from_settings import build_accounts
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


def authority(*, days: int) -> str:
    """A certificate that ends so many days from now, in PEM form."""
    key, now = generate_private_key(SECP256R1()), datetime.fromtimestamp(NOW / 1000, UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "home")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1000))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


def ends_in_days(**settings: Any) -> float | None:
    built = build_accounts(Settings.model_validate({"accounts": {"home": settings}}), SystemClock())
    ends_ms = built.all()[0].credential_expires_ms
    return None if ends_ms is None else (ends_ms - NOW) / DAY_MS


def test_an_account_s_authorities_end_with_the_last_of_them() -> None:
    old, new = authority(days=5), authority(days=9)
    for ca, days in ((old, 5), (new + old, 9), (old + new, 9)):
        assert ends_in_days(provider="ntfy", settings={"base_url": "https://ntfy.home", "ca": ca}) == days
    assert ends_in_days(provider="ntfy", settings={}) is None


def test_of_a_credential_and_what_the_account_trusts_the_first_to_end_counts() -> None:
    for own, trusted in ((3, 8), (8, 3)):
        one = account(NOW + own * DAY_MS)
        one.trust_ends_ms = NOW + trusted * DAY_MS
        (event,) = news([one], NOW)
        assert event.data["days"] == 3
