// The cache on memory; and on IndexedDB where `npm install` in this folder, or NODE_PATH, has brought fake-indexeddb.
// In a real browser: test_browser.py.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

import { Moved } from "../../relay/web/sdk/cache.js";
import { Cache, IndexedTables, MemoryTables, open } from "../../relay/web/sdk/index.js";

const kinds = { memory: async () => new MemoryTables() };
try {
  const { IDBFactory, IDBKeyRange } = createRequire(import.meta.url)("fake-indexeddb");
  globalThis.IDBKeyRange = IDBKeyRange;
  kinds.indexeddb = () => IndexedTables.open("relay", { factory: new IDBFactory() });
} catch (error) {
  if (process.env.RELAY_NEEDS_INDEXEDDB) throw error;
}

test("where there is no IndexedDB, as in Node, it is said what is there", async () => {
  await assert.rejects(open({ url: "http://relay", token: "t" }), /no IndexedDB here: in Node, .* MemoryTables/);
});

const entry = (seq, more = {}) => ({ seq, id: `m${seq}`, kind: "message", type: "text", body: seq, form: "full", h: "", ...more });
const page = (from, entries, more = {}) => ({
  epoch: "e1",
  from,
  to: entries.length ? entries.at(-1).seq : from,
  entries,
  gaps: [],
  cursor: `c${entries.at(-1)?.seq}`,
  ...more,
});
const at = (seq, epoch = "e1") => ({ epoch, seq });
const bodies = async (cache) => (await cache.messages()).map(({ body }) => body);

