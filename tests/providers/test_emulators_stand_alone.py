"""An adapter and its emulator share no code: a mistake that both had would cancel out, and no test would see it."""

import ast
from pathlib import Path

import pytest

import providers

ROOT = Path(providers.__file__).parent
EMULATORS = sorted((ROOT / "sandbox").glob("*.py"))
OTHERS = sorted([*ROOT.glob("*.py"), *(ROOT / "receipts").glob("*.py")])


def imported(file: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "providers" else {module}
    return {name for name in found if name.partition(".")[0] in {"providers", "relay"}}


@pytest.mark.parametrize("file", EMULATORS, ids=lambda file: file.stem)
def test_an_emulator_knows_emulators_alone(file: Path) -> None:
    assert {name for name in imported(file) if not name.startswith("providers.sandbox")} == set()


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: f"{file.parent.name}.{file.stem}")
def test_nothing_else_knows_the_emulators_or_what_is_there_to_test_with(file: Path) -> None:
    assert {name for name in imported(file) if name.startswith(("providers.sandbox", "providers.testing"))} == set()
