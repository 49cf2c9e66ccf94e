// A device that sends to another user, by one way, over connections whose first answers get lost; then it compares its cache.
// Prints what came of it, how many messages it said as frames and by calls, and how many answers it has still to lose.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

let lost = 2;
const said = { frames: 0, calls: 0 };
const { RELAY_URL: url, RELAY_TOKEN: token } = process.env;

/** Ends where an answer to a send is to be lost. */
class Lossy extends WebSocket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", (event) => {
      if (JSON.parse(event.data).type !== "sent" || (lost -= 1) < 0) return;
      event.stopImmediatePropagation();
      this.close();
    });
  }

  send(data) {
    if (JSON.parse(data).type === "send") said.frames += 1;
    super.send(data);
  }
}

const client = new Client({
  url,
  token,
  cache: new Cache(new MemoryTables()),
  random: () => 0.01,
  ways: process.argv.slice(2),
  WebSocket: Lossy,
  async fetch(path, options) {
    const answer = await fetch(path, options);
    if (path.endsWith("/v1/device/messages")) said.calls += 1;
    if (path.endsWith("/v1/device/messages") && (lost -= 1) >= 0) throw new TypeError("the answer got lost");
    return answer;
  },
});
const acked = new Promise((resolve) => client.addEventListener("acked", ({ detail }) => detail.seq >= 3 && resolve()));
const connected = new Promise((resolve) => client.addEventListener("connected", resolve, { once: true }));
client.start();
await connected;
for (const body of [{ n: 1.5 }, "zwei", 1e21]) await client.send(body, { to: "bob", conversation: { id: "c-1" } });
await acked;
const kept = (await client.messages()).map(({ kind, body, sender }) => ({ kind, body, sender }));
const verified = await client.verify();
const unsent = await client.unsent();
await client.stop();
process.stdout.write(`${JSON.stringify({ kept, verified, unsent, ...said, left: Math.max(lost, 0) })}\n`);
process.exit(0);
