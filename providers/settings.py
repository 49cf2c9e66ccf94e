"""Forms that settings of several vendors' accounts have: each says in words what would be right, which `relay check` shows."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, SecretStr

__all__ = ["CLASS_NAME", "DIGITS", "ByChannel", "PlainSecret", "WakeText", "not_blank", "plain"]

C = TypeVar("C")

DIGITS: Any = Field(pattern=r"^[0-9]{1,32}$", description="1 to 32 digits")
CLASS_NAME: Any = Field(
    pattern=r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+$",
    description="the full name of a class, like com.example.app.MainActivity",
)


def plain(chars_max: int) -> Any:
    """ASCII that can be seen."""
    return Field(
        pattern=rf"^[\x21-\x7e]{{1,{chars_max}}}$", description=f"1 to {chars_max} plain characters without blanks"
    )


def not_blank(chars_max: int) -> Any:
    """Anything with a character in it that can be seen."""
    return Field(pattern=r"\S", max_length=chars_max, description=f"1 to {chars_max} characters, not all of them blank")


def _plain(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", secret.get_secret_value()):
        raise ValueError("must be 1 to 256 plain characters without blanks")
    return secret


def _says_something(words: str) -> str:
    if not words.strip() or len(words) > 200:
        raise ValueError("must be 1 to 200 characters")
    return words


def _with_default(classes: dict[str, C]) -> dict[str, C]:
    if "default" not in classes:
        raise ValueError('say what "default" is, which all other messages take')
    return classes


ByChannel = Annotated[dict[str, C], Field(max_length=100), AfterValidator(_with_default)]  # by the push's `channel`
PlainSecret = Annotated[SecretStr, AfterValidator(_plain)]  # what fits a header as it stands
WakeText = Annotated[
    str, AfterValidator(_says_something)
]  # what a push without words shows, where there are no silent ones
