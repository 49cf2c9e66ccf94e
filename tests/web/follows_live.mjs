// A client that follows an ultra group on a real relay, by one way. Prints what it has once it has as many messages as it should.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const [, , way, group, count] = process.argv;
const cache = new Cache(new MemoryTables());
const client = new Client({ url: process.env.RELAY_URL, token: process.env.RELAY_TOKEN, cache, ways: [way] });
const bodies = [];
const done = new Promise((resolve) => {
  client.addEventListener("message", ({ detail }) => {
    bodies.push(detail.body);
    if (bodies.length === 1) process.stdout.write("reading\n");
    if (bodies.length === Number(count)) resolve();
  });
});
client.start();
await client.follow(group);
await done;
const holes = await client.holes(group);
const filled = holes.length ? await client.fillHole(group, holes[0]) : 0;
await client.stop();
process.stdout.write(`${JSON.stringify({ bodies, holes, filled })}\n`);
process.exit(0);
