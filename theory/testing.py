"""A kit for testing bounds: hypothesis strategies for retrieval settings, and one contract that every bound must keep.

A worked example: theory/README.md, Adding a bound.

A new bound inherits the whole suite by being listed, as scikit-learn's estimators do with ``parametrize_with_checks``::

    from theory.testing import Candidate, parametrize_with_contract

    @parametrize_with_contract([Candidate("mine", my_bound)])
    def test_contract(candidate, clause):
        clause(candidate)

where ``my_bound(rule, law)`` returns a `theory.Bound` on the overall error. Needs hypothesis and pytest (the extra ``test``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.linalg import block_diag
from scipy.special import logsumexp

from theory.bound import LOG_IMPOSSIBLE, Bound, Direction
from theory.errors import InputError
from theory.gaussians import Gaussians
from theory.ladder import RUNGS, Ball, ladder
from theory.margin import margins, stacked_rows
from theory.mixture import QueryLaw, Rule, RuleKind, well_specified
from theory.quadratic import QuadraticLaw
from theory.robust import Student, log_scale_mixture
from theory.signatures import Signatures

# Failure probability of one comparison with a simulation: small beside one over all examples of a thorough run.
_RISK = 1e-9
_DRAWS = 4000
# Every clause of every candidate draws the same settings, and their ladders are kept rather than computed again.
_SEED = 20263
_KEPT = 8192

Spaces = Literal["shared", "cross", "background", "common"]


def covariance(rng: np.random.Generator, d: int, condition: float = 20.0) -> Float[np.ndarray, "d d"]:
    """A random covariance of unit scale: random axes, log-uniform variances, the stated condition number (exactly)."""
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    exponents = rng.uniform(size=d)
    if d > 1:
        exponents[:2] = (0.0, 1.0)
    root = axes * np.exp(0.5 * (exponents - 0.5) * np.log(condition))
    return root @ root.T


@dataclass(frozen=True)
class Setting:
    """A retrieval problem, small enough to print and sufficient to build it again.

    Parameters
    ----------
    seed : int
    d : int
        Dimension of a space.
    components : tuple of int
        Number of components of each task.
    separation : float
        Scale of the means, in units of the components' spread.
    kind : {"max", "mixture", "angular"}
    spaces : {"shared", "cross", "background", "common"}
        One space; one per task with a joint law; the same with a background; that and a common space, which signatures of dimension 2d
        see first.
    condition : float
        Condition number of the covariances.
    tied : bool
        One covariance for all components.
    weighted : bool
        Unequal weights within tasks.
    """

    seed: int
    d: int
    components: tuple[int, ...]
    separation: float
    kind: RuleKind = "max"
    spaces: Spaces = "shared"
    condition: float = 20.0
    tied: bool = False
    weighted: bool = False

    def build(self) -> tuple[Rule, QueryLaw]:
        """The rule and the query law; the same objects whenever the setting is the same."""
        return _build(self)


@lru_cache(maxsize=_KEPT)
def _build(setting: Setting) -> tuple[Rule, QueryLaw]:
    rng = np.random.default_rng(setting.seed)
    task = np.repeat(np.arange(len(setting.components)), setting.components)
    K, m, common = task.size, len(setting.components), setting.spaces == "common"
    d = 2 * setting.d if common else setting.d
    means = setting.separation * rng.standard_normal((K, d))
    covariances = np.stack([covariance(rng, d, setting.condition) for _ in range(K)])
    if setting.tied:
        covariances = np.repeat(covariances[:1], K, axis=0)
    weights = rng.uniform(0.2, 1.0, size=K) if setting.weighted else None
    signatures = Signatures(means, covariances, task, weights)
    if setting.spaces == "shared":
        return Rule(signatures, kind=setting.kind), well_specified(signatures)
    background = None
    if setting.spaces in ("background", "common"):
        spread = np.stack([4 * covariance(rng, d) for _ in range(m)])
        background = Gaussians(rng.standard_normal((m, d)), spread)
    rule = Rule(signatures, background, setting.kind)
    S = m + 1 if common else m
    nu = setting.separation * rng.standard_normal((K, S, setting.d))
    near = (means + 0.2 * rng.standard_normal((K, d))).reshape(K, -1, setting.d)
    for t, seen in enumerate(rule.views(S, setting.d)[task]):
        nu[t, seen] = near[t]
    joint = np.stack([covariance(rng, S * setting.d) for _ in range(K)])
    return rule, QueryLaw(nu, joint, task, np.arange(K), rng.uniform(0.5, 1.5, size=K))


_SIZES = [(1, 1), (1, 1, 1), (2, 1), (2, 2), (1, 2, 3), (1, 1, 1, 1, 1)]


@st.composite
def settings(draw: st.DrawFn, spaces: Sequence[Spaces] = ("shared", "cross", "background", "common")) -> Setting:
    """Ordinary settings: dimension 1 to 6, two to five tasks, errors from certain to rare."""
    where = draw(st.sampled_from(list(spaces)))
    kinds: list[RuleKind] = ["max", "mixture"] if where in ("background", "common") else ["max", "mixture", "angular"]
    return Setting(
        seed=draw(st.integers(0, 2**32 - 1)),
        d=draw(st.integers(1, 6)),
        components=draw(st.sampled_from(_SIZES)),
        separation=draw(st.sampled_from([0.3, 1.0, 3.0, 10.0])),
        kind=draw(st.sampled_from(kinds)),
        spaces=where,
        tied=draw(st.booleans()),
        weighted=draw(st.booleans()),
    )


@st.composite
def extreme_settings(draw: st.DrawFn) -> Setting:
    """Settings at the edge of the floats: d = 1 and large, separations from 0 to 1e8, condition numbers up to 1e12."""
    return Setting(
        seed=draw(st.integers(0, 2**32 - 1)),
        d=draw(st.sampled_from([1, 2, 3, 16])),
        components=draw(st.sampled_from([(1, 1), (2, 1)])),
        separation=draw(st.sampled_from([0.0, 1e-8, 1.0, 1e4, 1e8])),
        kind=draw(st.sampled_from(["max", "mixture", "angular"])),
        condition=draw(st.sampled_from([1.0, 1e6, 1e12])),
        tied=draw(st.booleans()),
    )


@st.composite
def covariances(draw: st.DrawFn, d: st.SearchStrategy[int] = st.integers(1, 8)) -> Float[np.ndarray, "d d"]:  # noqa: B008
    """Covariances of condition number 1 to 1e12."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return covariance(rng, draw(d), draw(st.sampled_from([1.0, 20.0, 1e6, 1e12])))


