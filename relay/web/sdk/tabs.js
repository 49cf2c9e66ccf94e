// Several tabs of one origin share one cache and one device, but only one of them may talk to the relay: one of the others takes
// its place when it closes. What any of them tells, all hear; what one has stored and did not live to tell, all find when the next
// takes its place. Browsers without locks let every tab talk.

// By what a tab knows news that it has heard. Of a message it is the place, too: ids come again, and places begin anew where the browser
// has taken the database away.
const NAMES = {
  message: ({ place, id }) => [place, id],
  changed: ({ id, form }) => [id, form],
  ended: ({ id, why }) => [id, why],
  read: ({ conversation, seq }) => [conversation, seq],
  sent: ({ key }) => key,
  withdraw: ({ ids }) => ids,
};

export const lockOf = (database) => `relay:${database}`;

/** Starts the client as soon as no other tab runs one for the same database. */
export function inOneTab(client, name) {
  const { navigator, BroadcastChannel, document } = globalThis;
  if (!navigator?.locks || !BroadcastChannel) return client.start();
  const key = lockOf(name);
  const me = crypto.randomUUID();
  const foreground = new Map();
  const channel = new BroadcastChannel(key);
  let leads = false;
  let release = () => {};

  const turn = (tab, on) => {
    foreground.set(tab, on);
    if (leads) client.turnHere([...foreground.values()].includes(true));
  };
  const tell = (type, detail) => client.dispatchEvent(new CustomEvent(type, { detail }));
  const before = client.place().catch(() => Infinity); // what came before this tab is the page's to show
  const heard = new Set(); // since then
  const isNews = (type, detail) => {
    const one = JSON.stringify([type, NAMES[type]?.(detail)]);
    return !heard.has(one) && Boolean(heard.add(one));
  };
  const findUntold = async () => {
    for (let after = await before; !leave.signal.aborted; ) {
      const messages = await client.messages({ after });
      if (!messages.length) return;
      for (const one of messages) if (isNews("message", one)) tell("message", one);
      after = messages.at(-1).place;
    }
  };
  /** What another tab tells: of messages some may have been found, all else is told once, and may be as before. */
  const hear = (type, detail) => {
    if (isNews(type, detail) || type !== "message") tell(type, detail);
  };
  /** The last of the rest; who leads tells the other tabs, for it may store the next soon. */
  const findLast = async () => {
    for (const { type, detail } of await client.lastNews(await before)) {
      if (!isNews(type, detail)) continue;
      tell(type, detail);
      channel.postMessage({ told: type, detail });
    }
  };
  channel.onmessage = ({ data }) => {
    if (data.told) hear(data.told, data.detail);
    else if (data.leads) findUntold().catch(() => {});
    else if (data.poke && leads) client.poke();
    else if (data.tab) turn(data.tab, data.foreground);
  };
  client.elsewhere = {
    told: (told, detail) => {
      isNews(told, detail);
      channel.postMessage({ told, detail });
    },
    poke: () => channel.postMessage({ poke: true }),
    turn: (on) => {
      channel.postMessage({ tab: me, foreground: on });
      turn(me, on);
    },
    stopped: () => {
      release();
      leave.abort();
      channel.close();
      client.elsewhere = null; // the page may still hear of a push
    },
  };
  const leave = new AbortController();
  const lead = async () => {
    const left = new Promise((resolve) => (release = resolve));
    leads = true;
    client.turnHere([...foreground.values()].includes(true));
    channel.postMessage({ leads });
    await findUntold().then(findLast).catch(() => {}); // before anything else is told here
    if (!leave.signal.aborted) client.start();
    return left;
  };
  navigator.locks.request(key, { signal: leave.signal }, lead).catch(() => {}); // aborted: stopped before it led
  if (document) {
    client.turn(!document.hidden);
    const { signal } = leave;
    document.addEventListener("visibilitychange", () => client.turn(!document.hidden), { signal });
    globalThis.addEventListener("pagehide", () => client.turn(false), { signal });
    globalThis.addEventListener("online", () => client.poke(), { signal });
  } else {
    client.turn(true);
  }
  return client;
}
