// The sync core alone: what it says to what happens, and what holds whatever happens.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Core } from "../../relay/web/sdk/core.js";
import { HttpWay, SocketWay } from "../../relay/web/sdk/ways.js";

const HERE = { epoch: "e", seq: 2, cursor: "c2" };
const NEWS = { arrived: [], changed: [], ended: [], read: [], sent: [], words: {} };
const welcome = (more = {}) => ({
  type: "welcome",
  verdict: "delta",
  session: 7,
  epoch: "e",
  head: 4,
  missing: 2,
  cursors: { inbox: "w2" },
  ...more,
});
const page = (from, to, more = {}) => ({
  type: "batch",
  epoch: "e",
  from,
  to,
  head: to,
  gaps: [],
  entries: Array.from({ length: to - from }, (_, n) => ({ seq: from + n + 1, id: `m${from + n + 1}` })),
  cursor: `c${to}`,
  ...more,
});
const done = (commands, kind) => commands.filter((one) => one.do === kind);
const said = (commands) => done(commands, "say").map(({ frame }) => frame);

/** A core that has been welcomed. */
function reading(how = {}, { words = {}, position = HERE, welcome: more = {} } = {}) {
  const core = new Core({ storeId: "s", random: () => 0.5, facts: { app_version: "1" } });
  core.handle({ type: "started", words });
  core.handle({ type: "opened", reading: "pushed", waitS: 50, position, words, ...how });
  const [adopt] = done(core.handle({ type: "came", frame: welcome(more) }), "adopt");
  core.handle({ type: "kept", position: adopt.position });
  return core;
}

test("the hello brings the store, its cursor and the facts; the welcome's cursor is stored before anything is read", () => {
  const core = new Core({ storeId: "s", random: () => 0.5, facts: { app_version: "1" } });
  assert.deepEqual(core.handle({ type: "started", words: {} }), [{ do: "connect", renew: false }]);
  const [hello] = said(core.handle({ type: "opened", reading: "pulled", waitS: 50, position: HERE, words: {} }));
  assert.deepEqual([hello.store, hello.cursors, hello.app_version], [{ id: "s" }, { inbox: "c2" }, "1"]);
  const [adopt] = done(core.handle({ type: "came", frame: welcome() }), "adopt");
  assert.deepEqual(adopt.position, { epoch: "e", seq: 2, cursor: "w2" });
  const commands = core.handle({ type: "kept", position: adopt.position });
  assert.deepEqual(done(commands, "read"), [{ do: "read", cursor: "w2", waitS: 0 }]);
});

test("an inbox with nothing more for it is complete, as no page will say so", () => {
  for (const missing of [0, 3]) {
    const core = new Core({ storeId: "s", random: () => 0.5 });
    core.handle({ type: "started", words: {} });
    core.handle({ type: "opened", reading: "pushed", waitS: 50, position: HERE, words: {} });
    const frame = welcome({ verdict: "resync", reason: "epoch", epoch: "f", head: missing, missing });
    assert.equal(done(core.handle({ type: "came", frame }), "adopt")[0].complete, missing === 0);
  }
});

test("a welcome that would skip messages is not believed: the next hello comes without a cursor", () => {
  const core = new Core({ storeId: "s", random: () => 0.5 });
  core.handle({ type: "started", words: {} });
  core.handle({ type: "opened", reading: "pushed", waitS: 50, position: HERE, words: {} });
  const commands = core.handle({ type: "came", frame: welcome({ missing: 1 }) });
  assert.deepEqual(done(commands, "adopt")[0].position, { epoch: "e", seq: null, cursor: null });
  assert.equal(done(commands, "close").length, 1);
});

test("a page is acked after it is kept, an urgent one at once", () => {
  const core = reading();
  const [keep] = done(core.handle({ type: "came", frame: page(2, 3) }), "keep");
  assert.deepEqual(keep.at, { epoch: "e", seq: 2, cursor: "w2" });
  const kept = core.handle({ type: "kept", position: { epoch: "e", seq: 3, cursor: "c3" }, news: NEWS });
  assert.deepEqual(said(kept), []);
  assert.equal(said(core.handle({ type: "rang", timer: "ack" }))[0].cursor, "c3");
  const urgent = page(3, 4, { entries: [{ seq: 4, id: "m4", priority: "urgent" }] });
  core.handle({ type: "came", frame: urgent });
  const now = core.handle({ type: "kept", position: { epoch: "e", seq: 4, cursor: "c4" }, news: NEWS });
  assert.equal(said(now)[0].cursor, "c4");
});

