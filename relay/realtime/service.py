"""What devices ask for, whichever way they came: handshake, heartbeat, sync, ack. HTTP and sockets both call this."""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from providers.contract import AddressInvalid
from relay.clock import Clock, from_rfc3339, rfc3339
from relay.errors import FieldError, Invalid, Malformed, Throttled, TooLarge, Unavailable, not_an_instant
from relay.inbox.ack import AckAnswer, AckRequest, Nack
from relay.inbox.addresses import AddressState, NewAddress
from relay.inbox.batch import Batch
from relay.inbox.comparing import Compared, Comparison, Range
from relay.inbox.cursor import INBOX, Cursor
from relay.inbox.handshake import Hello, Welcome
from relay.inbox.judging import Reason, Verdict
from relay.inbox.service import InboxService
from relay.model import DeviceKey, Facts, Policy
from relay.presence.rules import Beat
from relay.presence.service import PresenceService
from relay.push.accounts import Accounts
from relay.push.sealing import KeyInvalid, SealKeys
from relay.realtime.advice import Versions
from relay.realtime.protocol import (
    ACK_IDS_MAX,
    AckBody,
    AddressBody,
    DigestBody,
    HeartbeatBody,
    HeartbeatOffer,
    HelloBody,
    VerifyBody,
    WindowBody,
)
from relay.store.upgrades import VERIFIED

CLOCKS_APART_MS = 60_000
COMPARED_AT_ONCE, COMPARED_NEXT = 2, 16  # more are sent away


class Rate(Protocol):
    """What keeps a caller from coming too often."""

    def take(self, key: Hashable, now_ms: int) -> bool: ...


class Unlimited:
    def take(self, key: Hashable, now_ms: int) -> bool:
        return True


