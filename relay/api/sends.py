"""From a request to a message that can be accepted: what a sender may ask for, and under which key."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relay import ids
from relay.api.schemas.messages import SendBody
from relay.clock import Clock, from_rfc3339
from relay.errors import FieldError, Invalid, Malformed, TooLarge, not_an_instant
from relay.ids import Rng
from relay.inbox.escalation import Step, to_store
from relay.inbox.send import Send
from relay.model import EVERYWHERE, NotifyPolicy, Policy, Scope

GROUP = "group"
BACKEND = "b"  # the namespace of its keys
DELIVER_LATER_MS_MAX = 28 * 86_400_000
RECIPIENTS_MAX = 1000
PAYLOAD_BYTES_MAX = 64 * 1024
KEY_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
_encode = msgspec.json.Encoder().encode
_canonical = msgspec.json.Encoder(order="deterministic").encode

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
        ttl_s = policy.ttl_s if body.ttl_s is None else body.ttl_s
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
            by_device=namespace != BACKEND,
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
            escalate=None if body.escalate is None else _steps(body, ttl_s),
            notify_release=body.notify_release,
            hold=body.hold,
            scope=scope,
            notify_policy=None if body.notify is None else NotifyPolicy(body.notify),
            ttl_s=ttl_s,
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
                online=given.state is not None,
            )
            if scope.online and body.ttl_s != 0:
                raise Invalid(
                    "What is only for devices that are online is for now or never.",
                    errors=(FieldError("/scope/state", "conflict", "goes with `ttl_s: 0`"),),
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
                online=scope.online,
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


def _steps(body: SendBody, ttl_s: int) -> str:
    """The steps as they are kept. Raises Invalid."""
    steps = [Step(one.after_s, one.by) for one in body.escalate or ()]
    errors: list[FieldError] = []
    for index, step in enumerate(steps):
        place = f"/escalate/{index}"
        if index and step.after_s <= steps[index - 1].after_s:
            errors.append(FieldError(f"{place}/after_s", "order", "must be more than that of the step before"))
        if step.after_s >= ttl_s:
            errors.append(FieldError(f"{place}/after_s", "conflict", f"must be less than `ttl_s`, which is {ttl_s}"))
        if step.by == "next_address" and body.push is None and body.push_held is None:
            errors.append(FieldError(f"{place}/by", "conflict", "needs `push`: there is nothing to show"))
    if errors:
        raise Invalid("These steps can't be taken.", errors=tuple(errors))
    return to_store(steps)


def fingerprint(content: bytes) -> str:
    """`h` of protocol 2.1: the first 8 bytes of SHA-256 of the delivered form."""
    return hashlib.sha256(content).hexdigest()[:16]


def body_hash(raw: Mapping[str, Any]) -> bytes:
    """Of everything that is stored, without `id` and `key`: equal content in another order is the same."""
    return hashlib.sha256(_canonical({k: v for k, v in raw.items() if k not in {"id", "key"}})).digest()
