"""Tables of the store itself."""

from relay.store.schema.columns import int_, table, text_

store_meta = table(
    "store_meta",
    int_("id"),
    text_("epoch"),  # 128 bit, hex: the generation of every number in this store
    int_("epoch_since_ms"),
    int_("ticks"),  # + 1 every 5 s: what the witness compares
    text_("timeline_mark", null=True),  # PostgreSQL's WAL timeline when last seen
    int_("pruning_frozen_until_ms"),
    key=("id",),
)
node = table("node", text_("node_id"), int_("started_ms"), int_("beat_ms"), key=("node_id",))
