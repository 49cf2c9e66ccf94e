// The client's token: the one that the app gave, and those that have followed it.

import { tokenAfter } from "./cache.js";
import { Gone } from "./ways.js";

const RENEW_MS_MIN = 60_000;
const RENEW_MS_MAX = 86_400_000; // timers of a browser end at 24 days

/**
 * `current` is what calls are made with; a successor is stored before it is used. `proved` is the one that is known to be of the user
 * whose messages the cache holds: the relay has taken it with that user's name.
 */
export class TokenKeeper {
  given = null;
  current = null;
  proved = null;
  #source;
  #cache;
  #call;
  #timer = null;
  #over = false;
  #tried = null; // what the last connection began with; its successor may have come since

  /** `source` is a token, or a function that gets one from the app's backend; `call` asks the relay for the next. */
  constructor({ source, cache, call }) {
    this.#source = source;
    this.#cache = cache;
    this.#call = call;
  }

  /** Finds the newest one. `renew`: the last one was refused, so the app is asked. Throws Gone. */
  async take(renew = false) {
    try {
      if (this.given === null || renew) this.given = typeof this.#source === "function" ? await this.#source() : this.#source;
    } catch {
      throw new Gone(); // the app's backend can't be reached: later
    }
    const store = await this.#cache.open();
    this.current = tokenAfter(this.given, store);
  }

  /** Whether the one that the last connection began with is all there is. */
  get only() {
    return typeof this.#source !== "function" && this.current === this.#tried;
  }

  /**
   * What a connection that is made now asks for its token: the newest that follows this one, and never one that the app brings
   * later, for that may be another user's.
   */
  newest() {
    const { given } = this;
    let token = (this.#tried = this.current);
    return () => (this.given === given ? (token = this.current) : token);
  }

  /**
   * The token that follows ours is stored before it is used: its first use ends the one before. `answer` is to the handshake of the
   * connection that was begun last, or to what was asked with the token `after`. Of two successors of one token, the second would
   * end both some minutes after the first was used: it is dropped.
   */
  async keep(answer, after = this.#tried) {
    this.proved = this.current;
    if (typeof answer?.token === "string") {
      const { given } = this;
      const kept = await this.#cache.putToken(given, answer.token, after).catch(() => false);
      if (kept && this.given === given) this.current = this.proved = answer.token; // the app may have brought another meanwhile
    } else {
      const at = Date.parse(answer?.renew_at);
      if (!Number.isNaN(at)) this.#renewIn(at - Date.now());
    }
  }

  /** A connection may outlive its token: the next one is asked for in time. */
  #renewIn(ms) {
    clearTimeout(this.#timer);
    if (this.#over) return;
    const renew = async () => {
      const { given, current } = this;
      try {
        const answer = await this.#call("POST", "/v1/device/token");
        if (this.given === given) await this.keep(answer, current); // else the app has brought another one meanwhile, perhaps another user's
      } catch {
        this.#renewIn(60 * RENEW_MS_MIN);
      }
    };
    this.#timer = setTimeout(renew, Math.min(Math.max(ms, RENEW_MS_MIN), RENEW_MS_MAX));
  }

  /** Asks for no more. */
  stop() {
    this.#over = true;
    clearTimeout(this.#timer);
  }
}