test("a page is kept only where the cache stands: what is ahead is read, what is known is dropped, what has holes ends it", () => {
  const core = reading();
  assert.deepEqual(done(core.handle({ type: "came", frame: page(3, 4) }), "read"), [{ do: "read", cursor: "w2", waitS: 0 }]);
  assert.deepEqual(done(core.handle({ type: "came", frame: page(0, 2) }), "keep"), []);
  const holed = core.handle({ type: "came", frame: page(2, 4, { entries: [{ seq: 4, id: "m4" }] }) });
  assert.deepEqual([done(holed, "keep"), done(holed, "close").length], [[], 1]);
});

test("what can't be stored is not acked, and the connection ends", () => {
  const core = reading();
  core.handle({ type: "came", frame: page(2, 3) });
  const commands = core.handle({ type: "notKept", moved: false });
  assert.deepEqual([said(commands), done(commands, "close").length], [[], 1]);
});

test("refusals are said before the handshake acks what they are about", () => {
  const core = new Core({ storeId: "s", random: () => 0.5 });
  const words = { "nack:m2": { id: "m2", code: "undecodable" }, "read:c": { conversation: "c", read_seq: 1 } };
  core.handle({ type: "started", words });
  const [ack] = said(core.handle({ type: "opened", reading: "pushed", waitS: 50, position: HERE, words }));
  assert.deepEqual([ack.type, ack.nack, ack.cursor, ack.read], ["ack", [words["nack:m2"]], undefined, undefined]);
  const heard = core.handle({ type: "came", frame: { type: "ack", ref: ack.ref, acked: 0 } });
  assert.equal(said(heard)[0].type, "hello");
});

test("no cursor passes a refusal that is left for the next ack", () => {
  const core = reading();
  core.handle({ type: "came", frame: page(2, 3) });
  const words = Object.fromEntries(Array.from({ length: 201 }, (_, n) => [`nack:${n}`, { id: String(n), code: "unknown_type" }]));
  core.handle({ type: "kept", position: { epoch: "e", seq: 3, cursor: "c3" }, news: { ...NEWS, words } });
  const [first] = said(core.handle({ type: "rang", timer: "ack" }));
  assert.deepEqual([first.nack.length, first.cursor], [200, undefined]);
  const [second] = said(core.handle({ type: "rang", timer: "ack" }));
  assert.deepEqual([second.nack.length, second.cursor], [1, "c3"]);
});

test("no ack is larger than a frame may be, however long the names in it, and everything is said", () => {
  for (const kind of ["read", "nack"]) {
    const core = reading();
    core.handle({ type: "came", frame: page(2, 3) });
    const named = (n) => (kind === "read" ? { conversation: `${n}${"\u{1f600}".repeat(125)}`, read_seq: n } : { id: `${n}`, code: "x".repeat(500) });
    const words = Object.fromEntries(Array.from({ length: 190 }, (_, n) => [`${kind}:${n}`, named(n)]));
    core.handle({ type: "kept", position: { epoch: "e", seq: 3, cursor: "c3" }, news: { ...NEWS, words } });
    const acks = [];
    for (let [ack] = said(core.handle({ type: "rang", timer: "ack" })); ack; [ack] = said(core.handle({ type: "rang", timer: "ack" }))) acks.push(ack);
    assert.ok(acks.length > 1);
    for (const ack of acks) assert.ok(new TextEncoder().encode(JSON.stringify(ack)).length < 50_000);
    assert.deepEqual(acks.flatMap((ack) => ack[kind]), Object.values(words));
    assert.deepEqual(acks.flatMap(({ cursor = [] }) => cursor), ["c3"]);
    assert.equal(Boolean(acks[0].cursor), kind === "read", "no cursor passes a refusal that is left for the next ack");
  }
});

