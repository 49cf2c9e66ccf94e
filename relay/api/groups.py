"""The backend's calls about groups."""

from dataclasses import dataclass
from typing import Any

from relay.api.routes import Answer, Call
from relay.api.schemas.users import MemberBody, MembersBody
from relay.inbox.groups import GroupService, Membership
from relay.model import UserKey

ULTRA = "ultra"


@dataclass(slots=True, kw_only=True)
class GroupApi:
    groups: GroupService

    async def change(self, call: Call) -> Answer:
        body: MembersBody = call.body
        after = await self.groups.change(
            call.principal.app_id,
            call.path["group"],
            add=body.add or [],
            remove=body.remove or [],
            ultra=body.type == ULTRA,
            notify=body.notify,
        )
        return Answer(200, _printed(after))

    async def set_notify(self, call: Call) -> Answer:
        body: MemberBody = call.body
        user = UserKey(call.principal.app_id, call.path["user"])
        await self.groups.set_notify(user, call.path["group"], body.notify)
        return Answer(204, None)

    async def remove(self, call: Call) -> Answer:
        group, user = call.path["group"], call.path["user"]
        await self.groups.change(call.principal.app_id, group, add=[], remove=[user])
        return Answer(204, None)

    async def members(self, call: Call) -> Answer:
        users, more = await self.groups.members(
            call.principal.app_id, call.path["group"], after=call.query.after or "", limit=call.query.limit
        )
        return Answer(200, {"members": users, "after": users[-1] if more else None})

    async def dissolve(self, call: Call) -> Answer:
        await self.groups.dissolve(call.principal.app_id, call.path["group"])
        return Answer(204, None)


def _printed(one: Membership) -> dict[str, Any]:
    return {"version": one.version, "members": one.members, "type": one.type}
