"""Every rung keeps the contract that `theory.testing` hands to any new bound."""

from __future__ import annotations

import pytest
from hypothesis import settings

from theory import Assumption, Bound
from theory.testing import CLAUSES, Candidate, keeps_monotone, keeps_order, keeps_sound, parametrize_with_contract, rungs


@pytest.fixture(autouse=True)
def _fewer_examples_in_the_everyday_run():
    everyday = settings.get_current_profile_name() == "default"
    if everyday:
        settings.load_profile("contract")
    yield
    if everyday:
        settings.load_profile("default")


@parametrize_with_contract(rungs())
def test_contract(candidate, clause):
    clause(candidate)


def test_every_rung_is_listed():
    from theory import RUNGS

    assert {c.name for c in rungs()} == set(RUNGS) - {"L8"}
    assert len(CLAUSES) == 8


@pytest.mark.parametrize(
    ("clause", "log_p"),
    [(keeps_sound, -3.0), (keeps_order, -3.0)],
)
def test_the_contract_refuses_a_false_bound(clause, log_p):
    lie = Candidate("lie", lambda rule, law: Bound("lie", Assumption.A4, log_p), at_least=("L5",))
    with pytest.raises((AssertionError, ExceptionGroup)):
        clause(lie)


def test_the_contract_refuses_a_bound_that_grows_with_separation():
    def grows(rule, law):
        return Bound("grows", Assumption.A4, -1 / (1 + abs(rule.signatures.means).max()))

    with pytest.raises((AssertionError, ExceptionGroup)):
        keeps_monotone(Candidate("grows", grows))
