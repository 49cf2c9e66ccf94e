"""What the route table does around a handler: who may call, what it takes, how it is answered."""

import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, web
from edge_app import HANDLERS, ROUTES, Auth, Edge
from yarl import URL

from relay.api.principal import Principal
from relay.api.routes import PUBLIC, register
from relay.errors import CODES
from relay.shedding import Shedding
from relay.store.scope import ALL, current


async def ask(
    edge: Edge, method: str, path: str, *, who: str | None = "writer", **more: Any
) -> tuple[ClientResponse, dict[str, Any]]:
    headers = {} if who is None else {"Authorization": f"Bearer {who}"}
    url = URL(f"http://127.0.0.1:{edge.port}{path}", encoded=True)
    async with ClientSession(headers=headers) as session, session.request(method, url, **more) as answer:
        raw = await answer.read()
        return answer, json.loads(raw) if raw and "json" in answer.content_type else {}


def pointers(problem: dict[str, Any]) -> dict[str, str]:
    return {one["pointer"]: one["code"] for one in problem["errors"]}


# --- answers ---


async def test_an_answer_is_json_that_nobody_keeps_with_an_id_and_without_a_name(edge: Edge) -> None:
    answer, body = await ask(edge, "POST", "/v1/things", json={"name": "é", "data": [1]})
    assert (answer.status, body) == (200, {"id": "é", "given": {"name": "é", "data": [1]}})
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(answer.headers["X-Request-Id"]) == 16
    assert "Server" not in answer.headers


async def test_a_handler_may_say_how_its_answer_is_kept(edge: Edge) -> None:
    answer, _ = await ask(edge, "GET", "/v1/things/x")
    assert answer.headers["Cache-Control"] == "private"


async def test_an_answer_without_a_body_has_none(edge: Edge) -> None:
    answer, body = await ask(edge, "DELETE", "/v1/things/x")
    assert (answer.status, body) == (204, {})


async def test_html_is_never_answered_here_whatever_is_asked_for(edge: Edge) -> None:
    answer, _ = await ask(edge, "GET", "/v1/nothing", headers={"Accept": "text/html"})
    assert (answer.status, answer.content_type) == (404, "application/problem+json")


# --- who may call ---


@pytest.mark.parametrize("who", [None, "nobody"])
async def test_nobody_unknown_is_let_in(edge: Edge, who: str | None) -> None:
    answer, problem = await ask(edge, "GET", "/v1/things/x", who=who)
    assert (answer.status, problem["code"]) == (401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_key_without_the_scope_is_told_which_one(edge: Edge) -> None:
    answer, problem = await ask(edge, "POST", "/v1/things", who="reader", json={"name": "x"})
    assert (answer.status, problem["code"]) == (403, "forbidden")
    assert "messages:write" in problem["detail"]


async def test_a_device_is_refused_where_a_backend_belongs_and_the_other_way_round(edge: Edge) -> None:
    assert (await ask(edge, "GET", "/v1/things/x", who="device"))[1]["code"] == "forbidden"
    assert (await ask(edge, "GET", "/v1/device/me", who="writer"))[1]["code"] == "forbidden"
    assert (await ask(edge, "GET", "/v1/device/me", who="device"))[1] == {"id": "phone"}


async def test_who_is_not_let_in_learns_nothing_of_mistakes_in_the_request(edge: Edge) -> None:
    answer, _ = await ask(edge, "POST", "/v1/things?x=1", who="reader", data=b"\xff")
    assert answer.status == 403


async def test_a_public_route_needs_nobody_but_has_a_rate(edge: Edge) -> None:
    assert (await ask(edge, "GET", "/about", who=None))[0].status == 200
    edge.auth.refuse_anonymous = True
    answer, problem = await ask(edge, "GET", "/about", who=None)
    assert (answer.status, problem["code"]) == (429, "rate_limited")


async def test_ovl_4_health_is_told_whoever_else_asks_too_often_from_this_address(edge: Edge) -> None:
    """Behind a proxy all of them have one address; whoever restarts a relay that is not well must not believe a 429."""
    edge.auth.refuse_anonymous = True
    assert (await ask(edge, "GET", "/healthz", who=None))[0].status == 200


# --- methods ---


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST", "OPTIONS", "TRACE", "HEAD"])
async def test_a_method_that_a_path_does_not_take_is_refused_and_the_others_named(edge: Edge, method: str) -> None:
    answer, problem = await ask(edge, method, "/v1/things/x")
    assert answer.status == 405
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == {"GET", "DELETE"}
    assert method == "HEAD" or problem["code"] == "method_not_allowed"


async def test_a_header_or_parameter_does_not_override_the_method(edge: Edge) -> None:
    answer, _ = await ask(edge, "GET", "/v1/things/x", headers={"X-HTTP-Method-Override": "DELETE"})
    assert answer.status == 200


async def test_head_is_answered_where_the_row_says_so(edge: Edge) -> None:
    answer, _ = await ask(edge, "HEAD", "/healthz", who=None)
    assert (answer.status, answer.headers["Content-Length"]) == (200, "16")


# --- ids in the path ---


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        *(("a.b-c_d~e:f@g", "a.b-c_d~e:f@g"), ("%C3%A9", "é"), ("a%20b", "a b"), ("a+b", "a+b"), ("%61", "a")),
        *(
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("50%25", "50%"),
            ("100%2541", "100%41"),
            ("%252F", "%2F"),
            ("x%2e", "x."),
        ),
        *(("%25252e", "%252e"), ("...", "..."), ("%E2%98%95", "☕"), ("a%3Fb%23c", "a?b#c")),
    ],
)
async def test_an_id_is_decoded_once(edge: Edge, path: str, id_: str) -> None:
    assert (await ask(edge, "GET", f"/v1/things/{path}"))[1]["id"] == id_


