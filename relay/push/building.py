"""From the settings to accounts: each with its provider, its transport and its terms."""

from collections.abc import Callable

from providers import loading
from providers.contract import Capabilities, ProviderConfig
from providers.endpoints import EndpointConfig
from providers.guard import Guard
from relay.clock import Clock
from relay.config import Settings
from relay.config.settings import Account as AccountSettings
from relay.errors import ConfigError
from relay.push.accounts import Account, Accounts, Terms
from relay.push.calendar import Hours, offset
from relay.push.limits import Bucket
from relay.push.planner import Privacy

DEFAULT_APP = "default"


def build_accounts(settings: Settings, clock: Clock) -> Accounts:
    """Every configured account with its provider. Raises ConfigError with all mistakes."""
    found = {one.name: one for one in loading.discover()}
    mistakes: list[str] = []
    accounts: list[Account] = []
    for name, one in settings.accounts.items():
        loaded = found.get(one.provider)
        if loaded is None or loaded.provider is None:
            known = ", ".join(sorted(found))
            why = (
                f"could not be loaded: {loaded.reason}"
                if loaded is not None
                else f"is not installed; there are: {known}"
            )
            mistakes.append(f"[accounts.{name}] provider: {one.provider!r} {why}.")
            continue
        now_s: Callable[[], float] = lambda: clock.now_ms() / 1000  # noqa: E731
        try:
            config = loading.configured(loaded.provider, one.settings)
        except loading.SettingsInvalid as error:
            mistakes += [f"[accounts.{name}] {mistake}" for mistake in error.mistakes]
            continue
        guard = _guard(loaded.provider.capabilities, config, settings)
        transport = loading.transport_for(loaded.provider, config, guard=guard)
        provider = loaded.provider(config, transport=transport, now=now_s)
        accounts.append(
            Account(
                app_id=DEFAULT_APP,
                name=name,
                provider=provider,
                transport=transport,
                bucket=Bucket(one.rate_per_s, one.burst),
                terms=_terms(one, fallback_after_s=settings.push.fallback_after_s),
            )
        )
    if mistakes:
        raise ConfigError(mistakes)
    return Accounts(accounts)


def _terms(one: AccountSettings, *, fallback_after_s: float) -> Terms:
    return Terms(
        concurrency=one.concurrency,
        privacy=Privacy(one.privacy),
        daily_quota=one.daily_quota,
        hours=None if one.hours is None else Hours.parse(one.hours),
        zone=offset(one.utc_offset),
        falls_back_ms=int(fallback_after_s * 1000) if one.fallback else None,
    )


def _guard(capabilities: Capabilities, config: ProviderConfig, settings: Settings) -> Guard | None:
    """What holds an account's calls back, if its URLs are not the vendor's own."""
    if isinstance(config, EndpointConfig):
        return config.guard  # devices choose the URLs: what webhooks may call is none of their business
    return webhook_guard(settings) if capabilities.guarded else None


def webhook_guard(settings: Settings) -> Guard:
    """What webhooks, and accounts that call a URL of the operator's, may call."""
    return Guard(exemptions=settings.webhooks.exemptions, allow_http=settings.webhooks.allow_http)
