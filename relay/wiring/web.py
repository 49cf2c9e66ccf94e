"""The web application: every face of the relay over the services that answer it."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from aiohttp import web

from relay.api import limits, table
from relay.api.auth import Authenticator
from relay.api.backend import BackendApi
from relay.api.device import DeviceApi
from relay.api.device_sends import DeviceSends
from relay.api.door import Door
from relay.api.gate import Gate
from relay.api.groups import GroupApi
from relay.api.history import HistoryApi
from relay.api.issuing import Issuer
from relay.api.preferences import PreferencesApi
from relay.api.push import PushApi
from relay.api.receipts import ReceiptApi
from relay.api.sends import Sends
from relay.api.server import application
from relay.api.stream import StreamApi
from relay.api.system import Documents, Readiness, SystemApi
from relay.api.watch import CredentialWatch
from relay.api.webhooks import WebhookApi
from relay.clock import Clock
from relay.config import Settings
from relay.ids import Rng
from relay.inbox.service import InboxService
from relay.keys import KeyRing
from relay.message_logs import MessageLogs
from relay.model import Policy
from relay.presence.service import PresenceService
from relay.push.accounts import Accounts
from relay.push.challenge import Challenger
from relay.push.desk import PushDesk
from relay.push.limits import Bucket
from relay.push.receipts import ReceiptService
from relay.push.withdraw import Withdrawer
from relay.push.worker import PushWorker
from relay.realtime.hub import Hub
from relay.realtime.service import DeviceService
from relay.shedding import Shedding
from relay.store.engine import Engine
from relay.telemetry.metrics import Metrics
from relay.webhooks.service import WebhookService
from relay.webhooks.worker import WebhookWorker
from relay.wiring.gauges import gauges


class Services(Protocol):
    """What the faces need of a relay."""

    settings: Settings
    clock: Clock
    rng: Rng
    metrics: Metrics
    engine: Engine
    ring: KeyRing
    id_secrets: dict[str, bytes]
    inbox: InboxService
    presence: PresenceService
    devices: DeviceService
    accounts: Accounts
    push: PushWorker
    challenger: Challenger
    withdrawer: Withdrawer
    hub: Hub
    logs: MessageLogs
    webhooks: WebhookService
    webhook_worker: WebhookWorker
    auth: Authenticator
    issuer: Issuer
    watch: CredentialWatch
    readiness: Readiness
    gate: Gate
    shedding: Shedding


def web_application(relay: Services, policy_of: Callable[[str], Policy]) -> web.Application:
    """The application with all routes. Serves once its services run."""
    settings = relay.settings
    sends = Sends(
        clock=relay.clock,
        rng=relay.rng,
        policy_of=policy_of,
        id_secret=relay.id_secrets.__getitem__,
        check_push=relay.accounts.check_overrides,
    )
    own = settings.limits
    routes = table.routes(send_bytes_max=own.body_bytes, batch_bytes_max=own.batch_bytes)
    door = Door(
        hub=relay.hub,
        clock=relay.clock,
        origins=tuple(settings.server.allowed_origins),
        connections_max=own.sockets_per_node,
        per_address_max=own.sockets_per_address,
        waits_max=own.waits_per_node,
        shedding=relay.shedding,
        handshakes=Bucket(own.handshakes_per_s, own.handshakes_per_s),
    )
    return application(
        backend=BackendApi(
            inbox=relay.inbox,
            presence=relay.presence,
            devices=relay.devices,
            sends=sends,
            issuer=relay.issuer,
            revoked=relay.watch.sweep,
            connected=relay.hub.of_device,
            clock=relay.clock,
        ),
        device=DeviceApi(
            inbox=relay.inbox,
            devices=relay.devices,
            hub=relay.hub,
            auth=relay.auth,
            issuer=relay.issuer,
            clock=relay.clock,
            rng=relay.rng,
            door=door,
            sends=DeviceSends(
                inbox=relay.inbox,
                sends=sends,
                policy_of=policy_of,
                rate=limits.RateLimiter(rate_per_s=own.device_sends_per_s, burst=own.device_sends_burst),
                clock=relay.clock,
            ),
            challenger=relay.challenger,
            shedding=relay.shedding,
            wait_max_s=settings.poll.wait_max_s,
        ),
        preferences=PreferencesApi(inbox=relay.inbox),
        groups=GroupApi(groups=relay.inbox.groups),
        history=HistoryApi(reader=relay.inbox.reader, files=relay.logs),
        stream=StreamApi(inbox=relay.inbox, devices=relay.devices, hub=relay.hub, auth=relay.auth, door=door),
        webhooks=WebhookApi(webhooks=relay.webhooks),
        push=PushApi(
            desk=PushDesk(engine=relay.engine, clock=relay.clock, accounts=relay.accounts, policy_of=policy_of)
        ),
        receipts=ReceiptApi(
            receipts=ReceiptService(
                engine=relay.engine,
                clock=relay.clock,
                accounts=relay.accounts,
                policy_of=policy_of,
                hash_token=relay.ring.token_hash,
                facts_told=lambda: relay.webhook_worker.nudge(),
            )
        ),
        system=SystemApi(
            engine=relay.engine,
            readiness=relay.readiness,
            metrics=relay.metrics,
            auth=relay.auth,
            gauges=partial(gauges, relay),
            documents=Documents(routes),
        ),
        auth=relay.auth,
        gate=relay.gate,
        shedding=relay.shedding,
        rng=relay.rng,
        metrics=relay.metrics,
        routes=routes,
        trusted_proxies=settings.server.trusted_proxies,
        https_only=settings.server.https_only,
        origins=frozenset(settings.server.allowed_origins),
    )
