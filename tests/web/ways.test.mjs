// Which way the client takes, and what it asks for there; the relay is a function.

import assert from "node:assert/strict";
import { test } from "node:test";

import { toldOf } from "../../relay/web/sdk/core.js";
import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";
import { inOneTab, lockOf } from "../../relay/web/sdk/tabs.js";
import { Gone, Problem } from "../../relay/web/sdk/ways.js";

const welcome = { verdict: "resync", reason: "no_cursor", session: 1, epoch: "e", head: 0, missing: 0, floor: 0, cursors: { inbox: "c0" } };

/** A client of a relay that shakes hands, and streams nothing; gives the addresses that it asked for, up to `last`. */
async function asked(last, follow = []) {
  const doors = [];
  let done;
  const seen = new Promise((resolve) => (done = resolve));
  const fetch = async (url, { method = "GET", signal } = {}) => {
    const path = url.replace("http://relay", "");
    doors.push(`${method} ${path}`);
    if (path.startsWith(last)) done();
    if (method === "PUT") return Response.json(welcome);
    const body = new ReadableStream({ start: (stream) => signal.addEventListener("abort", () => stream.error(signal.reason)) });
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  };
  const cache = new Cache(new MemoryTables());
  const client = new Client({ url: "http://relay", token: "t", cache, fetch, random: () => 0 });
  for (const one of follow) await client.follow(one);
  client.start();
  await seen;
  await client.stop();
  return doors;
}

for (const url of ["relay.example", "localhost:8080", "ftp://relay", "/relay", "", undefined]) {
  test(`what can be no relay's address is said at once, and not tried for ever: ${url}`, () => {
    const made = () => new Client({ url, token: "t", cache: new Cache(new MemoryTables()), fetch });
    assert.throws(made, { name: "TypeError", message: /begins with http:\/\/ or https:\/\// });
  });
}

test("a page may give an address that is relative to its own", async (t) => {
  globalThis.location = { href: "https://app.example/chat/room.html" };
  t.after(() => delete globalThis.location);
  const asked = [];
  const fetch = async (url) => (asked.push(url), Response.json({}));
  for (const url of ["/relay/", "relay", "", "http://relay.example"]) {
    await new Client({ url, token: "t", cache: new Cache(new MemoryTables()), fetch }).call("GET", "/v1/x");
  }
  const bases = ["https://app.example/relay", "https://app.example/chat/relay", "https://app.example", "http://relay.example"];
  assert.deepEqual(asked, bases.map((base) => `${base}/v1/x`));
});

test("where there are no sockets, as in Node 20, the stream is taken at once, with all that is followed", async () => {
  const { WebSocket } = globalThis;
  globalThis.WebSocket = undefined;
  try {
    const doors = await asked("/v1/device/stream", ["town"]);
    assert.deepEqual(doors.slice(0, 2), ["PUT /v1/device", "GET /v1/device/stream?cursor=c0&open=town"]);
  } finally {
    globalThis.WebSocket = WebSocket;
  }
});

for (const status of [200, 401, 403]) test(`where a stream is answered by something that is none, with ${status}, the next way is taken`, async () => {
  const doors = [];
  let done;
  const polled = new Promise((resolve) => (done = resolve));
  const fetch = async (url, { method = "GET", signal } = {}) => {
    const path = url.replace("http://relay", "").split("?")[0];
    doors.push(`${method} ${path}`);
    if (method === "PUT") return Response.json(welcome);
    if (path === "/v1/device/stream") return new Response("<html>", { status, headers: { "Content-Type": "text/html" } });
    done();
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const cache = new Cache(new MemoryTables());
  const client = new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["sse", "long-poll"], random: () => 0 });
  client.start();
  const late = setTimeout(done, 5000);
  await polled;
  clearTimeout(late);
  await client.stop();
  assert.ok(doors.includes("GET /v1/device/sync"), `it went on with ${doors}`);
});

const page = (status, text, type) => [`${status} ${text}`, () => new Response(text, { status, headers: { "Content-Type": type } })];
const NOT_THE_RELAYS = [
  ...[401, 403, 404, 502].map((status) => page(status, "<html>", "text/html")),
  ...[401, 403, 404].map((status) => page(status, '{"code": "forbidden", "retryable": false}', "application/json")),
  page(403, "null", "application/problem+json"),
  page(200, "<html>", "text/html"),
  page(200, '{"status": "ok"}', "application/json"),
  page(200, '{"status', "application/json"),
];

for (const [name, answer] of NOT_THE_RELAYS) {
  test(`what something before the relay answers ends nothing: ${name}`, async () => {
    const first = new Set(["PUT /v1/device", "GET /v1/device/sync", "POST /v1/device/messages"]);
    const again = new Map();
    const asked = [...first].map((door) => new Promise((done) => again.set(door, done)));
    const sent = { id: "m1", seq: 1, h: "aa", epoch: "e", accepted_at: null, expires_at: null, sender: {} };
    const fetch = async (url, { method = "GET", signal } = {}) => {
      const door = `${method} ${url.replace("http://relay", "").split("?")[0]}`;
      if (first.delete(door)) return answer();
      again.get(door)?.();
      if (method === "PUT") return Response.json(welcome);
      if (door.endsWith("/messages")) return Response.json(sent);
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    };
    const cache = new Cache(new MemoryTables());
    await cache.open();
    const client = new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["long-poll"], random: () => 0 });
    const key = await client.send("hi", { to: "bob" });
    const told = new Promise((done) => client.addEventListener("sent", ({ detail }) => done(detail)));
    const late = new Promise((_, reject) => setTimeout(reject, 5000, new Error("it was never asked again")).unref());
    client.start();
    try {
      assert.deepEqual((await Promise.race([late, Promise.all([told, ...asked])]))[0], { key, id: "m1" });
      assert.deepEqual((await client.messages()).map(({ body }) => body), ["hi"]);
    } finally {
      await client.stop();
    }
  });
}

