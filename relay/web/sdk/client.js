// A device's inbox in a browser or in Node: keeps a cache up to date over whichever way works, and tells what is new.
//
// Everything that happens, frames and alarms alike, goes through one queue and is handled to its end, one after another:
// so a page is stored before the next is looked at, and nothing is acked before it is stored.

import { Moved } from "./cache.js";
import { Ladder, WAYS } from "./ladder.js";
import { repair } from "./repair.js";
import { afterClose, astray, judge, pauseMs } from "./rules.js";
import { Gone, HttpWay, SocketWay, StreamWay } from "./ways.js";

const ACK_PAUSE_MS = 250;
const ACK_ENTRIES = 50;
const ANSWER_MS = 20_000;
const BEHIND_MS = 2000;
const CALM_MS = 60_000;
const GUARD_MS = 120_000;
const RENEW_MS_MIN = 60_000;
const RENEW_MS_MAX = 86_400_000; // timers of a browser end at 24 days
const WAIT_S = 50;
const WORDS_MAX = 200;
const KINDS = { websocket: SocketWay, sse: StreamWay, "long-poll": HttpWay, poll: HttpWay };
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

/** What it tells, as events: index.d.ts has them with their details. */
export class Client extends EventTarget {
  /** Where another tab may run the client of this database: set by tabs.js. */
  elsewhere = null;
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
  #ladder;
  #given = null;
  #token = null;
  #ref = 0;
  #before = null;
  #begun = false;
  #comparing = null;

  /** `url` and `token` (or a function that gets one) of the relay, `cache` a Cache; `facts` are the handshake's. */
  constructor({ url, token, cache, facts = {}, types = null, check = null, ways = WAYS, ...given }) {
    super();
    this.#cache = cache;
    this.#ladder = new Ladder(ways);
    cache.tables.onoutdated = () => {
      this.dispatchEvent(new CustomEvent("outdated", { detail: {} })); // this page alone
      void this.stop();
    };
    this.#options = {
      url: url.replace(/\/$/, ""),
      token,
      facts: types ? { ...facts, types } : facts,
      types,
      check,
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
    this.elsewhere?.stopped();
  }

  messages(options) {
    return this.#cache.messages(options);
  }

  /** Takes messages off this device. */
  async delete(...ids) {
    await this.#cache.delete(ids);
  }

  /** Compares the cache with the relay, and fetches what differs. Throws Problem, or what `fetch` throws. */
  verify() {
    return this.#compare({ purpose: "cache" });
  }

  /** A call of the relay's device API with this device's token; gives its JSON. Throws Problem, or what `fetch` throws. */
  async call(method, path, options) {
    const answer = await this.#calls(method, path, options);
    return answer.status === 204 ? null : answer.json();
  }

