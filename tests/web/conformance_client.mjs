// The JavaScript client as `relay conformance` starts it.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const client = new Client({
  url: process.env.RELAY_URL,
  token: process.env.RELAY_TOKEN,
  cache: new Cache(new MemoryTables()),
  facts: { app_version: "1.0" },
});
client.start();
setInterval(() => {}, 60_000);
