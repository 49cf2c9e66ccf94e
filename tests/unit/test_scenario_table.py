"""tests/README.md names tests that exist, for each fault scenario and invariant; none has the number of what it calls open."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROWS = dict(re.findall(r"^\| ((?:F|FLT-|K|I|CR-|L|SEC-|OVL-)\d+) \| (.+) \|$", (TESTS / "README.md").read_text(), re.M))
LAST = {"F": 100, "FLT-": 42, "K": 20, "I": 45, "CR-": 9, "L": 11, "SEC-": 19, "OVL-": 7}
ELSEWHERE = {"SEC-13", "SEC-18"}  # of single vendors: in tests/providers; there is no dashboard
EVERY = [one for kind, last in LAST.items() for n in range(1, last + 1) if (one := f"{kind}{n}") not in ELSEWHERE]
REFEREE = " ".join(path.read_text() for path in (TESTS / "simulation").glob("*.py"))
POINTS = set(re.findall(r'^    "([\w.]+)": ', (TESTS / "faults" / "failpoints.py").read_text(), re.M))
KINDS = set(re.findall(r'^    "(\w+)": \(', (TESTS / "simulation" / "faults.py").read_text(), re.M))


def named(tests: str) -> list[tuple[str, str]]:
    """The files that a row names, each with its test or none."""
    return re.findall(r"([\w/]+\.py)(?:::(\w+))?", tests)


def test_every_scenario_has_one_row() -> None:
    assert list(ROWS) == EVERY


@pytest.mark.parametrize("row", EVERY)
def test_a_row_names_what_there_is(row: str) -> None:
    tests = ROWS[row]
    kinds = re.findall(r"\bsim (\w+)", tests)
    referee = re.search(r"\breferee\b(?!\.py)", tests) is not None
    assert not referee or re.search(rf"(?<!SIM-)\b{row}\b", REFEREE), f"the simulation checks no {row}"
    points = re.findall(r"\bpoint ([\w.]+)", tests)
    assert named(tests) or kinds or points or referee or tests.startswith("open: ")
    assert set(kinds) <= KINDS
    assert set(points) <= POINTS
    for path, name in named(tests):
        text = (TESTS / path).read_text()
        assert not name or re.search(rf"^(async )?def {name}\b", text, re.M), f"{path} has no {name}"


def test_what_is_called_open_is_not_tested_under_its_number() -> None:
    names = " ".join(re.findall(r"def (test_\w+)", " ".join(path.read_text() for path in TESTS.rglob("test_*.py"))))
    found = {f"F{n}" for n in re.findall(r"_f(\d+)(?=_)", names)} | {
        f"FLT-{n}" for n in re.findall(r"_flt_(\d+)", names)
    }
    assert not [row for row in found if ROWS.get(row, "").startswith("open: ")]


def test_the_page_on_reliability_counts_the_simulations_faults_right() -> None:
    page = (TESTS.parent / "config" / "docs" / "reliability.md").read_text()
    assert f"and {len(KINDS)} kinds of faults" in page


@cache
def first_lines(path: str) -> dict[str, str]:
    """Each test's name (empty: the file itself) with the first line of its docstring."""
    module = ast.parse((TESTS / path).read_text())
    tests = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {"": _first_line(module)} | {node.name: _first_line(node) for node in tests}


def _first_line(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


@pytest.mark.parametrize("row", [one for one in EVERY if re.fullmatch(r"F\d+", one)])
def test_a_test_of_a_fault_scenario_names_its_number(row: str) -> None:
    for path, name in named(ROWS[row]):
        by_name = re.search(rf"_{row.lower()}(?=_)", name)
        assert by_name or re.search(rf"\b{row}\b", first_lines(path)[name]), f"{path}::{name} does not name {row}"
