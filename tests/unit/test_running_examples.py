"""What config/examples has for operators is about the relay that there is."""

import re
from configparser import ConfigParser
from pathlib import Path

from relay.cli.exits import EX_CONFIG
from relay.config import Server
from relay.telemetry.metrics import Metrics

EXAMPLES = Path(__file__).parents[2] / "config/examples"


def test_the_unit_waits_for_a_drain_and_does_not_repeat_a_mistake_in_the_configuration() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign] # names keep their capitals
    unit.read(EXAMPLES / "relay.service")
    service = unit["Service"]
    assert service.getint("TimeoutStopSec") > Server().drain_s
    assert service.getint("RestartPreventExitStatus") == EX_CONFIG


def test_alerts_are_about_metrics_that_there_are() -> None:
    named = set(re.findall(r"relay_\w+", " ".join(re.findall(r"expr: (.*)", (EXAMPLES / "alerts.yml").read_text()))))
    there = {sample for family in Metrics().registry.collect() for sample in (family.name, f"{family.name}_total")}
    assert named
    assert named - there == set()
