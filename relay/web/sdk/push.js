// Web Push: the address to register for this browser, and what the page does when its service worker (sw.js) speaks.

import { bytesOf } from "./sealed.js";

const RECORD = "/relay-push.json"; // in the cache storage, where the service worker finds it
const STORE = "relay-push";
const GONE = "/relay-gone.json"; // there, too: what was taken back lately
const GONE_MAX = 500;
const hearing = new WeakSet(); // the clients that hear what the service worker says
let noting = Promise.resolve();

/** Thrown where this browser, or its user, has no Web Push for us. */
export class NoPush extends Error {}

/**
 * Subscribes with the browser's push service and gives the address to register: `{account, token}`. Ask for permission
 * first, in answer to a click. `worker`: where the app serves sw.js, or a worker of its own that imports it. `user` and
 * `device` are this device's, so that a push for an earlier user is not shown. Throws NoPush, or what the relay refused.
 */
export async function subscribe(client, { account, ...own }) {
  const { navigator } = globalThis;
  if (!navigator?.serviceWorker || !("PushManager" in globalThis)) throw new NoPush("This browser has no Web Push.");
  const { accounts } = await client.call("GET", "/v1/device/accounts");
  const offered = accounts.find((one) => one.offer?.vapid && (account ? one.account === account : one.provider === "webpush"));
  if (!offered) throw new NoPush("The relay has no account of the provider webpush.");
  const registration = await attach(client, own);
  const { vapid } = offered.offer;
  try {
    const subscription = await subscribed(registration.pushManager, bytesOf(vapid));
    return { account: offered.account, token: JSON.stringify({ ...subscription.toJSON(), vapid }) };
  } catch (error) {
    throw new NoPush(`The browser's push service did not take us: ${error.message}`, { cause: error });
  }
}

/**
 * Registers the service worker, tells it whose device this is, and lets the client hear it. `sync`, with sw-sync.js as the worker:
 * it also fetches while no page is open; for that, the device's token is kept where the worker finds it.
 */
export async function attach(client, { worker = "/sw.js", scope, user, device, sync = false }) {
  const { navigator, caches } = globalThis;
  let registered;
  const registering = new Promise((resolve) => (registered = resolve));
  // First of all: what was taken back while no page was open is told as soon as the client catches up.
  const takenBack = ({ detail }) => withdraw(registering, detail.ids).catch(() => {}); // what is shown stays, then
  client.addEventListener("withdraw", takenBack, { signal: client.ending });
  const record = {
    device,
    hint: await hintOf(user),
    database: client.tables.database?.name ?? null,
    turns: client.tables.name,
    sync: sync ? await client.credentials().catch(() => null) : null,
  };
  await (await caches.open(STORE)).put(RECORD, new Response(JSON.stringify(record)));
  const how = { ...(scope ? { scope } : {}), ...(sync ? { type: "module" } : {}) };
  const registration = await navigator.serviceWorker.register(worker, how);
  await activated(registration);
  registered(registration);
  if (hearing.has(client)) return registration;
  hearing.add(client);
  const heard = ({ data }) => {
    if (!String(data?.type).startsWith("relay-")) return;
    client.pushed(data.told?.relay).catch(() => {}); // unproven, it is asked again at the next registration
    client.dispatchEvent(new CustomEvent(data.type.replace("relay-", ""), { detail: data }));
  };
  navigator.serviceWorker.addEventListener("message", heard, { signal: client.ending });
  return registration;
}

/** At sign-out: the browser's subscription ends, and nothing more is shown for this device. */
export async function unsubscribe(registration) {
  await caches.delete(STORE);
  await (await registration.pushManager.getSubscription())?.unsubscribe();
}

/** Only an active worker can be subscribed. */
function activated({ active, waiting, installing }) {
  const worker = active ?? waiting ?? installing;
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === "activated") resolve();
      else if (worker.state === "redundant") reject(new NoPush("The service worker could not be installed."));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

/** One of several messages stands until all of them are gone, also those that an earlier page or the service worker heard of. */
export async function withdraw(registration, ids = []) {
  const gone = await noted(ids);
  for (const notification of await (await registration).getNotifications()) {
    const about = notification.data?.ids ?? [];
    if (about.length && about.every((id) => gone.has(id))) notification.close();
  }
}

/** Remembers what was taken back, one after another; gives all of it. */
function noted(ids) {
  const note = async () => {
    const store = await caches.open(STORE);
    const before = await store.match(GONE);
    const gone = new Set([...(before ? await before.json() : []), ...ids]);
    await store.put(GONE, new Response(JSON.stringify([...gone].slice(-GONE_MAX))));
    return gone;
  };
  return (noting = noting.then(note, note));
}

/** A subscription lives only as long as the key that it was made with. */
async function subscribed(manager, key) {
  const old = await manager.getSubscription();
  if (old && same(old.options.applicationServerKey, key)) return old;
  await old?.unsubscribe();
  return manager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
}

function same(buffer, key) {
  const bytes = new Uint8Array(buffer ?? 0);
  return bytes.length === key.length && bytes.every((byte, n) => byte === key[n]);
}

/** What a push says instead of the user's name. */
async function hintOf(user) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(user));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("").slice(0, 16);
}
