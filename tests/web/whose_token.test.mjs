// Calls that are made before a handshake has told whose the token is; the relay is a function.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Cache, Client, MemoryTables, Problem } from "../../relay/web/sdk/index.js";
import { TokenKeeper } from "../../relay/web/sdk/tokens.js";

const problem = { type: "about:blank", title: "", status: 409, code: "another_user", detail: "another's" };
const refused = { status: 409, headers: { "Content-Type": "application/problem+json" } };

/** A client of ann's database with `token`, at a relay that never answers a handshake; gives also what it was asked. */
async function client(token) {
  const cache = new Cache(new MemoryTables());
  await cache.open();
  const at = { epoch: "e", seq: 0, cursor: "c0" };
  await cache.adopt(at, { session: 1, reason: "no_cursor", floor: 0, user: "ann" });
  const gaps = [{ from: 0, to: 3, why: "expired" }];
  await cache.keep(at, { timeline: "inbox", epoch: "e", from: 0, to: 3, entries: [], gaps, cursor: "c3" });
  await cache.follow("town");
  await cache.adoptShared("town", { epoch: "g", seq: 9, cursor: "g9" });
  const asked = [];
  const fetch = async (url, { method = "GET", body, headers }) => {
    const path = url.replace("http://relay", "").split("?")[0];
    const whose = headers.Authorization === "Bearer hers" ? "ann" : "bob";
    asked.push(`${method} ${path}`);
    if (path === "/v1/device/ack" && JSON.parse(body).store?.user !== whose) return Response.json(problem, refused);
    if (path === "/v1/device/ack") return Response.json({ acked: 0, results: {} });
    return Response.json({ batches: [{ timeline: "town", epoch: "g", from: 0, to: 5, entries: [], gaps: [], cursor: null }] });
  };
  return { asked, cache, client: new Client({ url: "http://relay", token, cache, fetch, ways: ["poll"] }) };
}

test("with another user's token nothing is fetched, nor counted as fetched", async () => {
  const { asked, client: bobs } = await client("his");
  for (const call of [
    () => bobs.fillHole("town", { low: 0, high: 5 }),
    () => bobs.fetch("0198c1c2-0000-7000-8000-000000000000"),
    () => bobs.verify(),
    () => bobs.call("GET", "/v1/device/sync"),
  ]) {
    await assert.rejects(call, (error) => error instanceof Problem && error.code === "another_user");
  }
  assert.deepEqual(new Set(asked), new Set(["POST /v1/device/ack"]));
});

test("what something before the relay answers says of no token whose it is", async () => {
  for (const [text, type] of [["<html>", "text/html"], ['{"status": "ok"}', "application/json"], ["{", "application/json"]]) {
    const asked = [];
    const before = async (url, { method = "GET" } = {}) => {
      asked.push(`${method} ${url.replace("http://relay", "").split("?")[0]}`);
      return new Response(text, { headers: { "Content-Type": type } });
    };
    const { cache } = await client("his");
    const bobs = new Client({ url: "http://relay", token: "his", cache, fetch: before });
    for (const _ of [1, 2]) await assert.rejects(bobs.fillHole("town", { low: 0, high: 5 }));
    assert.deepEqual(asked, ["POST /v1/device/ack", "POST /v1/device/ack"]);
  }
});

test("the user's own token is asked about once", async () => {
  const { asked, client: anns } = await client("hers");
  await anns.fillHole("town", { low: 0, high: 5 });
  await anns.fillHole("town", { low: 0, high: 5 });
  assert.deepEqual(asked, ["POST /v1/device/ack", "GET /v1/device/sync", "GET /v1/device/sync"]);
});

test("a connection goes on with the successors of its token, and never with what the app brings later", async () => {
  const given = ["hers", "his"];
  const tokens = new TokenKeeper({ source: async () => given.shift(), cache: new Cache(new MemoryTables()), call: null });
  await tokens.take();
  const token = tokens.newest();
  await tokens.keep({ token: "hers-2" });
  assert.equal(token(), "hers-2");
  assert.equal(tokens.proved, tokens.current);
  await tokens.take(true);
  assert.equal(tokens.current, "his");
  assert.equal(token(), "hers-2");
  assert.notEqual(tokens.proved, tokens.current);
});

test("a successor that comes when the app has brought another token is not that one's", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const answer of [{ token: "hers-2" }, { renew_at: "2100-01-01T00:00:00Z" }]) {
    const given = ["hers", "his"];
    const cache = new Cache(new MemoryTables());
    let come;
    const call = () => new Promise((resolve) => (come = () => resolve(answer)));
    const tokens = new TokenKeeper({ source: async () => given.shift(), cache, call });
    await tokens.take();
    await tokens.keep({ renew_at: "1970-01-01T00:00:00Z" });
    t.mock.timers.tick(60_000);
    await tokens.take(true);
    come();
    await new Promise((done) => setImmediate(done));
    assert.equal(tokens.current, "his");
    assert.equal((await cache.open()).token, null);
    assert.equal(tokens.proved, "hers");
    tokens.stop();
  }
});

