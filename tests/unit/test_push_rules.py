"""What a verdict means for its job: every row of the table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.contract import Outcome, Scope, Verdict
from relay.push.notes import Form
from relay.push.rules import AFTER, NOT_NEEDED, SEVERITY, Result, Then, after, known, worst

FORMS = (Form.EACH, Form.SUMMARY, Form.WAKE, Form.KNOCK)
LEAVES = set(Verdict) - {Verdict.REAUTH}  # that one never leaves a provider

TABLE = {
    (Verdict.ACCEPTED, "*"): Then.TOLD,
    (Verdict.RETRY, "*"): Then.AGAIN,
    (Verdict.TOKEN_DEAD, "*"): Then.NEXT_ADDRESS,
    (Verdict.MISCONFIGURED, "*"): Then.PARK,
    (Verdict.REFUSED, Form.EACH): Then.ELSEWHERE,
    (Verdict.REFUSED, Form.SUMMARY): Then.ELSEWHERE,
    (Verdict.REFUSED, Form.WAKE): Then.GIVE_UP,
    (Verdict.REFUSED, Form.KNOCK): Then.GIVE_UP,
    (Verdict.TOO_LARGE, Form.EACH): Then.BARE,
    (Verdict.TOO_LARGE, Form.SUMMARY): Then.BARE,
    (Verdict.TOO_LARGE, Form.WAKE): Then.GIVE_UP,
    (Verdict.TOO_LARGE, Form.KNOCK): Then.GIVE_UP,
}


def test_every_verdict_has_a_row() -> None:
    assert set(AFTER) == LEAVES
    assert set(SEVERITY) == LEAVES
    assert len(SEVERITY) == len(LEAVES)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verdict", sorted(LEAVES))
def test_the_table_says_what_follows(verdict: Verdict, form: str) -> None:
    said = Result(Outcome(verdict=verdict, scope=Scope.ACCOUNT))
    assert after(said, form) is (TABLE.get((verdict, form)) or TABLE[verdict, "*"])
    assert said.word == verdict


@pytest.mark.parametrize("scope", [Scope.MESSAGE, Scope.TOKEN])
def test_a_misconfiguration_of_one_target_parks_nobody_else(scope: Scope) -> None:
    assert after(Result(Outcome(verdict=Verdict.MISCONFIGURED, scope=scope)), Form.EACH) is Then.AGAIN


@pytest.mark.parametrize("form", FORMS)
def test_what_was_not_sent_is_moot(form: str) -> None:
    assert after(Result(None), form) is Then.MOOT
    assert Result(None).word == NOT_NEEDED


def test_what_was_shown_in_part_is_not_shown_anew_elsewhere() -> None:
    assert after(Result(Outcome(verdict=Verdict.REFUSED), partly=True), Form.EACH) is Then.BARE


@given(st.lists(st.sampled_from(sorted(LEAVES)), min_size=1, max_size=6))
def test_an_attempt_of_several_calls_is_accepted_only_if_all_were(verdicts: list[Verdict]) -> None:
    decides = worst([Outcome(verdict=one) for one in verdicts])
    assert decides.verdict in verdicts
    assert (decides.verdict is Verdict.ACCEPTED) == (set(verdicts) == {Verdict.ACCEPTED})


def test_a_code_that_nobody_knows_is_tried_twice_more_and_then_told_to_an_operator() -> None:
    said = Outcome(verdict=Verdict.RETRY, unknown=True, maybe_sent=True, vendor_code="4711")
    assert [known(said, tries=tries).verdict for tries in range(4)] == [
        Verdict.RETRY,
        Verdict.RETRY,
        Verdict.MISCONFIGURED,
        Verdict.MISCONFIGURED,
    ]
    at_last = known(said, tries=2)
    assert (at_last.scope, at_last.vendor_code) == (Scope.TOKEN, "4711")
    plain = Outcome(verdict=Verdict.RETRY, vendor_code="10002")
    assert known(plain, tries=9) is plain
