"""What must be true of the rows after every commit, written a second time and plainly, without the relay's own rules.

Each function reads all rows of one snapshot and gives its complaints, in words; none means that all is well.
"""

import json
from itertools import pairwise
from typing import Any

from sqlalchemy import text

Row = dict[str, Any]
EXPIRING_MS = 2_000  # protocol 7.2: what has less left is not worth a notification


class Rows:
    """Everything that belongs to one app."""

    def __init__(self, conn: Any, app: str) -> None:
        def read(statement: str) -> list[Row]:
            return [dict(row._mapping) for row in conn.execute(text(statement), {"app": app})]

        self.inboxes = {row["user_id"]: row for row in read("SELECT * FROM inbox WHERE app_id = :app")}
        self.devices = read("SELECT * FROM device WHERE app_id = :app ORDER BY user_id, device_id")
        self.jobs = {of(row): row for row in read("SELECT * FROM push_job WHERE app_id = :app")}
        self.held = read("SELECT * FROM device_held WHERE app_id = :app")
        self.addresses = read("SELECT * FROM address WHERE app_id = :app")
        self.acks = read("SELECT * FROM device_ack WHERE app_id = :app ORDER BY user_id, device_id, from_seq")
        self.reads = {
            (row["user_id"], row["conversation_id"]): row["read_seq"]
            for row in read("SELECT * FROM read_marker WHERE app_id = :app")
        }
        self.parked = read("SELECT * FROM account_state WHERE app_id = :app AND parked_ms IS NOT NULL")
        self.entries: dict[str, list[Row]] = {user: [] for user in self.inboxes}
        for row in read(
            "SELECT e.*, m.conversation_id, m.min_schema, m.min_app_version, m.fallback_h, m.hold, m.scope, "
            "m.notify_policy FROM inbox_entry e LEFT JOIN message m "
            "ON m.app_id = e.app_id AND m.message_id = e.message_id WHERE e.app_id = :app ORDER BY e.user_id, e.seq"
        ):
            self.entries[row["user_id"]].append(row)

    def here(self, user: str | None = None) -> list[Row]:
        """Devices that are not gone."""
        return [d for d in self.devices if d["state"] != "gone" and user in {None, d["user_id"]}]

    def address_of(self, device: Row) -> bool:
        return any(of(a) == of(device) and a["state"] == "active" for a in self.addresses)

    def acked_beyond(self, device: Row, seq: int, *, again: bool = False) -> bool:
        """Whether a selective ack of the device names this number (one that it is offered again does not count)."""
        return any(
            of(r) == of(device) and r["from_seq"] <= seq <= r["to_seq"] and r["kind"] <= again for r in self.acks
        )


def of(row: Row) -> tuple[str, str]:
    return row["user_id"], row["device_id"]


def online(device: Row) -> bool:
    return device["online_since_ms"] is not None and device["offline_since_ms"] is None


def looked_at(device: Row) -> bool:
    return online(device) and not device["background"]


# --- who sees what (protocol 10.3, 12.3, 12.4) ------------------------------------------------------------------------


def newer_or_same(version: str | None, wanted: str) -> bool:
    """Versions of these tests are plain numbers with dots."""
    return version is not None and [int(n) for n in version.split(".")] >= [int(n) for n in wanted.split(".")]