const FOREIGN = ["null", "[]", '"ok"', "{", '{"status": "ok"}', '{"batches": null}', '{"batches": [null]}', '{"batches": [{"entries": []}]}'];
const SUM = ['{"as_of": "2026-01-01T00:00:00Z", "floor": 0, "ranges": null}', '{"as_of": null, "floor": 0, "ranges": []}'];
for (const [what, asked, texts] of [
  ["fetch", (client) => client.fetch("m1"), FOREIGN],
  ["fillHole", (client) => client.fillHole("town", { low: 0, high: 2 }), [...FOREIGN, '{"batches": []}']],
  ["verify", (client) => client.verify(), [...FOREIGN, ...SUM]],
  ["call", (client) => client.call("GET", "/v1/device/accounts"), ["null", '"ok"', "{"]],
]) {
  test(`what something before the relay answers to ${what} is known for none of its answers, whatever JSON it is`, async () => {
    for (const text of texts) {
      const cache = new Cache(new MemoryTables());
      await cache.open();
      await cache.adopt({ epoch: "e", seq: 4, cursor: "c4" }); // there is something to compare
      const fetch = async () => new Response(text, { headers: { "Content-Type": "application/json" } });
      const client = new Client({ url: "http://relay", token: "t", cache, fetch });
      await assert.rejects(asked(client), Gone, text);
    }
  });
}

test("a push that asks for it proves the device's address, and any push makes the client look for news", async () => {
  const said = [];
  const fetch = async (url, { method = "GET", body } = {}) => {
    said.push([method, url.replace("http://relay", ""), body && JSON.parse(body)]);
    return Response.json({ addresses: [] });
  };
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(new MemoryTables()), fetch });
  let looked = 0;
  client.poke = () => (looked += 1);
  await client.pushed({ v: 1, prove: { account: "up", value: "x1" } });
  await client.pushed({ v: 1, head: 3 });
  await client.pushed(null);
  assert.deepEqual(said, [["POST", "/v1/device/addresses/proof", { account: "up", value: "x1" }]]);
  assert.equal(looked, 3);
});

test("an ack of what a push named, or a proof, that something before the relay has answered has not been heard", async () => {
  const entries = [{ seq: 4, id: "m4", kind: "message", type: "text", body: 4, form: "full", h: "" }];
  const page = { epoch: "e", from: 3, to: 4, head: 9, entries, gaps: [] };
  const fetch = async (url) => Response.json(url.includes("/sync") ? { batches: [page] } : { status: "ok" });
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  const client = new Client({ url: "http://relay", token: "t", cache, fetch });
  await assert.rejects(client.fetch("m4"), Gone);
  await assert.rejects(client.pushed({ v: 1, prove: { account: "up", value: "x1" } }), Gone);
  assert.deepEqual(await cache.lacking(["m4"]), []);
});

