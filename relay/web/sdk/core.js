// The sync core: what a client does next, as a state machine without I/O, clock or chance of its own.
//
// `handle` takes one event and gives the commands that follow, in order. Whoever drives it carries them out one after another,
// and hands in what came of `keep`, `adopt` and `close` before anything else. Three rules carry the promise: a page is kept only
// where its range begins, with its cursor in one transaction; nothing is acked before it is kept; and whatever goes wrong ends in
// a handshake with the cursor that the database holds.
//
// Events:   started {words} · opened {reading, waitS, storeId, position, words, follows, user} · came {frame} · kept {position, news} ·
//           keptShared {name, position, news} · notKept {moved} · followed {name, position} · unfollowed {name} · rang {timer} ·
//           closed {code, retryAfterMs} · spoke {words} · turned {foreground} · poked {words, follows} ·
//           compared {upgrade, done} · stopped
// Commands: connect {renew} · say {frame, aside} · read {cursor, waitS, shared, open, anew} · keep {at, page} · keepShared {at, page} ·
//           adopt {position, reason, floor, user, complete} · adoptShared {name, position} · drop {words} · set {timer, ms} · unset ·
//           close {why} · compare {upgrade} · tell {type, detail}

import { Acks } from "./acks.js";
import { Follows } from "./follows.js";
import { Redial } from "./redial.js";
import { afterClose, ANOTHER_USER, astray, judge, renumbered, UNREACHABLE } from "./rules.js";

const ACK_PAUSE_MS = 250;
const ANSWER_MS = 20_000;
const BEHIND_MS = 2000;
const DRAIN_MS = 1000;
const CALM_MS = 60_000;
const GUARD_MS = 120_000;
const NOT_WAITED_MS = 1000; // a long poll that ended sooner without news is not repeated at once
const SILENT_INTERVALS = 2.5;
const TRANSIENT = new Set([
  UNREACHABLE,
  ...["request_timeout", "rate_limited", "auth_throttled", "overloaded", "draining"],
  ...["storage_unavailable", "storage_full", "storage_failed", "commit_unknown"],
]);
const CURSOR_CODES = new Set(["invalid_cursor", "cursor_epoch_changed", "cursor_too_old"]);

const set = (timer, ms) => ({ do: "set", timer, ms });
const tell = (type, detail = {}) => ({ do: "tell", type, detail });

/** What the app is told of news in the cache. */
export const toldOf = (news) => [
  ...news.arrived.map((message) => tell("message", message)),
  ...news.changed.map((message) => tell("changed", message)),
  ...news.ended.map((ended) => tell("ended", ended)),
  ...news.read.map((marker) => tell("read", marker)),
  ...news.sent.map((sent) => tell("sent", sent)),
  ...(news.withdrawn?.length ? [tell("withdraw", { ids: news.withdrawn })] : []),
];

export class Core {
  /** idle · connecting · saying (what must be heard before the handshake) · greeting · reading · closing · over */
  phase = "idle";
  position = { epoch: "", seq: 0, cursor: null };
  #user = null; // whose messages the database holds; null before its first handshake
  #final = null; // why no connection follows
  foreground = true;
  #storeId;
  #facts;
  #random;
  #acks = new Acks();
  #redial = new Redial();
  #follows = new Follows();
  #comparing = false;
  #compared = new Set();
  #reading = "pushed";
  #waitS = 0;
  #refs = 0;
  #intervalMs = 30_000;
  #pollMs = 5000;
  #head = 0;
  #session = 0;
  #toldCaughtUp = false;
  #welcome = null;
  #page = null; // the page that is being kept

  /** `facts` are the handshake's: app_version, schema, types, addresses, … */
  constructor({ storeId, facts = {}, random }) {
    this.#storeId = storeId;
    this.#facts = facts;
    this.#random = random;
  }

  /** What follows from an event. Unexpected ones change nothing. */
  handle(event) {
    if (this.phase === "over" && event.type !== "closed") return [];
    switch (event.type) {
      case "started":
        this.#acks.take(event.words);
        return this.#connect();
      case "opened":
        return this.#opened(event);
      case "came":
        return this.#came(event.frame);
      case "kept":
        return this.#kept(event);
      case "keptShared":
        return this.#keptShared(event);
      case "followed":
        this.#follows.positions[event.name] = event.position;
        return this.#askShared(event.name);
      case "unfollowed":
        return this.#unfollowed(event.name);
      case "notKept":
        return this.#notKept(event);
      case "rang":
        return this.#rang(event.timer);
      case "closed":
        return this.#closed(event);
      case "spoke":
        this.#acks.merge(event.words);
        return this.#ackSoon();
      case "turned":
        this.foreground = event.foreground;
        if (this.phase === "reading") return this.#beat();
        return event.foreground ? this.#poked({}) : [];
      case "poked":
        return this.#poked(event);
      case "compared":
        this.#comparing = false;
        if (event.done) this.#compared.add(event.upgrade);
        return [];
      case "stopped":
        return this.#stop();
      default:
        return [];
    }
  }

