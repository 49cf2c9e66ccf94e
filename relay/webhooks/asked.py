"""What is refused of what callers ask of webhooks, in words that mend it."""

from collections.abc import Sequence

from relay.errors import FieldError, Invalid

PAGE_MAX = 200
PAGE_DEFAULT = 50


def page_limit(limit: int) -> None:
    """Raises Invalid for a page that is too large, or none."""
    if not 1 <= limit <= PAGE_MAX:
        raise invalid("/limit", "range", f"A page has 1 to {PAGE_MAX} rows.")


def refuse(errors: Sequence[FieldError]) -> None:
    """Raises Invalid if there is a mistake; it names all."""
    if errors:
        raise Invalid(errors[0].detail, errors=tuple(errors))


def invalid(pointer: str, word: str, detail: str, *, code: str | None = None) -> Invalid:
    """One mistake, and how to mend it."""
    return Invalid(detail, code=code, errors=(FieldError(pointer, word, detail),))