@pytest.mark.parametrize("path", ["x" * 129, "a%E2%80%AEb", "%E2%81%A6"])
async def test_an_id_that_nobody_can_have_is_not_found(edge: Edge, path: str) -> None:
    answer, problem = await ask(edge, "GET", f"/v1/things/{path}")
    assert (answer.status, problem["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["a%00", "a%0Ab", "a%7f", "%ed%a0%80"])
async def test_a_path_with_control_characters_or_not_in_utf_8_is_malformed(edge: Edge, path: str) -> None:
    answer, problem = await ask(edge, "GET", f"/v1/things/{path}")
    assert (answer.status, problem["code"]) == (400, "malformed_http")


# --- parameters ---


async def test_parameters_are_parsed_and_have_defaults(edge: Edge) -> None:
    assert (await ask(edge, "GET", "/v1/things/x"))[1]["given"] == {"limit": 50, "order": "up"}
    assert (await ask(edge, "GET", "/v1/things/x?limit=7&order=down"))[1]["given"] == {"limit": 7, "order": "down"}


@pytest.mark.parametrize("limit", ["0", "-1", "201", "abc", "", "1.5"])
async def test_a_parameter_out_of_its_bounds_is_refused(edge: Edge, limit: str) -> None:
    answer, problem = await ask(edge, "GET", f"/v1/things/x?limit={limit}")
    assert (answer.status, problem["code"]) == (422, "validation_failed")
    assert list(pointers(problem)) == ["?limit"]


async def test_an_unknown_parameter_is_refused_with_what_it_may_have_been(edge: Edge) -> None:
    answer, problem = await ask(edge, "GET", "/v1/things/x?limti=1")
    assert (answer.status, problem["code"]) == (400, "unknown_field")
    assert problem["errors"] == [
        {"pointer": "?limti", "code": "unknown_field", "detail": "is not known here; did you mean 'limit'?"}
    ]


async def test_a_call_without_parameters_takes_none(edge: Edge) -> None:
    answer, problem = await ask(edge, "DELETE", "/v1/things/x?force=1")
    assert (answer.status, pointers(problem)) == (400, {"?force": "unknown_field"})


async def test_a_parameter_stands_once(edge: Edge) -> None:
    answer, problem = await ask(edge, "GET", "/v1/things/x?limit=1&limit=2")
    assert (answer.status, pointers(problem)) == (422, {"?limit": "repeated"})


# --- bodies ---


@pytest.mark.parametrize("body", ["[]", '"x"', "1", "null", "true"])
async def test_a_body_must_be_an_object(edge: Edge, body: str) -> None:
    answer, problem = await ask(edge, "POST", "/v1/things", data=body, headers={"Content-Type": "application/json"})
    assert (answer.status, problem["code"], pointers(problem)) == (422, "validation_failed", {"": "wrong_type"})


async def test_a_body_is_strict_json(edge: Edge) -> None:
    answer, problem = await ask(
        edge, "POST", "/v1/things", data=b'{"name":"x","name":"y"}', headers={"Content-Type": "application/json"}
    )
    assert (answer.status, problem["code"]) == (400, "json_duplicate_key")


async def test_every_mistake_in_a_body_is_told_at_once_with_its_place_and_remedy(edge: Edge) -> None:
    body = {
        "size": 11,
        "open": 1,
        "color": "blue",
        "inner": {"label": "toolong", "weight": 0},
        "parts": [{}, {"label": 3}],
    }
    answer, problem = await ask(edge, "POST", "/v1/things", json=body)
    assert (answer.status, problem["code"]) == (422, "validation_failed")
    assert {one["pointer"]: (one["code"], one["detail"]) for one in problem["errors"]} == {
        "/name": ("missing", "is required"),
        "/size": ("out_of_range", "must be at most 10"),
        "/open": ("wrong_type", "must be true or false"),
        "/color": ("not_allowed", "must be 'red' or 'green'"),
        "/inner/label": ("too_long", "may have at most 5 characters"),
        "/inner/weight": ("out_of_range", "must be greater than 0.0"),
        "/parts/1/label": ("wrong_type", "must be a string"),
    }


async def test_whose_rows_a_request_is_for_is_forgotten_with_it(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next one on its connection, of another app's, would not find its own credential (safety SEC-5)."""
    found = []
    authenticate = edge.auth.authenticate

    async def watched(request: web.Request) -> Principal:
        found.append((request.transport, current()))
        return await authenticate(request)

    monkeypatch.setattr(edge.auth, "authenticate", watched)
    async with ClientSession(f"http://127.0.0.1:{edge.port}") as one:
        for _ in range(3):
            async with one.get("/v1/device/me", headers={"Authorization": "Bearer device"}) as answer:
                assert answer.status == 200
    assert len({transport for transport, _ in found}) == 1, "all came by one connection"
    assert [scope for _, scope in found] == [ALL] * 3


# --- failures ---


async def test_waiting_times_are_spread_and_told_twice(edge: Edge) -> None:
    answer, problem = await ask(edge, "GET", "/v1/fail/throttled")
    assert (answer.status, problem["code"], problem["retryable"]) == (429, "rate_limited", True)
    assert 30_000 <= problem["retry_after_ms"] <= 50_000
    assert int(answer.headers["Retry-After"]) == -(-problem["retry_after_ms"] // 1000)


async def test_a_waiting_time_of_nothing_is_a_second_for_those_who_count_in_seconds(edge: Edge) -> None:
    answer, problem = await ask(edge, "GET", "/v1/fail/away")
    assert (answer.status, problem["code"], problem["retry_after_ms"]) == (503, "storage_unavailable", 0)
    assert answer.headers["Retry-After"] == "1"


async def test_further_members_do_not_displace_those_of_every_problem(edge: Edge) -> None:
    answer, problem = await ask(edge, "GET", "/v1/fail/cursor")
    assert answer.status == problem["status"] == 409
    assert problem["resync"] == {"epoch": "e2"}


async def test_a_problem_has_all_its_members(edge: Edge) -> None:
    answer, problem = await ask(edge, "GET", "/v1/fail/throttled")
    request_id = answer.headers["X-Request-Id"]
    assert set(problem) == {
        *("type", "title", "status", "detail", "instance", "code", "request_id", "retryable", "retry_after_ms")
    }
    assert problem["type"] == "urn:problem:relay:rate_limited"
    assert problem["title"] == CODES["rate_limited"][1]
    assert (problem["request_id"], problem["instance"]) == (request_id, f"urn:request:{request_id}")


async def test_a_detail_is_short_and_printable(edge: Edge) -> None:
    _, problem = await ask(edge, "GET", "/v1/fail/long")
    assert len(problem["detail"]) == 300
    assert problem["detail"].isprintable()


@pytest.mark.parametrize("kind", ["bug", "database"])
async def test_a_bug_is_answered_without_a_word_of_it(edge: Edge, kind: str) -> None:
    answer, problem = await ask(edge, "GET", f"/v1/fail/{kind}")
    assert (answer.status, problem["code"], problem["retryable"]) == (500, "internal", False)
    assert "hunter2" not in json.dumps(problem)
    assert "SELECT" not in json.dumps(problem)


async def test_an_answer_that_breaks_in_the_middle_is_cut_off(edge: Edge) -> None:
    answer = await edge.say(b"GET /stream HTTP/1.1\r\nHost: relay\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"begun")


async def test_requests_are_counted_by_route_never_by_path(edge: Edge) -> None:
    await ask(edge, "GET", "/v1/things/secret-id")
    await ask(edge, "GET", "/v1/elsewhere/secret-id")
    told = edge.metrics.render()
    assert b'route="/v1/things/{thing}"' in told
    assert b'route="unknown"' in told
    assert b"secret-id" not in told


# --- mistakes in the table ---


def test_routes_and_handlers_are_the_same_set() -> None:
    with pytest.raises(AssertionError, match="differ"):
        register(web.Application(), ROUTES, {**HANDLERS, "more": None}, Auth(), Shedding())
    with pytest.raises(AssertionError, match="differ"):
        register(web.Application(), ROUTES[1:], HANDLERS, Auth(), Shedding())


@pytest.mark.parametrize(
    "wrong",
    [
        *({"access": "messages:wriet"}, {"access": PUBLIC}, {"raw": True}, {"errors": ("no_such_code",)}),
        *({"responses": {}}, {"head": True}, {"too_large": "huge"}),
    ],
)
def test_a_row_that_says_too_little_or_nonsense_is_a_mistake_at_start(wrong: dict[str, Any]) -> None:
    rows = (replace(ROUTES[0], **wrong), *ROUTES[1:])
    with pytest.raises(AssertionError, match="put:"):
        register(web.Application(), rows, HANDLERS, Auth(), Shedding())
