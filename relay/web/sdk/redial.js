// When a client connects again. Pure.

import { pauseMs } from "./rules.js";

export class Redial {
  /** The next connection may come at once. */
  soon = false;
  /** So long a pause was asked for before the next one. */
  askedMs = 0;
  /** The token is to be asked for anew. */
  renew = false;
  #failures = 0;

  /** The connection has lasted: earlier failures are forgotten. */
  calm() {
    this.#failures = 0;
  }

  /** What was asked for the next connection counts no more. */
  forget() {
    this.soon = false;
    this.askedMs = 0;
  }

  /** Milliseconds until the next try. */
  pauseMs(random, retryAfterMs) {
    const askedMs = Math.max(this.askedMs, retryAfterMs);
    const ms = this.soon && this.#failures < 2 ? askedMs : pauseMs(this.#failures, random, askedMs);
    this.#failures += 1;
    this.forget();
    return ms;
  }
}
