"""The accounts that the documents show are ones that the relay takes."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from providers.http_call import HttpCallProvider
from providers.loading import configured, discover

DOCUMENTS = Path(__file__).parents[2] / "config" / "docs"
DOCUMENT = DOCUMENTS / "xiaomi-oppo-vivo-meizu.md"
PLACEHOLDER = "0123456789abcdefABCDEF"
SECRET_PLACEHOLDER = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def accounts(document: Path = DOCUMENT, *, placeholder: str = PLACEHOLDER) -> dict[str, dict[str, Any]]:
    blocks = re.findall(r"```toml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, dict[str, Any]] = {}
    for block in blocks:
        for name, table in tomllib.loads(block.replace("…", placeholder))["accounts"].items():
            found.setdefault(name, {}).update(table)
    return found


@pytest.mark.parametrize("name", ["xiaomi", "oppo", "vivo", "meizu"])
def test_a_documented_account_is_taken_with_the_documented_receipts(name: str) -> None:
    settings = {**accounts()[name], "receipts": accounts()["vivo"]["receipts"]}
    (provider,) = (one.provider for one in discover() if one.name == settings["provider"])
    assert provider is not None
    del settings["provider"]
    assert configured(provider, settings)


def test_a_gateway_is_set_up_as_documented() -> None:
    settings = accounts(DOCUMENTS / "providers.md", placeholder=SECRET_PLACEHOLDER)["gateway"]
    assert settings.pop("provider") == HttpCallProvider.name
    assert configured(HttpCallProvider, settings)


def test_every_key_of_the_table_is_a_setting_of_those_that_it_names() -> None:
    known = {one.name: one.provider for one in discover()}
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 8
    for key, named in rows:
        for vendor in ("xiaomi", "oppo", "vivo", "meizu") if named == "all" else named.split(", "):
            provider = known[vendor]
            assert provider is not None
            assert key in provider.Config.model_fields, (key, vendor)
