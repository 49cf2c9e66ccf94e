// A device's inbox in a browser or in Node: keeps a cache up to date over whichever way works, and tells what is new.
//
// Everything that happens, frames and alarms alike, goes through one queue and is handled to its end, one after another:
// so a page is stored before the next is looked at, and nothing is acked before it is stored.

import { Moved } from "./cache.js";
import { afterClose, astray, judge, pauseMs } from "./rules.js";
import { Gone, HttpWay, SocketWay, StreamWay } from "./ways.js";

const ACK_PAUSE_MS = 250;
const ACK_ENTRIES = 50;
const ANSWER_MS = 20_000;
const BEHIND_MS = 2000;
const CALM_MS = 60_000;
const GUARD_MS = 120_000;
const STAY_MS = 600_000;
const WAIT_S = 50;
const WORDS_MAX = 200;
const WAYS = ["websocket", "sse", "long-poll"];
const TRANSIENT = new Set(
  "rate_limited overloaded draining storage_unavailable storage_full storage_failed commit_unknown".split(" "),
);
const FIELDS = { nack: "nack", read: "read", receipt: "receipts" };

/** Thrown inside to leave a connection and come back. */
class Leave extends Error {
  constructor(why, soon = false) {
    super(why);
    this.soon = soon;
  }
}

/** Events: `message`, `changed`, `ended`, `read`, `connected`, `caughtup`, `acked`, `disconnected`, `refused`. */
export class Client extends EventTarget {
  #options;
  #cache;
  #position = null;
  #store = null;
  #words = {};
  #flying = new Map();
  #queue = [];
  #wake = null;
  #timers = new Map();
  #way = null;
  #running = null;
  #stopped = false;
  #foreground = true;
  #renew = false;
  #rung = 0;
  #rungFailures = 0;
  #rungSince = 0;
  #given = null;
  #token = null;
  #ref = 0;

