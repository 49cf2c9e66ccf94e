// Types of the relay's client for browsers and Node.

export interface Message {
  id: string;
  seq: number;
  /** The how-manieth message it is in this cache; unlike `seq`, it never begins anew. */
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
  verdict: "resume" | "delta" | "resync";
  reason: string | null;
  session: number;
  missing: number;
  loss?: { from: number; to: number; count: number; known: boolean };
  upgrade?: { id: string; from: string | null; to: string | null } | null;
  advice?: { min_app_version: string | null; upgrade: "none" | "recommended" | "required" };
}

/** What `addEventListener` hears, each in the `detail` of a CustomEvent. */
export interface Events {
  message: Message;
  changed: Message;
  ended: { id: string; why: "recalled" | "superseded" };
  read: { conversation: string; seq: number };
  connected: Welcome;
  caughtup: { seq: number };
  acked: { seq: number };
  disconnected: { code: number | null; retryMs: number | null };
  refused: { code: string; detail?: string };
  degraded: unknown;
  withdraw: { ids: string[] };
}

export type Way = "websocket" | "sse" | "long-poll";

export interface Options {
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
  clear(table: string): Promise<unknown>;
}

export interface Tables {
  transact<T>(what: (transaction: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export class MemoryTables implements Tables {
  transact<T>(what: (transaction: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export class IndexedTables implements Tables {
  static open(name: string, factory?: IDBFactory): Promise<IndexedTables>;
  transact<T>(what: (transaction: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export class Cache {
  constructor(tables: Tables);
  messages(options?: { after?: number; limit?: number; now?: number }): Promise<Message[]>;
}

export class Client extends EventTarget {
  constructor(options: Options & { cache: Cache });
  start(): this;
  stop(): Promise<void>;
  /** What the cache holds after a `place`, in the order in which it came. */
  messages(options?: { after?: number; limit?: number }): Promise<Message[]>;
  read(conversation: string, seq: number): Promise<void>;
  report(id: string, what: "shown" | "opened"): Promise<void>;
  turn(foreground: boolean): void;
  poke(): void;
  addEventListener<K extends keyof Events>(type: K, listener: (event: CustomEvent<Events[K]>) => void): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject): void;
}

/** A client whose messages live in an IndexedDB database of this origin, one for each device. */
export function open(options: Options & { database?: string }): Promise<Client>;
