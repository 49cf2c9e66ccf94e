"""A Huawei service account for an emulator, and what a bearer signed with its key is worth.

Source: vendor sheet huawei.md §2.2. The signature is checked with `cryptography` alone, not with the JWT library that an
adapter is likely to sign with.
"""

import base64
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from providers.sandbox.checks import read_json

CLIENT_ID = "100200300"
PROJECT_ID, KEY_ID, SUB_ACCOUNT = "737518067795", "ee6b24cb5b9d4d3fb1b1f9f7a3c0a1d2", "103100001"
AUDIENCE = "https://oauth-login.cloud.huawei.com/oauth2/v3/token"
KEY_BITS = 2048  # the vendor's have 4096; making one of those takes seconds
LIFE_S_MAX = 86_400
SKEW_S = 300  # the sheet only says that the clock must be right
SALT_BYTES = 32
FILE_NAME = "harmony-service-account.json"
WANTED = ("project_id", "key_id", "private_key", "sub_account")

_JWT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


class Standing(StrEnum):
    GOOD = "good"
    EXPIRED = "expired"
    TOO_LONG = "too_long"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class HarmonyAccount:
    """`document` is the key file as AppGallery Connect hands it out."""

    document: dict[str, str] = field(repr=False)
    public_key: rsa.RSAPublicKey
    file: Path | None = None  # None: only in memory

    @property
    def client_id(self) -> str:
        """The app's, which a key file of the project does not hold."""
        return CLIENT_ID

    @property
    def project_id(self) -> str:
        return self.document["project_id"]

    def look(self, bearer: str, *, now_s: float) -> Standing:
        """What a bearer is worth now."""
        match = _JWT.fullmatch(bearer)
        if match is None:
            return Standing.WRONG
        head, claims, signature = (_decoded(part) for part in match.groups())
        if head is None or claims is None or signature is None:
            return Standing.WRONG
        try:
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=SALT_BYTES)
            self.public_key.verify(signature, f"{match[1]}.{match[2]}".encode(), pss, hashes.SHA256())
        except InvalidSignature:
            return Standing.WRONG
        said, claimed = _object(head), _object(claims)
        if said != {"alg": "PS256", "typ": "JWT", "kid": self.document["key_id"]}:
            return Standing.WRONG
        if claimed.get("iss") != self.document["sub_account"] or claimed.get("aud") != AUDIENCE:
            return Standing.WRONG
        since, until = claimed.get("iat"), claimed.get("exp")
        if type(since) is not int or type(until) is not int or since > now_s + SKEW_S:
            return Standing.WRONG
        if until - since > LIFE_S_MAX:
            return Standing.TOO_LONG
        return Standing.GOOD if until > now_s else Standing.EXPIRED


def open_account(state_dir: Path | None) -> HarmonyAccount:
    """The account kept in `state_dir`, or a new one, which is kept there. Raises ValueError for a spoilt file."""
    if state_dir is None:
        return _read(_new_document(), file=None)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = state_dir.resolve() / FILE_NAME
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(_new_document())
    return _read(file.read_bytes(), file=file)


def _new_document() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    document = {
        "project_id": PROJECT_ID,
        "key_id": KEY_ID,
        "private_key": pem.decode(),
        "sub_account": SUB_ACCOUNT,
        "auth_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/authorize",
        "token_uri": AUDIENCE,
        "auth_provider_cert_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/certs",
        "client_cert_uri": "https://oauth-login.cloud.huawei.com/oauth2/v3/x509",
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def _read(text: bytes, *, file: Path | None) -> HarmonyAccount:
    try:
        document = msgspec.json.decode(text, type=dict[str, str])
        missing = [name for name in WANTED if not document.get(name)]
        key = serialization.load_pem_private_key(document["private_key"].encode(), password=None)
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError):
        missing, key = ["private_key"], None
        document = {}
    if missing or not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"{file} does not hold a service account; delete it to get a new one.")
    return HarmonyAccount(document=document, public_key=key.public_key(), file=file)


def _decoded(part: str) -> bytes | None:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return None


def _object(text: bytes) -> dict[str, Any]:
    value = read_json(text)
    return value if isinstance(value, dict) else {}
