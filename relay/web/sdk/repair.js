// The calls around a comparison: ask, fetch what is lacking, and compare what was mended once more.

import { Comparison, fingerprint } from "./compare.js";
import { bodyOf, Gone, pagesOf } from "./ways.js";

/**
 * Compares, fetches, and compares again. `call` makes a call of the relay, `fill` stores a page that came by a range and gives
 * how many messages it mended. Gives `{state, fetched, rounds, extra}`; throws what a call throws, and Gone.
 */
export async function repair({ cache, call, fill, about }) {
  const first = await compared(cache, call, fill, about);
  const missing = first.toFetch();
  // What only the cache has is no damage; to prove an upgrade, the sums must do without it.
  if (!missing.length && !(first.extra.length && about.upgrade)) {
    await report(first, call, first.extra.length);
    return { state: "ok", fetched: 0, rounds: first.rounds, extra: first.extra.length };
  }
  let fetched = 0;
  for (const span of missing) fetched += await fetchSpan(span, call, fill);
  const second = await compared(cache, call, fill, missing.length ? { ...about, mended: true } : about, first.extra);
  const state = second.toFetch().length ? "failed" : missing.length ? "repaired" : "ok";
  const extra = first.extra.length + second.extra.length;
  await report(second, call, extra);
  return { state, fetched, rounds: first.rounds + second.rounds, extra };
}

/** Tells the relay of what only the cache has. If that fails, the next comparison does. */
async function report(comparison, call, extra) {
  if (extra) await call("POST", "/v1/device/verify", { body: comparison.report(extra) }).catch(() => null);
}

async function compared(cache, call, fill, about, beside = []) {
  const extent = await cache.extent();
  // The relay counts what was sent in this device's name. Where others sent it, it has not been here: that is no loss.
  for (const span of await cache.ownGaps(extent)) await fetchSpan(span, call, fill);
  const rowsAt = async (now) => {
    const rows = await cache.rows(extent, now);
    return Promise.all(rows.map(async (row) => ({ ...row, fp: await fingerprint(row) })));
  };
  const comparison = new Comparison(extent, await rowsAt(Date.now()), about, beside);
  for (let question = comparison.request(); question; question = comparison.request()) {
    const answer = await bodyOf(await call("POST", "/v1/device/verify", { body: question }), "as_of", "floor", "ranges");
    if (answer.ranges?.length !== question.ranges.length) throw new Gone();
    comparison.answered(answer, comparison.asOf ? undefined : await rowsAt(Date.parse(answer.as_of)));
  }
  return comparison;
}

async function fetchSpan({ low, high }, call, fill) {
  let fetched = 0;
  while (low < high) {
    const [page] = await pagesOf(await call("GET", `/v1/device/sync?range=${low}-${high}`));
    if (!page) throw new Gone();
    fetched += await fill(page);
    if (page.to <= low) break;
    low = page.to;
  }
  return fetched;
}
