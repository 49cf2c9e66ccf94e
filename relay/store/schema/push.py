"""Tables of pushes and of vendor accounts."""

from sqlalchemy import Index, text

from relay.store.schema.columns import blob_, int_, table, text_

push_job = table(
    "push_job",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("due_ms", null=True),  # null: resting
    text_("reason", null=True),
    int_("knock"),  # knocks done since the last contact
    int_("told_ms", null=True),  # first `accepted` since then: knocks count from it
    int_("tries"),  # failed attempts in a row
    int_("retry_ms", null=True),  # not before then, after a failed attempt
    int_("bare_seq", default=0),  # entries up to here go as a bare wake-up: the vendor refused their content
    text_("claim", null=True),
    int_("claim_token"),
    int_("claim_until_ms", null=True),
    int_("lost", default=0),  # attempts in a row that a process did not outlive
    int_("shown_seq", default=0),  # the newest that the device says it has shown: nothing reminds of what lies before
    int_("escalate_seq", default=0),  # a step of messages up to here has the device told through its next address
    int_("escalate_after", default=0),  # ... of those above here
    int_("escalate_on", default=0),  # 1: some of them have been pushed, and there was no time for more under one claim
    key=("app_id", "user_id", "device_id"),
)
Index(
    "push_job_due",
    push_job.c.app_id,
    push_job.c.due_ms,
    sqlite_where=text("due_ms IS NOT NULL"),
    postgresql_where=text("due_ms IS NOT NULL"),
)
Index("push_job_suspect", push_job.c.due_ms, sqlite_where=text("lost > 0"), postgresql_where=text("lost > 0"))
push_attempt = table(
    "push_attempt",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("claim_token"),
    text_("account"),
    blob_("token_hash"),
    text_("push_id"),
    int_("from_seq"),
    int_("upto_seq"),
    text_("form"),  # each, unseen, summary, wake, knock; of a step: escalate, or repeat where there is no next address
    int_("started_ms"),
    int_("ended_ms", null=True),
    text_("verdict", null=True),
    text_("vendor_id", null=True),
    text_("vendor_code", null=True),
    text_("left_out"),  # fields that the vendor cannot express, with commas between
    key=("app_id", "user_id", "device_id", "claim_token"),
)
push_receipt = table(
    "push_receipt",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("claim_token"),  # the attempt's
    text_("push_id"),  # which of its pushes
    text_("fact"),  # unknown, failed, delivered, clicked; withdrawn, not_withdrawn
    text_("code"),  # the vendor's, or nothing
    text_("reason", null=True),
    int_("at_ms", null=True),  # when it happened, as the vendor says
    int_("taken_ms"),
    key=("app_id", "user_id", "device_id", "claim_token", "push_id", "fact", "code"),
)
account_state = table(
    "account_state",
    text_("app_id"),
    text_("account"),
    int_("parked_ms", null=True),
    text_("parked_code", null=True),
    int_("mended", default=0),  # how often
    int_("released", default=0),  # after which time all that had rested was made due
    key=("app_id", "account"),
)
account_day = table(  # only of accounts with a daily quota, and of days that a vendor called used up
    "account_day",
    text_("app_id"),
    text_("account"),
    text_("day"),  # the vendor's, like 2026-11-26
    int_("sent"),
    key=("app_id", "account", "day"),
)
account_hold = table(  # of what accounts send some is used up for the day, and the rest goes
    "account_hold",
    text_("app_id"),
    text_("account"),
    blob_("token_hash"),  # of one device's address; empty: of all
    text_("channel"),  # of the pushes; empty: of those that name none
    int_("until_ms"),
    key=("app_id", "account", "token_hash", "channel"),
)
push_dead = table(  # pushes that no vendor will carry; their messages wait for a sync
    "push_dead",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("dead_ms"),
    text_("account"),
    text_("verdict"),
    text_("vendor_code", null=True),
    int_("from_seq"),
    int_("upto_seq"),
    key=("app_id", "user_id", "device_id"),
)
