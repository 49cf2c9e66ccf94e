"""`relay keys vapid`: makes a key that an account takes, and loses none."""

import re
import stat
import tomllib
from pathlib import Path

from click.testing import CliRunner, Result

from providers.loading import configured
from providers.webpush import WebPushConfig, WebPushProvider
from providers.webpush_crypto import base64url, public_bytes
from relay.cli import main


def vapid(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["keys", "vapid", *map(str, arguments)])


def public_of(line: str) -> str:
    """The public key of the account that this line of TOML makes."""
    config = configured(WebPushProvider, {**tomllib.loads(line), "vapid_subject": "mailto:push@example.com"})
    assert isinstance(config, WebPushConfig)
    return base64url(public_bytes(config.keys[0]))


def test_it_prints_a_line_for_the_account_and_the_key_for_browsers() -> None:
    made = [vapid().output.splitlines() for _ in range(2)]
    for line, said in made:
        assert said == f"public key: {public_of(line)}"
        assert re.fullmatch("[A-Za-z0-9_-]{87}", public_of(line))
    assert made[0] != made[1]


def test_the_file_is_for_its_owner_and_shows_its_public_key_again(tmp_path: Path) -> None:
    file = tmp_path / "vapid.key"
    made = vapid("--file", file)
    line, said = made.output.splitlines()
    assert (made.exit_code, said) == (0, f"public key: {public_of(line)}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in made.output
    assert vapid("--show", file).output.splitlines() == [said]


def test_a_key_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "vapid.key"
    vapid("--file", file)
    before = file.read_bytes()
    again = vapid("--file", file)
    assert (again.exit_code, "is there already" in again.output) == (73, True)
    assert file.read_bytes() == before


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    (tmp_path / "no.key").write_text("no key")
    assert vapid("--show", tmp_path / "no.key").exit_code == 65
    assert vapid("--file", tmp_path / "nowhere" / "x").exit_code == 73
    assert vapid("--show", tmp_path / "no.key", "--file", tmp_path / "x").exit_code == 2
