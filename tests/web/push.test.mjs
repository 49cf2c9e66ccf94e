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

/** A browser's cache storage, and what its navigator has. */
function browser(t, navigator) {
  const kept = new Map();
  const store = { put: async (name, { body }) => kept.set(name, await new Response(body).text()) };
  store.match = async (name) => (kept.has(name) ? new Response(kept.get(name)) : undefined);
  globalThis.caches = { open: async () => store, delete: async () => kept.clear() };
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  t.after(() => {
    delete globalThis.caches;
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete globalThis.navigator;
  });
}

/** Waits for what nobody tells, and not for ever. */
async function until(holds) {
  for (const within = Date.now() + 5000; !holds() && Date.now() < within; ) await new Promise(setImmediate);
}

test("a notification of what was taken back meanwhile is closed, though the message never came", async (t) => {
  const closed = [];
  const shown = ["gone", "other"].map((id) => ({ data: { ids: [id] }, close: () => closed.push(id) }));
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => shown };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  browser(t, { serviceWorker });

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  const caughtUp = new Promise((done) => client.addEventListener("caughtup", done));
  const attached = attach(client, { user: "ann", device: "browser" });
  client.start(); // while it is being attached
  await Promise.all([attached, caughtUp]);
  await until(() => closed.length);
  await client.stop();
  assert.deepEqual(closed, ["gone"]);
});

test("a notification of several messages stands until all of them are taken back", async (t) => {
  const closed = [];
  const shown = [["a", "b"], ["b"]].map((ids) => ({ data: { ids }, close: () => closed.push(ids.join()) }));
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => shown.filter(({ data }) => !closed.includes(data.ids.join())) };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  browser(t, { serviceWorker });

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  await attach(client, { user: "ann", device: "browser" });
  for (const [id, gone] of [["b", ["b"]], ["a", ["b", "a,b"]]]) {
    client.dispatchEvent(new CustomEvent("withdraw", { detail: { ids: [id] } }));
    await until(() => closed.length >= gone.length);
    assert.deepEqual(closed, gone);
  }
  await client.stop();
});

test("a notification of several messages goes with the last of them, though the page was loaded anew in between", async (t) => {
  const closed = [];
  const shown = [["a", "b", "c"], ["b", "d"]].map((ids) => ({ data: { ids }, close: () => closed.push(ids.join()) }));
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => shown };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  browser(t, { serviceWorker });

  for (const taken of [["a"], ["b", "c"]]) {
    assert.deepEqual(closed, []);
    const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
    await attach(client, { user: "ann", device: "browser" });
    for (const id of taken) client.dispatchEvent(new CustomEvent("withdraw", { detail: { ids: [id] } })); // at once: none is forgotten
    await client.stop();
  }
  await until(() => closed.length);
  assert.deepEqual(closed, ["a,b,c"]);
});

test("a client that is attached again, as by a subscription, hears its service worker once", async (t) => {
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => [] };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  browser(t, { serviceWorker });

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  const opened = [];
  client.addEventListener("opened", ({ detail }) => opened.push(detail.ids));
  for (let n = 0; n < 3; n += 1) await attach(client, { user: "ann", device: "browser" });
  serviceWorker.dispatchEvent(Object.assign(new Event("message"), { data: { type: "relay-opened", ids: ["m1"] } }));
  await client.stop();
  assert.deepEqual(opened, [["m1"]]);
});

test("where a browser has no room to note what was taken back, nothing else comes of it", async (t) => {
  const worker = Object.assign(new EventTarget(), { state: "activated" });
  const registration = { active: worker, getNotifications: async () => [] };
  const serviceWorker = Object.assign(new EventTarget(), { register: async () => registration });
  browser(t, { serviceWorker });
  const unhandled = [];
  const heard = (error) => unhandled.push(error.message);
  process.on("unhandledRejection", heard);
  t.after(() => process.off("unhandledRejection", heard));

  const client = new Client({ url: "http://relay", token: "rd_x", cache: new Cache(new MemoryTables()), ways: ["poll"], fetch: relay });
  await attach(client, { user: "ann", device: "browser" });
  globalThis.caches.open = async () => { throw new Error("full"); };
  client.dispatchEvent(new CustomEvent("withdraw", { detail: { ids: ["a"] } }));
  for (let turn = 0; turn < 50; turn += 1) await new Promise(setImmediate);
  await client.stop();
  assert.deepEqual(unhandled, []);
});
