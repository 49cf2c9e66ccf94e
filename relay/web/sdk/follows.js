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

  /** A connection opens; gives those that are too many for it, and not asked for: an older version's cache may have them. */
  begin(positions) {
    this.positions = { ...positions };
    this.#acked.clear();
    const beyond = Object.keys(positions).slice(FOLLOWED_MAX);
    this.#refused = new Set(beyond);
    return beyond;
  }

  #asked() {
    return Object.entries(this.positions).filter(([name]) => !this.#refused.has(name));
  }

  get any() {
    return this.#asked().length > 0;
  }

  /** What to ask for: cursors, and names of those that are read for the first time. */
  asked(only = null) {
    const some = this.#asked().filter(([name]) => only === null || only === name);
    return {
      shared: some.filter(([, { cursor }]) => cursor).map(([, { cursor }]) => cursor),
      open: some.filter(([, { cursor }]) => !cursor).map(([name]) => name),
    };
  }

  /** The same for a query, with as many names as it has room for: some have cursors when those that are `left` are asked for. */
  query() {
    const { shared, open } = this.asked();
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
    return this.#asked().filter(([name, { cursor }]) => cursor && this.#acked.get(name) !== cursor);
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
