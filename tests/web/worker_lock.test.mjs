// The service worker that fetches, and the pages: whichever of their databases it is, they take turns.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

import { attach, Cache, Client, IndexedTables } from "../../relay/web/sdk/index.js";
import { lockOf } from "../../relay/web/sdk/tabs.js";

let indexed = null;
try {
  indexed = createRequire(import.meta.url)("fake-indexeddb");
} catch (error) {
  if (process.env.RELAY_NEEDS_INDEXEDDB) throw error;
}

test("a worker waits for the pages of a database that an older version has beside a newer one", { skip: !indexed }, async (t) => {
  const kept = new Map();
  const asked = [];
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const locks = { request: async (key, how, then) => (asked.push(key), then(null)) };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => ({ active: worker }) });
  const faked = {
    caches: { open: async () => ({ put: async (name, answer) => kept.set(name, await answer.json()) }) },
    navigator: { locks, serviceWorker },
    self: { addEventListener() {}, clients: { matchAll: async () => [] }, navigator: { locks } },
  };
  for (const [name, value] of Object.entries(faked)) {
    const before = Object.getOwnPropertyDescriptor(globalThis, name);
    Object.defineProperty(globalThis, name, { value, configurable: true });
    t.after(() => (before ? Object.defineProperty(globalThis, name, before) : delete globalThis[name]));
  }
  await import("../../relay/web/sdk/sw-sync.js");

  const factory = new indexed.IDBFactory();
  await (await IndexedTables.open("inbox", { factory, migrations: [() => {}] })).close();
  const tables = await IndexedTables.open("inbox", { factory });
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(tables), fetch });
  await attach(client, { user: "ann", device: "browser", sync: true });
  await client.stop();
  const { database, ...record } = kept.get("/relay-push.json");
  assert.notEqual(database, "inbox");
  await self.relayPushed({ database, ...record });
  await self.relayPushed({ database: "of a page from before", sync: record.sync });
  assert.deepEqual(asked, [lockOf("inbox"), lockOf("of a page from before")]);
});
