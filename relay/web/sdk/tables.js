// Where a cache keeps its rows: IndexedDB in browsers, memory in tests and short-lived processes. One transaction is all or nothing.

// What each version of the database has added to the one before. A released step is never changed; a new one is put behind it.
const STEPS = [
  (database) => {
    database.createObjectStore("store");
    database.createObjectStore("words");
    database.createObjectStore("outbox");
    const messages = database.createObjectStore("messages");
    messages.createIndex("place", "place", { unique: true });
    messages.createIndex("tag", "tag");
    database.createObjectStore("ledger").createIndex("collapse", "collapse");
  },
];
export const TABLES = ["store", "words", "outbox", "messages", "ledger"];
const APP_STEPS_MAX = 1000; // a database's version counts our steps in thousands, and the app's in units

/** Rows in memory; a transaction that throws leaves nothing behind. */
export class MemoryTables {
  #rows = Object.fromEntries(TABLES.map((name) => [name, new Map()]));
  #turn = Promise.resolve();

  transact(what) {
    const result = this.#turn.then(async () => {
      const draft = Object.fromEntries(TABLES.map((name) => [name, new Map(this.#rows[name])]));
      const rows = (table) => structuredClone([...draft[table].values()]);
      const within = (rows, of, low, high) => rows.filter((row) => of(row) > low && of(row) <= high).sort((a, b) => of(a) - of(b));
      const answer = await what({
        get: async (table, key) => structuredClone(draft[table].get(key)),
        put: async (table, key, row) => void draft[table].set(key, structuredClone(row)),
        delete: async (table, key) => void draft[table].delete(key),
        all: async (table) => rows(table),
        having: async (table, index, value) => rows(table).filter((row) => row[index] === value),
        between: async (table, low, high) =>
          structuredClone(within([...draft[table]], ([key]) => key, low, high).map(([, row]) => row)),
        after: async (table, index, low, limit) => within(rows(table), (row) => row[index], low, Infinity).slice(0, limit),
      });
      this.#rows = draft;
      return answer;
    });
    this.#turn = result.catch(() => {});
    return result;
  }

  async close() {}
}

/** Rows in an IndexedDB database of this origin. Ask for `navigator.storage.persist()` so that the browser keeps it. */
export class IndexedTables {
  /** The IDBDatabase, for object stores of the app's own; null while it is closed. */
  database = null;
  /** The name that was asked for: tabs and workers that have the same one take turns. */
  name;
  /** Called when another tab needs a newer version of the database: this page is of an older app, and should be loaded anew. */
  onoutdated = null;
  #open;
  #outdated = false;

  constructor(open) {
    this.#open = open;
  }

  /**
   * Opens the database, and brings it up to date. `migrations` are the app's own, for object stores of its own beside ours:
   * functions of (IDBDatabase, IDBTransaction) that run once each, in order, in the transaction of the upgrade: what throws
   * leaves everything as it was. A database of a newer version than this one is left alone, and a new one is begun beside it.
   */
  static async open(name, { factory = globalThis.indexedDB, migrations = [] } = {}) {
    if (!factory) throw new Error("There is no IndexedDB here: in Node, give a Client a Cache of MemoryTables, or a `factory`.");
    const version = STEPS.length * APP_STEPS_MAX + migrations.length;
    const tables = new IndexedTables((own = name) => opened(factory, own, version, migrations));
    tables.name = name;
    try {
      await tables.#connect();
    } catch (error) {
      if (error?.name !== "VersionError") throw error;
      const open = tables.#open;
      tables.#open = () => open(`${name}~${version}`);
      await tables.#connect();
    }
    return tables;
  }

  /** A database that a page of this version has made, as it stands; null if there is none. For workers, which have no migrations. */
  static async existing(name, { factory = globalThis.indexedDB } = {}) {
    const tables = new IndexedTables(() => asItIs(factory, name));
    await tables.#connect().catch(() => {});
    return tables.database ? tables : null;
  }

  async #connect() {
    const database = await this.#open();
    this.database = database;
    database.onclose = () => (this.database = null); // the browser has closed it; it may be opened again
    database.onversionchange = () => {
      this.#outdated = true;
      this.database = null;
      database.close();
      this.onoutdated?.();
    };
  }

  async transact(what) {
    if (!this.database && !this.#outdated) await this.#connect();
    if (!this.database) throw new Error("a newer version of the app has this database now: load the page anew");
    return within(this.database, what);
  }

  async close() {
    this.database?.close();
    this.database = null;
  }
}

function asItIs(factory, name) {
  return new Promise((resolve, reject) => {
    const request = factory.open(name);
    request.onupgradeneeded = () => request.transaction.abort();
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      if (Math.floor(request.result.version / APP_STEPS_MAX) === STEPS.length) return resolve(request.result);
      request.result.close();
      return reject(new Error("the database is another version's"));
    };
  });
}

function opened(factory, name, version, migrations) {
  return new Promise((resolve, reject) => {
    const request = factory.open(name, version);
    let failure;
    request.onupgradeneeded = ({ oldVersion }) => {
      try {
        for (const step of STEPS.slice(Math.floor(oldVersion / APP_STEPS_MAX))) step(request.result, request.transaction);
        for (const step of migrations.slice(oldVersion % APP_STEPS_MAX)) step(request.result, request.transaction);
      } catch (error) {
        failure = error;
        request.transaction.abort();
      }
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(failure ?? request.error);
  });
}

function within(database, what) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(TABLES, "readwrite", { durability: "strict" });
    let answer;
    let failure;
    transaction.oncomplete = () => resolve(answer);
    transaction.onabort = () => reject(failure ?? transaction.error ?? new Error("the transaction was aborted"));
    const done = (request) =>
      new Promise((good, bad) => {
        request.onsuccess = () => good(request.result);
        request.onerror = () => bad(request.error);
      });
    const rows = (table) => transaction.objectStore(table);
    what({
      get: (table, key) => done(rows(table).get(key)),
      put: (table, key, row) => done(rows(table).put(row, key)),
      delete: (table, key) => done(rows(table).delete(key)),
      all: (table) => done(rows(table).getAll()),
      having: (table, index, value) => done(rows(table).index(index).getAll(value)),
      // A key range must not be empty.
      between: async (table, low, high) => (low < high ? done(rows(table).getAll(IDBKeyRange.bound(low, high, true))) : []),
      after: (table, index, low, limit) => done(rows(table).index(index).getAll(IDBKeyRange.lowerBound(low, true), limit)),
    }).then(
      (value) => {
        answer = value;
      },
      (error) => {
        failure = error;
        try {
          transaction.abort();
        } catch {
          reject(error); // it had ended already
        }
      },
    );
  });
}
