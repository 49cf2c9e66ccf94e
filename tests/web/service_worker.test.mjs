// The service worker, sw.js, in a browser that is made of a few functions. In a real one: test_in_a_browser.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const CODE = readFileSync(new URL("../../relay/web/sdk/sw.js", import.meta.url), "utf8");
const ME = { device: "laptop", hint: "0123456789abcdef", database: null };
const told = (...ids) => ({ title: "Ann", relay: { device: "laptop", user_hint: ME.hint, epoch8: "e", head: 9, ids } });

/** A worker of this device; `onshow` runs while a notification is being shown. */
function worker({ gone, onshow = () => {} } = {}) {
  const kept = new Map([["/relay-push.json", ME], ...(gone ? [["/relay-gone.json", gone]] : [])]);
  const caches = { open: async () => ({ match: async (name) => kept.has(name) && Response.json(kept.get(name)) }) };
  const listeners = {};
  const shown = [];
  const show = async (title, { data }) => {
    await onshow(kept);
    const close = () => void shown.splice(shown.indexOf(one), 1);
    const one = { title, data, close };
    shown.push(one);
  };
  const self = {
    addEventListener: (type, listener) => (listeners[type] = listener),
    clients: { matchAll: async () => [] },
    navigator: {},
    registration: { showNotification: show, getNotifications: async () => [...shown] },
  };
  new Function("self", "caches", CODE)(self, caches);
  const push = async (about) => {
    let heard;
    listeners.push({ data: { json: () => about }, waitUntil: (promise) => (heard = promise) });
    await heard;
    return shown.map(({ data }) => data.ids.join());
  };
  return push;
}

test("what was taken back before its push came is not shown, a summary of which something is left is", async () => {
  const push = worker({ gone: ["a", "b"] });
  assert.deepEqual(await push(told("a")), []);
  assert.deepEqual(await push(told("a", "b")), []);
  assert.deepEqual(await push(told("b", "c")), ["b,c"]);
  assert.deepEqual(await push(told()), ["b,c", ""]);
});

test("what a page hears was taken back while it is being shown is closed, and nothing else", async () => {
  const push = worker({ onshow: (kept) => kept.set("/relay-gone.json", ["b"]) });
  assert.deepEqual(await push(told("a")), ["a"]);
  assert.deepEqual(await push(told("b")), ["a"]);
});

test("what nobody took back is shown", async () => {
  assert.deepEqual(await worker()(told("a")), ["a"]);
});
