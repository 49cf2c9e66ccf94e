"""A secret shows itself only when it is asked."""

import pickle

import pytest
from pydantic import BaseModel

from relay.secret import MASK, Secret


class Holder(BaseModel):
    secret: Secret


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret("hunter2")
    shown = f"{secret} {secret!s} {secret!r} {secret:>20} {[secret]} {'%s' % secret}"  # noqa: UP031
    held = Holder.model_validate({"secret": "hunter2"})
    assert "hunter2" not in shown + repr(held) + held.model_dump_json() + str(held.model_dump())
    assert str(secret) == MASK
    assert secret.reveal() == held.secret.reveal() == "hunter2"


def test_secrets_compare_by_their_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("a"))
