// Three ways to the same pages: WebSocket, server-sent events, long poll. Whichever it is, the client sees frames.

import { Pace, UNREACHABLE } from "./rules.js";

const CALLS = { hello: ["PUT", "/v1/device"], ack: ["POST", "/v1/device/ack"], hb: ["POST", "/v1/device/heartbeat"] };
// And what is in any of the relay's answers.
const ANSWERS = {
  hello: ["welcome", ["verdict", "session", "epoch", "cursors", "head", "missing"]],
  ack: ["ack", ["acked"]],
  hb: ["hb", ["head"]],
};
const [JSON_TYPE, PROBLEM_TYPE] = ["application/json", "application/problem+json"];
const SUBPROTOCOL = "relay.v1.json";
const BODILESS = new Set([204, 304]);
const CALL_MS = 20_000; // for an answer, besides the time that the relay is asked to wait
const LAST_SAID_MS = 2000; // for what is still being said when the way ends
const SILENT_MS = 75_000; // the relay says something on a stream every 25 s
const JUDGED = new Set([401, 403]); // of the token, or of the device
const NOT_UNFIT = new Set([...JUDGED, 429, 502, 503, 504]);

const AFTER_MS_MAX = 86_400_000; // no relay asks for more, and a timer that is set to more, or to no number, ends at once

const SENT_BYTES_MAX = 60_000; // the relay reads frames of 64 KiB
const fitsFrame = (text) => new TextEncoder().encode(text).length <= SENT_BYTES_MAX;

/** Where the client stands, as sync and the stream are asked for what follows. */
const placeQuery = (cursor, { shared = [], open = [] } = {}) =>
  new URLSearchParams([...(cursor ? [["cursor", cursor]] : []), ...shared.map((one) => ["shared", one]), ...open.map((one) => ["open", one])]);
const asked = (cursor, shared, open) => JSON.stringify([cursor, [...shared].sort(), open]);

/** What is in an answer of the relay's: JSON with these members. Throws Gone for what something before it has said. */
export async function bodyOf(answer, ...members) {
  const body = await answer.json().catch(() => null);
  if (body === null || typeof body !== "object" || !members.every((one) => one in body)) throw new Gone();
  return body;
}

/** The pages in an answer to sync. Throws Gone. */
export async function pagesOf(answer) {
  const { batches } = await bodyOf(answer, "batches");
  if (!Array.isArray(batches) || !batches.every(isPage)) throw new Gone();
  return batches;
}

function isPage(page) {
  const { from, to, entries, gaps } = page ?? {};
  return [from, to].every(Number.isInteger) && [entries, gaps].every(Array.isArray) && entries.every((one) => Number.isInteger(one?.seq));
}

/** The end of a way. `unfit`: it does not work here, another one may. */
export class Gone extends Error {
  constructor(code = null, { retryAfterMs = 0, unfit = false } = {}) {
    super(code === null ? "It was not the relay that answered, or nobody did." : `The connection ended (${code}).`);
    Object.assign(this, { code, retryAfterMs, unfit });
  }
}

/** Everything by calls of its own: the long poll, and what the other ways do beside their connection. */
export class HttpWay {
  reading = "pulled";
  proved = true; // whether it is known to work once the relay has said welcome
  #etag = null;
  #told = new Map();
  #pull = null;
  #turn = Promise.resolve();
  abort = new AbortController();

  constructor({ url, token, fetch, came }) {
    Object.assign(this, { url, token, fetch, came });
  }

  /** Says a frame by a call; its answer comes as a frame. Words are heard in the order in which they are said. */
  say(frame) {
    if (!(frame.type in CALLS)) return;
    this.#turn = this.#turn.then(() => this.#said(frame));
  }

  sayAside(frame) {
    this.say(frame);
  }

