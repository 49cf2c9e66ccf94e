"""The public keys of an app's login service: from a file, or from a fixed URL that is asked now and then."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog

from providers.contract import Transport
from providers.guard import TargetRefused
from providers.http import Request, TransportError
from relay.api.jwt_bearer import VerifyKey, read_keys
from relay.clock import Clock
from relay.errors import ConfigError

log = structlog.get_logger("relay.auth")

FRESH_MS: Final = 10 * 60_000  # asked again after this long
AGAIN_MS: Final = 60_000  # after a failure, or for a key that is not there, not sooner than this
KEPT_MS: Final = 24 * 3_600_000  # a key set that can't be fetched any more counts this long
DOCUMENT_BYTES_MAX: Final = 64 * 1024

Fetch = Callable[[], Awaitable[bytes]]  # raises OSError


class KeySet:
    """Keys by `kid`. One fetch at a time, and never one for each stranger with a made-up `kid`."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, VerifyKey] = {}
        self._fetched_ms: int | None = None
        self._tried_ms: int | None = None
        self._one = asyncio.Lock()

    async def key(self, kid: str) -> VerifyKey | None:
        """The key of this name; None if there is none."""
        if self._wanting(kid):
            async with self._one:
                if self._wanting(kid):
                    await self._refresh()
        if self._fetched_ms is None or self._clock.monotonic_ms() - self._fetched_ms > KEPT_MS:
            return None
        return self._keys.get(kid)

    def _wanting(self, kid: str) -> bool:
        now_ms = self._clock.monotonic_ms()
        if self._tried_ms is not None and now_ms - self._tried_ms < AGAIN_MS:
            return False
        return self._fetched_ms is None or now_ms - self._fetched_ms > FRESH_MS or kid not in self._keys

    async def _refresh(self) -> None:
        try:
            document = await self._fetch()
            if len(document) > DOCUMENT_BYTES_MAX:
                raise ValueError("the key set is too large")
            self._keys = read_keys(document)
        except (OSError, ValueError) as error:
            log.warning("auth.key_set_failed", reason=str(error))
        else:
            self._fetched_ms = self._clock.monotonic_ms()
        finally:  # not before: who came meanwhile waits for the answer
            self._tried_ms = self._clock.monotonic_ms()


def from_file(path: Path) -> Fetch:
    async def fetch() -> bytes:
        return await asyncio.to_thread(path.read_bytes)

    return fetch


def from_url(url: str, transport: Transport) -> Fetch:
    """`transport` is one that guards what it calls: the URL is a setting, its host's addresses are not."""

    async def fetch() -> bytes:
        try:
            answer = await transport(Request(url=url, method="GET", headers={"accept": "application/json"}))
        except TransportError as error:
            raise OSError(str(error.reason)) from error
        except TargetRefused as error:
            raise OSError(error.code) from error
        if answer.status != 200 or answer.truncated:
            raise OSError(f"status_{answer.status}")
        return answer.body

    return fetch


def check_file(path: Path) -> None:
    """Raises ConfigError if the file holds no key that could verify a token."""
    try:
        keys = read_keys(path.read_bytes())
    except OSError as error:
        raise ConfigError([f"[device_jwt] keys: {path} cannot be read ({error.strerror})."]) from error
    except ValueError as error:
        raise ConfigError([f"[device_jwt] keys: {path}: {error}."]) from error
    if not keys:
        raise ConfigError(
            [f"[device_jwt] keys: {path} has no key with a kid and an alg of ES256, EdDSA or RS256 (2,048 bits)."]
        )
