import assert from "node:assert/strict";
import { test } from "node:test";

import { sealKeys, unseal } from "../../relay/web/sdk/sealed.js";

// Made by another's implementation of RFC 8291 (http_ece), for the key 7.
const KEYS = {
  private: {
    kty: "EC",
    crv: "P-256",
    x: "jlM7b6C_e0YluzBmfAH7YH75-LioD-9bMAYocDGHsqM",
    y: "c-sdveAzGDZtBp-DpvWQAFPHNjPLBBshxV4ahsH0ALQ",
    d: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAc",
  },
  seal: {
    p256dh: "BI5TO2-gv3tGJbswZnwB-2B--fi4qA_vWzAGKHAxh7Kjc-sdveAzGDZtBp-DpvWQAFPHNjPLBBshxV4ahsH0ALQ",
    auth: "AAECAwQFBgcICQoLDA0ODw",
  },
};
const SEALED = "AAECAwQFBgcICQoLDA0ODwAAEABBBD7RE7eIO0xZBjg3nbDCHNoWdC7QJVBIv0MzkdN0vCHRkJkgmszEyKIkyEOvpPTGigkNBNpemIna4vju_OgqN0DWOJdG0PtlB0wf_3Gux97daFk6YjSkowY8d1iJSZCvq5Jm64VLjerfHuKCSmoSqlLsmPH4SlaFEK4qOPkMHqMlPEubHDQ";

test("a push is opened by the device's keys", async () => {
  assert.deepEqual(await unseal(SEALED, KEYS), { id: "m-1", title: "Ann", body: "¡hola!" });
});

test("what was sealed for others is not", async () => {
  const keys = await sealKeys();
  assert.match(keys.seal.p256dh, /^[A-Za-z0-9_-]{87}$/);
  assert.match(keys.seal.auth, /^[A-Za-z0-9_-]{22}$/);
  await assert.rejects(unseal(SEALED, keys));
  await assert.rejects(unseal(SEALED.slice(0, -4) + "AAAA", KEYS));
  await assert.rejects(unseal("", KEYS));
});
