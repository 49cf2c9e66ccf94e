// What a device sends: from the outbox to the relay's answer, with everything in between that may go wrong.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Cache, MemoryTables, Problem } from "../../relay/web/sdk/index.js";
import { uuid7 } from "../../relay/web/sdk/outbox.js";
import { Sender } from "../../relay/web/sdk/sending.js";

const answer = (n, more = {}) => ({
  id: `id-${n}`,
  seq: n,
  h: "aa",
  epoch: "e1",
  accepted_at: "2026-01-01T00:00:00Z",
  expires_at: "2099-01-01T00:00:00Z",
  sender: { user: "ann", device: "phone" },
  ...more,
});
const message = (body, to = "bob") => ({ to: { users: [to] }, body });

async function begun() {
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e1", seq: 0, cursor: "c0" });
  return cache;
}

/** A sender whose posts are answered, in order, by what `answers` hold; `random` 0 makes its pauses end at once. */
function sending(cache, ...answers) {
  const calls = [];
  const told = [];
  const post = async (key, { body }) => {
    calls.push([body, key]);
    const next = answers.shift() ?? answer(calls.length);
    if (next instanceof Error) throw next;
    return next;
  };
  const sender = new Sender({ cache, post, tell: (type, detail) => told.push([type, detail]), random: () => 0 });
  return { sender, calls, told };
}

async function empty(cache) {
  while ((await cache.outbox.all()).some(({ refused }) => !refused)) await new Promise((done) => setTimeout(done, 1));
}

test("what is sent goes in order once a connection stands, and is kept as the user's own", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", { ...message("one"), conversation: { id: "c" } }, 0);
  await cache.outbox.put("k2", { to: { group: "g" }, body: "two" }, 0);
  const { sender, calls, told } = sending(cache);
  sender.nudge();
  assert.deepEqual(calls, [], "nobody can be reached yet");
  sender.reached();
  await empty(cache);
  await sender.stop();
  assert.deepEqual(calls, [["one", "k1"], ["two", "k2"]]);
  assert.deepEqual(told.filter(([type]) => type === "sent").map(([, detail]) => detail), [
    { key: "k1", id: "id-1" },
    { key: "k2", id: "id-2" },
  ]);
  const kept = (await cache.messages()).map(({ kind, body, client_ref, conversation }) => [kind, body, client_ref, conversation]);
  assert.deepEqual(kept, [
    ["own", "one", "k1", { type: "direct", id: "c" }],
    ["own", "two", "k2", { type: "group", id: "g" }],
  ]);
  assert.deepEqual(await cache.rows({ low: 0, high: 2 }, 0), [
    { seq: 1, id: "id-1", h: "aa" },
    { seq: 2, id: "id-2", h: "aa" },
  ]);
});

test("without an answer, or with one that decides nothing, it goes again under its key", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("one"), 0);
  const busy = new Problem(503, { code: "overloaded" });
  const page = new Problem(404, {}); // of something before the relay
  const { sender, calls } = sending(cache, new TypeError("network"), busy, new Problem(401, { code: "unauthenticated" }), page);
  sender.reached();
  await empty(cache);
  await sender.stop();
  assert.deepEqual(calls, Array(5).fill(["one", "k1"]));
  assert.equal((await cache.messages()).length, 1);
});

test("so long as the relay, or something before it, asks for, nothing is tried again", async (t) => {
  const pauses = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (what, ms) => (pauses.push(ms), setTimeout(what, 0));
  t.after(() => (globalThis.setTimeout = setTimeout));
  const cache = await begun();
  await cache.outbox.put("k1", message("one"), 0);
  const busy = (retry_after_ms) => new Problem(503, { code: "overloaded", retry_after_ms });
  const { sender, calls } = sending(cache, busy(1500), busy("soon"), busy(1e300), new Problem(503, null, "120"), new TypeError("network"));
  sender.reached();
  while ((await cache.outbox.all()).length) await new Promise(setImmediate);
  await sender.stop();
  assert.deepEqual(pauses, [1500, 0, 0, 120_000, 0]);
  assert.equal(calls.length, 6);
});

test("that a token is another user's says nothing of the messages of this one", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("one"), 0);
  const { sender, told } = sending(cache, new Problem(409, { code: "another_user" }));
  sender.reached();
  await empty(cache);
  await sender.stop();
  assert.deepEqual(told.map(([type]) => type), ["message", "sent"]);
});

test("what will never be taken stays with its reason, and holds nothing up", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("wrong"), 0);
  await cache.outbox.put("k2", message("good"), 0);
  const errors = [{ pointer: "/to", code: "x", detail: "y" }];
  const { sender, told } = sending(cache, new Problem(422, { code: "validation_failed", detail: "no", errors }), answer(2));
  sender.reached();
  await empty(cache);
  await sender.stop();
  const refused = { code: "validation_failed", detail: "no", errors };
  assert.deepEqual(told[0], ["unsent", { key: "k1", ...refused }]);
  assert.deepEqual((await cache.outbox.all()).map((row) => [row.key, row.refused]), [["k1", refused]]);
  await cache.outbox.drop(["k1"]);
  assert.deepEqual(await cache.outbox.all(), []);
});

