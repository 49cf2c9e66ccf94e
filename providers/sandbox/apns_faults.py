"""APNs' error answers, every row of vendor sheet `apns` §7, and the table of faults made of them.

The word of a reason's fault is the reason in lower case: a push to a phone named `baddevicetoken-1` gets BadDeviceToken.
Beside these stand the common words and what a connection can do.
"""

from collections.abc import Mapping

import msgspec

from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS
from providers.sandbox.faults import Answer, Ending, Fault, Place

REASONS: dict[str, int] = {
    "BadCollapseId": 400,
    "BadDeviceToken": 400,
    "BadExpirationDate": 400,
    "BadMessageId": 400,
    "BadPriority": 400,
    "BadTopic": 400,
    "DeviceTokenNotForTopic": 400,
    "DuplicateHeaders": 400,
    "IdleTimeout": 400,
    "InvalidPushType": 400,
    "MissingDeviceToken": 400,
    "MissingTopic": 400,
    "PayloadEmpty": 400,
    "TopicDisallowed": 400,
    "BadCertificate": 403,
    "BadCertificateEnvironment": 403,
    "ExpiredProviderToken": 403,
    "Forbidden": 403,
    "InvalidProviderToken": 403,
    "MissingProviderToken": 403,
    "UnrelatedKeyIdInToken": 403,
    "BadEnvironmentKeyIdInToken": 403,  # as Apple's page has it
    "BadEnvironmentKeyInToken": 403,  # as it was seen on the wire
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "ExpiredToken": 410,
    "Unregistered": 410,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
    "TooManyRequests": 429,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "Shutdown": 503,
}


def error(reason: str, *, since_ms: int | None = None) -> Answer:
    """`since_ms`: with 410, when the token was found dead."""
    body: dict[str, object] = {"reason": reason}
    if since_ms is not None:
        body["timestamp"] = since_ms
    return Answer(status=REASONS[reason], body=msgspec.json.encode(body), content_type="application/json")


def _of(reason: str, meaning: str | None = None) -> Fault:
    return Fault(meaning=meaning or f"{REASONS[reason]} {reason}", answer=error(reason))


APNS_FAULTS: Mapping[Place, Mapping[str, Fault]] = {
    Place.SEND: {
        **{reason.lower(): _of(reason) for reason in REASONS},
        **NETWORK_FAULTS,
        "throttled": _of("TooManyRequests", COMMON_FAULTS["throttled"]),
        "unavailable": _of("ServiceUnavailable", COMMON_FAULTS["unavailable"]),
        "revoked": _of("InvalidProviderToken", COMMON_FAULTS["revoked"]),
        "goaway": Fault(meaning=COMMON_FAULTS["goaway"], ending=Ending.GOAWAY),
        "refused": Fault(meaning="RST_STREAM REFUSED_STREAM: the stream was not worked on"),
        "shrink": Fault(meaning="the usual answer, and from now on one stream at a time", arrives=True),
        "unknown": Fault(
            meaning="400 with a reason that nobody knows",
            answer=Answer(status=400, body=b'{"reason":"SomethingNew"}', content_type="application/json"),
        ),
    }
}
