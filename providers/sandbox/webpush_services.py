"""How each push service of a browser says no: Mozilla in JSON with `errno`, Google in a sentence, Microsoft in headers,
Apple in JSON with `reason`. And the table of faults made of these answers.

Source: vendor sheet webpush.md §5 and §6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from providers.sandbox.emulator import NETWORK_FAULTS, json_answer
from providers.sandbox.faults import Answer, Fault, Place

MOZILLA_RETRY_AFTER = "120"
MONTH_S = 30 * 86_400


def mozilla(status: int, errno: int | None, error: str, message: str, *, retry_after: str | None = None) -> Answer:
    body = {
        "code": status,
        "errno": errno,
        "error": error,
        "message": message,
        "more_info": "http://autopush.readthedocs.io/en/latest/http.html#error-codes",
    }
    return json_answer(status, body, retry_after=retry_after)


def google(status: int, sentence: str) -> Answer:
    return Answer(status=status, body=f"{sentence}\n".encode(), content_type="text/plain; charset=utf-8")


def microsoft(status: int, description: str, *, retry_after: str | None = None, state: str = "dropped") -> Answer:
    headers = (("X-WNS-Error-Description", description), ("X-WNS-Status", state), ("X-WNS-NotificationStatus", state))
    return Answer(status=status, body=b"", content_type="text/plain", retry_after=retry_after, headers=headers)


def apple(status: int, reason: str) -> Answer:
    return json_answer(status, {"reason": reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One push service: its limits, and its answer to each mistake."""

    name: str
    prefix: str  # of the endpoint's path, before the browser's name
    body_bytes_max: int
    ttl_s_max: int
    ttl_missing: Answer
    ttl_wrong: Answer
    urgency_wrong: Answer | None  # None: it does not look
    topic_wrong: Answer
    encoding_wrong: Answer
    too_large: Answer
    unsigned: Answer
    signature_wrong: Answer
    other_key: Answer


SERVICES = {
    service.name: service
    for service in (
        Service(
            name="mozilla",
            prefix="wpush/v2",
            body_bytes_max=5630,
            ttl_s_max=MONTH_S,
            ttl_missing=mozilla(400, 111, "Bad Request", "Missing TTL Header"),
            ttl_wrong=mozilla(400, 114, "Bad Request", "Invalid TTL"),
            urgency_wrong=None,
            topic_wrong=mozilla(400, 113, "Bad Request", "Invalid topic"),
            encoding_wrong=mozilla(400, 110, "Bad Request", "Invalid crypto headers"),
            too_large=mozilla(413, 104, "Payload Too Large", "This message is intended for a constrained device"),
            unsigned=mozilla(401, 109, "Unauthorized", "Missing or invalid VAPID"),
            signature_wrong=mozilla(401, 109, "Unauthorized", "VAPID does not validate"),
            other_key=mozilla(401, 109, "Unauthorized", "VAPID public key mismatch"),
        ),
        Service(
            name="google",
            prefix="fcm/send",
            body_bytes_max=4096,
            ttl_s_max=28 * 86_400,
            ttl_missing=google(400, "InvalidTtlParameter"),
            ttl_wrong=google(400, "InvalidTtlParameter"),
            urgency_wrong=google(400, "invalid Urgency"),
            topic_wrong=google(400, "invalid Topic"),
            encoding_wrong=google(400, "invalid Content-Encoding"),
            too_large=google(413, "payload too large"),
            unsigned=google(401, "authorization header must be specified."),
            signature_wrong=google(400, "UnauthorizedRegistration"),
            other_key=google(
                403,
                "the VAPID credentials in the authorization header do not correspond to the credentials used to create"
                " the subscriptions.",
            ),
        ),
        Service(
            name="microsoft",
            prefix="w",
            body_bytes_max=5000,
            ttl_s_max=MONTH_S,
            ttl_missing=microsoft(400, "Ttl header is missing"),
            ttl_wrong=microsoft(400, "Ttl value is invalid"),
            urgency_wrong=microsoft(400, "Urgency value is invalid"),
            topic_wrong=microsoft(400, "Topic value is invalid"),
            encoding_wrong=microsoft(400, "Content-Encoding is invalid"),
            too_large=microsoft(413, "The notification payload exceeds the 5000 bytes size limit"),
            unsigned=microsoft(401, "Authorization is missing"),
            signature_wrong=microsoft(401, "Authorization is invalid"),
            other_key=microsoft(403, "The credentials do not match the channel"),
        ),
        Service(
            name="apple",
            prefix="q",
            body_bytes_max=4096,
            ttl_s_max=MONTH_S,
            ttl_missing=apple(400, "BadTtl"),
            ttl_wrong=apple(400, "BadTtl"),
            urgency_wrong=apple(400, "BadUrgency"),
            topic_wrong=apple(400, "BadWebPushTopic"),
            encoding_wrong=apple(400, "BadWebPushRequest"),
            too_large=apple(413, "PayloadTooLarge"),
            unsigned=apple(403, "BadAuthorizationHeader"),
            signature_wrong=apple(403, "BadJwtToken"),
            other_key=apple(400, "VapidPkHashMismatch"),
        ),
    )
}

