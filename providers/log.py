"""For development: a provider that hands pushes to nobody and writes one line for each.

What would be shown stays out of the log (safety SEC-12) unless the account says `show_titles = true`.
"""

import logging
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, ClassVar

from pydantic import SecretStr

from providers.contract import Capabilities, Outcome, ProviderConfig, Push, Transport, Verdict

__all__ = ["LogConfig", "LogProvider"]

logger = logging.getLogger("relay.provider.log")


class LogConfig(ProviderConfig):
    hash_key: SecretStr = SecretStr("development")  # tokens are written as a hash with this key
    show_titles: bool = False  # write titles too: only where nobody's messages are real


class LogProvider:
    """Accepts everything and tells the logger `relay.provider.log`: id, hashed token, never the body."""

    name: ClassVar[str] = "log"
    contract: ClassVar[int] = 1
    Config: ClassVar[type[ProviderConfig]] = LogConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        payload_bytes_max=65_536,
        ttl_s_max=28 * 86_400,
        kinds=frozenset({"token"}),
        collapse=True,
        idempotent=True,
        badge=True,
        image=True,
        mutable=True,
        localised=True,
        tells_dead=False,
    )

    def __init__(self, config: LogConfig, *, transport: Transport, now: Callable[[], float]) -> None:
        self.config = config
        del transport, now  # it calls nobody and waits for nothing

    @classmethod
    def check_overrides(cls, overrides: Mapping[str, Any]) -> list[str]:
        """See `Provider`: anything will do."""
        del overrides
        return []

    def address(self, kind: str, token: str) -> str:
        """See `Provider`: anything will do."""
        del kind
        return token

    def offer(self) -> Mapping[str, str]:
        """See `Provider`: nothing."""
        return {}

    async def send(self, push: Push) -> Outcome:
        """See `Provider`."""
        key = blake2b(self.config.hash_key.get_secret_value().encode()).digest()
        token = blake2b(push.token.encode("utf-8", "replace"), key=key, digest_size=8).hexdigest()
        title = f" title={push.title!r:.200}" if self.config.show_titles else ""
        logger.info("push.logged id=%r token=%s silent=%s%s", push.id, token, push.silent, title)
        return Outcome(verdict=Verdict.ACCEPTED, vendor_id=f"log-{token}")

    async def aclose(self) -> None:
        """Nothing to let go of."""
