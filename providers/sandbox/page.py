"""The page that shows the virtual phones: three static files under a strict content policy.

Everything that came in a message is set as text, never as markup.
"""

PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sandbox phones</title>
<link rel="stylesheet" href="/_page/phones.css">
<script src="/_page/phones.js" defer></script>
</head>
<body>
<header>
<h1>Sandbox phones</h1>
<p id="status" role="status">Connecting …</p>
</header>
<nav id="vendors" aria-label="Vendors"></nav>
<main id="phones"></main>
<p id="nothing" hidden>No phone has received anything yet. Send a push to any token, for example
<code>phone-1</code>; one that begins with <code>ios-</code> or <code>web-</code> is an iPhone or a browser.</p>
<details id="faults">
<summary>Tokens that fail on purpose</summary>
<p>A token that begins with one of these words and a hyphen fails every time (<code>quota-a</code>); with a number
after the word, only so many times (<code>quota3-a</code>).</p>
<div id="known"></div>
</details>
<noscript><p>This page needs JavaScript; <a href="/_phones">the same as JSON</a>.</p></noscript>
</body>
</html>
"""

CSS = """
:root { color-scheme: light dark; --ink: #1d2433; --pale: #5d677a; --ground: #eef1f6; --card: #fff; --screen: #dfe6f2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecf4; --pale: #9aa5b8; --ground: #12161e; --card: #1d2430; --screen: #283245; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem; font: 16px/1.45 system-ui, sans-serif; }
body { color: var(--ink); background: var(--ground); }
header { display: flex; flex-wrap: wrap; gap: 0 1.5rem; align-items: baseline; }
h1 { margin: 0; font-size: 1.4rem; }
#status, .pale, time { color: var(--pale); font-size: .85rem; }
#vendors { display: flex; flex-wrap: wrap; gap: .4rem; margin-top: .6rem; }
#vendors button { font: inherit; color: inherit; border: 0; border-radius: 1rem; padding: .2rem .8rem; cursor: pointer;
  background: var(--card); }
#vendors button[aria-pressed="true"] { background: var(--ink); color: var(--ground); }
.board { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); margin: .5rem 0 1rem; }
h3 { margin: 1rem 0 0; font-size: 1.05rem; }
.phone { background: var(--card); border-radius: 1.2rem; padding: 1rem; min-width: 0; }
.phone h2 { margin: 0; font-size: .95rem; overflow-wrap: anywhere; }
.screen { background: var(--screen); border-radius: .8rem; padding: .5rem; margin: .6rem 0; min-height: 5rem;
  max-height: 22rem; overflow-y: auto; }
.note { background: var(--card); border-radius: .6rem; padding: .5rem .7rem; margin: 0 0 .4rem; }
.note p { overflow-wrap: anywhere; }
.note p { margin: 0; white-space: pre-wrap; }
.note .title { font-weight: 600; }
ol { padding-left: 1.2rem; margin: .4rem 0 0; max-height: 20rem; overflow-y: auto; }
li { overflow-wrap: anywhere; margin-bottom: .3rem; }
code { font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dd { margin: 0; }
"""

JS = """"use strict";
const EVERY_MS = 1000;
const cards = new Map();
const boards = new Map();
let chosen = null;  // a vendor; null: all of them
let etag = null;

function make(tag, className, words) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (words !== undefined && words !== null) node.textContent = words;
  return node;
}

function clock(delivery) {
  const at = new Date(delivery.at * 1000);
  const node = make("time", "", at.toLocaleTimeString());
  node.dateTime = at.toISOString();
  return node;
}

function notification(delivery) {
  const note = make("article", "note");
  note.append(clock(delivery));
  if (delivery.title) note.append(make("p", "title", delivery.title));
  if (delivery.body) note.append(make("p", "", delivery.body));
  const facts = [];
  if (delivery.shown_by === "app") facts.push("drawn by the app");
  if (delivery.collapse) facts.push("replaces " + delivery.collapse);
  if (delivery.badge !== null) facts.push("badge " + delivery.badge);
  if (facts.length) note.append(make("p", "pale", facts.join(" · ")));
  return note;
}

