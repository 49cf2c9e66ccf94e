"""What an account learns from the answers to its calls."""

from types import SimpleNamespace
from typing import Any, cast

from providers.contract import Outcome, Scope, Verdict
from relay.push.accounts import Account
from relay.push.limits import Bucket


def too_many(retry_after_s: float) -> Outcome:
    return Outcome(verdict=Verdict.RETRY, scope=Scope.ACCOUNT, retry_after_s=retry_after_s)


def test_of_several_answers_that_ask_for_a_pause_the_longest_holds() -> None:
    """Calls that were under way together are answered in any order."""
    account = Account(app_id="a", name="v", provider=cast(Any, SimpleNamespace(capabilities=None)), bucket=Bucket(9, 9))
    account.started(0, calls=2, retry=False)

    account.ended(1_000, too_many(300))
    account.ended(2_000, too_many(5))

    assert account.view(3_000, 0).closed_for_ms == 298_000
