"""FCM's and Google's error answers, byte for byte as a client sees them, and the table of faults made of them.

Source: vendor sheet fcm.md §2 (token endpoint) and §6 (complete error table); the wording of the quota answers after
rails/action_push_native#129 and firebase-admin-go#719, of a violation named in the detail alone after firebase-admin-python#187.
"""

from collections.abc import Iterable, Mapping

import msgspec

from providers.sandbox.checks import Json, Violation
from providers.sandbox.emulator import COMMON_FAULTS, NETWORK_FAULTS
from providers.sandbox.faults import Answer, Ending, Fault, Place

RETRY_AFTER = "30"
HUGE_BYTES = 4 * 1024 * 1024
VIOLATIONS_SHOWN_MAX = 50
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
RPC = "type.googleapis.com/google.rpc."


def rpc_error(
    http_status: int, status: str, message: str, *details: Json, code: str | None = None, retry_after: str | None = None
) -> Answer:
    """Google's error shape. `code` becomes the FcmError detail, which comes first."""
    all_details: list[Json] = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    all_details += details
    error: Json = {"code": http_status, "message": message, "status": status}
    if all_details:
        error["details"] = all_details
    return Answer(status=http_status, body=msgspec.json.encode({"error": error}), retry_after=retry_after)


def oauth_error(http_status: int, error: str, description: str) -> Answer:
    """The token endpoint's error shape (RFC 6749, 5.2)."""
    return Answer(status=http_status, body=msgspec.json.encode({"error": error, "error_description": description}))


def invalid(violations: Iterable[Violation]) -> Answer:
    """400 with every violation. What did not even fit the types has no FcmError, as at Google."""
    shown = list(violations)[:VIOLATIONS_SHOWN_MAX]
    fields = [{"field": violation.field, "description": violation.description} for violation in shown]
    return rpc_error(
        400,
        "INVALID_ARGUMENT",
        "\n".join(violation.description for violation in shown),
        {"@type": RPC + "BadRequest", "fieldViolations": fields},
        code="INVALID_ARGUMENT" if all(violation.parsed for violation in shown) else None,
    )


def html(http_status: int, title: str, sentence: str, *, padding: int = 0) -> Answer:
    """A page of Google's front end."""
    page = (
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n"
        f"  <title>Error {http_status} ({title})!!1</title>\n"
        f"  <p><b>{http_status}.</b> <ins>That's an error.</ins>\n  <p>{sentence}  <ins>That's all we know.</ins>\n"
    )
    return Answer(status=http_status, body=page.encode() + b" " * padding, content_type="text/html; charset=UTF-8")


UNAUTHENTICATED = rpc_error(
    401,
    "UNAUTHENTICATED",
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
)
SCOPE_INSUFFICIENT = rpc_error(
    403,
    "PERMISSION_DENIED",
    "Request had insufficient authentication scopes.",
    {
        "@type": RPC + "ErrorInfo",
        "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "domain": "googleapis.com",
        "metadata": {"service": "fcm.googleapis.com"},
    },
)
NO_SUCH_PROJECT = rpc_error(404, "NOT_FOUND", "Requested entity was not found.")
NO_SUCH_PATH = html(404, "Not Found", "The requested URL was not found on this server.")


def _quota(code: str, message: str, subject: str, *, retry_after: str | None = None) -> Answer:
    return rpc_error(
        429,
        "RESOURCE_EXHAUSTED",
        message,
        {"@type": RPC + "QuotaFailure", "violations": [{"subject": subject, "description": message}]},
        code=code,
        retry_after=retry_after,
    )


_PROJECT_QUOTA = ("QUOTA_EXCEEDED", "Project message rate exceeded: 600000 per minute.", "project:relay-sandbox")