  async #said({ type: kind, ref, ...body }) {
    const [method, path] = CALLS[kind];
    const [type, least] = ANSWERS[kind];
    await this.#guarded(ref, async () => {
      this.came({ ...(await bodyOf(await this.call(method, path, { body }), ...least)), type, ref });
    });
  }

  /** Asks for the page after the cursor, and of shared timelines; a new question takes the place of one that still waits. */
  async read(cursor, waitS, { shared = [], open = [] } = {}) {
    this.#pull?.abort();
    const pull = (this.#pull = new AbortController());
    const query = placeQuery(cursor, { shared, open });
    if (waitS) query.append("wait", String(waitS));
    const headers = this.#etag && this.#etag.of === asked(cursor, shared, open) ? { "If-None-Match": this.#etag.tag } : {};
    const began = Date.now();
    await this.#guarded(undefined, async () => {
      const answer = await this.call("GET", `/v1/device/sync?${query}`, { headers, signal: pull.signal, withinMs: CALL_MS + 1000 * waitS });
      const nothing = { type: "nothing", askedS: waitS, waitedMs: Date.now() - began };
      if (answer.status === 304) return this.came(nothing);
      const body = await bodyOf(answer, "batches");
      for (const page of body.batches) this.came({ type: "batch", ...page, caught_up: page.to >= page.head });
      const tag = answer.headers.get("ETag");
      const [inbox, ...others] = body.batches.map((page) => page.cursor);
      if (tag) this.#etag = { of: asked(inbox, others, []), tag };
      if (body.resync || body.refused) this.came({ type: "follow", resync: body.resync ?? [], refused: body.refused ?? [] });
      this.#heads(body.shared ?? []);
      if (body.batches.every((page) => page.to === page.from)) this.came({ ...nothing, nextPollS: body.next_poll_s });
      return undefined;
    }, pull.signal);
  }

  /** Each head is told once. */
  #heads(listed) {
    const news = listed.filter(({ conversation, head }) => head > (this.#told.get(conversation) ?? -1));
    for (const { conversation, head } of news) this.#told.set(conversation, head);
    if (news.length) this.came({ type: "heads", shared: news });
  }

  async #guarded(ref, what, signal) {
    try {
      await what();
    } catch (error) {
      if (signal?.aborted || this.abort.signal.aborted) return;
      this.came(error instanceof Problem ? error.frame(ref) : new Gone());
    }
  }

  /** One call. Throws Problem for a refusal, and Gone for a success that is not the relay's. */
  async call(method, path, { body, headers = {}, signal, withinMs = CALL_MS } = {}) {
    const ends = [this.abort.signal, ...(signal ? [signal] : []), ...(withinMs ? [AbortSignal.timeout(withinMs)] : [])];
    const answer = await this.fetch(this.url + path, {
      method,
      headers: {
        Authorization: `Bearer ${this.token()}`,
        ...(body ? { "Content-Type": "application/json" } : {}),
        ...headers,
      },
      body: body && JSON.stringify(body),
      signal: AbortSignal.any(ends),
      cache: "no-store",
    });
    if (BODILESS.has(answer.status)) return answer;
    const type = answer.headers.get("Content-Type") ?? "";
    if (!answer.ok) {
      const said = type.startsWith(PROBLEM_TYPE) ? await answer.json().catch(() => null) : null;
      throw new Problem(answer.status, said, answer.headers.get("Retry-After"));
    }
    // Something between us answers in the relay's place, or has made another thing of its answer.
    if (!type.startsWith(headers.Accept ?? JSON_TYPE)) throw new Gone(null, { unfit: true });
    return answer;
  }

  /** Sends a message of the device's own; null: it must go by a call. Throws Problem, Gone. */
  async send() {
    return null;
  }

  async close() {
    this.#pull?.abort();
    let late;
    await Promise.race([this.#turn, new Promise((done) => (late = setTimeout(done, LAST_SAID_MS)))]);
    clearTimeout(late); // in Node it would keep the process
    this.abort.abort();
  }
}

/** A refusal of the relay. One without a `code` came from something before it, a proxy say, and decides nothing. */
export class Problem extends Error {
  /** `retryAfter`: the header of that name, for where the body does not say how long to wait. */
  constructor(status, said, retryAfter = null) {
    const body = typeof said?.code === "string" ? said : {};
    super(`${status} ${body.code ?? UNREACHABLE}: ${body.detail ?? "The answer is not the relay's."}`);
    const waits = [body.retry_after_ms, /^\d+$/.test(retryAfter) ? 1000 * Number(retryAfter) : null];
    const retryAfterMs = waits.find((ms) => typeof ms === "number" && ms >= 0 && ms <= AFTER_MS_MAX) ?? 0;
    Object.assign(this, { status, body, code: body.code, retryAfterMs });
  }

  /** The same as a frame, or the end of the way. */
  frame(ref) {
    const { retryAfterMs } = this;
    if (this.body.resync) return { type: "resync_required", resync: this.body.resync };
    if (this.code === "state_conflict") return new Gone(4001);
    const judged = JUDGED.has(this.status);
    if (this.code === undefined) {
      if (ref !== undefined) return { type: "error", ref, code: UNREACHABLE, detail: this.message, retry_after_ms: retryAfterMs };
      return new Gone(judged ? null : this.status, { retryAfterMs, unfit: judged || !NOT_UNFIT.has(this.status) });
    }
    if (judged) return new Gone(this.status, { retryAfterMs });
    if (ref === undefined && (this.body.retryable ?? this.status >= 500)) return new Gone(this.status, { retryAfterMs });
    return { type: "error", ref, code: this.code, detail: this.body.detail, retry_after_ms: retryAfterMs };
  }
}

function frameOf(data) {
  try {
    const frame = JSON.parse(data);
    return typeof frame === "object" ? frame : null;
  } catch {
    return null;
  }
}

/** The WebSocket. A page cannot give it a header, so it brings a ticket; elsewhere, as in Node, it brings the token. */
export class SocketWay extends HttpWay {
  reading = "pushed";
  #asked = new Map();
  #asks = 0;
  #pace = new Pace();

  async open(WebSocket) {
    if (!WebSocket) throw new Gone(null, { unfit: true });
    const how = globalThis.location
      ? [SUBPROTOCOL, `relay.ticket.${await this.#ticket()}`]
      : { protocols: [SUBPROTOCOL], headers: { Authorization: `Bearer ${this.token()}` } };
    const socket = (this.socket = new WebSocket(`${this.url.replace(/^http/, "ws")}/v1/device/ws`, how));
    const late = setTimeout(() => socket.close(), CALL_MS);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = socket.onclose = () => reject(new Gone(null, { unfit: true }));
    }).finally(() => clearTimeout(late));
    socket.onmessage = ({ data }) => this.#heard(data);
    socket.onerror = () => {};
    socket.onclose = ({ code }) => {
      this.#unanswered();
      this.came(new Gone(code, { unfit: code === 1006 }));
    };
  }

  async #ticket() {
    try {
      return (await bodyOf(await this.call("POST", "/v1/device/ticket"), "ticket")).ticket;
    } catch (error) {
      const frame = error instanceof Problem ? error.frame() : new Gone();
      throw frame instanceof Gone ? frame : new Gone(error.status, { unfit: !NOT_UNFIT.has(error.status) });
    }
  }

  #heard(data) {
    const frame = frameOf(data);
    if (frame === null) return this.came(new Gone(null, { unfit: true })); // something between us makes up frames
    const asked = this.#asked.get(frame.ref);
    if (!asked) return this.came(frame);
    return frame.type === "error" ? asked.reject(new Problem(frame.status ?? 503, frame)) : asked.resolve(frame);
  }

  #unanswered() {
    for (const { reject } of this.#asked.values()) reject(new Gone());
  }

  /** By a frame, if it fits one and the relay takes so many at the moment. */
  async send(key, message) {
    const ref = `send-${(this.#asks += 1)}`;
    const frame = JSON.stringify({ type: "send", ref, key, message });
    if (this.socket?.readyState !== 1 || !fitsFrame(frame)) return null;
    if (!this.#pace.take(Date.now())) return null;
    let late;
    try {
      return await new Promise((resolve, reject) => {
        this.#asked.set(ref, { resolve, reject });
        late = setTimeout(() => reject(new Gone()), CALL_MS);
        this.socket.send(frame);
      });
    } finally {
      clearTimeout(late);
      this.#asked.delete(ref);
    }
  }

  /** What is too long for a frame goes by a call, which may refuse it: the relay ends a socket for it, each time. */
  say(frame) {
    const text = JSON.stringify(frame);
    if (!fitsFrame(text)) super.say(frame);
    else if (this.socket?.readyState === 1) this.socket.send(text);
  }

  /** Over plain HTTP, whatever the way: before the handshake. */
  sayAside(frame) {
    super.say(frame);
  }

  async close() {
    if (this.socket) {
      this.socket.onclose = this.socket.onmessage = this.socket.onopen = null;
      this.socket.close(1000);
    }
    this.#unanswered();
    await super.close();
  }
}

