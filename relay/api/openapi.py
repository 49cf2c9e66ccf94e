"""The OpenAPI 3.1 document and the page to read it, both made from the route table and the models that validate."""

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from relay.api.principal import SCOPES
from relay.api.routes import DEVICE, PUBLIC, Route
from relay.errors import CODES

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457. `code` is stable; `errors` name the fields and how to mend them.",
    "required": ["type", "title", "status", "detail", "code", "retryable"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "enum": sorted(CODES)},
        "request_id": {"type": "string"},
        "retryable": {"type": "boolean"},
        "retry_after_ms": {"type": "integer"},
        "errors": {
            "type": "array",
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
        "resync": {
            "type": "object",
            "description": "Where a refused cursor's owner goes on: `reason`, the `cursor` to store with its `epoch`, the number "
            "at which it stands (`floor`), and `head`.",
        },
    },
}
TAGS = {
    "messages": "Sending, looking up, taking back.",
    "devices": "Installations of the app, as the backend registers them.",
    "presence": "Who is online, and heartbeats of sockets that somebody else owns.",
    "webhooks": "Being told what became of each message, by push and by pull.",
    "groups": "Who is a member of which group.",
    "users": "What users want to be told of.",
    "push": "Vendor accounts, and what they would not carry.",
    "device": "What a device itself calls, with its own token.",
    "vendors": "Where vendors report what became of pushes.",
    "operation": "About the relay.",
}
_REF = "#/components/schemas/{model}"
_HEADER_FORMS = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._:-]+$"},
}
_PATH_ID = {"type": "string", "minLength": 1, "maxLength": 128}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document, as JSON-ready values."""
    refs, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operations = paths.setdefault(route.path, {})
        operations[route.method.lower()] = _operation(route, refs)
        if route.head:
            operations["head"] = _head(operations["get"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "push-relay",
            "version": version("push-relay"),
            "description": "Stores each message durably before it says yes, hands it to the user's devices, and tells the "
            "backend what became of it.",
        },
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "backend": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"An API key (rk_…) with scopes: {', '.join(SCOPES)}.",
                },
                "device": {"type": "http", "scheme": "bearer", "description": "A device's token (rd_…)."},
            },
            "headers": HEADERS,
            "schemas": {"Problem": PROBLEM_SCHEMA, **definitions},
        },
    }


def _schemas(routes: Sequence[Route]) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    inputs = {r.request for r in routes if r.request is not None}
    outputs = {model for r in routes for model in r.responses.values() if model is not None}
    wanted: list[tuple[Any, Any]] = [(m, "validation") for m in _ordered(inputs)]
    wanted += [(m, "serialization") for m in _ordered(outputs - inputs)]
    mapped, schema = models_json_schema(wanted, by_alias=True, ref_template=_REF)
    refs: dict[Any, dict[str, Any]] = {model: reference for (model, _), reference in mapped.items()}
    definitions = dict(schema.get("$defs", {}))
    for query in _ordered({r.query for r in routes if r.query is not None}):
        definitions |= _query_schema(query).get("$defs", {})
    return refs, definitions


def _query_schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(by_alias=True, ref_template=_REF)


def _ordered(models: Iterable[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(models, key=lambda model: model.__name__)


def _operation(route: Route, refs: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route, refs),
    }
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[route.request]}},
        }
        if route.lines:
            operation["requestBody"]["description"] = "Or NDJSON (`application/x-ndjson`): an item of the array a line."
    if route.access == DEVICE:
        operation["security"] = [{"device": []}]
    elif route.access != PUBLIC:
        operation["security"] = [{"backend": []}]
        operation["description"] = f"Needs the scope `{route.access}`."
    return operation


def _head(get: dict[str, Any]) -> dict[str, Any]:
    answers = {status: {"description": one["description"]} for status, one in get["responses"].items()}
    return {**get, "operationId": f"head_{get['operationId']}", "responses": answers}


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _PATH_ID}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.query is not None:
        schema = _query_schema(route.query)
        required = schema.get("required", ())
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": _without_null(one)}
            for name, one in schema["properties"].items()
        ]
    found += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": _HEADER_FORMS.get(name, {"type": "string"}),
        }
        for name, text in route.headers.items()
    ]
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter can be left out, but never be null."""
    options = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    kept = {key: value for key, value in schema.items() if key not in {"anyOf", "title"} and value is not None}
    return {**options[0], **kept} if options else kept


