"""Whose rows a transaction is for: the app's of whoever asks, or all apps', for what the relay does by itself (safety SEC-5).

It goes with the task, as the hundreds of calls of the store need not hand it on then. PostgreSQL holds each transaction to
it, beside the condition that every statement has (`row_security.py`); SQLite does not look at it.
"""

from collections.abc import Iterable
from contextvars import ContextVar, Token
from functools import lru_cache
from typing import Final

Scope = frozenset[str] | None  # these apps; None: all

ALL: Final[Scope] = None

_scope: ContextVar[Scope] = ContextVar("scope", default=ALL)


def current() -> Scope:
    """Of the task that asks."""
    return _scope.get()


class within:  # noqa: N801 - a context manager; a class, as a generator costs a request a microsecond more
    """What the store is asked in the block is for these apps. So is what a task asks that is made there, for its whole life."""

    __slots__ = ("_scope", "_token")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._token: Token[Scope] = _scope.set(self._scope)

    def __exit__(self, *_: object) -> None:
        _scope.reset(self._token)


def task_is_for(app_id: str) -> None:
    """What this task asks from here to its end is for this app. For a task that has no other work: each request is one."""
    _scope.set(_only(app_id))


@lru_cache
def _only(app_id: str) -> frozenset[str]:
    return frozenset((app_id,))


def of_app(app_id: str) -> within:
    """As `within`, for one app."""
    return within(_only(app_id))


def union(scopes: Iterable[Scope]) -> Scope:
    """Of a transaction that serves several at once."""
    apps: frozenset[str] = frozenset()
    for scope in scopes:
        if scope is None:
            return ALL
        apps |= scope
    return apps
