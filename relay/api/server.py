"""The HTTP application: routes, handlers and middleware put together."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from aiohttp import web

from relay.api import browsers, connections
from relay.api.auth import Authenticator
from relay.api.backend import BackendApi
from relay.api.device import DeviceApi
from relay.api.entrance import entrance
from relay.api.gate import Gate
from relay.api.groups import GroupApi
from relay.api.history import HistoryApi
from relay.api.preferences import PreferencesApi
from relay.api.push import PushApi
from relay.api.receipts import ReceiptApi
from relay.api.routes import Route, register
from relay.api.stream import StreamApi
from relay.api.system import SystemApi
from relay.api.webhooks import WebhookApi
from relay.ids import Rng
from relay.shedding import Shedding
from relay.telemetry.metrics import Metrics


def application(
    *,
    backend: BackendApi,
    device: DeviceApi,
    stream: StreamApi,
    history: HistoryApi,
    preferences: PreferencesApi,
    groups: GroupApi,
    webhooks: WebhookApi,
    receipts: ReceiptApi,
    push: PushApi,
    system: SystemApi,
    auth: Authenticator,
    gate: Gate,
    shedding: Shedding,
    rng: Rng,
    metrics: Metrics,
    routes: Sequence[Route],
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
    https_only: bool = False,
    origins: Collection[str] = (),
) -> web.Application:
    """The application; nothing listens yet. `origins`: pages of these may call what is a device's."""

    handlers: dict[str, Any] = {
        "send": backend.send,
        "send_batch": backend.send_batch,
        "look_up": backend.look_up,
        "history": history.messages,
        "device_history": history.device,
        "list_logs": history.logs,
        "get_log": history.log,
        "cancel": backend.cancel,
        "put_device": backend.put_device,
        "get_device": backend.get_device,
        "delete_device": backend.delete_device,
        "mint_token": backend.mint_token,
        "revoke_device_tokens": backend.revoke_device_tokens,
        "revoke_user_tokens": backend.revoke_user_tokens,
        "post_presence": backend.post_presence,
        "user_presence": backend.user_presence,
        "query_presence": backend.query_presence,
        "create_endpoint": webhooks.create,
        "list_endpoints": webhooks.list,
        "get_endpoint": webhooks.get,
        "update_endpoint": webhooks.update,
        "delete_endpoint": webhooks.delete,
        "test_endpoint": webhooks.test,
        "rotate_secret": webhooks.rotate,
        "list_deliveries": webhooks.deliveries,
        "replay": webhooks.replay,
        "pull_events": webhooks.events,
        "app_versions": backend.app_versions,
        "delete_user": backend.delete_user,
        "rename_user": backend.rename_user,
        "change_members": groups.change,
        "list_members": groups.members,
        "set_member": groups.set_notify,
        "remove_member": groups.remove,
        "dissolve_group": groups.dissolve,
        "get_preferences": preferences.get,
        "put_preferences": preferences.put,
        "delete_preferences": preferences.delete,
        "list_accounts": push.accounts,
        "unpark_account": push.unpark,
        "dead_pushes": push.dead,
        "requeue_pushes": push.requeue,
        "handshake": device.handshake,
        "heartbeat": device.heartbeat,
        "sync": device.sync,
        "ack": device.ack,
        "verify": device.verify,
        "send_from_device": device.sends.over_http,
        "put_addresses": device.addresses,
        "challenge_addresses": device.challenge,
        "prove_address": device.proof,
        "renew_token": device.renew_token,
        "device_accounts": device.accounts,
        "ticket": device.ticket,
        "socket": device.socket,
        "stream": stream.stream,
        "take_receipts": receipts.take,
        "take_receipts_by_path": receipts.take,
        "healthz": system.healthz,
        "readyz": system.readyz,
        "metrics": system.metrics_page,
        "openapi": system.openapi,
        "docs": system.docs,
    }
    enter = entrance(
        gate,
        rng,
        metrics,
        trusted_proxies=trusted_proxies,
        https_only=https_only,
        origins=frozenset(origins),
        leaked=auth.leaked,
    )
    app = web.Application(middlewares=[enter])
    exact = register(app, routes, handlers, auth, shedding)
    ways: Mapping[str, connections.Way] = {path: partial(enter, handler=handler) for path, handler in exact.items()}
    app[connections.WAYS] = ways
    app.router.add_get("/docs.css", system.style, allow_head=False)
    browsers.add_sdk(app)
    return app