@st.composite
def singular_covariances(draw: st.DrawFn, d: st.SearchStrategy[int] = st.integers(2, 8)) -> Float[np.ndarray, "d d"]:  # noqa: B008
    """Matrices that are no covariances to work with: of deficient rank, indefinite, or singular to working precision."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(d)
    axes = np.linalg.qr(rng.standard_normal((size, size)))[0]
    variances = np.ones(size)
    variances[0] = draw(st.sampled_from([0.0, -1e-3, 1e-17]))
    out = (axes * variances) @ axes.T
    return (out + out.T) / 2


@st.composite
def quadratic_laws(draw: st.DrawFn, batch: int = 3) -> QuadraticLaw:
    """Batches of laws of quadratic forms: definite and indefinite, with and without a normal part, at three scales."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    r = draw(st.integers(1, 12))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    w = rng.normal(size=(batch, r)) + draw(st.sampled_from([-0.5, 0.0, 1.0, 3.0]))
    s = abs(rng.normal(size=batch)) * draw(st.sampled_from([0.0, 1.0]))
    c = rng.normal(size=batch) * draw(st.sampled_from([0, 3, 30]))
    return QuadraticLaw.of(w * scale, rng.normal(size=(batch, r)) * scale, s * scale, c * scale)


@dataclass(frozen=True)
class Candidate:
    """A bound on the overall retrieval error, and what its author has proved of it.

    Parameters
    ----------
    name : str
    compute : callable
        From a `Rule` and a `QueryLaw` to a `Bound`.
    covers : callable, optional
        Whether the bound speaks about a setting; those it does not cover are skipped.
    affine : bool
        Unchanged by one invertible affine map of all spaces.
    monotone : bool
        Does not grow when tied, well-specified components in one space move apart.
    at_least : tuple of str
        Rungs of the ladder that it is proved never to lie below.
    """

    name: str
    compute: Callable[[Rule, QueryLaw], Bound]
    covers: Callable[[Setting], bool] = lambda setting: True
    affine: bool = True
    monotone: bool = True
    at_least: tuple[str, ...] = ()

    def of(self, setting: Setting) -> Bound:
        """The bound in a setting."""
        return self.compute(*setting.build())