test("a word that is longer than a frame may be goes by a call, and is said no more once that has refused it", async () => {
  const sent = [];
  const refusal = { status: 413, code: "body_too_large", detail: "", retryable: false };
  const headers = { "Content-Type": "application/problem+json" };
  const fetch = async () => Response.json(refusal, { status: 413, headers });
  const core = reading();
  core.handle({ type: "spoke", words: { "read:long": { conversation: "x".repeat(70_000), read_seq: 3 } } });
  const [ack] = said(core.handle({ type: "rang", timer: "ack" }));
  const frame = await new Promise((came) => {
    const way = new SocketWay({ url: "", token: () => "t", fetch, came });
    way.socket = { readyState: 1, send: (text) => sent.push(text) };
    way.say({ type: "hb", ref: "1" });
    way.say(ack);
  });
  assert.deepEqual([sent.length, frame.code], [1, "body_too_large"]);
  assert.deepEqual(Object.keys(done(core.handle({ type: "came", frame }), "drop")[0].words), ["read:long"]);
});

test("a read marker that was not heard before an epoch change is said no more: nobody may have read what has its number now", () => {
  const words = { "read:a": { conversation: "a", read_seq: 2 }, "receipt:shown:m1": { id: "m1", what: "shown" } };
  const core = new Core({ storeId: "s", random: () => 0.5 });
  core.handle({ type: "started", words });
  core.handle({ type: "opened", reading: "pushed", waitS: 50, position: HERE, words });
  const frame = welcome({ verdict: "resync", reason: "epoch", epoch: "f", head: 9, missing: 9, cursors: { inbox: "f0" } });
  const [adopt] = done(core.handle({ type: "came", frame }), "adopt");
  core.handle({ type: "kept", position: adopt.position });
  const [ack] = said(core.handle({ type: "rang", timer: "ack" }));
  assert.deepEqual([ack.read, ack.receipts.length], [undefined, 1]);
  core.handle({ type: "spoke", words: { "read:a": { conversation: "a", read_seq: 1 } } });
  const [next] = said(core.handle({ type: "rang", timer: "ack" }));
  assert.deepEqual(next.read, [{ conversation: "a", read_seq: 1 }]);
});

test("an upgrade is compared after every catch-up until a comparison succeeds", () => {
  const upgrade = { id: "up_1" };
  const core = reading({}, { welcome: { upgrade } });
  const comparisons = () => done(core.handle({ type: "came", frame: page(2, 2, { caught_up: true }) }), "compare");
  assert.deepEqual(comparisons(), [{ do: "compare", upgrade: "up_1" }]);
  assert.deepEqual(comparisons(), [], "one at a time");
  core.handle({ type: "compared", upgrade: "up_1", done: false });
  assert.deepEqual(comparisons(), [{ do: "compare", upgrade: "up_1" }]);
  core.handle({ type: "compared", upgrade: "up_1", done: true });
  assert.deepEqual(comparisons(), []);
});

test("an upgrade whose connection ended before the catch-up is compared after the next one", () => {
  const upgrade = { id: "up_1" };
  const core = reading({}, { welcome: { upgrade } });
  core.handle({ type: "closed", code: 1012 });
  core.handle({ type: "rang", timer: "connect" });
  core.handle({ type: "opened", reading: "pushed", waitS: 50, position: HERE, words: {} });
  const [adopt] = done(core.handle({ type: "came", frame: welcome({ upgrade }) }), "adopt");
  core.handle({ type: "kept", position: adopt.position });
  const commands = core.handle({ type: "came", frame: page(2, 2, { caught_up: true }) });
  assert.deepEqual(done(commands, "compare"), [{ do: "compare", upgrade: "up_1" }]);
});

test("it rests when another connection of the device took over, until it is turned to", () => {
  const core = reading();
  core.foreground = false;
  assert.deepEqual(done(core.handle({ type: "closed", code: 4001 }), "set"), []);
  assert.deepEqual(done(core.handle({ type: "turned", foreground: true }), "connect").length, 1);
});

