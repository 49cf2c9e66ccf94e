"""From the settings to accounts: each with its provider, its transport and its terms."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from providers import loading
from providers.contract import BatchProvider, Capabilities, Provider, ProviderConfig, Transport
from providers.endpoints import EndpointConfig, GuardedConfig
from providers.guard import Guard
from providers.trust import end_s
from relay.clock import Clock
from relay.config import Settings
from relay.config.settings import Account as AccountSettings
from relay.errors import ConfigError
from relay.push.accounts import Account, Accounts, Terms
from relay.push.calendar import Hours, offset, zone_named
from relay.push.hosts import PerHost
from relay.push.limits import Bucket
from relay.push.own_networks import own_networks
from relay.push.situation import Privacy
from relay.push.together import Together

DEFAULT_APP = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """An account of the settings whose provider was found and has taken its own settings; nothing is opened yet."""

    name: str
    settings: AccountSettings
    provider: type[Provider]
    config: ProviderConfig


def configured(settings: Settings) -> list[Configured]:
    """Every account, checked; reads the files that they name. Raises ConfigError with all mistakes."""
    wanted = {account.provider for account in settings.accounts.values()}
    found = {one.name: one for one in loading.discover(only=wanted)}
    mistakes: list[str] = []
    accounts: list[Configured] = []
    for name, one in settings.accounts.items():
        loaded = found.get(one.provider)
        if loaded is None or loaded.provider is None:
            known = ", ".join(loading.names())
            why = (
                f"could not be loaded: {loaded.reason}"
                if loaded is not None
                else f"is not installed; there are: {known}"
            )
            mistakes.append(f"[accounts.{name}] provider: found {one.provider!r}, which {why}.")
            continue
        can = loaded.provider.capabilities
        if one.challenge and not (can.own_hosts and can.withdraw):
            mistakes.append(
                f"[accounts.{name}] challenge: goes only where devices bring their own hosts and their apps can be told "
                "something silently, as with unifiedpush; leave it out."
            )
        if one.batch and loaded.provider.capabilities.batch_max == 1:
            mistakes.append(f"[accounts.{name}] batch: {one.provider} takes one device a call; leave it out.")
        try:
            config = loading.configured(loaded.provider, one.settings)
        except loading.SettingsInvalid as error:
            mistakes += [
                f"[accounts.{name}] {mistake}{'' if mistake.endswith(('.', '?')) else '.'}"
                for mistake in error.mistakes
            ]
            continue
        accounts.append(Configured(name=name, settings=one, provider=loaded.provider, config=config))
    if mistakes:
        raise ConfigError(mistakes)
    return accounts


def build(one: Configured, settings: Settings, clock: Clock) -> Account:
    """The account with its provider and its transport."""
    now_s: Callable[[], float] = lambda: clock.now_ms() / 1000  # noqa: E731
    guard = _guard(one.provider.capabilities, one.config, settings)
    transport = loading.transport_for(one.provider, one.config, guard=guard, calls_max=one.settings.concurrency)
    hosts: PerHost | None = None
    if isinstance(one.config, EndpointConfig):
        # Half for all hosts that have not answered yet: the rest is for those that have.
        strangers = max(1, one.settings.concurrency // 2)
        hosts = PerHost(
            transport,
            clock,
            trusted=one.config.hosts,
            strangers_max=strangers,
            rate_per_s=one.config.host_rate_per_s,
        )
    call: Transport = transport if hosts is None else hosts
    provider = one.provider(one.config, transport=call, now=now_s)
    return Account(
        app_id=DEFAULT_APP,
        name=one.name,
        provider=provider,
        transport=transport,
        hosts=hosts,
        bucket=_bucket(one, settings),
        terms=_terms(one, fallback_after_s=settings.push.fallback_after_s),
        together=Together(cast(BatchProvider, provider)) if one.settings.batch else None,
        trust_ends_ms=None if one.config.ca is None else int(end_s(one.config.ca) * 1000),
        strangers=isinstance(one.config, EndpointConfig) and not one.config.hosts,
    )


def _bucket(one: Configured, settings: Settings) -> Bucket:
    """The account's own rate, else its vendor's, else that of all accounts."""
    vendors = one.provider.capabilities
    return Bucket(
        one.settings.rate_per_s or vendors.rate_per_s or settings.push.rate_per_s,
        one.settings.burst or vendors.burst or settings.push.burst,
        start_per_s=one.settings.start_per_s or vendors.start_per_s,
    )


def build_accounts(settings: Settings, clock: Clock) -> Accounts:
    """Every configured account with its provider. Raises ConfigError with all mistakes."""
    return Accounts([build(one, settings, clock) for one in configured(settings)])


def _terms(account: Configured, *, fallback_after_s: float) -> Terms:
    one = account.settings
    vendors = zone_named(account.provider.capabilities.zone)
    return Terms(
        concurrency=one.concurrency,
        privacy=Privacy(one.privacy),
        daily_quota=one.daily_quota,
        hours=None if one.hours is None else Hours.parse(one.hours),
        zone=vendors if one.utc_offset is None else offset(one.utc_offset),
        falls_back_ms=int(fallback_after_s * 1000) if one.fallback else None,
        challenge=one.challenge,
    )


def _guard(capabilities: Capabilities, config: ProviderConfig, settings: Settings) -> Guard | None:
    """What holds an account's calls back, if its URLs are not the vendor's own."""
    if isinstance(config, EndpointConfig):
        # Devices choose the URLs: what webhooks may call is none of their business.
        return replace(config.guard, networks_denied=own_networks(settings.server.host))
    if not capabilities.guarded:
        return None
    guard = webhook_guard(settings)
    own = config.exemptions if isinstance(config, GuardedConfig) else ()
    return replace(guard, exemptions=(*guard.exemptions, *own))


def webhook_guard(settings: Settings) -> Guard:
    """What webhooks, and accounts that call a URL of the operator's, may call."""
    webhooks = settings.webhooks
    return Guard(
        exemptions=webhooks.exemptions,
        allow_http=webhooks.allow_http,
        ports=frozenset(webhooks.ports),
        names_denied=webhooks.names_denied,
        networks_denied=(*webhooks.networks_denied, *own_networks(settings.server.host)),
    )
