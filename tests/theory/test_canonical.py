"""Signatures of the planner's model: equidistant, refused where there is no room, and one component stands for all."""

from __future__ import annotations

import numpy as np
import pytest

from theory import InputError, ladder, separation
from theory.canonical import canonical_queries, canonical_signatures


@pytest.mark.parametrize(("d", "tasks", "components"), [(1, 2, 1), (2, 3, 1), (5, 3, 2), (40, 4, 3)])
def test_every_pair_has_the_separation_asked_for(d, tasks, components):
    signatures = canonical_signatures(d, tasks, 0.7, components)
    delta = separation(signatures).delta
    others = ~np.eye(tasks * components, dtype=bool)
    assert delta[others] == pytest.approx(0.7, rel=1e-9) and delta[~others] == pytest.approx(0.0, abs=1e-12)
    assert np.bincount(signatures.task).tolist() == [components] * tasks


@pytest.mark.parametrize("components", [1, 2])
def test_one_component_stands_for_all(components):
    signatures = canonical_signatures(9, 5, 1.5, components)
    one, everything = (ladder(signatures, law, simulations=0, units="overall") for law in (canonical_queries(signatures), None))
    for name, bound in everything.overall.items():
        assert one.overall[name].log_formula == pytest.approx(bound.log_formula, rel=1e-6, abs=1e-9), name
    assert len(one.pairs.mean) * 5 * components == len(everything.pairs.mean)


@pytest.mark.parametrize(
    ("argument", "changed"),
    [("d", {"d": 4}), ("tasks", {"tasks": 1}), ("components", {"components": 0}), ("delta", {"delta": 0.0}), ("delta", {"delta": np.inf})],
)
def test_what_cannot_be_is_refused_by_name(argument, changed):
    with pytest.raises(InputError, match=f"^{argument}:"):
        canonical_signatures(**{"d": 5, "tasks": 6, "delta": 1.0} | changed)
