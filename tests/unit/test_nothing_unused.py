"""What is declared is used: settings, error codes, fields of log lines, metrics. What nobody uses is deleted."""

import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

import relay
from relay.errors import CODES
from relay.model import Policy
from relay.telemetry.fields import FIELDS
from relay.telemetry.metrics import Metrics

PRODUCT = Path(relay.__file__).parent
DECLARED = {"config", "model.py", "api/table", "telemetry/fields.py"}  # where things are named, but not used


@cache
def text() -> str:
    files = [one for one in PRODUCT.rglob("*.py") if not any(one.is_relative_to(PRODUCT / place) for place in DECLARED)]
    return "\n".join(one.read_text(encoding="utf-8") for one in files)


@pytest.mark.parametrize("name", [one.name for one in dataclasses.fields(Policy)])
def test_a_setting_of_the_policy_decides_something(name: str) -> None:
    assert re.search(rf"\.{name}\b", text())


@pytest.mark.parametrize("code", sorted(CODES.keys() - {"endpoint_url_invalid", "endpoint_address_denied"}))
def test_an_error_code_is_given_by_something(code: str) -> None:  # those two: by providers.guard
    assert re.search(rf'"{code}"(?!: \()', text())


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_field_of_log_lines_is_said_by_something(field: str) -> None:
    assert re.search(rf'\b{field}=|"{field}":', text())


@pytest.mark.parametrize(
    "name", sorted(one for one in vars(Metrics()) if not one.startswith("_") and one != "registry")
)
def test_a_metric_is_measured(name: str) -> None:
    assert len(re.findall(rf"\.{name}\b", text())) > 1  # its making, and a use
