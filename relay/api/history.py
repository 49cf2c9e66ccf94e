"""Looking back: history over HTTP, and the download of message logs."""

from dataclasses import dataclass

from relay.api.routes import Answer, Call
from relay.clock import from_rfc3339
from relay.errors import FieldError, Invalid, not_an_instant
from relay.inbox.history import Asked
from relay.inbox.reader import InboxReader
from relay.message_logs import MessageLogs
from relay.model import SEQ_MAX


@dataclass(slots=True, kw_only=True)
class HistoryApi:
    reader: InboxReader
    files: MessageLogs

    async def messages(self, call: Call) -> Answer:
        query = call.query
        if query.state is not None and query.user is None:
            raise Invalid(
                "A message has a state in each inbox.",
                errors=(FieldError("?state", "needs_user", "say `user` as well, or leave it out"),),
            )
        asked = Asked(
            limit=query.limit,
            cursor=query.cursor,
            user=query.user,
            conversation=query.conversation,
            sender=query.sender,
            state=query.state,
            since_ms=_instant(query.since, "?since", 0),
            until_ms=_instant(query.until, "?until", SEQ_MAX),
        )
        found = await self.reader.history(call.principal.app_id, asked)
        return Answer(200, {"messages": found.items, "cursor": found.next})

    async def device(self, call: Call) -> Answer:
        key, query = call.principal.device_key, call.query
        assert key is not None  # the route table says so
        found = await self.reader.history_of_device(
            key, conversation=query.conversation, before=query.before, limit=query.limit
        )
        return Answer(200, {"entries": found.items, "before": found.next})

    async def logs(self, call: Call) -> Answer:
        hours = await self.files.hours(call.principal.app_id)
        listed = [{"hour": one.name, "path": f"/v1/logs/{one.name}", "empty": one.empty} for one in hours]
        return Answer(200, {"logs": listed})

    async def log(self, call: Call) -> Answer:
        path = await self.files.log(call.principal.app_id, call.path["hour"])
        return Answer(200, file=path, headers={"Content-Type": "application/gzip"})


def _instant(text: str | None, pointer: str, otherwise: int) -> int:
    if text is None:
        return otherwise
    try:
        return max(0, from_rfc3339(text))
    except (ValueError, OverflowError):
        raise not_an_instant(pointer) from None
