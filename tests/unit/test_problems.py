"""Problems from pydantic's mistakes (safety ERR-1): where, what, and how to mend it, without repeating what was sent."""

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from relay.api.problems import from_pydantic, problem_body, shown
from relay.errors import CODES, RETRYABLE, FieldError, Invalid, Malformed, Problem, not_an_instant


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class User(Strict):
    kind: Literal["user"]
    user: str
    count: int = 0


class Group(Strict):
    kind: Literal["group"]
    group: str


class Send(Strict):
    to: Annotated[User | Group, Field(discriminator="kind")] | None = None
    either: int | list[int] | None = None
    priority: int = 0
    schema_: int = Field(0, alias="schema")
    names: dict[Annotated[str, Field(max_length=3)], int] = Field(default_factory=dict)
    users: list[User] = Field(default_factory=list)
    user: User | None = None
    word: Annotated[str, Field(pattern="^[a-z]+$")] = "a"

    @field_validator("word")
    @classmethod
    def _no_xyzzy(cls, word: str) -> str:
        if word == "xyzzy":
            raise ValueError("must be another word")
        return word


def problem(value: Any) -> Problem:
    with pytest.raises(ValidationError) as caught:
        Send.model_validate(value)
    return from_pydantic(caught.value, Send, value=value)


def told(value: Any) -> list[tuple[str, str, str]]:
    return [(one.pointer, one.code, one.detail) for one in problem(value).errors]


# --- unknown fields ---


def test_an_unknown_field_is_400_whatever_else_is_wrong() -> None:
    found = problem({"pritority": 1, "schema": "x"})
    assert isinstance(found, Malformed)
    assert (found.status, found.code) == (400, "unknown_field")
    assert {one.code for one in found.errors} == {"unknown_field", "wrong_type"}
    assert found.detail.endswith("/pritority is not known here; did you mean 'priority'?")


@pytest.mark.parametrize(
    ("value", "pointer", "meant"),
    [
        ({"pritority": 1}, "/pritority", "priority"),
        ({"shema": 1}, "/shema", "schema"),
        ({"user": {"kind": "user", "user": "a", "cuont": 1}}, "/user/cuont", "count"),
        ({"users": [{"kind": "user", "user": "a", "cuont": 1}]}, "/users/0/cuont", "count"),
    ],
)
def test_an_unknown_field_that_is_close_to_a_known_one_is_asked_about(value: Any, pointer: str, meant: str) -> None:
    assert told(value) == [(pointer, "unknown_field", f"is not known here; did you mean {meant!r}?")]


def test_where_an_unknown_field_is_close_to_none_those_there_are_are_listed() -> None:
    [(pointer, code, detail)] = told({"zzz": 1})
    assert (pointer, code) == ("/zzz", "unknown_field")
    assert detail.startswith("is not known here; there are: ")
    assert {"schema", "priority"} < set(detail.partition("are: ")[2].split(", "))


def test_many_known_fields_are_not_listed() -> None:
    fields: dict[str, Any] = {f"field_{n}": (int, 0) for n in range(30)}
    wide = create_model("Wide", __base__=Strict, **fields)
    with pytest.raises(ValidationError) as caught:
        wide.model_validate({"zzz": 1})
    assert from_pydantic(caught.value, wide).errors[0].detail == "is not known here"


# --- pointers ---


def test_pointers_are_escaped() -> None:
    assert told({"a/b~c": 1})[0][0] == "/a~1b~0c"


def test_pointers_lead_through_what_was_sent_not_through_our_models() -> None:
    assert told({"to": {"kind": "user", "user": 3}}) == [("/to/user", "wrong_type", "must be a string")]
    assert told({"to": {"kind": "user"}}) == [("/to/user", "missing", "is required")]
    assert {pointer for pointer, _, _ in told({"either": "x"})} == {"/either"}
    assert told({"names": {"long": 1}})[0][0] == "/names/long"


def test_a_field_with_an_alias_is_named_as_it_is_written() -> None:
    assert told({"schema": None})[0][0] == "/schema"


def test_a_parameter_has_a_name_instead_of_a_pointer() -> None:
    with pytest.raises(ValidationError) as caught:
        Send.model_validate({"priority": "x"})
    assert from_pydantic(caught.value, Send, prefix="?").errors[0].pointer == "?priority"


# --- words ---


def test_a_form_is_shown_and_a_rule_speaks_for_itself() -> None:
    assert told({"word": "A"}) == [("/word", "wrong_form", "must have the form ^[a-z]+$")]
    assert told({"word": "xyzzy"}) == [("/word", "wrong_form", "must be another word")]


def test_the_detail_counts_and_names_the_first() -> None:
    found = problem({"priority": "x", "word": "A"})
    assert isinstance(found, Invalid)
    assert found.detail == "2 fields are not valid, see `errors`: /priority must be a whole number."


def test_a_time_without_a_zone_is_told_so_and_in_a_url_how_a_plus_is_written() -> None:
    field, parameter = not_an_instant("/deliver_at"), not_an_instant("?since")
    assert field.detail == "/deliver_at must be a time with a zone (RFC 3339), for example 2026-05-03T09:12:44Z."
    assert parameter.errors[0].detail.endswith("2026-05-03T09:12:44Z, or …%2B02:00")


# --- bounds ---


def test_at_most_20_mistakes_are_told_and_the_unknown_field_is_among_them() -> None:
    found = problem({"names": {f"n{i}": "x" for i in range(60)}, "zzz": 1})
    assert len(found.errors) == 20
    assert found.code == "unknown_field"
    assert "/zzz" in {one.pointer for one in found.errors}


def test_what_was_sent_is_repeated_in_64_printable_characters_at_most() -> None:
    secret = "rk_live_" + "s3cr3t" * 100
    found = problem({secret + "\x1b[31m": secret, "\x1b[31m": 1, "word": secret, "priority": secret})
    answer = json.dumps(problem_body(found), ensure_ascii=False)
    assert "\x1b" not in answer
    assert secret[:64] not in answer
    assert all(len(one.pointer) <= 65 for one in found.errors)


def test_shown_keeps_ordinary_text_and_replaces_what_moves_cursors_or_turns_lines() -> None:
    assert shown("Grüße ☕") == "Grüße ☕"
    assert shown("a\r\nb\x00\u202ec") == "a��b��c"
    assert shown("x" * 65) == "x" * 63 + "…"


# --- the registry ---


@pytest.mark.parametrize("code", CODES)
def test_every_code_makes_a_whole_problem(code: str) -> None:
    body = problem_body(Problem("Mend it.", code=code, errors=(FieldError("/a", "missing", "is required"),)), "r1")
    status, title = CODES[code]
    assert body == {
        "type": f"urn:problem:relay:{code}",
        "title": title,
        "status": status,
        "detail": "Mend it.",
        "instance": "urn:request:r1",
        "code": code,
        "request_id": "r1",
        "retryable": code in RETRYABLE,
        "errors": [{"pointer": "/a", "code": "missing", "detail": "is required"}],
    }
