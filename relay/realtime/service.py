"""What devices ask for, whichever way they came: handshake, heartbeat, sync, ack. HTTP and sockets both call this."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from relay.clock import Clock, rfc3339
from relay.errors import Malformed, TooLarge
from relay.inbox.ack import AckAnswer, AckRequest, Nack
from relay.inbox.batch import Batch
from relay.inbox.cursor import INBOX, Cursor
from relay.inbox.handshake import Hello, Welcome
from relay.inbox.judging import Reason, Verdict
from relay.inbox.service import InboxService
from relay.model import DeviceKey, Facts, Policy
from relay.presence.rules import Beat
from relay.presence.service import PresenceService
from relay.realtime.addresses import AddressBook, address_answer
from relay.realtime.advice import Versions
from relay.realtime.comparing import Comparer
from relay.realtime.protocol import ACK_IDS_MAX, AckBody, HeartbeatBody, HeartbeatOffer, HelloBody, WindowBody


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
    addresses: AddressBook
    comparer: Comparer
    clock: Clock
    policy_of: Callable[[str], Policy]
    node_id: str
    poll_client_s: int = 5
    window: WindowBody = field(default_factory=WindowBody)  # the largest that is granted
    versions: Versions = field(default_factory=Versions)

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
            answer["digest"] = await self.comparer.digest(device, body.digest, welcome)
            if welcome.upgrade is not None:
                answer["upgrade"] = welcome.upgrade | {"digest": answer.pop("digest")}
        return Greeted(welcome=welcome, beat=beat, window=window, answer=answer)

    async def _greet_shared(
        self, device: DeviceKey, given: Mapping[str, str | None], welcome: Welcome, answer: dict[str, Any]
    ) -> None:
        """Shared cursors are judged after the inbox's, and say nothing of it; what the device has there, no more and no less,
        counts as acked."""
        cursors = {name: text for name, text in given.items() if name != INBOX and text is not None}
        if not cursors:
            return
        greeting = await self.inbox.shared.greet(device, cursors, void=welcome.reason is Reason.STORE_CHANGED)
        if greeting.stands:
            await self.inbox.ack(
                AckRequest(device=device, session=welcome.session, shared=greeting.stands, shared_anew=True)
            )
        answer["cursors"] |= greeting.cursors
        answer["shared"] = list(greeting.verdicts)

    def _hello(self, device: DeviceKey, body: HelloBody) -> Hello:
        addresses = None if body.addresses is None else self.addresses.sealed(device, body.addresses)
        return Hello(
            device=device,
            node_id=self.node_id,
            cursor=body.cursors.get(INBOX),
            store_id=None if body.store is None else body.store.id,
            store_user=None if body.store is None else body.store.user,
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

    def _answer(
        self, device: DeviceKey, welcome: Welcome, beat: Beat, window: WindowBody, app_version: str | None
    ) -> dict[str, Any]:
        policy = self.policy_of(device.app_id)
        answer: dict[str, Any] = {
            "user": device.user_id,
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
        heads = await self.inbox.reader.heads([device.user])
        return self.beat_answer(heads.get(device.user, 0), beat, to_sync=self._to_sync(device, body.cursor, heads))

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

    def _to_sync(self, device: DeviceKey, cursor: str | None, heads: dict[Any, int]) -> bool:
        if cursor is None:
            return False
        return self.inbox.reader.unseal(cursor, device).seq != heads.get(device.user, 0)  # ahead: numbers were lost

    def beat_answer(self, head: int, beat: Beat, *, to_sync: bool) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "head": head,
            "interval_s": beat.interval_s,
            "lease_s": beat.lease_s,
            "now": rfc3339(self.clock.now_ms()),
        }
        if to_sync:
            answer["do"] = "sync"
        return answer

    # --- filling ---

    async def fill(self, device: DeviceKey, timeline: str, low: int, high: int, *, limit: int) -> Batch:
        """The numbers of a timeline after `low`, up to `high`, as far as they fit a page. Raises Unauthenticated, Missing."""
        if timeline != INBOX:
            return (await self.inbox.shared.fill(device, timeline, low, high, limit=limit))[1]
        reading = await self.inbox.reader.read(device, None, limit=limit, range_=(low, high))
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
                cursor=None if body.cursor is None else self.inbox.reader.unseal(body.cursor, device),
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
                store_id=None if body.store is None else body.store.id,
                store_user=None if body.store is None else body.store.user,
            )
        )

    def _readable(self, device: DeviceKey, texts: Sequence[str]) -> Iterator[Cursor]:
        """Shared cursors as far as they are any; what is none acks nothing, and keeps nothing else from being acked."""
        for text in texts:
            with suppress(Malformed):
                yield self.inbox.reader.unseal(text, device)


def ack_answer(answer: AckAnswer) -> dict[str, Any]:
    said: dict[str, Any] = {"acked": answer.acked_seq, "results": answer.results}
    return said | {"shared": answer.shared} if answer.shared else said


def offered(offer: HeartbeatOffer | None) -> tuple[float, float, float] | None:
    return None if offer is None else (offer.min_s, offer.max_s, offer.prefer_s)