for (const [kind, open] of Object.entries(kinds)) {
  const begun = async () => {
    const cache = new Cache(await open());
    await cache.open();
    await cache.adopt({ epoch: "e1", seq: 0, cursor: "c0" });
    return cache;
  };

  test(`${kind}: a page moves the cursor with its messages`, async () => {
    const cache = await begun();
    const news = await cache.keep(at(0), page(0, [entry(1), entry(2)]));
    assert.deepEqual(news.arrived.map(({ id }) => id), ["m1", "m2"]);
    const { seq, cursor } = await cache.open();
    assert.deepEqual([seq, cursor, await bodies(cache)], [2, "c2", [1, 2]]);
  });

  test(`${kind}: what was of a kind that an earlier version did not know is there once it is released`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1, { kind: "hologram" }), entry(2)]));
    const { arrived } = await cache.keep(at(2), page(2, [entry(3, { id: "m1", kind: "release", body: "at last" })]));
    assert.deepEqual([arrived.map(({ id }) => id), await bodies(cache)], [["m1"], [2, "at last"]]);
  });

  test(`${kind}: a page that fails in the middle leaves nothing`, async () => {
    const cache = await begun();
    const broken = page(0, [entry(1), entry(2, { body: () => "cannot be stored" })]);
    await assert.rejects(cache.keep(at(0), broken));
    const { seq } = await cache.open();
    assert.deepEqual([seq, await bodies(cache)], [0, []]);
  });

  test(`${kind}: a page does not fit where another tab has stored meanwhile`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1)]));
    await assert.rejects(cache.keep(at(0), page(0, [entry(1)])), Moved);
  });

  test(`${kind}: the last news beside new messages stay to be told, but no read marker that came beside the cursor`, async () => {
    const cache = await begun();
    const read = (seq, read_seq) => ({ seq, id: `r${seq}`, kind: "read", conversation: "c", read_seq });
    const before = (await cache.open()).count;
    await cache.keep(at(0), page(0, [read(1, 9), entry(2)]));
    const { read: [marker], ended } = await cache.lastNews(before);
    assert.deepEqual([marker, ended], [{ conversation: "c", seq: 9 }, []]);
    const { kept, read: none } = await cache.fill(page(0, [read(1, 5)]));
    assert.deepEqual([kept, none, (await cache.lastNews(before)).read], [true, [], [marker]]);
    await cache.keep(at(2), page(2, [{ seq: 3, id: "r3", kind: "recall", of: ["m2"] }]));
    const last = await cache.lastNews(before);
    assert.deepEqual([last.read, last.ended, last.withdrawn], [[], [{ id: "m2", why: "recalled" }], ["m2"]]);
    assert.deepEqual(await cache.lastNews((await cache.open()).count), await cache.lastNews(Infinity));
  });

  test(`${kind}: a message is kept once, in its fuller form`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1, { form: "fallback", body: "upgrade" })]));
    const news = await cache.keep(at(1), page(1, [entry(2, { id: "m1", kind: "release", body: "full" })]));
    assert.deepEqual([news.arrived.length, news.changed.length, await bodies(cache)], [0, 1, ["full"]]);
  });

  test(`${kind}: a notice of the relay is kept, passed, and neither shown nor refused`, async () => {
    const cache = await begun();
    const notice = { seq: 1, id: "n1", kind: "notice", what: "device added" };
    const news = await cache.keep(at(0), page(0, [notice, entry(2)]));
    assert.deepEqual([news.words, await bodies(cache), (await cache.open()).seq], [{}, [2], 2]);
  });

  test(`${kind}: what was sent in this device's name is lacking until it has come, from here or by a range`, async () => {
    const cache = await begun();
    const gaps = [{ from: 1, to: 3, why: "own" }];
    await cache.keep(at(0), page(0, [entry(1), entry(4)], { gaps }));
    const everything = { low: 0, high: 4 };
    const counted = async () => (await cache.rows(everything, 0)).map(({ seq }) => seq);
    assert.deepEqual([await cache.ownGaps(everything), await counted()], [[{ low: 1, high: 3 }], [1, 4]]);
    await cache.fill({ ...page(1, [entry(2, { kind: "own" })]), to: 3, gaps: [{ from: 2, to: 3, why: "expired" }] });
    assert.deepEqual([await cache.ownGaps(everything), await counted()], [[], [1, 2, 4]]);
  });

  test(`${kind}: what was sent in this device's name and its version is not given is asked for again by a later one`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1), entry(3)], { gaps: [{ from: 1, to: 2, why: "own" }] }));
    const everything = { low: 0, high: 3 };
    await cache.fill({ ...page(1, []), to: 2, gaps: [{ from: 1, to: 2, why: "held" }] });
    assert.deepEqual(await cache.ownGaps(everything), [{ low: 1, high: 2 }]);
    await cache.fill(page(1, [entry(2, { kind: "own" })]));
    assert.deepEqual(await cache.ownGaps(everything), []);
  });

  test(`${kind}: after an epoch change a message is known by its tag`, async () => {
    const cache = await begun();
    const [before, after] = ["0198c1c2-1111-7abc-8123-456789abcdef", "01990000-2222-7abc-8123-456789abcdef"];
    await cache.keep(at(0), page(0, [entry(1, { id: before })]));
    await cache.adopt({ epoch: "e2", seq: 0, cursor: "n0" });
    const again = await cache.keep(at(0, "e2"), page(0, [entry(1, { id: after })], { epoch: "e2", caught_up: true }));
    assert.equal(again.arrived.length, 0);
    assert.equal((await cache.messages()).length, 1);
  });

  test(`${kind}: what its sender repeats once everything has come is known as long as its key`, async () => {
    const id = (ms) => `${ms.toString(16).padStart(12, "0").replace(/^.{8}/, "$&-")}-7abc-8123-456789abcdef`;
    const hours = (n) => n * 3_600_000;
    for (const [expires_at, known, complete] of [[null, hours(72), false], ["1970-01-08T00:00:00Z", hours(8 * 24), true]]) {
      const cache = await begun();
      await cache.keep(at(0), page(0, [entry(1, { id: id(0), expires_at })]));
      await cache.adopt({ epoch: "e2", seq: 0, cursor: "n0" }, { complete });
      if (!complete) await cache.keep(at(0, "e2"), page(0, [], { epoch: "e2", caught_up: true }));
      const repeated = await cache.keep(at(0, "e2"), page(0, [entry(1, { id: id(known - 1) })], { epoch: "e2" }));
      const usedAgain = await cache.keep(at(1, "e2"), page(1, [entry(2, { id: id(known) })], { epoch: "e2" }));
      assert.deepEqual([repeated.arrived.length, usedAgain.arrived.length], [0, 1]);
    }
  });

  test(`${kind}: what was known by its tag goes by the id that the relay has for it from then on`, async () => {
    const cache = await begun();
    const [before, after] = ["0198c1c2-1111-7abc-8123-456789abcdef", "01990000-2222-7abc-8123-456789abcdef"];
    const fallback = { form: "fallback", body: "upgrade" };
    await cache.keep(at(0), page(0, [entry(1, { id: before, ...fallback })]));
    await cache.adopt({ epoch: "e2", seq: 0, cursor: "n0" });
    await cache.keep(at(0, "e2"), page(0, [entry(1, { id: after, ...fallback })], { epoch: "e2", caught_up: true }));
    const released = await cache.keep(at(1, "e2"), page(1, [entry(2, { id: after, kind: "release", body: "full" })], { epoch: "e2" }));
    assert.deepEqual([released.arrived.length, released.changed.length, await bodies(cache)], [0, 1, ["full"]]);
    const recall = { seq: 3, id: "r", kind: "recall", of: [after] };
    const recalled = await cache.keep(at(2, "e2"), page(2, [recall], { epoch: "e2" }));
    assert.deepEqual([recalled.ended, await bodies(cache)], [[{ id: before, why: "recalled" }], []]);
  });

  test(`${kind}: numbers of another epoch end nothing that has come under this one`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1, { id: "old" })]));
    await cache.adopt({ epoch: "e2", seq: 0, cursor: "n0" });
    await cache.keep(at(0, "e2"), page(0, [entry(1), { seq: 2, id: "r", kind: "recall", of: ["old"] }], { epoch: "e2" }));
    assert.deepEqual((await cache.rows({ low: 0, high: 2 }, 0)).map(({ id }) => id), ["m1"]);
  });

  test(`${kind}: what is taken back or replaced goes, and its text with it`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1), entry(2, { collapse_key: "score" })]));
    const recall = { seq: 3, id: "r", kind: "recall", of: ["m1"] };
    const news = await cache.keep(at(2), page(2, [recall, entry(4, { collapse_key: "score" })]));
    assert.deepEqual(news.ended, [{ id: "m1", why: "recalled" }, { id: "m2", why: "superseded" }]);
    assert.deepEqual(await bodies(cache), [4]);
  });

  test(`${kind}: what is newer takes the place of what came under an earlier numbering, and what is older does not`, async () => {
    const cache = await begun();
    const id = (n) => `0198c1c2-${n}${n}${n}${n}-7${n}bc-8123-456789abcdef`; // the higher the later, each with a tag of its own
    const score = (from, n, epoch) => page(from, [entry(from + 1, { id: id(n), body: `${n}:0`, collapse_key: "score" })], { epoch });
    const ended = async (from, n, epoch) => (await cache.keep(at(from, epoch), score(from, n, epoch))).ended.map((one) => one.id);
    assert.deepEqual([await ended(0, 1, "e1"), await ended(1, 2, "e1")], [[], [id(1)]]);
    await cache.adopt({ epoch: "e2", seq: 0, cursor: "n0" }, { reason: "epoch" });
    assert.deepEqual([await ended(0, 1, "e2"), await bodies(cache)], [[], ["2:0"]], "it comes again, and is older than what is here");
    await cache.adopt({ epoch: "e3", seq: 0, cursor: "n0" }, { reason: "epoch" });
    assert.deepEqual([await ended(0, 3, "e3"), await bodies(cache)], [[id(2)], ["3:0"]]);
    assert.deepEqual((await cache.rows({ low: 0, high: 9 }, 0)).map((one) => one.id), [id(3)], "numbers of the past count no more");
    assert.deepEqual([await ended(1, 2, "e3"), await bodies(cache)], [[id(3)], ["2:0"]], "its sender has said it once more, after that");
    assert.deepEqual([await ended(2, 4, "e3"), await bodies(cache)], [[id(2)], ["4:0"]]);
    await cache.fill(score(1, 2, "e3"));
    assert.deepEqual(await bodies(cache), ["4:0"], "by its number it is the older");
  });

  test(`${kind}: what can't be shown is kept raw, and owed as a refusal until it is heard`, async () => {
    const cache = await begun();
    const hologram = { seq: 3, id: "x", kind: "hologram" };
    const check = ({ body }) => {
      if (body === 2) throw new Error();
    };
    await cache.keep(at(0), page(0, [entry(1, { type: "poll" }), entry(2), hologram]), { types: ["text"], check });
    const words = await cache.words();
    assert.deepEqual(
      Object.values(words).map(({ code }) => code),
      ["unknown_type", "undecodable", "unknown_type"],
    );
    await cache.dropWords(words);
    assert.deepEqual(await cache.words(), {});
  });

  test(`${kind}: what an earlier version could read is not refused by one that cannot`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1, { type: "poll" })]));
    await cache.adopt(at(0));
    await cache.keep(at(0), page(0, [entry(1, { type: "poll" })]), { types: ["text"] });
    assert.deepEqual(await cache.words(), {});
    assert.deepEqual((await cache.messages()).map(({ form }) => form), ["full"]);
  });

  test(`${kind}: a read marker never goes back before it is heard, and another conversation's is its own`, async () => {
    const cache = await begun();
    const marked = (conversation, read_seq) => cache.putWord(`read:${conversation}`, { conversation, read_seq });
    const told = [await marked("a", 9), await marked("a", 5), await marked("b", 5), await marked("a", 10)];
    assert.deepEqual(told, [true, false, true, true]);
    const words = Object.values(await cache.words()).map(({ conversation, read_seq }) => [conversation, read_seq]);
    assert.deepEqual(words.sort(), [["a", 10], ["b", 5]]);
  });

  test(`${kind}: a read marker that was not heard before an epoch change is said no more: its number is another message's`, async () => {
    const cache = await begun();
    const marked = (conversation, read_seq) => cache.putWord(`read:${conversation}`, { conversation, read_seq });
    await marked("a", 9);
    await marked("g", 9);
    await cache.putWord("receipt:shown:m1", { id: "m1", what: "shown" });
    await cache.adopt({ epoch: "e1", seq: 0, cursor: "c0" }, { reason: "store_changed" });
    assert.equal(Object.keys(await cache.words()).length, 3);
    await cache.adopt({ epoch: "e2", seq: null, cursor: "n0" }, { reason: "epoch" });
    assert.deepEqual(Object.keys(await cache.words()), ["receipt:shown:m1"]);
    assert.equal(await marked("a", 2), true, "a smaller number of this numbering counts");
  });

  test(`${kind}: a read marker of a shared timeline is said no more where that begins anew`, async () => {
    const cache = await begun();
    for (const name of ["g", "h"]) {
      await cache.follow(name);
      await cache.adoptShared(name, { epoch: "t1", seq: 9, cursor: "t9" });
    }
    for (const name of ["g", "h", "a"]) await cache.putWord(`read:${name}`, { conversation: name, read_seq: 9 });
    await cache.adoptShared("g", { epoch: "t2", seq: 0, cursor: "u0" });
    assert.deepEqual(Object.keys(await cache.words()).sort(), ["read:a", "read:h"]);
  });

  test(`${kind}: what was read before the first handshake is said after it`, async () => {
    const cache = new Cache(await open());
    await cache.open();
    await cache.putWord("read:a", { conversation: "a", read_seq: 9 });
    await cache.adopt({ epoch: "e1", seq: 0, cursor: "c0" }, { reason: "no_cursor" });
    assert.deepEqual(Object.keys(await cache.words()), ["read:a"]);
  });

  test(`${kind}: a refusal names the version that could not show it, also when another one says it`, async () => {
    const cache = await begun();
    await cache.noteVersion("1.0");
    await cache.keep(at(0), page(0, [entry(1, { type: "poll" })]), { types: ["text"] });
    await cache.noteVersion("2.0");
    assert.deepEqual(Object.values(await cache.words()), [{ id: "m1", code: "unknown_type", app_version: "1.0" }]);
  });

  test(`${kind}: a fallback is shown whatever the type, since it is made for versions that don't know it`, async () => {
    const cache = await begun();
    const news = await cache.keep(at(0), page(0, [entry(1, { type: "poll", form: "fallback" })]), { types: ["text"] });
    assert.deepEqual([news.arrived[0].form, news.words], ["fallback", {}]);
  });

  test(`${kind}: a store keeps its id`, async () => {
    const cache = await begun();
    const { id } = await cache.open();
    assert.equal((await cache.open()).id, id);
  });

  test(`${kind}: what counts in a comparison is what came and was not ended`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1), entry(2, { collapse_key: "score" }), entry(3, { form: "fallback" })]));
    await cache.keep(at(3), page(3, [entry(4, { collapse_key: "score" }), entry(5, { id: "m3", kind: "release" })]));
    await cache.keep(at(5), page(5, [entry(6, { expires_at: "2020-01-01T00:00:00Z" })]));
    await cache.delete(["m1"]);
    const extent = await cache.extent();
    assert.deepEqual([extent.low, extent.high], [0, 6]);
    const seqs = async (now) => (await cache.rows(extent, now)).map(({ seq }) => seq);
    assert.deepEqual(await seqs(Date.now()), [1, 4, 5]);
    assert.deepEqual(await seqs(0), [1, 4, 5, 6]);
    await cache.adopt({ epoch: "e1", seq: 4, cursor: "c4" }, { reason: "store_changed" });
    assert.equal((await cache.extent()).low, 4);
  });

  test(`${kind}: what a message that comes during a comparison has ended counts to its end`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1), entry(2, { collapse_key: "score" }), entry(3, { form: "fallback" })]));
    const extent = await cache.extent();
    const before = await cache.rows(extent, 0);
    const recall = { seq: 4, id: "r", kind: "recall", of: ["m1"] };
    const ends = [recall, entry(5, { collapse_key: "score" }), entry(6, { id: "m3", kind: "release" })];
    await cache.keep(at(3), page(3, ends));
    assert.deepEqual([before.length, await cache.rows(extent, 0)], [3, before]);
    assert.deepEqual((await cache.rows(await cache.extent(), 0)).map(({ seq }) => seq), [5, 6]);
  });

  test(`${kind}: nothing counts of no numbers, as of an inbox that is empty or was pruned to its head`, async () => {
    const cache = await begun();
    const none = await cache.extent();
    assert.deepEqual(none, { low: 0, high: 0, cursor: "c0" });
    assert.deepEqual([await cache.ownGaps(none), await cache.rows(none, 0)], [[], []]);
    assert.deepEqual((await cache.fill(page(0, []))).arrived, []);
  });

  test(`${kind}: a message that was lost comes back by a range, and the cursor stays`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1), entry(2)]));
    await cache.tables.transact((t) => t.delete("messages", "m1"));
    assert.deepEqual((await cache.rows(await cache.extent(), 0)).map(({ seq }) => seq), [2]);
    const news = await cache.fill(page(0, [entry(1)], { cursor: null }));
    assert.deepEqual(news.arrived.map(({ id }) => id), ["m1"]);
    const { seq, cursor } = await cache.open();
    assert.deepEqual([seq, cursor, (await cache.rows(await cache.extent(), 0)).length], [2, "c2", 2]);
    assert.equal((await cache.fill(page(0, [entry(2)], { epoch: "e0" }))).arrived.length, 0);
  });

  test(`${kind}: messages come in the order in which they came, in portions`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [1, 2, 3, 4, 5].map((seq) => entry(seq))));
    await cache.delete(["m2"]);
    const [one, three] = await cache.messages({ limit: 2 });
    assert.deepEqual([one.body, three.body], [1, 3]);
    assert.deepEqual((await cache.messages({ after: three.place, limit: 2 })).map(({ body }) => body), [4, 5]);
  });

  test(`${kind}: a message that is not what was stored does not count, and gives way to what is fetched`, async () => {
    const tables = await open();
    const cache = new Cache(tables);
    await cache.open();
    await cache.adopt({ epoch: "e1", seq: 0, cursor: "c0" });
    await cache.keep(at(0), page(0, [entry(1), entry(2, { body: { b: [1, "ü"], a: null } }), entry(3)]));
    const counting = async () => (await cache.rows({ low: 0, high: 3 }, 0)).map(({ seq }) => seq);
    assert.deepEqual(await counting(), [1, 2, 3]);
    await tables.transact(async (t) => {
      await t.put("messages", "m2", { ...(await t.get("messages", "m2")), body: { b: [1, "u"], a: null } });
      await t.delete("messages", "m3");
    });
    assert.deepEqual(await counting(), [1]);
    const news = await cache.fill(page(1, [entry(2, { body: "whole" }), entry(3)]));
    assert.deepEqual(news.changed.map(({ body }) => body), ["whole"]);
    assert.deepEqual(news.arrived.map(({ id }) => id), ["m3"]);
    assert.deepEqual(await counting(), [1, 2, 3]);
    await cache.delete(["m1"]);
    assert.deepEqual(await counting(), [1, 2, 3], "the user's own deletion is no damage");
  });

  test(`${kind}: it remembers the app's version`, async () => {
    const cache = await begun();
    assert.equal(await cache.noteVersion("1.0"), null);
    assert.equal(await cache.noteVersion("1.0"), null);
    assert.equal(await cache.noteVersion("2.0"), "1.0");
  });
}

