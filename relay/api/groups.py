"""The backend's calls about groups."""

from dataclasses import dataclass
from typing import Any

from relay.api.routes import Answer, Call
from relay.api.schemas.users import MembersBody
from relay.inbox.groups import Membership
from relay.inbox.service import InboxService


@dataclass(slots=True, kw_only=True)
class GroupApi:
    inbox: InboxService

    async def change(self, call: Call) -> Answer:
        body: MembersBody = call.body
        return Answer(200, _printed(await self._change(call, add=body.add or [], remove=body.remove or [])))

    async def remove(self, call: Call) -> Answer:
        await self._change(call, add=[], remove=[call.path["user"]])
        return Answer(204, None)

    async def _change(self, call: Call, *, add: list[str], remove: list[str]) -> Membership:
        return await self.inbox.change_group(call.principal.app_id, call.path["group"], add=add, remove=remove)

    async def members(self, call: Call) -> Answer:
        users, more = await self.inbox.members(
            call.principal.app_id, call.path["group"], after=call.query.after or "", limit=call.query.limit
        )
        return Answer(200, {"members": users, "after": users[-1] if more else None})

    async def dissolve(self, call: Call) -> Answer:
        await self.inbox.dissolve_group(call.principal.app_id, call.path["group"])
        return Answer(204, None)


def _printed(one: Membership) -> dict[str, Any]:
    return {"version": one.version, "members": one.members}
