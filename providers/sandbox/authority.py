"""A throw-away certificate authority, for emulators whose vendor is reached by TLS. Trust it in tests and demos only."""

import datetime
import ipaddress
import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS = ("localhost", "127.0.0.1", "::1")
START, END = datetime.datetime(2000, 1, 1), datetime.datetime(2099, 1, 1)  # noqa: DTZ001 - valid by any clock of a test
CA_FILE, KEY_FILE = "ca.pem", "ca-key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """`certificate` is what clients trust; `file` is the same, if it is kept."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    file: Path | None

    @classmethod
    def open(cls, state_dir: Path | None) -> Self:
        """The authority kept in `state_dir`, or a new one, which is kept there. Raises ValueError for a spoilt file."""
        if state_dir is None:
            certificate, key = _new_authority()
            return cls(certificate=certificate, key=key, file=None)
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, key_file = state_dir.resolve() / CA_FILE, state_dir.resolve() / KEY_FILE
        if not (file.exists() and key_file.exists()):
            certificate, key = _new_authority()
            key_file.touch(0o600)
            key_file.chmod(0o600)
            key_file.write_bytes(_pem_of(key))
            file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        try:
            kept = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
        except ValueError:
            kept = None
        if not isinstance(kept, ec.EllipticCurvePrivateKey):
            sentence = f"{file} does not hold the sandbox's certificate authority; delete it to get a new one."
            raise ValueError(sentence)  # noqa: TRY004 - a file is spoilt; no caller used a wrong type
        return cls(certificate=certificate, key=kept, file=file)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server_pem(self, hosts: Iterable[str] = HOSTS) -> bytes:
        """A new key and certificate for a listener under these names, as servers read them from a file."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            _builder("sandbox", self.certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return _pem_of(key) + leaf.public_bytes(serialization.Encoding.PEM)

    def server_context(self, hosts: Iterable[str] = HOSTS, *, alpn: Iterable[str] = ()) -> ssl.SSLContext:
        """For a listener under these names, with a new certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the ssl module reads files only; this one is 0600
            file.write(self.server_pem(hosts))
            file.flush()
            context.load_cert_chain(file.name)
        if protocols := list(alpn):
            context.set_alpn_protocols(protocols)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cadata=self.pem)


def _new_authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay sandbox CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder("relay sandbox CA", name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _builder(common_name: str, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
