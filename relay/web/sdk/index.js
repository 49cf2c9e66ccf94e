// The relay's client for browsers and Node (20.10 and later), without dependencies and without a build step.

import { Cache } from "./cache.js";
import { Client } from "./client.js";
import { IndexedTables, MemoryTables } from "./tables.js";
import { inOneTab } from "./tabs.js";
import { Problem } from "./ways.js";

export { Cache, Client, IndexedTables, MemoryTables, Problem };
export { attach, NoPush, subscribe, unsubscribe } from "./push.js";
export { sealKeys, unseal } from "./sealed.js";

/** A client whose messages live in an IndexedDB database of this origin, one for each device; one tab of several talks. */
export async function open({ database = "relay", migrations = [], ...options }) {
  const tables = await IndexedTables.open(database, { migrations });
  return inOneTab(new Client({ ...options, cache: new Cache(tables) }), database);
}
