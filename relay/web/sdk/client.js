// A device's inbox in a browser or in Node: keeps a cache up to date over whichever way works, and tells what is new.
//
// It drives the sync core: carries out its commands with a way, the cache and timers, and reports what came of them. Everything
// that happens goes through one queue and is handled to its end, one after another: so a page is stored before the next is
// looked at, and nothing is acked before it is stored.

import { Moved } from "./cache.js";
import { Core, toldOf } from "./core.js";
import { Ladder, WAYS } from "./ladder.js";
import { uuid7 } from "./outbox.js";
import { repair } from "./repair.js";
import { ANOTHER_USER, pauseMs, UNAUTHENTICATED } from "./rules.js";
import { Sender } from "./sending.js";
import { TokenKeeper } from "./tokens.js";
import { bodyOf, Gone, HttpWay, pagesOf, Problem, SocketWay, StreamWay } from "./ways.js";

const LAST_WORDS_MS = 20;
const WAIT_S = 50;
const IDS_AT_ONCE = 10; // in one question
const NO_OTHER = "The relay refuses the token, and there is no other: `token` may be a function that asks your backend.";
const KINDS = { websocket: SocketWay, sse: StreamWay, "long-poll": HttpWay, poll: HttpWay };

/** A relay's address in full, without a slash at its end; a page may give one relative to its own. Throws TypeError. */
function addressOf(url) {
  const where = [url === "" ? "/" : url, globalThis.location?.href];
  const { protocol, href } = URL.canParse(...where) ? new URL(...where) : {};
  if (!["http:", "https:"].includes(protocol)) throw new TypeError(`"${url}" is no address of a relay: it begins with http:// or https://`);
  return href.replace(/\/$/, "");
}

/** What it tells, as events: index.d.ts has them with their details. */
export class Client extends EventTarget {
  /** Where another tab may run the client of this database: set by tabs.js. */
  elsewhere = null;
  #ending = new AbortController();
  #options;
  #cache;
  #core = null;
  #queue = [];
  #wake = null;
  #timers = new Map();
  #way = null;
  #running = null;
  #stopped = false;
  #foreground = true;
  #welcomed = false;
  #failed = null; // the token is another user's: no call is made with it
  #ladder;
  #sender;
  #tokens;
  #comparing = Promise.resolve();

