"""Spans for an operator who traces with OpenTelemetry (extra `otel`): requests and pushes, and nothing that is secret."""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest
from running_relay import Face, running

from relay.errors import ConfigError
from relay.telemetry import traces

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_nothing_is_traced_unless_the_environment_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # not to be imported
    end = traces.begin({"OTEL_SERVICE_NAME": "relay"})
    with traces.span("a") as tell:
        assert tell is None  # nobody to tell
    end()


def test_who_wants_traces_without_the_extra_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*push-relay\[otel\]"):
        traces.begin({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4318"})


async def test_a_request_and_its_push_are_spans_without_secrets(tmp_path: Path) -> None:
    if "CI" not in os.environ:
        pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    traces.use(provider)
    try:
        with running(tmp_path, {"RELAY_ACCOUNTS__LOG__PROVIDER": "log", "RELAY_PUSH__DEBOUNCE_S": "0"}) as relay:
            async with aiohttp.ClientSession() as http:
                face = Face(http, relay, "ann")
                await face.device()
                addresses = {"addresses": [{"account": "log", "kind": "token", "token": "canary-token"}]}
                assert (await face.call("PUT", "/v1/users/ann/devices/phone", addresses)).status == 200
                sent = await face.call(
                    "POST",
                    "/v1/messages",
                    {"to": {"users": ["ann"]}, "body": "canary-body", "push": {"title": "canary-title"}},
                    headers={"traceparent": CALLER},
                )
                assert sent.status == 202
                assert (await face.call("GET", "/v1/nothing-here")).status == 404
                async with asyncio.timeout(20):
                    while not any(one.name == "push log" for one in kept.get_finished_spans()):
                        await asyncio.sleep(0.05)  # noqa: TID251 - looks again
    finally:
        traces.use(None)
    spans = kept.get_finished_spans()
    (send,) = [one for one in spans if one.name == "POST /v1/messages"]
    assert f"{send.context.trace_id:032x}" == CALLER.split("-")[1], "it goes on with its caller's trace"
    assert send.attributes["relay.status"] == 202
    assert send.attributes["relay.request_id"] == sent.headers["X-Request-Id"]
    assert [one.attributes["relay.status"] for one in spans if one.name == "GET unknown"] == [404]
    push = next(one for one in spans if one.name == "push log")
    assert push.attributes["relay.verdict"] == "accepted"
    told = "".join(one.to_json() for one in spans)
    assert "canary" not in told
    assert relay.key not in told
