// The service worker for Web Push: shows what came, and wakes the pages. A classic script, so that every browser runs it;
// an app with a worker of its own says `importScripts("…/sw.js")` there.
"use strict";

(() => {
  const STORE = "relay-push";
  const RECORD = "/relay-push.json"; // whose device this is; push.js writes it
  const GONE = "/relay-gone.json"; // what was taken back lately; so does it

  self.addEventListener("push", (event) => event.waitUntil(heard(event.data)));
  self.addEventListener("notificationclick", (event) => event.waitUntil(clicked(event.notification)));
  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(changed(event)));

  async function heard(data) {
    const told = parsed(data);
    const me = await mine();
    const about = told?.relay ?? {};
    if (!me || (about.device && about.device !== me.device) || (about.user_hint && about.user_hint !== me.hint)) return;
    await pushed(told, me, about);
    await self.relayPushed?.(me); // sw-sync.js
  }

  async function pushed(told, me, about) {
    await say({ type: "relay-push", told });
    const words = told?.title ?? told?.body;
    const late = told?.expires_at && told.expires_at * 1000 <= Date.now();
    const { ids = [] } = about;
    if (!told || told.silent || !words || late || (await stored(me.database, about)) || (await takenBack(ids))) return;
    await self.registration.showNotification(words, {
      ...(told.title && told.body ? { body: told.body } : {}),
      ...(told.image ? { image: told.image } : {}),
      ...(told.tag ? { tag: told.tag, renotify: true } : {}),
      data: { click: told.click ?? null, ids, own: told.data ?? null },
    });
    if (await takenBack(ids)) return void (await close(ids)); // a page may have heard it before there was anything to close
    if (Number.isInteger(told.badge_count)) await self.navigator.setAppBadge?.(told.badge_count).catch(() => {});
    await report(me.database, ids, "shown");
  }

  /** Whether nothing is left of what a push is about, as far as a client has heard. */
  async function takenBack(ids) {
    const noted = await (await caches.open(STORE)).match(GONE);
    const gone = new Set(noted ? await noted.json() : []);
    return ids.length > 0 && ids.every((id) => gone.has(id));
  }

  async function close(ids) {
    const about = ({ data }) => data?.ids?.join() === ids.join();
    for (const one of (await self.registration.getNotifications()).filter(about)) one.close();
  }

  async function clicked(notification) {
    notification.close();
    const { click, ids = [], own } = notification.data ?? {};
    const me = await mine();
    if (me) await report(me.database, ids, "opened");
    const [page] = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    const target = address(click);
    if (target && new URL(target).origin !== self.location.origin) return void (await self.clients.openWindow(target));
    if (!page) return void (await self.clients.openWindow(target ?? self.registration.scope));
    await page.focus().catch(() => {});
    await say({ type: "relay-opened", ids, click, data: own });
  }

  /** The push service has ended the subscription: a new one, that a page then registers. */
  async function changed({ newSubscription, oldSubscription }) {
    if (!newSubscription && oldSubscription) await self.registration.pushManager.subscribe(oldSubscription.options);
    await say({ type: "relay-subscription" });
  }

  function parsed(data) {
    try {
      const told = data?.json();
      return told && typeof told === "object" ? told : null;
    } catch {
      return null;
    }
  }

  function address(click) {
    try {
      const url = new URL(click, self.registration.scope);
      return click && ["http:", "https:"].includes(url.protocol) ? url.href : null;
    } catch {
      return null;
    }
  }

  async function mine() {
    const record = await (await caches.open(STORE)).match(RECORD);
    return record ? record.json() : null;
  }

  async function say(what) {
    const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
    for (const page of pages) page.postMessage(what);
  }

  // --- the client's database, if there is one ---

  function opened(name) {
    return new Promise((resolve) => {
      if (!name) return void resolve(null);
      const request = indexedDB.open(name);
      request.onupgradeneeded = () => request.transaction.abort(); // there is none, and making it is the page's business
      request.onerror = () => resolve(null);
      request.onsuccess = () => {
        request.result.onversionchange = () => request.result.close();
        resolve(request.result);
      };
    });
  }

  function done(request) {
    return new Promise((good, bad) => {
      request.onsuccess = () => good(request.result);
      request.onerror = () => bad(request.error);
    });
  }

  /** Whether the client has everything that a push is about: then there is nothing to tell. */
  async function stored(name, { epoch8, head, ids = [] }) {
    const database = await opened(name);
    if (!database) return false;
    try {
      const rows = database.transaction(["store", "messages"]);
      const store = await done(rows.objectStore("store").get("one"));
      if (epoch8 && store?.epoch?.startsWith(epoch8) && store.seq >= head) return true;
      const known = await Promise.all(ids.map((id) => done(rows.objectStore("messages").getKey(id))));
      return ids.length > 0 && known.every((key) => key !== undefined);
    } catch {
      return false;
    } finally {
      database.close();
    }
  }

  /** Owed to the relay from now on: the client says it at its next contact. */
  async function report(name, ids, what) {
    const database = ids.length ? await opened(name) : null;
    if (!database) return;
    try {
      const transaction = database.transaction("words", "readwrite");
      const at = new Date().toISOString();
      for (const id of ids) {
        const key = `receipt:${what}:${id}`;
        transaction.objectStore("words").put({ key, word: { id, what, at } }, key);
      }
      await new Promise((good, bad) => {
        transaction.oncomplete = good;
        transaction.onabort = () => bad(transaction.error);
      });
    } catch {
      // A receipt is a courtesy: the notification was shown all the same.
    } finally {
      database.close();
    }
    await say({ type: "relay-words" });
  }
})();
