"""Every table. All keys lead with `app_id` (and `user_id` where a row belongs to a user), so the schema shards as it stands.

Instants are integer milliseconds UTC; flags are 0 or 1; JSON is kept as text. Tables are STRICT on SQLite. They keep
their row ids: clustered by the key (WITHOUT ROWID), the same rows took 2.3 times as long to write.
"""

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects import sqlite

metadata = MetaData()
Int = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _int(name: str, *, null: bool = False, default: int | None = None) -> Column[int]:
    return Column(name, Int, nullable=null, server_default=None if default is None else text(str(default)))


def _blob(name: str, *, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, nullable=null)


def _table(name: str, *columns: Column[str] | Column[int] | Column[bytes], key: tuple[str, ...]) -> Table:
    return Table(
        name,
        metadata,
        *columns,
        PrimaryKeyConstraint(*key),
        sqlite_strict=True,
    )


# --- the store itself -------------------------------------------------------------------------------------------------

store_meta = _table(
    "store_meta",
    _int("id"),
    _text("epoch"),  # 128 bit, hex: the generation of every number in this store
    _int("epoch_since_ms"),
    _int("ticks"),  # + 1 every 5 s: what the witness compares
    _text("timeline_mark", null=True),  # PostgreSQL's WAL timeline when last seen
    _int("pruning_frozen_until_ms"),
    key=("id",),
)
node = _table("node", _text("node_id"), _int("started_ms"), _int("beat_ms"), key=("node_id",))

# --- apps and their keys ----------------------------------------------------------------------------------------------

app = _table(
    "app",
    _text("app_id"),
    _blob("id_secret"),  # makes message ids from idempotency keys
    _text("settings"),
    _int("event_head", default=0),
    _int("created_ms"),
    key=("app_id",),
)
api_key = _table(
    "api_key",
    _text("app_id"),
    _text("key_id"),
    _blob("secret_mac"),
    _text("scopes"),
    _text("name"),
    _int("created_ms"),
    _int("expires_ms", null=True),
    _int("revoked_ms", null=True),
    _int("used_ms", null=True),
    _text("networks", null=True),  # JSON list of the networks it may be used from; null: from anywhere
    key=("app_id", "key_id"),
)
Index("api_key_by_id", api_key.c.key_id, unique=True)
Index(
    "api_key_revoked",
    api_key.c.revoked_ms,
    sqlite_where=text("revoked_ms IS NOT NULL"),
    postgresql_where=text("revoked_ms IS NOT NULL"),
)
data_key = _table(
    "data_key",  # what seals an app's secrets; itself sealed by the key ring
    _text("app_id"),
    _int("number"),
    _blob("wrapped"),
    _int("created_ms"),
    key=("app_id", "number"),
)
Index("data_key_by_age", data_key.c.created_ms)
device_token = _table(
    "device_token",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _text("token_id"),
    _blob("secret_mac"),
    _text("family"),  # the token the backend asked for, and all its successors
    _int("generation"),
    _int("created_ms"),
    _int("expires_ms"),
    _int("used_ms", null=True),  # a successor's first use; the backend's own counts as used
    _int("rotated_ms", null=True),  # another one of its family is in use since then
    _int("revoked_ms", null=True),
    key=("app_id", "user_id", "device_id", "token_id"),
)
Index("device_token_by_id", device_token.c.token_id, unique=True)
Index(
    "device_token_revoked",
    device_token.c.revoked_ms,
    sqlite_where=text("revoked_ms IS NOT NULL"),
    postgresql_where=text("revoked_ms IS NOT NULL"),
)
ticket = _table(
    "ticket",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _text("token_id"),  # the token it was got with: they end together
    _blob("ticket_mac"),
    _text("origin", null=True),
    _int("expires_ms"),
    key=("app_id", "ticket_mac"),
)
Index("ticket_by_mac", ticket.c.ticket_mac, unique=True)

# --- inboxes and messages ---------------------------------------------------------------------------------------------

