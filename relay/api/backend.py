"""The backend's calls: each parses, calls one service method, and prints."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from pydantic import ValidationError

from relay import ids
from relay.api.issuing import Issuer
from relay.api.principal import Principal
from relay.api.problems import from_pydantic, problem_body
from relay.api.routes import Answer, Call
from relay.api.schemas.devices import DeviceBody, PresenceBody, PresenceItem, PresenceQuery
from relay.api.schemas.messages import BatchBody, BatchItem, SendBody
from relay.api.schemas.users import RenameBody
from relay.clock import Clock, from_rfc3339, rfc3339
from relay.errors import FieldError, Invalid, Malformed, Problem, TooLarge, not_an_instant
from relay.ids import Rng
from relay.inbox.ack import AckRequest
from relay.inbox.registry import ForeignWord, Registration
from relay.inbox.send import Accepted, Recipient, Send
from relay.inbox.service import InboxService
from relay.model import EVERYWHERE, Device, DeviceKey, Facts, NotifyPolicy, Policy, Scope, UserKey
from relay.presence.rules import Beat
from relay.presence.service import PresenceService
from relay.realtime.service import DeviceService

BATCH_MAX = 500
GROUP = "group"
BACKEND = "b"  # the namespace of its keys
DELIVER_LATER_MS_MAX = 28 * 86_400_000
RECIPIENTS_MAX = 1000
PAYLOAD_BYTES_MAX = 64 * 1024
KEY_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
_canonical = msgspec.json.Encoder(order="deterministic").encode
_encode = msgspec.json.Encoder().encode

CheckPush = Callable[
    [str, str, Mapping[str, Mapping[str, Any]]], list[FieldError]
]  # (app, field, overrides) -> mistakes


def idempotency_key(values: Sequence[str]) -> str | None:
    """The header's value, checked, if there is one. Raises Malformed."""
    if not values:
        return None
    text = values[0]
    if len(values) > 1 or not 1 <= len(text) <= 128 or not KEY_CHARS.issuperset(text):
        raise Malformed(
            "Send one Idempotency-Key of 1 to 128 characters of A-Z a-z 0-9 . _ : -", code="idempotency_key_invalid"
        )
    return text


@dataclass(slots=True, kw_only=True)
class Sends:
    """Makes a `Send` of what a backend asks for: ids, hashes, canonical text."""

    clock: Clock
    rng: Rng
    policy_of: Callable[[str], Policy]
    id_secret: Callable[[str], bytes]
    check_push: CheckPush

    def send(
        self, app_id: str, body: SendBody, raw: Mapping[str, Any], key: str | None, *, namespace: str = BACKEND
    ) -> Send:
        """Raises Invalid, Malformed, TooLarge; nothing is stored by that. `namespace`: whose key it is."""
        policy = self.policy_of(app_id)
        if key is None and policy.require_idempotency_key:
            raise Malformed(
                "Send an Idempotency-Key, so that a repeat is known as one.", code="idempotency_key_required"
            )
        users, scope = self._receivers(body)
        content = _encode(body.body)
        fallback = None if body.fallback is None else _encode(body.fallback)
        push = None if body.push is None else _encode(body.push.model_dump(exclude_none=True))
        push_held = None if body.push_held is None else _encode(body.push_held.model_dump(exclude_none=True))
        if sum(len(part or b"") for part in (content, push, fallback, push_held)) > PAYLOAD_BYTES_MAX:
            raise TooLarge(
                f"`body`, `push`, `fallback` and `push_held` may have {PAYLOAD_BYTES_MAX} bytes together.",
                code="payload_too_large",
            )
        self._check_pushes(app_id, body)
        message_id, from_key = self._id(app_id, key, body.id, namespace)
        return Send(
            app_id=app_id,
            message_id=message_id,
            id_from_key=from_key,
            key=None if key is None else f"{namespace}{ids.NEVER_KEYED}{key}",
            body_hash=body_hash(raw),
            nonce=ids.random_hex(self.rng, bits=64),
            users=users,
            group=body.to.group,
            devices_named=body.to.devices is not None,
            type=body.type,
            conversation_type=GROUP if body.to.group is not None else body.conversation.type,
            conversation_id=body.conversation.id or body.to.group,
            sender_user=None if body.sender is None else body.sender.user,
            sender_device=None if body.sender is None else body.sender.device,
            client_ref=body.client_ref,
            priority=body.priority,
            body=content.decode(),
            h=fingerprint(content),
            push=None if push is None else push.decode(),
            collapse_key=body.collapse_key,
            min_schema=body.min_schema,
            min_app_version=body.min_app_version,
            fallback=None if fallback is None else fallback.decode(),
            fallback_h=None if fallback is None else fingerprint(fallback),
            push_held=None if push_held is None else push_held.decode(),
            notify_release=body.notify_release,
            hold=body.hold,
            scope=scope,
            notify_policy=None if body.notify is None else NotifyPolicy(body.notify),
            ttl_s=policy.ttl_s if body.ttl_s is None else body.ttl_s,
            deliver_ms=None if body.deliver_at is None else self._deliver_ms(body.deliver_at),
            mentions=tuple(dict.fromkeys(body.mentions or ())),
            everyone=body.mention_everyone,
        )

    def _deliver_ms(self, text: str) -> int | None:
        """When to deliver; None: now, also if that time has passed."""
        try:
            at_ms = from_rfc3339(text)
        except (ValueError, OverflowError):
            raise not_an_instant("/deliver_at") from None
        now_ms = self.clock.now_ms()
        if at_ms > now_ms + DELIVER_LATER_MS_MAX:
            raise Invalid(
                "A message may wait for 28 days.",
                errors=(FieldError("/deliver_at", "out_of_range", "must lie within the next 28 days"),),
            )
        return at_ms if at_ms > now_ms else None

    def _check_pushes(self, app_id: str, body: SendBody) -> None:
        errors = [
            error
            for name, one in (("push", body.push), ("push_held", body.push_held))
            if one is not None and one.overrides
            for error in self.check_push(app_id, name, one.overrides)
        ]
        if errors:
            raise Invalid("The overrides are not valid for their providers.", errors=tuple(errors))

    def _receivers(self, body: SendBody) -> tuple[tuple[str, ...], Scope]:
        """The users, each once, and the scope: single devices are users with a scope of their own."""
        given = body.scope
        scope = EVERYWHERE
        if given is not None:
            scope = Scope(
                devices=tuple(given.devices or ()),
                exclude_devices=tuple(given.exclude_devices or ()),
                platforms=tuple(given.platforms or ()),
                first_ack_wins=given.first_ack_wins,
            )
        if body.to.group is not None:
            return (), scope
        if body.to.users is not None:
            users = tuple(dict.fromkeys(body.to.users))
        else:
            assert body.to.devices is not None
            users = tuple(dict.fromkeys(one.user for one in body.to.devices))
            if scope.devices:
                raise Invalid(
                    "Name devices once.",
                    errors=(FieldError("/scope/devices", "conflict", "leave it out when `to.devices` is given"),),
                )
            named = tuple(dict.fromkeys(one.device for one in body.to.devices))
            wanted = {(one.user, one.device) for one in body.to.devices}
            if len(wanted) != len(users) * len(named):
                raise Invalid(
                    "One message goes to the same devices of each user; send one message per user.",
                    errors=(FieldError("/to/devices", "mixed", "devices of several users must carry the same ids"),),
                )
            scope = Scope(
                devices=named,
                exclude_devices=scope.exclude_devices,
                platforms=scope.platforms,
                first_ack_wins=scope.first_ack_wins,
            )
        if len(users) > RECIPIENTS_MAX:
            raise Invalid(
                f"A message may have {RECIPIENTS_MAX} receivers.",
                code="too_many_recipients",
                errors=(FieldError("/to", "too_long", f"at most {RECIPIENTS_MAX}; send several, or use a group"),),
            )
        return users, scope

    def _id(self, app_id: str, key: str | None, given: str | None, namespace: str) -> tuple[str, bool]:
        """The message's id, and whether the same key always makes the same one (protocol 2.1)."""
        if key is None:
            if given is not None:
                raise Invalid(
                    "An id needs the key that it was made from.",
                    errors=(FieldError("/id", "needs_key", "send the Idempotency-Key of the first time"),),
                )
            return ids.message_id(self.clock.now_ms(), self.rng.getrandbits(ids.TAG_BITS)), False
        tag = ids.tag_of(key, namespace=namespace, secret=self.id_secret(app_id))
        if given is not None:
            if not ids.is_message_id(given) or ids.tag_of_id(given) != tag:
                raise Invalid(
                    "This id was not made from this key.",
                    errors=(FieldError("/id", "mismatch", "leave it out, or send the id of the earlier answer"),),
                )
            return given, True
        key_ms = ids.uuid7_ms(key)
        return ids.message_id(self.clock.now_ms() if key_ms is None else key_ms, tag), key_ms is not None