  async #calls(method, path, options) {
    if (!this.#token) await this.#takeToken();
    const { url, fetch } = this.#options;
    return new HttpWay({ url, fetch, token: () => this.#token }).call(method, path, options);
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
    if (this.elsewhere) this.elsewhere.turn(foreground);
    else this.turnHere(foreground);
  }

  turnHere(foreground) {
    this.#foreground = foreground;
    if (this.#running) this.#push({ type: foreground ? "$poke" : "$beat" });
  }

  /** There may be news, or a word in the cache: a push has come, or the network is back. */
  poke() {
    if (this.#running) this.#push({ type: "$poke" });
    else this.elsewhere?.poke();
  }

  /** Where its cache keeps its rows: object stores of the app's own are in `tables.database`. */
  get tables() {
    return this.#cache.tables;
  }

  async #speak(key, word) {
    await this.#cache.putWord(key, word);
    if (!this.#running) return void this.elsewhere?.poke();
    this.#words[key] = word;
    this.#push({ type: "$spoke" });
  }

  #tell(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
    this.elsewhere?.told(type, detail);
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
    while (!this.#stopped) {
      const visit = { askedMs: 0, calm: false, soon: false, code: null, welcomed: false };
      try {
        await this.#visit(visit);
      } catch (error) {
        if (error instanceof Leave) visit.soon = error.soon;
        else if (error instanceof Gone) {
          visit.code = error.code;
          visit.askedMs = Math.max(visit.askedMs, error.retryAfterMs);
          if (error.unfit && (!visit.welcomed || this.#way?.reading === "streamed")) this.#ladder.failed(Date.now());
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

  async #takeToken() {
    this.#store ??= await this.#cache.open();
    const { token } = this.#options;
    try {
      if (this.#given === null || this.#renew) this.#given = typeof token === "function" ? await token() : token;
    } catch {
      throw new Gone(); // the app's backend can't be reached: later
    }
    this.#token = this.#store.given === this.#given && this.#store.token ? this.#store.token : this.#given;
  }

  async #open() {
    const { url, fetch, WebSocket } = this.#options;
    await this.#takeToken();
    const kind = this.#ladder.way(Date.now());
    const Way = KINDS[kind];
    const way = new Way({ url, fetch, token: () => this.#token, came: (frame) => this.#way === way && this.#push(frame) });
    way.waitS = kind === "poll" ? 0 : WAIT_S;
    this.#way = way;
    if (way instanceof SocketWay) await way.open(WebSocket);
    return way;
  }

  async #visit(visit) {
    const { epoch, seq, cursor } = (this.#store = await this.#cache.open());
    this.#position = { epoch, seq, cursor };
    this.#words = await this.#cache.words();
    if (!this.#begun) this.#before = await this.#cache.noteVersion(this.#options.facts.app_version ?? null);
    this.#begun = true;
    const way = await this.#open();
    Object.assign(visit, { way, acked: null, unacked: 0, pausing: false, caughtUp: false, head: 0, intervalMs: 30_000, pollMs: 5000 });
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
    const before = this.#before === null ? {} : { previous_app_version: this.#before };
    const facts = { sdk: "relay-js/1.0", ...before, ...this.#options.facts };
    return { type: "hello", ref: this.#newRef(), ...facts, state, store: { id: this.#store.id }, ...cursors };
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
        return this.#poked(visit);
      case "$renew":
        return void this.#renewToken();
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

  async #poked(visit) {
    this.#beat(visit);
    this.#words = { ...(await this.#cache.words()), ...this.#words };
    this.#ackSoon(visit);
    if (visit.way.reading === "pulled") this.#read(visit);
  }

  async #welcomed(frame, visit) {
    if (astray(this.#position, frame)) return this.#reset({ epoch: this.#position.epoch, seq: null, cursor: null });
    this.#position = { epoch: frame.epoch, seq: frame.head - frame.missing, cursor: frame.cursors.inbox };
    const reason = frame.verdict === "resync" ? frame.reason : null;
    await this.#cache.adopt(this.#position, { reason, floor: frame.floor, upgrade: frame.upgrade?.id });
    this.#store.upgrade = frame.upgrade?.id ?? this.#store.upgrade;
    await this.#keepToken(frame.token);
    Object.assign(visit, { welcomed: true, head: frame.head, session: frame.session, acked: this.#position });
    visit.intervalMs = 1000 * (frame.heartbeat?.interval_s ?? 30);
    visit.pollMs = 1000 * (frame.next_poll_s ?? 5);
    this.#ladder.worked();
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
    if (typeof answer?.token === "string") {
      await this.#cache.putToken(this.#given, answer.token);
      this.#token = answer.token;
      Object.assign(this.#store, { given: this.#given, token: answer.token });
    } else if (answer?.renew_at) {
      const ms = Date.parse(answer.renew_at) - Date.now();
      this.#set("$renew", Math.min(Math.max(ms, RENEW_MS_MIN), RENEW_MS_MAX));
    }
  }

  /** A connection may outlive its token: the next one is asked for in time. */
  async #renewToken() {
    try {
      await this.#keepToken(await this.call("POST", "/v1/device/token"));
    } catch {
      this.#set("$renew", 60 * RENEW_MS_MIN);
    }
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
      let news;
      try {
        news = await this.#cache.keep(this.#position, page, this.#options);
      } catch (error) {
        if (error instanceof Moved) throw new Leave("another tab moved the store", true);
        throw error;
      }
      this.#position = { epoch: page.epoch, seq: page.to, cursor: page.cursor };
      this.#tellNews(news);
      visit.unacked += page.entries.length;
      const urgent = page.entries.some(({ priority }) => priority === "urgent");
      if (urgent || visit.unacked >= ACK_ENTRIES) this.#ack(visit);
      else this.#ackSoon(visit);
      if (visit.way.reading !== "pulled") this.#set("$poll", GUARD_MS);
      else if (page.more || visit.way.waitS) this.#read(visit, page.more ? 0 : visit.way.waitS);
      else this.#set("$poll", visit.pollMs);
    }
    if (page.caught_up && !visit.caughtUp) {
      visit.caughtUp = true;
      this.#tell("caughtup", { seq: page.to });
      if (this.#store.upgrade) void this.#prove(this.#store.upgrade);
    }
  }

  #tellNews(news) {
    Object.assign(this.#words, news.words);
    for (const message of news.arrived) this.#tell("message", message);
    for (const message of news.changed) this.#tell("changed", message);
    for (const ended of news.ended) this.#tell("ended", ended);
    for (const marker of news.read) this.#tell("read", marker);
  }

  // --- comparing ---

  /** After an upgrade: everything has arrived, or is fetched now. What fails is tried again after the next catch-up. */
  async #prove(upgrade) {
    try {
      await this.#compare({ purpose: "upgrade", upgrade });
      this.#store.upgrade = null;
      await this.#cache.proved();
    } catch (error) {
      this.#tell("refused", { code: error.code ?? "unreachable", detail: `The comparison could not be made: ${error}` });
    }
  }

  #compare(about) {
    const call = (...what) => this.#calls(...what);
    const fill = async (page) => {
      const news = await this.#cache.fill(page, this.#options);
      this.#tellNews(news);
      return news.arrived.length + news.changed.length;
    };
    const then = async () => {
      const verified = await repair({ cache: this.#cache, call, fill, about });
      this.#push({ type: "$spoke" });
      this.#tell("verified", verified);
      return verified;
    };
    return (this.#comparing = (this.#comparing ?? Promise.resolve()).catch(() => {}).then(then));
  }

  #read(visit, waitS = 0) {
    void visit.way.read(this.#position.cursor, waitS);
  }

  #nothing(frame, visit) {
    if (visit.way.reading !== "pulled") return;
    visit.pollMs = 1000 * (frame.nextPollS ?? visit.pollMs / 1000);
    const { waitS } = visit.way;
    if (waitS && (frame.askedS === 0 || frame.waitedMs >= 1000)) this.#read(visit, waitS);
    else this.#set("$poll", visit.pollMs);
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
