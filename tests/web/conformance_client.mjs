// The JavaScript client as `relay conformance` starts it.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const client = new Client({
  url: process.env.RELAY_URL,
  token: process.env.RELAY_TOKEN,
  cache: new Cache(new MemoryTables()),
  facts: { app_version: "1.0" },
});
client.start();
if (process.env.RELAY_FOLLOW) await client.follow(process.env.RELAY_FOLLOW);
if (process.env.RELAY_SEND) {
  const { to, body, ...more } = JSON.parse(process.env.RELAY_SEND);
  await client.send(body, { to: to.users, group: to.group, ...more });
}
setInterval(() => {}, 60_000);