def form(entry: Row, device: Row) -> str:
    """`full`, `fallback`, `held`, `own`, or `none`: how the device sees the entry, whatever has become of it."""
    scope = json.loads(entry["scope"]) if entry["scope"] else {}
    for_others = (
        (entry["only_device"] and entry["only_device"] != device["device_id"])
        or (scope.get("devices") and device["device_id"] not in scope["devices"])
        or ((entry["only_device"] or scope.get("devices")) and device["created_ms"] > entry["accepted_ms"])
        or device["device_id"] in scope.get("exclude_devices", [])
        or (scope.get("platforms") and device["platform"] not in scope["platforms"])
    )
    if for_others:
        return "none"
    mine = (entry["origin_device"], entry["origin_session"]) == (device["device_id"], device["session"])
    if entry["kind"] == "own" and mine:
        return "own"
    schema_fits = entry["min_schema"] is None or (device["schema"] or 0) >= entry["min_schema"]
    app_fits = entry["min_app_version"] is None or newer_or_same(device["app_version"], entry["min_app_version"])
    if schema_fits and app_fits:
        return "full"
    if entry["fallback_h"] is not None:
        return "fallback"
    return "held" if entry["hold"] else "none"


def live(entry: Row, now_ms: int) -> bool:
    return entry["state"] == "live" and entry["expires_ms"] > now_ms


# --- (P) and (Q), protocol 6.5 ----------------------------------------------------------------------------------------


def worth_a_notification(rows: Rows, device: Row, entry: Row, default: str) -> bool:
    """Protocol 7.1, for an entry that is live and that the device does not have."""
    if not entry["notifiable"] or form(entry, device) not in {"full", "fallback"}:
        return False
    conversation = entry["conversation_id"]
    if conversation is not None and looked_at(device) and device["open_conversation"] == conversation:
        return False
    policy = entry["notify_policy"] or default
    if policy == "until_read" and conversation is not None:
        return bool(rows.reads.get((device["user_id"], conversation), 0) < entry["seq"])
    if policy == "first_device":
        return not any(
            (looked_at(d) and (d["acked_high"] >= entry["seq"] or rows.acked_beyond(d, entry["seq"])))
            or d["seen_seq"] >= entry["seq"]
            for d in rows.here(device["user_id"])
        )
    return True


def outstanding(rows: Rows, device: Row, default: str, now_ms: int) -> list[Row]:
    """Owed and worth a notification, oldest first."""
    return [
        e
        for e in rows.entries[device["user_id"]]
        if e["seq"] > max(device["acked_seq"], device["start_seq"])
        and live(e, now_ms)
        and not rows.acked_beyond(device, e["seq"])
        and worth_a_notification(rows, device, e, default)
    ]


def latest(rows: Rows, device: Row, entry: Row, policy: Any, now_ms: int) -> int:
    """The table of protocol 6.1: when the push for this entry falls due at the latest."""
    elsewhere_ms = (
        policy.elsewhere_ms if any(looked_at(d) and of(d) != of(device) for d in rows.here(device["user_id"])) else 0
    )
    if online(device):
        since_ms = max(entry["accepted_ms"], device["online_since_ms"])
        if device["node_id"] == "gateway" and policy.trust_presence:
            return since_ms + 86_400_000
        wait_ms = policy.ack_wait_background_ms if device["background"] else policy.ack_wait_ms
        by_ack_ms = max(since_ms, device["progress_ms"]) + wait_ms + elsewhere_ms
        return min(by_ack_ms, since_ms + policy.ack_wait_max_ms)
    debounced_ms = entry["accepted_ms"] + policy.debounce_ms + elsewhere_ms
    linger_ms = device["linger_until_ms"] or 0
    return max(debounced_ms, linger_ms) if linger_ms > now_ms else debounced_ms


def stale_until(rows: Rows, device: Row, policy: Any, now_ms: int) -> int:
    """Protocol §5: a token that nobody has refreshed for 30 days is tried once a week."""
    here = [a for a in rows.addresses if of(a) == of(device) and a["state"] == "active"]
    silent = not online(device) and all(
        max(device["contact_ms"], a["registered_ms"]) + policy.dormant_ms <= now_ms for a in here
    )
    if not silent or any(a["pushed_ms"] is None for a in here):
        return 0
    return int(min(a["pushed_ms"] for a in here)) + 7 * 86_400_000