test("a pause is never shorter than the relay asked for, and grows with failures", () => {
  const core = reading();
  core.handle({ type: "came", frame: { type: "drain", reconnect_ms: 9000 } });
  const [again] = done(core.handle({ type: "closed", code: 1012 }), "set");
  assert.deepEqual([again.timer, again.ms], ["connect", 9000]);
  let last = 0;
  for (let n = 0; n < 4; n += 1) {
    core.handle({ type: "rang", timer: "connect" });
    const [pause] = done(core.handle({ type: "closed" }), "set");
    assert.ok(pause.ms > last);
    last = pause.ms;
  }
});

test("a relay that said it restarts is asked every sixteen seconds for a while, and then as seldom as any", () => {
  const core = reading();
  core.handle({ type: "came", frame: { type: "drain", reconnect_ms: 0 } });
  const pauses = [];
  for (let n = 0; n < 14; n += 1) {
    pauses.push(done(core.handle({ type: "closed" }), "set").find(({ timer }) => timer === "connect").ms);
    core.handle({ type: "rang", timer: "connect" });
  }
  assert.ok(Math.max(...pauses.slice(0, 12)) <= 16_000);
  assert.ok(Math.max(...pauses.slice(12)) > 16_000);
});

test("failures are forgotten when a connection has lasted a minute, and not when it is made", () => {
  const core = reading();
  const pause = () => done(core.handle({ type: "closed" }), "set").find(({ timer }) => timer === "connect").ms;
  const connect = () => {
    core.handle({ type: "rang", timer: "connect" });
    const commands = core.handle({ type: "opened", reading: "pushed", waitS: 50, position: HERE, words: {} });
    commands.push(...core.handle({ type: "came", frame: welcome() }));
    const [adopt] = done(commands, "adopt");
    return [...commands, ...core.handle({ type: "kept", position: adopt.position })];
  };
  const pauses = [pause()];
  for (let n = 0; n < 3; n += 1) {
    assert.ok(done(connect(), "set").some(({ timer, ms }) => timer === "calm" && ms === 60_000));
    pauses.push(pause());
  }
  assert.deepEqual(pauses, [500, 1000, 2000, 4000]);
  connect();
  core.handle({ type: "rang", timer: "calm" });
  assert.equal(pause(), 500);
});

