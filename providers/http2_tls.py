"""TLS for HTTP/2: what we accept, and what the other side says when it does not accept us."""

import ssl

from providers.contract import Outcome, Scope, Verdict
from providers.http import Refusal
from providers.trust import verifying

__all__ = ["about_certificate", "certificate_refused", "tls_context"]

# What a server's TLS says when it will not have our certificate.
_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")


def tls_context(*, ca_data: str | None = None) -> ssl.SSLContext:
    """One that verifies, speaks TLS 1.2 at least, and offers h2; `ca_data` (PEM) stands in for the machine's authorities.

    Raises ssl.SSLError, ValueError if that cannot be read.
    """
    context = verifying(ca_data)
    context.set_alpn_protocols(["h2"])
    return context


def certificate_refused() -> Refusal:
    """The server will not have our certificate: an operator must act (sheet §3)."""
    return Refusal(Outcome(verdict=Verdict.MISCONFIGURED, scope=Scope.ACCOUNT, vendor_code="certificate_refused"))


def about_certificate(exc: BaseException | None) -> bool:
    """Whether the other side's TLS complains of our certificate."""
    said = str(getattr(exc, "reason", "") or "")
    return isinstance(exc, ssl.SSLError) and "ALERT" in said and any(word in said for word in _CERTIFICATE_ALERTS)