def fingerprint(content: bytes) -> str:
    """`h` of protocol 2.1: the first 8 bytes of SHA-256 of the delivered form."""
    return hashlib.sha256(content).hexdigest()[:16]


def body_hash(raw: Mapping[str, Any]) -> bytes:
    """Of everything that is stored, without `id` and `key`: equal content in another order is the same."""
    return hashlib.sha256(_canonical({k: v for k, v in raw.items() if k not in {"id", "key"}})).digest()


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
        found = await self.inbox.trace(call.principal.app_id, call.path["message"])
        return Answer(200, {**found.message, "recipients": found.recipients})

    async def cancel(self, call: Call) -> Answer:
        word = await self.inbox.cancel(call.principal.app_id, call.path["message"])
        return Answer(200, {"id": call.path["message"], "status": word})

    # --- devices ---

    async def put_device(self, call: Call) -> Answer:
        body: DeviceBody = call.body
        key = _device(call)
        addresses = None if body.addresses is None else self.devices.sealed(key, body.addresses)
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
        device, addresses = await self.inbox.device(key)
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
                    "state": one.state,
                    "registered_at": rfc3339(one.registered_ms),
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
        found = await self.inbox.versions(call.principal.app_id, since_ms=since_ms)
        return Answer(200, {"since": rfc3339(since_ms), "versions": [asdict(one) for one in found]})

    # --- presence ---

    async def post_presence(self, call: Call) -> Answer:
        """Heartbeats of a gateway: a lease each, a row only where something changed."""
        body: PresenceBody = call.body
        beat = self.presence.beat()
        lease_s = body.lease_s or beat.lease_s
        beat = Beat(interval_s=beat.interval_s, lease_s=lease_s)
        results = [await self._one_presence(call.principal, item, beat) for item in body.devices]
        return Answer(200, {"lease_s": lease_s, "results": results})

    async def _one_presence(self, principal: Principal, item: PresenceItem, beat: Beat) -> dict[str, Any]:
        device = DeviceKey(principal.app_id, item.user, item.device)
        head = {"user": item.user, "device": item.device}
        try:
            facts = Facts(item.state == "background", None)
            lease = self.presence.book.get(device)
            if item.state == "offline":
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
        found = await self.inbox.devices([key])
        return Answer(200, _presence_json(key.user_id, found[key]))

    async def query_presence(self, call: Call) -> Answer:
        body: PresenceQuery = call.body
        keys = [UserKey(call.principal.app_id, user) for user in dict.fromkeys(body.users)]
        found = await self.inbox.devices(keys)
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
