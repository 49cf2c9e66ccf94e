// Which way to take: the best one first, the next where it does not work, and the best again after a while.

const STAY_MS = 600_000;
export const WAYS = ["websocket", "sse", "long-poll", "poll"];

export class Ladder {
  #ways;
  #rung = 0;
  #failures = 0;
  #since = 0;

  constructor(ways = WAYS) {
    this.#ways = ways;
  }

  /** The way to take now. */
  way(now) {
    if (this.#rung > 0 && now - this.#since >= STAY_MS) this.#rung = 0;
    return this.#ways[this.#rung];
  }

  worked() {
    this.#failures = 0;
  }

  /** The way that was taken did not work, although something was there. The best one gets a second try. */
  failed(now) {
    this.#failures += 1;
    if (this.#failures < 2 && this.#rung === 0) return;
    this.#rung = (this.#rung + 1) % this.#ways.length;
    this.#failures = 0;
    this.#since = now;
  }
}
