"""A transport that follows a script, and the small things that the tests say with it."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote, quote_plus

from providers.contract import Outcome
from providers.http import Request, Response

NOW_S = 1_764_000_000.0


class Scripted:
    """A transport that answers from a script and remembers what it was asked."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    async def __call__(self, request: Request, /) -> Response:
        self.requests.append(request)
        await asyncio.sleep(0)  # noqa: TID251 - lets rivals run, passes no time
        return self.answer(request)


def run(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    return asyncio.run(work)


def always(response: Response) -> Callable[[Request], Response]:
    return lambda _: response


def each(*responses: Response) -> Callable[[Request], Response]:
    left = iter(responses)
    return lambda _: next(left)


def count(request: Request, text: str) -> int:
    """How often the text stands in the request, however written."""
    forms = {text, quote(text, safe=""), quote_plus(text), json.dumps(text)[1:-1]}
    whole = "\n".join([request.url, *request.headers.values(), request.body.decode("utf-8", "replace")])
    return max(whole.count(form) for form in forms)
