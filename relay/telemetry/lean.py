"""Imported first: loads structlog without rich, which it takes along for tracebacks that the relay never prints. That was
a tenth of a start, and fifty modules in memory."""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # what cannot be imported, by the language's own rule
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
