"""What config/examples has for operators is about the relay that there is."""

import re
from configparser import ConfigParser
from pathlib import Path

from relay.cli.exits import EX_CONFIG, EX_CUT_OFF, EX_IOERR, EX_UNAVAILABLE
from relay.config import Server
from relay.telemetry.metrics import Metrics

EXAMPLES = Path(__file__).parents[2] / "config/examples"
PAGE = Path(__file__).parents[2] / "config/docs/running.md"


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


def test_the_page_says_what_each_exit_of_serve_means() -> None:
    """69: a PostgreSQL that did not come within a minute."""
    said = [int(code) for code in re.findall(r"^\| ([0-9]+) \|", PAGE.read_text(), re.MULTILINE)]
    assert said == [0, EX_CUT_OFF, EX_UNAVAILABLE, EX_IOERR, EX_CONFIG]