/** A socket that opens at once, and on which nothing comes by itself. */
class Socket {
  static made = [];
  readyState = 1;
  ended = false;

  constructor() {
    Socket.made.push(this);
    setImmediate(() => this.onopen());
  }

  send() {}

  close() {
    this.ended = true;
  }
}

test("a client that has stopped keeps no process in Node", async () => {
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
  const before = timers();
  await asked("/v1/device/stream");
  assert.equal(timers(), before);
});

for (const text of ["<html>", "null"]) test(`a socket that brings what is no frame is of something before the relay, and ends: ${text}`, async (t) => {
  Socket.made = [];
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(new MemoryTables()), fetch, WebSocket: Socket, random: () => 1 });
  t.after(() => client.stop());
  const disconnected = new Promise((done) => client.addEventListener("disconnected", done));
  client.start();
  await until(() => Socket.made[0]?.onmessage);
  Socket.made[0].onmessage({ data: text });
  await disconnected;
  assert.ok(Socket.made[0].ended);
});

test("a socket that has opened while the cache could not be read is not left open beside the next", async (t) => {
  Socket.made = [];
  const tables = new MemoryTables();
  const transact = tables.transact.bind(tables);
  tables.transact = async (what) => {
    if (Socket.made.length === 1) throw new Error("not now");
    return transact(what);
  };
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(tables), fetch, WebSocket: Socket, random: () => 0 });
  t.after(() => client.stop());
  client.start();
  await until(() => Socket.made.length > 0);
  await until(() => Socket.made[0].ended);
  assert.ok(Socket.made[0].ended);
});

/** Waits for what nobody tells, and not for ever. */
async function until(holds) {
  for (const within = Date.now() + 5000; !holds() && Date.now() < within; ) await new Promise(setImmediate);
}

test("what is no time to wait for is not waited for, nor does it have the client come back at once", () => {
  const asked = (retry_after_ms) => new Problem(503, { code: "overloaded", retry_after_ms, retryable: true }).frame().retryAfterMs;
  const waits = [1500, "soon", "1500", null, [], -1, 86_400_001, 1e300].map(asked);
  assert.deepEqual(waits, [1500, 0, 0, 0, 0, 0, 0, 0]);
  const said = ["120", "0", "Fri, 01 Jan 2027 00:00:00 GMT", "-1", "86401", "1e3", null];
  const whose = (header) => new Problem(503, null, header).frame().retryAfterMs; // something before the relay, which has no word for it
  assert.deepEqual(said.map(whose), [120_000, 0, 0, 0, 0, 0, 0]);
  assert.equal(new Problem(503, { code: "overloaded", retry_after_ms: 1500, retryable: true }, "120").frame().retryAfterMs, 1500);
});

test("a pause that something before the relay asks for is kept before the next connection", async (t) => {
  const closed = async () => new Response("down", { status: 503, headers: { "Retry-After": "3600", "Content-Type": "text/html" } });
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(new MemoryTables()), fetch: closed, ways: ["poll"], random: () => 0 });
  t.after(() => client.stop());
  const disconnected = new Promise((done) => client.addEventListener("disconnected", ({ detail }) => done(detail)));
  client.start();
  assert.equal((await disconnected).retryMs, 3_600_000);
});

test("what a push named is acked once it is in the cache: neither of an epoch not heard of yet, nor what can't be shown", async () => {
  const acked = [];
  const entry = (seq, type) => ({ seq, id: `m${seq}`, kind: "message", type, body: seq, form: "full", h: "" });
  const page = (seq, type, epoch) => ({ epoch, from: seq - 1, to: seq, head: 9, entries: [entry(seq, type)], gaps: [] });
  const batches = [page(4, "text", "e"), page(5, "poll", "e"), page(6, "text", "after a restore")];
  const fetch = async (url, { body }) => {
    if (!url.endsWith("/ack")) return Response.json({ batches });
    acked.push(JSON.parse(body).ids);
    return Response.json({ acked: 0, results: {} });
  };
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  const client = new Client({ url: "http://relay", token: "t", cache, fetch, types: ["text"] });
  await client.fetch("m4", "m5", "m6");
  assert.deepEqual(acked, [["m4"]]);
});

