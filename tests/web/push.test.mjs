// What a page does with notifications that its service worker has shown.

import assert from "node:assert/strict";
import { test } from "node:test";

import { attach, Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const PAGE = { type: "batch", epoch: "e1", from: 0, to: 2, head: 2, cursor: "c2", more: false, caught_up: true };
const WELCOME = { verdict: "resync", reason: "no_cursor", session: 1, epoch: "e1", cursors: { inbox: "c0" }, head: 2, missing: 2, user: "ann" };

/** A relay in whose inbox a message was taken back before this client had it. */
async function relay(path) {
  const body = path.includes("/sync")
    ? { batches: [{ ...PAGE, entries: [{ seq: 2, id: "r", kind: "recall", of: ["gone"] }], gaps: [{ from: 0, to: 1, why: "recalled" }] }] }
    : WELCOME;
  return new Response(JSON.stringify(body), { headers: { "Content-Type": "application/json" } });
}

test("a notification of what was taken back meanwhile is closed, though the message never came", async (t) => {
  const closed = [];
  const shown = ["gone", "other"].map((id) => ({ data: { ids: [id] }, close: () => closed.push(id) }));
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => shown };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  Object.defineProperty(globalThis, "navigator", { value: { serviceWorker }, configurable: true });
  globalThis.caches = { open: async () => ({ put: async () => {} }) };
  t.after(() => delete globalThis.caches);

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  const caughtUp = new Promise((done) => client.addEventListener("caughtup", done));
  const attached = attach(client, { user: "ann", device: "browser" });
  client.start(); // while it is being attached
  await Promise.all([attached, caughtUp]);
  await new Promise((done) => setImmediate(done));
  await client.stop();
  assert.deepEqual(closed, ["gone"]);
});

test("a notification of several messages stands until all of them are taken back", async (t) => {
  const closed = [];
  const shown = [["a", "b"], ["b"]].map((ids) => ({ data: { ids }, close: () => closed.push(ids.join()) }));
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => shown.filter(({ data }) => !closed.includes(data.ids.join())) };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  Object.defineProperty(globalThis, "navigator", { value: { serviceWorker }, configurable: true });
  globalThis.caches = { open: async () => ({ put: async () => {} }) };
  t.after(() => delete globalThis.caches);

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  await attach(client, { user: "ann", device: "browser" });
  for (const [id, gone] of [["b", ["b"]], ["a", ["b", "a,b"]]]) {
    client.dispatchEvent(new CustomEvent("withdraw", { detail: { ids: [id] } }));
    await new Promise((done) => setImmediate(done));
    assert.deepEqual(closed, gone);
  }
  await client.stop();
});

test("a client that is attached again, as by a subscription, hears its service worker once", async (t) => {
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => [] };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  Object.defineProperty(globalThis, "navigator", { value: { serviceWorker }, configurable: true });
  globalThis.caches = { open: async () => ({ put: async () => {} }) };
  t.after(() => delete globalThis.caches);

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  const opened = [];
  client.addEventListener("opened", ({ detail }) => opened.push(detail.ids));
  for (let n = 0; n < 3; n += 1) await attach(client, { user: "ann", device: "browser" });
  serviceWorker.dispatchEvent(Object.assign(new Event("message"), { data: { type: "relay-opened", ids: ["m1"] } }));
  await client.stop();
  assert.deepEqual(opened, [["m1"]]);
});
