// Opens one database with the tokens of RELAY_TOKENS in turn. Prints for each how it ended and what the database then holds.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const [, , way] = process.argv;
const tables = new MemoryTables();
for (const token of process.env.RELAY_TOKENS.split(" ")) {
  const client = new Client({ url: process.env.RELAY_URL, token, cache: new Cache(tables), ways: [way] });
  const ended = new Promise((resolve) => {
    client.addEventListener("caughtup", () => resolve("caughtup"));
    client.addEventListener("refused", ({ detail }) => resolve(detail.code));
  });
  client.start();
  const how = await ended;
  const calls = await client.call("GET", "/v1/device/sync").then(() => true, ({ code }) => code !== how && code);
  if (calls !== (how === "caughtup")) throw new Error(`after ${how}, a call: ${calls}`);
  const bodies = (await client.messages()).map(({ body }) => body);
  await client.stop();
  process.stdout.write(`${JSON.stringify([how, bodies])}\n`);
}
process.exit(0);
