"""A service account for an emulator: made once, kept in a private file, so that a restarted sandbox still knows it."""

import contextlib
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

KEY_BITS = 2048
WANTED = ("project_id", "private_key_id", "client_email")
FILE_NAME = "fcm-service-account.json"
TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address; also the `aud` of every assertion


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """`document` is the service-account JSON as Google hands it out."""

    document: dict[str, str]
    public_key: rsa.RSAPublicKey
    file: Path | None = None  # None: only in memory

    @property
    def project_id(self) -> str:
        return self.document["project_id"]

    @property
    def project_number(self) -> str:
        """Google takes it in place of the project id."""
        return self.document["client_id"][:12]


def open_account(state_dir: Path | None, *, project_id: str, rng: random.Random) -> ServiceAccount:
    """The account kept in `state_dir`, or a new one, which is kept there. Raises ValueError for a spoilt file."""
    if state_dir is None:
        return _read(_new_document(project_id, rng), file=None)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = state_dir.resolve() / FILE_NAME
    if not file.exists():
        _keep(file, _new_document(project_id, rng))
    file.chmod(0o600)
    return _read(file.read_bytes(), file=file)


def _new_document(project_id: str, rng: random.Random) -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    email = f"relay@{project_id}.iam.gserviceaccount.com"
    document = {
        "type": "service_account",
        "project_id": project_id,
        "private_key_id": f"{rng.getrandbits(160):040x}",
        "private_key": pem.decode(),
        "client_email": email,
        "client_id": f"{rng.randrange(10**20, 10**21)}",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": TOKEN_URI,
        "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
        "client_x509_cert_url": f"https://www.googleapis.com/robot/v1/metadata/x509/{email.replace('@', '%40')}",
        "universe_domain": "googleapis.com",
    }
    return msgspec.json.format(msgspec.json.encode(document))


def _keep(file: Path, document: bytes) -> None:
    """Whole or not at all, never readable by others; of two sandboxes starting at once, the first one's stays."""
    draft = file.with_name(f".{FILE_NAME}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(document)
            stream.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(draft)
    finally:
        draft.unlink()


def _read(document: bytes, *, file: Path | None) -> ServiceAccount:
    try:
        fields = msgspec.json.decode(document, type=dict[str, str])
        key = serialization.load_pem_private_key(
            fields["private_key"].encode(),
            password=None,
            unsafe_skip_rsa_key_validation=True,  # it is our own key; the check costs 0.1 s
        )
        whole = all(map(fields.get, WANTED)) and re.fullmatch("[0-9]{12,}", fields["client_id"])
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, UnsupportedAlgorithm):
        key, fields, whole = None, {}, None
    if not (whole and isinstance(key, rsa.RSAPrivateKey)):
        raise ValueError(f"{file} does not hold the sandbox's service account; delete it to get a new one.")
    return ServiceAccount(document=fields, public_key=key.public_key(), file=file)