  // --- connecting ---

  #connect() {
    this.phase = "connecting";
    const { renew } = this.#redial;
    this.#redial.renew = false;
    return [{ do: "connect", renew }];
  }

  #opened({ reading, waitS, storeId = this.#storeId, position, words, follows = {}, user = null }) {
    if (this.phase !== "connecting") return [{ do: "close", why: "not wanted" }];
    Object.assign(this, { position });
    this.#storeId = storeId; // a browser may have taken the database away: what is in its place is another
    this.#user = user;
    this.#acks.begin(words);
    this.#follows.begin(follows);
    this.#reading = reading;
    this.#waitS = waitS;
    this.#head = 0;
    this.#toldCaughtUp = false;
    return this.#sayOrGreet();
  }

  /** The cursor in the handshake acks what it has passed; a refusal said after that would come too late. */
  #sayOrGreet() {
    const refusals = this.#acks.refusals();
    if (!refusals) return this.#greet();
    this.phase = "saying";
    const frame = { ...this.#acks.frame(this.#ref(), refusals), store: this.#store };
    return [{ do: "say", frame, aside: true }, set("answer", ANSWER_MS)];
  }

  #greet() {
    this.phase = "greeting";
    const { cursor } = this.position;
    const frame = {
      type: "hello",
      ref: this.#ref(),
      ...this.#facts,
      state: this.#state,
      store: this.#store,
      ...(cursor ? { cursors: { inbox: cursor } } : {}),
    };
    return [{ do: "say", frame }, set("answer", ANSWER_MS)];
  }

  get #store() {
    return { id: this.#storeId, ...(this.#user === null ? {} : { user: this.#user }) };
  }

  get #state() {
    return this.foreground ? "foreground" : "background";
  }

  #ref() {
    return String((this.#refs += 1));
  }

  // --- what comes ---

  #came(frame) {
    if (!["saying", "greeting", "reading"].includes(this.phase)) return [];
    const commands = this.#frame(frame);
    const listens = this.phase === "reading" && this.#reading === "pushed";
    return listens ? [...commands, set("silence", SILENT_INTERVALS * this.#intervalMs)] : commands;
  }

  #frame(frame) {
    switch (frame.type) {
      case "batch":
        return this.#paged(frame);
      case "welcome":
        return this.#welcomed(frame);
      case "ack":
        return this.#ackHeard(frame);
      case "hb":
        return this.#beatHeard(frame);
      case "nothing":
        return this.#nothing(frame);
      case "resync_required":
        return frame.timeline ? this.#beginsAnew([frame.resync]) : this.#reset(frame.resync);
      case "follow":
        return this.#followHeard(frame);
      case "heads":
        return [tell("ahead", { timelines: frame.shared })];
      case "drain":
        this.#redial.askedMs = frame.reconnect_ms ?? 0;
        this.#redial.restarts = true;
        return [...this.#ackNow(), set("drain", DRAIN_MS)];
      case "error":
        return this.#refused(frame);
      case "degraded":
      case "withdraw":
        return [tell(frame.type, frame)];
      default:
        return []; // a word of a newer relay
    }
  }

  #welcomed(frame) {
    if (this.phase !== "greeting") return [];
    if (astray(this.position, frame)) return this.#forget();
    this.#session = frame.session;
    this.#welcome = frame;
    this.#head = frame.head;
    this.#takeBeat(frame.heartbeat);
    this.#pollMs = 1000 * (frame.next_poll_s ?? this.#pollMs / 1000);
    const position = { epoch: frame.epoch, seq: frame.head - frame.missing, cursor: frame.cursors.inbox };
    const reason = frame.verdict === "resync" ? frame.reason : null;
    const complete = frame.missing === 0; // no page will say that everything has come
    const adopt = { do: "adopt", position, reason, floor: frame.floor ?? 0, user: frame.user ?? null, complete };
    return [{ do: "unset", timer: "answer" }, adopt];
  }

  #readingBegins() {
    this.phase = "reading";
    this.#acks.shaken(this.position.cursor);
    return [
      tell("connected", this.#welcome),
      set("beat", this.#random() * this.#intervalMs),
      set("calm", CALM_MS),
      ...this.#guard(),
      ...(this.#reading === "pushed" ? this.#askShared() : [this.#read()]),
      ...this.#ackSoon(),
    ];
  }

  /** `anew`: in a stream of its own, which takes the place of the one that runs. */
  #read(waitS = 0, anew = false) {
    const asked = this.#reading !== "pushed" && this.#follows.any ? this.#follows.query() : {};
    return { do: "read", cursor: this.position.cursor, waitS, ...asked, ...(anew ? { anew } : {}) };
  }

  /** Where pages come by themselves, they are asked for now and then all the same. */
  #guard() {
    return this.#reading === "pulled" ? [] : [set("poll", GUARD_MS)];
  }

  // --- pages ---

  #paged(page) {
    if (this.phase !== "reading" || page.fill) return [];
    if ((page.timeline ?? "inbox") !== "inbox") return this.#sharedPaged(page);
    const verdict = judge(this.position, page);
    if (verdict === "broken") return this.#close("a page that does not fit", page.epoch !== this.position.epoch);
    if (verdict === "known") return this.#pullOn(true);
    if (verdict === "read") return [this.#read()];
    this.#head = Math.max(this.#head, page.head ?? 0);
    if (page.to === this.position.seq) return this.#caughtUp(page); // what it answers has said `nothing`, too
    this.#page = page;
    return [{ do: "keep", at: this.position, page }];
  }

  #kept({ position, news }) {
    if (renumbered(this.position.epoch, position.epoch)) this.#acks.forgetMarkers();
    this.position = position;
    const page = this.#page;
    this.#page = null;
    if (page === null) return this.phase === "greeting" && this.#welcome ? this.#readingBegins() : [];
    this.#acks.add(news.words);
    const told = toldOf(news);
    if (this.phase !== "reading") return told;
    this.#acks.kept(page.entries.length);
    const now = this.#acks.many || page.entries.some(({ priority }) => priority === "urgent");
    const ack = now ? this.#ackNow() : this.#ackSoon();
    return [...told, ...this.#caughtUp(page), ...ack, ...this.#guard(), ...this.#pullOn(page.more)];
  }

  // --- shared timelines ---

  /** Has the relay send what is followed, the way this connection can. */
  #askShared(name = null) {
    if (this.phase !== "reading" || !this.#follows.any) return [];
    if (this.#reading === "pulled") return [this.#read()];
    if (this.#reading === "streamed") return [this.#read(0, true)]; // nothing can be said on the one that runs
    return this.#follows.portions(name).map((some) => ({ do: "say", frame: { type: "follow", ref: this.#ref(), ...some } }));
  }

  #unfollowed(name) {
    delete this.#follows.positions[name];
    if (this.phase !== "reading") return [];
    if (this.#reading === "pulled") return [this.#read()]; // what waits may bring nothing else, and nobody would ask again
    if (this.#reading === "streamed") return [this.#read(0, true)];
    return [{ do: "say", frame: { type: "follow", ref: this.#ref(), unfollow: [name] } }];
  }

  #sharedPaged(page) {
    switch (this.#follows.judge(page)) {
      case "keep":
        return [{ do: "keepShared", at: this.#follows.positions[page.timeline], page }];
      case "broken":
        return this.#close("a page that leaves out a number");
      case "read":
        if (this.#reading === "pushed") return this.#askShared(page.timeline);
        return this.#reading === "streamed" ? [this.#read()] : this.#pullOn(false);
      default:
        return [];
    }
  }

  #keptShared({ name, position, news = null }) {
    const before = this.#follows.positions[name];
    if (before && renumbered(before.epoch, position.epoch)) this.#acks.forgetMarkers(name);
    if (before) this.#follows.positions[name] = position;
    const commands = [...(news ? toldOf(news) : []), ...this.#ackSoon()];
    if (this.phase !== "reading") return commands;
    const anew = this.#reading === "streamed" && this.#follows.left; // it has room for another by now
    return [...commands, ...(anew ? [this.#read(0, true)] : this.#pullOn(true))];
  }

  #followHeard({ refused = [], resync = [] }) {
    const told = refused
      .map(({ code, ...what }) => ({ conversation: this.#follows.refuse(what), code }))
      .filter(({ conversation }) => conversation !== null)
      .map((detail) => tell("followrefused", detail));
    // It is never said again: the next connection opens the timeline by its name.
    const unread = told.filter(({ detail }) => detail.code === "invalid_cursor");
    const opened = unread.map(({ detail }) => ({ timeline: detail.conversation, epoch: "", floor: 0, cursor: null }));
    return [...told, ...this.#beginsAnew([...resync, ...opened])];
  }

  /** The relay says where shared timelines go on; every message of them stays. */
  #beginsAnew(resets) {
    return resets
      .filter(({ timeline }) => this.#follows.positions[timeline])
      .map(({ timeline: name, epoch, floor, cursor }) => ({ do: "adoptShared", name, position: { epoch, seq: floor, cursor } }));
  }

  #notKept({ moved }) {
    this.#page = null;
    if (!["greeting", "reading"].includes(this.phase)) return [];
    return this.#close(moved ? "another tab moved the store" : "the cache can't be written", moved);
  }

  #caughtUp(page) {
    if (!page.caught_up) return [];
    const told = this.#toldCaughtUp ? [] : [tell("caughtup", { seq: page.to })];
    if (told.length && this.#welcome?.reidentify) told.push(tell("reidentify"));
    this.#toldCaughtUp = true;
    return [...told, ...this.#prove()];
  }

  /** What the relay wants to have compared, until it has been: it says so in each welcome. */
  #prove() {
    const upgrade = this.#welcome?.upgrade?.id;
    if (!upgrade || this.#comparing || this.#compared.has(upgrade)) return [];
    this.#comparing = true;
    return [{ do: "compare", upgrade }];
  }

  #pullOn(more) {
    if (this.#reading !== "pulled") return [];
    if (more || this.#waitS) return [this.#read(more ? 0 : this.#waitS)];
    return [set("poll", this.#pollMs)];
  }

  #nothing({ nextPollS, askedS, waitedMs }) {
    if (this.#reading !== "pulled" || this.phase !== "reading") return [];
    this.#pollMs = 1000 * (nextPollS ?? this.#pollMs / 1000);
    if (this.#waitS && (askedS === 0 || waitedMs >= NOT_WAITED_MS)) return [this.#read(this.#waitS)];
    return [set("poll", this.#pollMs)];
  }

  /** The cursor is refused for good: the given one takes its place, and a handshake says what it stands for. */
  #reset({ epoch, cursor, reason, floor = 0 }) {
    const adopt = { do: "adopt", position: { epoch, seq: null, cursor }, reason: reason ?? null, floor };
    return [adopt, ...this.#close("resync", true)];
  }

  #forget() {
    return this.#reset({ epoch: this.position.epoch, cursor: null, reason: "bad_cursor" });
  }

  // --- words ---

  get #owes() {
    return this.#acks.due(this.position.cursor) || this.#follows.unacked;
  }

  #ackSoon() {
    if (this.phase !== "reading" || this.#acks.pausing || !this.#owes) return [];
    this.#acks.pausing = true;
    return [set("ack", ACK_PAUSE_MS)];
  }

  #ackNow() {
    if (this.phase !== "reading" || !this.#owes) return [];
    const frame = { ...this.#acks.next(this.#ref(), this.position.cursor), ...this.#follows.ack() };
    return [{ do: "say", frame }, set("ack", ACK_PAUSE_MS)];
  }

  #ackHeard({ ref, acked }) {
    const commands = this.#heard(ref);
    if (this.phase === "saying") return [...commands, ...this.#sayOrGreet()];
    return [...commands, tell("acked", { seq: acked }), ...this.#ackSoon()]; // a word may have grown on the way
  }

  #heard(ref) {
    const words = this.#acks.heard(ref);
    return Object.keys(words).length ? [{ do: "drop", words }] : [];
  }

  #refused({ code, ref, detail, resync, retry_after_ms: retryMs = 0 }) {
    if (code === ANOTHER_USER && ["saying", "greeting"].includes(this.phase)) {
      this.#final = { code, detail };
      return this.#close("the database is another user's");
    }
    const told = tell("refused", { code, detail });
    const flew = this.#acks.flies(ref);
    if (flew && !TRANSIENT.has(code) && !CURSOR_CODES.has(code)) {
      // It will never take these words: they must not stand in the way of others.
      const words = this.#acks.refused(ref);
      const any = Object.keys(words).length > 0;
      if (any) this.#follows.unsaid();
      const commands = [told, ...(any ? [{ do: "drop", words }] : [])];
      return [...commands, ...(this.phase === "saying" ? this.#sayOrGreet() : this.#ackSoon())];
    }
    if (flew && TRANSIENT.has(code)) {
      this.#acks.returned(ref);
      this.#follows.unsaid();
      if (this.phase !== "reading" || code === UNREACHABLE) {
        this.#redial.askedMs = retryMs || 1000;
        return [told, ...this.#close("refused for now")];
      }
      this.#acks.pausing = true;
      return [set("ack", Math.max(ACK_PAUSE_MS, retryMs || 1000))];
    }
    if (resync) return this.#reset(resync);
    if (code === "invalid_cursor") return this.#forget();
    this.#redial.askedMs = retryMs || this.#redial.askedMs;
    if (this.phase === "greeting") return [told, ...this.#close("no welcome")];
    // It was the answer to a read, and nothing else begins the next.
    return ref === undefined && this.#reading === "pulled" ? [told, ...this.#close("no page")] : [told];
  }

  // --- heartbeats ---

  #takeBeat(beat) {
    this.#intervalMs = Math.max(1000, 1000 * (beat?.interval_s ?? this.#intervalMs / 1000));
  }

  #beat() {
    const place = this.#reading === "pushed" ? {} : { session: this.#session, cursor: this.position.cursor };
    const frame = { type: "hb", ref: this.#ref(), state: this.#state, ...place };
    return [{ do: "say", frame }, set("beat", this.#intervalMs * (0.9 + 0.1 * this.#random()))];
  }

  #beatHeard(frame) {
    this.#takeBeat(frame);
    if (frame.do === "handshake") return this.#close("asked to shake hands", true);
    this.#head = Math.max(this.#head, frame.head ?? 0);
    return this.phase === "reading" && this.#head > this.position.seq ? [set("behind", BEHIND_MS)] : [];
  }

  // --- time ---

  #rang(timer) {
    if (timer === "connect") return this.phase === "idle" ? this.#connect() : [];
    if (timer === "answer") return ["saying", "greeting"].includes(this.phase) ? this.#close("no answer") : [];
    if (timer === "calm") this.#redial.calm();
    if (this.phase !== "reading") return [];
    switch (timer) {
      case "drain":
        return this.#close("drained");
      case "beat":
        return this.#beat();
      case "silence":
        return this.#close("silence");
      case "behind":
        return this.#head > this.position.seq ? [this.#read()] : [];
      case "poll":
        return [this.#read(), ...this.#guard()];
      case "ack":
        this.#acks.pausing = false;
        return this.#ackNow();
      default:
        return [];
    }
  }

  // --- ends ---

  #close(why, soon = false) {
    this.phase = "closing";
    this.#redial.soon = soon;
    return [{ do: "close", why }];
  }

  #closed({ code = null, retryAfterMs = 0 }) {
    if (this.phase === "idle") return [];
    this.#acks.end();
    this.#welcome = null;
    this.#page = null;
    if (this.phase === "over") return [{ do: "unset" }];
    this.phase = "idle";
    const final = this.#final;
    this.#final = null;
    const then = final ? "never" : afterClose(code, this.foreground);
    const ends = [{ do: "unset" }, tell("disconnected", { code, retryMs: null })];
    if (then !== "again" && then !== "renew") this.#redial.forget();
    if (then === "rest") return ends;
    if (then === "never") return [...ends, tell("refused", final ?? { code: "forbidden", detail: "The relay will not have this device." })];
    this.#redial.renew = then === "renew";
    const ms = this.#redial.pauseMs(this.#random, retryAfterMs);
    return [{ do: "unset" }, tell("disconnected", { code, retryMs: ms }), set("connect", ms)];
  }

  #poked({ words = {}, follows = this.#follows.positions }) {
    this.#acks.merge(words);
    if (this.phase === "idle") return [{ do: "unset", timer: "connect" }, ...this.#connect()];
    if (this.phase !== "reading") return [];
    const followed = this.#followedElsewhere(follows);
    const read = this.#reading === "pulled" ? [this.#read()] : [];
    return [...followed, ...this.#beat(), ...this.#ackSoon(), ...read];
  }

  /** Another tab has begun to follow timelines, or follows them no more: `follows` is what the cache has. */
  #followedElsewhere(follows) {
    const here = this.#follows.positions;
    const fresh = Object.keys(follows).filter((name) => !here[name]);
    const gone = Object.keys(here).filter((name) => !follows[name]);
    for (const name of fresh) here[name] = follows[name];
    return [...gone.flatMap((name) => this.#unfollowed(name)), ...fresh.flatMap((name) => this.#askShared(name))];
  }

  #stop() {
    const connected = this.phase !== "idle";
    const last = this.phase === "reading" ? [...this.#ackNow(), { do: "say", frame: { type: "bye", reason: "quit" } }] : [];
    this.phase = "over";
    return [...last, ...(connected ? [{ do: "close", why: "done" }] : [])];
  }
}