inbox = _table(
    "inbox",  # its row lock is L(u), protocol 6.4
    _text("app_id"),
    _text("user_id"),
    _text("epoch"),
    _int("head_seq"),
    _int("floor_seq"),
    _int("pinned_until_ms"),
    _int("created_ms"),
    _text("formerly", null=True),  # the user's name before: cursors made out to it are old, not broken
    _text("preferences", null=True),  # JSON: levels, mutes, quiet hours; here, since it is read with the lock
    _int("woken", default=0),  # 1: some shared timeline has had a reason to wake this user
    key=("app_id", "user_id"),
)
message = _table(
    "message",
    _text("app_id"),
    _text("message_id"),
    _text("type"),
    _text("conversation_type"),
    _text("conversation_id", null=True),
    _text("sender_user", null=True),
    _text("sender_device", null=True),
    _text("client_ref", null=True),
    _text("priority"),
    _text("body", null=True),  # JSON; null once it has been blanked
    _text("h"),
    _text("push", null=True),
    _text("collapse_key", null=True),
    _int("min_schema", null=True),
    _text("min_app_version", null=True),
    _text("fallback", null=True),
    _text("fallback_h", null=True),
    _text("push_held", null=True),  # what is shown where it is held: "update the app"
    _int("notify_release", default=0),
    _int("hold"),
    _text("scope", null=True),
    _text("notify_policy", null=True),
    _text("key", null=True),
    _text("recipients"),  # JSON: [[user, seq | null, refusal | null], ...]: what the sender was answered; both: waiting
    _int("accepted_ms"),
    _int("deliver_ms", null=True),  # not before then: it waits in `fanout_job`, and has no numbers yet
    _int("expires_ms"),
    key=("app_id", "message_id"),
)
Index("message_by_age", message.c.app_id, message.c.accepted_ms, message.c.message_id)
inbox_entry = _table(
    "inbox_entry",
    _text("app_id"),
    _text("user_id"),
    _int("seq"),
    _text("message_id"),  # the message's id; control entries have ids of their own
    _text("kind"),
    _text("only_device"),  # '' = every device
    _text("origin_device", null=True),
    _int("origin_session", null=True),
    _text("collapse_key", null=True),
    _int("notifiable"),
    _text("data", null=True),  # JSON of control entries
    _text("state"),
    _int("ended_by_seq", null=True),
    _int("ended_ms", null=True),
    _int("completed_ms", null=True),  # message.completed was told
    _int("accepted_ms"),
    _int("expires_ms"),
    key=("app_id", "user_id", "seq"),
)
Index(
    "inbox_entry_by_message",
    inbox_entry.c.app_id,
    inbox_entry.c.message_id,  # before the user: ids begin with the time, so a busy batch writes few pages of it
    inbox_entry.c.user_id,
    inbox_entry.c.kind,
)
Index(
    "inbox_entry_expiring",
    inbox_entry.c.expires_ms,
    sqlite_where=text("state = 'live'"),
    postgresql_where=text("state = 'live'"),
)
Index(
    "inbox_entry_by_collapse",
    inbox_entry.c.app_id,
    inbox_entry.c.user_id,
    inbox_entry.c.collapse_key,
    sqlite_where=text("collapse_key IS NOT NULL AND state = 'live'"),
    postgresql_where=text("collapse_key IS NOT NULL AND state = 'live'"),
)
idempotency = _table(
    "idempotency",
    _text("app_id"),
    _text("key"),  # namespace and key: keys of a device's own sends live apart
    _blob("body_hash"),
    _text("message_id"),
    _text("writer"),  # which transaction wrote it: tells a fresh row from one that was there
    _int("expires_ms"),
    key=("app_id", "key"),
)
Index("idempotency_expiring", idempotency.c.expires_ms)
read_marker = _table(
    "read_marker",
    _text("app_id"),
    _text("user_id"),
    _text("conversation_id"),
    _int("read_seq"),
    _int("updated_ms"),
    key=("app_id", "user_id", "conversation_id"),
)

# --- devices ----------------------------------------------------------------------------------------------------------

