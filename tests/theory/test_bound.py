from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import Assumption, Bound, Direction


@given(st.floats(allow_nan=False))
def test_an_upper_bound_never_exceeds_one_and_is_vacuous_exactly_there(log_formula):
    bound = Bound("L3", Assumption.A4, log_formula)
    assert 0 <= bound.value <= 1
    assert bound.vacuous == (bound.value >= 1)
    assert bound.log_value <= 0
    assert bound.value >= math.exp(min(log_formula, 0.0))
    assert math.isfinite(bound.to_dict()["log_value"])


def test_nan_is_not_a_bound():
    with pytest.raises(ValueError, match="NaN"):
        Bound("L3", Assumption.A4, math.nan)


def test_a_possible_event_is_never_rounded_to_zero():
    bound = Bound("L5", Assumption.A4, -5000.0)
    assert bound.value > 0 and bound.log_value == -5000.0 and not bound.vacuous


def test_a_lower_bound_above_one_is_refused():
    with pytest.raises(ValueError, match="above one"):
        Bound("L5", Assumption.A4, 0.1, Direction.LOWER)


def test_sides_may_not_cross():
    with pytest.raises(ValueError, match="lower side"):
        Bound("L5", Assumption.A4, -3.0, log_lower=-2.0)


def test_vacuity_cannot_be_set():
    with pytest.raises(TypeError):
        Bound("L5", Assumption.A4, 1.0, vacuous=False)  # type: ignore[call-arg]
