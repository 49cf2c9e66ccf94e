"""Tables of apps, and of the keys and tokens that let in."""

from sqlalchemy import Index, text

from relay.store.schema.columns import blob_, int_, table, text_

app = table(
    "app",
    text_("app_id"),
    blob_("id_secret"),  # makes message ids from idempotency keys
    text_("settings"),
    int_("event_head", default=0),
    int_("created_ms"),
    key=("app_id",),
)
api_key = table(
    "api_key",
    text_("app_id"),
    text_("key_id"),
    blob_("secret_mac"),
    text_("scopes"),
    text_("name"),
    int_("created_ms"),
    int_("expires_ms", null=True),
    int_("revoked_ms", null=True),
    int_("used_ms", null=True),
    int_("leaked_ms", null=True),  # when it first came where keys leak: in a URL or a cookie
    text_("networks", null=True),  # JSON list of the networks it may be used from; null: from anywhere
    key=("app_id", "key_id"),
)
Index("api_key_by_id", api_key.c.key_id, unique=True)
Index(
    "api_key_revoked",
    api_key.c.revoked_ms,
    sqlite_where=text("revoked_ms IS NOT NULL"),
    postgresql_where=text("revoked_ms IS NOT NULL"),
)
data_key = table(
    "data_key",  # what seals an app's secrets; itself sealed by the key ring
    text_("app_id"),
    int_("number"),
    blob_("wrapped"),
    int_("created_ms"),
    key=("app_id", "number"),
)
Index("data_key_by_age", data_key.c.created_ms)
device_token = table(
    "device_token",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    text_("token_id"),
    blob_("secret_mac"),
    text_("family"),  # the token the backend asked for, and all its successors
    int_("generation"),
    int_("created_ms"),
    int_("expires_ms"),
    int_("used_ms", null=True),  # a successor's first use; the backend's own counts as used
    int_("rotated_ms", null=True),  # another one of its family is in use since then
    int_("revoked_ms", null=True),
    key=("app_id", "user_id", "device_id", "token_id"),
)
Index("device_token_by_id", device_token.c.token_id, unique=True)
Index(
    "device_token_revoked",
    device_token.c.revoked_ms,
    sqlite_where=text("revoked_ms IS NOT NULL"),
    postgresql_where=text("revoked_ms IS NOT NULL"),
)
ticket = table(
    "ticket",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    text_("token_id"),  # the token it was got with: they end together
    blob_("ticket_mac"),
    text_("origin", null=True),
    int_("expires_ms"),
    key=("app_id", "ticket_mac"),
)
Index("ticket_by_mac", ticket.c.ticket_mac, unique=True)