test("what a hole brings is told whole: also what it ends", async () => {
  const entry = { id: "m1", kind: "pointer", type: "text", body: 1, form: "full", h: "" };
  const recall = { seq: 2, id: "r", kind: "recall", of: ["m1"] };
  const hole = { timeline: "town", epoch: "t", from: 0, to: 2, head: 9, entries: [recall], gaps: [{ from: 0, to: 1, why: "recalled" }] };
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  await cache.keep({ epoch: "e", seq: 0 }, { epoch: "e", from: 0, to: 1, entries: [{ ...entry, seq: 1 }], gaps: [], cursor: "c1" });
  await cache.follow("town");
  await cache.adoptShared("town", { epoch: "t", seq: 9, cursor: "t9" });
  const client = new Client({ url: "http://relay", token: "t", cache, fetch: async () => Response.json({ batches: [hole] }) });
  const told = [];
  for (const type of ["ended", "withdraw"]) client.addEventListener(type, ({ detail }) => told.push([type, detail]));
  await client.fillHole("town", { low: 0, high: 2 });
  assert.deepEqual(told, [["ended", { id: "m1", why: "recalled" }], ["withdraw", { ids: ["m1"] }]]);
});

test("a read marker never goes back, whether it is said now or by the next connection", async () => {
  const said = [];
  let heard;
  const fetch = async (url, { method = "GET", body, signal } = {}) => {
    if (method === "PUT") return Response.json(welcome);
    if (url.endsWith("/ack")) {
      said.push(...(JSON.parse(body).read ?? []).map(({ read_seq }) => read_seq));
      if (said.length) heard?.();
      return Response.json({ acked: 0 });
    }
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(new MemoryTables()), fetch, ways: ["long-poll"] });
  await client.read("c", 9);
  await client.read("c", 5);
  const connected = new Promise((done) => client.addEventListener("connected", done));
  const acked = new Promise((done) => (heard = done));
  client.start();
  await connected;
  await client.read("c", 7);
  await acked;
  await client.stop();
  assert.deepEqual(said, [9]);
});

test("a read marker that waited while a new numbering was stored is not said", async () => {
  const said = [];
  let heard;
  const fetch = async (url, { method = "GET", body, signal } = {}) => {
    if (method === "PUT") return Response.json(welcome);
    if (!url.endsWith("/ack")) return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    const { read = [], receipts = [] } = JSON.parse(body);
    said.push(...read);
    if (receipts.length) heard();
    return Response.json({ acked: 0 });
  };
  const cache = new Cache(new MemoryTables());
  const client = new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["long-poll"] });
  const connected = new Promise((done) => client.addEventListener("connected", done));
  const acked = new Promise((done) => (heard = done));
  client.start();
  await connected;
  const put = cache.putWord.bind(cache);
  cache.putWord = async (...word) => {
    const news = await put(...word);
    await cache.adopt({ epoch: "after a restore", seq: 0, cursor: "n0" }, { reason: "epoch" });
    return news;
  };
  await client.read("c", 9);
  cache.putWord = put;
  await client.report("m1", "shown");
  await acked;
  await client.stop();
  assert.deepEqual(said, []);
});

test("an entry that is of no message, and so without an id, is one of the relay's", async () => {
  const entries = [{ seq: 1, id: null, kind: "read", conversation: "c", read_seq: 1 }];
  const page = { timeline: "town", epoch: "t", from: 0, to: 1, head: 9, entries, gaps: [] };
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.follow("town");
  await cache.adoptShared("town", { epoch: "t", seq: 9, cursor: "t9" });
  const client = new Client({ url: "http://relay", token: "t", cache, fetch: async () => Response.json({ batches: [page] }) });
  assert.equal(await client.fillHole("town", { low: 0, high: 1 }), 0);
});

test("of many messages, no more are asked for at once than the relay takes", async () => {
  const asked = [];
  const fetch = async (url) => {
    asked.push(new URL(url).searchParams.getAll("ids").length);
    return Response.json({ batches: [] });
  };
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(new MemoryTables()), fetch });
  await client.fetch(...Array.from({ length: 21 }, (_, n) => `m${n}`));
  assert.deepEqual(asked, [10, 10, 1]);
});

