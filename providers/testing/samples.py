"""What an author says of a vendor, and what the tests make of it."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, settings

from providers.contract import ProviderConfig, Push, Transport, Verdict
from providers.http import HttpProvider, Request, Response
from providers.loading import configured
from providers.testing.scripted import NOW_S, Scripted, always, count

fuzz = settings(
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
some = settings(parent=fuzz, max_examples=25)


class Samples:
    """Provider, settings, token, login (if it logs in), answers."""

    provider: ClassVar[type[HttpProvider]]
    settings: ClassVar[Mapping[str, Any]]
    token: ClassVar[str]
    login: ClassVar[Response | None] = None
    answers: ClassVar[Mapping[str, tuple[Response, Verdict]]]
    one_dead: ClassVar[tuple[str, Response] | None] = (
        None  # a vendor with batches: a token, and the answer that names it
    )
    content_per_token: ClassVar[bool] = False  # its batches say the content again for each token
    dead_statuses: ClassVar[frozenset[int]] = frozenset()  # vendors whose bare status means dead

    idle: ClassVar[HttpProvider]  # filled in here
    checked: ClassVar[ProviderConfig]  # and here

    @property
    def config(self) -> ProviderConfig:
        """Read once for all tests: it never changes, and looking at a private key takes a while."""
        cls = type(self)
        if "checked" not in vars(cls):
            cls.checked = configured(self.provider, self.settings)
        return cls.checked

    def made(self, transport: Transport) -> HttpProvider:
        return self.provider(self.config, transport=transport, now=lambda: NOW_S)

    def unused(self) -> HttpProvider:
        """One for encoding and decoding, which are pure: so the same for all tests."""
        cls = type(self)
        if "idle" not in vars(cls):
            cls.idle = self.made(Scripted(always(Response(status=500))))
        return cls.idle

    def push(self, **fields: Any) -> Push:
        return Push(
            **{"id": "m-0001", "token": self.token, "title": "Telltale title", "body": "Telltale body", **fields}
        )

    def is_login(self, request: Request) -> bool:
        return self.login is not None and not self.carries_token(request)

    def carries_token(self, request: Request) -> int:
        """How often the token stands in the request, however written."""
        return count(request, self.token)

    def scripted(self, answer: Callable[[Request], Response]) -> Scripted:
        """Logins get the sample login, pushes get `answer`."""
        return Scripted(lambda request: self.login if self.login and self.is_login(request) else answer(request))

    def repeat_key(self, request: Request) -> object:
        """Of a vendor that drops repeats (`Capabilities.idempotent`): what it knows one by, where it stands in the request."""
        raise NotImplementedError("say `repeat_key`")

    def sample(self, verdict: Verdict) -> Response | None:
        return next((response for response, said in self.answers.values() if said is verdict), None)

    def batch(self, tokens: list[str], **fields: Any) -> list[Push]:
        return [self.push(token=token, **fields) for token in tokens]

    def tokens(self, count: int) -> list[str]:
        """Different ones in the vendor's form: the sample, with a number in the place of its end."""
        return [f"{self.token[: -len(str(count))]}{n:0{len(str(count))}d}" for n in range(count)]

    def _batches(self) -> None:
        if self.provider.capabilities.batch_max == 1:
            pytest.skip("This vendor takes one token a call.")

    def scripted_many(self, tokens: list[str], answer: Callable[[Request], Response]) -> Scripted:
        return Scripted(
            lambda request: answer(request) if self.login is None or self._named(request, tokens) else self.login
        )

    def _named(self, request: Request, tokens: list[str]) -> list[str]:
        text = "\n".join([request.url, *request.headers.values(), request.body.decode("utf-8", "replace")])
        return [token for token in tokens if token in text or quote(token, safe="") in text]
