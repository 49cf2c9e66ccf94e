"""`relay conformance` against a real relay, as the server for the Python client, and against what it must find wrong."""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from click.testing import CliRunner
from relay_process import RelayProcess

from relay.cli import main
from relay.client.conformance.client_check import check_client
from relay.client.conformance.server_check import check_server
from relay.client.conformance.vectors import CLIENT, SERVER, load

CARELESS = Path(__file__).with_name("careless_client.py")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(
        tmp_path_factory.mktemp("relay"), {"RELAY_SERVER__QUIET_S": "0", "RELAY_APP__DEVICE_SENDS": "true"}
    )
    await relay.start()
    yield relay
    await relay.aclose()


async def conformance(*words: str) -> tuple[int, list[str]]:
    """Runs `relay conformance`; gives its exit code and what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "conformance", *words),
        env={name: value for name, value in os.environ.items() if name != "RELAY_API_KEY"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        out, _ = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode().splitlines()


@pytest.mark.asyncio(loop_scope="module")
async def test_this_relay_speaks_as_recorded(relay: RelayProcess) -> None:
    code, lines = await conformance(relay.url, "--key", relay.key)
    n = len(load(SERVER))
    assert (code, lines[-1]) == (0, f"{n} of {n} conversations went as recorded."), "\n".join(lines)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_python_client_speaks_as_recorded() -> None:
    code, lines = await conformance("--client", f"{sys.executable} -m relay.client")
    n = len(load(CLIENT))
    assert (code, lines[-1]) == (0, f"{n} of {n} conversations went as recorded."), "\n".join(lines)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_acks_what_it_cannot_have_stored_is_found_out() -> None:
    code, lines = await conformance("--client", f"{sys.executable} {CARELESS}", "--only", "page-with-a-hole")
    assert code == 1
    assert lines[0].startswith("DIFFERS page-with-a-hole")
    assert "acked a cursor that it was never given" in lines[1]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_relay_that_skips_a_number_is_found_out(relay: RelayProcess) -> None:
    """A middle box that raises every `to` plays the bad relay."""
    verdicts = await against(relay, lambda text: text.replace('"to":1,', '"to":2,'), "live")
    assert [(one.ok, one.detail) for one in verdicts] == [(False, "/to: 2, not 1")]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_relay_that_gives_another_cursor_the_second_time_is_found_out(relay: RelayProcess) -> None:
    acks = itertools.count(1)

    def change(text: str) -> str:
        return text.replace('"acked":1', '"acked":0') if '"acked":1' in text and next(acks) == 2 else text

    (verdict,) = await against(relay, change, "ack-again")
    assert (verdict.ok, verdict.step, verdict.detail) == (False, 7, "/acked: 0, not 1")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda text: text.replace('"cursor":', '"token":'), "/cursor: is missing"),
        (lambda text: f"[{text}]", "no object with a `type`: [{"),
        (lambda _: "<html>", "no JSON: <html>"),
    ],
)
async def test_a_relay_that_leaves_out_a_member_or_does_not_speak_our_words_is_found_out(
    relay: RelayProcess, change: Any, detail: str
) -> None:
    (verdict,) = await against(relay, change, "live")
    assert not verdict.ok
    assert detail in verdict.detail


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_ends_is_not_waited_for() -> None:
    code, lines = await conformance("--client", f"{sys.executable} -c raise(SystemExit(3))", "--only", "live")
    assert code == 1
    assert "the client's process ended with 3" in lines[1]


FOLLOWS_NOTHING = """
import asyncio, os
from relay.client import Client

async def main():
    async with Client(os.environ["RELAY_URL"], os.environ["RELAY_TOKEN"], cache=os.environ["RELAY_CACHE"]):
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.asyncio(loop_scope="module")
async def test_the_author_of_a_client_that_is_silent_is_told_what_it_should_have_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.client.conformance.client_check.ANSWER_S", 2.0)
    (tmp_path / "client.py").write_text(FOLLOWS_NOTHING)
    (verdict,) = [one async for one in check_client([sys.executable, str(tmp_path / "client.py")], only=("shared",))]
    assert not verdict.ok
    assert verdict.detail == (
        'the client did not say {"type": "follow", "ref": "{{ref_f}}", "open": ["{{group}}"]} in time'
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_a_relay_that_keeps_a_shared_page_to_itself_is_found_out(relay: RelayProcess) -> None:
    verdicts = await against(relay, lambda text: text.replace('"following":["', '"following":["x'), "shared")
    assert [one.ok for one in verdicts] == [False]


@pytest.mark.asyncio(loop_scope="module")
async def test_sends_are_left_out_where_devices_may_send_nothing(tmp_path: Path) -> None:
    """As on a relay whose settings nobody has touched."""
    relay = RelayProcess(tmp_path, {"RELAY_SERVER__QUIET_S": "0"})
    await relay.start()
    try:
        code, lines = await conformance(relay.url, "--key", relay.key)
    finally:
        await relay.aclose()
    sends = [f"skip   {one.name}: the server has not app.device_sends" for one in load(SERVER) if one.needs]
    assert code == 0, "\n".join(lines)
    assert [line for line in lines if line.startswith("skip")] == sends


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_that_the_server_refuses_is_said_once(relay: RelayProcess) -> None:
    """Every conversation would be refused for it, and each refused login counts against the address."""
    code, lines = await conformance(relay.url, "--key", "rk_nobody_s")
    assert (code, len(lines)) == (65, 1)
    assert "unauthenticated" in lines[0]


def test_a_server_that_does_not_answer_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.client.conformance.server_check.ANSWER_S", 0.0)
    ran = CliRunner().invoke(main, ["conformance", "http://127.0.0.1:1", "--key", "rk_x"])
    assert (ran.exit_code, ran.output) == (69, "The server at http://127.0.0.1:1 does not answer.\n")


async def against(relay: RelayProcess, change: Any, only: str) -> list[Any]:
    """Plays a conversation against the relay with everything that it says on its socket changed."""

    async def pass_on(request: web.Request) -> web.StreamResponse:
        import aiohttp

        headers = {
            name: request.headers[name] for name in ("Authorization", "Idempotency-Key") if name in request.headers
        }
        async with aiohttp.ClientSession() as http:
            if request.path != "/v1/device/ws":
                body = await request.read()
                headers |= {"Content-Type": "application/json"} if body else {}
                async with http.request(request.method, relay.url + request.path, headers=headers, data=body) as answer:
                    return web.Response(
                        status=answer.status, body=await answer.read(), content_type=answer.content_type
                    )
            ours = web.WebSocketResponse(protocols=["relay.v1.json"])
            await ours.prepare(request)
            async with http.ws_connect(
                relay.url + "/v1/device/ws", protocols=["relay.v1.json"], headers=headers
            ) as theirs:

                async def down() -> None:
                    async for message in theirs:
                        await ours.send_str(change(message.data))

                task = asyncio.create_task(down())
                async for message in ours:
                    await theirs.send_str(message.data)
                task.cancel()
            return ours

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return [one async for one in check_server(f"http://127.0.0.1:{runner.addresses[0][1]}", relay.key, only=[only])]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("http://localhost:1", "--client", "x"),
        ("--client", "x", "--only", "nonsense"),
        ("--client", "no-such-program"),
        ("--client", ""),
        ("--client", "node 'my client.js"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(words: tuple[str, ...]) -> None:
    ran = CliRunner().invoke(main, ["conformance", *words], env={"RELAY_API_KEY": None})
    assert ran.exit_code == 2
    assert ran.stderr.splitlines()[-1].startswith("Error: ")
