"""Texts that an account's settings may hold: a pattern, and in words what would be right, which `relay check` says."""

from typing import Any

from pydantic import Field

__all__ = ["CLASS_NAME", "DIGITS", "not_blank", "plain"]

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
