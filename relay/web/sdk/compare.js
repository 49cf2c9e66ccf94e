// Comparing a cache with what the relay says it should hold, round by round. Pure: the calls around it are in repair.js.

const PARTS = 16;
const ROUNDS_MAX = 8;
const RANGES_MAX = 256;
const MASK = (1n << 128n) - 1n;

/** The first 16 bytes of the SHA-256 of `seq|id|h`, as a number. */
export async function fingerprint({ seq, id, h }) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(`${seq}|${id}|${h}`));
  const view = new DataView(digest);
  return (view.getBigUint64(0) << 64n) | view.getBigUint64(8);
}

/** The numbers (low, high] in at most 16 parts of nearly the same length. */
export function partsOf({ low, high }) {
  const cuts = Array.from({ length: PARTS + 1 }, (_, n) => low + Math.floor(((high - low) * n) / PARTS));
  return cuts.slice(1).flatMap((end, n) => (end > cuts[n] ? [{ low: cuts[n], high: end }] : []));
}

/** The same numbers in fewer spans, in order: neighbours together, and those that are at most `near` numbers apart. */
export function joined(spans, near = 0) {
  const out = [];
  for (const { low, high } of [...spans].sort((a, b) => a.low - b.low)) {
    const last = out.at(-1);
    if (last && low <= last.high + near) last.high = Math.max(last.high, high);
    else out.push({ low, high });
  }
  return out;
}

const keyOf = ([seq, id, h]) => `${seq}|${id}|${h}`;

/** `request` gives the next question, `answered` takes its answer, until `request` gives null. */
export class Comparison {
  rounds = 0;
  lacking = [];
  extra = [];
  #extent;
  #rows;
  #asked;
  #said = 0; // how many of them the last question was about
  #about;
  #beside;
  #asOf = null;

  /**
   * `rows` are `{seq, id, h, fp}`, those that count over the extent; `about` goes into every question. `beside`: `extra` of an
   * earlier comparison, which the relay does not count.
   */
  constructor(extent, rows, about = {}, beside = []) {
    this.#extent = extent;
    this.#about = about;
    this.#beside = new Set(beside.map(keyOf));
    this.#rows = this.#counting(rows);
    this.#asked = extent.high > extent.low ? partsOf(extent) : [];
  }

  /** The instant of the relay's view, once it has answered. */
  get asOf() {
    return this.#asOf;
  }

  #counting(rows) {
    return rows.filter(({ seq, id, h }) => !this.#beside.has(keyOf([seq, id, h])));
  }

  request() {
    // Where there is nothing to compare, an upgrade is proved by saying so.
    if (!this.#asked.length && (this.rounds || !this.#about.upgrade)) return null;
    if (this.rounds >= ROUNDS_MAX) {
      this.lacking.push(...this.#asked); // fetched whole instead
      this.#asked = [];
      return null;
    }
    this.rounds += 1;
    // What has expired is for the relay's clock to say: by a clock that is wrong, an upgrade would seem to have lost messages.
    this.#said = this.#about.upgrade && !this.#asOf ? 0 : RANGES_MAX;
    const ranges = this.#asked.slice(0, this.#said).map((span) => this.#sum(span));
    return { cursor: this.#extent.cursor, ranges, ...this.#about, ...(this.#asOf ? { as_of: this.#asOf } : {}) };
  }

  /** What tells the relay how many messages only the cache has. */
  report(extra) {
    return { cursor: this.#extent.cursor, ranges: [], as_of: this.#asOf, extra };
  }

  #within({ low, high }) {
    return this.#rows.filter(({ seq }) => seq > low && seq <= high);
  }

  #sum(span) {
    const rows = this.#within(span);
    const total = rows.reduce((sum, { fp }) => (sum + fp) & MASK, 0n);
    return { from: span.low, to: span.high, n: rows.length, fp: total.toString(16).padStart(32, "0") };
  }

  /** `rows`, at the first answer: what counts as of its instant. */
  answered(answer, rows = this.#rows) {
    this.#asOf ??= answer.as_of;
    this.#rows = this.#counting(rows).filter(({ seq }) => seq > answer.floor);
    const again = [];
    for (const { from: low, to: high, result, items } of answer.ranges) {
      if (result === "split") again.push(...partsOf({ low, high }));
      else if (result === "items") this.#listed({ low, high }, items);
    }
    this.#asked = [...again, ...this.#asked.slice(this.#said)];
  }

  #listed(span, theirs) {
    const ours = this.#within(span).map(({ seq, id, h }) => [seq, id, h]);
    const here = new Set(ours.map(keyOf));
    const there = new Set(theirs.map(keyOf));
    for (const item of theirs) if (!here.has(keyOf(item))) this.lacking.push({ low: item[0] - 1, high: item[0] });
    for (const item of ours) if (!there.has(keyOf(item))) this.extra.push(item);
  }

  /** What the cache lacks, neighbours together. */
  toFetch() {
    return joined(this.lacking);
  }
}
