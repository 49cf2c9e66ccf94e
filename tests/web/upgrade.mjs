// Two versions of an app on one cache: the first one shows what it can; of the cache that it leaves, a row is lost on the way
// to the second. Prints what each has.

import { Cache, Client, MemoryTables } from "../../relay/web/sdk/index.js";

const tables = new MemoryTables();

async function run(facts, types, until) {
  const client = new Client({ url: process.env.RELAY_URL, token: process.env.RELAY_TOKEN, cache: new Cache(tables), facts, types });
  const told = {};
  for (const type of ["connected", "verified"]) client.addEventListener(type, ({ detail }) => (told[type] = detail));
  const done = new Promise((resolve) => client.addEventListener(until, resolve));
  client.start();
  await done;
  const bodies = (await client.messages()).map(({ body, form }) => [body, form]);
  await client.stop();
  return { ...told, bodies };
}

const first = await run({ app_version: "1.0", schema: 1 }, ["text"], "caughtup");
const [lost] = first.bodies;
await tables.transact(async (t) => {
  const [row] = (await t.all("messages")).filter(({ body }) => JSON.stringify(body) === JSON.stringify(lost[0]));
  await t.delete("messages", row.id);
});
const second = await run({ app_version: "2.0", schema: 2 }, ["text", "poll"], "verified");
process.stdout.write(`${JSON.stringify([first, second])}\n`);
process.exit(0);