def _responses(route: Route, refs: dict[type[BaseModel], dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, model in route.responses.items():
        one: dict[str, Any] = {"description": _DESCRIPTIONS.get(status, "Done.")}
        if status == 200 and 202 in route.responses:
            one = {"description": _REPEATED, "headers": _headers("Idempotent-Replay")}
        if model is not None:
            one["content"] = {"application/json": {"schema": refs[model]}}
        elif status in {200, 206}:
            kind = "object" if route.media == "application/json" else "string"
            one["content"] = {route.media: {"schema": {"type": kind}}}
        found[str(status)] = one
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*route.errors, *(() if route.raw else _PARSED))):
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, codes in sorted(by_status.items()):
        found.setdefault(
            str(status),
            {
                "description": "One of: " + ", ".join(f"`{code}`" for code in codes) + ".",
                "headers": _headers(*_problem_headers(status)),
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
    return found


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _problem_headers(status: int) -> list[str]:
    own = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
    return ["X-Request-Id", own[status]] if status in own else ["X-Request-Id"]


HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {"description": "Tell it to the operator of the relay.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to say who you are.", "schema": {"type": "string"}},
    "Idempotent-Replay": {"description": "`true`.", "schema": {"type": "string"}},
    "Allow": {"description": "The methods that this path takes.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds to wait before the next try; `retry_after_ms` in the body is finer.",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_PARSED = ("unknown_field",)  # what any call refuses whose parameters are looked at, though it may take none
_REPEATED = "A repeat under a key that was used before: what was answered then."
_DESCRIPTIONS = {
    200: "Done.",
    201: "Made.",
    202: "On disk: the sender may forget it.",
    204: "Done; nothing to say.",
    206: "The part that was asked for.",
    412: "It is not that file any more: begin anew.",
    416: "There is no such part; `Content-Range` has the length.",
    304: "Nothing newer.",
    101: "The connection is a WebSocket from here on.",
}


# --- the page ---------------------------------------------------------------------------------------------------------

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
nav { columns: 18rem; font-size: .9rem } nav ul { list-style: none; margin: 0 0 .8rem; padding: 0; break-inside: avoid }
article { border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; padding: .6rem 1rem }
article:target { outline: 2px solid currentColor }
h3 { margin: 0; font: 600 1rem ui-monospace, monospace; overflow-wrap: anywhere }
h3 b { display: inline-block; min-width: 4.5rem }
code { background: var(--soft); border-radius: 4px; padding: 0 .25rem; font-family: ui-monospace, monospace }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
td { border-top: 1px solid var(--line); padding: .2rem .4rem; vertical-align: top; overflow-wrap: anywhere }
td:first-child { width: 14rem }
"""


def page(document_: dict[str, Any]) -> str:
    """The document for people: no script, nothing from elsewhere."""
    info, schemas = document_["info"], document_["components"]["schemas"]
    listed = [
        (tag, [(path, method, one) for path, method, one in _operations(document_) if tag["name"] in one["tags"]])
        for tag in document_["tags"]
    ]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        "<title>push-relay API</title><link rel=stylesheet href=/docs.css>",
        f"<h1>push-relay {escape(info['version'])}</h1><p>{escape(info['description'])}</p>",
        "<p>The same for machines: <a href=/v1/openapi.json>/v1/openapi.json</a></p>",
        "<nav>",
    ]
    for tag, operations in listed:
        links = "".join(
            f"<li><a href='#{escape(one['operationId'])}'>{method.upper()} {escape(path)}</a>"
            for path, method, one in operations
        )
        parts.append(f"<ul><li><b>{escape(tag['name'])}</b>{links}</ul>")
    parts.append("</nav>")
    for tag, operations in listed:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>")
        parts += [_article(path, method, one) for path, method, one in operations]
    parts.append("<h2>Objects</h2>")
    parts += [_object(name, schema) for name, schema in sorted(schemas.items())]
    return "".join(parts) + "</html>"


def _operations(document_: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, one) for path, operations in document_["paths"].items() for method, one in operations.items()
    ]


def _article(path: str, method: str, one: dict[str, Any]) -> str:
    rows = []
    for parameter in one["parameters"]:
        text = _marked(parameter["description"]) if "description" in parameter else _kind(parameter["schema"])
        rows.append((f"{parameter['in']} {parameter['name']}", text + (", required" if parameter["required"] else "")))
    if "requestBody" in one:
        rows.append(("body", _kind(one["requestBody"]["content"]["application/json"]["schema"])))
    for status, answer in one["responses"].items():
        content = answer.get("content", {}).get("application/json")
        rows.append((status, _marked(answer["description"]) + (f" {_kind(content['schema'])}" if content else "")))
    note = f"<p>{_marked(one['description'])}</p>" if "description" in one else ""
    return (
        f"<article id='{escape(one['operationId'])}'><h3><b>{method.upper()}</b> {escape(path)}</h3>"
        f"<p>{_marked(one['summary'])}</p>{note}{_table(rows)}</article>"
    )


def _object(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = []
    for key, one in schema.get("properties", {}).items():
        text = _kind(one) + (", required" if key in required else "")
        rows.append((key, text + (f"<br>{_marked(one['description'])}" if "description" in one else "")))
    note = f"<p>{_marked(schema['description'])}</p>" if "description" in schema else ""
    what = "" if rows else f"<p>{_kind(schema)}</p>"
    return f"<article id='{escape(_anchor(name))}'><h3>{escape(name)}</h3>{note}{what}{_table(rows)}</article>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Names are plain text, what is said of them is HTML already."""
    if not rows:
        return ""
    return "<table>" + "".join(f"<tr><td><code>{escape(name)}</code><td>{text}" for name, text in rows) + "</table>"


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, in a line of HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"<a href='#{escape(_anchor(name))}'>{escape(name)}</a>"
    options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if options:
        words = " or ".join(_kind(one) for one in options)
    elif "enum" in schema or "const" in schema:
        words = " or ".join(f"<code>{escape(str(one))}</code>" for one in schema.get("enum", [schema.get("const")]))
    elif schema.get("type") == "array":
        words = f"list of {_kind(schema.get('items', {}))}"
    else:
        words = escape(str(schema.get("type", "any JSON")))
    limits = [f"{word} {escape(_plain(schema[key]))}" for key, word in _LIMITS.items() if schema.get(key) is not None]
    return ", ".join([words, *limits])


def _plain(value: Any) -> str:
    """As it is written in JSON; a text, without its quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _anchor(name: str) -> str:
    return f"object-{name}"


_LIMITS = {
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "min. characters",
    "maxLength": "max. characters",
    "minItems": "min. entries",
    "maxItems": "max. entries",
    "pattern": "form",
    "default": "by default",
}


def _marked(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))
