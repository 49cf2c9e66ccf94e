"""Messages that a device sends itself, if its app lets devices do so (protocol 9.1, 12.3).

The sender is whoever holds the token, and keys are the device's own: no device can ask for, or block, another's. What a
device may say of a message is less than a backend: nothing that ends what others have sent, or speaks for the system.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from relay.api.problems import from_pydantic
from relay.api.routes import Answer, Call
from relay.api.schemas.base import ImageUrl, In, Out, Plain, Text
from relay.api.schemas.messages import TTL_S_MAX, SendBody, SenderBody, TimelineOut
from relay.api.sends import Sends, idempotency_key
from relay.clock import Clock, rfc3339
from relay.errors import FieldError, Forbidden, Invalid, Malformed, Throttled
from relay.ids import device_namespace
from relay.inbox.send import Accepted
from relay.inbox.service import InboxService
from relay.model import DeviceKey, Policy
from relay.realtime.protocol import Id, MessageIdText, Word
from relay.realtime.rate import Rate

MENTIONS_MAX = 50
HOW_TO_ALLOW = "Devices may not send here; the operator allows it by app.device_sends = true."


class DeviceTo(In):
    """Who receives: users (all their devices), or the members of a group that the sender belongs to."""

    users: Annotated[list[Id], Field(min_length=1)] | None = None
    group: Id | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "DeviceTo":
        if (self.users is None) == (self.group is None):
            raise ValueError("give one of `users` and `group`")
        return self


class DeviceConversation(In):
    type: Literal["direct", "group"] = "direct"
    id: Id | None = None


class DevicePush(In):
    """What to show on a device that is offline, in neutral words."""

    title: Text | None = None
    body: Text | None = None
    image: ImageUrl | None = None
    thread: Plain | None = None


class DeviceSendBody(In):
    """One message from this device. `body` is any JSON and reaches the receivers as it is."""

    to: DeviceTo
    conversation: DeviceConversation = DeviceConversation()
    type: Word = "text"
    body: Any
    push: DevicePush | None = None
    ttl_s: int | None = Field(None, ge=0, le=TTL_S_MAX)
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    min_schema: int | None = Field(None, ge=0, le=1_000_000)
    fallback: Any = None
    deliver_at: Annotated[str, StringConstraints(max_length=40)] | None = None
    client_ref: Id | None = None
    mentions: Annotated[list[Id], Field(min_length=1, max_length=MENTIONS_MAX)] | None = None
    id: MessageIdText | None = None


class RefusedOut(Out):
    user: str
    code: str


class SentOut(Out):
    """The promise: this message is on disk. `seq`: its number in the sender's own inbox, null where it has none (yet)."""

    id: str
    seq: int | None
    h: str
    epoch: str
    accepted_at: str
    expires_at: str
    deliver_at: str | None = None
    timeline: TimelineOut | None = None
    sender: SenderBody
    refused: list[RefusedOut]


@dataclass(slots=True, kw_only=True)
class DeviceSends:
    """The one way by which devices send, over HTTP and on sockets alike."""

    inbox: InboxService
    sends: Sends
    policy_of: Callable[[str], Policy]
    rate: Rate
    clock: Clock

    async def over_http(self, call: Call) -> Answer:
        device = call.principal.device_key
        assert device is not None  # the route table says so
        key = idempotency_key(call.request.headers.getall("Idempotency-Key", ()))
        if key is None:
            raise Malformed(
                "Send an Idempotency-Key, the same one in every repeat of this message.",
                code="idempotency_key_required",
            )
        accepted, answer = await self._send(device, call.body, call.raw, key)
        if accepted.replay:
            return Answer(200, answer, headers={"Idempotent-Replay": "true"})
        return Answer(202, answer)

    async def over_socket(self, device: DeviceKey, message: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The fields of `sent`. Raises Problem; fields that are not known here are ignored, as in every frame."""
        try:
            body = DeviceSendBody.model_validate(message, extra="ignore")
        except ValidationError as error:
            raise from_pydantic(error, DeviceSendBody, value=message) from None
        return (await self._send(device, body, message, key))[1]

    async def _send(
        self, device: DeviceKey, body: DeviceSendBody, raw: Mapping[str, Any], key: str
    ) -> tuple[Accepted, dict[str, Any]]:
        if not self.policy_of(device.app_id).device_sends:
            raise Forbidden(HOW_TO_ALLOW)
        if not self.rate.take(device, self.clock.monotonic_ms()):
            raise Throttled("This device sends too fast.", retry_after_s=1)
        await self._check_member(device, body.to.group)
        sender = {"user": device.user_id, "device": device.device_id}
        fields = body.model_dump(exclude_unset=True) | {"sender": sender}
        send = self.sends.send(
            device.app_id,
            _as_backend(fields),
            raw,
            key,
            namespace=device_namespace(device.user_id, device.device_id),
        )
        accepted = await self.inbox.accept(send)
        seq, epoch = await self.inbox.reader.place_of(device, accepted.message_id)
        answer: dict[str, Any] = {
            "id": accepted.message_id,
            "seq": seq,
            "h": send.h,
            "epoch": epoch,
            "accepted_at": rfc3339(accepted.accepted_ms),
            "expires_at": rfc3339(accepted.expires_ms),
            "sender": sender,
            "refused": [{"user": one.user_id, "code": one.refusal} for one in accepted.recipients if one.refusal],
        }
        if accepted.deliver_ms is not None:
            answer["deliver_at"] = rfc3339(accepted.deliver_ms)
        if accepted.posted is not None:
            answer["timeline"] = {"conversation": accepted.posted[0].conversation_id, "seq": accepted.posted[1]}
        return accepted, answer

    async def _check_member(self, device: DeviceKey, group: str | None) -> None:
        """Only members write to a group. Whoever leaves at this very moment may still get a last word in."""
        if group is not None and not await self.inbox.groups.has(group, device.user):
            raise Invalid(
                "Only a member may send to this group.",
                code="recipient_unknown",
                errors=(FieldError("/to/group", "not_a_member", "have the backend add this user first"),),
            )


def _as_backend(fields: Mapping[str, Any]) -> SendBody:
    """The same as a backend would say it, with what holds for all messages. Raises Invalid."""
    try:
        return SendBody.model_validate(fields)
    except ValidationError as error:
        raise from_pydantic(error, DeviceSendBody, value=fields) from None
