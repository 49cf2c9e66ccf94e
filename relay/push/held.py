"""Which sorts of push a vendor takes no more of today: not asked again because of a restart."""

from relay.inbox.push_due import Later
from relay.push.accounts import Accounts
from relay.push.situation import Wait
from relay.store import quota
from relay.store.engine import Conn, Engine


async def load_held(engine: Engine, accounts: Accounts) -> None:
    """Has each account hold what the store says of it. At a start."""

    def work(conn: Conn, now_ms: int) -> tuple[list[quota.Held], int]:
        return quota.held(conn, now_ms), now_ms

    found, now_ms = await engine.read(work)
    for one in found:
        account = accounts.get(one.app_id, one.account)
        if account is not None:
            wait = Wait(at_ms=one.until_ms, reason=Later.QUOTA)
            account.hold((one.token_hash or None, one.channel or None), wait, now_ms=now_ms)