/** Server-sent events, read by fetch, so that the token stays in a header and the cursor comes from the store. */
export class StreamWay extends HttpWay {
  reading = "streamed";
  proved = false; // until something has come on the stream: the welcome came by a call
  #stream = null;

  async read(cursor, waitS, more = {}) {
    if (this.#stream && !more.anew) return super.read(cursor, 0, more);
    this.#stream?.abort();
    const stream = (this.#stream = new AbortController());
    let watch;
    let silent = false;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(() => {
        silent = true;
        stream.abort();
      }, SILENT_MS);
    };
    heard();
    try {
      const headers = { Accept: "text/event-stream" };
      const path = `/v1/device/stream?${placeQuery(cursor, more)}`;
      const answer = await this.call("GET", path, { headers, signal: stream.signal, withinMs: 0 });
      for await (const { event, data } of eventsOf(answer.body)) {
        if (this.#stream !== stream) return undefined;
        heard();
        this.proved = true;
        this.came({ ...JSON.parse(data), type: event });
      }
      if (this.#stream === stream) this.came(new Gone());
    } catch (error) {
      if (this.abort.signal.aborted || this.#stream !== stream) return undefined;
      if (error instanceof Gone) return this.came(error);
      const unfit = error instanceof Problem && !NOT_UNFIT.has(error.status) && !error.body.resync;
      const end = new Gone(null, { unfit: silent && !this.proved }); // what keeps all of it back lets nothing through
      this.came(unfit ? new Gone(error.status, { unfit }) : error instanceof Problem ? error.frame() : end);
    } finally {
      clearTimeout(watch);
    }
    return undefined;
  }
}

/** The events of a stream of bytes (WHATWG HTML, "Server-sent events"). */
export async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.replace(/\r$/, "");
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (line === "") {
        if (data.length) yield { event, data: data.join("\n") };
        event = "message";
        data = [];
      } else if (name === "event") {
        event = text;
      } else if (name === "data") {
        data.push(text);
      }
    }
  }
}
