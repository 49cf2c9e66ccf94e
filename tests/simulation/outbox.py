"""Messages that a phone sends itself: until there is an answer, under the same key (protocol 9.1, 12.3)."""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.errors import Problem
from relay.model import DeviceKey, UserKey

from .client import Broken
from .loop import now_s, sleep
from .net import Lost

if TYPE_CHECKING:
    from .node import Node
    from .phone import Phone


class Draft(NamedTuple):
    """Under which key a phone sent a message, and the session it had when it began."""

    key: str
    session: int


async def send_one(phone: "Phone") -> None:
    """To some user of the same app. A device that is gone gives up."""
    world, device = phone.world, phone.key
    backend = next(one for one in world.backends if one.app_id == device.app_id)
    key, to = f"out-{phone._new_id()}", phone.draws.pick(backend.users)
    body = {"for": sorted({to, device.user_id}), "schema": 1, "bad": (), "hush": "hush-own"}
    message = {"to": {"users": [to]}, "body": body, "push": {"title": "hush-title"}}
    ask = partial(_ask, device, message, key)
    draft = Draft(key, phone.client.session)
    phone.client.database.drafts.add(key)
    made_s, again = now_s(), phone.draws.chance(0.3)
    receiver = UserKey(device.app_id, to)
    sent = await _answered(phone, ask, receiver)
    if sent is None:
        return
    world.story.tell("sent", phone.name, sent["id"], to)
    backend.sent_by_device(key, message, to, sent["id"], made_s, device.user_id)
    phone.drafted[sent["id"]] = draft
    times = world.set_backs
    if again and (repeated := await _answered(phone, ask, receiver)) is not None:
        if repeated["id"] != sent["id"] and world.set_backs == times:
            raise Broken(f"I37: {device} had id {sent['id']} for its key {key}, now {repeated['id']}")


async def _ask(device: DeviceKey, message: dict[str, Any], key: str, node: "Node") -> dict[str, Any]:
    return await node.device_sends.over_socket(device, message, key)


async def _answered(phone: "Phone", ask: Any, to: UserKey) -> dict[str, Any] | None:
    world, device = phone.world, phone.key
    while phone.key == device and not phone.gone:
        times = world.set_backs
        try:
            found: dict[str, Any] = await world.call(ask)
        except (Lost, Problem) as error:
            if isinstance(error, Problem) and not error.retryable:
                if (
                    error.status in {401, 403}
                    or phone.key != device
                    or (error.code == "recipient_unknown" and world.moves.moved(to))
                ):
                    return None  # signed out, or nobody is there any more by this name
                raise Broken(f"a device's send was refused for good: {error.code} {error.detail}") from error
            await sleep(world.draws.stream("backoff").between(0.5, 20))
            continue
        if world.set_backs == times:
            return found
    return None
