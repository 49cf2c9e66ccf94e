"""What an account's settings need from the vendor beside being right: `relay check` says it."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from providers.loading import configured, discover
from relay.cli import main

HUAWEI = {"app_id": "1", "app_secret": "s"}
OPPO = {"app_key": "k", "master_secret": "m"}
VIVO = {"app_id": 1, "app_key": "k", "app_secret": "s"}
MEIZU = {"app_id": 1, "app_secret": "s"}
HONOR = {"app_id": "1", "client_id": "c", "client_secret": "s"}


def advice(vendor: str, settings: dict[str, Any]) -> list[str]:
    (kind,) = (one.provider for one in discover() if one.name == vendor)
    assert kind is not None
    return configured(kind, settings).advice()


@pytest.mark.parametrize(
    ("vendor", "settings", "said"),
    [
        ("huawei", HUAWEI, ["category: without one"]),
        ("huawei", HUAWEI | {"category": "MARKETING"}, []),
        (
            "huawei",
            HUAWEI | {"category": "IM", "categories": {"o": "EXPRESS"}},
            ["category: EXPRESS, IM must be granted"],
        ),
        ("huawei", HUAWEI | {"category": "MARKETING", "urgency_high": True}, ["urgency_high"]),
        ("honor", HONOR, ["importance: NORMAL"]),
        ("honor", HONOR | {"importance": "LOW"}, []),
        ("honor", HONOR | {"importance": "LOW", "importances": {"chat": "NORMAL"}}, ["importance: NORMAL"]),
        ("xiaomi", {"package": "a.b", "app_secret": "s", "channels": {"default": "1"}}, ["channels: Xiaomi must have"]),
        ("oppo", OPPO | {"classes": {"default": {"channel_id": "c", "category": "ORDER"}}}, ["classes: a channel"]),
        (
            "oppo",
            OPPO | {"classes": {"default": {"channel_id": "c"}}},
            ["classes: a channel", "classes: without a cat"],
        ),
        ("vivo", VIVO | {"classes": {"default": {"category": "IM"}}}, ["classes: IM make a system"]),
        ("vivo", VIVO | {"classes": {"default": {"category": "NEWS"}}}, ["classes: NEWS make an operational"]),
        ("meizu", MEIZU | {"classes": {"default": {"private": True}}}, ["classes: private is for"]),
        ("meizu", MEIZU | {"classes": {"default": {"private": False}}}, ["classes: a device gets three"]),
        ("ntfy", {}, []),
    ],
)
def test_each_vendor_s_conditions(vendor: str, settings: dict[str, Any], said: list[str]) -> None:
    found = advice(vendor, settings)
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True)), found


def test_check_shows_them_beside_the_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relay.toml").write_text(
        """
        [accounts.phones]
        provider = "huawei"
        app_id = "1"
        app_secret = "s"
        category = "IM"

        [accounts.own]
        provider = "ntfy"
        """
    )
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 0, done.output
    notes = [line for line in done.output.splitlines() if line.startswith("note ")]
    assert len(notes) == 1
    assert "phones: category: IM must be granted" in notes[0]
    assert not (tmp_path / "relay.db").exists()


def test_check_says_which_accounts_can_carry_nothing_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relay.toml").write_text(
        """
        [app]
        privacy = "sealed"
        [accounts.own]
        provider = "ntfy"
        [accounts.gateway]
        provider = "http"
        url = "https://push.example.org/"
        secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
        """
    )
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 0, done.output
    (note,) = [line for line in done.output.splitlines() if line.startswith("note ")]
    assert "own: privacy: ntfy can carry nothing sealed" in note
