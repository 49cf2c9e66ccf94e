"""Every error as application/problem+json (RFC 9457)."""

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec
from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relay.api.reply import Reply
from relay.errors import FieldError, Invalid, Malformed, Problem
from relay.ids import Rng

ERRORS_MAX: Final = 20
DETAIL_MAX: Final = 300
KNOWN_MAX: Final = 12  # names of fields that an answer lists
INPUT_MAX: Final = 64  # characters of the caller's own that an answer repeats
CLOSES: Final = frozenset({408, 413})  # the rest of the body is not wanted, so the connection can't go on

REQUEST_ID = web.RequestKey("request_id", str)
ROUTE = web.RequestKey("route", str)

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str, limit: int = INPUT_MAX) -> str:
    """At most `limit` printable characters of what a caller sent."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", cut)


def problem_body(problem: Problem, request_id: str | None = None, retry_after_s: float | None = None) -> dict[str, Any]:
    """The members of the answer (safety ERR-1)."""
    body: dict[str, Any] = {
        "type": f"urn:problem:relay:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": shown(problem.detail, DETAIL_MAX),
        "code": problem.code,
        "retryable": problem.retryable,
    }
    if request_id is not None:
        body["instance"] = f"urn:request:{request_id}"
        body["request_id"] = request_id
    if retry_after_s is not None:
        body["retry_after_ms"] = int(retry_after_s * 1000)
    if problem.errors:
        body["errors"] = [
            {"pointer": one.pointer, "code": one.code, "detail": one.detail} for one in problem.errors[:ERRORS_MAX]
        ]
    return problem.extra | body


def response(problem: Problem, request_id: str, rng: Rng) -> Reply:
    """The answer, with the headers that belong to its status. Waiting times are spread, so callers don't come as one."""
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    retry_after_s = problem.drawn_s(rng)
    if retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    if problem.status == 426:
        headers |= {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = Reply(problem.status, headers, msgspec.json.encode(problem_body(problem, request_id, retry_after_s)))
    if problem.status in CLOSES or problem.code == "draining":
        answer.force_close()
    return answer


# What aiohttp itself refuses, in our words.
FRAMEWORK: dict[int, tuple[str, str]] = {
    400: ("malformed_http", "The request could not be read."),
    404: ("not_found", "There is nothing at this path; /docs has those there are."),
    405: ("method_not_allowed", "This path does not take that method; `Allow` has those it takes."),
    413: ("body_too_large", "The body is too large."),
    417: ("malformed_http", "That expectation can't be met."),
}


def of_framework(error: web.HTTPException) -> Problem:
    """What aiohttp refuses by itself, in our words."""
    fallback = ("malformed_http", "The request could not be served.") if error.status < 500 else None
    known = FRAMEWORK.get(error.status, fallback)
    if known is None:
        return Problem("The relay met something it should not have; tell its operator the request id.")
    code, detail = known
    return Problem(detail, code=code)


# --- mistakes that pydantic found -------------------------------------------------------------------------------------


def from_pydantic(
    error: ValidationError, model: type[BaseModel] | None = None, *, prefix: str = "", value: Any = None
) -> Problem:
    """All mistakes as one problem: 400 if a field is unknown, else 422. Values are not repeated, only named.

    `model` is searched for what an unknown field may have been meant as. With `value`, what was validated, pointers lead
    only through what is in it. The prefix "?" is for query parameters, which have names instead of pointers.
    """
    found = error.errors(include_url=False, include_input=False, include_context=True)
    errors = tuple(_field_error(one, model, prefix, value) for one in found[:ERRORS_MAX])
    unknown = next((one for one in found if one["type"] == "extra_forbidden"), None)
    text = "1 field is not valid" if len(found) == 1 else f"{len(found)} fields are not valid, see `errors`"
    worst = errors[0] if unknown is None else _field_error(unknown, model, prefix, value)
    stop = "" if worst.detail.endswith((".", "?")) else "."
    whole = not worst.pointer and worst.code == "wrong_form"  # it speaks of the body's fields itself
    subject = "" if whole else f"{worst.pointer or 'the body'} "
    detail = f"{text}: {subject}{worst.detail}{stop}"[:DETAIL_MAX]
    if unknown is not None:
        kept = errors if worst in errors else (worst, *errors[:-1])
        return Malformed(detail, code="unknown_field", errors=kept)
    return Invalid(detail, errors=errors)


def _field_error(one: ErrorDetails, model: type[BaseModel] | None, prefix: str, value: Any) -> FieldError:
    loc = _path_in(value, one["loc"], one["type"]) if value is not None else one["loc"]
    steps = [shown(str(step)).replace("~", "~0").replace("/", "~1") for step in loc]
    pointer = f"?{'.'.join(steps)}" if prefix == "?" else prefix + "".join(f"/{step}" for step in steps)
    if one["type"] == "extra_forbidden":
        code, detail = "unknown_field", _did_you_mean(one["loc"], model)
    else:
        code, detail = _mistake(one)
    return FieldError(_cut(pointer), code, shown(detail, DETAIL_MAX))


def _cut(pointer: str) -> str:
    return pointer if len(pointer) <= 256 else pointer[:255] + "…"


def _path_in(value: Any, loc: tuple[int | str, ...], kind: str) -> list[int | str]:
    """The steps that lead somewhere in `value`: pydantic also names the branches of unions, and "[key]"."""
    path: list[int | str] = []
    for place, step in enumerate(loc):
        inside = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if inside:
            value = value[step]
        elif not (kind == "missing" and place == len(loc) - 1):
            continue
        path.append(step)
    return path


_WRONG_TYPE: Final = ("_type", "_parsing", "_from_float", "is_instance_of")
_WANTED: Final = {
    "bool": "must be true or false",
    "date": "must be a date",
    "dict": "must be an object",
    "float": "must be a number",
    "int": "must be a whole number",
    "list": "must be a list",
    "mapping": "must be an object",
    "model": "must be an object",
    "string": "must be a string",
}
# Kind of mistake: our code for it, and how to mend it, from pydantic's context.
_MISTAKES: Final[dict[str, tuple[str, str]]] = {
    "missing": ("missing", "is required"),
    "greater_than": ("out_of_range", "must be greater than {gt}"),
    "greater_than_equal": ("out_of_range", "must be at least {ge}"),
    "less_than": ("out_of_range", "must be less than {lt}"),
    "less_than_equal": ("out_of_range", "must be at most {le}"),
    "finite_number": ("out_of_range", "must be a finite number"),
    "multiple_of": ("out_of_range", "must be a multiple of {multiple_of}"),
    "too_long": ("too_long", "may have at most {max_length} entries"),
    "too_short": ("too_short", "must have at least {min_length} entries"),
    "string_too_long": ("too_long", "may have at most {max_length} characters"),
    "string_too_short": ("too_short", "must have at least {min_length} characters"),
    "literal_error": ("not_allowed", "must be {expected}"),
    "enum": ("not_allowed", "must be {expected}"),
    "string_pattern_mismatch": ("wrong_form", "must have the form {pattern}"),
    "none_required": ("wrong_type", "must be null"),
}


def _mistake(one: ErrorDetails) -> tuple[str, str]:
    """Our short code, and how to mend it."""
    kind, message = one["type"], one["msg"]
    if kind in {"too_short", "string_too_short"} and one["ctx"]["min_length"] == 1:
        return "too_short", "must not be empty"
    if kind in _MISTAKES:
        code, form = _MISTAKES[kind]
        return code, form.format_map(one.get("ctx", {}))
    if kind in {"value_error", "assertion_error"}:
        return "wrong_form", message.partition(", ")[2]
    if kind.endswith(_WRONG_TYPE):
        return "wrong_type", _WANTED.get(kind.partition("_")[0], message)
    return "invalid", message


def _did_you_mean(loc: tuple[int | str, ...], model: type[BaseModel] | None) -> str:
    inner = _model_at(model, loc[:-1])
    known = [] if inner is None else [field.alias or name for name, field in inner.model_fields.items()]
    close = get_close_matches(str(loc[-1])[:INPUT_MAX], known, n=1)
    if close:
        return f"is not known here; did you mean {close[0]!r}?"
    return f"is not known here; there are: {', '.join(known)}" if 0 < len(known) <= KNOWN_MAX else "is not known here"


def _model_at(model: type[BaseModel] | None, loc: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that describes what stands at `loc`, if one alone can."""
    for step in loc:
        if model is None or isinstance(step, int):
            continue
        field = model.model_fields.get(step) or next(
            (one for one in model.model_fields.values() if one.alias == step), None
        )
        model = None if field is None else _model_in(field.annotation)
    return model


def _model_in(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    if get_origin(kind) in {Annotated, Union, UnionType, list, tuple}:
        found = {one for one in map(_model_in, get_args(kind)) if one is not None}
        return found.pop() if len(found) == 1 else None
    return None
