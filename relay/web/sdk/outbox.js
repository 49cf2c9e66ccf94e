// Messages that this device is to send: kept in the cache's own database from before the first try until it is decided, under one
// key for all tries, so that however often a message is sent there is one.

export class Outbox {
  #tables;

  constructor(tables) {
    this.#tables = tables;
  }

  /** Keeps a message to send; one whose key is here already stays as it is. */
  put(key, message, now) {
    return this.#tables.transact(async (t) => {
      if (await t.get("outbox", key)) return;
      const places = (await t.all("outbox")).map(({ place }) => place);
      await t.put("outbox", key, { key, message, created: now, refused: null, place: Math.max(0, ...places) + 1 });
    });
  }

  /** What is not sent, in the order in which it was given. */
  all() {
    return this.#tables.transact(async (t) => (await t.all("outbox")).sort((a, b) => a.place - b.place));
  }

  /** The relay will never take it: it stays, for the app to show and to drop. */
  refuse(key, refused) {
    return this.#tables.transact(async (t) => {
      const row = await t.get("outbox", key);
      if (row) await t.put("outbox", key, { ...row, refused });
    });
  }

  drop(keys) {
    return this.#tables.transact(async (t) => {
      for (const key of keys) await t.delete("outbox", key);
    });
  }
}

/** Takes out what has been sent, within a transaction; gives it if it was there. */
export async function settle(t, key) {
  const row = await t.get("outbox", key);
  if (row) await t.delete("outbox", key);
  return row ?? null;
}

/**
 * Takes out the message that this is a copy of, within a transaction; gives it if it was there. Keys are each device's own: with
 * another body it is what another device has sent under the same one.
 */
export async function settleCopy(t, { client_ref: key, body }) {
  const row = key ? await t.get("outbox", key) : undefined;
  // The relay gives a body back as it came: the same text, read and written anew, is the same again.
  return row && JSON.stringify(row.message.body) === JSON.stringify(body) ? settle(t, key) : null;
}

/** The entry that the relay has made of a message, by its answer; without a number where that says nothing here. */
export function ownEntry({ key, message }, sent, epoch) {
  const { to, conversation, body, type = "text", client_ref = key } = message;
  const { id, h, accepted_at, expires_at, sender } = sent;
  const group = to.group ?? null;
  return {
    seq: sent.epoch === epoch ? (sent.seq ?? 0) : 0,
    id,
    kind: "own",
    h,
    accepted_at,
    expires_at,
    conversation: { type: group === null ? "direct" : "group", id: conversation?.id ?? group },
    sender,
    type,
    body,
    form: "full",
    client_ref,
  };
}

/** A UUIDv7 (RFC 9562): with it as its key, a message has the same id whenever it is sent. */
export function uuid7(now) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  new DataView(bytes.buffer).setBigUint64(0, (BigInt(now) << 16n) | BigInt(0x7000 | ((bytes[6] << 8) | bytes[7]) & 0xfff));
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
