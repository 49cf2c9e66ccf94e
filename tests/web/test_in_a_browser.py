"""The sample page and the JavaScript client in a real browser: live, offline, pushed, upgraded, in several tabs."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if "CI" not in os.environ:
    pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="needs a Chromium")

WITHIN_MS = 30_000
READY_S = 60.0  # to start, and for the emulated service to answer
expect.set_options(timeout=WITHIN_MS)
SPOILED = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


class Demo:
    """`relay demo --web`, running."""

    def __init__(self, home: Path) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "relay", "demo", "--web"], cwd=home, stdout=subprocess.PIPE, text=True
        )
        assert self.child.stdout is not None
        said = ""
        late = threading.Timer(READY_S, self.child.kill)  # which ends its output
        late.start()
        try:
            while "Ctrl-C" not in said:
                line = self.child.stdout.readline()
                assert line, said
                said += line
        finally:
            late.cancel()
        found = re.search(r"push service (\S+)/\s.*Open (\S+)/ in", said, re.DOTALL)
        assert found is not None, said
        self.phones, self.url = found.groups()

    def stop(self) -> int:
        self.child.send_signal(signal.SIGINT)
        self.child.communicate(timeout=30)
        return self.child.returncode

    def pushed(self, user: str, count: int = 1) -> list[dict[str, Any]]:
        """The pushes that the emulated service has brought for this user's browser, decrypted, once it is so many."""
        asked = f"token=browser-of-{user}&count={count}&timeout=20"
        with urllib.request.urlopen(f"{self.phones}/_phones/wait?{asked}", timeout=READY_S) as answer:
            (phone,) = json.load(answer)["phones"]
        return [one["message"] for one in phone["received"]]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    assert demo.stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, demo: Demo) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.grant_permissions(["notifications"], origin=demo.url)
    yield context
    context.close()


@pytest.fixture
def opened(context: BrowserContext, demo: Demo) -> Iterator[Callable[..., Page]]:
    """Opens the page, signed in; at the end, nothing on it may have been an error or against its own policy."""
    wrong: list[str] = []

    def opened(user: str, path: str = "/") -> Page:
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(demo.url + path)
        if page.locator("#login").is_visible():
            page.fill("#user", user)
            page.click("#login button")
        expect(page.locator("#status")).to_have_text("up to date")
        return page

    yield opened
    assert wrong == []


def sends(page: Page, *texts: str) -> None:
    for text in texts:
        page.fill("#text", text)
        with page.expect_response("**/api/send"):
            page.click("#send button")


def shows(page: Page, *texts: str) -> None:
    expect(page.locator("#messages li")).to_have_text(list(texts))


def test_what_was_sent_while_it_was_offline_is_pushed_and_there_when_it_is_back(
    opened: Callable[..., Page],
) -> None:
    page = opened("ann")
    sends(page, "live")
    shows(page, "live")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "away 1", "away 2")
    expect(page.locator("#lock li")).to_have_text(["Bob away 1", "Bob away 2"])
    shows(page, "live")
    page.click("#online")
    shows(page, "live", "away 1", "away 2")
    page.click("#verify")
    expect(page.locator("#log")).to_have_text("Compared: ok; 0 fetched.")


def test_an_upgrade_with_a_changed_database_loses_nothing_and_brings_what_was_held(
    opened: Callable[..., Page], context: BrowserContext
) -> None:
    page = opened("bea")
    sends(page, "before")
    page.click("#poll")
    shows(page, "before", "Bob asks something that a newer version of this app can show.")
    page.fill("#draft", "half a thought")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "meanwhile")
    page.click("#upgrade")
    expect(page.locator("#version")).to_have_text("2.0")
    expect(page.locator("#log")).to_have_text("Compared: ok; 0 fetched.")
    shows(page, "before", "Poll: before (yes / no)", "meanwhile")
    expect(page.locator("#draft")).to_have_value("half a thought")
    page.goto(page.url.replace("/v2", "/"))  # 1.0 again: it begins anew beside the newer database, and gets everything
    shows(page, "before", "Bob asks something that a newer version of this app can show.", "meanwhile")


