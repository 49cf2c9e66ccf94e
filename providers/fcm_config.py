"""An FCM account's settings: a service account's key file, and how pushes are shown (sheet `fcm` §1, §2, §8)."""

from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    ModelWrapValidatorHandler,
    SecretStr,
    field_validator,
    model_validator,
)

from providers.contract import ProviderConfig
from providers.fcm_overrides import LABEL
from providers.key_files import account_of, from_files, rsa_key
from providers.settings import plain

__all__ = ["TOKEN_URL", "FcmConfig", "ServiceAccount"]

BASE_URL = "https://fcm.googleapis.com"
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105
GOOGLE_LOGIN_HOSTS = frozenset({"oauth2.googleapis.com", "accounts.google.com"})


class ServiceAccount(BaseModel):
    """The parts of Google's key file that we use."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    type: Literal["service_account"]
    project_id: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,99}$", description="a project's id, like my-app-1a2b3")
    ]
    private_key_id: Annotated[str, plain(200)]
    private_key: SecretStr
    client_email: Annotated[str, plain(300)]
    token_uri: Annotated[str, Field(max_length=2048)]
    auth_uri: Annotated[str, Field(max_length=2048)] | None = None
    universe_domain: Literal["googleapis.com"] = "googleapis.com"

    @field_validator("private_key")
    @classmethod
    def _signs(cls, key: SecretStr) -> SecretStr:
        rsa_key(key.get_secret_value())
        return key


class FcmConfig(ProviderConfig):
    """Give `service_account` (the object, or its text) or `service_account_file` (its path)."""

    service_account: ServiceAccount
    mode: Literal["display", "data"] = "display"  # data: the app draws what it gets; Apple devices still get an alert
    analytics_label: str | None = None
    validate_only: bool = False  # Google checks, and sends nothing
    http2: bool = True  # a few connections for all pushes; without it, and where a URL is not https, one for each call
    base_url: HttpUrl = HttpUrl(BASE_URL)
    token_url: HttpUrl | None = None  # another place to log in, e.g. the sandbox's

    operator_only: ClassVar[frozenset[str]] = frozenset({"service_account_file", "base_url", "token_url"})

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, given: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        return from_files(given, check, "service_account")

    @field_validator("service_account", mode="before")
    @classmethod
    def _parsed(cls, given: Any) -> Any:
        return account_of(given, "Google")

    @field_validator("analytics_label")
    @classmethod
    def _labelled(cls, label: str | None) -> str | None:
        if label is not None and not LABEL.fullmatch(label):
            raise ValueError("must be 1 to 50 of a-z A-Z 0-9 - _ . ~ %")
        return label

    @model_validator(mode="after")
    def _at_google(self) -> "FcmConfig":
        """A key file may not send our assertion elsewhere (safety SEC-7)."""
        for key in ("token_uri", "auth_uri"):
            uri = getattr(self.service_account, key)
            if uri is not None and not (_googles(uri) or uri == str(self.token_url)):
                raise ValueError(f"service_account.{key}: is not Google's; set token_url if that is meant")
        return self


def _googles(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.scheme == "https" and parts.netloc in GOOGLE_LOGIN_HOSTS
    except ValueError:
        return False