test("of two successors of one token that come at once, also to two tabs, the first is kept", async () => {
  const tables = new MemoryTables();
  const tabs = [1, 2].map(() => new TokenKeeper({ source: "hers", cache: new Cache(tables), call: null }));
  for (const tab of tabs) {
    await tab.take();
    tab.newest();
  }
  const [tab, other] = tabs;
  await Promise.all([tab.keep({ token: "first" }), tab.keep({ token: "second" }), other.keep({ token: "third" })]);
  await other.take();
  assert.deepEqual(tabs.map(({ current }) => current), ["first", "first"]);
  assert.equal((await new Cache(tables).open()).token, "first");
});

test("a successor that is stored while the app brings another token is not used", async () => {
  const given = ["hers", "his"];
  const tokens = new TokenKeeper({ source: async () => given.shift(), cache: new Cache(new MemoryTables()), call: null });
  await tokens.take();
  tokens.newest();
  const kept = tokens.keep({ token: "hers-2" });
  const taken = tokens.take(true);
  await kept;
  assert.notEqual(tokens.current, "hers-2");
  await taken;
  assert.equal(tokens.current, "his");
});

test("what is no time is none at which the next token is asked for: neither then nor at once", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const answer of [{ renew_at: "soon" }, { renew_at: {} }, { token: 5 }, "soon", null]) {
    let asked = 0;
    const tokens = new TokenKeeper({ source: "hers", cache: new Cache(new MemoryTables()), call: async () => (asked += 1) });
    await tokens.take();
    await tokens.keep(answer);
    t.mock.timers.tick(60_000);
    assert.deepEqual([asked, tokens.current], [0, "hers"]);
    tokens.stop();
  }
});

test("of two successors of one token the first is kept", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const settled = () => new Promise((done) => setImmediate(done));
  for (const [first, second] of [["handshake", "renewal"], ["renewal", "handshake"]]) {
    const cache = new Cache(new MemoryTables());
    let come;
    const call = () => new Promise((resolve) => (come = resolve));
    const tokens = new TokenKeeper({ source: "hers", cache, call });
    await tokens.take();
    tokens.newest();
    await tokens.keep({ renew_at: "1970-01-01T00:00:00Z" });
    t.mock.timers.tick(60_000);
    await tokens.take();
    tokens.newest(); // another connection
    const comes = { handshake: () => tokens.keep({ token: "by handshake" }), renewal: () => come({ token: "by renewal" }) };
    for (const one of [first, second]) {
      await comes[one]();
      await settled();
    }
    assert.deepEqual([tokens.current, (await cache.open()).token], [`by ${first}`, `by ${first}`]);
    tokens.stop();
  }
});

/** What a client of this token is told when the relay takes no token any more, up to its third try. */
async function toldWhereNoneIsTaken(token) {
  const cache = new Cache(new MemoryTables());
  await cache.open();
  await cache.putToken("hers", "hers-2", "hers");
  const [said, tried] = [[], []];
  const unauthenticated = { status: 401, code: "unauthenticated", detail: "No such token." };
  let third;
  const thrice = new Promise((done) => (third = done));
  const fetch = async (_, { headers }) => {
    if (tried.push(headers.Authorization) === 3) third();
    return Response.json(unauthenticated, { status: 401, headers: { "Content-Type": "application/problem+json" } });
  };
  const client = new Client({ url: "http://relay", token, cache, fetch, ways: ["poll"], random: () => 0 });
  for (const type of ["disconnected", "refused"]) client.addEventListener(type, ({ detail }) => said.push([type, detail.code, detail.detail]));
  client.start();
  await thrice;
  await client.stop();
  return { tried: tried.slice(0, 3), said: said.slice(0, 4).map(([type, code]) => `${type} ${code}`), texts: said.map(([, , text]) => text ?? "") };
}

test("the app is told of a token that is refused where there is no other: it would wait for ever", async () => {
  const { tried, said, texts } = await toldWhereNoneIsTaken("hers");
  assert.deepEqual(tried, Array(3).fill("Bearer hers-2"), "it may be that the relay comes to its senses");
  assert.deepEqual(said, ["disconnected 401", "refused unauthenticated", "disconnected 401", "refused unauthenticated"]);
  assert.match(texts[1], /`token` may be a function/);
  assert.ok(!texts.join().includes("hers"));
});

test("where the app's function brings another token, that is tried before anything is said", async () => {
  const given = ["his", "hers", "another"];
  const { tried, said } = await toldWhereNoneIsTaken(async () => given.shift() ?? "last");
  assert.deepEqual(tried, ["Bearer his", "Bearer hers-2", "Bearer another"]);
  assert.deepEqual(said.filter((one) => one.startsWith("refused")), []);
});