SealToken = Callable[[DeviceKey, str, str], tuple[bytes, bytes]]  # (device, account, token) -> sealed, hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """A handshake's outcome: the answer to print, and what a connection needs."""

    welcome: Welcome
    beat: Beat
    window: WindowBody
    answer: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class DeviceService:
    """The device's face of the relay."""

    inbox: InboxService
    presence: PresenceService
    accounts: Accounts
    clock: Clock
    policy_of: Callable[[str], Policy]
    seal_token: SealToken
    node_id: str
    poll_client_s: int = 5
    window: WindowBody = field(default_factory=WindowBody)  # the largest that is granted
    versions: Versions = field(default_factory=Versions)
    comparisons: Rate = field(default_factory=Unlimited)  # how often a device may begin to compare
    rounds: Rate = field(default_factory=Unlimited)  # how many rounds all its comparisons may have
    _comparing: int = 0
    _comparer: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(COMPARED_AT_ONCE))

    # --- handshake ---

    async def hello(self, device: DeviceKey, body: HelloBody) -> Greeted:
        """Shakes hands and counts the device as online."""
        welcome = await self.inbox.hello(self._hello(device, body))
        beat = self.presence.beat(offered(body.heartbeat))
        background = body.state == "background"
        self.presence.connected(device, welcome.session, beat, Facts(background, None), offer=offered(body.heartbeat))
        window = WindowBody(
            entries=min(body.window.entries, self.window.entries), bytes=min(body.window.bytes, self.window.bytes)
        )
        answer = self._answer(device, welcome, beat, window, body.app_version)
        await self._greet_shared(device, body.cursors, welcome, answer)
        repairing = body.store is not None and body.store.repair
        if body.digest is not None and welcome.verdict is not Verdict.RESYNC and (welcome.upgrade or repairing):
            answer["digest"] = await self._digest(device, body.digest, welcome)
            if welcome.upgrade is not None:
                answer["upgrade"] = welcome.upgrade | {"digest": answer.pop("digest")}
        return Greeted(welcome=welcome, beat=beat, window=window, answer=answer)

    async def _greet_shared(
        self, device: DeviceKey, given: Mapping[str, str | None], welcome: Welcome, answer: dict[str, Any]
    ) -> None:
        """Shared cursors are judged after the inbox's, and say nothing of it; what the device has there counts as acked."""
        cursors = {name: text for name, text in given.items() if name != INBOX and text is not None}
        if not cursors:
            return
        greeting = await self.inbox.shared.greet(device, cursors, void=welcome.reason is Reason.STORE_CHANGED)
        if greeting.held:
            await self.inbox.ack(AckRequest(device=device, session=welcome.session, shared=greeting.held))
        answer["cursors"] |= greeting.cursors
        answer["shared"] = list(greeting.verdicts)

    def _hello(self, device: DeviceKey, body: HelloBody) -> Hello:
        addresses = None if body.addresses is None else self.sealed(device, body.addresses)
        return Hello(
            device=device,
            node_id=self.node_id,
            cursor=body.cursors.get(INBOX),
            store_id=None if body.store is None else body.store.id,
            app_version=body.app_version,
            schema=body.schema_,
            types=None if body.types is None else tuple(body.types),
            platform=body.platform,
            locale=body.locale,
            tz=body.tz,
            background=body.state == "background",
            install_id=body.install_id,
            replaces=body.replaces,
            addresses=addresses,
        )

    def offers(self, app_id: str) -> list[dict[str, Any]]:
        """The accounts that a device may have addresses in, and what its app has to know for that."""
        return [
            {
                "account": name,
                "provider": account.provider.name,
                "kinds": sorted(account.provider.capabilities.kinds),
                "offer": dict(account.provider.offer()),
            }
            for name, account in sorted(self.accounts.of(app_id).items())
        ]

    def sealed(self, device: DeviceKey, addresses: Sequence[AddressBody]) -> tuple[NewAddress, ...]:
        """Addresses with their tokens sealed. Raises Invalid for an account that is not configured, or named twice."""
        app_id = device.app_id
        errors: list[FieldError] = []
        seen: set[tuple[str, str]] = set()
        out: list[NewAddress] = []
        for index, one in enumerate(addresses):
            account = self.accounts.get(app_id, one.account)
            pointer = f"/addresses/{index}"
            if account is None:
                known = ", ".join(sorted(self.accounts.of(app_id))) or "none"
                errors.append(
                    FieldError(f"{pointer}/account", "unknown", f"no such account is configured; there are: {known}")
                )
                continue
            kinds = account.provider.capabilities.kinds
            if one.kind not in kinds:
                errors.append(
                    FieldError(f"{pointer}/kind", "unknown", f"this account takes: {', '.join(sorted(kinds))}")
                )
                continue
            try:
                token = account.provider.address(one.kind, one.token)
            except AddressInvalid as error:
                errors.append(FieldError(f"{pointer}/token", "invalid", str(error)))
                continue
            try:
                keys = None if one.seal is None else SealKeys.read(one.seal.p256dh, one.seal.auth)
            except KeyInvalid as error:
                errors.append(FieldError(f"{pointer}/seal/{error.field}", "invalid", str(error)))
                continue
            if (one.account, token) in seen:
                continue
            seen.add((one.account, token))
            sealed, token_hash = self.seal_token(device, one.account, token)
            out.append(
                NewAddress(
                    account=one.account,
                    kind=one.kind,
                    token_sealed=sealed,
                    token_hash=token_hash,
                    keys_sealed=None if keys is None else self.seal_token(device, one.account, keys.text)[0],
                    challenged=account.terms.challenge,
                )
            )
        if errors:
            raise Invalid(f"{errors[0].pointer}: {errors[0].detail}.", errors=tuple(errors))
        return tuple(out)

    def _answer(
        self, device: DeviceKey, welcome: Welcome, beat: Beat, window: WindowBody, app_version: str | None
    ) -> dict[str, Any]:
        policy = self.policy_of(device.app_id)
        answer: dict[str, Any] = {
            "verdict": welcome.verdict,
            "reason": welcome.reason,
            "session": welcome.session,
            "epoch": welcome.epoch,
            "cursors": {"inbox": welcome.cursor},
            "head": welcome.head_seq,
            "floor": welcome.floor_seq,
            "acked": welcome.acked_seq,
            "missing": welcome.missing,
            "upgrade": welcome.upgrade,
            "heartbeat": {"interval_s": beat.interval_s, "lease_s": beat.lease_s},
            "ack_wait_s": policy.ack_wait_ms / 1000,
            "window": {"entries": window.entries, "bytes": window.bytes},
            "addresses": [address_answer(one) for one in welcome.addresses],
            "next_poll_s": self.poll_client_s,
            "now": rfc3339(self.clock.now_ms()),
            "advice": self.versions.advice(app_version),
        }
        if welcome.loss is not None:
            answer["loss"] = welcome.loss
        if welcome.reidentify:
            answer["reidentify"] = True
        return answer

    # --- heartbeat ---

    async def heartbeat(self, device: DeviceKey, body: HeartbeatBody) -> dict[str, Any]:
        """Renews the lease. Raises Conflict for a session that a newer one replaced."""
        beat = await self.renew(
            device, body.session, state=body.state, open_conversation=body.open_conversation, offer=body.heartbeat
        )
        heads = await self.inbox.heads([device.user])
        return self.beat_answer(heads.get(device.user, 0), beat, behind=self._behind(device, body.cursor, heads))

    async def renew(
        self,
        device: DeviceKey,
        session: int,
        *,
        state: str,
        open_conversation: str | None,
        offer: HeartbeatOffer | None,
    ) -> Beat:
        """A sign of life with what the client says of itself, and the rhythm that it is to keep. Raises Conflict."""
        beat = self.presence.beat(offered(offer), of=device)
        facts = Facts(state == "background", open_conversation)
        await self.presence.heartbeat(device, session, facts, beat)
        return beat

    def _behind(self, device: DeviceKey, cursor: str | None, heads: dict[Any, int]) -> bool:
        if cursor is None:
            return False
        return self.inbox.unseal(cursor, device).seq < heads.get(device.user, 0)

    def beat_answer(self, head: int, beat: Beat, *, behind: bool) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "head": head,
            "interval_s": beat.interval_s,
            "lease_s": beat.lease_s,
            "now": rfc3339(self.clock.now_ms()),
        }
        if behind:
            answer["do"] = "sync"
        return answer

    # --- comparing ---

    async def verify(self, device: DeviceKey, body: VerifyBody) -> dict[str, Any]:
        """One round of comparing caches. Raises CursorRefused, Malformed (invalid_cursor), Invalid, Throttled."""
        cursor = self.inbox.unseal(body.cursor, device)
        now_ms = self.clock.now_ms()
        as_of_ms = None if body.as_of is None else _as_of(body.as_of, now_ms)
        if body.ranges and body.ranges[-1].to > cursor.seq:
            pointer = f"/ranges/{len(body.ranges) - 1}/to"
            raise Invalid(
                "There is nothing to compare beyond the cursor.",
                errors=(FieldError(pointer, "out_of_range", "must be at most the cursor's number"),),
            )
        upgrade = None
        if body.purpose == "upgrade":
            upgrade = await self.inbox.upgrades.to_prove(device, body.upgrade)
        free = upgrade is not None and upgrade.verify_state not in VERIFIED
        rate = self.rounds if body.as_of is not None or free else self.comparisons
        if not rate.take(device, self.clock.monotonic_ms()):
            raise Throttled(
                "This device has been compared often enough; what it lacks comes by sync.", retry_after_s=600
            )
        ranges = [Range(one.from_, one.to, one.n, int(one.fp, 16)) for one in body.ranges]
        compared = await self._compare(device, ranges, cursor=cursor, as_of_ms=as_of_ms)
        state = None
        if upgrade is not None:
            state = await self.inbox.upgrades.prove(device, upgrade.upgrade_id, compared, mended=body.mended)
        if body.extra:
            await self.inbox.upgrades.note_extra(device, body.extra)
        return _compared_json(compared) | {"state": state}

    @property
    def comparing(self) -> tuple[int, int]:
        """Devices that are compared or wait for it, and how many may."""
        return self._comparing, COMPARED_AT_ONCE + COMPARED_NEXT

    async def _compare(self, device: DeviceKey, ranges: Sequence[Range], **where: Any) -> Comparison:
        """Few at a time: a comparison reads a whole inbox, and pages go first. Raises Unavailable."""
        if self._comparing >= COMPARED_AT_ONCE + COMPARED_NEXT:
            raise Unavailable("Too many devices are being compared; sync goes on.", retry_after_s=5)
        self._comparing += 1
        try:
            async with self._comparer:
                return await self.inbox.compare(device, ranges, **where)
        finally:
            self._comparing -= 1

    async def _digest(self, device: DeviceKey, digest: DigestBody, welcome: Welcome) -> str:
        """Whether the client has everything up to its cursor, by its own sums; `differs` too if there is no time to look."""
        upto = welcome.head_seq - welcome.missing
        whole = Range(0, max(1, upto), digest.n, int(digest.fp, 16))
        try:
            return "same" if (await self._compare(device, [whole], upto=upto)).same else "differs"
        except Unavailable:
            return "differs"

    # --- filling ---

    async def fill(self, device: DeviceKey, timeline: str, low: int, high: int, *, limit: int) -> Batch:
        """The numbers of a timeline after `low`, up to `high`, as far as they fit a page. Raises Unauthenticated, Missing."""
        if timeline != INBOX:
            return (await self.inbox.shared.fill(device, timeline, low, high, limit=limit))[1]
        reading = await self.inbox.read(device, None, limit=limit, range_=(low, high))
        assert reading.batch is not None
        return reading.batch

    # --- acks ---

    async def ack(
        self,
        device: DeviceKey,
        body: AckBody,
        *,
        session: int | None = None,
        upto: int | None = None,
        shared_upto: tuple[tuple[str, int], ...] = (),
    ) -> AckAnswer:
        """Takes an ack. Raises CursorRefused, Malformed (invalid_cursor), Conflict, TooLarge."""
        if body.ids is not None and len(body.ids) > ACK_IDS_MAX:
            raise TooLarge(f"An ack may name {ACK_IDS_MAX} messages.", code="batch_too_large")
        return await self.inbox.ack(
            AckRequest(
                device=device,
                session=session,
                upto=upto,
                cursor=None if body.cursor is None else self.inbox.unseal(body.cursor, device),
                ids=tuple(dict.fromkeys(body.ids or ())),
                nacks=tuple(
                    Nack(one.id, one.code, one.app_version)
                    for one in body.nack or ()
                    if one.code != "storage"  # it stays owed
                ),
                reads=tuple((one.conversation, one.read_seq) for one in body.read or ()),
                receipts=tuple((one.id, one.what) for one in body.receipts or ()),
                shared=tuple(self._readable(device, body.shared or ())),
                shared_upto=shared_upto,
            )
        )

    def _readable(self, device: DeviceKey, texts: Sequence[str]) -> Iterator[Cursor]:
        """Shared cursors as far as they are any; what is none acks nothing, and keeps nothing else from being acked."""
        for text in texts:
            with suppress(Malformed):
                yield self.inbox.unseal(text, device)


