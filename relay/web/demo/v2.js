// Version 2.0 of the page: it knows polls, and its drafts have become rows with a time, in an object store of another form.

import { run } from "/page.js";

const migrations = [
  (database) => database.createObjectStore("drafts"), // 1.0's, for browsers that never had it
  (database, transaction) => {
    const notes = database.createObjectStore("notes", { keyPath: "name" });
    transaction.objectStore("drafts").get("draft").onsuccess = ({ target }) => {
      if (target.result !== undefined) notes.put({ name: "draft", text: target.result, at: Date.now() });
      database.deleteObjectStore("drafts");
    };
  },
];

const done = (request) =>
  new Promise((good, bad) => {
    request.onsuccess = () => good(request.result);
    request.onerror = () => bad(request.error);
  });

const drafts = {
  get: async (database) => (await done(database.transaction("notes").objectStore("notes").get("draft")))?.text,
  put: (database, text) =>
    done(database.transaction("notes", "readwrite").objectStore("notes").put({ name: "draft", text, at: Date.now() })),
};

const show = ({ type, form, body }) =>
  type === "poll" && form === "full" ? `Poll: ${body.question} (${body.options.join(" / ")})` : String(body.text);

run({ version: "2.0", schema: 2, types: ["text", "poll"], migrations, drafts, show });
