// The cache on memory; and on IndexedDB where `npm install` in this folder, or NODE_PATH, has brought fake-indexeddb.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

import { Moved } from "../../relay/web/sdk/cache.js";
import { Cache, IndexedTables, MemoryTables } from "../../relay/web/sdk/index.js";

const kinds = { memory: async () => new MemoryTables() };
try {
  const { IDBFactory } = createRequire(import.meta.url)("fake-indexeddb");
  kinds.indexeddb = () => IndexedTables.open("relay", new IDBFactory());
} catch (error) {
  if (process.env.RELAY_NEEDS_INDEXEDDB) throw error;
}

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

  test(`${kind}: a message is kept once, in its fuller form`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1, { form: "fallback", body: "upgrade" })]));
    const news = await cache.keep(at(1), page(1, [entry(2, { id: "m1", kind: "release", body: "full" })]));
    assert.deepEqual([news.arrived.length, news.changed.length, await bodies(cache)], [0, 1, ["full"]]);
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

  test(`${kind}: what is taken back or replaced goes, and its text with it`, async () => {
    const cache = await begun();
    await cache.keep(at(0), page(0, [entry(1), entry(2, { collapse_key: "score" })]));
    const recall = { seq: 3, id: "r", kind: "recall", of: ["m1"] };
    const news = await cache.keep(at(2), page(2, [recall, entry(4, { collapse_key: "score" })]));
    assert.deepEqual(news.ended, [{ id: "m1", why: "recalled" }, { id: "m2", why: "superseded" }]);
    assert.deepEqual(await bodies(cache), [4]);
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

  test(`${kind}: a store keeps its id`, async () => {
    const cache = await begun();
    const { id } = await cache.open();
    assert.equal((await cache.open()).id, id);
  });
}
