// The shared timelines that a client follows: how far it holds each, and what to say of them. Without I/O.
//
// They stand beside the inbox and never in its way: a cursor of theirs that is no good begins that timeline anew.

import { covers, judge } from "./rules.js";

export const FOLLOWED_MAX = 50; // of more, the relay refuses the whole question, the inbox with it
const QUERY_CHARS = 7500; // the relay reads request lines of 8190

export class Follows {
  /** name -> { epoch, seq, cursor }; cursor null: it has not been read yet. */
  positions = {};
  /** Whether the last query had no room for some. */
  left = false;
  #acked = new Map(); // the last cursor that was acked on this connection
  #refused = new Set();
  #queries = -1;

  /** A connection opens. */
  begin(positions) {
    this.positions = { ...positions };
    this.#acked.clear();
    this.#refused.clear();
  }

  #asked() {
    return Object.entries(this.positions).filter(([name]) => !this.#refused.has(name));
  }

  get any() {
    return this.#asked().length > 0;
  }

  /**
   * What to ask for: cursors, and names of those that are read for the first time, in as few requests as the relay takes. A cache of
   * an earlier version may follow more than one has; a socket is refused those by name.
   */
  portions(only = null) {
    const some = this.#asked().filter(([name]) => only === null || only === name);
    const portions = [];
    for (let at = 0; at < some.length; at += FOLLOWED_MAX) {
      const portion = some.slice(at, at + FOLLOWED_MAX);
      portions.push({
        shared: portion.filter(([, { cursor }]) => cursor).map(([, { cursor }]) => cursor),
        open: portion.filter(([, { cursor }]) => !cursor).map(([name]) => name),
      });
    }
    return portions;
  }

  /**
   * What the next query asks for: each portion in its turn, with as many names as a query has room for. Some have cursors when those
   * that are `left` are asked for.
   */
  query() {
    const portions = this.portions();
    const { shared, open } = portions[(this.#queries += 1) % portions.length];
    let room = QUERY_CHARS - `${new URLSearchParams(shared.map((cursor) => ["shared", cursor]))}`.length;
    const fits = (name) => {
      const { length } = `&${new URLSearchParams({ open: name })}`;
      if (length > room) return false;
      room -= length;
      return true;
    };
    const named = open.filter(fits);
    this.left = named.length < open.length;
    return { shared, open: named };
  }

  /** The name of what was refused, which is not asked for again on this connection; null if it is none of ours. */
  refuse({ conversation, cursor }) {
    const name = conversation ?? Object.keys(this.positions).find((one) => this.positions[one].cursor === cursor) ?? null;
    if (name !== null) this.#refused.add(name);
    return name;
  }

  /** As the rule for the inbox's pages; the first page of all begins wherever the relay lets us in. */
  judge(page) {
    const at = this.positions[page.timeline];
    if (!at) return "known";
    if (!at.cursor) return covers(page) && page.cursor ? "keep" : "broken";
    const verdict = judge(at, page);
    return page.epoch !== at.epoch ? "read" : verdict === "keep" && page.to === at.seq ? "known" : verdict;
  }

  // --- acks ---

  #toAck() {
    return this.#asked().filter(([name, { cursor }]) => cursor && this.#acked.get(name) !== cursor).slice(0, FOLLOWED_MAX);
  }

  get unacked() {
    return this.#toAck().length > 0;
  }

  /** The part of an ack that says what is stored of them. */
  ack() {
    const some = this.#toAck();
    for (const [name, { cursor }] of some) this.#acked.set(name, cursor);
    return some.length ? { shared: some.map(([, { cursor }]) => cursor) } : {};
  }

  /** What was acked was not heard. */
  unsaid() {
    this.#acked.clear();
  }
}