def test_a_page_that_is_killed_while_messages_come_has_each_once_when_it_is_back(
    opened: Callable[..., Page], context: BrowserContext
) -> None:
    page = opened("cyn")
    texts = [f"message {n}" for n in range(60)]
    burst = """texts => { for (const text of texts) fetch("/api/send", {method: "POST",
        headers: {"Content-Type": "application/json"}, body: JSON.stringify({user: "cyn", text}), keepalive: true}) }"""
    page.evaluate(burst, texts)
    until(page, lambda: page.locator("#messages li").count() > 5)
    page.close()
    again = opened("cyn")
    expect(again.locator("#count")).to_have_text("60")
    assert sorted(again.locator("#messages li").all_inner_texts()) == sorted(texts)


def test_several_tabs_are_one_device_and_one_of_them_goes_on(opened: Callable[..., Page]) -> None:
    first = opened("dot")
    second = first.context.new_page()
    second.goto(first.url)
    sends(second, "to both")
    for tab in (first, second):
        shows(tab, "to both")
    expect(first.locator("#status")).to_have_text("up to date")
    first.close()
    sends(second, "to the other")
    shows(second, "to both", "to the other")


def test_what_a_tab_did_not_live_to_tell_is_heard_in_the_one_that_goes_on(
    opened: Callable[..., Page], demo: Demo
) -> None:
    leads = opened("eva")
    sends(leads, "before")
    shows(leads, "before")
    other = leads.context.new_page()
    other.goto(f"{demo.url}/style.css")  # a page without a client of its own
    other.evaluate(
        """async () => { const {open} = await import("/sdk/index.js"); globalThis.heard = [];
            const client = await open({url: location.origin, token: "none", database: "demo-eva", migrations: [() => {}]});
            client.addEventListener("message", ({detail}) => globalThis.heard.push(detail.body.text)) }"""
    )
    sends(leads, "told")
    until(other, lambda: other.evaluate("globalThis.heard") == ["told"])
    leads.evaluate("() => { BroadcastChannel.prototype.postMessage = () => {} }")
    sends(leads, "untold")
    shows(leads, "before", "told", "untold")
    leads.close()
    until(other, lambda: other.evaluate("globalThis.heard") == ["told", "untold"])


def test_a_database_that_the_browser_takes_away_is_another_one_and_is_filled_again(
    opened: Callable[..., Page], context: BrowserContext, demo: Demo
) -> None:
    page = opened("ian")
    sends(page, "before")
    shows(page, "before")
    said: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: said.append(str(frame))))
    evicted = {"origin": demo.url, "storageTypes": "indexeddb"}
    context.new_cdp_session(page).send("Storage.clearDataForOrigin", evicted)
    sends(page, "after")
    shows(page, "before", "after")
    expect(page.locator("#log")).to_have_text("")
    page.reload()
    expect(page.locator("#status")).to_have_text("up to date")
    hellos = [json.loads(frame) for frame in said if '"hello"' in frame]
    assert [bool(hello.get("cursors")) for hello in hellos] == [False, True]
    assert hellos[0]["store"]["id"] == hellos[1]["store"]["id"]  # else the relay takes it for a store that was lost


def test_texts_are_shown_as_texts(opened: Callable[..., Page]) -> None:
    page = opened("eve")
    sends(page, SPOILED)
    shows(page, SPOILED)
    assert page.title() == "Inbox: push-relay demo"


def test_a_cache_of_which_nothing_counts_can_be_compared(opened: Callable[..., Page]) -> None:
    """As after an upgrade of the app while the inbox is empty; a browser's own key ranges are never empty."""
    counts = opened("nobody").evaluate(
        """async () => {
          const {Cache, IndexedTables} = await import("/sdk/index.js");
          const cache = new Cache(await IndexedTables.open("empty"));
          await cache.open();
          const extent = await cache.extent();
          return [extent.low, extent.high, await cache.ownGaps(extent), await cache.rows(extent, 0)];
        }"""
    )
    assert counts == [0, 0, [], []]


