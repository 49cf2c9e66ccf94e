"""What APNs checks in a request besides its credential: the first reason against it, or what it asks for. Pure.

Source: vendor sheet `apns` §4 (headers, payload, sizes) and §5 (push types). The sheet does not say in which order Apple
looks; here it is path, then headers, then body.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from providers.sandbox.checks import Json, read_json

BODY_BYTES_MAX = 4096
VOIP_BODY_BYTES_MAX = 5120
DEVICE_TOKEN_BYTES_MAX = 200
COLLAPSE_ID_BYTES_MAX = 64
PATH = "/3/device/"

# apns-push-type -> what follows the bundle id in its topic
TOPIC_ENDINGS = {
    "alert": "",
    "background": "",
    "voip": ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    "location": ".location-query",
    "liveactivity": ".push-type.liveactivity",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
    "controls": ".push-type.controls",
    "mdm": "",  # its topic is that of the certificate
}
BY_TOKEN_ONLY = frozenset({"location", "liveactivity"})
ONLY_ONCE = frozenset({"authorization", "content-type"})  # and all that begin with apns-

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TOPIC = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_HEX = re.compile(r"([0-9a-fA-F]{2})+")
_WHOLE = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that passed."""

    token: str  # lower-case hexadecimal
    type: str
    priority: int
    expiration: int | None  # seconds since 1970; 0: one attempt; None: not said
    id: str | None
    collapse_id: str | None
    topic: str
    payload: Json

    @property
    def aps(self) -> Json:
        aps = self.payload.get("aps")
        return aps if isinstance(aps, dict) else {}

    @property
    def tells_activity(self) -> bool:
        """Whether a live activity can make something of it (§9)."""
        needed = ["timestamp", "event", "content-state"]
        if self.aps.get("event") == "start":
            needed += ["alert", "attributes-type", "attributes"]
        return self.aps.get("event") in ("start", "update", "end") and all(key in self.aps for key in needed)

    @property
    def visible(self) -> bool:
        return any(self.aps.get(key) is not None for key in ("alert", "badge", "sound"))


class Wrong(Exception):  # noqa: N818 - a reason in Apple's words
    """The first thing that is wrong."""


def path_token(method: str, path: str) -> str:
    """The device token in the path. Raises Wrong."""
    if method != "POST":
        raise Wrong("MethodNotAllowed")
    if not path.startswith(PATH) or "/" in path[len(PATH) :]:
        raise Wrong("BadPath")
    if not path[len(PATH) :]:
        raise Wrong("MissingDeviceToken")
    return path[len(PATH) :]


def check(
    token: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    bundles: Collection[str],
    certified: Collection[str] | None,
) -> Asked:
    """Raises Wrong. `bundles`: the team's apps; `certified`: a certificate's topics, of which a sole one need not be named."""
    counted = Counter(name for name, _ in headers)
    if any(count > 1 for name, count in counted.items() if name.startswith("apns-") or name in ONLY_ONCE):
        raise Wrong("DuplicateHeaders")
    given = dict(headers)
    kind = given.get("apns-push-type", "alert")  # asked for by watchOS only
    if kind not in TOPIC_ENDINGS:
        raise Wrong("InvalidPushType")
    if kind == "mdm" and certified is None:
        raise Wrong("InvalidPushType")  # by certificate alone; the sheet does not say with which reason
    sole = next(iter(certified)) if certified is not None and len(certified) == 1 else None
    topic = _topic(given.get("apns-topic") or sole, kind, bundles)
    if certified is not None and topic not in certified:
        raise Wrong("TopicDisallowed")
    message_id, collapse_id = given.get("apns-id"), given.get("apns-collapse-id")
    if message_id is not None and not _UUID.fullmatch(message_id):
        raise Wrong("BadMessageId")
    if collapse_id is not None and not 1 <= len(collapse_id.encode()) <= COLLAPSE_ID_BYTES_MAX:
        raise Wrong("BadCollapseId")
    priority = given.get("apns-priority", "10")
    if priority not in {"1", "5", "10"} or (kind == "background" and priority == "10"):
        raise Wrong("BadPriority")
    expiration = given.get("apns-expiration")
    if expiration is not None and not _WHOLE.fullmatch(expiration):
        raise Wrong("BadExpirationDate")
    payload = _payload(body, kind)
    if not _HEX.fullmatch(token) or len(token) > 2 * DEVICE_TOKEN_BYTES_MAX:
        raise Wrong("BadDeviceToken")
    return Asked(
        token=token.lower(),
        type=kind,
        priority=int(priority),
        expiration=None if expiration is None else int(expiration),
        id=message_id,
        collapse_id=collapse_id,
        topic=topic,
        payload=payload,
    )


def _topic(topic: str | None, kind: str, bundles: Collection[str]) -> str:
    if not topic:
        raise Wrong("MissingTopic")
    if not _TOPIC.fullmatch(topic):
        raise Wrong("BadTopic")
    whose = [bundle for bundle in bundles if topic == bundle or topic.startswith(f"{bundle}.")]
    if not whose:
        raise Wrong("TopicDisallowed")  # it is no app of the team
    if topic not in {bundle + TOPIC_ENDINGS[kind] for bundle in whose}:
        raise Wrong("BadTopic")  # the sheet: a mismatch is an error; it does not say which
    return topic


def _payload(body: bytes, kind: str) -> Json:
    if not body:
        raise Wrong("PayloadEmpty")
    if len(body) > (VOIP_BODY_BYTES_MAX if kind == "voip" else BODY_BYTES_MAX):
        raise Wrong("PayloadTooLarge")
    payload = read_json(body)
    if not isinstance(payload, dict) or not payload:
        raise Wrong("PayloadEmpty")  # the sheet has no row for what is not JSON
    return payload
