// A client against a real relay, by one way. Prints what it has once it has as many messages as it should, and they are acked.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const [, , way, count] = process.argv;
const cache = new Cache(new MemoryTables());
const client = new Client({ url: process.env.RELAY_URL, token: process.env.RELAY_TOKEN, cache, ways: [way] });
const bodies = [];
const done = new Promise((resolve) => {
  client.addEventListener("caughtup", () => process.stdout.write("caught up\n"));
  client.addEventListener("message", ({ detail }) => {
    bodies.push(detail.body);
    if (bodies.length === Number(count)) resolve();
  });
});
const acked = new Promise((resolve) => client.addEventListener("acked", ({ detail }) => detail.seq >= Number(count) && resolve()));
client.start();
await done;
const kept = (await client.messages()).map(({ body }) => body);
await acked;
await client.stop();
process.stdout.write(`${JSON.stringify({ bodies, kept })}\n`);
process.exit(0);