def until(page: Page, holds: Callable[[], bool], within_ms: int = WITHIN_MS) -> None:
    """Playwright's own way to wait for a script needs `eval`, which the page's policy forbids."""
    for _ in range(within_ms // 50):
        if holds():
            return
        page.wait_for_timeout(50)
    assert holds()


class Pusher:
    """Hands pushes to the page's service worker, as the browser's push service would."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page, self.origin = page, origin
        self._cdp = page.context.new_cdp_session(page)
        self._ids: list[str] = []
        self._cdp.on("ServiceWorker.workerRegistrationUpdated", self._seen)
        self._cdp.send("ServiceWorker.enable")

    def _seen(self, event: dict[str, Any]) -> None:
        self._ids += [
            one["registrationId"] for one in event["registrations"] if one["scopeURL"].startswith(self.origin)
        ]

    def push(self, told: Any) -> None:
        until(self.page, lambda: bool(self._ids))
        if self.page.url.startswith(self.origin):  # a worker that is not ready yet drops it
            self.page.evaluate("async () => { await navigator.serviceWorker.ready }")
        what = {"origin": self.origin, "registrationId": self._ids[-1], "data": json.dumps(told)}
        self._cdp.send("ServiceWorker.deliverPushMessage", what)

    def shown(self) -> list[dict[str, Any]]:
        """The notifications that stand on the screen."""
        script = """async () => (await (await navigator.serviceWorker.ready).getNotifications()).map(
            ({title, body, data}) => ({title, body, ids: data.ids}))"""
        found: list[dict[str, Any]] = self.page.evaluate(script)
        return found

    def shows(self, n: int) -> list[dict[str, Any]]:
        until(self.page, lambda: len(self.shown()) >= n)
        found = self.shown()
        assert len(found) == n
        return found


def test_the_service_worker_shows_what_is_news_and_only_for_its_own_device(
    opened: Callable[..., Page], demo: Demo
) -> None:
    page = opened("fay")
    pusher = Pusher(page, demo.url)
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "are you there?")
    (told,) = demo.pushed("fay")
    foreign = {**told, "relay": {**told["relay"], "user_hint": "0" * 16}}
    pusher.push(foreign)
    pusher.push({**told, "silent": True, "title": None, "body": None})
    pusher.push({**told, "expires_at": 1})
    pusher.push("no object")
    pusher.push(told)
    (note,) = pusher.shows(1)
    assert (note["title"], note["body"], note["ids"]) == ("Bob", "are you there?", told["relay"]["ids"])

    page.click("#online")
    shows(page, "are you there?")
    page.evaluate(
        "async () => { for (const one of await (await navigator.serviceWorker.ready).getNotifications()) one.close() }"
    )
    pusher.push(told)  # late: the page has it
    pusher.push({**told, "title": "Bob", "body": "another", "relay": {**told["relay"], "ids": ["unknown"], "head": 99}})
    (note,) = pusher.shows(1)
    assert note["body"] == "another"


def test_a_push_wakes_the_page_and_what_was_shown_is_told_to_the_relay(opened: Callable[..., Page], demo: Demo) -> None:
    page = opened("gil")
    pusher = Pusher(page, demo.url)
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "shown")
    (told,) = demo.pushed("gil")
    pusher.push(told)
    pusher.shows(1)
    words = """() => new Promise(done => { const request = indexedDB.open("demo-gil");
        request.onsuccess = () => { const all = request.result.transaction("words").objectStore("words").getAllKeys();
            all.onsuccess = () => { request.result.close(); done(all.result) } } })"""
    assert page.evaluate(words) == [f"receipt:shown:{told['relay']['ids'][0]}"]
    page.click("#online")
    shows(page, "shown")
    until(page, lambda: page.evaluate(words) == [])


def test_while_no_page_is_open_the_worker_fetches_what_a_push_is_about(
    opened: Callable[..., Page], context: BrowserContext, demo: Demo
) -> None:
    page = opened("ida")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "first", "second")
    told = demo.pushed("ida")[-1]
    elsewhere = context.new_page()
    pusher = Pusher(elsewhere, demo.url)
    page.close()
    pusher.push(told)
    kept = """() => new Promise(done => { const request = indexedDB.open("demo-ida");
        request.onsuccess = () => { const all = request.result.transaction("messages").objectStore("messages").getAll();
            all.onsuccess = () => { request.result.close(); done(all.result.length) } } })"""
    (worker,) = context.service_workers
    until(elsewhere, lambda: worker.evaluate(kept) == 2)
    assert worker.evaluate("async () => (await self.registration.getNotifications()).length") == 1
    shows(opened("ida"), "first", "second")


def test_what_the_worker_learns_was_taken_back_is_shown_no_more(
    opened: Callable[..., Page], context: BrowserContext, demo: Demo
) -> None:
    page = opened("jan")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "oops")
    (told,) = demo.pushed("jan")
    elsewhere = context.new_page()
    pusher = Pusher(elsewhere, demo.url)
    (worker,) = context.service_workers
    page.close()
    worker.evaluate(
        """async () => { const fetch = self.fetch;
            self.fetch = async (url, ...how) => {
                const answer = await fetch(url, ...how);
                if (!url.includes("/sync")) return answer;
                const {batches, ...rest} = await answer.json();
                const recall = ({seq, id}) => ({seq, id, kind: "recall", of: ["gone"]});
                for (const page of batches) page.entries = page.entries.map(recall);
                return Response.json({batches, ...rest}) };
            await self.registration.showNotification("gone", {data: {ids: ["gone"]}}) }"""
    )
    pusher.push(told)
    titles = "async () => (await self.registration.getNotifications()).map(({title}) => title)"
    # Later, the browser takes away whatever is shown.
    until(elsewhere, lambda: "gone" not in worker.evaluate(titles), WITHIN_MS // 3)


def test_a_page_that_opens_while_the_worker_fetches_is_told_what_comes(
    opened: Callable[..., Page], context: BrowserContext, demo: Demo
) -> None:
    page = opened("joy")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "meanwhile")
    (told,) = demo.pushed("joy")
    elsewhere = context.new_page()
    pusher = Pusher(elsewhere, demo.url)
    (worker,) = context.service_workers
    page.close()
    worker.evaluate(
        """() => { const fetch = self.fetch; const gate = new Promise(open => { self.letOn = open });
            self.fetch = async (...what) => { self.asked = true; await gate; return fetch(...what) } }"""
    )
    pusher.push(told)
    until(elsewhere, lambda: worker.evaluate("() => Boolean(self.asked)"))
    elsewhere.goto(f"{demo.url}/style.css")  # a page without a client of its own
    elsewhere.evaluate(
        """async () => { const {open} = await import("/sdk/index.js"); globalThis.heard = [];
            const client = await open({url: location.origin, token: "none", database: "demo-joy", migrations: [() => {}]});
            client.addEventListener("message", ({detail}) => globalThis.heard.push(detail.body.text)) }"""
    )
    worker.evaluate("() => self.letOn()")
    until(elsewhere, lambda: elsewhere.evaluate("globalThis.heard") == ["meanwhile"])


def test_a_click_on_a_notification_opens_the_page_and_is_told_to_the_relay(
    opened: Callable[..., Page], demo: Demo
) -> None:
    page = opened("hal")
    pusher = Pusher(page, demo.url)
    sends(page, "click me")
    shows(page, "click me")
    (id_,) = [one.get_attribute("data-id") for one in page.locator("#messages li").all()]
    requests: list[str] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: requests.append(str(frame))))
    page.reload()  # so that its socket is heard
    expect(page.locator("#status")).to_have_text("up to date")
    told = {"title": "Bob", "click": "/", "relay": {"device": "browser", "ids": ["elsewhere"], "n": 1}}
    pusher.push(told)
    pusher.shows(1)
    (worker,) = page.context.service_workers
    worker.evaluate(
        """async id => {
            const [notification] = await self.registration.getNotifications();
            const shown = {close: () => notification.close(), data: {...notification.data, ids: [id]}};
            const event = new Event("notificationclick");
            self.dispatchEvent(Object.assign(event, {notification: shown, waitUntil: () => {}}));
        }""",
        id_,
    )
    until(page, lambda: any('"opened"' in frame and id_ in frame for frame in requests))
    assert pusher.shown() == []


def test_a_subscription_of_the_browser_is_registered_with_the_key_it_was_made_with(
    opened: Callable[..., Page], context: BrowserContext, demo: Demo
) -> None:
    """The push service is the emulated one: this browser's own would need the internet, and a vendor's keys."""
    asks = urllib.request.Request(
        f"{demo.url}/api/login", b'{"user": "ida-2", "device": "x"}', {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asks) as answer:
        subscription = json.load(answer)["addresses"][0]["token"]
    context.add_init_script(
        "PushManager.prototype.subscribe = async ({applicationServerKey, userVisibleOnly}) => {"
        " if (!userVisibleOnly || applicationServerKey.length !== 65) throw new Error('bad options');"
        f" return {{toJSON: () => ({subscription})}} }}"
    )
    page = opened("ida")
    page.click("#notify")
    expect(page.locator("#way")).to_have_text("Pushes come by this browser's own push service.")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "by its own service")
    (told,) = demo.pushed("ida-2")
    assert told["body"] == "by its own service"

    page.click("#online")
    expect(page.locator("#status")).to_have_text("up to date")
    page.click("#upgrade")  # neither a new connection nor a new version of the page forgets it
    expect(page.locator("#way")).to_have_text("Pushes come by this browser's own push service.")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "still by its own service")
    assert [told["body"] for told in demo.pushed("ida-2", 2)] == ["by its own service", "still by its own service"]


def test_a_subscription_that_the_browser_has_changed_while_no_page_was_open_is_registered_by_the_next(
    opened: Callable[..., Page], context: BrowserContext, demo: Demo
) -> None:
    def subscription(user: str) -> str:
        body = json.dumps({"user": user, "device": "x"}).encode()
        asks = urllib.request.Request(f"{demo.url}/api/login", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asks) as answer:
            return str(json.load(answer)["addresses"][0]["token"])

    script = "PushManager.prototype.subscribe = async () => ({{toJSON: () => ({subscription})}})"
    context.add_init_script(script.format(subscription=subscription("lea-2")))
    page = opened("lea")
    page.click("#notify")
    expect(page.locator("#way")).to_have_text("Pushes come by this browser's own push service.")
    page.close()
    context.add_init_script(script.format(subscription=subscription("lea-3")))
    again = opened("lea")
    expect(again.locator("#way")).to_have_text("Pushes come by this browser's own push service.")
    again.click("#offline")
    expect(again.locator("#status")).to_have_text("offline")
    sends(again, "to the new one")
    assert [told["body"] for told in demo.pushed("lea-3")] == ["to the new one"]
    again.close()
    context.add_init_script("PushManager.prototype.subscribe = async () => { throw new Error('not any more') }")
    expect(opened("lea").locator("#way")).to_have_text("Pushes come to an emulated browser: what it shows is here.")


def test_a_browser_without_a_push_service_says_so_and_stays_reachable_as_it_was(
    opened: Callable[..., Page], context: BrowserContext
) -> None:
    context.add_init_script("PushManager.prototype.subscribe = async () => { throw new Error('no service') }")
    page = opened("kay")
    page.click("#notify")
    expect(page.locator("#log")).to_contain_text("did not take us: no service The emulated browser goes on.")
    page.click("#offline")
    expect(page.locator("#status")).to_have_text("offline")
    sends(page, "still here")
    expect(page.locator("#lock li")).to_have_text(["Bob still here"])