device = _table(
    "device",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _text("state"),  # active, dormant, gone
    _int("session"),
    _int("conf_session"),  # highest session whose cursor came back: older stores are noticed by it
    _int("lineage_session"),  # of the last rebase, or other version: acks from before it change nothing
    _int("online_since_ms", null=True),
    _int("offline_since_ms", null=True),
    _int("linger_until_ms", null=True),
    _int("offline_told", default=0),
    _text("node_id", null=True),
    _int("start_seq"),
    _int("acked_seq"),
    _int("acked_high"),
    _int("pushed_seq"),
    _int("progress_ms"),
    _text("store_id", null=True),
    _text("app_version", null=True),
    _int("schema", null=True),
    _text("types", null=True),
    _text("platform", null=True),
    _text("locale", null=True),
    _text("tz", null=True),
    _int("background", default=0),
    _text("open_conversation", null=True),
    _int("has_address", default=0),
    _text("install_id", null=True),
    _text("predecessor", null=True),
    _int("created_ms"),
    _int("contact_ms"),
    key=("app_id", "user_id", "device_id"),
)
Index("device_by_contact", device.c.state, device.c.contact_ms)
device_ack = _table(
    "device_ack",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("from_seq"),
    _int("to_seq"),
    _int("offered_again"),  # 1: reported as acked, but the device is to get it once more (rebase, or over 64 ranges)
    key=("app_id", "user_id", "device_id", "from_seq"),
)
device_held = _table(
    "device_held",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("seq"),
    _text("why"),  # held, fallback, unknown_type, poison
    _int("tries"),
    key=("app_id", "user_id", "device_id", "seq"),
)
device_shared = _table(
    "device_shared",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _text("conversation_id"),
    _int("acked_seq"),
    _int("pushed_seq"),
    key=("app_id", "user_id", "device_id", "conversation_id"),
)
Index("device_shared_by_place", device_shared.c.app_id, device_shared.c.conversation_id, device_shared.c.acked_seq)
address = _table(
    "address",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("preference"),
    _text("account"),
    _text("kind"),
    _blob("token_sealed"),
    _blob("token_hash"),
    _int("registered_ms"),
    _text("state"),  # active, dead, taken
    _int("shared"),
    key=("app_id", "user_id", "device_id", "preference"),
)
Index(
    "address_owner",
    address.c.app_id,
    address.c.account,
    address.c.token_hash,
    unique=True,
    sqlite_where=text("shared = 0 AND state = 'active'"),
    postgresql_where=text("shared = 0 AND state = 'active'"),
)
Index("address_by_token", address.c.app_id, address.c.account, address.c.token_hash)
address_tombstone = _table(
    "address_tombstone",
    _text("app_id"),
    _text("account"),
    _blob("token_hash"),
    _int("until_ms"),
    key=("app_id", "account", "token_hash"),
)
upgrade = _table(
    "upgrade",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _text("upgrade_id"),
    _text("from_version", null=True),
    _text("to_version", null=True),
    _int("at_ms"),
    _text("verdict"),
    _text("reason", null=True),
    _int("released"),
    _text("verify_state", null=True),  # repairing: differences were listed; ok, repaired, failed, missing
    _int("missing_found", null=True),
    _int("caught_up_ms", null=True),  # when the device first asked to be compared: it had caught up by then
    key=("app_id", "user_id", "device_id", "upgrade_id"),
)
Index("upgrade_by_age", upgrade.c.app_id, upgrade.c.at_ms)

# --- push -------------------------------------------------------------------------------------------------------------