def _as_of(text: str, now_ms: int) -> int:
    try:
        as_of_ms = from_rfc3339(text)
    except (ValueError, OverflowError):
        raise not_an_instant("/as_of") from None
    if not 0 <= as_of_ms <= now_ms + CLOCKS_APART_MS:
        raise Invalid(
            "`as_of` is what an earlier answer said.",
            errors=(FieldError("/as_of", "out_of_range", "leave it out of the first round, then repeat the answer's"),),
        )
    return as_of_ms


def _compared_json(compared: Comparison) -> dict[str, Any]:
    return {
        "timeline": "inbox",
        "as_of": rfc3339(compared.as_of_ms),
        "floor": compared.base_seq,
        "ranges": [_range_json(one) for one in compared.ranges],
    }


def _range_json(one: Compared) -> dict[str, Any]:
    head = {"from": one.range.low, "to": one.range.high}
    if one.same:
        return head | {"result": "same"}
    if one.items is None:
        return head | {"result": "split"}
    return head | {"result": "items", "items": [list(item) for item in one.items]}


def address_answer(one: AddressState) -> dict[str, Any]:
    said = {"account": one.account, "state": one.state}
    return said if one.failing_since_ms is None else said | {"failing_since": rfc3339(one.failing_since_ms)}


def ack_answer(answer: AckAnswer) -> dict[str, Any]:
    said: dict[str, Any] = {"acked": answer.acked_seq, "results": answer.results}
    return said | {"shared": answer.shared} if answer.shared else said


def offered(offer: HeartbeatOffer | None) -> tuple[float, float, float] | None:
    return None if offer is None else (offer.min_s, offer.max_s, offer.prefer_s)
