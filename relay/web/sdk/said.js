// Words that a client owes the relay until it has heard them: refusals, read markers, receipts. Pure.
//
// Each has a key, so that a newer word takes the place of an older one, and lives in the cache until it is answered.

const WORDS_MAX = 200; // in one ack
const FIELDS = { nack: "nack", read: "read", receipt: "receipts" };
const isNack = ([key]) => key.startsWith("nack:");

export class Said {
  #words = {};
  #flying = new Map();

  /** What the cache holds is owed. */
  take(words) {
    this.#words = { ...words };
  }

  add(words) {
    Object.assign(this.#words, words);
  }

  /** Words that another tab, or the service worker, has put into the cache. */
  merge(words) {
    this.#words = { ...words, ...this.#words };
  }

  /** The connection has ended: what was not answered is said once more. */
  landed() {
    this.#flying.clear();
  }

  get unsaid() {
    const flying = new Set([...this.#flying.values()].flatMap(Object.keys));
    return Object.entries(this.#words).filter(([key]) => !flying.has(key));
  }

  /** Refusals alone, those for one ack; null if there are none. */
  refusals() {
    const refusals = this.unsaid.filter(isNack).slice(0, WORDS_MAX);
    return refusals.length ? Object.fromEntries(refusals) : null;
  }

  /** Words for one ack, refusals first, and whether a cursor may go with them: it may not pass a refusal that is left behind. */
  portion() {
    const unsaid = this.unsaid.sort((a, b) => isNack(b) - isNack(a));
    return { words: Object.fromEntries(unsaid.slice(0, WORDS_MAX)), passes: !unsaid.slice(WORDS_MAX).some(isNack) };
  }

  /** The ack that says these words. */
  frame(ref, words, cursor = null) {
    const frame = { type: "ack", ref, ...(cursor ? { cursor } : {}) };
    for (const [key, word] of Object.entries(words)) (frame[FIELDS[key.split(":")[0]]] ??= []).push(word);
    this.#flying.set(ref, words);
    return frame;
  }

  flies(ref) {
    return this.#flying.has(ref);
  }

  /** Not taken for now: it is said again. */
  returned(ref) {
    this.#flying.delete(ref);
  }

  /** The relay has heard an ack; gives its words. */
  heard(ref) {
    const words = this.#flying.get(ref) ?? {};
    this.#flying.delete(ref);
    for (const [key, word] of Object.entries(words)) if (this.#words[key] === word) delete this.#words[key];
    return words;
  }
}
