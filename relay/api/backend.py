"""The backend's calls: each parses, calls one service method, and prints."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from relay.api.issuing import Issuer
from relay.api.principal import Principal
from relay.api.problems import from_pydantic, problem_body
from relay.api.routes import Answer, Call
from relay.api.schemas.devices import DeviceBody, PresenceBody, PresenceItem, PresenceQuery
from relay.api.schemas.messages import BatchBody, BatchItem
from relay.api.schemas.users import RenameBody
from relay.api.sends import Sends, idempotency_key
from relay.clock import Clock, rfc3339
from relay.errors import Problem, TooLarge
from relay.inbox.ack import AckRequest
from relay.inbox.online import ForeignWord
from relay.inbox.push_due import is_stale
from relay.inbox.registry import Registration
from relay.inbox.send import Accepted, Recipient, Send
from relay.inbox.service import InboxService
from relay.model import Device, DeviceKey, Facts, UserKey
from relay.presence.rules import Beat
from relay.presence.service import PresenceService
from relay.realtime.service import DeviceService

BATCH_MAX = 500


def accepted_json(accepted: Accepted) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": accepted.message_id,
        "accepted_at": rfc3339(accepted.accepted_ms),
        "expires_at": rfc3339(accepted.expires_ms),
        "recipients": [_recipient_json(one) for one in accepted.recipients],
    }
    if accepted.deliver_ms is not None:
        answer["deliver_at"] = rfc3339(accepted.deliver_ms)
    if accepted.job is not None:
        answer["fanout"] = {"total": accepted.fanout_total, "job": accepted.job}
    if accepted.posted is not None:
        key, seq = accepted.posted
        answer["timeline"] = {"conversation": key.conversation_id, "seq": seq}
    return answer


def _recipient_json(one: Recipient) -> dict[str, Any]:
    if one.refusal is not None:
        return {"user": one.user_id, "status": "rejected", "code": one.refusal}
    if one.seq is None:
        return {"user": one.user_id, "status": "waiting"}
    return {"user": one.user_id, "status": "accepted", "seq": one.seq}


@dataclass(slots=True, kw_only=True)
class BackendApi:
    """Handlers of the backend's routes."""

    inbox: InboxService
    presence: PresenceService
    devices: DeviceService
    sends: Sends
    issuer: Issuer
    revoked: Callable[[], Awaitable[None]]  # ends at once what was opened with a revoked token
    connected: Callable[[DeviceKey], int]  # how many connections the device has here
    clock: Clock

    # --- messages ---

    async def send(self, call: Call) -> Answer:
        key = idempotency_key(call.request.headers.getall("Idempotency-Key", ()))
        accepted = await self.inbox.accept(self.sends.send(call.principal.app_id, call.body, call.raw, key))
        if accepted.replay:
            return Answer(200, accepted_json(accepted), headers={"Idempotent-Replay": "true"})
        return Answer(202, accepted_json(accepted))

    async def send_batch(self, call: Call) -> Answer:
        body: BatchBody = call.body
        if len(body.messages) > BATCH_MAX:
            raise TooLarge(f"A batch may have {BATCH_MAX} messages.", code="batch_too_large")
        app_id = call.principal.app_id
        results: list[dict[str, Any]] = [{} for _ in body.messages]
        sends: list[tuple[int, Send]] = []
        for index, raw in enumerate(body.messages):
            try:
                sends.append((index, self._batch_item(app_id, raw)))
            except Problem as problem:
                results[index] = _rejected(index, problem)
        answers = await self.inbox.accept_many([send for _, send in sends]) if sends else []
        for (index, _), answer in zip(sends, answers, strict=True):
            if isinstance(answer, Accepted):
                status = "replayed" if answer.replay else "accepted"
                results[index] = {"index": index, "status": status, **accepted_json(answer)}
            elif isinstance(answer, Problem):
                results[index] = _rejected(index, answer)
            else:
                raise answer
        rejected = sum(one["status"] == "rejected" for one in results)
        return Answer(202, {"accepted": len(results) - rejected, "rejected": rejected, "results": results})

    def _batch_item(self, app_id: str, raw: Any) -> Send:
        try:
            item = BatchItem.model_validate(raw)
        except ValidationError as error:
            raise from_pydantic(error) from None
        return self.sends.send(app_id, item, raw, item.key)

    async def look_up(self, call: Call) -> Answer:
        found = await self.inbox.reader.trace(call.principal.app_id, call.path["message"])
        return Answer(200, {**found.message, "recipients": found.recipients})

    async def cancel(self, call: Call) -> Answer:
        word = await self.inbox.cancel(call.principal.app_id, call.path["message"])
        return Answer(200, {"id": call.path["message"], "status": word})

    # --- devices ---

    async def put_device(self, call: Call) -> Answer:
        body: DeviceBody = call.body
        key = _device(call)
        addresses = None if body.addresses is None else self.devices.addresses.sealed(key, body.addresses)
        _, new = await self.inbox.register(
            Registration(
                device=key,
                platform=body.platform,
                app_version=body.app_version,
                schema=body.schema_,
                locale=body.locale,
                tz=body.tz,
                install_id=body.install_id,
                replaces=body.replaces,
                addresses=addresses,
            )
        )
        return Answer(201 if new else 200, await self._device_json(key))

    async def get_device(self, call: Call) -> Answer:
        return Answer(200, await self._device_json(_device(call)))

    async def _device_json(self, key: DeviceKey) -> dict[str, Any]:
        device, addresses = await self.inbox.reader.device(key)
        stale = partial(is_stale, device, policy=self.inbox.policy_of(key.app_id), now_ms=self.clock.now_ms())
        return {
            "user": key.user_id,
            "device": key.device_id,
            "state": device.state,
            "online": device.online,
            "platform": device.platform,
            "app_version": device.app_version,
            "schema": device.schema,
            "locale": device.locale,
            "tz": device.tz,
            "session": device.session,
            "acked": device.acked_seq,
            "created_at": rfc3339(device.created_ms),
            "last_contact_at": rfc3339(device.contact_ms),
            "addresses": [
                {
                    "account": one.account,
                    "kind": one.kind,
                    "state": "stale" if one.state == "active" and stale(one) else one.state,
                    "registered_at": rfc3339(one.registered_ms),
                    "failing_since": None if one.failing_since_ms is None else rfc3339(one.failing_since_ms),
                }
                for one in addresses
            ],
        }

    async def delete_device(self, call: Call) -> Answer:
        await self.inbox.sign_out(_device(call))
        await self.revoked()
        return Answer(204, None)

    # --- the devices' credentials ---

    async def mint_token(self, call: Call) -> Answer:
        return Answer(201, (await self.issuer.first_token(_device(call))).printed())

    async def revoke_device_tokens(self, call: Call) -> Answer:
        return await self._revoke(_device(call).user, _device(call).device_id)

    async def revoke_user_tokens(self, call: Call) -> Answer:
        return await self._revoke(UserKey(call.principal.app_id, call.path["user"]), None)

    async def _revoke(self, user: UserKey, device_id: str | None) -> Answer:
        await self.issuer.revoke_tokens(user.app_id, user_id=user.user_id, device_id=device_id)
        await self.revoked()
        return Answer(204, None)

    async def delete_user(self, call: Call) -> Answer:
        await self.inbox.erase(UserKey(call.principal.app_id, call.path["user"]))
        await self.revoked()
        return Answer(204, None)

    async def rename_user(self, call: Call) -> Answer:
        body: RenameBody = call.body
        await self.inbox.rename(UserKey(call.principal.app_id, call.path["user"]), body.to)
        await self.revoked()
        return Answer(204, None)

    async def app_versions(self, call: Call) -> Answer:
        since_ms = self.clock.now_ms() - call.query.hours * 3_600_000
        found = await self.inbox.upgrades.versions(call.principal.app_id, since_ms=since_ms)
        return Answer(200, {"since": rfc3339(since_ms), "versions": [asdict(one) for one in found]})

    # --- presence ---

    async def post_presence(self, call: Call) -> Answer:
        """Heartbeats of a gateway: a lease each, a row only where something changed.

        The words of one device count in their order; those of several are written together.
        """
        body: PresenceBody = call.body
        beat = self.presence.beat()
        lease_s = body.lease_s or beat.lease_s
        beat = Beat(interval_s=beat.interval_s, lease_s=lease_s)
        of_each: dict[tuple[str, str], list[int]] = {}
        for place, item in enumerate(body.devices):
            of_each.setdefault((item.user, item.device), []).append(place)
        results: dict[int, dict[str, Any]] = {}

        async def of_one(places: Sequence[int]) -> None:
            for place in places:
                results[place] = await self._one_presence(call.principal, body.devices[place], beat)

        ended = await asyncio.gather(*map(of_one, of_each.values()), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        return Answer(200, {"lease_s": lease_s, "results": [results[place] for place in range(len(body.devices))]})

    async def _one_presence(self, principal: Principal, item: PresenceItem, beat: Beat) -> dict[str, Any]:
        device = DeviceKey(principal.app_id, item.user, item.device)
        head = {"user": item.user, "device": item.device}
        try:
            facts = Facts(item.state == "background", None)
            lease = self.presence.book.get(device)
            if item.state == "offline" and self.connected(device):
                pass  # the gateway speaks of its own socket; of ours, we know
            elif item.state == "offline":
                session = await self.inbox.foreign(ForeignWord(device=device, state=item.state))
                self.presence.book.drop(device, session)
            elif lease is not None and lease.facts == facts:
                self.presence.renew(device, lease.session)
            else:
                session = await self.inbox.foreign(ForeignWord(device=device, state=item.state))
                self.presence.connected(device, session, beat, facts)
            if item.acked is not None:
                await self.inbox.ack(
                    AckRequest(device=device, upto=item.acked.upto, ids=tuple(dict.fromkeys(item.acked.ids or ())))
                )
        except Problem as problem:
            if problem.status >= 500:
                raise
            return {**head, "status": "rejected", "code": "not_found" if problem.status == 401 else problem.code}
        return {**head, "status": "ok"}

    async def user_presence(self, call: Call) -> Answer:
        key = UserKey(call.principal.app_id, call.path["user"])
        found = await self.inbox.reader.devices([key])
        return Answer(200, _presence_json(key.user_id, found[key]))

    async def query_presence(self, call: Call) -> Answer:
        body: PresenceQuery = call.body
        keys = [UserKey(call.principal.app_id, user) for user in dict.fromkeys(body.users)]
        found = await self.inbox.reader.devices(keys)
        return Answer(200, {"users": [_presence_json(key.user_id, found[key]) for key in keys]})


def _device(call: Call) -> DeviceKey:
    return DeviceKey(call.principal.app_id, call.path["user"], call.path["device"])


def _rejected(index: int, problem: Problem) -> dict[str, Any]:
    return {"index": index, "status": "rejected", "problem": problem_body(problem)}


def _presence_json(user: str, devices: Sequence[Device]) -> dict[str, Any]:
    listed = [
        {
            "device": one.device_id,
            "online": one.online,
            "state": "offline" if not one.online else "background" if one.background else "foreground",
            "since": _since(one),
        }
        for one in devices
    ]
    return {"user": user, "online": any(one.online for one in devices), "devices": listed}


def _since(device: Device) -> str | None:
    at_ms = device.online_since_ms if device.online else device.offline_since_ms
    return None if at_ms is None else rfc3339(at_ms)