def pushes(conn: Any, now_ms: int, app: str, policy: Any) -> list[str]:
    """(P) and (Q) for every device of the app. A vendor's pause (`retry_ms`) may put a push off."""
    rows = Rows(conn, app)
    wrong: list[str] = []
    for device in rows.here():
        name = "/".join(of(device))
        job = rows.jobs.get(of(device))
        if job is None:
            wrong.append(f"{name}: no job")
            continue
        said = _of_job(rows, device, job, policy, now_ms)
        wrong += [f"{name}: {one} (job {job['due_ms']}, {job['reason']}; now {now_ms})" for one in said]
    return wrong


def _of_job(rows: Rows, device: Row, job: Row, policy: Any, now_ms: int) -> list[str]:
    due, reason = job["due_ms"], job["reason"]
    wanted = outstanding(rows, device, policy.notify, now_ms)
    untold = [e for e in wanted if e["seq"] > device["pushed_seq"]]
    told = [e for e in wanted if e["seq"] <= device["pushed_seq"]]
    if due is None and reason is None:
        return ["rests without a reason (I25)"]
    if due is None and reason == "account_parked" and rows.parked:
        return []
    if not rows.address_of(device):
        return []  # an address comes by REGISTER or HELLO, which look at everything, whatever the reason said before
    stepped = max(device["acked_high"], job["escalate_after"])
    stepping = [e for e in told if e["escalated"] is not None and stepped < e["seq"] <= job["escalate_seq"]]
    if stepping and all(e["expires_ms"] - now_ms > EXPIRING_MS for e in stepping):
        at_ms = max(latest(rows, device, stepping[0], policy, now_ms), job["retry_ms"] or 0, now_ms)
        at_ms = max(at_ms, stale_until(rows, device, policy, now_ms))
        if due is None or due > at_ms:
            return [f"(P) 7.5: a step of {stepping[0]['seq']} is not pushed in time"]
    if untold:
        if all(e["expires_ms"] - now_ms <= EXPIRING_MS for e in untold):
            return []
        if due is None:
            return [f"(P) I18: {untold[0]['seq']} is neither told nor due"]
        at_ms = max(latest(rows, device, untold[0], policy, now_ms), job["retry_ms"] or 0, now_ms)
        at_ms = max(at_ms, stale_until(rows, device, policy, now_ms))
        return [] if due <= at_ms else [f"(P) I18: {untold[0]['seq']} is due {due - at_ms} ms late"]
    if not told:
        return []
    if _sweep_pending(rows, device, now_ms):
        return []
    knocks = [e for e in told if e["escalated"] is None]
    if not knocks and due is not None and not stepping:
        return [f"(Q) 7.5: {told[-1]['seq']} has steps of its own, and is reminded of"]
    if not knocks or device["state"] == "dormant" or knocks[-1]["seq"] <= job["shown_seq"]:
        return [] if due is not None or reason == "told" else [f"(Q) I19: rests as {reason}: told"]
    if job["knock"] >= len(policy.knocks_ms):
        return [] if due is not None or reason == "told" else [f"(Q) I19: rests as {reason}: told"]
    if due is None:
        return [f"(Q) I19: {told[0]['seq']} was told and never knocks again"]
    knock_ms = (now_ms if job["told_ms"] is None else job["told_ms"]) + policy.knocks_ms[job["knock"]]
    return [] if due <= max(knock_ms, job["retry_ms"] or 0) else [f"(Q) I19: the knock is {due - knock_ms} ms late"]


def _sweep_pending(rows: Rows, device: Row, now_ms: int) -> bool:
    """Whether something expires just now: the sweep that ends it (every 5 s) recomputes the job."""
    return any(
        e["state"] == "live" and e["expires_ms"] - now_ms <= EXPIRING_MS for e in rows.entries[device["user_id"]]
    )


# --- numbers (protocol §17) -------------------------------------------------------------------------------------------


