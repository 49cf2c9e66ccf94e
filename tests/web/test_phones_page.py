"""The sandbox's page in a real browser: what each virtual phone shows, live, while the adapters push to the emulators."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest

if "CI" not in os.environ:
    pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Locator, Page, expect, sync_playwright

from providers import loading
from providers.contract import Push, Verdict
from providers.loading import discover
from providers.sandbox import Sandbox
from providers.transport import HttpTransport
from relay.ids import system_rng

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="needs a Chromium")

expect.set_options(timeout=30_000)
VENDORS = ("fcm", "ntfy")
SPOILED = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


class Town:
    """The emulators of two vendors on a loop of their own, and the adapters that push to them."""

    def __init__(self) -> None:
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._providers: dict[str, Any] = {}
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self.sandbox = Sandbox(now=time.time, rng=system_rng(), vendors=VENDORS)  # noqa: TID251 - as the browser's
        await self.sandbox.start()
        self.url = self.sandbox.url
        kinds = {one.name: one.provider for one in discover()}
        async with HttpTransport() as transport:
            for vendor in VENDORS:
                given = self.sandbox.account_settings(vendor)["settings"]
                self._providers[vendor] = loading.build(kinds[vendor], given, transport=transport, now=time.time)  # noqa: TID251
            self._up.set()
            await self._stop.wait()
        await self.sandbox.stop()

    def send(self, token: str, vendor: str = "fcm", **fields: Any) -> None:
        push = Push(id=f"{token}-{fields.get('title')}-{fields.get('body')}", token=token, **fields)
        sent = asyncio.run_coroutine_threadsafe(self._providers[vendor].send(push), self._loop)
        assert sent.result(10).verdict is Verdict.ACCEPTED


@pytest.fixture
def town() -> Iterator[Town]:
    with Town() as town:
        yield town


@pytest.fixture
def page(town: Town) -> Iterator[Page]:
    """Open before anything is sent; nothing on it may be an error or against its own policy."""
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(town.url)
        expect(page.locator("#nothing")).to_be_visible()
        yield page
        browser.close()
    assert wrong == []


def phone(page: Page, token: str) -> Locator:
    return page.locator(".phone").filter(has=page.get_by_role("heading", name=token, exact=True))


def test_a_phone_shows_what_came_in_its_order_with_its_badge_without_a_reload(town: Town, page: Page) -> None:
    town.send("ios-anns", title="Ann", body="one", badge=1)
    anns = phone(page, "ios-anns")
    expect(anns.locator(".note .title")).to_have_text(["Ann"])
    town.send("ios-anns", title="Bob", body="two", badge=2, collapse_key="room")
    town.send("ios-anns", title="Cleo", body="three", badge=3)
    expect(anns.locator(".note .title")).to_have_text(["Cleo", "Bob", "Ann"])  # the newest on top, as on a phone
    expect(anns.locator(".note p:not(.title):not(.pale)")).to_have_text(["three", "two", "one"])
    expect(anns.locator("summary")).to_have_text("ios · 3 received · badge 3")
    town.send("ios-anns", title="Bob", body="two, again", badge=4, collapse_key="room")
    expect(anns.locator(".note .title")).to_have_text(["Bob", "Cleo", "Ann"])
    expect(anns.locator(".note").first).to_contain_text("two, again")
    expect(anns.locator("summary")).to_have_text("ios · 4 received · badge 4")
    expect(page.locator("#status")).to_have_text("1 phones, 4 deliveries")


def test_each_vendor_has_its_board_and_a_button_for_it_alone(town: Town, page: Page) -> None:
    town.send("phone-1", title="Ann", body="by fcm")
    town.send("topic-1", vendor="ntfy", title="Ann", body="by ntfy")
    for token, text in (("phone-1", "by fcm"), ("topic-1", "by ntfy")):
        expect(phone(page, token).locator(".note")).to_contain_text(text)
    page.get_by_role("button", name="ntfy").click()
    expect(phone(page, "phone-1")).to_be_hidden()
    expect(phone(page, "topic-1")).to_be_visible()
    page.get_by_role("button", name="ntfy").click()
    expect(phone(page, "phone-1")).to_be_visible()


def test_a_silent_push_and_one_of_markup_are_text_and_nothing_more(town: Town, page: Page) -> None:
    town.send("phone-1", data={"conv": "c9"})
    expect(phone(page, "phone-1").locator(".screen")).to_have_text("Nothing to see: silent messages only.")
    town.send("phone-1", title=SPOILED, body="hello")
    expect(phone(page, "phone-1").locator(".note .title")).to_have_text(SPOILED)
    assert page.title() == "Sandbox phones"


def test_a_reset_clears_the_screens_and_what_comes_then_is_shown(town: Town, page: Page) -> None:
    town.send("phone-1", title="Ann", body="before")
    expect(phone(page, "phone-1")).to_be_visible()
    page.request.post(f"{town.url}/_control/reset", data="{}")
    expect(page.locator("#nothing")).to_be_visible()
    town.send("phone-1", title="Ann", body="after")
    expect(phone(page, "phone-1").locator(".note")).to_have_count(1)
    expect(phone(page, "phone-1").locator(".note")).to_contain_text("after")
