// A device's message database: a page with its cursor or not at all, each message once, the fuller form of two.

import { isMarker } from "./acks.js";
import { joined } from "./compare.js";
import { FOLLOWED_MAX } from "./follows.js";
import { Outbox, ownEntry, settle, settleCopy } from "./outbox.js";
import { acceptedMs, CARRIES_BODY, isRepeat, KNOWN_KINDS, RANK, renumbered, tagOf } from "./rules.js";

const ONE = "one";
const CHUNK = 500; // rows whose bodies are held at a time
const FRESH = { epoch: "", seq: 0, cursor: null, base: 0, floor: 0, byTag: false, count: 0, version: null, given: null, token: null, user: null, last: null };
const INBOX = "inbox";
const NO_NEWS = { arrived: [], changed: [], ended: [], read: [], sent: [], withdrawn: [] };
const NEAR = 20; // numbers between two gaps, that are rather fetched again than asked around
// What is known by the tag of its id: nothing before an epoch change (false), all until everything has come after it (true), and
// from then on what a sender repeats. He hears of the change when devices may long be back.
const REPEATS = "repeats";
// What the relay takes for a conversation's name: of another it refuses the whole question, and with it the inbox's page of a poll.
const NAME = /^[^\u0000-\u001f\u007f\u202a-\u202e\u2066-\u2069]{1,128}$/u;
const HOLES = new Set(["held", "skipped", "pruned"]); // gaps that may be filled later

/** The token to use where the app brings `given`: its newest successor, if the store has one. */
export const tokenAfter = (given, store) => (store.given === given && store.token ? store.token : given);

/** Another tab has stored something meanwhile, or the browser has taken the database away. */
export class Moved extends Error {}

export class Cache {
  #tables;

  constructor(tables) {
    this.#tables = tables;
    this.outbox = new Outbox(tables);
  }

  get tables() {
    return this.#tables;
  }

