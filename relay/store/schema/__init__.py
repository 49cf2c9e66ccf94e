"""Every table. All keys lead with `app_id` (and `user_id` where a row belongs to a user), so the schema shards as it stands.

Instants are integer milliseconds UTC; flags are 0 or 1; JSON is kept as text. Tables are STRICT on SQLite. They keep
their row ids: clustered by the key (WITHOUT ROWID), large rows like messages took 2.3 times as long to write. Entries are
clustered: they are small, and what a device lacks is read and marked in runs, which else are spread over as many pages.
"""

from relay.store.schema import apps, conversations, devices, inboxes, itself, push, webhooks
from relay.store.schema.columns import metadata

__all__ = ["apps", "conversations", "devices", "inboxes", "itself", "metadata", "push", "webhooks"]
