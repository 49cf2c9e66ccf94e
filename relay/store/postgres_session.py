"""One connection to PostgreSQL as the relay needs it: its settings, and what the server says of itself (safety DUR-5)."""

from dataclasses import dataclass
from typing import Any, Literal

from relay.errors import ConfigError

Durability = Literal["single-node", "sync-replica", "async-replica"]

CONNECT_S = 5.0
# Of `synchronous_commit`: `remote_write` and `local` lose commits with a machine, `off` with a process.
SYNCED = frozenset({"on", "remote_apply"})

# Sent with the first packet. `synchronous_commit` is not among them: the server's own must be seen first.
SETTINGS = {
    "application_name": "push-relay",
    "statement_timeout": "5000",
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "15000",
    "default_transaction_isolation": "read committed",
    "client_min_messages": "warning",  # a COMMIT that gave up waiting for its replica says so in a warning
    "jit": "off",
}


# Of a role that row-level security does not bind; nothing is lost by it (safety SEC-5).
BYPASSED = "the role is a superuser or has BYPASSRLS: apps are kept apart by the relay alone, not by the server as well"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a server said when it was last looked at."""

    fsync: bool
    full_page_writes: bool
    synchronous_commit: str  # of our sessions
    standby_names: str  # whom a COMMIT waits for
    standbys: int  # streaming from it, waited for or not
    system_id: str  # made with the cluster; "" where it can't be read
    timeline: str  # 8 hex digits, a new one with each promotion; "" where it can't be read
    bypasses_row_security: bool  # our role does

    @property
    def durability(self) -> Durability:
        """Where a committed transaction is."""
        if self.standby_names.strip():
            return "sync-replica"
        return "async-replica" if self.standbys else "single-node"

    @property
    def mark(self) -> str:
        """Which history of the log this is: another one may lack commits that were confirmed (protocol §4.1)."""
        return f"{self.system_id}/{self.timeline}"

    def dangers(self) -> tuple[str, ...]:
        """Why a 202 of ours could not be kept, in words for an operator; empty if it can."""
        found = []
        if not self.fsync:
            found.append("fsync is off: a power cut loses what was confirmed")
        if not self.full_page_writes:
            found.append("full_page_writes is off: a power cut may tear pages")
        if self.synchronous_commit not in SYNCED:
            found.append(f"synchronous_commit is {self.synchronous_commit}: COMMIT returns before the log is on disk")
        return tuple(found)


# The two functions are open to everyone by default, but an operator may have closed them.
_LOOK = """
SELECT current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS standby_names,
       (SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'pg_basebackup') AS standbys,
       CASE WHEN has_function_privilege('pg_control_system()', 'EXECUTE')
            THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '' END AS system_id,
       CASE WHEN has_function_privilege('pg_current_wal_lsn()', 'EXECUTE')
            THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) ELSE '' END AS timeline,
       (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS bypasses_row_security
"""


def driver() -> Any:
    """asyncpg. Raises ConfigError if it is not installed."""
    try:
        import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - the extra `postgres`
    except ImportError:
        raise ConfigError(
            ["store.url: PostgreSQL needs the extra 'postgres': pip install 'push-relay[postgres]'."]
        ) from None
    return asyncpg


async def look(connection: Any) -> Server:
    """Asks the server of this asyncpg connection about itself."""
    return Server(**await connection.fetchrow(_LOOK))


async def open_session(url: str) -> tuple[Any, Server]:
    """A connection that is set up, and its server: of several hosts in the URL, the one that takes writes.

    `synchronous_commit` is `on`, or `remote_apply` if that is the server's own. Raises what the driver raises, and
    ConnectionError if there are only standbys: the old primary of a failover, say, whose rows may be old.
    """
    asyncpg = driver()
    try:
        connection = await asyncpg.connect(
            url, server_settings=SETTINGS, timeout=CONNECT_S, target_session_attrs="read-write"
        )
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise ConnectionError("no server takes writes") from error
    try:
        if await connection.fetchval("SHOW synchronous_commit") != "remote_apply":
            await connection.execute("SET synchronous_commit = on")
        return connection, await look(connection)
    except BaseException:
        connection.terminate()
        raise
