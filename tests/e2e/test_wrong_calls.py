"""The command line, wrongly called: one line says what is wrong and how to mend it, and nothing is done."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from relay.cli import main

ASKING = [
    ("push", "accounts"),
    ("push", "dead"),
    ("push", "requeue"),
    ("push", "unpark", "fcm-main"),
    ("logs", "pull"),
]


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RELAY_API_KEY", "RELAY_URL"):
        monkeypatch.delenv(name, raising=False)


def call(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://relay.example", "http://"])
@pytest.mark.parametrize(
    "words",
    [
        *((*words, "--key", "rk_x", "--url") for words in ASKING),
        ("providers", "--key", "rk_x", "--url"),
        ("conformance", "--key", "rk_x"),
        ("sandbox", "--host", "256.0.0.1", "--relay"),  # which could not start, either
    ],
)
def test_what_is_no_url_is_said_so(words: tuple[str, ...], url: str) -> None:
    ran = call(*words, url)
    assert ran.exit_code == 2, ran.output
    assert "must be the URL of a relay, like http://127.0.0.1:8080" in ran.output


def test_a_url_from_the_environment_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_URL", "relay.example")
    ran = call("push", "accounts", "--key", "rk_x")
    assert ran.exit_code == 2
    assert "RELAY_URL" in ran.output


@pytest.mark.parametrize("words", ASKING)
def test_a_key_that_is_not_given_is_asked_for_by_both_its_names(words: tuple[str, ...]) -> None:
    ran = call(*words)
    assert ran.exit_code == 2
    assert "--key" in ran.output.splitlines()[-1]
    assert "RELAY_API_KEY" in ran.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("conformance", "--only", "ack-again", "--client", "true"), "Not played with a client: ack-again;"),
        (("conformance", "--only", "drain", "--key", "rk_x", "http://127.0.0.1:1"), "Not played with a server: drain;"),
        (("demo", "--vendors", "--web"), "one of --keep, --vendors and --web"),
        (("logs", "pull", "--key", "rk_x", "2026-05-03"), "write an hour as 2026-05-03T09"),
        (("logs", "pull", "--key", "rk_x", "../2026-05-03T09"), "write an hour as 2026-05-03T09"),
        (("logs", "pull", "--key", "rk_x", "2026-5-3T9"), "write an hour as 2026-05-03T09"),
        (("sandbox", "--host", "256.0.0.1", "--port", "99999"), "'--port'"),
    ],
)
def test_what_does_not_go_together_is_said_so(words: tuple[str, ...], said: str) -> None:
    ran = call(*words)
    assert ran.exit_code == 2, ran.output
    assert said in ran.output


@pytest.mark.parametrize("words", [*ASKING, ("providers",)])
async def test_a_key_that_is_refused_is_said_in_words_of_the_command_line(words: tuple[str, ...]) -> None:
    async def refuse(_: web.Request) -> web.Response:
        problem = {"code": "unauthenticated", "detail": "Send `Authorization: Bearer` with a valid API key."}
        return web.json_response(problem, status=401, content_type="application/problem+json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    async with TestServer(app) as server:
        ran = await asyncio.to_thread(call, *words, "--key", "rk_x", "--url", str(server.make_url("")))
    assert ran.exit_code in {1, 65}
    assert "refuses the API key" in ran.stderr
    assert "RELAY_API_KEY" in ran.stderr


def test_a_backup_that_is_not_made_is_said_in_one_line() -> None:
    """Whoever runs it by a timer is written to for every line on stderr."""
    ran = call("backup", "monday")
    assert ran.exit_code == 66
    assert len(ran.stderr.splitlines()) == 1