test("what another tab follows, or follows no more, the one that talks to the relay asks for, or does not", async () => {
  const opened = [];
  const fetch = async (url, { method = "GET", signal } = {}) => {
    if (method === "PUT") return Response.json(welcome);
    if (method === "GET") opened.push(new URL(url).searchParams.getAll("open"));
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const cache = new Cache(new MemoryTables());
  const made = () => new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["long-poll"], random: () => 0 });
  const [leads, other] = [made(), made()];
  other.elsewhere = { poke: () => leads.poke() };
  const asked = async (...names) => {
    const within = Date.now() + 5000;
    while (JSON.stringify(opened.at(-1)) !== JSON.stringify(names)) {
      assert.ok(Date.now() < within, `${names} was not asked for, but ${opened.at(-1)}`);
      await new Promise((done) => setTimeout(done, 5));
    }
  };
  leads.start();
  try {
    await asked();
    await other.follow("town");
    await asked("town");
    await other.unfollow("town");
    await asked();
  } finally {
    await leads.stop();
  }
});

test("a page whose client has ended is still told of pushes, and turned", async () => {
  const locks = { request: () => new Promise(() => {}) };
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { locks } });
  try {
    const client = new Client({ url: "http://relay", token: "t", cache: new Cache(new MemoryTables()), fetch });
    inOneTab(client, "inbox");
    await client.stop();
    client.poke();
    client.turn(false);
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete globalThis.navigator;
  }
});

test("a disk that is full when the page opens costs a delay", async () => {
  const tables = new MemoryTables();
  const transact = tables.transact.bind(tables);
  const full = Object.assign(new Error("full"), { name: "QuotaExceededError" });
  tables.transact = (what) => transact((t) => what(failures > 0 ? { ...t, put: () => { failures -= 1; throw full; } } : t));
  let failures = 2;
  const fetch = async (url, { method = "GET", signal } = {}) => {
    if (method === "PUT") return Response.json(welcome);
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  };
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(tables), fetch, ways: ["poll"], random: () => 0 });
  const refused = [];
  client.addEventListener("refused", ({ detail }) => refused.push(detail.code));
  const connected = new Promise((resolve, reject) => {
    client.addEventListener("connected", resolve);
    setTimeout(reject, 5000, new Error("it never came back")).unref();
  });
  try {
    client.start();
    await connected;
    assert.deepEqual(refused, ["storage", "storage"]);
  } finally {
    await client.stop();
  }
});

test("one that waits for room on the disk can be stopped", async () => {
  const tables = Object.assign(new MemoryTables(), { transact: async () => { throw new Error("full"); } });
  const client = new Client({ url: "http://relay", token: "t", cache: new Cache(tables), fetch, ways: ["poll"], random: () => 1 });
  const refused = new Promise((resolve) => client.addEventListener("refused", resolve));
  const { setTimeout } = globalThis;
  globalThis.setTimeout = () => 0; // the pause never ends by itself
  try {
    client.start();
    await refused;
    await new Promise(setImmediate);
    await client.stop();
  } finally {
    globalThis.setTimeout = setTimeout;
  }
});

/** Two tabs of one database; the first one runs the client. */
function twoTabs(made) {
  const grants = [(key, how, lead) => lead(), () => new Promise(() => {})];
  return tabs({ request: async (...what) => grants.shift()(...what) }, made, made);
}

/** Tabs of one database, under these locks. */
function tabs(locks, ...made) {
  const before = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { locks } });
  try {
    return made.map((one) => inOneTab(one(), "two"));
  } finally {
    if (before) Object.defineProperty(globalThis, "navigator", before);
    else delete globalThis.navigator;
  }
}

test("what the leading tab stored and did not live to tell, all others find when one of them takes its place", async () => {
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  const store = async (seq) => {
    const entry = { seq, id: `m${seq}`, kind: "message", type: "text", body: seq, form: "full", h: "" };
    const page = { epoch: "e", from: seq - 1, to: seq, entries: [entry], gaps: [], cursor: `c${seq}` };
    return (await cache.keep({ epoch: "e", seq: seq - 1 }, page)).arrived[0];
  };
  await store(1); // before any of these tabs
  let lead;
  const fetch = (url, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const made = () => new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["poll"] });
  const [heir, other] = tabs({ request: (key, how, then) => new Promise((done) => (lead ??= () => done(then()))) }, made, made);
  const heard = [heir, other].map((tab) => {
    const places = [];
    tab.addEventListener("message", ({ detail }) => places.push(detail.id));
    return places;
  });
  const dying = new BroadcastChannel(lockOf("two"));
  const both = async (...ids) => {
    for (const within = Date.now() + 5000; heard.some(({ length }) => length < ids.length) && Date.now() < within; ) await new Promise(setImmediate);
    assert.deepEqual(heard, [ids, ids]);
  };
  try {
    dying.postMessage({ told: "message", detail: await store(2) });
    await both("m2");
    await store(3);
    lead();
    await both("m2", "m3");
    const last = await store(4);
    dying.postMessage({ told: "message", detail: last });
    await both("m2", "m3", "m4");
    dying.postMessage({ told: "message", detail: { ...last, id: "of another database" } });
    await both("m2", "m3", "m4", "of another database");
  } finally {
    dying.close();
    await Promise.all([heir.stop(), other.stop()]);
  }
});