def numbers(conn: Any, now_ms: int, app: str) -> list[str]:
    """I1, I8, I9, I10, I15, I20, and that `has_address` says what the addresses say."""
    rows = Rows(conn, app)
    wrong: list[str] = []
    for user, inbox in rows.inboxes.items():
        seqs = [e["seq"] for e in rows.entries[user]]
        if seqs != list(range(inbox["floor_seq"] + 1, inbox["head_seq"] + 1)):
            wrong.append(f"I1: {user} has {seqs} between {inbox['floor_seq']} and {inbox['head_seq']}")
    for device in rows.here():
        name, head = "/".join(of(device)), rows.inboxes[device["user_id"]]["head_seq"]
        start, acked, high, pushed = (device[c] for c in ("start_seq", "acked_seq", "acked_high", "pushed_seq"))
        if not start <= acked <= head:
            wrong.append(f"I8: {name}: {start} <= {acked} <= {head}")
        if not acked <= high <= pushed <= head:
            wrong.append(f"I9: {name}: {acked} <= {high} <= {pushed} <= {head}")
        wrong += [f"I10: {name}: {one}" for one in _exceptions(rows, device)]
        if bool(device["has_address"]) != rows.address_of(device):
            wrong.append(f"{name}: has_address says {device['has_address']}")
    wrong += [f"I20: {of(job)} is claimed without an end" for job in rows.jobs.values() if _endless(job)]
    owners: dict[tuple[str, bytes], set[tuple[str, str]]] = {}
    for one in rows.addresses:
        if one["state"] == "active" and not one["shared"]:
            owners.setdefault((one["account"], bytes(one["token_hash"])), set()).add(of(one))
    wrong += [f"I22: {token} belongs to {who}" for token, who in owners.items() if len(who) > 1]
    return wrong


def pruned(before: Rows | None, after: Rows, now_ms: int) -> list[str]:
    """I15: what has gone below the floor since `before` was owed to no active device."""
    wrong: list[str] = []
    for user, inbox in after.inboxes.items():
        old = None if before is None else before.inboxes.get(user)
        if before is None or old is None or old["epoch"] != inbox["epoch"]:
            continue
        gone = [e for e in before.entries[user] if e["seq"] <= inbox["floor_seq"] and live(e, now_ms)]
        for device in after.here(user):
            wrong += [
                f"I15: {'/'.join(of(device))} is owed {e['seq']}, which is below the floor"
                for e in gone
                if device["state"] == "active"
                and e["seq"] > device["start_seq"]
                and form(e, device) in {"full", "fallback", "held"}
                and _lacks(before, after, device, e["seq"])
            ]
    return wrong


def _lacks(before: Rows, after: Rows, device: Row, seq: int) -> bool:
    if any(of(h) == of(device) and h["seq"] == seq and h["why"] != "failed" for h in before.held):
        return True
    return (
        bool(seq > device["acked_seq"]) and not after.acked_beyond(device, seq) and not before.acked_beyond(device, seq)
    )


def _endless(job: Row) -> bool:
    return (job["claim"] is None) != (job["claim_until_ms"] is None)


def _exceptions(rows: Rows, device: Row) -> list[str]:
    wrong: list[str] = []
    ranges = [(r["from_seq"], r["to_seq"]) for r in rows.acks if of(r) == of(device) and r["kind"] == 0]
    if len(ranges) > 64:
        wrong.append(f"{len(ranges)} ranges")
    if any(low > high or low <= device["acked_seq"] for low, high in ranges):
        wrong.append(f"ranges {ranges} are not above {device['acked_seq']}")
    if any(after[0] <= before[1] for before, after in pairwise(ranges)):
        wrong.append(f"ranges {ranges} touch")
    return wrong


def everything(app: str, policy: Any) -> Any:
    """All of the above, as one law to check a reading by."""

    def law(conn: Any, now_ms: int) -> list[str]:
        return [*numbers(conn, now_ms, app), *pushes(conn, now_ms, app, policy)]

    return law
