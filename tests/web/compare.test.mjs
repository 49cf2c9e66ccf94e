import assert from "node:assert/strict";
import { test } from "node:test";

import { Comparison, fingerprint, partsOf } from "../../relay/web/sdk/compare.js";
import { repair } from "../../relay/web/sdk/repair.js";
import { Ladder } from "../../relay/web/sdk/ladder.js";

const rowsOf = (seqs) =>
  Promise.all(seqs.map(async (seq) => ({ seq, id: `m${seq}`, h: "00", fp: await fingerprint({ seq, id: `m${seq}`, h: "00" }) })));
const upTo = (high) => Array.from({ length: high }, (_, n) => n + 1);

/** A relay that holds these numbers. */
function relayWith(rows, calls = []) {
  return async (method, path, { body } = {}) => {
    calls.push(path);
    const json = () => {
      if (path !== "/v1/device/verify") {
        const [low, high] = path.split("=")[1].split("-").map(Number);
        return { batches: [{ from: low, to: high, entries: rows.filter(({ seq }) => seq > low && seq <= high), gaps: [] }] };
      }
      const ranges = body.ranges.map(({ from, to, n, fp }) => {
        const here = rows.filter(({ seq }) => seq > from && seq <= to);
        const sum = here.reduce((total, row) => (total + row.fp) % (1n << 128n), 0n);
        const items = here.map(({ seq, id, h }) => [seq, id, h]);
        if (here.length === n && BigInt(`0x${fp}`) === sum) return { from, to, result: "same" };
        return to - from > 64 ? { from, to, result: "split" } : { from, to, result: "items", items };
      });
      return { as_of: "2026-01-01T00:00:00Z", floor: 0, ranges };
    };
    return { json: async () => json() };
  };
}

/** A cache that holds these numbers. */
const cacheWith = (rows, high) => ({
  extent: async () => ({ low: 0, high, cursor: "c" }),
  ownGaps: async () => [],
  rows: async () => rows,
});

test("a fingerprint is what every client makes of the same entry", async () => {
  // SHA-256 of "7|0198c1c2-1111-7abc-8123-456789abcdef|0123456789abcdef", its first 16 bytes
  const fp = await fingerprint({ seq: 7, id: "0198c1c2-1111-7abc-8123-456789abcdef", h: "0123456789abcdef" });
  assert.equal(fp.toString(16).padStart(32, "0"), "b82c9f34e9a332e46adde70eac254542");
});

test("parts cover the whole, each number once", () => {
  for (const high of [1, 2, 15, 16, 17, 1000]) {
    const parts = partsOf({ low: 0, high });
    assert.ok(parts.length <= 16);
    assert.deepEqual(parts.flatMap(({ low, high }) => upTo(high - low).map((n) => low + n)), upTo(high));
  }
});

test("equal caches are known in one round, and nothing is fetched", async () => {
  const rows = await rowsOf(upTo(1000));
  const calls = [];
  const fill = () => assert.fail("nothing is lacking");
  const verified = await repair({ cache: cacheWith(rows, 1000), call: relayWith(rows, calls), fill, about: {} });
  assert.deepEqual([verified, calls.length], [{ state: "ok", fetched: 0, rounds: 1, extra: 0 }, 1]);
});

test("what the cache lacks is fetched alone, and what only it has is told", async () => {
  const rows = await rowsOf(upTo(5000));
  const here = rows.filter(({ seq }) => seq !== 40 && seq !== 41 && seq !== 4000);
  here.push(...(await rowsOf([5001])).map((row) => ({ ...row, seq: 4000, id: "ghost" })));
  const fetched = [];
  const fill = async ({ entries }) => {
    fetched.push(...entries.map(({ seq }) => seq));
    here.push(...entries);
    here.sort((a, b) => a.seq - b.seq);
    return entries.length;
  };
  const told = [];
  const relay = relayWith(rows);
  const call = (method, path, options) => {
    if (options?.body?.extra) told.push(options.body.extra);
    return relay(method, path, options);
  };
  const verified = await repair({ cache: cacheWith(here, 5000), call, fill, about: {} });
  assert.deepEqual(told, [1], "the relay is told, once");
  assert.deepEqual(fetched, [40, 41, 4000]);
  assert.deepEqual([verified.state, verified.fetched, verified.extra], ["repaired", 3, 1]);
});

