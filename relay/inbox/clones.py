"""Two phones with one identity: each takes the other's store for an older one of its own (protocol §5). Pure.

Once is a phone that was restored from its backup; again and again are two, cloned from one backup. Nothing is lost either
way, but each comes back to a resync. A device notes these judgements, by the sessions that its cursors were of: one that
says the same cursor again, because an answer was lost, counts once.
"""

import msgspec

TIMES = 3
WITHIN_MS = 86_400_000

_Noted = list[tuple[int, int]]  # (session, ms), the oldest first


def note(noted: str | None, session: int, now_ms: int) -> str:
    """What is noted after a handshake with an older store, whose cursor was of this session."""
    before = [] if noted is None else msgspec.json.decode(noted, type=_Noted)
    others = [(other, at_ms) for other, at_ms in before if other != session]
    return msgspec.json.encode([*others, (session, now_ms)][-TIMES:]).decode()


def are_two(noted: str | None, now_ms: int) -> bool:
    """Whether that has been so often within a day that they are two."""
    times = [] if noted is None else msgspec.json.decode(noted, type=_Noted)
    return sum(now_ms - at_ms < WITHIN_MS for _, at_ms in times) >= TIMES
