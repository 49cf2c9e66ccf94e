"""Mending an account: what rested or waited for it is due again.

A hundred thousand users may wait, and each would have to wait for the locks of all: so they are released a portion at a
time. That the account is mended is stored before, and until the last portion also that something is to be released: if the
process ends in between, any node does it from the beginning (`resume`). Two may do it at once: neither does what the other
has done.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from relay.push.accounts import Accounts
from relay.store import quota
from relay.store.engine import Conn, Engine
from relay.store.parked import (
    BEGIN,
    RELEASED_MAX,
    mend_accounts,
    parked_accounts,
    release_some,
    resting_number,
    rests,
    unreleased,
)

log = structlog.get_logger("relay.push")


async def mend(engine: Engine, app_id: str, accounts: Iterable[str], *, portion: int = RELEASED_MAX) -> int:
    """These accounts are mended, or have new quota; gives how many pushes rested when that was said. Whoever released them, they
    are due by the end of this, unless an account was parked again meanwhile.

    If it fails in the middle, the accounts are mended all the same, and the rest follows by `resume`.
    """
    names = sorted(accounts)

    def work(conn: Conn, now_ms: int) -> int:
        mend_accounts(conn, app_id, names)
        quota.refill(conn, app_id, names)
        return resting_number(conn, app_id)  # and no more come to rest

    number = await engine.write(work)
    await _release(engine, app_id, portion)
    return number


async def mend_all(engine: Engine, accounts: Accounts) -> None:
    """At a start, which is an operator's word that what is parked is mended; and what rests because an account was not
    configured may have it now. Its release is left to `resume`."""
    apps = sorted({account.app_id for account in accounts.all()})
    parked, resting = await engine.read(lambda conn, _: (parked_accounts(conn), _resting(conn, apps)))
    for (app_id, name), code in parked.items():
        if accounts.get(app_id, name) is not None:
            log.info("account.unparked", app=app_id, account=name, code=code)
            await engine.write(partial(_mended, app_id, [name]))
            resting.discard(app_id)
    for app_id in sorted(resting):
        await engine.write(partial(_mended, app_id, list(accounts.of(app_id))))


async def resume(engine: Engine, *, portion: int = RELEASED_MAX) -> None:
    """Releases what rests for accounts that were mended, where nobody came to the end of it."""
    for app_id in await engine.read(lambda conn, _: sorted(unreleased(conn))):
        await _release(engine, app_id, portion)


def _resting(conn: Conn, apps: Iterable[str]) -> set[str]:
    """Those of which something rests that nobody has said is to be released."""
    said = unreleased(conn)
    return {app_id for app_id in apps if app_id not in said and rests(conn, app_id)}


def _mended(app_id: str, names: Sequence[str], conn: Conn, _: int) -> None:
    mend_accounts(conn, app_id, names)


async def _release(engine: Engine, app_id: str, portion: int) -> None:
    mended = await engine.read(lambda conn, _: unreleased(conn).get(app_id, {}))
    after: str | None = BEGIN
    while after is not None:
        after = await engine.write(partial(release_some, app_id=app_id, mended=mended, after=after, most=portion))
