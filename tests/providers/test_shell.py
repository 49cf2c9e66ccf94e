"""What the shell of all adapters says of an outcome beside the vendor's own word."""

import asyncio
import json
from typing import Any

import pytest

from providers.contract import Outcome, Push, Verdict
from providers.http import Credential, Refusal, Request, Response
from providers.loading import configured
from providers.ntfy import NtfyProvider
from providers.testing import NOW_S, Scripted


def answered(status: int, **body: Any) -> NtfyProvider:
    """An ntfy that always answers so."""
    config = configured(NtfyProvider, {"base_url": "https://ntfy.example"})
    answer = Response(status=status, body=json.dumps(body).encode())
    return NtfyProvider(config, transport=Scripted(lambda _: answer), now=lambda: NOW_S)  # type: ignore[arg-type]


def push(**fields: Any) -> Push:
    return Push(**{"id": "m-1", "token": "topic-of-ann", "title": "Ann", "body": "hi", **fields})


@pytest.mark.parametrize(
    "fields",
    [{"kind": "fid"}, {"overrides": {"nonsense": 1}}, {"token": "no topic"}, {"body": "x" * 9000}],
)
async def test_what_the_vendor_was_not_asked_about_is_marked(fields: dict[str, Any]) -> None:
    outcome = await answered(200, id="v-1", event="message").send(push(**fields))
    assert outcome.verdict in {Verdict.REFUSED, Verdict.TOO_LARGE}
    assert outcome.local


async def test_so_is_a_head_that_must_not_be_written() -> None:
    class Spoilt(NtfyProvider):
        def encode(self, push: Push, credential: str) -> Request:
            return Request(url=f"https://ntfy.example/{push.title}\r\n")

    provider = Spoilt(
        configured(NtfyProvider, {}), transport=Scripted(lambda _: Response(status=200)), now=lambda: NOW_S
    )  # type: ignore[arg-type]
    outcome = await provider.send(push())
    assert (outcome.vendor_code, outcome.local) == ("request_invalid", True)


async def test_what_the_vendor_answered_is_its_own() -> None:
    outcome = await answered(400, code=40013, http=400).send(push())
    assert (outcome.verdict, outcome.local) == (Verdict.REFUSED, False)


@pytest.mark.parametrize("title", ["4", "ntfy", "40", "v"])
async def test_a_short_title_takes_no_code_and_no_id_away(title: str) -> None:
    said = push(title=title, body="1")
    assert (await answered(400, code=40013, http=400).send(said)).vendor_code == "ntfy_40013"
    taken = await answered(200, id="v-41", event="message", sequence_id="r").send(said)
    assert taken == Outcome(verdict=Verdict.ACCEPTED, vendor_id="v-41")


@pytest.mark.parametrize("echo", ["hush", "topic-of-ann", "x-topic-of-ann-x", "a secret of Ann's: 1234"])
async def test_an_id_that_echoes_what_is_private_is_dropped(echo: str) -> None:
    taken = await answered(200, id=echo, event="message", sequence_id="r").send(
        push(title="hush", body="a secret of Ann's")
    )
    assert taken == Outcome(verdict=Verdict.ACCEPTED)


async def test_who_waited_for_a_login_that_was_given_up_logs_in_itself() -> None:
    begun = asyncio.Event()

    class Guarded(NtfyProvider):
        logins = 0

        async def credential(self) -> Credential:
            self.logins += 1
            if self.logins == 1:
                raise Refusal(Outcome(verdict=Verdict.MISCONFIGURED))
            if self.logins == 2:
                begun.set()
                await asyncio.Event().wait()
            return Credential(value="")

    answer = Response(status=200, body=b'{"id":"v-1","event":"message","sequence_id":"r"}')
    provider = Guarded(configured(NtfyProvider, {}), transport=Scripted(lambda _: answer), now=lambda: NOW_S)  # type: ignore[arg-type]
    assert (await provider.send(push())).verdict is Verdict.MISCONFIGURED
    given_up = asyncio.create_task(provider.send(push()))
    await begun.wait()
    waiting = asyncio.create_task(provider.send(push()))
    given_up.cancel()
    assert (await waiting).verdict is Verdict.ACCEPTED, "how the login before had failed is no news of this one"
