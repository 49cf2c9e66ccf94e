"""The document and its page say what the table says: of a small table here, and of the relay's own."""

import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import pytest
from edge_app import ROUTES

from relay.api import table
from relay.api.gate import HEALTH
from relay.api.openapi import PAGE_HEADERS, document, page
from relay.api.routes import DEVICE, PUBLIC, Route
from relay.errors import CODES

TABLES = {"small": ROUTES, "relay": table.ROUTES}


@pytest.fixture(params=TABLES)
def routes(request: pytest.FixtureRequest) -> tuple[Route, ...]:
    return TABLES[request.param]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_row_is_an_operation_and_every_operation_a_row(routes: tuple[Route, ...]) -> None:
    told = {
        (method.upper(), path) for path, operations in document(routes)["paths"].items() for method in operations
    } - {("HEAD", route.path) for route in routes if route.head}
    assert told == {(route.method, route.path) for route in routes}


def test_every_reference_leads_somewhere(routes: tuple[Route, ...]) -> None:
    whole = document(routes)
    for reference in references(whole):
        place = whole
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_every_schema_is_a_json_schema(routes: tuple[Route, ...]) -> None:
    for schema in document(routes)["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_the_document_is_json_and_the_same_each_time(routes: tuple[Route, ...]) -> None:
    assert json.dumps(document(routes)) == json.dumps(document(routes))


def test_each_operation_names_its_credential_and_scope(routes: tuple[Route, ...]) -> None:
    paths = document(routes)["paths"]
    for route in routes:
        operation = paths[route.path][route.method.lower()]
        if route.access == PUBLIC:
            assert "security" not in operation
        elif route.access == DEVICE:
            assert operation["security"] == [{"device": []}]
        else:
            assert operation["security"] == [{"backend": []}]
            assert route.access in operation["description"]


def test_each_error_is_told_with_its_status_as_a_problem(routes: tuple[Route, ...]) -> None:
    paths = document(routes)["paths"]
    for route in routes:
        answers = paths[route.path][route.method.lower()]["responses"]
        for code in route.errors:
            answer = answers[str(CODES[code][0])]
            assert f"`{code}`" in answer["description"]
            assert "application/problem+json" in answer["content"]


def told_codes(route: Route) -> list[str]:
    """All that the document says a call of it may be refused with."""
    answers = document(table.ROUTES)["paths"][route.path][route.method.lower()]["responses"]
    return [code for one in answers.values() for code in re.findall("`([a-z_]+)`", one["description"])]


@pytest.mark.parametrize("route", table.ROUTES, ids=lambda route: route.handler)
def test_what_any_call_may_be_refused_with_is_told_once_of_each(route: Route) -> None:
    told = told_codes(route)
    assert len(told) == len(set(told))
    if route.path in HEALTH:  # probes come as often as they like, by any way
        assert not {"rate_limited", "https_required", "overloaded", "draining"} & set(told)
        return
    assert {"malformed_http", "credential_in_url", "https_required", "rate_limited", "overloaded"} < set(told)
    assert route.access == PUBLIC or "storage_unavailable" in told  # who calls is looked up
    assert route.raw or "unknown_field" in told  # a parameter that there is not


def test_nothing_is_explained_by_a_page_that_callers_have_not() -> None:
    text = json.dumps(document(table.ROUTES))
    assert re.findall(r"\((?:protocol|safety|design|style) [0-9A-Z§][^)]*\)", text) == []


def test_operations_have_names_of_their_own(routes: tuple[Route, ...]) -> None:
    names = [one["operationId"] for operations in document(routes)["paths"].values() for one in operations.values()]
    assert len(names) == len(set(names))


def test_parameters_bodies_and_answers_are_described() -> None:
    paths = document(ROUTES)["paths"]
    get, post = paths["/v1/things/{thing}"]["get"], paths["/v1/things"]["post"]
    assert [(one["in"], one["name"], one["required"]) for one in get["parameters"]] == [
        ("path", "thing", True),
        ("query", "limit", False),
        ("query", "order", False),
    ]
    assert get["parameters"][1]["schema"] == {"default": 50, "maximum": 200, "minimum": 1, "type": "integer"}
    assert post["parameters"][0]["name"] == "Idempotency-Key"
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Thing"}
    assert post["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/ThingOut")
    assert set(post["responses"]["429"]["headers"]) == {"X-Request-Id", "Retry-After"}
    assert paths["/healthz"]["head"]["operationId"] == "head_health"


# --- the page ---


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            elif name in {"href", "src"}:
                self.links.add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(routes: tuple[Route, ...]) -> Seen:
    seen = Seen()
    seen.feed(page(document(routes)))
    return seen


@pytest.mark.parametrize(
    ("name", "by_the_object"),  # the second: what its own description says
    [
        ("To", set()),
        ("SendBody", {"to", "conversation", "sender", "scope"}),
        ("PushBody", {"title_loc_key", "title_loc_args", "body_loc_key", "body_loc_args"}),
        ("ScopeBody", set()),
        ("ConversationBody", set()),
        ("StepBody", {"by"}),
        ("DeviceBody", set()),
        ("AddressBody", set()),
        ("EndpointBody", {"types"}),
        ("PreferencesBody", {"tz", "quiet_hours", "elsewhere_s", "conversations"}),
    ],
)
def test_each_field_of_what_a_backend_says_is_explained(name: str, by_the_object: set[str]) -> None:
    """The page is all that its author has: a type does not say what a field does."""
    fields = document(table.ROUTES)["components"]["schemas"][name]["properties"]
    assert {field for field, one in fields.items() if "description" not in one} == by_the_object


def test_the_page_shows_every_operation_and_every_object(routes: tuple[Route, ...]) -> None:
    seen, whole = read(routes), document(routes)
    for route in routes:
        assert f"{route.method} {route.path}" in seen.text
    assert {f"object-{name}" for name in whole["components"]["schemas"]} <= set(seen.ids)
    assert "Idempotency-Key" in seen.text


def test_the_page_needs_no_script_and_nothing_from_elsewhere(routes: tuple[Route, ...]) -> None:
    seen = read(routes)
    assert seen.tags.isdisjoint({"script", "style", "img", "iframe", "form"})
    assert "style" not in seen.attributes
    assert not any(name.startswith("on") for name in seen.attributes)
    assert all(link.startswith(("#", "/")) and not link.startswith("//") for link in seen.links)
    assert PAGE_HEADERS["Content-Security-Policy"].startswith("default-src 'none';")


def test_every_link_within_the_page_leads_somewhere(routes: tuple[Route, ...]) -> None:
    seen = read(routes)
    assert len(seen.ids) == len(set(seen.ids))
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)


def test_what_stands_where_nothing_is_said_is_shown_as_in_json() -> None:
    seen = read(table.ROUTES)
    assert "boolean, by default true" in seen.text
    assert "by default normal" in seen.text
    assert not re.search(r"by default (True|False|\{')", seen.text)


def test_text_of_the_table_is_shown_as_text() -> None:
    seen = read(ROUTES)
    assert "Put <b>a</b> thing." in seen.text