function line(delivery) {
  const item = make("li");
  item.append(clock(delivery), " ", delivery.title || delivery.body || "(silent)");
  if (Object.keys(delivery.data).length) item.append(" ", make("code", "", JSON.stringify(delivery.data)));
  return item;
}

function cardFor(phone) {
  let card = cards.get(phone.token);
  if (card) return card;
  const root = make("section", "phone");
  const screen = make("div", "screen");
  screen.setAttribute("aria-label", "Screen");
  const history = make("details");
  const summary = make("summary");
  const list = make("ol");
  history.append(summary, list);
  root.append(make("h2", "", phone.token), screen, history);
  card = { root, screen, summary, list, seq: 0, first: phone.first_seq, vendor: null };
  cards.set(phone.token, card);
  return card;
}

function show(phone) {
  const card = cardFor(phone);
  const newest = phone.received[phone.received.length - 1];
  const state = [newest.seq, phone.badge, ...phone.shown.map((one) => one.seq)].join();
  if (card.state === state) return;
  card.state = state;
  card.seq = newest.seq;
  card.vendor = newest.vendor;
  card.screen.replaceChildren(...phone.shown.slice().reverse().map(notification));
  if (!phone.shown.length) card.screen.append(make("p", "pale", "Nothing to see: silent messages only."));
  const badge = phone.badge === null ? "" : " · badge " + phone.badge;
  card.summary.textContent = newest.platform + " · " + phone.count + " received" + badge;
  card.list.replaceChildren(...phone.received.slice().reverse().map(line));
}

function boardFor(vendor) {
  let board = boards.get(vendor);
  if (board) return board;
  const root = make("section");
  const list = make("div", "board");
  root.append(make("h3", "", vendor), list);
  document.getElementById("phones").append(root);
  const button = make("button", "", vendor);
  button.type = "button";
  button.addEventListener("click", () => choose(chosen === vendor ? null : vendor));
  document.getElementById("vendors").append(button);
  board = { root, list, button };
  boards.set(vendor, board);
  return board;
}

function choose(vendor) {
  chosen = vendor;
  for (const [name, board] of boards) {
    board.root.hidden = !board.list.children.length || (chosen !== null && chosen !== name);
    board.button.setAttribute("aria-pressed", String(chosen === name));
  }
}

function draw(state) {
  const present = new Set(state.phones.map((phone) => phone.token));
  for (const [token, card] of cards) {
    const now = state.phones.find((phone) => phone.token === token);
    if (!present.has(token) || now.first_seq !== card.first) { card.root.remove(); cards.delete(token); }
  }
  const places = new Map();
  const sorted = state.phones.slice().sort((a, b) => a.first_seq - b.first_seq);
  for (const phone of sorted) {
    show(phone);
    const { root, vendor } = cards.get(phone.token);
    const board = boardFor(vendor).list;
    const place = places.get(vendor) || 0;
    places.set(vendor, place + 1);
    if (board.children[place] !== root) board.insertBefore(root, board.children[place] || null);
  }
  choose(chosen);
  document.getElementById("nothing").hidden = state.phones.length > 0;
  const more = state.total > state.phones.length ? ", showing the liveliest " + state.phones.length : "";
  document.getElementById("status").textContent = state.total + " phones, " + state.delivered + " deliveries" + more;
}

async function refresh() {
  try {
    if (!document.hidden) {
      const headers = etag ? { "If-None-Match": etag } : {};
      const answer = await fetch("/_phones?limit=50&received=20&message=0", { headers, cache: "no-store" });
      if (answer.status === 200) { draw(await answer.json()); etag = answer.headers.get("ETag"); }
    }
  } catch (error) {
    etag = null;
    document.getElementById("status").textContent = "The sandbox does not answer; trying again …";
  }
  setTimeout(refresh, EVERY_MS);
}

async function explain() {
  const first = await (await fetch("/_control/faults")).json();
  for (const vendor of first.vendors) {
    const answer = await fetch("/_control/faults?vendor=" + encodeURIComponent(vendor));
    const list = make("dl");
    for (const [word, meaning] of Object.entries((await answer.json()).known.send || {})) {
      const term = make("dt");
      term.append(make("code", "", word + "-"));
      list.append(term, make("dd", "", meaning));
    }
    document.getElementById("known").append(make("h3", "", vendor), list);
  }
}

refresh();
explain().catch(() => undefined);
"""