test("a receiver whose inbox is full holds up what goes to the same one, and nobody else", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("first", "full"), 0);
  await cache.outbox.put("k2", message("second", "full"), 0);
  await cache.outbox.put("k3", message("other", "bob"), 0);
  const { sender, calls } = sending(cache, new Problem(429, { code: "recipient_queue_full" }));
  sender.reached();
  await empty(cache);
  await sender.stop();
  assert.deepEqual(calls.map(([body]) => body), ["first", "other", "first", "second"]);
});

test("the copy of what was sent may come before the answer, or in its place", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("one"), 0);
  const copy = { seq: 1, id: "id-1", kind: "own", h: "aa", type: "text", body: "one", form: "full", client_ref: "k1" };
  const page = { epoch: "e1", from: 0, to: 1, entries: [copy], gaps: [], cursor: "c1" };
  const news = await cache.keep({ epoch: "e1", seq: 0 }, page);
  assert.deepEqual(news.sent, [{ key: "k1", id: "id-1" }]);
  assert.deepEqual(await cache.outbox.all(), []);
  const late = await cache.sent("k1", answer(1));
  assert.deepEqual([late.arrived, late.sent], [[], []]);
  assert.equal((await cache.messages()).length, 1);
});

test("a message is sent by its own copy, and not by that of what another device has sent under the same key", async () => {
  const cache = await begun();
  await cache.outbox.put("draft-1", message({ text: "mine", at: [1, null] }), 0);
  const copy = (seq, body) => ({ seq, id: `id-${seq}`, kind: "own", h: "aa", type: "text", body, form: "full", client_ref: "draft-1" });
  const page = (from, body) => ({ epoch: "e1", from, to: from + 1, entries: [copy(from + 1, body)], gaps: [], cursor: `c${from + 1}` });
  const theirs = await cache.keep({ epoch: "e1", seq: 0 }, page(0, { text: "the tablet's", at: [1, null] }));
  assert.deepEqual([theirs.sent, (await cache.outbox.all()).map(({ key }) => key)], [[], ["draft-1"]]);
  const ours = await cache.keep({ epoch: "e1", seq: 1 }, page(1, { text: "mine", at: [1, null] }));
  assert.deepEqual([ours.sent, await cache.outbox.all()], [[{ key: "draft-1", id: "id-2" }], []]);
});

test("a number of another numbering, or none, enters nothing into the ledger", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("one"), 0);
  await cache.outbox.put("k2", message("two"), 0);
  await cache.sent("k1", answer(1, { epoch: "e0" }));
  await cache.sent("k2", answer(2, { seq: null }));
  assert.equal((await cache.messages()).length, 2);
  assert.deepEqual(await cache.rows({ low: -1, high: 9 }, 0), []);
});

test("keys are UUIDs of version 7 that begin with the time", () => {
  const key = uuid7(0x0123456789ab);
  assert.match(key, /^01234567-89ab-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(key, uuid7(0x0123456789ab));
});

test("nothing goes out between a refused token and the next connection: it may be another user's", async () => {
  const cache = await begun();
  await cache.outbox.put("k1", message("one"), 0);
  const { sender, calls } = sending(cache);
  sender.reached();
  await empty(cache);
  await cache.outbox.put("k2", message("two"), 0);
  sender.hold();
  sender.nudge();
  await new Promise((done) => setTimeout(done, 20));
  assert.deepEqual(calls, [["one", "k1"]]);
  sender.reached();
  await empty(cache);
  await sender.stop();
  assert.deepEqual(calls, [["one", "k1"], ["two", "k2"]]);
});

test("what is put into the outbox at the very moment when the last message has gone goes out, too", async () => {
  for (let n = 0; n < 40; n += 1) {
    const rows = [{ key: "first", message: { to: {} }, refused: null }];
    const posted = [];
    const cache = {
      outbox: { all: async () => [...rows] },
      sent: async (key) => (rows.splice(rows.findIndex((one) => one.key === key), 1), { arrived: [], sent: [] }),
    };
    const later = async () => {
      for (let k = 0; k < n; k += 1) await null;
      rows.push({ key: "second", message: { to: {} }, refused: null });
      sender.nudge();
    };
    const post = async (key) => {
      posted.push(key);
      if (key === "first") void later();
    };
    const sender = new Sender({ cache, post, tell: () => {}, random: () => 0 });
    sender.reached();
    await new Promise(setImmediate);
    assert.deepEqual(posted, ["first", "second"], `${n} steps after the first one`);
  }
});