  /** Makes the store with its id, once; gives it. */
  open() {
    return this.#tables.transact(async (t) => {
      let store = await t.get("store", ONE);
      if (!store) {
        store = { ...FRESH, id: crypto.randomUUID() };
        await t.put("store", ONE, store);
      }
      return store;
    });
  }

  close() {
    return this.#tables.close();
  }

  #change(what) {
    return this.#tables.transact(async (t) => {
      const store = await t.get("store", ONE);
      if (!store) throw new Moved();
      const answer = await what(store, t);
      await t.put("store", ONE, store);
      return answer;
    });
  }

  // --- pages ---

  /** Stores a page and its cursor, if the database stands at `at`; gives what is news. Throws Moved. */
  async keep(at, bare, how = {}) {
    const page = await summed(bare);
    return this.#change(async (store, t) => {
      if (store.epoch !== at.epoch || store.seq !== at.seq || page.from !== at.seq) throw new Moved();
      const news = await this.#takeAll(t, store, page, how);
      for (const seq of page.gaps.filter(({ why }) => why === "own").flatMap(numbersOf)) {
        // What was sent in this device's name is here only if it was sent from here.
        if (!(await t.get("ledger", seq))) await t.put("ledger", seq, { seq, own: true });
      }
      store.seq = page.to;
      store.cursor = page.cursor;
      if (page.caught_up && store.byTag) store.byTag = REPEATS;
      return news;
    });
  }

  /** Takes a message from the outbox into the inbox's cache, by the relay's answer to it; gives what is news. */
  async sent(key, answer) {
    const waiting = (await this.outbox.all()).find((one) => one.key === key);
    const sum = await sumOf(waiting?.message.body);
    return this.#change(async (store, t) => {
      const news = await this.#takeAll(t, store, { entries: [] }, {});
      const row = await settle(t, key);
      if (!row) return news; // its copy has come before the answer
      await this.#take(t, store, { ...ownEntry(row, answer, store.epoch), sum }, {}, news);
      news.sent.push({ key, id: answer.id });
      noteLast(store, news);
      return news;
    });
  }

  /**
   * Stores what came beside the cursor, by a range or an id; gives what is news: no read marker, for a newer one may have been told.
   * `kept` false: it is of another epoch.
   */
  async fill(bare, how = {}) {
    const page = await summed(bare);
    return this.#change(async (store, t) => {
      const fits = page.epoch === store.epoch;
      const entries = fits ? page.entries.filter(({ kind }) => kind !== "read") : [];
      const news = await this.#takeAll(t, store, { ...page, entries }, how);
      // What this version is not given stays one to ask for, before a later one compares.
      const held = (seq) => page.gaps.some(({ from: low, to: high, why }) => why === "held" && low < seq && seq <= high);
      const asked = fits ? await t.between("ledger", page.from, page.to) : [];
      for (const { seq, own } of asked) if (own && !held(seq)) await t.delete("ledger", seq);
      return { ...news, kept: fits };
    });
  }

  // --- shared timelines: each stands at a place of its own, `store.follows`, beside the inbox's ---

  /** Follows a timeline, if it is not followed yet; gives where it stands. Throws RangeError for one too many, and for what is no name. */
  async follow(name) {
    if (typeof name !== "string" || !NAME.test(name)) {
      throw new RangeError("a conversation's name has 1 to 128 characters, and none that controls how text is shown");
    }
    return this.#change(async (store) => {
      const follows = (store.follows ??= {});
      if (!follows[name] && Object.keys(follows).length >= FOLLOWED_MAX) throw new RangeError(`at most ${FOLLOWED_MAX} timelines are followed`);
      return (follows[name] ??= { epoch: "", seq: 0, cursor: null });
    });
  }

  unfollow(name) {
    return this.#change(async (store) => void delete store.follows?.[name]);
  }

  /** Stores a page and its cursor; gives where the timeline stands, and what is news. */
  async keepShared(at, bare, how = {}) {
    const page = await summed(bare);
    return this.#change(async (store, t) => {
      const here = store.follows?.[page.timeline];
      if (!here || here.cursor !== at.cursor) return { position: here ?? at }; // another tab was here, or it is not followed any more
      const news = await this.#takeAll(t, store, page, how, page.timeline);
      const gaps = page.gaps.filter(({ why }) => HOLES.has(why)).map(({ from: low, to: high }) => ({ low, high }));
      if (gaps.length) (store.holes ??= {})[page.timeline] = [...(store.holes?.[page.timeline] ?? []), ...gaps];
      const position = { epoch: page.epoch, seq: page.to, cursor: page.cursor };
      store.follows[page.timeline] = position;
      return { position, news };
    });
  }

  /** Stores where a timeline goes on; every message stays. Under a new epoch, numbers of the past mean nothing, its marker's too. */
  adoptShared(name, position) {
    return this.#change(async (store, t) => {
      const before = store.follows?.[name]?.epoch;
      if (before !== position.epoch) {
        if (renumbered(before ?? "", position.epoch)) await this.#forgetMarkers(t, name);
        delete store.holes?.[name];
        await this.#renumbered(t, name);
      }
      if (store.follows?.[name]) store.follows[name] = position;
      return { position };
    });
  }

  /** Numbers (low, high] that were skipped, the oldest first. */
  async holes(name) {
    const store = await this.open();
    return [...(store.holes?.[name] ?? [])].sort((one, other) => one.low - other.low);
  }

  /** Stores a page of a range, and makes the hole that it lies in smaller. */
  async fillShared(bare, how = {}) {
    const page = await summed(bare);
    return this.#change(async (store, t) => {
      const fits = page.epoch === store.follows?.[page.timeline]?.epoch;
      const news = await this.#takeAll(t, store, fits ? page : { ...page, entries: [] }, how, page.timeline);
      const rest = ({ low, high }) =>
        [{ low, high: Math.min(high, page.from) }, { low: Math.max(low, page.to), high }].filter((one) => one.low < one.high);
      if (fits) (store.holes ??= {})[page.timeline] = (store.holes?.[page.timeline] ?? []).flatMap(rest);
      return news;
    });
  }

  async #takeAll(t, store, page, { types = null, check = null }, timeline = INBOX) {
    const news = { ...structuredClone(NO_NEWS), words: {} };
    for (const entry of page.entries) await this.#take(t, store, entry, { types, check }, news, timeline);
    for (const [key, word] of Object.entries(news.words)) await t.put("words", key, { key, word });
    noteLast(store, news);
    return news;
  }

  async #take(t, store, entry, { types, check }, news, timeline = INBOX) {
    if (entry.kind === "recall") {
      news.withdrawn.push(...(entry.of ?? [])); // a push may have shown what never came
      return this.#end(t, entry.of ?? [], "recalled", entry.seq, news, timeline);
    }
    if (entry.kind === "read") return void news.read.push({ conversation: entry.conversation?.id ?? entry.conversation, seq: entry.read_seq });
    if (!CARRIES_BODY.has(entry.kind) || entry.body === undefined) {
      if (!(await t.get("messages", entry.id))) {
        await t.put("messages", entry.id, { ...entry, form: "control", place: (store.count += 1) });
      }
      if (!KNOWN_KINDS.has(entry.kind)) news.words[`nack:${entry.id}`] = nack(entry.id, "unknown_type", store);
      return undefined;
    }
    const refusal = refused(entry, types, check);
    const form = refusal ? "raw" : (entry.form ?? "full");
    let known = await this.#known(t, store, entry.id);
    if (known && entry.seq && (await this.#outlived(t, known, timeline))) {
      await t.delete("messages", known.id);
      known = null;
    }
    if (known?.form === "control" && !known.ended) known = null; // of a kind that an earlier version did not know: it comes for the first time
    const better = known && !known.ended && (RANK[form] > RANK[known.form] || known.body === undefined || known.rotten);
    if (!known) {
      const tag = tagOf(entry.id);
      const row = { ...entry, form, place: (store.count += 1), ended: null, ...(tag ? { tag } : {}) };
      await t.put("messages", entry.id, row);
      news.arrived.push(row);
      if (entry.kind === "own" && (await settleCopy(t, entry))) news.sent.push({ key: entry.client_ref, id: entry.id });
    } else if (better) {
      const { rotten, ...whole } = known;
      const row = { ...whole, ...entry, id: known.id, form, place: known.place };
      await t.put("messages", known.id, row);
      news.changed.push(row);
    }
    // What an earlier version could read is kept as that had it, and not refused. Of what is shared, nothing is owed to this
    // device alone.
    const had = known?.form === "full" && !better;
    if (refusal && !had && timeline === INBOX) news.words[`nack:${entry.id}`] = nack(entry.id, refusal, store);
    await this.#enter(t, entry, known?.id ?? entry.id, news, timeline);
    return undefined;
  }

  /** What came by which number, and what it ended. */
  async #enter(t, entry, kept, news, timeline) {
    if (entry.kind === "release") await this.#close(t, [entry.id], entry.seq, timeline);
    if (entry.collapse_key && entry.kind === "message") {
      const alike = (await t.having("ledger", "collapse", entry.collapse_key)).filter((one) => of(one) === timeline);
      // Which is older of what came under two epochs, their numbers do not say.
      const before = (one) => (one.past ? acceptedMs(one.kept) < acceptedMs(kept) : one.seq < entry.seq);
      const older = alike.filter((one) => one.kept !== kept && !one.endedBy && before(one));
      for (const one of older) if (one.past) await t.put("ledger", pastKey(one), { ...one, endedBy: entry.seq });
      await this.#end(t, older.map((one) => one.kept), "superseded", entry.seq, news, timeline);
    }
    if (!entry.seq) return; // by no number yet, or by one of another numbering
    const { seq, id, h, expires_at: expires = null, collapse_key: collapse } = entry;
    const key = ledgerKey(timeline, seq);
    const where = timeline === INBOX ? {} : { timeline };
    await t.put("ledger", key, { ...where, seq, id, h, kept, expires, endedBy: null, ...(collapse ? { collapse } : {}) });
    const row = await t.get("messages", kept);
    await t.put("messages", kept, { ...row, seqs: [...new Set([...(row.seqs ?? []), key])] });
  }

  /** A new numbering: numbers of the past mean nothing, but a newer message still takes the place of one that came by them. */
  async #renumbered(t, timeline) {
    for (const row of (await t.all("ledger")).filter((one) => of(one) === timeline && !one.past)) {
      await t.delete("ledger", ledgerKey(timeline, row.seq));
      if (row.collapse && !row.endedBy) await t.put("ledger", pastKey(row), { ...row, past: true });
    }
  }

  /** A message that came under an earlier numbering has a number of this one now; gives whether what ended it here is the older. */
  async #outlived(t, { id, ended }, timeline) {
    const key = pastKey({ timeline, kept: id });
    const past = await t.get("ledger", key);
    if (past) await t.delete("ledger", key);
    return ended === "superseded" && Boolean(past?.endedBy);
  }

  /** Ledger rows of these messages before a number count no more. */
  async #close(t, ids, by, timeline) {
    for (const id of ids) {
      const message = await this.#keptAs(t, id);
      for (const key of message?.seqs ?? []) {
        const row = await t.get("ledger", key);
        // Under another epoch, a number of the past is another message's.
        const mine = row?.kept === message.id && of(row) === timeline;
        if (mine && row.seq < by && !row.endedBy) await t.put("ledger", key, { ...row, endedBy: by });
      }
    }
  }

  /** The message by this id, as it is in the database: one that was known by its tag keeps the id that it had before. */
  async #keptAs(t, id) {
    const message = await t.get("messages", id);
    const tag = message ? null : tagOf(id);
    for (const one of tag ? await t.having("messages", "tag", tag) : []) {
      for (const key of one.seqs ?? []) if ((await t.get("ledger", key))?.id === id) return one;
    }
    return message;
  }

  async #known(t, store, id) {
    const known = await this.#keptAs(t, id);
    const tag = store.byTag && !known ? tagOf(id) : null;
    if (tag === null) return known;
    const alike = await t.having("messages", "tag", tag);
    return alike.find((one) => store.byTag !== REPEATS || isRepeat(id, one));
  }

  async #end(t, ids, why, by, news, timeline) {
    await this.#close(t, ids, by, timeline);
    for (const one of ids) {
      const row = await this.#keptAs(t, one);
      if (!row || row.ended) continue;
      const { id } = row;
      await t.put("messages", id, { ...row, body: null, ended: why });
      news.ended.push({ id, why });
    }
  }

  // --- where to go on ---

  /**
   * Stores where reading goes on, and for which user (null: as before); every message stays. Under a new epoch, numbers of the past
   * mean nothing, those of read markers among them. `seq` null: the next welcome says it.
   * `complete`: nothing lies beyond it.
   */
  adopt({ epoch, seq, cursor }, { reason = null, floor = 0, user = null, complete = false } = {}) {
    return this.#change(async (store, t) => {
      if (store.epoch !== epoch) {
        await this.#renumbered(t, INBOX);
        // Those of shared timelines as well, whose numbers may be lost with the inbox's.
        if (renumbered(store.epoch, epoch)) await this.#forgetMarkers(t);
        store.byTag = store.epoch !== "";
      }
      if (complete && store.byTag) store.byTag = REPEATS;
      if ((reason !== null || store.seq === null) && seq !== null) store.base = seq;
      Object.assign(store, { epoch, seq, cursor, floor, user: user ?? store.user });
    });
  }

  /** Remembers the app's version; gives the one that ran before, if it was another. */
  noteVersion(version) {
    return this.#change(async (store) => {
      const before = store.version;
      store.version = version;
      return before === version ? null : before;
    });
  }

  // --- what it holds ---

  /** Messages in the order in which they came, those after a `place`. */
  messages({ after = 0, limit = 200, now = Date.now() } = {}) {
    return this.#tables.transact(async (t) => {
      const found = [];
      while (found.length < limit) {
        const rows = await t.after("messages", "place", after, limit);
        found.push(...rows.filter((one) => !one.ended && one.form !== "control" && !past(one.expires_at, now)));
        if (rows.length < limit) break;
        after = rows.at(-1).place;
      }
      return found.slice(0, limit);
    });
  }

  /** The last news beside new messages, if they were stored after a `place`. */
  lastNews(after) {
    return this.#tables.transact(async (t) => {
      const { last } = (await t.get("store", ONE)) ?? {};
      if (!last || last.place <= after) return { ...NO_NEWS };
      const changed = await Promise.all(last.changed.map((id) => t.get("messages", id)));
      return { ...NO_NEWS, ...last.others, changed: changed.filter((one) => one && !one.ended) };
    });
  }

  /** Those of these messages that have not come yet. */
  lacking(ids) {
    return this.#tables.transact(async (t) => {
      const known = await Promise.all(ids.map((id) => t.get("messages", id)));
      return ids.filter((_, n) => known[n] === undefined);
    });
  }

  /** Takes messages off this device; what came by which number stays known. */
  delete(ids) {
    return this.#tables.transact(async (t) => {
      for (const id of ids) {
        const row = await t.get("messages", id);
        if (row && !row.ended) await t.put("messages", id, { ...row, body: null, ended: "deleted" });
      }
    });
  }

  /** The numbers over which it can be compared with the relay, (low, high], and the cursor that stands for `high`. */
  extent() {
    return this.#change(async ({ base, floor, seq, cursor }) => {
      const low = Math.max(base, floor);
      return { low, high: Math.max(low, seq ?? 0), cursor };
    });
  }

  /** Numbers of what was sent in this device's name by somebody else, as its backend, and has never come here. */
  async ownGaps({ low, high }) {
    const ledger = await this.#tables.transact((t) => t.between("ledger", low, high));
    return joined(ledger.filter(({ own }) => own).map(({ seq }) => ({ low: seq - 1, high: seq })), NEAR);
  }

  /**
   * What counts of these numbers in a comparison (config/docs/protocol.md): `{seq, id, h}`, in order; also what was ended since by
   * an entry beyond them, as messages go on coming meanwhile. A message that is missing, or is not what was stored here, does not
   * count; the latter gives way to what is fetched.
   */
  async rows({ low, high }, now) {
    const ledger = await this.#tables.transact((t) => t.between("ledger", low, high));
    const live = ledger.filter((row) => !row.own && (!row.endedBy || row.endedBy > high) && !past(row.expires, now));
    const counting = [];
    for (let at = 0; at < live.length; at += CHUNK) {
      const part = live.slice(at, at + CHUNK);
      const messages = await this.#tables.transact((t) => Promise.all(part.map(({ kept }) => t.get("messages", kept))));
      const states = await Promise.all(messages.map(stateOf));
      const rotten = messages.filter((_, n) => states[n] === "rotten");
      if (rotten.length) await this.#spoilt(rotten);
      counting.push(...part.filter((_, n) => states[n] === "here").map(({ seq, id, h }) => ({ seq, id, h })));
    }
    return counting;
  }

  /** No transaction waits for a hash: so what has changed meanwhile is left alone. */
  #spoilt(messages) {
    return this.#tables.transact(async (t) => {
      for (const { id, sum } of messages) {
        const row = await t.get("messages", id);
        if (row?.sum === sum) await t.put("messages", id, { ...row, rotten: true });
      }
    });
  }

  // --- words ---

  async #forgetMarkers(t, conversation = null) {
    for (const { key } of await t.all("words")) if (isMarker(key, conversation)) await t.delete("words", key);
  }

  words() {
    return this.#tables.transact(async (t) =>
      Object.fromEntries((await t.all("words")).map(({ key, word }) => [key, word])),
    );
  }

  /** Keeps a word until it is heard; gives whether it is news: a read marker never goes back. */
  putWord(key, word) {
    return this.#tables.transact(async (t) => {
      const before = (await t.get("words", key))?.word;
      if (before?.read_seq >= word.read_seq) return false;
      await t.put("words", key, { key, word });
      return true;
    });
  }

  /** Forgets words that were heard, unless they have changed since. */
  dropWords(heard) {
    return this.#tables.transact(async (t) => {
      for (const [key, word] of Object.entries(heard)) {
        const row = await t.get("words", key);
        if (row && JSON.stringify(row.word) === JSON.stringify(word)) await t.delete("words", key);
      }
    });
  }

  /** The successor of a token is kept before it is used; gives whether it is: of two of the same one, the first. */
  putToken(given, token, after) {
    return this.#change(async (store) => {
      const first = tokenAfter(given, store) === after;
      if (first) Object.assign(store, { given, token });
      return first;
    });
  }
}

