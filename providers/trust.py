"""Whose certificates an account takes for its vendor's: the machine's authorities, or those of its settings alone."""

import ssl
from typing import Annotated

from cryptography import x509
from pydantic import AfterValidator

__all__ = ["Authorities", "end_s", "verifying"]


def verifying(authorities: str | None) -> ssl.SSLContext:
    """A client's context that verifies, and speaks TLS 1.2 at least; `authorities` (PEM) stand in for the machine's own.

    Raises ssl.SSLError, ValueError if they cannot be read.
    """
    context = ssl.create_default_context(cadata=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def end_s(authorities: str) -> float:
    """When the last of them ends, in seconds since 1970: from then on none of the account's calls is answered."""
    found = x509.load_pem_x509_certificates(authorities.encode())
    return max(one.not_valid_after_utc for one in found).timestamp()


def _readable(pem: str) -> str:
    try:
        x509.load_pem_x509_certificates(pem.encode("utf-8", "replace"))  # of nothing at all, ssl takes its own instead
        verifying(pem)
    except (ssl.SSLError, ValueError):
        raise ValueError("must be certificates in PEM form") from None
    return pem


Authorities = Annotated[str, AfterValidator(_readable)]
