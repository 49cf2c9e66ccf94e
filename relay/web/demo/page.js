// The sample page: an inbox in a browser. What differs between its versions is in v1.js and v2.js.

import { attach, NoPush, open, subscribe } from "/sdk/index.js";

const WORKER = "/sdk/sw-sync.js";
const DEVICE = "browser";
const OWN = "Pushes come by this browser's own push service.";
const EMULATED = "Pushes come to an emulated browser: what it shows is here.";
const at = (id) => document.getElementById(id);
// A page that requires trusted types names the one script that it loads by hand.
const policy = globalThis.trustedTypes?.createPolicy("relay-demo", { createScriptURL: (url) => (url === WORKER ? url : "") });
const worker = policy ? policy.createScriptURL(WORKER) : WORKER;

async function backend(path, body) {
  const answer = await fetch(`/api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`The app's backend answered ${answer.status} to ${path}.`);
  return answer.json();
}

/** Runs one version of the page: `{version, schema, types, migrations, show, drafts}`. */
export function run(app) {
  let client = null;
  let user = localStorage.getItem("user");
  let online = true;
  const say = (text) => (at("log").textContent = text);
  const guarded = (what) => (event) => {
    event.preventDefault();
    Promise.resolve(what(event)).catch((error) => say(String(error)));
  };

  async function connect() {
    const { url, token, addresses } = await backend("login", { user, device: DEVICE });
    client = await open({
      url,
      token,
      database: `demo-${user}`,
      facts: { app_version: app.version, schema: app.schema, platform: "web" },
      types: app.types,
      migrations: app.migrations,
    });
    const status = (text) => () => (at("status").textContent = text);
    client.addEventListener("connected", ({ detail }) => {
      status("connected")();
      if (detail.upgrade) say(`Upgraded from ${detail.upgrade.from} to ${detail.upgrade.to}.`);
    });
    client.addEventListener("caughtup", status("up to date"));
    client.addEventListener("disconnected", status("connecting …"));
    client.addEventListener("outdated", status("another tab has a newer version: load this page anew"));
    client.addEventListener("verified", ({ detail }) => say(`Compared: ${detail.state}; ${detail.fetched} fetched.`));
    client.addEventListener("subscription", () => void subscribed().catch((error) => say(String(error))));
    client.addEventListener("refused", ({ detail }) => say(`${detail.code}: ${detail.detail ?? ""}`));
    for (const type of ["message", "changed", "ended", "caughtup"]) client.addEventListener(type, () => void list());
    const attached = "serviceWorker" in navigator ? attach(client, { worker, scope: "/", user, device: DEVICE, sync: true }) : null;
    at("draft").value = (await app.drafts.get(database())) ?? "";
    await list();
    // Not among the facts: those are said at each handshake, also after the browser has given another address.
    const own = localStorage.getItem("own") !== null;
    at("way").textContent = own ? OWN : EMULATED;
    const emulated = (error) => {
      if (!(error instanceof NoPush)) throw error;
      localStorage.removeItem("own");
      at("way").textContent = EMULATED;
      return reachedBy(addresses);
    };
    await (own ? subscribed().catch(emulated) : reachedBy(addresses));
    await attached;
  }

  /**
   * Pushes come by the browser's own push service from now on, also to later connections and versions of this page: each asks for the
   * address, for the browser may have changed it while no page was open.
   */
  async function subscribed() {
    const address = await subscribe(client, { worker, scope: "/", user, device: DEVICE, sync: true });
    await reachedBy([address]);
    localStorage.setItem("own", "yes");
    at("way").textContent = OWN;
  }

  const reachedBy = (addresses) => client.call("PUT", "/v1/device/addresses", { body: { addresses } });
  const database = () => client.tables.database;

  async function list() {
    const rows = await client.messages({ limit: 1000 });
    at("count").textContent = rows.length;
    at("messages").replaceChildren(
      ...rows.map((message) => {
        const item = document.createElement("li");
        item.className = message.form;
        item.dataset.id = message.id;
        item.textContent = app.show(message);
        return item;
      }),
    );
  }

  /** What the sandbox's phone shows, where the browser has no push service of its own. */
  async function watch() {
    for (;;) {
      const { shown, count } = await backend("lock", { user, known: Number(at("lock").dataset.count ?? 0) }).catch(() => ({}));
      if (!shown) await new Promise((done) => setTimeout(done, 2000));
      else {
        at("lock").dataset.count = count;
        at("lock").replaceChildren(
          ...shown.map(({ title, body }) => Object.assign(document.createElement("li"), { textContent: `${title ?? ""} ${body ?? ""}` })),
        );
      }
    }
  }

  async function begin() {
    at("login").hidden = true;
    document.querySelector("main").hidden = false;
    await connect();
    void watch();
  }

  at("version").textContent = app.version;
  at("upgrade").hidden = app.version !== "1.0";
  at("login").addEventListener(
    "submit",
    guarded(() => {
      user = at("user").value;
      localStorage.setItem("user", user);
      return begin();
    }),
  );
  at("send").addEventListener("submit", guarded(() => backend("send", { user, text: at("text").value })));
  at("poll").addEventListener("click", guarded(() => backend("poll", { user, text: at("text").value })));
  at("offline").addEventListener(
    "click",
    guarded(async () => {
      online = false;
      at("offline").hidden = true;
      at("online").hidden = false;
      await client.stop();
      at("status").textContent = "offline";
    }),
  );
  at("online").addEventListener(
    "click",
    guarded(async () => {
      online = true;
      at("offline").hidden = false;
      at("online").hidden = true;
      await connect();
    }),
  );
  at("verify").addEventListener("click", guarded(() => client.verify()));
  at("draft").addEventListener("input", guarded(() => online && app.drafts.put(database(), at("draft").value)));
  at("notify").addEventListener(
    "click",
    guarded(async () => {
      if ((await Notification.requestPermission()) !== "granted") return say("Notifications are not allowed here.");
      say("This browser's push service is asked; without the internet that takes long.");
      try {
        await subscribed();
        say("");
      } catch (error) {
        if (!(error instanceof NoPush)) throw error;
        say(`${error.message} The emulated browser goes on.`);
      }
      return undefined;
    }),
  );
  if (user) begin().catch((error) => say(String(error)));
}
