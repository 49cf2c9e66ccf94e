// Where a cache keeps its rows: IndexedDB in browsers, memory in tests and short-lived processes. One transaction is all or nothing.

export const TABLES = ["store", "messages", "ledger", "words"];
const VERSION = 1;

/** Rows in memory; a transaction that throws leaves nothing behind. */
export class MemoryTables {
  #rows = Object.fromEntries(TABLES.map((name) => [name, new Map()]));
  #turn = Promise.resolve();

  transact(what) {
    const result = this.#turn.then(async () => {
      const draft = Object.fromEntries(TABLES.map((name) => [name, new Map(this.#rows[name])]));
      const answer = await what({
        get: async (table, key) => structuredClone(draft[table].get(key)),
        put: async (table, key, row) => void draft[table].set(key, structuredClone(row)),
        delete: async (table, key) => void draft[table].delete(key),
        all: async (table) => structuredClone([...draft[table].values()]),
        clear: async (table) => draft[table].clear(),
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
  #database;

  constructor(database) {
    this.#database = database;
  }

  static open(name, factory = globalThis.indexedDB) {
    return new Promise((resolve, reject) => {
      const request = factory.open(name, VERSION);
      request.onupgradeneeded = () => {
        for (const table of TABLES) {
          if (!request.result.objectStoreNames.contains(table)) request.result.createObjectStore(table);
        }
      };
      request.onsuccess = () => resolve(new IndexedTables(request.result));
      request.onerror = () => reject(request.error);
      request.onblocked = () => reject(new Error("another tab has an older version of this database open"));
    });
  }

  transact(what) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(TABLES, "readwrite", { durability: "strict" });
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
        clear: (table) => done(rows(table).clear()),
      }).then(
        (value) => {
          answer = value;
        },
        (error) => {
          failure = error;
          transaction.abort();
        },
      );
    });
  }

  async close() {
    this.#database.close();
  }
}
