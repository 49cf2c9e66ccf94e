// The service worker that config/docs/web-push.md has for who writes their own.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const PAGE = readFileSync(new URL("../../config/docs/web-push.md", import.meta.url), "utf8");
const [, CODE] = PAGE.match(/By hand:\s+```js\n(.*?)```/s);
const ME = { device: "laptop", hint: "0123456789abcdef" };
const TOLD = { v: 1, id: "m", title: "Ann", body: "hi", tag: "t", relay: { device: "laptop", user_hint: ME.hint } };

/** What it does with this data: what it shows, and how often it syncs. */
async function heard(data) {
  const done = { shown: [], synced: 0 };
  const waits = [];
  const self = {
    addEventListener: (_, listener) => listener({ data, waitUntil: (promise) => waits.push(promise) }),
    registration: { showNotification: async (title, options) => done.shown.push([title, options.body, options.tag]) },
  };
  new Function("self", "mine", "sync", CODE)(self, async () => ME, async () => void done.synced++);
  await Promise.all(waits);
  return done;
}

const json = (value) => ({ json: () => value });
const SYNCED = { shown: [], synced: 1 };

test("what came is shown", async () => {
  assert.deepEqual(await heard(json(TOLD)), { shown: [["Ann", "hi", "t"]], synced: 0 });
  assert.deepEqual(await heard(json({ ...TOLD, title: undefined })), { shown: [["hi", undefined, "t"]], synced: 0 });
  assert.deepEqual(await heard(json({ ...TOLD, relay: undefined })), { shown: [["Ann", "hi", "t"]], synced: 0 });
  const soon = { ...TOLD, expires_at: Date.now() / 1000 + 60 };
  assert.deepEqual(await heard(json(soon)), { shown: [["Ann", "hi", "t"]], synced: 0 });
});

test("without data, or without words, it syncs", async () => {
  const garbled = { json: () => JSON.parse("{") };
  for (const data of [null, garbled, json(null), json("text"), json({}), json({ ...TOLD, silent: true })]) {
    assert.deepEqual(await heard(data), SYNCED);
  }
  assert.deepEqual(await heard(json({ ...TOLD, expires_at: 1 })), SYNCED);
});

test("what is for another device or user is not shown", async () => {
  for (const relay of [{ device: "phone" }, { device: "laptop", user_hint: "another" }]) {
    assert.deepEqual(await heard(json({ ...TOLD, relay })), { shown: [], synced: 0 });
  }
});
