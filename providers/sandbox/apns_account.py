"""What a developer gets from Apple's portal for the emulator: a signing key, a client certificate."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from providers.sandbox.apns_credentials import TOPICS_LISTED_IN, listed
from providers.sandbox.authority import Authority

KEY_FILE = "apns-AuthKey.p8"


def client_certificate(authority: Authority, bundle: str, topics: Sequence[str] = ()) -> str:
    """A client certificate for the app, with its key. `topics`: those that it lists, if it is for several."""
    key = ec.generate_private_key(ec.SECP256R1())
    start = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    name = [
        x509.NameAttribute(NameOID.USER_ID, bundle),
        x509.NameAttribute(NameOID.COMMON_NAME, f"Apple Push Services: {bundle}"),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(name))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start.replace(year=2099))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    if topics:
        builder = builder.add_extension(x509.UnrecognizedExtension(TOPICS_LISTED_IN, listed(topics)), critical=False)
    leaf = builder.sign(authority.key, hashes.SHA256())
    return leaf.public_bytes(Encoding.PEM).decode() + pem(key)


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def open_key(state_dir: Path | None) -> tuple[ec.EllipticCurvePrivateKey, Path | None]:
    if state_dir is None:
        return ec.generate_private_key(ec.SECP256R1()), None
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = state_dir.resolve() / KEY_FILE
    if not file.exists():
        file.touch(0o600)
        file.write_text(pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{file} does not hold the sandbox's signing key; delete it to get a new one.")  # noqa: TRY004
    return key, file
