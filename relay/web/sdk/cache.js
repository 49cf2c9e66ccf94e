// A device's message database: a page with its cursor or not at all, each message once, the fuller form of two.

import { CARRIES_BODY, KNOWN_KINDS, RANK, tagOf } from "./rules.js";

const ONE = "one";

/** Another tab has stored something meanwhile. */
export class Moved extends Error {}

export class Cache {
  #tables;

  constructor(tables) {
    this.#tables = tables;
  }

  /** Makes the store with its id, once; gives it. */
  open() {
    return this.#tables.transact(async (t) => {
      let store = await t.get("store", ONE);
      if (!store) {
        const id = crypto.randomUUID();
        store = { id, epoch: "", seq: 0, cursor: null, byTag: false, count: 0, given: null, token: null };
        await t.put("store", ONE, store);
      }
      return store;
    });
  }

  close() {
    return this.#tables.close();
  }

  /** Stores a page and its cursor, if the database stands at `at`; gives what is news. Throws Moved. */
  keep(at, page, { types = null, check = null } = {}) {
    return this.#tables.transact(async (t) => {
      const store = await t.get("store", ONE);
      if (store.epoch !== at.epoch || store.seq !== at.seq || page.from !== at.seq) throw new Moved();
      const news = { arrived: [], changed: [], ended: [], read: [], words: {} };
      for (const entry of page.entries) await this.#take(t, store, entry, { types, check }, news);
      store.seq = page.to;
      store.cursor = page.cursor;
      if (page.caught_up) store.byTag = false;
      await t.put("store", ONE, store);
      for (const [key, word] of Object.entries(news.words)) await t.put("words", key, { key, word });
      return news;
    });
  }

  async #take(t, store, entry, { types, check }, news) {
    if (entry.kind === "recall") return this.#end(t, entry.of, "recalled", news);
    if (entry.kind === "read") return void news.read.push({ conversation: entry.conversation, seq: entry.read_seq });
    if (!CARRIES_BODY.has(entry.kind) || entry.body === undefined) {
      await t.put("messages", entry.id, { ...entry, form: "control", place: (store.count += 1) });
      if (!KNOWN_KINDS.has(entry.kind)) news.words[`nack:${entry.id}`] = { id: entry.id, code: "unknown_type" };
      return undefined;
    }
    const refusal = refused(entry, types, check);
    const form = refusal ? "raw" : (entry.form ?? "full");
    const known = await this.#known(t, store, entry.id);
    if (!known) {
      const row = { ...entry, form, tag: tagOf(entry.id), place: (store.count += 1), ended: null };
      await t.put("messages", entry.id, row);
      news.arrived.push(row);
    } else if (!known.ended && RANK[form] > RANK[known.form]) {
      const row = { ...entry, id: known.id, form, tag: known.tag, place: known.place, ended: null };
      await t.put("messages", known.id, row);
      news.changed.push(row);
    }
    if (refusal) news.words[`nack:${entry.id}`] = { id: entry.id, code: refusal };
    if (entry.collapse_key && entry.kind === "message") {
      const rows = await t.all("ledger");
      const older = rows.filter((one) => one.collapse === entry.collapse_key && one.seq < entry.seq);
      const ids = older.map((one) => one.kept).filter((id) => id !== (known?.id ?? entry.id));
      await this.#end(t, ids, "superseded", news);
    }
    const row = { seq: entry.seq, id: entry.id, h: entry.h, kept: known?.id ?? entry.id, collapse: entry.collapse_key };
    await t.put("ledger", entry.seq, row);
    return undefined;
  }

  async #known(t, store, id) {
    const known = await t.get("messages", id);
    const tag = store.byTag && !known ? tagOf(id) : null;
    return tag === null ? known : (await t.all("messages")).find((one) => one.tag === tag);
  }

  async #end(t, ids, why, news) {
    for (const id of ids ?? []) {
      const row = await t.get("messages", id);
      if (!row || row.ended) continue;
      await t.put("messages", id, { ...row, body: null, ended: why });
      news.ended.push({ id, why });
    }
  }

  /** Stores where reading goes on; every message stays. `seq` null: the next welcome says it. */
  adopt({ epoch, seq, cursor }) {
    return this.#tables.transact(async (t) => {
      const store = await t.get("store", ONE);
      if (store.epoch !== epoch) {
        await t.clear("ledger");
        store.byTag = store.epoch !== "";
      }
      await t.put("store", ONE, { ...store, epoch, seq, cursor });
    });
  }

  /** Messages in the order in which they came, those after a `place`. */
  messages({ after = 0, limit = 200, now = Date.now() } = {}) {
    return this.#tables.transact(async (t) =>
      (await t.all("messages"))
        .filter((one) => one.place > after && !one.ended && one.form !== "control" && !expired(one, now))
        .sort((a, b) => a.place - b.place)
        .slice(0, limit),
    );
  }

  words() {
    return this.#tables.transact(async (t) =>
      Object.fromEntries((await t.all("words")).map(({ key, word }) => [key, word])),
    );
  }

  putWord(key, word) {
    return this.#tables.transact((t) => t.put("words", key, { key, word }));
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

  /** The successor of the token that the app brings is kept before it is used. */
  putToken(given, token) {
    return this.#tables.transact(async (t) => {
      await t.put("store", ONE, { ...(await t.get("store", ONE)), given, token });
    });
  }
}

function expired(message, now) {
  return message.expires_at ? Date.parse(message.expires_at) <= now : false;
}

function refused(entry, types, check) {
  if (types && !types.includes(entry.type)) return "unknown_type";
  if (!check) return null;
  try {
    check(entry);
    return null;
  } catch {
    return "undecodable";
  }
}
