// Several tabs of one origin share one cache and one device, but only one of them may talk to the relay: one of the others takes
// its place when it closes. What any of them tells, all hear. Browsers without locks let every tab talk.

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
  channel.onmessage = ({ data }) => {
    if (data.told) client.dispatchEvent(new CustomEvent(data.told, { detail: data.detail }));
    else if (data.poke && leads) client.poke();
    else if (data.tab) turn(data.tab, data.foreground);
  };
  client.elsewhere = {
    told: (told, detail) => channel.postMessage({ told, detail }),
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
  const lead = () => {
    leads = true;
    client.turnHere([...foreground.values()].includes(true));
    client.start();
    return new Promise((resolve) => (release = resolve));
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