# Laws and rules as keys: their arrays cannot be hashed, but `_build` returns the same objects for the same setting.
_known: dict[tuple[int, int], tuple[Rule, QueryLaw, dict[str, Bound]]] = {}


def _rungs(rule: Rule, law: QueryLaw) -> dict[str, Bound]:
    key = (id(rule), id(law))
    if key not in _known:
        if len(_known) >= _KEPT:
            _known.clear()
        found = ladder(rule, law, simulations=1000, confidence=1 - 1e-6, intersections=1, ball=Ball("kl", 0.05), units="overall")
        # Holding on to rule and law keeps their identities from being used again.
        _known[key] = (rule, law, found.overall)
    return _known[key][2]


def _rung(name: str, rule: Rule, law: QueryLaw) -> Bound:
    return _rungs(rule, law)[name]


def _student(rule: Rule, law: QueryLaw) -> Bound:
    found = margins(rule, law)
    log_p, _ = log_scale_mixture(found.margin, found.component, len(law), Student(7.0))
    return Bound("L11", law.level, float(logsumexp(np.minimum(log_p, 0.0), b=law.weights)))


_AT_LEAST = {
    "L1": ("L1b", "L3", "L5", "L5b"),
    "L1b": ("L3", "L5", "L5b"),
    "L2": ("L5b",),
    "L3": ("L5", "L5b"),
    "L5": ("L5b",),
    "L7": ("L5", "L9"),
    "L10": ("L5",),
    "L12": ("L5",),
}


def rungs() -> list[Candidate]:
    """Every rung of the ladder as a candidate (L8, which bounds nothing without samples, is not one)."""
    out = []
    for name in RUNGS:
        if name in ("L8", "L11"):
            continue
        # L6 is a draw: its limit moves by its own noise when the problem is moved.
        exact = name != "L6"
        # L2, which L5b may be, picks its threshold from a grid that moves with the separation, and can jump up by a little.
        steady = exact and name not in ("L2", "L5b")
        out.append(Candidate(name, partial(_rung, name), affine=exact, monotone=steady, at_least=_AT_LEAST.get(name, ())))
    # Each value is a quadrature over ladders; two tasks show all that it has of its own.
    out.append(Candidate("L11", _student, covers=lambda setting: setting.components == (1, 1)))
    return out


def keeps_in_range(candidate: Candidate) -> None:
    """A probability, finite in logarithms, vacuous exactly at one, and the same when asked again."""

    @seed(_SEED)
    @given(settings())
    def clause(setting: Setting) -> None:
        if candidate.covers(setting):
            bound = candidate.of(setting)
            assert bound.direction is Direction.UPPER
            assert 0 <= bound.value <= 1 and LOG_IMPOSSIBLE <= bound.log_value <= 0
            assert bound.vacuous == (bound.value >= 1)
            assert bound.log_lower is None or bound.log_lower <= bound.log_value
            assert candidate.of(setting).log_formula == bound.log_formula

    clause()


def keeps_sound(candidate: Candidate) -> None:
    """Never below the error of the law that it assumes, beyond what the noise of a simulation explains."""

    @seed(_SEED)
    @given(settings())
    def clause(setting: Setting) -> None:
        if candidate.covers(setting):
            low, high = _simulated(setting, 7.0 if candidate.name == "L11" else None)
            bound = candidate.of(setting)
            assert bound.value >= low
            if bound.log_lower is not None and candidate.name != "L6":
                assert math.exp(bound.log_lower) <= high

    clause()