test("to prove an upgrade, what only the cache has is left out, and one that has nothing says so", async () => {
  const rows = await rowsOf(upTo(100));
  const asked = [];
  const relay = relayWith(rows.slice(0, 99));
  const call = (method, path, options) => {
    if (!options.body.extra) asked.push(options.body.ranges);
    return relay(method, path, options);
  };
  const fill = () => assert.fail("nothing is lacking");
  const about = { purpose: "upgrade", upgrade: "up_1" };
  const verified = await repair({ cache: cacheWith(rows, 100), call, fill, about });
  assert.deepEqual([verified.state, verified.extra], ["ok", 1]);
  assert.equal(asked.at(-1).reduce((n, one) => n + one.n, 0), 99);
  await repair({ cache: cacheWith([], 0), call, fill, about });
  assert.deepEqual(asked.at(-1), []);
});

test("a range that the relay never settles is fetched whole", async () => {
  const comparison = new Comparison({ low: 0, high: 100, cursor: "c" }, []);
  for (let n = 0; n < 8; n += 1) {
    const { ranges } = comparison.request();
    comparison.answered({ as_of: "2026-01-01T00:00:00Z", floor: 0, ranges: ranges.slice(0, 1).map((one) => ({ ...one, from: 0, to: 100, result: "split" })) });
  }
  assert.equal(comparison.request(), null);
  assert.deepEqual(comparison.toFetch(), [{ low: 0, high: 100 }]);
});

test("the next way is taken where one does not work, and the best again after ten minutes", () => {
  const ladder = new Ladder(["websocket", "sse", "poll"]);
  ladder.failed(0);
  assert.equal(ladder.way(0), "websocket", "once may be chance");
  ladder.failed(0);
  assert.equal(ladder.way(0), "sse");
  ladder.failed(1000);
  assert.equal(ladder.way(1000), "poll");
  assert.equal(ladder.way(601_000), "websocket");
});

test("what was sent in this device's name is fetched before the comparison, and is no loss", async () => {
  const rows = await rowsOf(upTo(50));
  const here = rows.filter(({ seq }) => seq !== 7);
  const fill = async ({ entries }) => {
    here.push(...entries.filter((one) => !here.includes(one)));
    return 1;
  };
  const cache = { ...cacheWith(here, 50), ownGaps: async () => (here.length < 50 ? [{ low: 6, high: 7 }] : []) };
  const verified = await repair({ cache, call: relayWith(rows), fill, about: {} });
  assert.deepEqual([verified.state, verified.fetched], ["ok", 0]);
});

test("who has fetched what was lacking says so when it compares again, and only then", async () => {
  const rows = await rowsOf(upTo(50));
  const here = rows.slice(1);
  const relay = relayWith(rows);
  const said = [];
  const call = (method, path, options) => {
    if (options?.body.ranges.length) said.push(options.body.mended);
    return relay(method, path, options);
  };
  const fill = async ({ entries }) => here.push(...entries);
  await repair({ cache: cacheWith(here, 50), call, fill, about: { purpose: "upgrade", upgrade: "up_1" } });
  assert.deepEqual(said, [undefined, true]);
});

test("to prove an upgrade, what has expired is for the relay's clock to say, not for this one's", async () => {
  const rows = await rowsOf(upTo(3));
  const asked = [];
  const relay = relayWith(rows);
  const call = (method, path, options) => {
    asked.push(options.body.ranges.reduce((n, one) => n + one.n, 0));
    return relay(method, path, options);
  };
  const fill = () => assert.fail("nothing is lacking");
  const cache = { ...cacheWith(rows, 3), rows: async (_, now) => (now > Date.now() - 1000 ? [] : rows) };
  const verified = await repair({ cache, call, fill, about: { purpose: "upgrade", upgrade: "up_1" } });
  assert.deepEqual([verified.state, asked], ["ok", [0, 3]]);
});
