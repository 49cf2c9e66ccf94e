"""Settings that accounts of several vendors have, each with its one form."""

import re
from typing import Annotated

from pydantic import AfterValidator, SecretStr

__all__ = ["PlainSecret", "WakeText"]


def _plain(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", secret.get_secret_value()):
        raise ValueError("must be 1 to 256 plain characters without blanks")
    return secret


def _says_something(words: str) -> str:
    if not words.strip() or len(words) > 200:
        raise ValueError("must be 1 to 200 characters")
    return words


PlainSecret = Annotated[SecretStr, AfterValidator(_plain)]  # what fits a header as it stands
WakeText = Annotated[
    str, AfterValidator(_says_something)
]  # what a push without words shows, where there are no silent ones
