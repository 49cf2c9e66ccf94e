"""What a push says: one notification for each message, one for several, or none at all (protocol 7.2, 7.6)."""

import base64
import hashlib
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from providers.contract import Capabilities, left_out
from relay.model import Address, Notification
from relay.push.situation import AccountView, Item, Privacy, Situation
from relay.push.suspects import BARE_FROM

IDS_MAX = 10  # ids named in one push; cut first when it is too large
SUMMARY_PRIORITY_URGENT = frozenset({"high", "urgent"})


class Note(Struct, frozen=True, kw_only=True):
    """One notification of a plan, in neutral words. No title and no body: a silent wake-up."""

    push_id: str
    collapse_key: str
    shows: Notification | None
    urgent: bool
    ttl_s: int
    ids: tuple[str, ...]
    count: int
    upto_seq: int = 0  # the newest number of the inbox that it tells of
    timeline: str | None = None  # the shared one that it tells of instead
    again: str | None = None  # which reminder it is, or step of its messages: alike in each of its tries
    left_out: tuple[str, ...] = ()  # what the vendor cannot express of what is shown
    sealed: bool = False  # the vendor is not to see it

    @property
    def unseen(self) -> bool:
        """Whether the user sees nothing of it: a wake-up, or the app's data alone. A badge is seen."""
        return not self.sealed and _unseen(self.shows)


def all_unseen(notes: Iterable[Note]) -> bool:
    """Whether the user sees nothing of any of them."""
    for note in notes:  # noqa: SIM110 - half the time of `all`, and it is asked of each push
        if not note.unseen:
            return False
    return True


class Form:
    """How an attempt tells: each message (shown, or unseen), a summary, a bare wake-up, or again (a knock; a message's step)."""

    EACH = "each"
    UNSEEN = "unseen"  # each message, of which none shows anything
    SUMMARY = "summary"
    WAKE = "wake"
    KNOCK = "knock"
    ESCALATE = "escalate"  # each message, through the address after the one that was told
    REPEAT = "repeat"  # each message, through that one again: there is no other after it


OF_EACH = frozenset({Form.EACH, Form.UNSEEN, Form.ESCALATE, Form.REPEAT})


def write_notes(
    s: Situation, items: Sequence[Item], address: Address, account: AccountView, *, knock: bool
) -> tuple[str, list[Note]]:
    """The form of a push and its notifications, for as many messages as the account and the policy take by themselves."""
    items, bare = as_private(items, account.privacy)
    newest = _newest_per_key(items)
    capabilities = account.capabilities
    if knock:
        known = all(item.entry.seq <= s.device.acked_high for item in items)
        shown = not known and not bare and s.job.lost < BARE_FROM
        return Form.KNOCK, [summary(s, items, capabilities, shown=shown, urgent=False)]
    if bare or (s.job.bare_seq and any(item.entry.seq <= s.job.bare_seq for item in items)):
        return Form.WAKE, [summary(s, items, capabilities, shown=False, urgent=any(map(is_urgent, items)))]
    room = min(s.policy.separate_max, account.free)  # all of it goes now: what is left out here would count as told
    crowded = is_crowded(s, address, capabilities, fresh=len(newest))
    if len(newest) <= room and not crowded and s.untold_count <= len(s.untold):
        notes = [_own(s, item, capabilities) for item in newest]
        if not all_unseen(notes):
            return Form.EACH, notes
        if len(notes) == 1 or not capabilities.silent_gap_s:
            return Form.UNSEEN, notes
        # The vendor lets few of these through: one of them brings the app to all.
        return Form.WAKE, [summary(s, items, capabilities, shown=False, urgent=any(map(is_urgent, items)))]
    notes = _summaries(s, items, capabilities, crowded=crowded, room=room)
    return Form.WAKE if all_unseen(notes) else Form.SUMMARY, notes


def _summaries(
    s: Situation, items: Sequence[Item], capabilities: Capabilities, *, crowded: bool, room: int
) -> list[Note]:
    if crowded:
        return [
            summary(
                s,
                items,
                capabilities,
                shown=True,
                urgent=any(map(is_urgent, items)),
                for_all=True,
                # It takes the place of the last one, so it tells of what that one told of, too.
                count=s.told_count + max(s.untold_count, len(items)),
            )
        ]
    conversations: dict[str | None, list[Item]] = {}
    for item in items:
        conversations.setdefault(item.entry.conversation_id, []).append(item)
    # By their newest: if there is no time for the last of them, all that is left of these is above what was told.
    in_turn = sorted(conversations.values(), key=lambda some: some[-1].entry.seq)
    several = in_turn if len(conversations) <= room else [items]
    return [summary(s, some, capabilities, shown=True, urgent=any(map(is_urgent, some))) for some in several]


def shows(address: Address) -> bool:
    """Whether what it gets are notifications, rather than calls or the state of a live activity."""
    return address.kind.partition("_")[0] in {"token", "fid"}


def is_crowded(s: Situation, address: Address, capabilities: Capabilities, *, fresh: int) -> bool:
    """Whether a notification of its own for each of `fresh` messages of the inbox, and for each shared timeline, might
    drive out one that still waits at the vendor.

    The last key is that of the summary. A vendor that keeps one notification at all has no other; most phones are on, and
    show each, so there the summary is for a phone that has let a reminder go by: neither acked nor shown.
    """
    keys_max = capabilities.collapse_keys_max
    if keys_max is None or not shows(address):
        return False
    wanted = s.told_count + fresh + s.shared_keys
    if keys_max == 1:
        return s.job.knock > 0 and wanted > 1
    return wanted >= keys_max