_SEND: dict[str, Fault] = {
    "unregistered": Fault(
        meaning="404 UNREGISTERED: the app was removed",
        answer=rpc_error(404, "NOT_FOUND", "Requested entity was not found.", code="UNREGISTERED"),
    ),
    "badtoken": Fault(
        meaning="400 INVALID_ARGUMENT: the token is malformed",
        answer=invalid(
            [Violation("message.token", "The registration token is not a valid FCM registration token", parsed=True)]
        ),
    ),
    "badtokenfield": Fault(
        meaning="400 INVALID_ARGUMENT: the same, named in the BadRequest detail alone",
        answer=rpc_error(
            400,
            "INVALID_ARGUMENT",
            "Request contains an invalid argument.",
            {
                "@type": RPC + "BadRequest",
                "fieldViolations": [{"field": "message.token", "description": "Invalid registration token"}],
            },
            code="INVALID_ARGUMENT",
        ),
    ),
    "packagename": Fault(
        meaning="400 INVALID_ARGUMENT that does not name the token",
        answer=rpc_error(
            400,
            "INVALID_ARGUMENT",
            "The restricted package name does not match the package name of the app.",
            code="INVALID_ARGUMENT",
        ),
    ),
    "badfield": Fault(
        meaning="400 with a BadRequest detail only",
        answer=invalid(
            [Violation("message.data[0].value", "Invalid value at 'message.data[0].value' (TYPE_STRING), 42")]
        ),
    ),
    "toobigfield": Fault(
        meaning="400: the message is too big, as the BadRequest detail alone says",
        answer=rpc_error(
            400,
            "INVALID_ARGUMENT",
            "Request contains an invalid argument.",
            {
                "@type": RPC + "BadRequest",
                "fieldViolations": [{"field": "message", "description": "Message is too large."}],
            },
            code="INVALID_ARGUMENT",
        ),
    ),
    "retryinfo": Fault(
        meaning="503 UNAVAILABLE with a RetryInfo detail, no Retry-After",
        answer=rpc_error(
            503,
            "UNAVAILABLE",
            "The service is currently unavailable.",
            {"@type": RPC + "RetryInfo", "retryDelay": "45s"},
            code="UNAVAILABLE",
        ),
    ),
    "toobig": Fault(
        meaning="400: the message is too big",
        answer=invalid([Violation("message.android", "Android message is too big", parsed=True)]),
    ),
    "badauth": Fault(meaning="401 without a code: the access token is not taken", answer=UNAUTHENTICATED),
    "revoked": Fault(meaning="401 without a code: the common word for badauth", answer=UNAUTHENTICATED),
    "thirdparty": Fault(
        meaning="401 THIRD_PARTY_AUTH_ERROR: the APNs or Web Push key in Firebase is bad",
        answer=rpc_error(
            401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", code="THIRD_PARTY_AUTH_ERROR"
        ),
    ),
    "apnsauth": Fault(
        meaning="401 APNS_AUTH_ERROR: the old word for thirdparty",
        answer=rpc_error(401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", code="APNS_AUTH_ERROR"),
    ),
    "mismatch": Fault(
        meaning="403 SENDER_ID_MISMATCH: the token belongs to another project",
        answer=rpc_error(403, "PERMISSION_DENIED", "SenderId mismatch", code="SENDER_ID_MISMATCH"),
    ),
    "forbidden": Fault(
        meaning="403 without a code: the IAM role is missing",
        answer=rpc_error(
            403,
            "PERMISSION_DENIED",
            "Permission 'cloudmessaging.messages.create' denied on resource "
            "'//cloudresourcemanager.googleapis.com/projects/relay-sandbox' (or it may not exist).",
            {
                "@type": RPC + "ErrorInfo",
                "reason": "IAM_PERMISSION_DENIED",
                "domain": "cloudresourcemanager.googleapis.com",
                "metadata": {"permission": "cloudmessaging.messages.create"},
            },
        ),
    ),
    "apidisabled": Fault(
        meaning="403 without a code: the API is not enabled",
        answer=rpc_error(
            403,
            "PERMISSION_DENIED",
            "Firebase Cloud Messaging API has not been used in project relay-sandbox before or it is disabled.",
            {
                "@type": RPC + "ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
                "metadata": {"service": "fcm.googleapis.com"},
            },
        ),
    ),
    "notfound": Fault(meaning="404 without a code: a wrong project id", answer=NO_SUCH_PROJECT),
    "html404": Fault(meaning="404 as an HTML page: a wrong path", answer=NO_SUCH_PATH),
    "quota": Fault(
        meaning="429 QUOTA_EXCEEDED of the project, with Retry-After",
        answer=_quota(*_PROJECT_QUOTA, retry_after=RETRY_AFTER),
    ),
    "quotabare": Fault(meaning="429 QUOTA_EXCEEDED of the project, no Retry-After", answer=_quota(*_PROJECT_QUOTA)),
    "devicequota": Fault(
        meaning="429 QUOTA_EXCEEDED of one device",
        answer=_quota("QUOTA_EXCEEDED", "Device message rate exceeded.", "device"),
    ),
    "topicquota": Fault(
        meaning="429 QUOTA_EXCEEDED of a topic",
        answer=_quota("QUOTA_EXCEEDED", "Topic message rate exceeded.", "topic"),
    ),
    "overload": Fault(
        meaning="429 without a code",
        answer=rpc_error(
            429,
            "RESOURCE_EXHAUSTED",
            "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service "
            "'fcm.googleapis.com' for consumer 'project_number:1'.",
            {
                "@type": RPC + "ErrorInfo",
                "reason": "RATE_LIMIT_EXCEEDED",
                "domain": "googleapis.com",
                "metadata": {"service": "fcm.googleapis.com", "quota_limit": "SendsPerMinutePerProject"},
            },
        ),
    ),
    "throttled": Fault(
        meaning="429 without anything more",
        answer=rpc_error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    ),
    "internal": Fault(
        meaning="500 INTERNAL", answer=rpc_error(500, "INTERNAL", "Internal error encountered.", code="INTERNAL")
    ),
    "unspecified": Fault(
        meaning="500 UNSPECIFIED_ERROR",
        answer=rpc_error(500, "UNKNOWN", "An unknown error occurred.", code="UNSPECIFIED_ERROR"),
    ),
    "unavailable": Fault(
        meaning="503 UNAVAILABLE, no Retry-After",
        answer=rpc_error(503, "UNAVAILABLE", "The service is currently unavailable.", code="UNAVAILABLE"),
    ),
    "unavailableafter": Fault(
        meaning="503 UNAVAILABLE with Retry-After",
        answer=rpc_error(
            503, "UNAVAILABLE", "The service is currently unavailable.", code="UNAVAILABLE", retry_after=RETRY_AFTER
        ),
    ),
}

# These strike the token endpoint as well.
_ANYWHERE: dict[str, Fault] = {
    **NETWORK_FAULTS,
    "goaway": Fault(meaning=COMMON_FAULTS["goaway"], ending=Ending.GOAWAY),
    "gateway": Fault(
        meaning="502 as an HTML page",
        answer=html(502, "Server Error", "The server encountered a temporary error. Please try again in 30 seconds."),
    ),
    "gatewaytimeout": Fault(
        meaning="504 as an HTML page",
        answer=html(504, "Gateway Timeout", "The upstream server did not answer in time."),
    ),
    "garbage": Fault(
        meaning="200 that is not JSON: the message was taken",
        answer=Answer(status=200, body=b'\x00\xff{"name": projects/'),
        arrives=True,
    ),
    "empty": Fault(
        meaning="200 without a body: the message was taken", answer=Answer(status=200, body=b""), arrives=True
    ),
    "hugebody": Fault(
        meaning="503 as an HTML page of 4 MiB",
        answer=html(503, "Server Error", "Please try again.", padding=HUGE_BYTES),
    ),
}

_SEND_ONLY: dict[str, Fault] = {
    "lost": Fault(meaning="the usual 200, but the phone never gets it"),
}

_TOKEN: dict[str, Fault] = {
    "invalid_grant": Fault(
        meaning="400 invalid_grant: the key was deleted",
        answer=oauth_error(400, "invalid_grant", "Invalid JWT Signature."),
    ),
    "invalid_scope": Fault(
        meaning="400 invalid_scope",
        answer=oauth_error(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."),
    ),
    "unauthorized_client": Fault(
        meaning="401 unauthorized_client",
        answer=oauth_error(
            401,
            "unauthorized_client",
            "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of "
            "the scopes requested.",
        ),
    ),
    "timeout": Fault(meaning="408", answer=oauth_error(408, "request_timeout", "The request timed out.")),
    "quota": Fault(meaning="429", answer=oauth_error(429, "rate_limit_exceeded", "Rate Limit Exceeded")),
    "internal": Fault(meaning="500", answer=oauth_error(500, "internal_failure", "Backend Error")),
    "unavailable": Fault(meaning="503", answer=oauth_error(503, "temporarily_unavailable", "Backend Error")),
    "html404": Fault(meaning="404 as an HTML page", answer=NO_SUCH_PATH),
}

FCM_FAULTS: Mapping[Place, Mapping[str, Fault]] = {
    Place.SEND: _SEND | _ANYWHERE | _SEND_ONLY,
    Place.TOKEN: _TOKEN | _ANYWHERE,
}
