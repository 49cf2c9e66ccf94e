"""Tables of devices: how far each is, and where it can be told."""

from sqlalchemy import Index, text

from relay.store.schema.columns import blob_, int_, table, text_

device = table(
    "device",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    text_("state"),  # active, dormant, gone
    int_("session"),
    int_("conf_session"),  # highest session whose cursor came back: older stores are noticed by it
    int_("lineage_session"),  # of the last rebase, or other version: acks from before it change nothing
    int_("online_since_ms", null=True),
    int_("offline_since_ms", null=True),
    int_("linger_until_ms", null=True),
    int_("offline_told", default=0),
    text_("node_id", null=True),
    int_("start_seq"),
    int_("acked_seq"),
    int_("acked_high"),
    int_("pushed_seq"),
    int_("progress_ms"),
    text_("store_id", null=True),
    text_("app_version", null=True),
    int_("schema", null=True),
    text_("types", null=True),
    text_("platform", null=True),
    text_("locale", null=True),
    text_("tz", null=True),
    int_("background", default=0),
    text_("open_conversation", null=True),
    int_("has_address", default=0),
    text_("install_id", null=True),
    text_("predecessor", null=True),
    int_("created_ms"),
    int_("contact_ms"),
    text_("older_stores", null=True),  # JSON [[session, ms], …]: the last handshakes that came with an older store
    int_("seen_seq", default=0),  # all up to here was acked when the app was last in the foreground
    key=("app_id", "user_id", "device_id"),
)
Index("device_by_contact", device.c.state, device.c.contact_ms)
device_ack = table(
    "device_ack",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("from_seq"),
    int_("to_seq"),
    # 0: acked beyond `acked_seq`. 1: reported as acked, but the device is to get it once more (rebase, or over 64 ranges).
    # 2: passed by its cursor, but over before the device had it.
    int_("kind"),
    key=("app_id", "user_id", "device_id", "from_seq"),
)
device_held = table(
    "device_held",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("seq"),
    text_("why"),  # held, fallback, unknown_type, poison; released: comes again in full; failed: nothing could read it
    int_("tries"),
    key=("app_id", "user_id", "device_id", "seq"),
)
device_shared = table(
    "device_shared",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    text_("conversation_id"),
    int_("acked_seq"),  # by the store that shook hands last, as far as is known
    int_("acked_high"),
    int_("pushed_seq"),
    int_("told_claim", null=True),  # the attempt that told of it last
    key=("app_id", "user_id", "device_id", "conversation_id"),
)
Index("device_shared_by_place", device_shared.c.app_id, device_shared.c.conversation_id, device_shared.c.acked_high)
address = table(
    "address",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    int_("preference"),
    text_("account"),
    text_("kind"),
    blob_("token_sealed"),
    blob_("token_hash"),
    blob_("keys_sealed", null=True),  # sealed like the token
    int_("registered_ms"),
    text_("state"),  # active, dead, taken, unproven
    int_("shared"),
    int_("failures", default=0),  # in a row, of the sort that means a dead address if it goes on
    int_("failing_since_ms", null=True),  # the first of them
    int_("pushed_ms", null=True),  # when a push to it was last taken although it was stale
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
address_move = table(  # how often a token went from one device to another, within a day of the first time
    "address_move",
    text_("app_id"),
    text_("account"),
    blob_("token_hash"),
    int_("since_ms"),
    int_("moves"),
    key=("app_id", "account", "token_hash"),
)
Index("address_move_by_age", address_move.c.since_ms)
upgrade = table(
    "upgrade",
    text_("app_id"),
    text_("user_id"),
    text_("device_id"),
    text_("upgrade_id"),
    text_("from_version", null=True),
    text_("to_version", null=True),
    int_("at_ms"),
    text_("verdict"),
    text_("reason", null=True),
    int_("released"),
    text_("verify_state", null=True),  # repairing: differences were listed; ok, repaired, failed, missing
    int_("missing_found", null=True),
    int_("caught_up_ms", null=True),  # when the device first asked to be compared: it had caught up by then
    key=("app_id", "user_id", "device_id", "upgrade_id"),
)
Index("upgrade_by_age", upgrade.c.app_id, upgrade.c.at_ms)
