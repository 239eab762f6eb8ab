"""What a user may plausibly pass by mistake is refused by name before any work; above all, shares of errors taken for their number."""

import numpy as np
import pytest

import theory
from theory import ErrorMonitor, HeldOut, InputError, Measured, QueryLaw, Rule, Signatures, certificate, ladder, well_specified
from theory.quadratic import QuadraticLaw

MEANS, COVARIANCES, TASK = np.diag([3.0, 4.0, 5.0]), np.stack([np.eye(3)] * 3), np.array([0, 1, 1])
SIGNATURES = Signatures(MEANS, COVARIANCES, TASK)
LAW = well_specified(SIGNATURES)
COUNTS = np.array([10, 10, 10])


def a_law(**changes):
    return QueryLaw(**{"means": MEANS[:, None], "covariances": COVARIANCES, "task": TASK, "cluster": TASK, "weights": np.ones(3)} | changes)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        # A rate of 1% in 100 samples is one error; counted as 0.01 errors it would certify less than nothing measured.
        ("errors", lambda: certificate(0.01, 100, 0.95)),
        ("errors", lambda: theory.clopper_pearson(0.5, 10, 0.95)),
        ("errors", lambda: Measured(0.2, 10, 0.95)),
        ("n", lambda: Measured(1, np.inf, 0.95)),
        ("n", lambda: ErrorMonitor(errors=1, n=2.5)),
        ("errors", lambda: ErrorMonitor(errors=0.1, n=10)),
        ("errors", lambda: HeldOut(np.array([0.1, 0.2, 0.3]), COUNTS)),
        ("errors", lambda: HeldOut(1, 10)),
        ("errors", lambda: HeldOut([1, 2], [10, 10, 10])),
        ("held_out", lambda: ladder(SIGNATURES, held_out=HeldOut([1, 2], [10, 10]))),
        ("simultaneous", lambda: certificate(1, 10, 0.95, 1.5)),
        # A certificate holds with a confidence; Markov's inequality needs an expectation.
        ("bound", lambda: theory.exceedance(certificate(0, 1000, 0.95), 0.3)),
        ("batch", lambda: ladder(SIGNATURES, batch=2.5)),
        ("batch", lambda: ladder(SIGNATURES, batch=np.nan)),
        ("simulations", lambda: ladder(SIGNATURES, simulations=1e5)),
        ("intersections", lambda: ladder(SIGNATURES, intersections=0.5)),
        ("rng", lambda: ladder(SIGNATURES, rng=0)),
        ("rng", lambda: theory.tied_error(SIGNATURES, None)),
        ("rng", lambda: theory.plug_in_errors(SIGNATURES, np.array([30, 30, 30]), 2, 0)),
        ("rng", lambda: theory.divergence_radius(100, 2, 0.05, 0)),
        ("signatures", lambda: ladder("signatures.npz")),
        ("signatures", lambda: Rule(theory.Gaussians(MEANS, COVARIANCES))),
        ("query law", lambda: ladder(SIGNATURES, SIGNATURES)),
        ("query task", lambda: a_law(task=np.array([0, 1, np.nan]))),
        ("query task", lambda: a_law(task=np.array([0, 1, 1.5]))),
        ("query cluster", lambda: a_law(cluster=np.array(["a", "b", "c"]))),
        ("task_weights", lambda: well_specified(SIGNATURES, [1.0])),
        ("task_weights", lambda: well_specified(SIGNATURES, [0.5, 0.5, 0.5])),
        ("task_weights", lambda: well_specified(SIGNATURES, 0.5)),
        ("bases", lambda: theory.batch_bound([], 2)),
        ("batch", lambda: theory.batch_bound([-0.5], 1.5)),
        ("n", lambda: theory.conformal_confidence(np.nan, 0.1, 0.05)),
        ("n", lambda: theory.conformal_confidence(10.5, 0.1, 0.05)),
        ("alpha", lambda: theory.queries_needed(0.0)),
        ("alpha", lambda: theory.queries_needed(np.nan, None)),
        ("confidence", lambda: theory.queries_needed(0.1, 1.5)),
        ("predicted", lambda: theory.misfit_floor(0.1, np.nan)),
        ("measured_low", lambda: theory.misfit_floor(2.0, 0.1)),
        ("g", lambda: QuadraticLaw.of([1, 2], [1, 2, 3])),
        ("w", lambda: QuadraticLaw.of(np.ones((2, 2, 2)))),
        ("w", lambda: QuadraticLaw.of("a")),
        ("s", lambda: QuadraticLaw.of([1.0], s=-1.0)),
        ("names", lambda: Signatures(MEANS, COVARIANCES, TASK, names=np.array(["a", "a"]))),
    ],
)
def test_a_bad_argument_is_named(argument, call):
    with pytest.raises(InputError) as refused:
        call()
    assert refused.value.argument == argument


def test_what_looks_like_a_mistake_and_is_none_is_taken():
    assert Signatures(MEANS, COVARIANCES, TASK, names=np.array(["b", "a"])).names == ("b", "a")
    assert ladder(SIGNATURES, simulations=0, held_out=HeldOut([1, 2, 0], [10, 10, 0])).overall["L8"].estimate == 3 / 20
    assert well_specified(SIGNATURES, [3, 1]).weights == pytest.approx([0.75, 0.125, 0.125])
    assert theory.batch_bound([-0.5, -1.0], 4) == theory.batch_bound(np.array([-0.5, -1.0]), 4)
    assert certificate(np.int64(1), np.int32(10), 0.95) == certificate(1, 10, 0.95)


def test_the_stranger_among_a_laws_tasks_is_told():
    with pytest.raises(InputError, match="holds task -1"):
        ladder(SIGNATURES, a_law(task=np.array([-1, 0, 1])))