test("what the leading tab did not live to tell of changes, ends and reads, all others hear when one of them takes its place", async () => {
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  const message = (id, more) => ({ id, kind: "message", type: "text", body: id, form: "full", h: "", ...more });
  const recall = (...of) => ({ id: `r-${of}`, kind: "recall", of });
  let seq = 0;
  const store = async (...entries) => {
    const from = seq;
    const numbered = entries.map((one) => ({ seq: (seq += 1), ...one }));
    const news = await cache.keep({ epoch: "e", seq: from }, { epoch: "e", from, to: seq, entries: numbered, gaps: [], cursor: `c${seq}` });
    return toldOf(news).filter(({ type }) => type !== "message");
  };
  const read = (read_seq) => ({ id: `m-${read_seq}`, kind: "read", conversation: "c", read_seq });
  await store(message("old"), message("oops"), message("told"), message("late", { form: "fallback", body: "update" }));
  await store(recall("old"), read(1)); // before any of these tabs
  const leads = [];
  const fetch = (url, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const made = () => new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["poll"] });
  const locks = { request: (key, how, then) => new Promise((done) => leads.push(() => done(then()))) };
  const both = tabs(locks, made, made);
  const heard = both.map((tab) => {
    const told = [];
    for (const type of ["message", "changed", "ended", "read", "withdraw"]) {
      tab.addEventListener(type, ({ detail }) => told.push([type, detail.id ?? detail.seq ?? detail.ids, detail.why ?? detail.body]));
    }
    return told;
  });
  const dying = new BroadcastChannel(lockOf("two"));
  const hear = async (n) => {
    await until(() => heard.every(({ length }) => length >= n));
    for (let turn = 0; turn < 50; turn += 1) await new Promise(setImmediate); // and nothing twice
  };
  try {
    await cache.open(); // the tabs know by now what was there before them
    for (const { type, detail } of await store(recall("told"), read(3))) dying.postMessage({ told: type, detail });
    const live = [["ended", "told", "recalled"], ["read", 3, undefined], ["withdraw", ["told"], undefined]];
    await hear(3);
    assert.deepEqual(heard, [live, live]);
    await store(recall("oops"), message("late", { kind: "release", body: "at last" }), read(4));
    leads.shift()();
    const found = [["changed", "late", "at last"], ["ended", "oops", "recalled"], ["read", 4, undefined], ["withdraw", ["oops"], undefined]];
    await hear(7);
    assert.deepEqual(heard, [[...live, ...found], [...live, ...found]]);
    await both[0].stop();
    leads.shift()();
    await hear(7);
    assert.deepEqual(heard[1], [...live, ...found]);
  } finally {
    dying.close();
    await Promise.all(both.map((tab) => tab.stop()));
  }
});

test("what a tab fetches that does not talk to the relay is told in the one that does, too", async () => {
  const entry = { seq: 4, id: "m4", kind: "message", type: "text", body: 4, form: "full", h: "" };
  const batches = [{ epoch: "e", from: 3, to: 4, head: 9, entries: [entry], gaps: [] }];
  const fetch = async (url, { method = "GET", signal } = {}) => {
    if (method === "PUT") return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    return Response.json(url.endsWith("/ack") ? { acked: 3, results: {} } : { batches });
  };
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  const [leads, other] = twoTabs(() => new Client({ url: "http://relay", token: "t", cache, fetch, ways: ["poll"] }));
  const heard = new Promise((resolve, reject) => {
    leads.addEventListener("message", ({ detail }) => resolve(detail.id));
    setTimeout(reject, 5000, new Error("it was not told")).unref();
  });
  try {
    await other.fetch("m4");
    assert.equal(await heard, "m4");
  } finally {
    await Promise.all([leads.stop(), other.stop()]);
  }
});
