"""The contract's own tests notice an adapter that breaks it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import ClassVar

import pytest

from providers.app_message import once_key
from providers.contract import Push
from providers.http import Request
from providers.http_call import HttpCallProvider
from providers.testing import ProviderContract

numbers = count()


@pytest.mark.parametrize(
    ("key_of", "noticed"),
    [
        (lambda push: once_key(push, now_s=None), None),
        (lambda _: "", "no key"),
        (lambda _: f"try-{next(numbers)}", "a repeat"),
        (lambda push: push.collapse_key or "m", "another message"),
        (lambda push: push.id, "a summary that grew"),
        (lambda push: f"{push.id} {push.title} {push.body}", "a reminder"),
    ],
    ids=["a right one", "none", "one for each try", "none of the message", "the push's id", "its id and words"],
)
def test_a_wrong_key_for_repeats_is_noticed_though_the_id_stands_in_the_data_too(
    key_of: Callable[[Push], str], noticed: str | None
) -> None:
    class Keyed(HttpCallProvider):
        def encode(self, push: Push, credential: str) -> Request:
            request = super().encode(push, credential)
            assert push.id in request.body.decode()
            return replace(request, headers={**request.headers, "webhook-id": key_of(push)})

    class Contract(ProviderContract):
        provider = Keyed
        settings: ClassVar = {"url": "https://gateway.example/push", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
        token = "device-42"

        def repeat_key(self, request: Request) -> str:
            return request.headers["webhook-id"]

    asked = Contract().test_a_repeat_has_its_key_again_and_whatever_else_is_to_be_seen_has_another
    if noticed is None:
        asked()
    else:
        with pytest.raises(AssertionError, match=noticed):
            asked()
