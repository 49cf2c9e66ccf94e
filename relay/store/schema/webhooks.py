"""Tables of events and webhooks."""

from sqlalchemy import Index, text

from relay.store.schema.columns import blob_, int_, table, text_

event = table(
    "event",
    text_("app_id"),
    text_("event_id"),
    int_("sequence", null=True),  # given after the commit, by one sequencer
    text_("type"),
    text_("data"),
    int_("created_ms"),
    key=("app_id", "event_id"),
)
Index(
    "event_sequence",
    event.c.app_id,
    event.c.sequence,
    unique=True,
    sqlite_where=text("sequence IS NOT NULL"),  # so each is put in once, when it is numbered
    postgresql_where=text("sequence IS NOT NULL"),
)
Index(
    "event_unnumbered",
    event.c.created_ms,
    sqlite_where=text("sequence IS NULL"),
    postgresql_where=text("sequence IS NULL"),
)
Index("event_by_age", event.c.app_id, event.c.created_ms, event.c.event_id)
endpoint = table(
    "endpoint",
    text_("app_id"),
    text_("endpoint_id"),
    text_("url"),
    text_("description", null=True),
    text_("types"),  # JSON list; ["*"] = all that are on by default
    blob_("secret_sealed"),
    blob_("old_secret_sealed", null=True),
    int_("old_secret_until_ms", null=True),
    blob_("headers_sealed", null=True),  # JSON object: headers of the app's own
    text_("state"),  # active, failing, disabled; deleted: until its deliveries are swept away
    int_("failing_since_ms", null=True),
    int_("created_ms"),
    key=("app_id", "endpoint_id"),
)
delivery = table(
    "delivery",
    text_("app_id"),
    text_("endpoint_id"),
    text_("event_id"),
    text_("state"),  # waiting, delivered, abandoned
    int_("attempts"),
    int_("due_ms", null=True),
    text_("claim", null=True),
    int_("claim_token"),
    int_("claim_until_ms", null=True),
    text_("last_result", null=True),
    int_("created_ms"),
    int_("updated_ms"),
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