  /** `url` and `token` (or a function that gets one) of the relay, `cache` a Cache; `facts` are the handshake's. */
  constructor({ url, token, cache, facts = {}, types = null, check = null, ways = WAYS, ...given }) {
    super();
    this.#cache = cache;
    this.#options = {
      url: url.replace(/\/$/, ""),
      token,
      facts: types ? { ...facts, types } : facts,
      types,
      check,
      ways,
      fetch: given.fetch ?? globalThis.fetch.bind(globalThis),
      WebSocket: given.WebSocket ?? globalThis.WebSocket,
      random: given.random ?? Math.random,
    };
  }

  /** Begins, and goes on until `stop`. */
  start() {
    this.#running ??= this.#run();
    return this;
  }

  /** Acks what is stored, says goodbye, and ends. */
  async stop() {
    this.#stopped = true;
    this.#push({ type: "$stop" });
    await this.#running;
    await this.#cache.close();
  }

  messages(options) {
    return this.#cache.messages(options);
  }

  /** The user has read a conversation up to this number of the inbox. */
  async read(conversation, seq) {
    await this.#speak(`read:${conversation}`, { conversation, read_seq: seq });
  }

  /** A message was `shown` or `opened` here. */
  async report(id, what) {
    await this.#speak(`receipt:${what}:${id}`, { id, what, at: new Date().toISOString() });
  }

  /** The page came to the foreground, or left it. */
  turn(foreground) {
    this.#foreground = foreground;
    this.#push({ type: foreground ? "$poke" : "$beat" });
  }

  /** There may be news: a push has come, or the network is back. */
  poke() {
    this.#push({ type: "$poke" });
  }

  async #speak(key, word) {
    await this.#cache.putWord(key, word);
    this.#words[key] = word;
    this.#push({ type: "$spoke" });
  }

  #tell(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // --- the queue ---

  #push(what) {
    this.#queue.push(what);
    this.#wake?.();
  }

  async #next() {
    while (!this.#queue.length) await new Promise((wake) => (this.#wake = wake));
    this.#wake = null;
    return this.#queue.shift();
  }

  #set(name, ms) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(
      name,
      setTimeout(() => this.#push({ type: name }), ms),
    );
  }

  #clear() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  // --- life ---

  async #run() {
    let failures = 0;
    this.#store = await this.#cache.open();
    this.#words = await this.#cache.words();
    while (!this.#stopped) {
      const visit = { askedMs: 0, calm: false, soon: false, code: null, welcomed: false };
      try {
        await this.#visit(visit);
      } catch (error) {
        if (error instanceof Leave) visit.soon = error.soon;
        else if (error instanceof Gone) {
          visit.code = error.code;
          visit.askedMs = Math.max(visit.askedMs, error.retryAfterMs);
          if (error.unfit && (!visit.welcomed || this.#way?.reading === "streamed")) this.#barred();
        } else this.#tell("refused", { code: "storage", detail: String(error) });
      }
      this.#clear();
      this.#flying.clear();
      this.#queue = this.#queue.filter(({ type }) => type === "$stop");
      await this.#way?.close();
      this.#way = null;
      if (this.#stopped) return;
      failures = visit.calm ? 0 : failures;
      const then = afterClose(visit.code, this.#foreground);
      this.#renew = then === "renew";
      const ms = visit.soon && failures < 2 ? 0 : pauseMs(failures, this.#options.random, visit.askedMs);
      failures += 1;
      const rests = then === "never" || then === "rest";
      this.#tell("disconnected", { code: visit.code, retryMs: rests ? null : ms });
      if (!rests) this.#set("$connect", ms);
      await this.#until(then === "never" ? ["$stop"] : ["$connect", "$poke", "$stop"]);
    }
  }

  async #until(types) {
    for (;;) if (types.includes((await this.#next()).type)) return;
  }

  /** The way that was taken did not work although something was there: the next one, for a while. */
  #barred() {
    this.#rungFailures += 1;
    if (this.#rungFailures < 2 && this.#rung === 0) return;
    this.#rung = (this.#rung + 1) % this.#options.ways.length;
    this.#rungFailures = 0;
    this.#rungSince = Date.now();
  }

  async #open() {
    const { token, ways, url, fetch, WebSocket } = this.#options;
    if (this.#given === null || this.#renew) this.#given = typeof token === "function" ? await token() : token;
    this.#token = this.#store.given === this.#given && this.#store.token ? this.#store.token : this.#given;
    if (this.#rung > 0 && Date.now() - this.#rungSince >= STAY_MS) this.#rung = 0;
    const Way = { websocket: SocketWay, sse: StreamWay, "long-poll": HttpWay }[ways[this.#rung]];
    const way = new Way({ url, fetch, token: () => this.#token, came: (frame) => this.#way === way && this.#push(frame) });
    this.#way = way;
    if (way instanceof SocketWay) await way.open(WebSocket);
    return way;
  }

  async #visit(visit) {
    const { epoch, seq, cursor } = (this.#store = await this.#cache.open());
    this.#position = { epoch, seq, cursor };
    const way = await this.#open();
    Object.assign(visit, { way, acked: null, unacked: 0, pausing: false, caughtUp: false, head: 0, intervalMs: 30_000 });
    this.#set("$answer", ANSWER_MS);
    const refusals = Object.entries(this.#words).filter(([key]) => key.startsWith("nack:"));
    if (refusals.length) {
      // The handshake's cursor acks what it has passed; a refusal said after that would come too late.
      way.sayAside(this.#ackFrame(Object.fromEntries(refusals)));
      await this.#answered(visit);
    }
    way.say(this.#hello());
    for (;;) {
      const frame = await this.#next();
      if (frame instanceof Gone) throw frame;
      if (frame.type === "$stop") return this.#goodbye(visit);
      await this.#handle(frame, visit);
      if (visit.welcomed && way.reading === "pushed" && !frame.type.startsWith("$")) {
        this.#set("$silence", 2.5 * visit.intervalMs);
      }
    }
  }

  async #answered(visit) {
    for (;;) {
      const frame = await this.#next();
      if (frame instanceof Gone) throw frame;
      if (frame.type === "$answer" || frame.type === "$stop") throw new Leave("no answer");
      if (frame.type === "ack") return this.#heard(frame.ref);
      if (frame.type === "error") return this.#refusedWord(frame, visit);
    }
  }

  #hello() {
    const cursors = this.#position.cursor ? { cursors: { inbox: this.#position.cursor } } : {};
    const state = this.#foreground ? "foreground" : "background";
    const { facts } = this.#options;
    return { type: "hello", ref: this.#newRef(), sdk: "relay-js/1.0", ...facts, state, store: { id: this.#store.id }, ...cursors };
  }

  #newRef() {
    return String((this.#ref += 1));
  }

  async #goodbye(visit) {
    if (!visit.welcomed) return;
    this.#ack(visit);
    visit.way.say({ type: "bye", reason: "quit" });
    await new Promise((done) => setTimeout(done, 20));
  }

  // --- what comes ---

  async #handle(frame, visit) {
    switch (frame.type) {
      case "welcome":
        return this.#welcomed(frame, visit);
      case "batch":
        return this.#page(frame, visit);
      case "nothing":
        return this.#nothing(frame, visit);
      case "ack":
        await this.#heard(frame.ref);
        return this.#tell("acked", { seq: frame.acked });
      case "hb":
        return this.#beaten(frame, visit);
      case "resync_required":
        return this.#reset({ ...frame.resync, seq: null });
      case "drain":
        visit.askedMs = frame.reconnect_ms ?? 0;
        this.#ack(visit);
        return this.#set("$drained", 1000);
      case "error":
        return this.#refusedWord(frame, visit);
      case "degraded":
      case "withdraw":
        return this.#tell(frame.type, frame);
      case "$answer":
        if (!visit.welcomed) throw new Leave("no answer");
        return undefined;
      default:
        return visit.welcomed ? this.#alarm(frame.type, visit) : undefined;
    }
  }

  #alarm(type, visit) {
    switch (type) {
      case "$ack":
        visit.pausing = false;
        return this.#ack(visit);
      case "$spoke":
        return this.#ackSoon(visit);
      case "$beat":
        return this.#beat(visit);
      case "$behind":
        return visit.head > this.#position.seq ? this.#read(visit) : undefined;
      case "$poll":
        if (visit.way.reading !== "pulled") this.#set("$poll", GUARD_MS);
        return this.#read(visit);
      case "$poke":
        this.#beat(visit);
        return visit.way.reading === "pulled" ? this.#read(visit) : undefined;
      case "$calm":
        visit.calm = true;
        return undefined;
      case "$silence":
      case "$drained":
        throw new Leave(type);
      default:
        return undefined; // a word of a newer relay
    }
  }

  async #welcomed(frame, visit) {
    if (astray(this.#position, frame)) return this.#reset({ epoch: this.#position.epoch, seq: null, cursor: null });
    this.#position = { epoch: frame.epoch, seq: frame.head - frame.missing, cursor: frame.cursors.inbox };
    await this.#cache.adopt(this.#position);
    await this.#keepToken(frame.token);
    Object.assign(visit, { welcomed: true, head: frame.head, session: frame.session, acked: this.#position });
    visit.intervalMs = 1000 * (frame.heartbeat?.interval_s ?? 30);
    this.#rungFailures = 0;
    this.#set("$beat", this.#options.random() * visit.intervalMs);
    this.#set("$calm", CALM_MS);
    if (visit.way.reading === "pulled") this.#read(visit);
    else {
      this.#set("$poll", GUARD_MS);
      if (visit.way.reading === "streamed") this.#read(visit);
    }
    this.#ackSoon(visit);
    this.#tell("connected", frame);
    return undefined;
  }

  async #keepToken(answer) {
    if (typeof answer?.token !== "string") return;
    await this.#cache.putToken(this.#given, answer.token);
    this.#token = answer.token;
    Object.assign(this.#store, { given: this.#given, token: answer.token });
  }

  async #page(page, visit) {
    if (!visit.welcomed || page.fill || (page.timeline ?? "inbox") !== "inbox") return;
    const verdict = judge(this.#position, page);
    if (verdict === "broken") throw new Leave("a page that does not fit");
    if (verdict !== "keep") {
      if (verdict === "read" || visit.way.reading === "pulled") this.#read(visit);
      return;
    }
    visit.head = Math.max(visit.head, page.head);
    if (page.to > page.from) {
      const { types, check } = this.#options;
      let news;
      try {
        news = await this.#cache.keep(this.#position, page, { types, check });
      } catch (error) {
        if (error instanceof Moved) throw new Leave("another tab moved the store", true);
        throw error;
      }
      this.#position = { epoch: page.epoch, seq: page.to, cursor: page.cursor };
      Object.assign(this.#words, news.words);
      for (const message of news.arrived) this.#tell("message", message);
      for (const message of news.changed) this.#tell("changed", message);
      for (const ended of news.ended) this.#tell("ended", ended);
      for (const marker of news.read) this.#tell("read", marker);
      visit.unacked += page.entries.length;
      const urgent = page.entries.some(({ priority }) => priority === "urgent");
      if (urgent || visit.unacked >= ACK_ENTRIES) this.#ack(visit);
      else this.#ackSoon(visit);
      if (visit.way.reading === "pulled") this.#read(visit, page.more ? 0 : WAIT_S);
      else this.#set("$poll", GUARD_MS);
    }
    if (page.caught_up && !visit.caughtUp) {
      visit.caughtUp = true;
      this.#tell("caughtup", { seq: page.to });
    }
  }

  #read(visit, waitS = 0) {
    void visit.way.read(this.#position.cursor, waitS);
  }

  #nothing(frame, visit) {
    if (visit.way.reading !== "pulled") return;
    if (frame.askedS === 0 || frame.waitedMs >= 1000) this.#read(visit, WAIT_S);
    else this.#set("$poll", 1000 * (frame.nextPollS ?? 5));
  }

  /** Another place to go on from; a handshake says what it stands for. Every message stays. */
  async #reset({ epoch, seq, cursor }) {
    await this.#cache.adopt({ epoch, seq, cursor });
    throw new Leave("resync", true);
  }

  // --- words ---

  #ackSoon(visit) {
    if (visit.pausing || !this.#owes(visit)) return;
    visit.pausing = true;
    this.#set("$ack", ACK_PAUSE_MS);
  }

  #unsaid() {
    const flying = new Set([...this.#flying.values()].flatMap(Object.keys));
    return Object.entries(this.#words).filter(([key]) => !flying.has(key));
  }

  #owes(visit) {
    return visit.acked?.cursor !== this.#position.cursor || this.#unsaid().length > 0;
  }

  #ack(visit) {
    if (!this.#owes(visit)) return;
    const unsaid = this.#unsaid().sort(([a], [b]) => b.startsWith("nack:") - a.startsWith("nack:"));
    const later = unsaid.slice(WORDS_MAX).some(([key]) => key.startsWith("nack:"));
    const frame = this.#ackFrame(Object.fromEntries(unsaid.slice(0, WORDS_MAX)));
    if (!later && visit.acked?.cursor !== this.#position.cursor) {
      frame.cursor = this.#position.cursor;
      visit.acked = this.#position;
      visit.unacked = 0;
    }
    visit.way.say(frame);
    visit.pausing = true;
    this.#set("$ack", ACK_PAUSE_MS);
  }

  #ackFrame(words) {
    const frame = { type: "ack", ref: this.#newRef() };
    this.#flying.set(frame.ref, words);
    for (const [key, word] of Object.entries(words)) (frame[FIELDS[key.split(":")[0]]] ??= []).push(word);
    return frame;
  }

  async #heard(ref) {
    const words = this.#flying.get(ref) ?? {};
    this.#flying.delete(ref);
    for (const [key, word] of Object.entries(words)) if (this.#words[key] === word) delete this.#words[key];
    if (Object.keys(words).length) await this.#cache.dropWords(words);
  }

  async #refusedWord(frame, visit) {
    const known = this.#flying.has(frame.ref);
    if (frame.resync) return this.#reset({ ...frame.resync, seq: null });
    if (frame.code === "invalid_cursor") return this.#reset({ epoch: this.#position.epoch, seq: null, cursor: null });
    this.#tell("refused", { code: frame.code, detail: frame.detail });
    visit.askedMs = Math.max(visit.askedMs, frame.retry_after_ms ?? 0);
    if (known && TRANSIENT.has(frame.code)) {
      this.#flying.delete(frame.ref);
      if (!visit.welcomed) throw new Leave("refused for now");
      visit.acked = null;
      visit.pausing = true;
      return this.#set("$ack", Math.max(1000, frame.retry_after_ms ?? 0));
    }
    if (known) return this.#heard(frame.ref); // it will never take these words: they must not stand in the way
    if (!visit.welcomed) throw new Leave("no welcome");
    return undefined;
  }

  // --- heartbeats ---

  #beat(visit) {
    const state = this.#foreground ? "foreground" : "background";
    const place = visit.way.reading === "pushed" ? {} : { session: visit.session, cursor: this.#position.cursor };
    visit.way.say({ type: "hb", ref: this.#newRef(), state, ...place });
    this.#set("$beat", visit.intervalMs * (0.9 + 0.1 * this.#options.random()));
  }

  #beaten(frame, visit) {
    if (frame.do === "handshake") throw new Leave("asked to shake hands", true);
    visit.intervalMs = 1000 * (frame.interval_s ?? visit.intervalMs / 1000);
    visit.head = Math.max(visit.head, frame.head ?? 0);
    if (visit.head > this.#position.seq) this.#set("$behind", BEHIND_MS);
  }
}