def keeps_order(candidate: Candidate) -> None:
    """Not below the rungs that it is proved to dominate."""
    if not candidate.at_least:
        pytest.skip("no order is proved")

    @seed(_SEED)
    @given(settings())
    def clause(setting: Setting) -> None:
        if candidate.covers(setting):
            rungs_ = _rungs(*setting.build())
            for other in candidate.at_least:
                # Each side may be off by the accuracy of an exact tail.
                assert candidate.of(setting).log_value >= rungs_[other].log_value - 1e-8, other

    clause()


def keeps_under_permutation(candidate: Candidate) -> None:
    """Unchanged when the tasks are numbered otherwise."""
    if not candidate.affine:
        pytest.skip("a draw moves by its own noise")

    @seed(_SEED)
    @given(settings())
    def clause(setting: Setting) -> None:
        if candidate.covers(setting):
            moved = candidate.compute(*_permuted(setting))
            assert moved.log_value == pytest.approx(candidate.of(setting).log_value, rel=1e-6, abs=1e-6)

    clause()


def keeps_under_affine_maps(candidate: Candidate) -> None:
    """Unchanged under one invertible affine map of all spaces, and under one map for each with a background."""
    if not candidate.affine:
        pytest.skip("not invariant")

    @seed(_SEED)
    @given(settings())
    def clause(setting: Setting) -> None:
        if candidate.covers(setting):
            moved = candidate.compute(*_mapped(setting))
            assert moved.log_value == pytest.approx(candidate.of(setting).log_value, rel=1e-5, abs=1e-5)

    clause()


def keeps_monotone(candidate: Candidate) -> None:
    """Does not grow when tied, well-specified components in one space move apart by half as much again."""
    if not candidate.monotone:
        pytest.skip("not claimed")

    @seed(_SEED)
    @given(settings(spaces=("shared",)))
    def clause(setting: Setting) -> None:
        near = replace(setting, tied=True, weighted=False, kind="max", components=(1,) * len(setting.components))
        if candidate.covers(near):
            far = replace(near, separation=1.5 * near.separation)
            assert candidate.of(far).log_value <= candidate.of(near).log_value + 1e-9

    clause()


def keeps_finite_at_extremes(candidate: Candidate) -> None:
    """Neither NaN, nor a warning, nor a value below the exact error, at the edge of the floats; or a refusal that says why."""

    @seed(_SEED)
    @given(extreme_settings())
    def clause(setting: Setting) -> None:
        if candidate.covers(setting):
            try:
                bound = candidate.of(setting)
            except InputError as error:
                assert setting.condition >= 1e9 and "ill-conditioned" in error.problem
                return
            assert 0 <= bound.value <= 1 and LOG_IMPOSSIBLE <= bound.log_value <= 0
            if setting.separation == 0.0 and setting.tied and candidate.name != "L6":
                # Identical components: an error is as likely as not at best.
                assert bound.value >= 0.5

    clause()


def refuses_what_does_not_fit(candidate: Candidate) -> None:
    """A law of another dimension, of another number of spaces, or of unknown tasks is refused by name."""

    @seed(_SEED)
    @given(settings(spaces=("shared",)))
    @hypothesis_settings(max_examples=5)
    def clause(setting: Setting) -> None:
        rule, law = setting.build()
        wider = replace(setting, d=setting.d + 1).build()[1]
        with pytest.raises(InputError, match="dimension"):
            candidate.compute(rule, wider)
        d, m = setting.d, rule.signatures.tasks
        spaces = m + 1
        means, covariances_ = np.zeros((1, spaces, d)), np.eye(spaces * d)[None]
        with pytest.raises(InputError, match="spaces"):
            candidate.compute(rule, QueryLaw(means, covariances_, np.array([0]), np.array([0]), np.ones(1)))
        with pytest.raises(InputError, match="task"):
            candidate.compute(rule, replace(law, task=np.full(len(law), m)))

    clause()


CLAUSES = (
    keeps_in_range,
    keeps_sound,
    keeps_order,
    keeps_under_permutation,
    keeps_under_affine_maps,
    keeps_monotone,
    keeps_finite_at_extremes,
    refuses_what_does_not_fit,
)


