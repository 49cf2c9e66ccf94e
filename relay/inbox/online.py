"""Devices go offline and come back: words of presence that change a row (protocol 6.1, 9.5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from relay.errors import Missing
from relay.inbox.advancing import Step, advance
from relay.inbox.locked import Locked, PolicyOf, device_in, flush, lock
from relay.inbox.reports import tell_device
from relay.model import GATEWAY, Device, DeviceKey, DeviceState, UserKey
from relay.store.engine import Conn
from relay.store.meta import nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye:
    """A device went away from a node. `linger_ms`: it may be back at once. `tell`: the lease is over, or it said goodbye."""

    device: DeviceKey
    session: int
    node_id: str
    linger_ms: int = 0
    tell: bool = True


def bye(conn: Conn, now_ms: int, byes: Sequence[Bye], policy_of: PolicyOf) -> list[bool | Exception]:
    """Devices go offline; a word of an older session changes nothing, nor one of a node while another that lives has heard
    from the device since. Gives whether each changed a row."""
    users = lock(conn, now_ms, {one.device.user for one in byes}, policy_of)
    living = _Living(conn, now_ms)
    answers: list[bool | Exception] = []
    for one in byes:
        found = _in_session(users, one.device, one.session)
        if found is None:
            answers.append(False)
            continue
        locked, device = found
        if device.node_id not in {None, GATEWAY, one.node_id} and device.node_id in living:
            answers.append(False)
            continue
        if device.online:
            device = replace(
                device,
                offline_since_ms=now_ms,
                linger_until_ms=now_ms + one.linger_ms if one.linger_ms else None,
                open_conversation=None,
            )
        elif device.offline_told or not one.tell:
            answers.append(False)
            continue
        if one.tell and not device.offline_told:
            tell_device(locked, device, "device.offline", session=device.session)
            device = replace(device, offline_told=1)
        locked.put(device)
        locked.rearm_all()  # others may have waited because somebody looked at this one
        answers.append(True)
    flush(conn, now_ms, users.values())
    return answers


class _Living:
    """The nodes that live, read when first asked for."""

    def __init__(self, conn: Conn, now_ms: int) -> None:
        self._conn, self._now_ms = conn, now_ms
        self._nodes: frozenset[str] | None = None

    def __contains__(self, node_id: object) -> bool:
        if self._nodes is None:
            self._nodes = nodes(self._conn, self._now_ms, dead=False)
        return node_id in self._nodes


def _in_session(users: Mapping[UserKey, Locked], key: DeviceKey, session: int) -> tuple[Locked, Device] | None:
    found = device_in(users, key)
    return found if found is not None and found[1].session == session else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A heartbeat that changes a row: back from offline, to the background, another conversation open."""

    device: DeviceKey
    session: int
    node_id: str
    background: bool = False
    open_conversation: str | None = None


def word(conn: Conn, now_ms: int, words: Sequence[Word], policy_of: PolicyOf) -> list[bool | Exception]:
    """Applies heartbeats that change something; gives whether the session is still the device's."""
    users = lock(conn, now_ms, {one.device.user for one in words}, policy_of)
    answers: list[bool | Exception] = []
    for one in words:
        found = _in_session(users, one.device, one.session)
        if found is None:
            answers.append(False)
            continue
        locked, device = found
        answers.append(True)
        _online_again(locked, device, one)
    flush(conn, now_ms, users.values())
    return answers


def _online_again(locked: Locked, device: Device, one: Word) -> None:
    back = not device.online
    if back and device.offline_told:
        tell_device(locked, device, "device.online", session=device.session)
    if device.state is DeviceState.DORMANT:
        # The floor did not wait for it. Active again its cursor must still be too old (protocol 8.5), so what went counts as
        # passed, as after a handshake.
        advance(locked.conn, locked.now_ms, [Step(locked, device, locked.inbox.floor_seq)])
        device = locked.devices[device.device_id]
    locked.put(
        replace(
            device,
            state=DeviceState.ACTIVE,
            online_since_ms=locked.now_ms if back else device.online_since_ms,
            offline_since_ms=None,
            linger_until_ms=None,
            offline_told=0 if back else device.offline_told,
            node_id=one.node_id,
            contact_ms=locked.now_ms,
            background=int(one.background),
            open_conversation=one.open_conversation,
        )
    )
    if back:
        locked.rearm(device.device_id, anew=True)
    locked.rearm_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignWord:
    """What the app's own gateway says of a device whose socket it holds (protocol 9.5)."""

    device: DeviceKey
    state: str  # foreground, background, offline


def foreign_word(conn: Conn, now_ms: int, words: Sequence[ForeignWord], policy_of: PolicyOf) -> list[int | Exception]:
    """Applies a gateway's presence; gives the session of each device (made, if it had none)."""
    users = lock(conn, now_ms, {one.device.user for one in words}, policy_of)
    answers: list[int | Exception] = []
    for one in words:
        found = device_in(users, one.device)
        if found is None:
            answers.append(Missing("There is no such device."))
            continue
        locked, device = found
        if one.state == "offline":
            if device.online:
                tell_device(locked, device, "device.offline", session=device.session)
                locked.put(replace(device, offline_since_ms=now_ms, offline_told=1, open_conversation=None))
                locked.rearm_all()
        else:
            background = one.state == "background"
            if not device.online or device.node_id != GATEWAY or bool(device.background) != background:
                _online_again(
                    locked,
                    device,
                    Word(device=device.key, session=device.session, node_id=GATEWAY, background=background),
                )
        answers.append(device.session)
    flush(conn, now_ms, users.values())
    return answers