push_job = _table(
    "push_job",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("due_ms", null=True),  # null: resting
    _text("reason", null=True),
    _int("knock"),  # knocks done since the last contact
    _int("told_ms", null=True),  # first `accepted` since then: knocks count from it
    _int("tries"),  # failed attempts in a row
    _int("retry_ms", null=True),  # not before then, after a failed attempt
    _int("bare_seq", default=0),  # entries up to here go as a bare wake-up: the vendor refused their content
    _int("address_index"),  # where in the chain of addresses the next attempt begins
    _text("claim", null=True),
    _int("claim_token"),
    _int("claim_until_ms", null=True),
    _int("lost", default=0),  # attempts in a row that a process did not outlive
    _int("shown_seq", default=0),  # the newest that the device says it has shown: nothing reminds of what lies before
    key=("app_id", "user_id", "device_id"),
)
Index(
    "push_job_due",
    push_job.c.due_ms,
    sqlite_where=text("due_ms IS NOT NULL"),
    postgresql_where=text("due_ms IS NOT NULL"),
)
Index("push_job_suspect", push_job.c.due_ms, sqlite_where=text("lost > 0"), postgresql_where=text("lost > 0"))
push_attempt = _table(
    "push_attempt",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("claim_token"),
    _text("account"),
    _blob("token_hash"),
    _text("push_id"),
    _int("from_seq"),
    _int("upto_seq"),
    _text("form"),  # each, summary, wake, knock
    _int("started_ms"),
    _int("ended_ms", null=True),
    _text("verdict", null=True),
    _text("vendor_id", null=True),
    _text("vendor_code", null=True),
    _text("left_out"),  # fields that the vendor cannot express, with commas between
    key=("app_id", "user_id", "device_id", "claim_token"),
)
push_receipt = _table(
    "push_receipt",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("claim_token"),  # the attempt's
    _text("push_id"),  # which of its pushes
    _text("fact"),  # unknown, failed, delivered, clicked; withdrawn, not_withdrawn
    _text("code"),  # the vendor's, or nothing
    _text("reason", null=True),
    _int("at_ms", null=True),  # when it happened, as the vendor says
    _int("taken_ms"),
    key=("app_id", "user_id", "device_id", "claim_token", "push_id", "fact", "code"),
)
account_state = _table(
    "account_state",
    _text("app_id"),
    _text("account"),
    _int("parked_ms", null=True),
    _text("parked_code", null=True),
    key=("app_id", "account"),
)
account_day = _table(  # only of accounts with a daily quota, and of days that a vendor called used up
    "account_day",
    _text("app_id"),
    _text("account"),
    _text("day"),  # the vendor's, like 2026-11-26
    _int("sent"),
    key=("app_id", "account", "day"),
)
push_dead = _table(  # pushes that no vendor will carry; their messages wait for a sync
    "push_dead",
    _text("app_id"),
    _text("user_id"),
    _text("device_id"),
    _int("dead_ms"),
    _text("account"),
    _text("verdict"),
    _text("vendor_code", null=True),
    _int("from_seq"),
    _int("upto_seq"),
    key=("app_id", "user_id", "device_id"),
)

# --- conversations, shared timelines, fan-out -------------------------------------------------------------------------

