// The service worker that also fetches: while no page is open, what a push is about comes into the database with everything
// before it, and is acked. A module: `attach(client, { worker: "/sw-sync.js", sync: true, … })` registers it as one. An app with a
// `check` of its own leaves this to its pages, and takes sw.js.

import { Cache } from "./cache.js";
import { Client } from "./client.js";
import { withdraw } from "./push.js";
import "./sw.js";
import { IndexedTables } from "./tables.js";
import { lockOf } from "./tabs.js";

const WITHIN_MS = 20_000; // a browser ends a worker that takes longer
const ENDS = ["caughtup", "refused", "disconnected", "outdated"];

self.relayPushed = async ({ database, turns = database, sync }) => {
  if (!database || !sync) return;
  const pages = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  if (pages.length) return; // they have been told, and one of them runs the client
  const key = lockOf(turns);
  await self.navigator.locks.request(key, { ifAvailable: true }, (lock) => (lock ? caughtUp(database, key, sync) : null));
};

async function caughtUp(database, key, { url, token, facts, types }) {
  const tables = await IndexedTables.existing(database);
  if (!tables) return;
  const client = new Client({ url, token, facts, types, cache: new Cache(tables), ways: ["poll"] });
  client.turn(false);
  // A page that opens meanwhile waits for the lock, and hears what comes as from another tab.
  const channel = new BroadcastChannel(key);
  const stopped = () => {
    channel.close();
    client.elsewhere = null; // a comparison may still tell what came of it
  };
  client.elsewhere = { told: (told, detail) => channel.postMessage({ told, detail }), stopped };
  let closed; // no page is told any more of what was taken back
  client.addEventListener("withdraw", ({ detail }) => (closed = withdraw(self.registration, detail.ids)));
  const ended = new Promise((resolve) => {
    for (const type of ENDS) client.addEventListener(type, resolve);
    setTimeout(resolve, WITHIN_MS);
  });
  client.start();
  await ended;
  await client.stop();
  await closed;
}
