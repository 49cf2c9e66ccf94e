"""Tables of conversations, shared timelines and fan-out."""

from sqlalchemy import Index, text

from relay.store.schema.columns import int_, table, text_

conversation = table(
    "conversation",  # its row lock is that of its shared timeline
    text_("app_id"),
    text_("conversation_id"),
    text_("type"),
    text_("epoch"),
    int_("head_seq"),
    int_("floor_seq"),
    int_("members_version"),
    key=("app_id", "conversation_id"),
)
membership = table(
    "membership",
    text_("app_id"),
    text_("conversation_id"),
    text_("user_id"),
    int_("joined_version"),
    int_("left_version", null=True),
    int_("joined_seq"),
    int_("left_seq", null=True),
    text_("notify"),
    int_("wake_seq"),
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
timeline_entry = table(
    "timeline_entry",  # of a shared timeline: one for all its readers
    text_("app_id"),
    text_("conversation_id"),
    int_("seq"),
    text_("message_id"),
    text_("kind"),  # message, recall
    text_("origin_device", null=True),
    int_("origin_session", null=True),
    text_("collapse_key", null=True),
    int_("notifiable"),
    text_("data", null=True),  # JSON of a recall; of a message that mentions everybody
    text_("state"),
    int_("ended_by_seq", null=True),
    int_("accepted_ms"),
    int_("expires_ms"),
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
fanout_job = table(
    "fanout_job",
    text_("app_id"),
    text_("job_id"),
    text_("kind"),  # deliver: to a message's receivers; point: to all members; wake: members to a shared timeline
    text_("conversation_id", null=True),
    text_("message_id", null=True),
    int_("from_seq", null=True),
    int_("upto_seq", null=True),
    text_("options"),  # JSON: what the message's row does not say of its send
    text_("next_user"),  # the last one that is done
    int_("accepted_ms"),  # when it was made
    int_("due_ms"),
    int_("tries", default=0),  # processes that have begun with it soon after their start
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