# Reached through FCM, whose limits are less, after base64 (§6.1).
FIREFOX_FOR_ANDROID = replace(SERVICES["mozilla"], body_bytes_max=2744, ttl_s_max=28 * 86_400)

TTL_POLICY_CONFLICT = microsoft(400, "Ttl value conflicts with X-WNS-Cache-Policy")
APPLE_GONE = apple(410, "Unregistered")  # the sheet names no reason for 410
NO_SUCH_ENDPOINT = mozilla(404, 102, "Not Found", "Invalid URL endpoint")


def _fault(answer: Answer, meaning: str, *, arrives: bool = False) -> Fault:
    return Fault(meaning=f"{answer.status}: {meaning}", answer=answer, arrives=arrives)


def _taken(state: str) -> Answer:
    return Answer(status=201, body=b"", headers=(("X-WNS-Status", state), ("X-WNS-NotificationStatus", state)))


WEBPUSH_FAULTS: Mapping[Place, Mapping[str, Fault]] = {
    Place.SEND: {
        **NETWORK_FAULTS,
        "away": Fault(meaning="the usual 201; no browser is there, so the message waits"),
        # Of all services, by status (§5).
        "moved": _fault(
            Answer(status=301, body=b"", headers=(("Location", "https://elsewhere.example/"),)), "elsewhere"
        ),
        "badrequest": _fault(Answer(status=400, body=b""), "headers are wrong"),
        "unsigned": _fault(Answer(status=401, body=b""), "the signature is missing or wrong"),
        "forbidden": _fault(Answer(status=403, body=b""), "the key is not the subscription's"),
        "notfound": _fault(Answer(status=404, body=b""), "there is no such subscription"),
        "timeout": _fault(Answer(status=408, body=b""), "took too long"),
        "unregistered": _fault(Answer(status=410, body=b""), "the browser unsubscribed"),
        "toobig": _fault(Answer(status=413, body=b""), "the body is too large"),
        "early": _fault(Answer(status=425, body=b""), "too early"),
        "throttled": _fault(Answer(status=429, body=b"", retry_after="30"), "too many for this subscription"),
        "throttledbare": _fault(Answer(status=429, body=b""), "the same without Retry-After"),
        "internal": _fault(Answer(status=500, body=b""), "a fault of the service"),
        "unavailable": _fault(Answer(status=503, body=b"", retry_after="120"), "the service is ill"),
        "storage": _fault(Answer(status=507, body=b""), "no room"),
        # Mozilla (§6.1).
        "mozcrypto": _fault(SERVICES["mozilla"].encoding_wrong, "crypto headers"),
        "mozheaders": _fault(
            mozilla(400, 101, "Bad Request", "Missing necessary crypto keys"), "a crypto header is missing"
        ),
        "mozttl": _fault(SERVICES["mozilla"].ttl_missing, "no TTL"),
        "mozttlbad": _fault(mozilla(400, 112, "Bad Request", "Invalid TTL header"), "TTL, in the documents' number"),
        "mozttlnegative": _fault(SERVICES["mozilla"].ttl_wrong, "TTL, in the code's number"),
        "moztopic": _fault(SERVICES["mozilla"].topic_wrong, "Topic"),
        "mozrouter": _fault(mozilla(400, 108, "Bad Request", "Router type is invalid"), "router type"),
        "mozvapid": _fault(SERVICES["mozilla"].signature_wrong, "VAPID"),
        "mozunknown": _fault(NO_SUCH_ENDPOINT, "endpoint unreadable"),
        "mozgone": _fault(mozilla(410, 103, "Gone", "User has gone"), "user gone"),
        "mozgoing": _fault(mozilla(410, 105, "Gone", "User went during the request"), "gone during the request"),
        "mozunsubscribed": _fault(mozilla(410, 106, "Gone", "Subscription is unknown"), "no such subscription"),
        "moztoobig": _fault(SERVICES["mozilla"].too_large, "Firefox for Android"),
        "mozbug": _fault(mozilla(500, 999, "Internal Server Error", "x"), "a bug"),
        "mozbugbare": _fault(mozilla(500, None, "Internal Server Error", "x"), "a bug that has no number"),
        **{
            f"mozbridge{errno}": _fault(mozilla(502, errno, "Bad Gateway", "x"), "mobile bridge")
            for errno in range(900, 904)
        },
        "mozbackoff": _fault(
            mozilla(503, 201, "Service Unavailable", "x", retry_after=MOZILLA_RETRY_AFTER), "back off"
        ),
        "mozagain": _fault(mozilla(503, 202, "Service Unavailable", "x", retry_after=MOZILLA_RETRY_AFTER), "retry"),
        "mozbusy": _fault(mozilla(503, None, "Service Unavailable", "x", retry_after=MOZILLA_RETRY_AFTER), "no number"),
        # Google (§6.2).
        "googlettl": _fault(SERVICES["google"].ttl_wrong, "TTL"),
        "googlevapid": _fault(SERVICES["google"].signature_wrong, "VAPID"),
        "googlekey": _fault(SERVICES["google"].other_key, "another key"),
        "googlegone": _fault(google(410, "push subscription has unsubscribed or expired."), "unsubscribed"),
        # Microsoft (§6.3).
        "wnsttl": _fault(TTL_POLICY_CONFLICT, "TTL against cache policy"),
        "wnsthrottled": _fault(microsoft(406, "Throttled", retry_after="90"), "Microsoft's throttle"),
        "wnsslow": _fault(_taken("channelthrottled"), "taken, and not delivered: too many for this channel"),
        "wnsdropped": _fault(_taken("dropped"), "taken, and dropped"),
        "wnsexpired": _fault(microsoft(410, "Channel expired"), "channel expired"),
        "wnsblocked": _fault(microsoft(410, "Domain Blocked"), "the sender is banned; the channel is fine"),
        # Apple (§6.4).
        "applettl": _fault(apple(400, "BadTtl"), "TTL"),
        "appleurgency": _fault(apple(400, "BadUrgency"), "Urgency"),
        "appletopic": _fault(apple(400, "BadWebPushTopic"), "Topic"),
        "applerequest": _fault(apple(400, "BadWebPushRequest"), "request"),
        "applekey": _fault(apple(400, "VapidPkHashMismatch"), "another key"),
        "applejwt": _fault(apple(403, "BadJwtToken"), "token"),
        "appleheader": _fault(apple(403, "BadAuthorizationHeader"), "Authorization"),
        "applepublic": _fault(apple(400, "BadVapidPublicKey"), "public key"),
        "appleidle": _fault(apple(400, "IdleTimeout"), "idle"),
        "applegone": _fault(APPLE_GONE, "expired"),
        "appletoobig": _fault(apple(413, "PayloadTooLarge"), "too large"),
        "applethrottled": _fault(apple(429, "TooManyRequests"), "too many"),
        "appleinternal": _fault(apple(500, "InternalServerError"), "a fault of Apple's"),
        "appleshutdown": _fault(apple(503, "Shutdown"), "going down"),
        "appleunavailable": _fault(apple(503, "ServiceUnavailable"), "the service is ill"),
        "applepath": _fault(apple(404, "BadPath"), "path"),
        "applemethod": _fault(apple(405, "MethodNotAllowed"), "method"),
    }
}