/** New messages are found by their places, should who stores them not live to tell; the rest of the news, here. */
function noteLast(store, { changed, ended, read, sent, withdrawn }) {
  const others = { ended, read, sent, withdrawn };
  if (![changed, ...Object.values(others)].some(({ length }) => length)) return;
  store.last = { place: (store.count += 1), changed: changed.map(({ id }) => id), others };
}

const of = ({ timeline = INBOX }) => timeline;
// Keys that are no numbers are in no range of the inbox's.
const ledgerKey = (timeline, seq) => (timeline === INBOX ? seq : `${timeline}\u001f${seq}`);
const pastKey = (row) => `${of(row)}\u001fpast ${row.kept}`;
const numbersOf = ({ from: low, to: high }) => Array.from({ length: high - low }, (_, n) => low + n + 1);

/** The page, each body with a sum of its own, by which it is known later whether the database still holds what came. */
async function summed(page) {
  return { ...page, entries: await Promise.all(page.entries.map(async (one) => ({ ...one, sum: await sumOf(one.body) }))) };
}

async function sumOf(body) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(JSON.stringify(body)));
  return [...new Uint8Array(digest, 0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** `here`, also if the user has deleted it, `missing` or `rotten`. */
async function stateOf(message) {
  if (!message || (!message.ended && message.body === undefined)) return "missing";
  if (message.ended) return "here";
  return !message.rotten && (await sumOf(message.body)) === message.sum ? "here" : "rotten";
}

function past(instant, now) {
  return instant ? Date.parse(instant) <= now : false;
}

function nack(id, code, { version }) {
  return { id, code, ...(version === null ? {} : { app_version: version }) };
}

function refused(entry, types, check) {
  // A fallback is made for versions that don't know the type.
  if (types && !types.includes(entry.type) && entry.form !== "fallback") return "unknown_type";
  if (!check) return null;
  try {
    check(entry);
    return null;
  } catch {
    return "undecodable";
  }
}
