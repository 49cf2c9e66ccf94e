// Types of the relay's client for browsers and Node.

export interface Message {
  id: string;
  seq: number;
  /** Where it stands in the order in which they came into this cache: it grows, and unlike `seq` never begins anew. */
  place: number;
  kind: "message" | "own" | "release" | "pointer";
  type: string | null;
  body: unknown;
  conversation?: { type: string; id: string | null };
  sender?: { user: string; device: string | null } | null;
  accepted_at?: string;
  expires_at?: string;
  priority?: "low" | "normal" | "high" | "urgent";
  collapse_key?: string | null;
  client_ref?: string | null;
  /** `fallback` until an upgrade brings the full form; `raw`: this version can't show it. */
  form: "full" | "fallback" | "raw";
}

export interface Welcome {
  user: string;
  verdict: "resume" | "delta" | "resync";
  reason: string | null;
  session: number;
  missing: number;
  /** What the relay thinks of this device's addresses, in order: of `dead` and `taken`, ask the vendor for another token. */
  addresses: { account: string; state: "active" | "unproven" | "dead" | "taken"; failing_since?: string }[];
  loss?: { from: number; to: number; count: number; known: boolean };
  upgrade?: { id: string; from: string | null; to: string | null } | null;
  reidentify?: true;
  advice?: { min_app_version: string | null; upgrade: "none" | "recommended" | "required" };
}

/** What `addEventListener` hears, each in the `detail` of a CustomEvent. */
export interface Events {
  message: Message;
  changed: Message;
  /** Taken back, or replaced by a newer message of its collapse key. */
  ended: { id: string; why: "recalled" | "superseded" };
  /** Another device of the user has read this conversation up to a number of the inbox. */
  read: { conversation: string; seq: number };
  /** The relay has a message of this device, under this id; it is in the cache, too. */
  sent: { key: string; id: string };
  /** It will never take this one as it is: it stays among the unsent until it is dropped. */
  unsent: { key: string } & Refusal;
  connected: Welcome;
  caughtup: { seq: number };
  /**
   * Another phone or browser goes by this device's id: ask your backend for another id and its token, and begin again with them
   * on the same cache. It holds everything that the relay had when this was told.
   */
  reidentify: Record<string, never>;
  /** Shared timelines that are not followed here and have something new. */
  ahead: { timelines: { conversation: string; head: number; floor: number; mentions: number }[] };
  /** This conversation has no shared timeline for this user, or is one `too_many`; it is asked for again at the next connection. */
  followrefused: { conversation: string; code: string };
  acked: { seq: number };
  disconnected: { code: number | null; retryMs: number | null };
  /**
   * With `another_user`, the database holds another user's messages than the token is for: open another. Nothing was changed. With
   * `unauthenticated`, the token counts no more and was given as a string, so nobody can be asked for another.
   */
  refused: { code: string; detail?: string };
  degraded: unknown;
  /** Take notifications of these messages off the screen: `attach` does. Told also of what was taken back while this was away. */
  withdraw: { ids: string[] };
  verified: Verified;
  /** Another tab has a newer version of the app: this client has stopped; load the page anew. */
  outdated: Record<string, never>;
  /** From the service worker: a push has come, a notification was clicked, the browser has changed its subscription. */
  push: { told: unknown };
  opened: { ids: string[]; click: string | null; data: unknown };
  subscription: unknown;
}

export type Listener<K extends keyof Events> = (event: CustomEvent<Events[K]>) => void;

export interface Refusal {
  code: string;
  detail: string;
  errors: { pointer: string; code: string; detail: string }[];
}

/** A message that the relay has not taken yet, or never will. */
export interface Unsent {
  key: string;
  message: Outgoing;
  created: number;
  refused: Refusal | null;
}

export interface Outgoing {
  to: { users: string[] } | { group: string };
  body: unknown;
  type?: string;
  conversation?: { type?: "direct" | "group"; id?: string };
  push?: { title?: string; body?: string; image?: string; thread?: string };
  ttl_s?: number;
  priority?: "low" | "normal" | "high" | "urgent";
  min_schema?: number;
  fallback?: unknown;
  deliver_at?: string;
  client_ref?: string;
  /** Members of an ultra group. */
  mentions?: string[];
}

/** What a comparison of the cache with the relay came to; `fetched` messages were missing or damaged, and are back. */
export interface Verified {
  state: "ok" | "repaired" | "failed";
  fetched: number;
  rounds: number;
  extra: number;
}

export type Way = "websocket" | "sse" | "long-poll" | "poll";

export interface Options {
  /** The relay's address, http:// or https://; in a page it may be relative. Of another, the constructor throws TypeError. */
  url: string;
  /** A device token (rd_…), or what asks your backend for one. */
  token: string | (() => Promise<string>);
  /** Further fields of the handshake: app_version, schema, platform, locale, tz, addresses, heartbeat, … */
  facts?: Record<string, unknown>;
  /** The message types that this version can show; others are kept raw and come again after an upgrade. */
  types?: string[] | null;
  /** Throws for a message that this version can't use. */
  check?: ((entry: Message) => void) | null;
  ways?: Way[];
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
  random?: () => number;
}

export interface Transaction {
  get(table: string, key: IDBValidKey): Promise<any>;
  put(table: string, key: IDBValidKey, row: unknown): Promise<unknown>;
  delete(table: string, key: IDBValidKey): Promise<unknown>;
  all(table: string): Promise<any[]>;
  /** Rows whose indexed field has this value. */
  having(table: string, index: string, value: IDBValidKey): Promise<any[]>;
  /** Rows with keys in (low, high], in order. */
  between(table: string, low: number, high: number): Promise<any[]>;
  /** So many rows whose indexed field is above `low`, in order. */
  after(table: string, index: string, low: number, limit: number): Promise<any[]>;
}

