"""Tables of inboxes and messages."""

from sqlalchemy import Index, text

from relay.store.schema.columns import blob_, int_, table, text_

inbox = table(
    "inbox",  # its row lock is L(u), protocol 6.4
    text_("app_id"),
    text_("user_id"),
    text_("epoch"),
    int_("head_seq"),
    int_("floor_seq"),
    int_("pinned_until_ms"),
    int_("created_ms"),
    text_("formerly", null=True),  # JSON of the user's names before: cursors made out to them are old, not broken
    text_("preferences", null=True),  # JSON: levels, mutes, quiet hours; here, since it is read with the lock
    int_("woken", default=0),  # 1: some shared timeline has had a reason to wake this user
    key=("app_id", "user_id"),
)
message = table(
    "message",
    text_("app_id"),
    text_("message_id"),
    text_("type"),
    text_("conversation_type"),
    text_("conversation_id", null=True),
    text_("sender_user", null=True),
    text_("sender_device", null=True),
    text_("client_ref", null=True),
    text_("priority"),
    text_("body", null=True),  # JSON; null once it has been blanked
    text_("h"),
    text_("push", null=True),
    text_("collapse_key", null=True),
    int_("min_schema", null=True),
    text_("min_app_version", null=True),
    text_("fallback", null=True),
    text_("fallback_h", null=True),
    text_("escalate", null=True),  # JSON: its steps
    text_("push_held", null=True),  # what is shown where it is held: "update the app"
    int_("notify_release", default=0),
    int_("hold"),
    text_("scope", null=True),
    text_("notify_policy", null=True),
    text_("key", null=True),
    text_("recipients"),  # JSON: [[user, seq | null, refusal | null], ...]: what the sender was answered; both: waiting
    int_("accepted_ms"),
    int_("deliver_ms", null=True),  # not before then: it waits in `fanout_job`, and has no numbers yet
    int_("expires_ms"),
    int_("content_until_ms", null=True),  # then its content goes; null: with its row, or it has gone
    key=("app_id", "message_id"),
)
Index("message_by_age", message.c.app_id, message.c.accepted_ms, message.c.message_id)
Index(
    "message_content",
    message.c.content_until_ms,
    sqlite_where=text("content_until_ms IS NOT NULL"),
    postgresql_where=text("content_until_ms IS NOT NULL"),
)
inbox_entry = table(
    "inbox_entry",
    text_("app_id"),
    text_("user_id"),
    int_("seq"),
    text_("message_id"),  # the message's id; control entries have ids of their own
    text_("kind"),
    text_("only_device"),  # '' = every device
    text_("origin_device", null=True),
    int_("origin_session", null=True),
    text_("collapse_key", null=True),
    int_("notifiable"),
    text_("data", null=True),  # JSON of control entries
    text_("state"),
    int_("ended_by_seq", null=True),
    int_("ended_ms", null=True),
    int_("completed_ms", null=True),  # message.completed was told
    int_("accepted_ms"),
    int_("expires_ms"),
    int_("escalated", null=True),  # steps taken; null: it has none
    int_("escalate_ms", null=True),  # of the next one; null: none will be taken
    key=("app_id", "user_id", "seq"),
    clustered=True,
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
    "inbox_entry_escalating",
    inbox_entry.c.escalate_ms,
    sqlite_where=text("escalate_ms IS NOT NULL AND state = 'live'"),
    postgresql_where=text("escalate_ms IS NOT NULL AND state = 'live'"),
)
Index(
    "inbox_entry_by_collapse",
    inbox_entry.c.app_id,
    inbox_entry.c.user_id,
    inbox_entry.c.collapse_key,
    sqlite_where=text("collapse_key IS NOT NULL AND state = 'live'"),
    postgresql_where=text("collapse_key IS NOT NULL AND state = 'live'"),
)
idempotency = table(
    "idempotency",
    text_("app_id"),
    text_("key"),  # namespace and key: keys of a device's own sends live apart
    blob_("body_hash"),
    text_("message_id"),
    text_("writer"),  # which transaction wrote it: tells a fresh row from one that was there
    int_("expires_ms"),
    key=("app_id", "key"),
)
Index("idempotency_expiring", idempotency.c.expires_ms)
read_marker = table(
    "read_marker",
    text_("app_id"),
    text_("user_id"),
    text_("conversation_id"),
    int_("read_seq"),
    int_("updated_ms"),
    key=("app_id", "user_id", "conversation_id"),
)
