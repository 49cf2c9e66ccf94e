"""An APNs account's settings: a signing key or a client certificate, and the app it is for (sheet `apns` §1, §2)."""

import ssl
import tempfile
from typing import Annotated, Any, ClassVar, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import AfterValidator, Field, HttpUrl, ModelWrapValidatorHandler, SecretStr, model_validator

from providers.contract import ProviderConfig
from providers.http2_tls import tls_context
from providers.key_files import from_files

__all__ = ["ApnsConfig", "signing_key"]

HOSTS = {"production": "api.push.apple.com", "sandbox": "api.sandbox.push.apple.com"}
TOPIC_SUFFIXES = (".voip", ".push-type.liveactivity")  # ours to add
# Extensions of a certificate that list its topics: of all sorts, and of calls.
TOPICS_LISTED_IN = ("1.2.840.113635.100.6.3.6", "1.2.840.113635.100.6.3.4")
# And those that say where it may be shown.
GOOD_AT = {"sandbox": "1.2.840.113635.100.6.3.1", "production": "1.2.840.113635.100.6.3.2"}

Environment = Literal["production", "sandbox"]


def signing_key(pem: str) -> EllipticCurvePrivateKey:
    """The key of Apple's `.p8` file. Raises ValueError."""
    try:
        key = load_pem_private_key(pem.encode("utf-8", "replace"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("must be the text of an unencrypted .p8 file (a private key in PEM form)") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("must be a P-256 key, as Apple hands them out: APNs takes ES256 alone")  # noqa: TRY004
    return key


_BUNDLE_ID: Any = Field(
    pattern=r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$",
    max_length=155,
    description="the app's bundle id, like com.example.app",
)
_TEN: Any = Field(pattern=r"^[A-Z0-9]{10}$", description="10 capitals and digits, like ABCDE12345")


def _signs(secret: SecretStr) -> SecretStr:
    signing_key(secret.get_secret_value())
    return secret


def _certifies(secret: SecretStr) -> SecretStr:
    pem = secret.get_secret_value().encode("utf-8", "replace")
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm):
        raise ValueError("must be the certificate and its unencrypted private key, both in PEM form") from None
    both = [
        one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for one in (leaf.public_key(), key.public_key())
    ]
    if both[0] != both[1]:
        raise ValueError("the private key is not that of the first certificate")
    return secret


class ApnsConfig(ProviderConfig):
    """Give `topic`, and either `key`, `key_id` and `team_id`, or `certificate`.

    `key_file` and `certificate_file` are paths of the same.
    """

    topic: Annotated[str, _BUNDLE_ID]
    team_id: Annotated[str, _TEN] | None = None
    key_id: Annotated[str, _TEN] | None = None
    key: Annotated[SecretStr, AfterValidator(_signs)] | None = None  # a .p8 file's text
    certificate: Annotated[SecretStr, AfterValidator(_certifies)] | None = None
    environment: Environment = "production"  # of addresses that do not name theirs
    port: Literal[443, 2197] = 443
    base_url: HttpUrl | None = None  # in place of both environments' hosts, e.g. the sandbox's

    operator_only: ClassVar[frozenset[str]] = frozenset({"key_file", "certificate_file", "base_url"})

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return from_files(given, check, "key", "certificate")

    @model_validator(mode="after")
    def _one_credential(self) -> "ApnsConfig":
        if (self.key is None) == (self.certificate is None):
            raise ValueError("give a key (with key_id and team_id) or a certificate, one of them")
        for name in ("key_id", "team_id"):
            if self.key is not None and getattr(self, name) is None:
                raise ValueError(f"{name}: goes with the key; Apple shows it beside")
            if self.key is None and getattr(self, name) is not None:
                raise ValueError(f"{name}: has no meaning with a certificate")
        if self.topic.endswith(TOPIC_SUFFIXES):
            raise ValueError("topic: give the bundle id alone; what follows it is added for each kind of address")
        if self.base_url is not None and self.base_url.scheme != "https":
            raise ValueError("base_url: must be https")
        return self

    @property
    def _leaf(self) -> x509.Certificate | None:
        if self.certificate is None:
            return None
        return x509.load_pem_x509_certificates(self.certificate.get_secret_value().encode())[0]

    @property
    def certificate_expires_s(self) -> float | None:
        """When the certificate ends, in seconds since 1970; None without one."""
        return None if self._leaf is None else self._leaf.not_valid_after_utc.timestamp()

    def advice(self) -> list[str]:
        """See `ProviderConfig`: a certificate is for the apps that it lists, and for the environments that it names (§2.2)."""
        leaf = self._leaf
        says = {} if leaf is None else {one.oid.dotted_string: one.value.public_bytes() for one in leaf.extensions}
        lists = [says[oid] for oid in TOPICS_LISTED_IN if oid in says]
        found = []
        if lists and not any(self.topic.encode() in topics for topics in lists):
            found.append(f"topic: the certificate does not list {self.topic}, so Apple will not take a push with it.")
        if says.keys() & set(GOOD_AT.values()) and GOOD_AT[self.environment] not in says:
            found.append(
                f"environment: the certificate is not for {self.environment}, so Apple will not take a push with it."
            )
        return found

    def origin(self, environment: str | None) -> str:
        """`https://host:port` for addresses of that environment; None is the account's."""
        if self.base_url is not None:
            return str(self.base_url).rstrip("/")
        host = HOSTS[environment or self.environment]
        return f"https://{host}" if self.port == 443 else f"https://{host}:{self.port}"

    def tls(self) -> ssl.SSLContext:
        """Verifying, with the certificate if there is one."""
        context = tls_context(ca_data=self.ca)
        if self.certificate is not None:
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the ssl module reads files only; this is 0600
                file.write(self.certificate.get_secret_value().encode())
                file.flush()
                context.load_cert_chain(file.name)
        return context