export interface Tables {
  transact<T>(what: (transaction: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/** A step of the app's own schema, beside ours in the same database; each runs once. */
export type Migration = (database: IDBDatabase, transaction: IDBTransaction) => void;

/** Gone with the process: what waits to be sent, too. */
export class MemoryTables implements Tables {
  transact<T>(what: (transaction: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export class IndexedTables implements Tables {
  /** `factory`: where it is not a browser's, beside its `globalThis.IDBKeyRange`. Throws what a migration throws; nothing has changed then. */
  static open(name: string, options?: { factory?: IDBFactory; migrations?: Migration[] }): Promise<IndexedTables>;
  /** For object stores of the app's own; null while it is closed. */
  readonly database: IDBDatabase | null;
  transact<T>(what: (transaction: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export class Cache {
  constructor(tables: Tables);
  readonly tables: Tables;
  messages(options?: { after?: number; limit?: number; now?: number }): Promise<Message[]>;
}

export class Client extends EventTarget {
  constructor(options: Options & { cache: Cache });
  start(): this;
  stop(): Promise<void>;
  /**
   * A call of the relay's device API; gives its JSON. Throws Problem, what `fetch` throws, or another Error for an answer that is
   * not the relay's.
   */
  call(method: string, path: string, options?: { body?: unknown; headers?: Record<string, string> }): Promise<any>;
  /** Compares the cache with the relay, and fetches what differs. Throws as `call` does. */
  verify(): Promise<Verified>;
  /** Brings these messages, which a push has named, before all that comes before them; gives those that were lacking. Throws as `call`. */
  fetch(...ids: string[]): Promise<Message[]>;
  /** Takes messages off this device. */
  delete(...ids: string[]): Promise<void>;
  readonly tables: Tables;
  /** What sw-sync.js needs; null for a client with a `check`. */
  credentials(): Promise<object | null>;
  /** Aborted when it is stopped. */
  readonly ending: AbortSignal;
  /** What the cache holds after a `place`, in the order in which it came. */
  messages(options?: { after?: number; limit?: number }): Promise<Message[]>;
  /** Into the outbox; gives the message's key. `sent` or `unsent` tells that it has been decided, perhaps to a later page. */
  send(
    body: unknown,
    options: { to?: string | string[]; group?: string; key?: string } & Omit<Outgoing, "to" | "body">,
  ): Promise<string>;
  unsent(): Promise<Unsent[]>;
  dropUnsent(...keys: string[]): Promise<void>;
  /**
   * Has the messages of an ultra group come into the cache, from now on and after each start. Throws RangeError for more than 50, and
   * for what is no conversation's name: of 1 to 128 characters, none of which controls how text is shown.
   */
  follow(conversation: string): Promise<void>;
  unfollow(conversation: string): Promise<void>;
  /** Numbers (low, high] that were skipped after a long absence. */
  holes(conversation: string): Promise<{ low: number; high: number }[]>;
  /** Fetches what was skipped; gives how many messages came. Throws as `call` does. */
  fillHole(conversation: string, hole: { low: number; high: number }): Promise<number>;
  /**
   * The user has read it up to this number of the inbox, or of its shared timeline. Less than before changes nothing; where the
   * numbering begins anew before it has been heard, it is forgotten.
   */
  read(conversation: string, seq: number): Promise<void>;
  report(id: string, what: "shown" | "opened"): Promise<void>;
  turn(foreground: boolean): void;
  poke(): void;
  /** A push has come, with this member `relay`: proves the address that it asks about, and looks for news. Throws as `call` does. */
  pushed(relay: { prove?: { account: string; value: string } } | null | undefined): Promise<void>;
  addEventListener<K extends keyof Events>(type: K, listener: Listener<K>, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof Events>(type: K, listener: Listener<K>, options?: boolean | EventListenerOptions): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}

/** A client whose messages live in an IndexedDB database of this origin, one for each device; one tab of several talks. */
export function open(options: Options & { database?: string; migrations?: Migration[] }): Promise<Client>;

/** A refusal of the relay; `body` is its problem+json. Without a `code` it came from something before it, and decides nothing. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string | undefined;
  readonly body: Record<string, unknown>;
  /** How long it asks to wait; 0 where it does not. */
  readonly retryAfterMs: number;
}

/** This browser, its user or the relay has no Web Push for us. */
export class NoPush extends Error {}

export interface Identity {
  /** Where the app serves sw.js, or a worker of its own that imports it. Default: /sw.js */
  worker?: string;
  scope?: string;
  user: string;
  device: string;
  /** With sw-sync.js as the worker: it also fetches while no page is open. */
  sync?: boolean;
}

/**
 * The address to register, by `PUT /v1/device/addresses`: the handshake's facts are said anew at each reconnection, as they were when
 * the client was made. Throws NoPush.
 */
export function subscribe(
  client: Client,
  options: Identity & { account?: string },
): Promise<{ account: string; token: string }>;

/** The service worker alone, without a subscription. */
export function attach(client: Client, options: Identity): Promise<ServiceWorkerRegistration>;

/** At sign-out. */
export function unsubscribe(registration: ServiceWorkerRegistration): Promise<void>;

/** A device's keys for pushes that their vendor cannot read: `seal` is registered with an address, all of it is kept. */
export interface SealKeys {
  private: JsonWebKey;
  seal: { p256dh: string; auth: string };
}

export function sealKeys(): Promise<SealKeys>;

/** What is in a push's `sealed`: its `id`, and what it shows. Throws for what was not sealed for these keys. */
export function unseal(sealed: string, keys: SealKeys): Promise<{ id: string; title?: string; body?: string; [name: string]: unknown }>;
