// When a client connects again. Pure.

import { pauseMs } from "./rules.js";

// Pauses of at most 16 s, so often: a device that is back within half a minute was never offline.
const RESTART_DOUBLINGS = 4;
const RESTART_TRIES = 12;

export class Redial {
  /** The next connection may come at once. */
  soon = false;
  /** So long a pause was asked for before the next one. */
  askedMs = 0;
  /** The relay said that it goes to come back: it is asked more often for a while. */
  restarts = false;
  /** The token is to be asked for anew. */
  renew = false;
  #failures = 0;

  /** The connection has lasted: earlier failures are forgotten. */
  calm() {
    this.#failures = 0;
    this.restarts = false;
  }

  /** What was asked for the next connection counts no more. */
  forget() {
    this.soon = false;
    this.askedMs = 0;
  }

  /** Milliseconds until the next try. */
  pauseMs(random, retryAfterMs) {
    const askedMs = Math.max(this.askedMs, retryAfterMs);
    const often = this.restarts && this.#failures < RESTART_TRIES;
    const failures = often ? Math.min(this.#failures, RESTART_DOUBLINGS) : this.#failures;
    const ms = this.soon && this.#failures < 2 ? askedMs : pauseMs(failures, random, askedMs);
    this.#failures += 1;
    this.forget();
    return ms;
  }
}
