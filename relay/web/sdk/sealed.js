// Pushes that their vendor cannot read: an app's keys for them, and how it opens one (RFC 8291, aes128gcm).

const CURVE = { name: "ECDH", namedCurve: "P-256" };
const [SALT, SIZE, POINT, AUTH] = [16, 4, 65, 16]; // bytes
const LAST = 2; // ends the data of a last record (RFC 8188 §2); zeros follow

/** New keys of a device: `seal` is registered with its address; keep all of it where only the app reads it. */
export async function sealKeys() {
  const { privateKey, publicKey } = await crypto.subtle.generateKey(CURVE, true, ["deriveBits"]);
  const point = new Uint8Array(await crypto.subtle.exportKey("raw", publicKey));
  const auth = crypto.getRandomValues(new Uint8Array(AUTH));
  return {
    private: await crypto.subtle.exportKey("jwk", privateKey),
    seal: { p256dh: textOf(point), auth: textOf(auth) },
  };
}

/** What is in a push's `sealed`: its `id`, and what it shows. Throws for what was not sealed for these keys. */
export async function unseal(sealed, keys) {
  const body = bytesOf(sealed);
  const rest = body.subarray(SALT + SIZE);
  if (rest[0] !== POINT) throw new Error("It was not sealed for these keys.");
  const theirs = rest.subarray(1, 1 + POINT);
  const own = bytesOf(keys.seal.p256dh);
  const privateKey = await crypto.subtle.importKey("jwk", keys.private, CURVE, false, ["deriveBits"]);
  const publicKey = await crypto.subtle.importKey("raw", theirs, CURVE, false, []);
  const shared = await crypto.subtle.deriveBits({ name: "ECDH", public: publicKey }, privateKey, 256);
  const info = new Uint8Array([...encoded("WebPush: info\0"), ...own, ...theirs]);
  const secret = await derived(shared, bytesOf(keys.seal.auth), info, 32);
  const salt = body.subarray(0, SALT);
  const bits = await derived(secret, salt, encoded("Content-Encoding: aes128gcm\0"), 16);
  const iv = await derived(secret, salt, encoded("Content-Encoding: nonce\0"), 12);
  const key = await crypto.subtle.importKey("raw", bits, "AES-GCM", false, ["decrypt"]);
  const record = new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, key, rest.subarray(1 + POINT)));
  return JSON.parse(new TextDecoder().decode(record.subarray(0, record.lastIndexOf(LAST))));
}

async function derived(secret, salt, info, bytes) {
  const key = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  return crypto.subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info }, key, bytes * 8);
}

function encoded(text) {
  return new TextEncoder().encode(text);
}

function textOf(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Base64url, with padding or without. */
export function bytesOf(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
}
