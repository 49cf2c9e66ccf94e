"""What all that is said and answered is made of: the two bases, and the kinds of text."""

import re
from itertools import groupby
from typing import Annotated
from unicodedata import category
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, WithJsonSchema

from relay.list_cursor import TEXT_LENGTH_MAX

BIDI = "\u202a-\u202e\u2066-\u2069"
WEB = frozenset({"http", "https"})
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")
MARKS_MAX = 30  # in a row: the bound of the Unicode Standard's stream-safe text (UAX #15)
_CONTROL = re.compile(rf"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{BIDI}]")
_INVISIBLE = frozenset({"Cc", "Cf", "Mn", "Me", "Zl", "Zp", "Zs"})


def _readable(text: str) -> str:
    """Refuses what shows nothing, and what spoils the text around it."""
    if _CONTROL.search(text):
        raise ValueError("may have no control characters but tab and line breaks, and none that turn its direction")
    if text.isspace():
        raise ValueError("must have a visible character")
    if text.isascii():
        return text
    kinds = [category(character) for character in text]
    if _INVISIBLE.issuperset(kinds):
        raise ValueError("must have a visible character")
    if (
        max((len(list(run)) for is_mark, run in groupby(kind[0] == "M" for kind in kinds) if is_mark), default=0)
        > MARKS_MAX
    ):
        raise ValueError(f"may have {MARKS_MAX} combining marks in a row")
    return text


Text = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_readable)]


def _link(text: str) -> str:
    """With its scheme in small letters, which mean the same (RFC 3986, 3.1): vendors look for them."""
    if not _LINK.fullmatch(text):
        raise ValueError("must be an absolute URL in visible ASCII characters")
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme in {"javascript", "data", "file", "vbscript", "blob"}:
        raise ValueError(f"may not be a {scheme}: URL")
    if scheme in WEB and not _has_host(text):
        raise ValueError("must have a host after //")
    return f"{scheme}:{rest}"


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:  # brackets that hold no address
        return False


def _web(url: str) -> str:
    if url.partition(":")[0] not in WEB:
        raise ValueError("must be an http or https URL")
    return url


Url = Annotated[str, StringConstraints(min_length=3, max_length=2048), AfterValidator(_link)]
ImageUrl = Annotated[Url, AfterValidator(_web)]
Plain = Annotated[
    str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:@/+=-]*[A-Za-z0-9._:@+=-]$")
]
# Checked where it is read, as `invalid_cursor`.
Place = Annotated[str, WithJsonSchema({"type": "string", "minLength": 1, "maxLength": TEXT_LENGTH_MAX})]
Version = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class In(BaseModel):
    """Base of what callers send: unknown fields are mistakes, and nothing is guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Out(BaseModel):
    """Base of what is answered. Shown in the document and validated in tests, so it is not built before."""

    model_config = ConfigDict(extra="forbid", defer_build=True)
