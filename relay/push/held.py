"""Which sorts of push a vendor takes no more of today: not asked again because of a restart."""

from collections.abc import Iterable

from relay.inbox.push_due import Later
from relay.push.accounts import Accounts
from relay.push.situation import Sort, Wait
from relay.store import quota
from relay.store.engine import Conn, Engine
from relay.store.parked import mended_times


def held_sorts(found: Iterable[quota.Held]) -> dict[tuple[str, str], dict[Sort, Wait]]:
    """What the store says, by account."""
    sorts: dict[tuple[str, str], dict[Sort, Wait]] = {}
    for one in found:
        wait = Wait(at_ms=one.until_ms, reason=Later.QUOTA)
        sorts.setdefault((one.app_id, one.account), {})[one.token_hash or None, one.channel or None] = wait
    return sorts


async def load_held(engine: Engine, accounts: Accounts) -> None:
    """Has each account hold what the store says of it. At a start."""

    def work(conn: Conn, now_ms: int) -> tuple[list[quota.Held], dict[tuple[str, str], int], int]:
        return quota.held(conn, now_ms), mended_times(conn), now_ms

    found, mended, now_ms = await engine.read(work)
    for account in accounts.all():
        account.mended_times = mended.get((account.app_id, account.name), 0)
    for (app_id, name), sorts in held_sorts(found).items():
        if (of := accounts.get(app_id, name)) is not None:
            for sort, wait in sorts.items():
                of.hold(sort, wait, now_ms=now_ms)