def as_private(items: Sequence[Item], privacy: Privacy) -> tuple[Sequence[Item], bool]:
    """What the vendor may see of them, and whether that is nothing."""
    if privacy is not Privacy.TITLE:
        return items, privacy is Privacy.NONE
    titles = [replace(item, push=_title_only(item.push)) for item in items]
    return titles, any(item.push.title is None and item.push.title_loc_key is None for item in titles)


def as_sealed(note: Note, account: AccountView) -> Note:
    """The same, if the vendor is not to see what it shows; or with what is lacking for that."""
    if account.unsealed is not None:
        return replace(note, left_out=(*note.left_out, account.unsealed))
    if account.privacy is not Privacy.SEALED or note.shows is None:
        return note
    if _unseen(note.shows):  # a placeholder for it would be seen
        return replace(note, shows=None, left_out=(*note.left_out, *(("data",) if note.shows.data else ())))
    return replace(note, sealed=True, left_out=())  # the app has all of it


def _title_only(push: Notification) -> Notification:
    return Notification(
        title=push.title,
        title_loc_key=push.title_loc_key,
        title_loc_args=push.title_loc_args,
        sound=push.sound,
        badge=push.badge,
        channel=push.channel,
        thread=push.thread,
        mutable=push.mutable,
    )


def is_urgent(item: Item) -> bool:
    """Whether a summary that tells of it is urgent."""
    return item.priority in SUMMARY_PRIORITY_URGENT


def _newest_per_key(items: Sequence[Item]) -> Sequence[Item]:
    last: dict[str, int] = {item.collapse_key: item.entry.seq for item in items if item.collapse_key is not None}
    if not last:
        return items
    return [item for item in items if item.collapse_key is None or last[item.collapse_key] == item.entry.seq]


def _unseen(shows: Notification | None) -> bool:
    if shows is None:
        return True
    return _wordless(shows) and shows.badge is None


def _wordless(shows: Notification) -> bool:
    return not shows.overrides and shows.title is None and shows.body is None


def _lacks(shows: Notification | None, capabilities: Capabilities, *, replaces: bool = False) -> tuple[str, ...]:
    """What the vendor cannot express of it. `replaces`: it is to take the place of one before. A silent push that is
    none there shows a text of the account's settings."""
    missing = [] if shows is None else list(left_out(shows, capabilities))
    if replaces and not capabilities.collapse:
        missing.append("collapse_key")
    if _unseen(shows) and not capabilities.silent:
        missing.append("silent")
    return tuple(missing)


def _ttl_s(s: Situation, expires_ms: int, capabilities: Capabilities) -> int:
    """The shortest useful life: the vendor must not show what has expired."""
    return max(1, min((expires_ms - s.now_ms) // 1000, capabilities.ttl_s_max))


def _own(s: Situation, item: Item, capabilities: Capabilities) -> Note:
    return Note(
        push_id=item.entry.message_id,
        collapse_key=item.collapse_key or item.entry.message_id,
        shows=item.push,
        urgent=item.priority != "low",
        ttl_s=_ttl_s(s, item.entry.expires_ms, capabilities),
        ids=(item.entry.message_id,),
        count=1,
        upto_seq=item.entry.seq,
        left_out=_lacks(item.push, capabilities, replaces=item.collapse_key is not None),
    )


def summary(
    s: Situation,
    items: Sequence[Item],
    capabilities: Capabilities,
    *,
    shown: bool,
    urgent: bool,
    for_all: bool = False,
    count: int | None = None,
) -> Note:
    """One notification for several messages; the same for the same conversation, so that it replaces the last one."""
    newest = items[-1]
    conversations = {item.entry.conversation_id for item in items}
    about = next(iter(conversations)) if len(conversations) == 1 and not for_all else None
    if count is None:
        count = max(len(items), s.untold_count if about is None else len(items))
    id_ = summary_id(s.device.device_id, about)
    # Of what shows nothing by itself, several show nothing either; unless it takes the place of what did.
    silent = all(_wordless(item.push) for item in items) and not (for_all and s.told_count)
    text = Notification(
        title=newest.push.title,
        body=newest.push.body if count == 1 or silent else f"{count} new messages",
        title_loc_key=newest.push.title_loc_key,
        title_loc_args=newest.push.title_loc_args,
        body_loc_key=newest.push.body_loc_key if count == 1 else None,
        body_loc_args=newest.push.body_loc_args if count == 1 else (),
        sound=newest.push.sound,
        channel=newest.push.channel,
        thread=newest.push.thread,
        click=newest.push.click,
        badge=newest.push.badge,
    )
    return Note(
        push_id=id_,
        collapse_key=id_,
        shows=text if shown else None,
        urgent=urgent,
        ttl_s=_ttl_s(s, max(item.entry.expires_ms for item in items), capabilities),
        ids=tuple(item.entry.message_id for item in items[-IDS_MAX:]),
        count=count,
        upto_seq=newest.entry.seq,
        left_out=_lacks(text if shown else None, capabilities),
    )


def summary_id(device_id: str, conversation_id: str | None) -> str:
    """The id of the notification that sums up a conversation on a device, or (None) all of them."""
    digest = hashlib.sha256(f"{device_id}\x1f{conversation_id or ''}".encode()).digest()[:15]
    return "s" + base64.b32encode(digest).decode().lower()


def device_hint(user_id: str) -> str:
    """Tells a client whether a push is for its present user, without naming anybody (protocol 7.6)."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:16]