/** mulberry32 */
function chance(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A relay, a cache and a line between them that loses, doubles and cuts, for so many steps, and then is good. */
function lived(seed) {
  const random = chance(seed);
  const head = 40;
  const kept = [];
  let store = { epoch: "e", seq: 0, cursor: null };
  let acked = 0;
  let cut = 400;
  const bad = (rate) => (cut -= 1) > 0 && random() < rate;
  const core = new Core({ storeId: "s", random });
  const events = [{ type: "started", words: {} }];
  const number = (cursor) => (cursor ? Number(cursor.slice(1)) : 0);
  const relay = (frame) => {
    if (frame.type === "hello") {
      const at = number(frame.cursors?.inbox);
      const first = frame.cursors === undefined;
      acked = Math.max(acked, at);
      assert.ok(at <= store.seq, "a handshake acked what is not stored");
      const verdict = first ? "resync" : "delta";
      return [welcome({ verdict, reason: first ? "no_cursor" : null, head, missing: head - at, cursors: { inbox: `c${at}` } })];
    }
    if (frame.type === "hb") return [{ type: "hb", ref: frame.ref, head }];
    if (frame.type !== "ack") return [];
    assert.ok(number(frame.cursor) <= store.seq, "an ack of what is not stored");
    acked = Math.max(acked, number(frame.cursor));
    return [{ type: "ack", ref: frame.ref, acked }];
  };
  const carryOut = (commands) => {
    for (const command of commands) {
      const event = act(command);
      if (event) carryOut(core.handle(event));
    }
  };
  const act = (command) => {
    switch (command.do) {
      case "connect":
        return void events.push(bad(0.3) ? { type: "closed" } : { type: "opened", reading: "pulled", waitS: 50, position: store, words: {} });
      case "say":
        for (const frame of relay(command.frame)) if (!bad(0.1)) events.push({ type: "came", frame });
        return undefined;
      case "read": {
        const from = number(command.cursor);
        const to = Math.min(head, from + 1 + Math.floor(random() * 5));
        const frame = page(from, to, { head, more: to < head, caught_up: to === head });
        for (let n = bad(0.1) ? 2 : 1; n > 0 && !bad(0.1); n -= 1) events.push({ type: "came", frame });
        return undefined;
      }
      case "keep": {
        if (bad(0.1)) return { type: "notKept", moved: random() < 0.5 };
        assert.deepEqual([command.at, command.page.from], [store, store.seq]);
        kept.push(...command.page.entries.map(({ seq }) => seq));
        store = { epoch: "e", seq: command.page.to, cursor: command.page.cursor };
        return { type: "kept", position: store, news: NEWS };
      }
      case "adopt":
        store = command.position.seq === null ? { ...command.position, seq: null } : command.position;
        return { type: "kept", position: store };
      case "set":
        if (["connect", "ack", "poll", "answer", "beat", "behind"].includes(command.timer)) events.push({ type: "rang", timer: command.timer });
        return undefined;
      case "close":
        return { type: "closed" };
      default:
        return undefined;
    }
  };
  for (let step = 0; step < 5000 && acked < head; step += 1) {
    const event = bad(0.03) ? { type: "closed" } : events.splice(Math.floor(random() * Math.min(2, events.length)), 1)[0];
    carryOut(core.handle(event ?? { type: "poked", words: {} }));
  }
  return { kept: [...new Set(kept)], acked, head };
}

test("whatever is lost, doubled or cut, everything is kept, in order, and acked in the end", () => {
  for (let seed = 0; seed < 300; seed += 1) {
    const { kept, acked, head } = lived(seed);
    assert.equal(acked, head, `seed ${seed}`);
    assert.deepEqual(kept, Array.from({ length: head }, (_, n) => n + 1), `seed ${seed}`);
  }
});

test("a device that another phone goes by is told when it has caught up", () => {
  const core = reading({}, { welcome: { reidentify: true } });
  const told = () => done(core.handle({ type: "came", frame: page(2, 2, { caught_up: true }) }), "tell").map(({ type }) => type);
  assert.deepEqual(told(), ["caughtup", "reidentify"]);
  assert.deepEqual(told(), [], "once a connection");
});

test("a page that is refused for whatever reason is asked for on another connection: nothing else would ask", () => {
  const refused = { type: "came", frame: { type: "error", code: "internal", detail: "" } };
  const pulled = reading({ reading: "pulled" }).handle(refused);
  assert.deepEqual(pulled.map((one) => one.do), ["tell", "close"]);
  assert.equal(done(reading().handle(refused), "close").length, 0, "pages come by themselves");
});

test("a heartbeat's answer may ask for a handshake, and what else it asks is ignored, as are unknown frames", () => {
  const core = reading();
  const plain = core.handle({ type: "came", frame: { type: "hb", head: 0 } });
  for (const unknown of ["sync", "dance", 7, null]) {
    assert.deepEqual(core.handle({ type: "came", frame: { type: "hb", head: 0, do: unknown } }), plain);
  }
  const commands = core.handle({ type: "came", frame: { type: "notice", what: "?" } });
  assert.deepEqual([done(commands, "keep"), said(commands), done(commands, "close")], [[], [], []]);
  assert.equal(done(core.handle({ type: "came", frame: { type: "hb", head: 0, do: "handshake" } }), "close").length, 1);
});

test("a refusal that something else answered in the relay's place, or that got there too slowly, is still owed", async () => {
  for (const answer of [new Response("<html>", { status: 502 }), Response.json({ code: 1000 }, { status: 404 }), slow()]) {
    const words = { "nack:m2": { id: "m2", code: "undecodable" } };
    const core = new Core({ storeId: "s", random: () => 0.5 });
    core.handle({ type: "started", words });
    const [ack] = said(core.handle({ type: "opened", reading: "pulled", waitS: 0, position: HERE, words }));
    const frame = await new Promise((came) => new HttpWay({ url: "", token: () => "t", fetch: async () => answer, came }).say(ack));
    const commands = core.handle({ type: "came", frame });
    assert.deepEqual([done(commands, "drop"), said(commands), done(commands, "close").length], [[], [], 1], frame.code);
  }
  function slow() {
    const headers = { "Content-Type": "application/problem+json" };
    return Response.json({ code: "request_timeout", status: 408, detail: "", retryable: true }, { status: 408, headers });
  }
});

test("where something before the relay answers an ack, another connection says it: pauses grow, as after any failure", () => {
  const core = reading({ reading: "pulled" });
  core.handle({ type: "spoke", words: { "read:c": { conversation: "c", read_seq: 3 } } });
  const [ack] = said(core.handle({ type: "rang", timer: "ack" }));
  const commands = core.handle({ type: "came", frame: { type: "error", ref: ack.ref, code: "unreachable", retry_after_ms: 0 } });
  assert.deepEqual([done(commands, "drop").length, done(commands, "close").length], [0, 1]);
});

test("a word that the relay never takes has no refusal with it, nor the cursor", () => {
  const core = reading();
  core.handle({ type: "came", frame: page(2, 3) });
  const nack = { "nack:m3": { id: "m3", code: "undecodable" } };
  core.handle({ type: "kept", position: { epoch: "e", seq: 3, cursor: "c3" }, news: { ...NEWS, words: nack } });
  core.handle({ type: "spoke", words: { "read:null": { conversation: null, read_seq: 3 } } });
  const acks = [core.handle({ type: "rang", timer: "ack" }), core.handle({ type: "rang", timer: "ack" })].flatMap(said);
  assert.deepEqual(acks.map(({ nack = [], read = [] }) => [nack.length, read.length]), [[1, 0], [0, 1]]);

  const other = reading();
  other.handle({ type: "spoke", words: { "read:null": { conversation: null, read_seq: 3 } } });
  other.handle({ type: "came", frame: page(2, 3) });
  other.handle({ type: "kept", position: { epoch: "e", seq: 3, cursor: "c3" }, news: NEWS });
  const [ack] = said(other.handle({ type: "rang", timer: "ack" }));
  assert.deepEqual([ack.cursor, ack.read.length], ["c3", 1]);
  other.handle({ type: "came", frame: { type: "error", ref: ack.ref, code: "validation_failed" } });
  const [again] = said(other.handle({ type: "rang", timer: "ack" }));
  assert.deepEqual([again.cursor, again.read], ["c3", undefined]);
});

test("a word of another tab that is newer than the one on its way is said after it", () => {
  const core = reading();
  const word = (seq) => ({ "read:c": { conversation: "c", read_seq: seq } });
  core.handle({ type: "spoke", words: word(3) });
  const [first] = said(core.handle({ type: "rang", timer: "ack" }));
  core.handle({ type: "poked", words: word(5) });
  core.handle({ type: "came", frame: { type: "ack", ref: first.ref, acked: 2 } });
  const [second] = said(core.handle({ type: "rang", timer: "ack" }));
  assert.equal(second?.read[0].read_seq, 5);
  core.handle({ type: "poked", words: word(5) });
  core.handle({ type: "came", frame: { type: "ack", ref: second.ref, acked: 2 } });
  assert.deepEqual(said(core.handle({ type: "rang", timer: "ack" })), [], "heard once, it is said no more");
});

test("a word that grew while the one before was on a slow way is said when that has been heard", () => {
  const core = reading();
  const word = (seq) => ({ "read:c": { conversation: "c", read_seq: seq } });
  core.handle({ type: "spoke", words: word(3) });
  const [first] = said(core.handle({ type: "rang", timer: "ack" }));
  core.handle({ type: "spoke", words: word(5) });
  assert.deepEqual(said(core.handle({ type: "rang", timer: "ack" })), []);
  const commands = core.handle({ type: "came", frame: { type: "ack", ref: first.ref, acked: 2 } });
  assert.deepEqual(done(commands, "set").map(({ timer }) => timer), ["ack", "silence"]);
  assert.equal(said(core.handle({ type: "rang", timer: "ack" }))[0].read[0].read_seq, 5);
});
