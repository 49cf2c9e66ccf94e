// A device that sends to another user, over a connection whose first answers get lost; then it compares its cache. Prints both.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

let lost = 2;
const { RELAY_URL: url, RELAY_TOKEN: token } = process.env;
const client = new Client({
  url,
  token,
  cache: new Cache(new MemoryTables()),
  random: () => 0.01,
  async fetch(path, options) {
    const answer = await fetch(path, options);
    if (path.endsWith("/v1/device/messages") && (lost -= 1) >= 0) throw new TypeError("the answer got lost");
    return answer;
  },
});
const acked = new Promise((resolve) => client.addEventListener("acked", ({ detail }) => detail.seq >= 3 && resolve()));
client.start();
for (const body of [{ n: 1.5 }, "zwei", 1e21]) await client.send(body, { to: "bob", conversation: { id: "c-1" } });
await acked;
const kept = (await client.messages()).map(({ kind, body, sender }) => ({ kind, body, sender }));
const verified = await client.verify();
const unsent = await client.unsent();
await client.stop();
process.stdout.write(`${JSON.stringify({ kept, verified, unsent })}\n`);
process.exit(0);