if (kinds.indexeddb) {
  const { IDBFactory } = createRequire(import.meta.url)("fake-indexeddb");
  const notes = (database) => database.createObjectStore("notes");
  const titles = (database, transaction) => transaction.objectStore("notes").createIndex("title", "title");

  test("the app's object stores grow beside ours, each step once", async () => {
    const factory = new IDBFactory();
    const first = await IndexedTables.open("relay", { factory, migrations: [notes] });
    const { id } = await new Cache(first).open();
    await first.close();
    const second = await IndexedTables.open("relay", { factory, migrations: [notes, titles] });
    assert.deepEqual([...second.database.transaction("notes").objectStore("notes").indexNames], ["title"]);
    assert.equal((await new Cache(second).open()).id, id);
  });

  test("a migration that throws leaves the database as it was", async () => {
    const factory = new IDBFactory();
    const first = await IndexedTables.open("relay", { factory });
    const { id } = await new Cache(first).open();
    await first.close();
    const broken = (database) => {
      notes(database);
      throw new Error("halfway");
    };
    await assert.rejects(IndexedTables.open("relay", { factory, migrations: [broken] }), /halfway/);
    const again = await IndexedTables.open("relay", { factory, migrations: [notes] });
    assert.equal((await new Cache(again).open()).id, id);
  });

  test("an older version of the app leaves a newer one's database alone, and begins its own", async () => {
    const factory = new IDBFactory();
    const newer = await IndexedTables.open("relay", { factory, migrations: [notes] });
    const { id } = await new Cache(newer).open();
    await newer.close();
    const older = await IndexedTables.open("relay", { factory });
    assert.notEqual((await new Cache(older).open()).id, id);
  });

  test("a page of an older version gives way to a newer one, and says so", async () => {
    const factory = new IDBFactory();
    const older = await IndexedTables.open("relay", { factory });
    let outdated = 0;
    older.onoutdated = () => (outdated += 1);
    await IndexedTables.open("relay", { factory, migrations: [notes] });
    assert.equal(outdated, 1);
    await assert.rejects(older.transact(async () => {}), /load the page anew/);
  });
}
