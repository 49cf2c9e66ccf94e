import assert from "node:assert/strict";
import { test } from "node:test";

import { afterClose, astray, covers, judge, pauseMs, tagOf } from "../../relay/web/sdk/rules.js";

const page = (from, seqs, gaps, to) => ({
  epoch: "e",
  from,
  to,
  entries: seqs.map((seq) => ({ seq })),
  gaps: gaps.map(([low, high]) => ({ from: low, to: high })),
  cursor: "c",
});

test("a page covers its range when entries and gaps name every number once", () => {
  assert.ok(covers(page(2, [3, 6], [[3, 5]], 6)));
  assert.ok(covers(page(2, [], [], 2)));
  assert.ok(!covers(page(2, [4], [], 4)), "a number is left out");
  assert.ok(!covers(page(2, [3], [[2, 3]], 3)), "a number is named twice");
  assert.ok(!covers(page(2, [4, 3], [], 4)), "out of order");
  assert.ok(!covers(page(2, [3], [], 4)), "it ends early");
});

test("a page is kept only where it begins", () => {
  const here = { epoch: "e", seq: 2 };
  assert.equal(judge(here, page(2, [3], [], 3)), "keep");
  assert.equal(judge(here, page(0, [1, 2], [], 2)), "known");
  assert.equal(judge(here, page(3, [4], [], 4)), "read");
  assert.equal(judge(here, page(0, [1, 2, 3], [], 3)), "read");
  assert.equal(judge(here, page(2, [4], [], 4)), "broken");
  assert.equal(judge({ ...here, epoch: "f" }, page(2, [3], [], 3)), "broken");
});

test("a welcome that would skip messages is not believed", () => {
  const here = { epoch: "e", seq: 4, cursor: "c" };
  assert.ok(!astray(here, { verdict: "delta", epoch: "e", head: 9, missing: 5 }));
  assert.ok(astray(here, { verdict: "delta", epoch: "e", head: 9, missing: 3 }));
  assert.ok(astray(here, { verdict: "resume", epoch: "f", head: 4, missing: 0 }));
  assert.ok(!astray({ ...here, seq: null }, { verdict: "delta", epoch: "e", head: 9, missing: 3 }));
  assert.ok(!astray(here, { verdict: "resync", epoch: "f", head: 9, missing: 9 }));
});

test("pauses grow to a minute and never undercut what was asked for", () => {
  assert.equal(pauseMs(0, () => 1), 1000);
  assert.equal(pauseMs(50, () => 1), 60_000);
  assert.equal(pauseMs(3, () => 0), 0);
  assert.equal(pauseMs(3, () => 0, 5000), 5000);
});

test("the close code says whether to come back", () => {
  assert.equal(afterClose(1012, false), "again");
  assert.equal(afterClose(4001, false), "rest");
  assert.equal(afterClose(4001, true), "again");
  assert.equal(afterClose(4403, true), "never");
  assert.equal(afterClose(4401, true), "renew");
});

test("the tag of an id is what stays when a message is sent again", () => {
  assert.equal(tagOf("0198c1c2-1111-7abc-8123-456789abcdef"), tagOf("01990000-2222-7abc-8123-456789abcdef"));
  assert.notEqual(tagOf("0198c1c2-1111-7abc-8123-456789abcdef"), tagOf("0198c1c2-1111-7abd-8123-456789abcdef"));
  assert.equal(tagOf("not-an-id"), null);
});