def parametrize_with_contract(candidates: Sequence[Candidate]) -> Any:
    """Parametrise a test of arguments ``(candidate, clause)`` over all clauses of all candidates."""
    pairs = [pytest.param(c, clause, id=f"{c.name}-{clause.__name__}") for clause in CLAUSES for c in candidates]
    return pytest.mark.parametrize(("candidate", "clause"), pairs)


@lru_cache(maxsize=_KEPT)
def _simulated(setting: Setting, dof: float | None) -> tuple[float, float]:
    """Clopper-Pearson limits of the overall error, drawn directly from the law (or from its Student version)."""
    rule, law = setting.build()
    rng = np.random.default_rng(setting.seed + 1)
    x, label = law.sample(_DRAWS, rng)
    if dof is not None:
        scale = np.sqrt(dof / rng.chisquare(dof, size=_DRAWS))
        x = law.means[label] + scale[:, None, None] * (x - law.means[label])
    errors = int((rule.retrieve(x) != law.task[label]).sum())
    from scipy.stats import beta

    low = float(beta.ppf(_RISK, errors, _DRAWS - errors + 1)) if errors else 0.0
    high = float(beta.isf(_RISK, errors + 1, _DRAWS - errors)) if errors < _DRAWS else 1.0
    return low, high


@lru_cache(maxsize=_KEPT)
def _permuted(setting: Setting) -> tuple[Rule, QueryLaw]:
    rule, law = setting.build()
    return permuted(rule, law, np.random.default_rng(setting.seed).permutation(rule.signatures.tasks))


@lru_cache(maxsize=_KEPT)
def _mapped(setting: Setting) -> tuple[Rule, QueryLaw]:
    return mapped(*setting.build(), np.random.default_rng(setting.seed))


def permuted(rule: Rule, law: QueryLaw, order: np.ndarray) -> tuple[Rule, QueryLaw]:
    """The same problem with the tasks renumbered: task ``order[j]`` becomes j."""
    signatures, (_, S, d) = rule.signatures, law.means.shape
    rank = np.argsort(order)
    moved = Signatures(signatures.means, signatures.covariances, rank[signatures.task], signatures.weights)
    background = rule.background and Gaussians(rule.background.means[order], rule.background.covariances[order])
    means, covariances_ = law.means, law.covariances
    if not law.shared:
        spaces = order if S == len(order) else np.append(0, order + 1)
        rows = stacked_rows(spaces, d)
        means, covariances_ = means[:, spaces], covariances_[:, rows][:, :, rows]
    return Rule(moved, background, rule.kind), QueryLaw(means, covariances_, rank[law.task], law.cluster, law.weights)


def mapped(rule: Rule, law: QueryLaw, rng: np.random.Generator) -> tuple[Rule, QueryLaw]:
    """The same problem after an affine map: one for all tasks' spaces, or one for each if there is a background."""
    signatures, (_, S, d) = rule.signatures, law.means.shape
    views = rule.views(S, d)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.cholesky(covariance(rng, d, 9.0)), 3 * rng.standard_normal((d,))

    one = draw()
    maps = [draw() if rule.background is not None else one for _ in range(S)]
    linear, shift = block_diag(*(a for a, _ in maps)), np.concatenate([b for _, b in maps])

    def moved(means: np.ndarray, covariances_: np.ndarray, task: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = [stacked_rows(views[k], d) for k in task]
        own = np.stack([linear[np.ix_(r, r)] for r in rows])
        return np.einsum("kij,kj->ki", own, means) + shift[np.stack(rows)], own @ covariances_ @ np.swapaxes(own, 1, 2)

    new = Signatures(*moved(signatures.means, signatures.covariances, signatures.task), signatures.task, signatures.weights)
    background = rule.background and Gaussians(*moved(rule.background.means, rule.background.covariances, np.arange(signatures.tasks)))
    means = (law.means.reshape(len(law), -1) @ linear.T + shift).reshape(law.means.shape)
    joint = linear @ law.covariances @ linear.T
    return Rule(new, background, rule.kind), QueryLaw(means, joint, law.task, law.cluster, law.weights)
