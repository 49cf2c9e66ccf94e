// The relay's client for browsers and Node (20.10 and later), without dependencies and without a build step.

import { Cache } from "./cache.js";
import { Client } from "./client.js";
import { IndexedTables, MemoryTables } from "./tables.js";

export { Cache, Client, IndexedTables, MemoryTables };

/** A client whose messages live in an IndexedDB database of this origin, one for each device. */
export async function open({ database = "relay", ...options }) {
  return new Client({ ...options, cache: new Cache(await IndexedTables.open(database)) }).start();
}
