// What a client says in its acks: how far it has come, and the words that it owes: refusals, read markers, receipts. Pure.
//
// Each word has a key, so that a newer one takes the place of an older one, and lives in the cache until it is answered; what flew
// when a connection ended is said once more. No cursor passes a refusal that is left behind: it would ack what nobody could read.

const WORDS_MAX = 200; // in one ack
const WORDS_BYTES = 40_000; // the relay takes 64 KiB, and cursors of shared timelines may be beside them
const ENTRIES = 50; // so many entries are acked at once
const FIELDS = { nack: "nack", read: "read", receipt: "receipts" };
const READ = "read:"; // begins the keys of read markers
const isNack = ([key]) => key.startsWith("nack:");
const bytesOf = ([, word]) => new TextEncoder().encode(JSON.stringify(word)).length;

/** Whether a word of this key is a read marker, of this conversation if one is named. */
export const isMarker = (key, conversation = null) => (conversation === null ? key.startsWith(READ) : key === READ + conversation);

/** The first of these words, as many as one ack takes; one at least. */
function portion(words) {
  let bytes = 0;
  const end = words.findIndex((word, n) => n === WORDS_MAX || ((bytes += bytesOf(word)) > WORDS_BYTES && n > 0));
  return end < 0 ? words : words.slice(0, end);
}

export class Acks {
  /** An ack has just been said, or is due soon: the timer says the next. */
  pausing = false;
  #words = {};
  #flying = new Map();
  #unacked = 0; // entries kept and not yet acked
  #acked = null; // the cursor of the last ack said on this connection

  /** What the cache holds is owed. */
  take(words) {
    this.#words = { ...words };
  }

  add(words) {
    Object.assign(this.#words, words);
  }

  /** Words as the cache has them, where they are never older than here. */
  merge(words) {
    for (const [key, word] of Object.entries(words)) {
      if (JSON.stringify(this.#words[key]) !== JSON.stringify(word)) this.#words[key] = word;
    }
  }

  /** The numbering has begun anew, of the inbox or of this shared timeline: what a read marker says means other messages. */
  forgetMarkers(conversation = null) {
    for (const key of Object.keys(this.#words)) if (isMarker(key, conversation)) delete this.#words[key];
  }

  /** So many entries more are in the cache. */
  kept(entries) {
    this.#unacked += entries;
  }

  // --- the connection ---

  /** A connection opens: nothing has been acked on it. `words` are what the cache holds. */
  begin(words) {
    this.take(words);
    this.#acked = null;
    this.#unacked = 0;
    this.pausing = false;
  }

  /** The handshake has acked this cursor, where it was for the relay to believe. */
  shaken(cursor) {
    this.#acked = cursor;
  }

  /** The connection has ended: what was not answered is said once more. */
  end() {
    this.#flying.clear();
    this.pausing = false;
  }

  // --- what to say ---

  /** Whether there is something to say. */
  due(cursor) {
    return this.#acked !== cursor || this.#unsaid.length > 0;
  }

  /** Whether so much is unacked that the ack should not wait. */
  get many() {
    return this.#unacked >= ENTRIES;
  }

  get #unsaid() {
    const flying = new Set([...this.#flying.values()].flatMap(Object.keys));
    return Object.entries(this.#words).filter(([key]) => !flying.has(key));
  }

  /** Refusals alone, those for one ack; null if there are none. */
  refusals() {
    const refusals = portion(this.#unsaid.filter(isNack));
    return refusals.length ? Object.fromEntries(refusals) : null;
  }

  /**
   * The next ack: words, and the cursor where it has moved and leaves no refusal behind. Refusals go first and alone: a word that
   * the relay will not take takes all others of its ack with it.
   */
  next(ref, cursor) {
    const nacks = this.#unsaid.filter(isNack);
    const some = portion(nacks.length ? nacks : this.#unsaid);
    const words = Object.fromEntries(some);
    this.pausing = true;
    if (nacks.length > some.length) return this.frame(ref, words);
    const moved = this.#acked === cursor ? null : cursor;
    this.#acked = cursor;
    this.#unacked = 0;
    return this.frame(ref, words, moved);
  }

  /** The ack that says these words. */
  frame(ref, words, cursor = null) {
    const frame = { type: "ack", ref, ...(cursor ? { cursor } : {}) };
    for (const [key, word] of Object.entries(words)) (frame[FIELDS[key.split(":")[0]]] ??= []).push(word);
    this.#flying.set(ref, words);
    return frame;
  }

  // --- what comes of it ---

  flies(ref) {
    return this.#flying.has(ref);
  }

  /** Not taken for now: its words and the cursor are said again. */
  returned(ref) {
    this.#flying.delete(ref);
    this.#acked = null;
  }

  /** The relay will never take an ack with these words, which it gives; what was said beside them is said again. */
  refused(ref) {
    const words = this.heard(ref);
    if (Object.keys(words).length) this.#acked = null;
    return words;
  }

  /** The relay has heard an ack; gives its words. */
  heard(ref) {
    const words = this.#flying.get(ref) ?? {};
    this.#flying.delete(ref);
    for (const [key, word] of Object.entries(words)) if (this.#words[key] === word) delete this.#words[key];
    return words;
  }
}
