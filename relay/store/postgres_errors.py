"""What an error from PostgreSQL, its driver or the way to it means for whoever asked (PostgreSQL's appendix A: error codes)."""

import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeout

from relay.errors import ConfigError, Unavailable

log = structlog.get_logger("relay.store")

REPEATABLE = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
RACED = "23505"  # unique_violation: somebody wrote the same at the same time; the next try sees it


class StoreTrouble(Unavailable):
    """The store, not the work, is the reason: what holds for one job of a group holds for all."""


class CommitUnknown(StoreTrouble):
    """The answer to COMMIT was lost, or it says that the replica may not have it: stored or not, nobody can tell."""

    def __init__(self) -> None:
        super().__init__(
            "The store's answer to COMMIT was lost; repeat with the same key.", code="commit_unknown", retry_after_s=1
        )


def sqlstate(error: BaseException) -> str:
    """The five characters of PostgreSQL's error code; "" for an error without one."""
    cause = getattr(error, "orig", error)
    return str(getattr(cause, "sqlstate", "") or "")


def busy() -> StoreTrouble:
    """Others were in the way for too long."""
    return StoreTrouble("The store is busy; repeat with the same key.", code="overloaded", retry_after_s=1)


def answer_for(error: BaseException) -> BaseException:
    """The answer for a driver's error. A mistake in our own SQL stays what it is: a bug."""
    state = sqlstate(error)
    if state in {"55P03", "57014"} or state in REPEATABLE or isinstance(error, PoolTimeout):
        return busy()
    if state == "53100":
        return StoreTrouble("The store's disk is full.", code="storage_full", retry_after_s=60)
    if state.startswith(("58", "XX")):  # the server's disk, or its data
        log.error("store.server_failed", code=state)
        return StoreTrouble("The store reported an error.", code="storage_failed", retry_after_s=5)
    # 25006: a primary that became a standby; 25P03: it gave us up; 28, 3D: it won't have us any more.
    gone = state in {"", "25006", "25P03"} or state.startswith(("08", "28", "3D", "53", "57"))
    if not gone:
        return error
    return StoreTrouble("The store cannot be reached.", code="storage_unavailable", retry_after_s=2)


def answer_at_start(error: BaseException) -> BaseException:
    """A server that won't have us is a mistake in the configuration; one that is away may come."""
    state, said = sqlstate(error), getattr(error, "orig", error)
    if isinstance(error, ValueError) or isinstance(getattr(said, "__cause__", None), ValueError):  # a parameter's, say
        return ConfigError([f"store.url: {said}."])
    if state.startswith(("22", "28", "3D", "42")):
        # The server's own words name the role and the database, never the password.
        return ConfigError([f"store.url: the server refuses: {said}."])
    return answer_for(error)
