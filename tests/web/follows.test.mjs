// Shared timelines in the core and the cache: kept where a range begins, acked when kept, and never in the inbox's way.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Core } from "../../relay/web/sdk/core.js";
import { Cache, MemoryTables } from "../../relay/web/sdk/index.js";

const HERE = { epoch: "e", seq: 2, cursor: "c2" };
const NEWS = { arrived: [], changed: [], ended: [], read: [], sent: [], words: {} };
const NOWHERE = { epoch: "", seq: 0, cursor: null };
const at = (seq, epoch = "t") => ({ epoch, seq, cursor: `${epoch}${seq}` });
const page = (from, to, { name = "g", epoch = "t", ...more } = {}) => ({
  type: "batch",
  timeline: name,
  epoch,
  from,
  to,
  head: to,
  gaps: [],
  entries: Array.from({ length: to - from }, (_, n) => entry(from + n + 1, name)),
  cursor: `${epoch}${to}`,
  ...more,
});
const entry = (seq, name = "g", more = {}) => ({ seq, id: `${name}-${seq}`, kind: "message", h: "0", type: "text", body: seq, ...more });
const done = (commands, kind) => commands.filter((one) => one.do === kind);
const said = (commands, type) => done(commands, "say").map(({ frame }) => frame).filter((frame) => frame.type === type);

const welcome = { type: "welcome", verdict: "resume", session: 7, epoch: "e", head: 2, missing: 0, cursors: { inbox: "c2" } };

/** A core that has been welcomed, and what it asked for then. */
function reading(follows, reading = "pushed") {
  const core = new Core({ storeId: "s", random: () => 0.5 });
  core.handle({ type: "started", words: {} });
  core.handle({ type: "opened", reading, waitS: 50, position: HERE, words: {}, follows });
  core.handle({ type: "came", frame: welcome });
  return [core, core.handle({ type: "kept", position: HERE })];
}

test("what is followed is asked for by cursor, or by name the first time", () => {
  const [, pushed] = reading({ g: at(3), h: NOWHERE });
  const [{ shared, open }] = said(pushed, "follow");
  assert.deepEqual([shared, open], [["t3"], ["h"]]);
  const [, pulled] = reading({ g: at(3), h: NOWHERE }, "pulled");
  const [read] = done(pulled, "read");
  assert.deepEqual([read.shared, read.open], [["t3"], ["h"]]);
});

test("a stream brings what is followed, and begins anew where that changes", () => {
  const [core, commands] = reading({ g: at(3), h: NOWHERE }, "streamed");
  const reads = (of) => done(of, "read").map(({ shared, open, anew = false }) => [shared, open, anew]);
  assert.deepEqual(reads(commands), [[["t3"], ["h"], false]]);
  assert.deepEqual(reads(core.handle({ type: "came", frame: page(5, 6) })), [[["t3"], ["h"], false]]); // what lies between, beside it
  assert.deepEqual(reads(core.handle({ type: "unfollowed", name: "h" })), [[["t3"], [], true]]);
  assert.deepEqual(reads(core.handle({ type: "followed", name: "i", position: NOWHERE })), [[["t3"], ["i"], true]]);
});

test("a poll that waits for what is followed no more is asked anew: what it brought would be dropped, and it would be the last", () => {
  const [core] = reading({ g: at(3) }, "pulled");
  const [read] = done(core.handle({ type: "unfollowed", name: "g" }), "read");
  assert.deepEqual([read.cursor, read.shared], ["c2", undefined]);
  assert.deepEqual(core.handle({ type: "came", frame: page(3, 4) }), []);
});

test("a poll whose page begins elsewhere is followed by the next: nothing else would ask", () => {
  const [core] = reading({ g: at(3) }, "pulled");
  for (const elsewhere of [page(5, 6), page(3, 4, { epoch: "u" })]) {
    const commands = core.handle({ type: "came", frame: elsewhere });
    assert.deepEqual(commands, [{ do: "read", cursor: "c2", waitS: 50, shared: ["t3"], open: [] }]);
  }
});

test("a page is kept where its range begins, and acked when it is kept", () => {
  const [core] = reading({ g: at(3) });
  assert.deepEqual(said(core.handle({ type: "came", frame: page(5, 6) }), "follow")[0].shared, ["t3"]);
  const [keep] = done(core.handle({ type: "came", frame: page(3, 5) }), "keepShared");
  assert.deepEqual([keep.at, keep.page.to], [at(3), 5]);
  core.handle({ type: "keptShared", name: "g", position: at(5), news: NEWS });
  const [ack] = said(core.handle({ type: "rang", timer: "ack" }), "ack");
  assert.deepEqual([ack.shared, ack.cursor], [["t5"], undefined]);
  assert.deepEqual(done(core.handle({ type: "came", frame: page(3, 5) }), "keepShared"), []);
  const holed = page(5, 7, { entries: [entry(7)] });
  assert.deepEqual(done(core.handle({ type: "came", frame: holed }), "close").length, 1);
});

