// Version 1.0 of the page: it knows texts, and keeps a draft as a bare value.

import { run } from "/page.js";

const migrations = [(database) => database.createObjectStore("drafts")];

const done = (request) =>
  new Promise((good, bad) => {
    request.onsuccess = () => good(request.result);
    request.onerror = () => bad(request.error);
  });

const drafts = {
  get: (database) => done(database.transaction("drafts").objectStore("drafts").get("draft")),
  put: (database, text) => done(database.transaction("drafts", "readwrite").objectStore("drafts").put(text, "draft")),
};

run({ version: "1.0", schema: 1, types: ["text"], migrations, drafts, show: ({ body }) => String(body.text) });
