"""What readers share whose vendor is told with each push where to report, and signs nothing: the address holds a secret."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs

from pydantic import HttpUrl, model_validator

from providers.http import code_from
from providers.receipts.contract import RECEIPTS_MAX, Garbled, PathSettings, short_id

__all__ = ["CallbackSettings", "code_of", "echo", "form_json", "parsed", "reports"]

FORM_FIELDS_MAX = 20


class CallbackSettings(PathSettings):
    """`url` is this relay's `/v1/receipts/{account}` as the vendor reaches it; the secret goes behind it."""

    url: HttpUrl
    bytes_max: ClassVar[int] = 128  # of the vendor, for the whole address

    @model_validator(mode="after")
    def _fits(self) -> "CallbackSettings":
        self.check_way()
        if len(self.address.encode()) > self.bytes_max:
            raise ValueError(f"url: with the secret behind it, it may have {self.bytes_max} bytes")
        return self

    def check_way(self) -> None:
        """Raises ValueError when nothing tells the vendor from a stranger."""
        if self.path_secret is None:
            raise ValueError("path_secret: is needed, as the vendor signs nothing")

    @property
    def address(self) -> str:
        """What the vendor is told: secret."""
        base = str(self.url).rstrip("/")
        return base if self.path_secret is None else f"{base}/{self.path_secret.get_secret_value()}"


def echo(push_id: str, bytes_max: int) -> str | None:
    """The push's id as the parameter that comes back with its receipts; None if the vendor has no room for it."""
    return push_id if len(push_id.encode("utf-8", "replace")) <= bytes_max else None


def code_of(value: object) -> str | None:
    """A vendor's code as text, whether it came as a number or a word."""
    return code_from(str(value)[:20] if type(value) is int else value)


def parsed(body: bytes | str) -> Any:
    """Raises Garbled for what is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Garbled("The receipts are not JSON.") from None


def form_json(body: bytes, field: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The JSON object in this field of a form, and the form. Raises Garbled."""
    try:
        form = parse_qs(body.decode("utf-8"), max_num_fields=FORM_FIELDS_MAX)
    except ValueError:
        raise Garbled("The body is no form in UTF-8.") from None
    fields = {name: values[0] for name, values in form.items()}
    value = parsed(fields.get(field, ""))
    if not isinstance(value, dict):
        raise Garbled(f"The field {field!r} holds no JSON object.")
    return value, fields


def reports(
    tasks: Iterable[tuple[str, Any]], *, targets: str = "targets"
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """For each device of each task: the task's name, what is said of it, the token. Raises Garbled for too many."""
    left = RECEIPTS_MAX
    for name, said in tasks:
        if not isinstance(said, dict):
            continue
        for token in _tokens_of(said.get(targets), left):
            left -= 1
            yield name, said, token


def _tokens_of(targets: object, left: int) -> Iterator[str]:
    """Tokens in a list, or joined by commas with or without blanks. Raises Garbled for more than `left`."""
    listed = targets.split(",") if isinstance(targets, str) else targets
    if not isinstance(listed, list):
        return
    if len(listed) > left:
        raise Garbled(f"More than {RECEIPTS_MAX} receipts in one call.")
    for target in listed:
        token = short_id(target.strip() if isinstance(target, str) else target)
        if token is not None:
            yield token