test("a timeline that begins anew is adopted, one that is refused is told of, and the inbox stands", () => {
  const [core] = reading({ g: at(3), h: NOWHERE });
  const resync = [{ timeline: "g", reason: "epoch", epoch: "u", cursor: "u0", floor: 0, head: 9 }];
  const refused = [{ conversation: "h", code: "not_found" }];
  const commands = core.handle({ type: "came", frame: { type: "follow", following: ["g"], resync, refused } });
  assert.deepEqual(done(commands, "adoptShared"), [{ do: "adoptShared", name: "g", position: at(0, "u") }]);
  assert.deepEqual(done(commands, "tell"), [{ do: "tell", type: "followrefused", detail: { conversation: "h", code: "not_found" } }]);
  core.handle({ type: "keptShared", name: "g", position: at(0, "u") });
  assert.equal(done(core.handle({ type: "came", frame: page(0, 2, { epoch: "u" }) }), "keepShared").length, 1);
  assert.deepEqual([core.phase, core.position], ["reading", HERE]);
});

test("a read marker of a timeline that begins anew is said no more", () => {
  const [core] = reading({ g: at(3), h: at(3, "v") });
  core.handle({ type: "spoke", words: Object.fromEntries(["g", "h"].map((name) => [`read:${name}`, { conversation: name, read_seq: 3 }])) });
  core.handle({ type: "keptShared", name: "g", position: at(0, "u") });
  const [ack] = said(core.handle({ type: "rang", timer: "ack" }), "ack");
  assert.deepEqual(ack.read, [{ conversation: "h", read_seq: 3 }]);
});

test("a timeline whose cursor cannot be read any more is opened by its name on the next connection", async () => {
  const one = await cache();
  await one.adoptShared("g", at(3));
  const [core] = reading({ g: at(3), h: at(4, "v") });
  const refused = [{ cursor: "t3", code: "invalid_cursor" }, { cursor: "v4", code: "forbidden" }];
  const commands = core.handle({ type: "came", frame: { type: "follow", following: [], refused } });
  assert.deepEqual(done(commands, "tell").map(({ detail }) => detail.conversation), ["g", "h"]);
  const [{ name, position }, ...others] = done(commands, "adoptShared");
  assert.deepEqual([name, position, others], ["g", NOWHERE, []]);
  assert.deepEqual(done(core.handle({ type: "keptShared", ...(await one.adoptShared(name, position)), name }), "say"), [], "nor now");
  const { follows } = await one.open();
  assert.deepEqual(said(reading(follows)[1], "follow").map(({ shared, open }) => [shared, open]), [[[], ["g"]]]);
});

async function cache() {
  const made = new Cache(new MemoryTables());
  await made.open();
  await made.follow("g");
  return made;
}

test("more timelines than the relay takes are not followed: it would refuse the inbox with them", async () => {
  const one = await cache();
  for (let n = 2; n <= 50; n += 1) await one.follow(`town-${n}`);
  await assert.rejects(one.follow("one too many"), RangeError);
  assert.deepEqual(await one.follow("g"), NOWHERE);
  await one.unfollow("town-2");
  assert.deepEqual(await one.follow("one too many"), NOWHERE);
});

test("what is no conversation's name is not followed: the relay would refuse the inbox with it", async () => {
  const one = await cache();
  for (const name of ["", "x".repeat(129), "a\nb", "a\u202eb", undefined]) await assert.rejects(one.follow(name), RangeError);
  for (const name of ["x".repeat(128), "\u{1f600}".repeat(128)]) assert.deepEqual(await one.follow(name), NOWHERE);
  assert.deepEqual(Object.keys((await one.open()).follows).length, 3);
});

test("a cache that follows more than the relay takes at once asks for them in portions, and acks them so", () => {
  const names = Array.from({ length: 120 }, (_, n) => `town-${n}`);
  const follows = Object.fromEntries(names.map((name, n) => [name, n % 2 ? NOWHERE : at(1, name)]));
  const everything = names.map((name, n) => (n % 2 ? name : `${name}1`));
  const sizes = (portions) => portions.map(({ shared, open }) => shared.length + open.length);
  const asked = (portions) => portions.flatMap(({ shared, open }) => [...shared, ...open]);
  const [core, commands] = reading(follows);
  const pushed = said(commands, "follow");
  assert.deepEqual([sizes(pushed), asked(pushed).sort()], [[50, 50, 20], everything.sort()]);
  const [first, second] = [1, 2].map(() => said(core.handle({ type: "rang", timer: "ack" }), "ack")[0].shared);
  assert.deepEqual([first.length, second.length], [50, 10]);

  const [polls, begun] = reading(follows, "pulled");
  const pulled = done(begun, "read");
  const nothing = { type: "nothing", askedS: 0, waitedMs: 0 };
  for (let n = 1; n < 3; n += 1) pulled.push(...done(polls.handle({ type: "came", frame: nothing }), "read"));
  assert.deepEqual([sizes(pulled), asked(pulled).sort()], [[50, 50, 20], everything.sort()]);
});