conversation = _table(
    "conversation",  # its row lock is that of its shared timeline
    _text("app_id"),
    _text("conversation_id"),
    _text("type"),
    _text("epoch"),
    _int("head_seq"),
    _int("floor_seq"),
    _int("members_version"),
    key=("app_id", "conversation_id"),
)
membership = _table(
    "membership",
    _text("app_id"),
    _text("conversation_id"),
    _text("user_id"),
    _int("joined_version"),
    _int("left_version", null=True),
    _int("joined_seq"),
    _int("left_seq", null=True),
    _text("notify"),
    _int("wake_seq"),
    key=("app_id", "conversation_id", "user_id", "joined_version"),
)
Index("membership_by_user", membership.c.app_id, membership.c.user_id)
Index(  # whom a wake job walks
    "membership_told",
    membership.c.app_id,
    membership.c.conversation_id,
    membership.c.user_id,
    sqlite_where=text("notify = 'all' AND left_version IS NULL"),
    postgresql_where=text("notify = 'all' AND left_version IS NULL"),
)
timeline_entry = _table(
    "timeline_entry",  # of a shared timeline: one for all its readers
    _text("app_id"),
    _text("conversation_id"),
    _int("seq"),
    _text("message_id"),
    _text("kind"),  # message, recall
    _text("origin_device", null=True),
    _int("origin_session", null=True),
    _text("collapse_key", null=True),
    _int("notifiable"),
    _text("data", null=True),  # JSON of a recall; of a message that mentions everybody
    _text("state"),
    _int("ended_by_seq", null=True),
    _int("accepted_ms"),
    _int("expires_ms"),
    key=("app_id", "conversation_id", "seq"),
)
Index("timeline_entry_by_message", timeline_entry.c.app_id, timeline_entry.c.message_id)
Index(
    "timeline_entry_by_collapse",
    timeline_entry.c.app_id,
    timeline_entry.c.conversation_id,
    timeline_entry.c.collapse_key,
    sqlite_where=text("collapse_key IS NOT NULL AND state = 'live'"),
    postgresql_where=text("collapse_key IS NOT NULL AND state = 'live'"),
)
fanout_job = _table(
    "fanout_job",
    _text("app_id"),
    _text("job_id"),
    _text("kind"),  # deliver: to a message's receivers; point: to all members; wake: members to a shared timeline
    _text("conversation_id", null=True),
    _text("message_id", null=True),
    _int("from_seq", null=True),
    _int("upto_seq", null=True),
    _text("options"),  # JSON: what the message's row does not say of its send
    _text("next_user"),  # the last one that is done
    _int("due_ms"),
    key=("app_id", "job_id"),
)
Index("fanout_job_due", fanout_job.c.due_ms)
Index(
    "fanout_job_of_conversation",
    fanout_job.c.app_id,
    fanout_job.c.conversation_id,
    sqlite_where=text("conversation_id IS NOT NULL"),
    postgresql_where=text("conversation_id IS NOT NULL"),
)

# --- events and webhooks ----------------------------------------------------------------------------------------------

event = _table(
    "event",
    _text("app_id"),
    _text("event_id"),
    _int("sequence", null=True),  # given after the commit, by one sequencer
    _text("type"),
    _text("data"),
    _int("created_ms"),
    key=("app_id", "event_id"),
)
Index("event_sequence", event.c.app_id, event.c.sequence, unique=True)
Index(
    "event_unnumbered",
    event.c.created_ms,
    sqlite_where=text("sequence IS NULL"),
    postgresql_where=text("sequence IS NULL"),
)
Index("event_by_age", event.c.app_id, event.c.created_ms, event.c.event_id)
endpoint = _table(
    "endpoint",
    _text("app_id"),
    _text("endpoint_id"),
    _text("url"),
    _text("description", null=True),
    _text("types"),  # JSON list; ["*"] = all that are on by default
    _blob("secret_sealed"),
    _blob("old_secret_sealed", null=True),
    _int("old_secret_until_ms", null=True),
    _blob("headers_sealed", null=True),  # JSON object: headers of the app's own
    _text("state"),  # active, failing, disabled; deleted: until its deliveries are swept away
    _int("failing_since_ms", null=True),
    _int("created_ms"),
    key=("app_id", "endpoint_id"),
)
delivery = _table(
    "delivery",
    _text("app_id"),
    _text("endpoint_id"),
    _text("event_id"),
    _text("state"),  # waiting, delivered, abandoned
    _int("attempts"),
    _int("due_ms", null=True),
    _text("claim", null=True),
    _int("claim_token"),
    _int("claim_until_ms", null=True),
    _text("last_result", null=True),
    _int("created_ms"),
    _int("updated_ms"),
    key=("app_id", "endpoint_id", "event_id"),
)
Index(
    "delivery_due",  # per endpoint: one endpoint's backlog is never in the way of another
    delivery.c.app_id,
    delivery.c.endpoint_id,
    delivery.c.due_ms,
    sqlite_where=text("due_ms IS NOT NULL"),
    postgresql_where=text("due_ms IS NOT NULL"),
)
Index(
    "delivery_claimed",
    delivery.c.app_id,
    delivery.c.endpoint_id,
    delivery.c.claim_until_ms,
    sqlite_where=text("claim_until_ms IS NOT NULL"),
    postgresql_where=text("claim_until_ms IS NOT NULL"),
)
Index("delivery_by_age", delivery.c.app_id, delivery.c.endpoint_id, delivery.c.created_ms, delivery.c.event_id)