  /** `url` and `token` (or a function that gets one) of the relay, `cache` a Cache; `facts` are the handshake's. Throws TypeError. */
  constructor({ url, token, cache, facts = {}, types = null, check = null, ways, ...given }) {
    super();
    this.#cache = cache;
    cache.tables.onoutdated = () => {
      this.dispatchEvent(new CustomEvent("outdated", { detail: {} })); // this page alone
      void this.stop();
    };
    this.#options = {
      url: addressOf(url),
      facts: types ? { ...facts, types } : facts,
      types,
      check,
      fetch: given.fetch ?? globalThis.fetch.bind(globalThis),
      WebSocket: given.WebSocket ?? globalThis.WebSocket,
      random: given.random ?? Math.random,
    };
    this.#ladder = new Ladder(ways ?? WAYS.filter((way) => way !== "websocket" || this.#options.WebSocket));
    this.#tokens = new TokenKeeper({ source: token, cache, call: async (...what) => bodyOf(await this.#calls(...what), "token", "renew_at") });
    this.#sender = new Sender({
      cache,
      post: (key, message) => this.#post(key, message),
      tell: (type, detail) => this.#tell(type, detail),
      random: this.#options.random,
    });
  }

  // --- what the app asks ---

  /** Begins, and goes on until `stop`. */
  start() {
    this.#running ??= this.#run();
    return this;
  }

  /** Acks what is stored, says goodbye, and ends. */
  async stop() {
    this.#stopped = true;
    this.#ending.abort();
    this.#push({ type: "stopped" });
    await this.#running;
    await this.#sender.stop();
    await this.#cache.close();
    this.elsewhere?.stopped();
  }

  messages(options) {
    return this.#cache.messages(options);
  }

  /** The place of the last news that have come. */
  async place() {
    return (await this.#cache.open()).count;
  }

  /** The last news beside new messages, as `{type, detail}`, if they were stored after a `place`. */
  async lastNews(after) {
    return toldOf(await this.#cache.lastNews(after));
  }

  /**
   * Brings these messages, which a push has named, before all that comes before them; gives those that were lacking. Throws
   * Problem, Gone, or what `fetch` throws.
   */
  async fetch(...ids) {
    const arrived = [];
    const heard = ({ detail }) => ids.includes(detail.id) && arrived.push(detail);
    const lacking = await this.#cache.lacking(ids);
    this.addEventListener("message", heard);
    try {
      for (let at = 0; at < lacking.length; at += IDS_AT_ONCE) {
        const query = new URLSearchParams(lacking.slice(at, at + IDS_AT_ONCE).map((id) => ["ids", id]));
        const stored = [];
        for (const page of await pagesOf(await this.#calls("GET", `/v1/device/sync?${query}`))) {
          const { kept, words } = await this.#fill(page);
          if (kept) stored.push(...page.entries.map(({ id }) => id).filter((id) => !words[`nack:${id}`]));
        }
        if (stored.length) await bodyOf(await this.#calls("POST", "/v1/device/ack", { body: { ids: stored } }), "acked");
      }
    } finally {
      this.removeEventListener("message", heard);
    }
    return arrived;
  }

  /** Takes messages off this device. */
  async delete(...ids) {
    await this.#cache.delete(ids);
  }

  /**
   * Sends to users, or to a group; gives the message's key. When this returns, the message is in the database: it goes out as soon
   * as the relay can be reached, also by a later page. `sent` or `unsent` tells that it has been decided.
   */
  async send(body, { to, group, key = uuid7(Date.now()), ...more }) {
    const receivers = to === undefined ? { group } : { users: [to].flat() };
    const message = { to: receivers, body, client_ref: key, ...more };
    await this.#cache.outbox.put(key, JSON.parse(JSON.stringify(message)), Date.now());
    if (this.#running) this.#sender.nudge();
    else this.elsewhere?.poke();
    return key;
  }

  /** What the relay has not taken, in order: what still waits, and what it refused. */
  unsent() {
    return this.#cache.outbox.all();
  }

  /** Takes messages out of the outbox. One that is just on its way may have been taken all the same. */
  async dropUnsent(...keys) {
    await this.#cache.outbox.drop(keys);
  }

  /**
   * Has the messages of an ultra group come into the cache, from now on and after each start. After a long absence the last ones
   * come, and a hole is left, which `fillHole` fills. Throws RangeError for more than 50, and for what is no conversation's name.
   */
  async follow(conversation) {
    await this.#cache.open(); // it may not have been started yet
    const position = await this.#cache.follow(conversation);
    if (this.#running) this.#push({ type: "followed", name: conversation, position });
    else this.elsewhere?.poke();
  }

  /** They come no more; what is in the cache stays. */
  async unfollow(conversation) {
    await this.#cache.unfollow(conversation);
    if (this.#running) this.#push({ type: "unfollowed", name: conversation });
    else this.elsewhere?.poke();
  }

  /** Numbers (low, high] of an ultra group that were skipped. */
  holes(conversation) {
    return this.#cache.holes(conversation);
  }

  /** Fetches what was skipped; gives how many messages came. Throws Problem, Gone, or what `fetch` throws. */
  async fillHole(conversation, { low, high }) {
    let came = 0;
    for (let at = low; at < high; ) {
      const query = new URLSearchParams({ timeline: conversation, range: `${at}-${high}` });
      const [page] = await pagesOf(await this.#calls("GET", `/v1/device/sync?${query}`));
      if (!page) throw new Gone();
      const news = await this.#cache.fillShared(page, this.#options);
      this.#tellOf(news);
      came += news.arrived.length;
      if (page.to <= at) break;
      at = page.to;
    }
    return came;
  }

  /**
   * The user has read a conversation up to this number of the inbox, or of its shared timeline. Less than before changes nothing.
   * Where the numbering begins anew before the relay has heard it, it is forgotten: the number is another message's then.
   */
  async read(conversation, seq) {
    await this.#speak(`read:${conversation}`, { conversation, read_seq: seq });
  }

  /** A message was `shown` or `opened` here. */
  async report(id, what) {
    await this.#speak(`receipt:${what}:${id}`, { id, what, at: new Date().toISOString() });
  }

  async #speak(key, word) {
    if (!(await this.#cache.putWord(key, word))) return;
    if (this.#running) this.#push({ type: "spoke", words: { [key]: word } });
    else this.elsewhere?.poke();
  }

  /** The page came to the foreground, or left it. */
  turn(foreground) {
    if (this.elsewhere) this.elsewhere.turn(foreground);
    else this.turnHere(foreground);
  }

  turnHere(foreground) {
    this.#foreground = foreground;
    if (this.#running) this.#push({ type: "turned", foreground });
  }

  /** There may be news, or a word in the cache: a push has come, or the network is back. */
  poke() {
    this.#sender.nudge();
    if (this.#running) this.#push({ type: "poked" });
    else this.elsewhere?.poke();
  }

  /**
   * A push has come; `relay` is its member of that name. Proves the address that it asks about, and looks for news. Throws Problem,
   * Gone, or what `fetch` throws.
   */
  async pushed(relay) {
    this.poke();
    if (!relay?.prove) return;
    const { account, value } = relay.prove;
    await bodyOf(await this.#calls("POST", "/v1/device/addresses/proof", { body: { account, value } }), "addresses");
  }

  /** Compares the cache with the relay, and fetches what differs. Throws Problem, Gone, or what `fetch` throws. */
  verify() {
    return this.#compare({ purpose: "cache" });
  }

  /** What a service worker needs to fetch in this client's place; null where the app judges each message by a `check`. */
  async credentials() {
    const { url, facts, types, check } = this.#options;
    if (check) return null;
    await this.#tokens.take();
    return { url, token: this.#tokens.given, facts, types };
  }

  /** Aborted when it is stopped. */
  get ending() {
    return this.#ending.signal;
  }

  /** Where its cache keeps its rows: object stores of the app's own are in `tables.database`. */
  get tables() {
    return this.#cache.tables;
  }

  /** A call of the relay's device API with this device's token; gives its JSON. Throws Problem, Gone, or what `fetch` throws. */
  async call(method, path, options) {
    const answer = await this.#calls(method, path, options);
    return answer.status === 204 ? null : bodyOf(answer);
  }

  /** Sends a message over the socket, where one is open, or by a call: under one key it is one message. */
  async #post(key, message) {
    const taken = this.#welcomed ? await this.#way?.send(key, message) : null;
    if (taken) return taken;
    const sent = await this.#calls("POST", "/v1/device/messages", { body: message, headers: { "Idempotency-Key": key } });
    return bodyOf(sent, "id", "seq", "h");
  }

  async #calls(method, path, options) {
    if (this.#failed) throw this.#failed;
    await this.#tokens.take(); // another tab may have had its successor meanwhile: an old one would revoke both
    const { url, fetch } = this.#options;
    const token = this.#tokens.current;
    const way = new HttpWay({ url, fetch, token: () => token });
    if (token !== this.#tokens.proved) await this.#proveOwner(way, token);
    return way.call(method, path, options);
  }

  /** Before its handshake nobody knows whose it is: an ack of nothing asks. Throws Problem `another_user`, and as `call`. */
  async #proveOwner(way, token) {
    const { id, user = null } = await this.#cache.open();
    if (user === null) return; // there is nothing of anybody's
    await bodyOf(await way.call("POST", "/v1/device/ack", { body: { store: { id, user } } }), "acked");
    this.#tokens.proved = token;
  }

  #tellOf(news) {
    for (const { type, detail } of toldOf(news)) this.#tell(type, detail);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
    this.elsewhere?.told(type, detail);
  }

  // --- the loop ---

  #push(event) {
    this.#queue.push(event);
    this.#wake?.();
  }

  async #next() {
    while (!this.#queue.length) await new Promise((wake) => (this.#wake = wake));
    this.#wake = null;
    return this.#queue.shift();
  }

  async #run() {
    await this.#begin();
    while (this.#core) {
      const event = await this.#next();
      // What was spoken may have waited while a new numbering was stored, in which its markers mean nothing.
      if (event.type === "poked" || event.type === "spoke") Object.assign(event, await this.#fromCache().catch(() => ({})));
      if (event.frame?.type === "welcome") await this.#tokens.keep(event.frame.token);
      await this.#carryOut(this.#core.handle(event));
      if (event.type === "stopped") break;
    }
    this.#clear();
    this.#tokens.stop();
  }

  /** What the cache holds: other tabs and the service worker put something there, too. */
  async #fromCache() {
    const [words, { follows = {} }] = [await this.#cache.words(), await this.#cache.open()];
    return { words, follows };
  }

  /** A disk that is full when a page opens has room later: nobody opens the page anew for that. */
  async #begin() {
    const { facts, random } = this.#options;
    for (let failures = 0; !this.#core && !this.#stopped; failures += 1) {
      try {
        const store = await this.#cache.open();
        const before = await this.#cache.noteVersion(facts.app_version ?? null);
        const own = { sdk: "relay-js/1.0", ...(before === null ? {} : { previous_app_version: before }) };
        const words = await this.#cache.words();
        this.#core = new Core({ storeId: store.id, facts: { ...own, ...facts }, random });
        this.#core.foreground = this.#foreground;
        this.#push({ type: "started", words });
      } catch (error) {
        this.#tell("refused", { code: "storage", detail: String(error) });
        await this.#paused(pauseMs(failures, random));
      }
    }
  }

  /** Ends also when it is stopped. */
  #paused(ms) {
    if (this.#stopped) return undefined;
    return new Promise((done) => {
      const timer = setTimeout(done, ms);
      this.ending.addEventListener("abort", () => done(clearTimeout(timer)), { once: true });
    });
  }

  /** What came of a command comes before whatever else is in the queue. */
  async #carryOut(commands) {
    for (const command of commands) {
      const event = await this.#do(command);
      if (event) await this.#carryOut(this.#core.handle(event));
    }
  }

  async #do(command) {
    switch (command.do) {
      case "connect":
        return void this.#connect(command.renew);
      case "say":
        return void (command.aside ? this.#way?.sayAside(command.frame) : this.#way?.say(command.frame));
      case "read":
        return void this.#way?.read(command.cursor, command.waitS, command);
      case "keep":
        return this.#written(async () => {
          const news = await this.#cache.keep(command.at, command.page, this.#options);
          const { epoch, to: seq, cursor } = command.page;
          return { position: { epoch, seq, cursor }, news };
        });
      case "adopt":
        return this.#written(async () => {
          await this.#cache.adopt(command.position, command);
          return { position: command.position };
        });
      case "keepShared":
        return this.#writtenShared(command.page.timeline, () => this.#cache.keepShared(command.at, command.page, this.#options));
      case "adoptShared":
        return this.#writtenShared(command.name, () => this.#cache.adoptShared(command.name, command.position));
      case "drop":
        return void (await this.#cache.dropWords(command.words).catch(() => {})); // said once more, then
      case "set":
        return this.#set(command.timer, command.ms);
      case "unset":
        return this.#clear(command.timer);
      case "close":
        return this.#close();
      case "compare":
        return void this.#prove(command.upgrade);
      case "tell":
        this.#noted(command);
        return this.#tell(command.type, command.detail);
      default:
        throw new Error(`unknown command ${command.do}`);
    }
  }

  #noted({ type, detail }) {
    if (type === "connected") this.#worked();
    if (type === "disconnected" && UNAUTHENTICATED.has(detail.code)) this.#sender.hold();
    if (type === "refused" && detail.code === ANOTHER_USER) this.#failed = new Problem(409, detail);
  }

  async #written(what) {
    try {
      return { type: "kept", ...(await what()) };
    } catch (error) {
      if (!(error instanceof Moved)) this.#tell("refused", { code: "storage", detail: String(error) });
      return { type: "notKept", moved: error instanceof Moved };
    }
  }

  async #writtenShared(name, what) {
    try {
      return { type: "keptShared", name, ...(await what()) };
    } catch (error) {
      this.#tell("refused", { code: "storage", detail: String(error) });
      return { type: "notKept", moved: false };
    }
  }

  #set(timer, ms) {
    clearTimeout(this.#timers.get(timer));
    const ring = () => this.#push({ type: "rang", timer });
    this.#timers.set(timer, setTimeout(ring, ms));
  }

  #clear(...timers) {
    for (const timer of timers[0] === undefined ? [...this.#timers.keys()] : timers) {
      clearTimeout(this.#timers.get(timer));
      this.#timers.delete(timer);
    }
  }

  // --- connections ---

  async #connect(renew) {
    const { url, fetch, WebSocket } = this.#options;
    this.#welcomed = false;
    try {
      await this.#tokens.take(renew);
      if (this.#stopped) return;
      if (renew && this.#tokens.only) this.#tell("refused", { code: "unauthenticated", detail: NO_OTHER });
      const kind = this.#ladder.way(Date.now());
      const way = new KINDS[kind]({ url, fetch, token: this.#tokens.newest(), came: (frame) => this.#came(way, frame) });
      this.#way = way;
      if (way instanceof SocketWay) await way.open(WebSocket);
      const [{ id, epoch, seq, cursor, follows, user = null }, words] = [await this.#cache.open(), await this.#cache.words()];
      const waitS = kind === "poll" ? 0 : WAIT_S;
      const opened = { reading: way.reading, waitS, storeId: id, position: { epoch, seq, cursor }, words, follows, user };
      if (this.#way === way) this.#push({ type: "opened", ...opened });
    } catch (error) {
      void this.#way?.close(); // it may be open, and only the cache not be read
      this.#ended(error instanceof Gone ? error : new Gone());
    }
  }

  #came(way, frame) {
    if (this.#way !== way) return;
    if (frame instanceof Gone) {
      void way.close();
      this.#ended(frame);
    } else {
      this.#push({ type: "came", frame });
    }
  }

  #ended({ code, retryAfterMs, unfit }) {
    if (this.#welcomed && this.#way?.proved) this.#ladder.worked();
    if (unfit && (!this.#welcomed || this.#way?.reading === "streamed")) this.#ladder.failed(Date.now());
    this.#way = null;
    this.#push({ type: "closed", code, retryAfterMs });
  }

  #worked() {
    this.#welcomed = true;
    if (this.#way?.proved) this.#ladder.worked();
    this.#sender.reached();
  }

  async #close() {
    const way = this.#way;
    this.#way = null;
    if (!way) return undefined; // its end is in the queue already
    if (this.#stopped) await new Promise((done) => setTimeout(done, LAST_WORDS_MS));
    else if (!this.#welcomed) this.#ladder.failed(Date.now());
    await way.close();
    return { type: "closed" };
  }

  // --- comparing ---

  /** After an upgrade: everything has arrived, or is fetched now. What fails is tried again after the next catch-up. */
  async #prove(upgrade) {
    let done = false;
    try {
      await this.#compare({ purpose: "upgrade", upgrade });
      done = true;
    } catch (error) {
      this.#tell("refused", { code: error.code ?? "unreachable", detail: `The comparison could not be made: ${error}` });
    }
    this.#push({ type: "compared", upgrade, done });
  }

  /** One after another. */
  #compare(about) {
    const then = async () => {
      const call = (...what) => this.#calls(...what);
      const fill = async (page) => {
        const { arrived, changed } = await this.#fill(page);
        return arrived.length + changed.length;
      };
      const verified = await repair({ cache: this.#cache, call, fill, about });
      this.#tell("verified", verified);
      return verified;
    };
    const result = this.#comparing.then(then);
    this.#comparing = result.catch(() => {});
    return result;
  }

  async #fill(page) {
    const news = await this.#cache.fill(page, this.#options);
    this.#tellOf(news);
    if (Object.keys(news.words).length) this.#push({ type: "spoke", words: news.words });
    return news;
  }
}