for (const how of ["pulled", "streamed"]) {
  test(`a query names as many timelines as a request line has room for, and the others when these have cursors: ${how}`, () => {
    const names = Array.from({ length: 50 }, (_, n) => `${n}${"\u{1f600}".repeat(126)}`);
    const [core, begun] = reading(Object.fromEntries(names.map((name) => [name, NOWHERE])), how);
    let [read] = done(begun, "read");
    const opened = [];
    for (let name; (name = read.open.find((one) => !opened.includes(one))); ) {
      const query = [...read.shared.map((one) => ["shared", one]), ...read.open.map((one) => ["open", one])];
      assert.ok(`${new URLSearchParams(query)}`.length < 7600);
      opened.push(name);
      const [next] = done(core.handle({ type: "keptShared", name, position: at(1, "t".repeat(87)), news: NEWS }), "read");
      read = next ?? read;
    }
    assert.deepEqual(opened, names);
  });
}

test("a page is stored with its cursor, beside the inbox, and a second tab stores nothing twice", async () => {
  const one = await cache();
  await one.adopt(HERE);
  const { position, news } = await one.keepShared(NOWHERE, page(0, 2));
  assert.deepEqual([position, news.arrived.length], [at(2), 2]);
  const again = await one.keepShared(NOWHERE, page(0, 2));
  assert.deepEqual(again, { position: at(2) });
  assert.equal((await one.messages()).length, 2);
  const { seq, follows } = await one.open();
  assert.deepEqual([seq, follows], [2, { g: at(2) }]);
  assert.deepEqual(await one.rows({ low: 0, high: 10 }, Date.now()), [], "none of it counts when the inbox is compared");
});

test("holes are kept and filled from any side; another epoch forgets them", async () => {
  const one = await cache();
  await one.keepShared(NOWHERE, page(10, 12, { from: 0, gaps: [{ from: 0, to: 10, why: "skipped" }] }));
  assert.deepEqual(await one.holes("g"), [{ low: 0, high: 10 }]);
  const { arrived } = await one.fillShared(page(4, 6));
  assert.equal(arrived.length, 2);
  assert.deepEqual(await one.holes("g"), [{ low: 0, high: 4 }, { low: 6, high: 10 }]);
  await one.adoptShared("g", at(0, "u"));
  assert.deepEqual(await one.holes("g"), []);
});

test("an epoch change of the inbox leaves what came by a timeline where it is: what replaces it still does", async () => {
  const one = await cache();
  await one.adopt({ epoch: "e", seq: 0, cursor: "c0" });
  await one.keepShared(NOWHERE, page(0, 1, { entries: [entry(1, "g", { collapse_key: "k" })] }));
  await one.adopt({ epoch: "f", seq: 0, cursor: "n0" }, { reason: "epoch" });
  await one.keepShared(at(1), page(1, 2, { entries: [entry(2, "g", { collapse_key: "k" })] }));
  assert.deepEqual((await one.messages()).map(({ id }) => id), ["g-2"]);
});

test("a timeline whose numbers begin anew still has what is newer take the place of what it brought before", async () => {
  const one = await cache();
  const [older, newer] = ["0198c1c2-1111-7abc-8123-456789abcdef", "0198c1c2-2222-7def-8123-456789abcdef"];
  const score = (seq, id) => ({ ...entry(seq), id, collapse_key: "k" });
  await one.keepShared(NOWHERE, page(0, 9, { entries: [score(9, older)], gaps: [{ from: 0, to: 8, why: "skipped" }] }));
  await one.adoptShared("g", at(0, "u"));
  const { news } = await one.keepShared(at(0, "u"), page(0, 1, { epoch: "u", entries: [score(1, newer)] }));
  assert.deepEqual([news.ended, (await one.messages()).map(({ id }) => id)], [[{ id: older, why: "superseded" }], [newer]]);
});

test("what is recalled or replaced in a timeline ends there, whatever numbers the inbox has", async () => {
  const one = await cache();
  await one.adopt({ epoch: "e", seq: 50, cursor: "c50" });
  const inbox = page(50, 51, { name: "inbox", epoch: "e", entries: [{ ...entry(51, "i"), collapse_key: "k" }] });
  await one.keep({ epoch: "e", seq: 50 }, inbox);
  await one.keepShared(NOWHERE, page(0, 1, { entries: [entry(1, "g", { collapse_key: "k" })] }));
  await one.keepShared(at(1), page(1, 2, { entries: [entry(2, "g", { collapse_key: "k" })] }));
  assert.deepEqual((await one.messages()).map(({ id }) => id), ["i-51", "g-2"]);
  const recall = { seq: 3, id: "r", kind: "recall", of: ["g-2"] };
  await one.keepShared(at(2), page(2, 3, { entries: [recall] }));
  assert.deepEqual((await one.messages()).map(({ id }) => id), ["i-51"]);
});
