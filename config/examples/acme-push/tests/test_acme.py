"""The adapter: the contract's tests with Acme's answers, and then the adapter against the emulator over a socket."""

import random
import tomllib
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from acme_push import AcmeProvider
from acme_sandbox import AcmeEmulator

from providers import loading
from providers.contract import Push, Scope, Verdict
from providers.http import Request, Response
from providers.sandbox import Sandbox, registry
from providers.testing import NOW_S, ProviderContract
from providers.transport import HttpTransport


def acme(status: int, body: str, **headers: str) -> Response:
    return Response(status=status, headers=headers, body=body.encode())


class TestAcme(ProviderContract):
    provider = AcmeProvider
    settings = {"project": "demo", "client_id": "id", "client_secret": "s3cr3t-value"}
    token = "f3a1-device-token"
    login = acme(200, '{"access_token":"t1","expires_in":3600}')
    answers = {
        "ok": (acme(200, '{"id":"m-1"}'), Verdict.ACCEPTED),
        "gone": (acme(404, '{"error":"token.unregistered"}'), Verdict.TOKEN_DEAD),
        "big": (acme(413, '{"error":"payload.too_big"}'), Verdict.TOO_LARGE),
        "bad": (acme(400, '{"error":"payload.invalid"}'), Verdict.REFUSED),
        "stale": (acme(401, '{"error":"auth.expired"}'), Verdict.REAUTH),
        "project": (acme(403, '{"error":"auth.wrong_project"}'), Verdict.MISCONFIGURED),
        "busy": (acme(503, ""), Verdict.RETRY),
        "slow down": (acme(429, "", **{"retry-after": "30"}), Verdict.RETRY),
    }

    def repeat_key(self, request: Request) -> str:
        return request.headers["idempotency-key"]


def test_it_is_installed_as_what_it_is() -> None:
    """The relay takes no plug-in that names itself otherwise, or that its wheel leaves out."""
    folder = Path(__file__).parents[1]
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    points = project["project"]["entry-points"]
    ((name, value),) = points["relay.providers"].items()
    (loaded,) = loading.discover([EntryPoint(name=name, value=value, group="relay.providers")])
    assert (loaded.provider, loaded.reason) == (AcmeProvider, None)
    ((name, value),) = points["relay.emulators"].items()
    assert EntryPoint(name=name, value=value, group="relay.emulators").load() is AcmeEmulator
    assert name == AcmeEmulator.name
    files = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["include"])
    assert files == {path.name for path in folder.glob("*.py")}


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    monkeypatch.setitem(registry.OURS, "acme", "acme_sandbox:AcmeEmulator")  # installed, it is found by its entry point
    sandbox = Sandbox(now=lambda: NOW_S, rng=random.Random(1), vendors=("acme",), slow_s=0.05)
    await sandbox.start()
    yield sandbox
    await sandbox.stop()


@pytest.fixture
async def provider(sandbox: Sandbox) -> AsyncIterator[Any]:
    transport = HttpTransport()
    settings = sandbox.account_settings("acme")["settings"]
    made = loading.build(AcmeProvider, settings, transport=transport, now=lambda: NOW_S)
    yield made
    await made.aclose()
    await transport.aclose()


async def test_a_message_reaches_the_phone(sandbox: Sandbox, provider: Any) -> None:
    outcome = await provider.send(Push(id="p1", token="phone", title="Hi", body="there", collapse_key="k"))
    assert outcome.verdict is Verdict.ACCEPTED
    (phone,) = sandbox.phones.view(token="phone", phones_max=1)
    (shown,) = phone["shown"]
    assert (shown["title"], shown["body"], shown["collapse"]) == ("Hi", "there", "k")


async def test_a_repeat_is_shown_once_and_a_message_on_every_device(sandbox: Sandbox, provider: Any) -> None:
    for token in ("phone", "phone", "tablet"):
        assert (await provider.send(Push(id="p1", token=token, title="Hi"))).verdict is Verdict.ACCEPTED
    assert {view["token"]: view["count"] for view in sandbox.phones.view(phones_max=2)} == {"phone": 1, "tablet": 1}


@pytest.mark.parametrize(
    ("fault", "verdict", "scope"),
    [
        ("unregistered", Verdict.TOKEN_DEAD, Scope.MESSAGE),
        ("throttled", Verdict.RETRY, Scope.ACCOUNT),
        ("devicerate", Verdict.RETRY, Scope.TOKEN),
        ("unavailable", Verdict.RETRY, Scope.MESSAGE),
        ("reset", Verdict.RETRY, Scope.MESSAGE),
        ("garbage", Verdict.RETRY, Scope.MESSAGE),
        ("revoked", Verdict.MISCONFIGURED, Scope.ACCOUNT),
    ],
)
async def test_every_fault_is_taken_as_the_document_wants_it(
    provider: Any, fault: str, verdict: Verdict, scope: Scope
) -> None:
    outcome = await provider.send(Push(id="p1", token=f"{fault}-phone", title="Hi"))
    assert (outcome.verdict, outcome.scope) == (verdict, scope)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 2000, b"null", b'{"to":"phone"}'])
async def test_what_is_no_message_is_refused_in_acmes_words(sandbox: Sandbox, provider: Any, body: bytes) -> None:
    bearer = (await provider.credential()).value
    headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json", "idempotency-key": "k"}
    answer = await provider.call(Request(url=f"{sandbox.url}/acme/v2/demo/messages", headers=headers, body=body))
    assert (answer.status, answer.json()) == (400, {"error": "payload.invalid"})


async def test_a_revoked_access_token_is_renewed_and_a_revoked_key_needs_the_operator(
    sandbox: Sandbox, provider: Any
) -> None:
    emulator = sandbox.emulators["acme"]
    assert isinstance(emulator, AcmeEmulator)
    push = Push(id="p1", token="phone", title="Hi")
    await provider.send(push)
    emulator.revoke(key=False)
    assert (await provider.send(push)).verdict is Verdict.ACCEPTED
    emulator.revoke(key=True)
    assert (await provider.send(push)).verdict is Verdict.MISCONFIGURED
