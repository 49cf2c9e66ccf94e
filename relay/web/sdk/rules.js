// What a client decides, without I/O: when a page may be kept, when to come back, what to do with a cursor.

export const CARRIES_BODY = new Set(["message", "own", "release", "pointer"]);
export const KNOWN_KINDS = new Set([...CARRIES_BODY, "recall", "read", "notice"]);
export const RANK = { raw: 0, fallback: 1, full: 2 };
export const BACKOFF_MAX_MS = 60_000;
const FORBIDDEN = new Set([403, 4403]);
export const UNAUTHENTICATED = new Set([401, 4401]);
export const ANOTHER_USER = "another_user"; // the problem that a handshake with another user's database is
export const UNREACHABLE = "unreachable"; // the code of an answer that is not the relay's, as a gateway's page: it decides nothing

/** Whether a page names every number of its range exactly once: only then may a cursor follow it. */
export function covers(page) {
  let position = page.from;
  let e = 0;
  let g = 0;
  while (e < page.entries.length || g < page.gaps.length) {
    const entry = page.entries[e];
    const gap = page.gaps[g];
    if (entry && entry.seq === position + 1) {
      position = entry.seq;
      e += 1;
    } else if (gap && gap.from === position && gap.to > position) {
      position = gap.to;
      g += 1;
    } else {
      return false;
    }
  }
  return position === page.to;
}

/** `keep`, `known` (drop it), `read` (drop it and ask for what lies between), or `broken`. */
export function judge(position, page) {
  if (page.epoch !== position.epoch) return "broken";
  if (page.to <= position.seq && page.from !== position.seq) return "known";
  if (page.from !== position.seq) return "read";
  return covers(page) && page.cursor ? "keep" : "broken";
}

/** Whether a welcome would have us go on elsewhere than we stand: believing it could skip messages. */
export function astray(position, welcome) {
  if (welcome.verdict === "resync") return false;
  const at = welcome.head - welcome.missing;
  return !position.cursor || (position.seq !== null && position.seq !== at) || position.epoch !== welcome.epoch;
}

/** Whether numbers that were known in one epoch mean nothing, or other things, in another. */
export const renumbered = (before, now) => before !== "" && before !== now;

/** Milliseconds until the next try after `failures` in a row: full jitter, never less than what was asked for. */
export function pauseMs(failures, random, askedMs = 0) {
  return Math.max(askedMs, random() * Math.min(BACKOFF_MAX_MS, 1000 * 2 ** Math.min(failures, 6)));
}

/** What the end of a connection asks for: `again`, `renew` the token first, `rest` until turned, or `never`. */
export function afterClose(code, foreground) {
  if (FORBIDDEN.has(code)) return "never";
  if (code === 4001 && !foreground) return "rest";
  return UNAUTHENTICATED.has(code) ? "renew" : "again";
}

/** The tag inside a message id (a UUIDv7 without its time, version and variant), by which it is known after an epoch change. */
export function tagOf(id) {
  const hex = id.replaceAll("-", "");
  if (!/^[0-9a-f]{12}7[0-9a-f]{19}$/.test(hex)) return null;
  const value = BigInt(`0x${hex}`);
  const mask = (1n << 62n) - 1n;
  return ((((value >> 64n) & 0xfffn) << 62n) | (value & mask)).toString(16);
}

const HOUR_MS = 3_600_000;
/** When a message was accepted, by its id; NaN for what is no UUIDv7. */
export const acceptedMs = (id) => Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16);

/** Whether the relay would still have known the key of a message with the same tag; later, the key may be another message's. */
export function isRepeat(id, { id: first, expires_at: expires }) {
  const untilMs = Math.max(acceptedMs(first) + 72 * HOUR_MS, (Date.parse(expires ?? "") || 0) + 24 * HOUR_MS);
  return acceptedMs(id) < untilMs;
}

/** How many sends may go as frames: the relay closes who says more than 20 frames a second, and acks are some. */
export class Pace {
  static perS = 5;
  static burst = 10;
  #left = Pace.burst;
  #at = 0;

  take(now) {
    this.#left = Math.min(Pace.burst, this.#left + (Math.max(0, now - this.#at) / 1000) * Pace.perS);
    this.#at = now;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}
