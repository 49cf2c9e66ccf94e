"""Spans of requests and pushes, for an operator who traces (extra `otel`).

OpenTelemetry's own variables say where they go: without OTEL_EXPORTER_OTLP_ENDPOINT nothing of it is imported, and a span
is nothing. Spans name routes, accounts and outcomes; no body, no token, and no text of an error.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

from relay.errors import ConfigError

WHERE: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORT_S: Final = 2.0  # with all its tries: a collector that is away must not hold up a stop

Tell = Callable[..., None]  # takes the span's `name`, and attributes

_tracer: Any = None


def begin(environ: Mapping[str, str]) -> Callable[[], None]:
    """Sends spans from now on, if the environment says where to; gives what ends that. Raises ConfigError."""
    named = next((name for name in WHERE if environ.get(name)), None)
    if named is None:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise ConfigError([f"{named}: traces need the extra `otel`; install push-relay[otel], or unset it."]) from None
    service = environ.get("OTEL_SERVICE_NAME") or "push-relay"
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_S)))
    use(provider)

    def end() -> None:
        use(None)
        provider.shutdown()

    return end


def use(provider: Any) -> None:
    """Spans go to this provider of the SDK; None: to nobody."""
    global _tracer  # noqa: PLW0603 - one for the process, as logs are
    _tracer = None if provider is None else provider.get_tracer("relay")


def span(name: str, *, caller: Mapping[str, str] | None = None) -> AbstractContextManager[Tell | None]:
    """A span for the block, which is given a function that tells more of it, or None if nobody listens. `caller`: headers
    of whoever asks us for it, whose trace it goes on with (W3C Trace Context); None: we ask somebody."""
    return _NOTHING if _tracer is None else _span(name, caller)


@contextmanager
def _span(name: str, caller: Mapping[str, str] | None) -> Iterator[Tell]:
    from opentelemetry import propagate, trace  # noqa: PLC0415 - there is a provider, so there is this

    with _tracer.start_as_current_span(
        name,
        context=None if caller is None else propagate.extract(caller),
        kind=trace.SpanKind.CLIENT if caller is None else trace.SpanKind.SERVER,
        record_exception=False,  # its text may name what nobody should read
        set_status_on_exception=False,
    ) as here:

        def tell(*, name: str, **attributes: str | int) -> None:
            here.update_name(name)
            here.set_attributes({f"relay.{key}": value for key, value in attributes.items()})

        yield tell


_NOTHING: Final = nullcontext(None)
