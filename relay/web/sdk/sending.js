// Sends what is in the outbox: in order, each until it is decided, and again as soon as the relay can be reached.

import { ANOTHER_USER, pauseMs } from "./rules.js";

const UNDECIDED = new Set([401, 408, 425, 429]); // of the 4xx: it may be taken later
const FULL = "recipient_queue_full"; // says nothing of messages to others

export class Sender {
  #cache;
  #post;
  #tell;
  #random;
  #failures = 0;
  #timer;
  #due = false;
  #waits = true; // for a connection, or for a pause to end
  #held = false;
  #running = null;
  #over = false;

  /** `post` sends a message under its key and gives the answer; `tell` says what is news. */
  constructor({ cache, post, tell, random }) {
    this.#cache = cache;
    this.#post = post;
    this.#tell = tell;
    this.#random = random;
  }

  /** Something was put into the outbox. */
  nudge() {
    this.#due = true;
    if (!this.#waits && !this.#over) this.#running ??= this.#run();
  }

  /** A connection stands. */
  reached() {
    clearTimeout(this.#timer);
    this.#failures = 0;
    this.#held = this.#waits = false;
    this.nudge();
  }

  /** Another token follows, perhaps another user's: nothing goes out before a connection stands. */
  hold() {
    clearTimeout(this.#timer);
    this.#held = this.#waits = true;
  }

  /** No try begins after this; gives when the last one has ended. */
  async stop() {
    this.#over = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  async #run() {
    while (this.#due && !this.#over) {
      this.#due = false;
      const { again, askedMs } = await this.#all();
      if (!again) continue;
      this.#due = true;
      this.#waits = true;
      this.#running = null;
      if (this.#held) return;
      this.#timer = setTimeout(() => {
        this.#waits = false;
        this.nudge();
      }, pauseMs(this.#failures, this.#random, askedMs));
      this.#failures += 1;
      return;
    }
    this.#failures = 0;
    this.#running = null; // at once: what is put there from now on begins anew
  }

  /** One try of everything. */
  async #all() {
    const full = new Set(); // to whom nothing goes before what goes first
    let askedMs = 0;
    try {
      for (const row of await this.#cache.outbox.all()) {
        const to = JSON.stringify(row.message.to);
        if (row.refused || full.has(to) || this.#over) continue;
        if (this.#held) return { again: true, askedMs };
        try {
          await this.#one(row);
        } catch (error) {
          if (error.code !== FULL) throw error;
          full.add(to);
          askedMs = Math.max(askedMs, error.retryAfterMs);
        }
      }
    } catch (error) {
      return { again: true, askedMs: error.retryAfterMs ?? 0 };
    }
    return { again: full.size > 0, askedMs };
  }

  /** One try. Throws where nothing is decided. */
  async #one({ key, message }) {
    let sent;
    try {
      sent = await this.#post(key, message);
    } catch (error) {
      const { status = 503, code, body } = error;
      if (status >= 500 || UNDECIDED.has(status) || typeof code !== "string") throw error; // else it is not the relay's
      if (code === ANOTHER_USER) throw error; // of the token that was tried
      const refused = { code, detail: body.detail ?? "", errors: body.errors ?? [] };
      await this.#cache.outbox.refuse(key, refused);
      this.#tell("unsent", { key, ...refused });
      return;
    }
    const news = await this.#cache.sent(key, sent);
    for (const one of news.arrived) this.#tell("message", one);
    for (const one of news.sent) this.#tell("sent", one);
  }
}
