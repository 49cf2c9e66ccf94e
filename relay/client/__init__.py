"""A client of the relay, for apps (`Client`: a device's inbox in a file) and for backends (`Backend`: send, devices, tokens).

It imports nothing of the server but its leaves: an app may ship `relay.client` alone.
"""

from relay.client.backend import Backend
from relay.client.cache import Cache
from relay.client.device import Client
from relay.client.http import AnotherUser, ClientError, Problem, Unreachable
from relay.client.news import Message, News
from relay.client.sealed import SealKeys, unseal
from relay.client.transports import Way
from relay.client.webhooks import SignatureRefused, verify_webhook

__all__ = [
    "AnotherUser",
    "Backend",
    "Cache",
    "Client",
    "ClientError",
    "Message",
    "News",
    "Problem",
    "SealKeys",
    "SignatureRefused",
    "Unreachable",
    "Way",
    "unseal",
    "verify_webhook",
]
