"""Messages that name a user, of whom its inbox may know nothing any more: for whoever renames or erases it."""

from collections.abc import Collection

import msgspec
from msgspec.structs import replace

from relay.inbox.send import JobOptions
from relay.model import UserKey
from relay.store import fanout as fanout_rows
from relay.store import users as rows
from relay.store.engine import Conn, Overtaken
from relay.store.users import Naming

CHUNK = 500


class NamedMessages:
    """What a walk before the transaction has found. What the transaction finds besides stays found when it is run again."""

    def __init__(self, user: UserKey, found: Naming) -> None:
        self._user = user
        self._found = found
        self._overtaken = False

    def hold(self, conn: Conn) -> None:
        """Has nobody deliver any of them, nor anything else of the user's groups, until the commit. After the groups' own
        locks, or a busy group would have had another job by then; before any inbox's, which deliveries take after their
        job's."""
        if self._overtaken:  # nothing comes to the groups any more: it is not so a second time
            self._look(conn)
        fanout_rows.hold(conn, self._user, self._found.ids)

    def by_now(self, conn: Conn) -> list[str]:
        """All of them, in order, with what has come since. Under L(u). Raises Overtaken where somebody is at what has come."""
        held = self._found.ids
        self._look(conn)
        if not fanout_rows.hold_free(conn, self._user, self._found.ids - held):
            self._overtaken = True
            raise Overtaken
        return sorted(self._found.ids)

    def _look(self, conn: Conn) -> None:
        """For what has come since."""
        found, more = self._found.again(), True
        while more:
            found, more = rows.naming(conn, self._user, found, limit=CHUNK)
        self._found = found


def name_in_jobs(conn: Conn, user: UserKey, message_ids: Collection[str], name: str | None) -> None:
    """Puts another name in the user's place, or none, where messages that are on their way mention it."""
    for job, text in fanout_rows.options_of(conn, user.app_id, message_ids).items():
        options = msgspec.json.decode(text, type=JobOptions)
        if user.user_id in options.mentions:
            named = [name if one == user.user_id else one for one in options.mentions]
            changed = replace(options, mentions=tuple(one for one in named if one is not None))
            fanout_rows.set_options(conn, user.app_id, job, msgspec.json.encode(changed).decode())
