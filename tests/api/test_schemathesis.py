"""What the relay answers to generated requests is what its own document says, for every operation and both credentials.

RELAY_FUZZ_EXAMPLES sets how many requests an operation gets, drawn anew in each run; without it, few and always the same.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from running_relay import Running
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

from relay.api import openapi, table

WAITS = {str(seconds) for seconds in range(1, 61)}
INSIDE = "http://127.0.0.1:9/"  # internal, but listed by the operator; nothing listens there
EXAMPLES = os.environ.get("RELAY_FUZZ_EXAMPLES")
SETTINGS = hypothesis.settings(
    max_examples=int(EXAMPLES or 10),
    derandomize=EXAMPLES is None,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.content_type_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.negative_data_rejection,
]


@dataclass
class Known:
    """Things that exist, so that not every generated request ends at a 404; and what was answered to which operation.

    The device whose token is used belongs to a user of its own, whom no generated request of the backend hits.
    """

    url: str
    http: requests.Session
    bearer: dict[str, str]  # by security scheme
    path: dict[str, str]
    seen: dict[str, set[int]] = field(default_factory=dict)

    def call(self, method: str, path: str, body: Any = None, *, scheme: str = "backend") -> Any:
        headers = {"Authorization": f"Bearer {self.bearer[scheme]}"}
        answer = self.http.request(method, self.url + path, json=body, headers=headers, timeout=30)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def endpoint(self) -> str:
        """A webhook endpoint, made again if it was deleted."""
        there = self.call("GET", "/v1/webhooks")["endpoints"]
        one = there[0] if there else self.call("POST", "/v1/webhooks", {"url": INSIDE})
        return str(one["id"])

    def session(self) -> int:
        """The device's, as of now."""
        return int(self.call("PUT", "/v1/device", {"store": {"id": "s"}}, scheme="device")["session"])


@pytest.fixture(scope="module")
def known(relay: Running) -> Iterator[Known]:
    with requests.Session() as http:
        known = Known(relay.url, http, {"backend": relay.key}, {"user": "ann", "device": "tablet", "account": "log"})
        for path in ("/v1/users/ann/devices/tablet", "/v1/users/dee/devices/phone"):
            known.call("PUT", path, {})
        known.bearer["device"] = known.call("POST", "/v1/users/dee/devices/phone/token")["token"]
        known.path["message"] = known.call("POST", "/v1/messages", {"to": {"users": ["ann"]}, "body": "hi"})["id"]
        known.path["hour"] = known.call("GET", "/v1/logs")["logs"][0]["hour"]
        known.call("PUT", "/v1/groups/friends/members", {"type": "ultra", "add": ["ann"]})
        known.path |= {"group": "friends", "account": "log"}
        known.call("POST", "/v1/messages", {"to": {"users": ["dee"]}, "body": "hi"})
        yield known
        never_well = {
            one for one, statuses in known.seen.items() if not any(200 <= status < 400 for status in statuses)
        }
        no_answer = {"GET /v1/device/ws"}  # whose success is no HTTP answer
        pages = {"POST /v1/device/ticket"}  # for who states an origin that the relay knows
        not_ours = {"POST /v1/receipts/{account}", "POST /v1/receipts/{account}/{secret}"}  # the vendor's alone
        by_push = {"POST /v1/device/addresses/proof"}  # takes what a push has told
        assert never_well <= no_answer | not_ours | by_push | pages


def _schema() -> Any:
    """Of the document as it is built, so that each operation is a test by itself."""
    config = SchemathesisConfig()
    config.projects.default.generation.update(with_security_parameters=False, modes=list(GenerationMode))
    return schemathesis.openapi.from_dict(openapi.document(table.ROUTES), config=config)


schema = _schema().exclude(operation_id="stream")  # whose answer has no end; tests/api/test_stream.py


def test_the_relay_serves_the_document_that_is_tested_here(known: Known) -> None:
    assert known.call("GET", "/v1/openapi.json") == openapi.document(table.ROUTES)


@schema.parametrize()
@SETTINGS
def test_every_answer_is_one_that_the_document_promises(case: Case, known: Known) -> None:
    """No 5xx but 503, no undocumented status, content type or field; other methods are refused with `Allow`."""
    _aim(case, known)
    headers = {}
    for scheme in _schemes(case):
        headers["Authorization"] = f"Bearer {known.bearer[scheme]}"
    answer = case.call_and_validate(base_url=known.url, session=known.http, headers=headers, checks=CHECKS, timeout=30)
    if case.method == case.operation.method.upper():  # else it is a probe of other methods
        known.seen.setdefault(case.operation.label, set()).add(answer.status_code)


def _schemes(case: Case) -> list[str]:
    return [name for one in case.operation.definition.raw.get("security", ()) for name in one]


def _aim(case: Case, known: Known) -> None:
    """Half of the requests go to what exists; none of them waits, and what was deleted is made again.

    Bodies that were made wrong on purpose stay as they are.
    """
    query = case.query if isinstance(case.query, dict) else {}
    if str(query.get("wait")) in WAITS:
        query["wait"] = 0
    if zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode()) % 2:
        return
    case.path_parameters = {name: known.path.get(name, value) for name, value in (case.path_parameters or {}).items()}
    if "user" in case.path_parameters:  # it may have been erased, or have another name by now
        known.call("PUT", "/v1/users/ann/devices/tablet", {})
    if "endpoint" in case.path_parameters:
        case.path_parameters["endpoint"] = known.endpoint()
    if case.meta is not None and case.meta.generation.mode.is_positive:
        query.pop("cursor", None)
        query.pop("range", None)
        if "types" in query:
            query["types"] = "*"
        if isinstance(case.body, dict):
            _aim_body(case.body, case.operation.label, known)


def _aim_body(body: dict[str, Any], operation: str, known: Known) -> None:
    body.pop("cursor", None)
    match operation:
        case "POST /v1/messages":
            body["to"] = {"users": [known.path["user"]]}
            body["push"] = None
            body.pop("id", None)
        case "POST /v1/device/messages":
            body.clear()
            body |= {"to": {"users": [known.path["user"]]}, "body": "hi"}
        case "PUT /v1/groups/{group}/members/{user}":
            known.call("PUT", "/v1/groups/friends/members", {"add": ["ann"]})
        case "POST /v1/webhooks":
            body |= {"url": INSIDE, "types": ["*"], "headers": {}, "description": None}
        case "POST /v1/webhooks/{endpoint}/replay":
            known.call("PATCH", f"/v1/webhooks/{known.endpoint()}", {"enabled": True})
            body |= {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "events": None}
        case "POST /v1/device/verify":
            batch = known.call("GET", "/v1/device/sync", scheme="device")["batches"][0]
            body |= {"cursor": batch["cursor"], "ranges": [{"from": 0, "to": 1, "n": 0, "fp": "0"}], "as_of": None}
            body["purpose"], body["upgrade"] = "cache", None
        case "POST /v1/device/heartbeat":
            body["session"] = known.session()
        case "PUT /v1/device/addresses":
            body["addresses"] = [{"account": "log", "token": "t"}]
        case "PUT /v1/device":
            body |= {"addresses": None, "replaces": None}
