"""What every adapter does with its settings, and with what it sends."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from providers.contract import Verdict, slimmer
from providers.http import Response
from providers.loading import SettingsInvalid, configured
from providers.testing.samples import Samples
from providers.testing.scripted import always, run


def _secrets_of(config: Any) -> list[str]:
    """Every SecretStr in the settings, however deep."""
    if isinstance(config, SecretStr):
        return [config.get_secret_value()]
    if isinstance(config, Mapping):
        return [secret for value in config.values() for secret in _secrets_of(value)]
    if isinstance(config, list | tuple):
        return [secret for value in config for secret in _secrets_of(value)]
    fields = getattr(type(config), "model_fields", None)
    if isinstance(fields, dict):
        return [secret for name in fields for secret in _secrets_of(getattr(config, name))]
    return []


class Requests(Samples):
    """Settings and requests."""

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(SettingsInvalid):
            configured(self.provider, {**self.settings, "surprise": 1})
        with pytest.raises(ValidationError):
            self.provider.Config.model_validate({**self.settings, "surprise": 1})

    def test_settings_never_change(self) -> None:
        config = self.config
        with pytest.raises(ValidationError):
            setattr(config, next(iter(type(config).model_fields)), "other")

    def test_secrets_never_show(self) -> None:
        config = self.config
        provider = self.unused()
        request = provider.encode(self.push(), "s3cr3t-credential")
        shown = "\n".join([repr(config), str(config), repr(provider), repr(vars(provider)), repr(request)])
        for secret in (*_secrets_of(config), "s3cr3t-credential", self.token, "Telltale"):
            assert secret not in shown

    def test_a_mistake_in_a_secret_does_not_show_it(self) -> None:
        for key, field in self.provider.Config.model_fields.items():
            if field.annotation in (SecretStr, SecretStr | None) and key in self.settings:
                with pytest.raises(SettingsInvalid) as caught:
                    configured(self.provider, {**self.settings, key: ["s3cr3t-mistake"]})
                assert "s3cr3t-mistake" not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"

    def test_encoding_is_pure(self) -> None:
        push = self.push(data={"k": "v"}, badge=3, collapse_key="c", click="https://app.example/x")
        provider = self.unused()
        first, second = provider.encode(push, "c1"), provider.encode(push, "c1")
        assert first == second
        assert (first.body, dict(first.headers)) == (second.body, dict(second.headers))

    def test_a_request_is_https_and_carries_the_token_once(self) -> None:
        request = self.unused().encode(self.push(), "c1")
        assert request.url.startswith("https://")
        assert self.carries_token(request) == 1

    def test_every_kind_of_push_is_encoded(self) -> None:
        provider = self.unused()
        full = self.push(
            image="https://app.example/i.png",
            data={"from": "x", "google.x": "y", "relay": "z", "title": "t", "é": "\ud800"},
            badge=0,
            sound="s.caf",
            channel="chat",
            thread="t",
            click="OPEN",
            mutable=True,
            title_loc_key="T",
            title_loc_args=("a", "\ud800"),
            body_loc_key="B",
            collapse_key="é" * 200,
            relay={"v": 1, "ids": ["a"]},
        )
        for push in (full, replace(full, urgent=False, ttl_s=0), self.push(title=None, body=None), self.push(title="")):
            assert provider.encode(push, "c1").body
            assert all(re.fullmatch("[a-z_]+", name) for name in provider.losses(push)), "names, without the values"

    def test_line_breaks_reach_no_head(self) -> None:
        for text in ("a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b", "a b", "é", "\ud800"):
            scripted = self.scripted(always(Response(status=500)))
            push = self.push(id=text, token=text, collapse_key=text, channel=text, thread=text, sound=text, click=text)
            run(self.made(scripted).send(push))
            for request in scripted.requests:
                head = [request.url, *request.headers, *request.headers.values()]
                assert all(part.isascii() and part.isprintable() for part in head)

    def test_an_oversized_push_is_noticed_before_it_is_sent(self) -> None:
        scripted = self.scripted(always(Response(status=500)))
        much = "x" * (self.provider.capabilities.payload_bytes_max + 1)
        push = self.push(body=much, data={"much": much})  # some vendors take a cut body
        assert run(self.made(scripted).send(push)).verdict is Verdict.TOO_LARGE
        assert all(self.is_login(request) for request in scripted.requests)

    def test_ids_are_cut_before_the_message_is(self) -> None:
        push = self.push(relay={"v": 1, "ids": ["i" * 64] * self.provider.capabilities.payload_bytes_max})
        assert slimmer(push) is not None
        scripted = self.scripted(always(next(iter(self.answers.values()))[0]))
        assert run(self.made(scripted).send(push)).verdict is not Verdict.TOO_LARGE

    def test_a_repeat_has_its_key_again_and_whatever_else_is_to_be_seen_has_another(self) -> None:
        if not self.provider.capabilities.idempotent:
            pytest.skip("This vendor does not recognise repeats.")

        def key(**fields: Any) -> object:
            return self.repeat_key(self.unused().encode(self.push(**fields), "c1"))

        first = key()
        assert first, "no key"
        assert key() == first, "a repeat"
        for what, other in (
            ("another message", key(id="m-0002")),
            ("a summary that grew", key(body="Telltale body, and another")),
            ("a reminder", key(again="reminder-1")),
        ):
            assert other != first, what

    def test_an_unknown_kind_of_address_is_refused(self) -> None:
        scripted = self.scripted(always(Response(status=500)))
        assert run(self.made(scripted).send(self.push(kind="pigeon"))).verdict is Verdict.REFUSED
        assert not scripted.requests
