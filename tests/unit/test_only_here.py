"""What only one place in the code may do (protocol §17): read from the code itself."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2] / "relay"


@cache
def functions(path: Path) -> tuple[tuple[str, ast.AST], ...]:
    """Every function of a file, and every statement outside of one under the name that it assigns."""
    return tuple(_functions(path))


def _functions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                yield inner.name, inner


def callers(folder: str, called: str, *, method: bool) -> set[str]:
    """Where a function or method of this name is called, as `file.function`."""
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for name, body in functions(path):
            for call in ast.walk(body):
                if not isinstance(call, ast.Call):
                    continue
                target = call.func
                if (isinstance(target, ast.Attribute) and method and target.attr == called) or (
                    isinstance(target, ast.Name) and not method and target.id == called
                ):
                    found.add(f"{path.stem}.{name}")
    return found


def test_i6_cursors_are_sealed_for_a_page_a_reset_or_a_handshake_alone() -> None:
    """I6: a cursor leaves the relay only with the page that it covers, or as reset data."""
    assert callers("", "seal", method=False) == {"page.cursor", "timeline.cursor"}
    users = {one.partition(".")[0] for one in callers("", "cursor", method=True)}
    assert users == {"page", "timeline", "handshake", "shared"}


def test_i21_only_rearm_raises_or_clears_the_time_of_a_push() -> None:
    """I21: every other statement that writes `due_ms` of a job lowers it."""
    writers = set()
    for path in ROOT.rglob("*.py"):
        for name, body in functions(path):
            if not any(isinstance(one, ast.Name) and one.id == "push_job" for one in ast.walk(body)):
                continue
            text = ast.unparse(body)
            if ("update(push_job)" in text or "conn, push_job," in text) and ("due_ms=" in text or "'due_ms'" in text):
                writers.add(f"{path.stem}.{name}")
    lowering = {"queue.lower_due", "parked._release", "parked._hurry"}
    beginning = {"queue.create_job"}
    assert writers == lowering | beginning
    assert callers("", "set_rearmed", method=True) == {"locked.flush", "planning.plan_due"}


ACCEPTED = {"accept.take", "accept._put_off", "accept._post", "send.replayed"}  # inside of a transaction
KEEPING = {"service.accept", "service.accept_many"}  # give it out when that is on disk
ANSWERING = {
    "backend.send": "accept",
    "backend.send_batch": "accept_many",
    "device_sends.over_http": "_send",
    "device_sends._send": "accept",
    "webhooks.test": "test",
    "webhooks.replay": "replay",
    "device.challenge": "again",
}  # what each that answers 202 has awaited


def says_accepted(body: ast.AST) -> bool:
    """Whether it makes an answer of 202."""
    return any(
        isinstance(one, ast.Call) and one.args and isinstance(one.args[0], ast.Constant) and one.args[0].value == 202
        for one in ast.walk(body)
    )


def awaited(body: ast.AST) -> set[str]:
    """Methods whose outcome it waits for."""
    calls = [one.value for one in ast.walk(body) if isinstance(one, ast.Await)]
    return {one.func.attr for one in calls if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)}


def test_dur_1_nothing_answers_202_but_what_comes_from_a_commit() -> None:
    """DUR-1: an `Accepted` is made in transactions alone; who gives it out has awaited the commit, and catches nothing."""
    assert callers("", "Accepted", method=False) == ACCEPTED
    assert callers("", "Accepted", method=True) == set()
    everything = {
        f"{path.stem}.{name}": body
        for folder in ("api", "inbox")
        for path in (ROOT / folder).rglob("*.py")
        for name, body in functions(path)
    }
    answering = {
        f"{path.stem}.{name}"
        for path in (ROOT / "api").rglob("*.py")
        for name, body in functions(path)
        if says_accepted(body)
    }
    assert answering == ANSWERING.keys() - {"device_sends._send"}
    for name, kept_by in ANSWERING.items():
        assert kept_by in awaited(everything[name]), name
    for name in KEEPING:
        assert awaited(everything[name]) & {"write", "write_batched"}, name
    for name in KEEPING | (ANSWERING.keys() - {"backend.send_batch"}):  # a batch answers each item that it refuses
        assert not any(isinstance(one, ast.Try) for one in ast.walk(everything[name])), name
