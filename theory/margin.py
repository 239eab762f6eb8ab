"""From signatures, a rule and a query law to the laws of all margins (theory/README.md, pairs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dlauum

from theory.errors import InputError
from theory.mixture import QueryLaw, Rule
from theory.quadratic import QuadraticLaw

# Bytes of dense forms that are decomposed at once.
_CHUNK_BYTES = 256 * 2**20
# Greatest relative error of a squared distance that bounds are computed from.
LEAST_ACCURACY = 1e-6
# Dimension from which a call per component to a triangular routine is measured to cost less than full products.
_TRIANGULAR_FROM = 256


@dataclass(frozen=True)
class Margins:
    """Laws of the margins of every (query component, wrong component) pair.

    A query of component c errs only if, for some wrong component s of task i, ``score_s(v_i) - slack_i <= score_t(u)``
    for *every* true component t (the slack is that of the rule; 0 but for "mixture"); so the pair with any one fixed
    reference t bounds it. The reference is the component of least expected score under c, which depends on the laws alone.

    Attributes
    ----------
    component, wrong : (P,) int arrays
        Query component and wrong signature component of each pair.
    reference : (C,) int array
        Reference component of each query component.
    margin : QuadraticLaw
        ``M = score_s(v_i) - slack_i - score_t(u)`` of each pair; an error needs ``M <= 0``. Joint law: level A3 or A4.
    own : QuadraticLaw
        ``score_t(u)`` of each query component (marginal law: level A2).
    other : QuadraticLaw
        ``score_s(v_i) - slack_i`` of each pair (marginal law: level A2).
    slack : (P,) array
        ``slack_i`` of each pair.
    single : (C,) bool array
        Whether the true task has one component only, so that ``M + slack_i <= 0`` for a pair *implies* an error.
    rounding : (P,) array, or 0
        How far rounding may have moved each margin. Margins and wrong scores are lowered, and own scores raised, by their part of it, so
        that what is said of them from above holds in exact arithmetic, near ties included.
    """

    component: Int[np.ndarray, " P"]
    wrong: Int[np.ndarray, " P"]
    reference: Int[np.ndarray, " C"]
    margin: QuadraticLaw
    own: QuadraticLaw
    other: QuadraticLaw
    slack: Float[np.ndarray, " P"]
    single: Bool[np.ndarray, " C"]
    rounding: Float[np.ndarray, " P"] | float = 0.0

    @property
    def edges(self) -> Int[np.ndarray, " C1"]:
        """Where each query component's pairs begin, and the number of pairs at the end."""
        return np.searchsorted(self.component, np.arange(len(self.reference) + 1))


def margins(rule: Rule, law: QueryLaw, advance: Callable[[int], None] | None = None) -> Margins:
    """Laws of all margins of a rule under a query law.

    Parameters
    ----------
    rule : Rule
    law : QueryLaw
        In one shared space, in one space per task, or in a common one and one per task.
    advance : callable, optional
        Told the number of query components just done.

    Raises
    ------
    InputError
        If the law's dimension, number of spaces or task numbers do not fit the signatures, or a covariance is too ill-conditioned.
    """
    signatures = rule.signatures
    if not isinstance(law, QueryLaw):
        raise InputError("query law", f"is a {type(law).__name__}; give a QueryLaw, such as well_specified(signatures)")
    C, S, d = law.means.shape
    views = law_views(rule, law)
    if law.task.min() < 0 or law.task.max() >= signatures.tasks:
        stranger = int(law.task.min()) if law.task.min() < 0 else int(law.task.max())
        raise InputError("query task", f"holds task {stranger}; signatures know 0 to {signatures.tasks - 1}")
    known = accuracy(rule)
    reference = np.empty(C, dtype=np.int64)
    own, other, margin, component, wrong, rounding = [], [], [], [], [], []
    for c in range(C):
        k = int(law.task[c])
        mine = signatures.own(k)
        if S == 1:
            factor = law.factors[c]
            u_forms = score_forms(rule, mine, None, law.means[c, 0], factor)
            t = int(np.argmin(_mean(u_forms)))
            u = tuple(part[t] for part in u_forms)
            foes = signatures.wrong(k)
            v_forms = score_forms(rule, foes, None, law.means[c, 0], factor)
            unsure_u, unsure = score_rounding(rule, known, u_forms, mine)[t], score_rounding(rule, known, v_forms, foes)
            other.append(_laws(v_forms).shifted(-unsure))
            margin.append(_laws((v_forms[0] - u[0], v_forms[1] - u[1], v_forms[2] - u[2])).shifted(-unsure - unsure_u))
            rounding.append(unsure + unsure_u)
            component.append(np.full(foes.size, c))
            wrong.append(foes)
        else:
            rows_k, mean = stacked_rows(views[k], d), law.means[c].ravel()
            factor_u = np.linalg.cholesky(law.covariances[c][np.ix_(rows_k, rows_k)])
            u_forms = score_forms(rule, mine, k, mean[rows_k], factor_u)
            t = int(np.argmin(_mean(u_forms)))
            u = tuple(part[t] for part in u_forms)
            unsure_u = score_rounding(rule, known, u_forms, mine, k, mean[rows_k])[t]
            for i in range(signatures.tasks):
                if i == k:
                    continue
                rows_i = stacked_rows(views[i], d)
                # Own coordinates first, so that the own score needs them only; coordinates that both tasks see come once.
                pick = np.concatenate([rows_k, np.setdiff1d(rows_i, rows_k)])
                joint = np.linalg.cholesky(law.covariances[c][np.ix_(pick, pick)])
                position = np.empty(S * d, dtype=np.int64)
                position[pick] = np.arange(pick.size)
                foes = signatures.own(i)
                v_joint = score_forms(rule, foes, i, mean[rows_i], joint[position[rows_i]])
                A, b = v_joint[0].copy(), v_joint[1].copy()
                A[:, : rows_k.size, : rows_k.size] -= u[0]
                b[:, : rows_k.size] -= u[1]
                unsure = score_rounding(rule, known, v_joint, foes, i, mean[rows_i])
                margin.append(_laws((A, b, v_joint[2] - u[2])).shifted(-unsure - unsure_u))
                rounding.append(unsure + unsure_u)
                marginal = np.linalg.cholesky(law.covariances[c][np.ix_(rows_i, rows_i)])
                other.append(_laws(score_forms(rule, foes, i, mean[rows_i], marginal)).shifted(-unsure))
                component.append(np.full(foes.size, c))
                wrong.append(foes)
        reference[c] = mine[t]
        own.append(_laws(tuple(part[None] for part in u)).shifted(unsure_u))
        if advance is not None:
            advance(1)
    sizes = np.bincount(signatures.task)
    foes = np.concatenate(wrong)
    slack = rule.slack[signatures.task[foes]]
    return Margins(
        component=np.concatenate(component),
        wrong=foes,
        reference=reference,
        margin=_join(margin).shifted(-slack),
        own=_join(own),
        other=_join(other).shifted(-slack),
        slack=slack,
        single=sizes[law.task] == 1,
        rounding=np.concatenate(rounding),
    )


def accuracy(rule: Rule) -> float:
    """Relative error that rounding may leave in the squared distances of a rule, the worst over its Gaussians.

    Raises
    ------
    InputError
        If it exceeds 1e-6: a margin that is a difference of such distances, and a probability that depends on it, would be a guess.
    """
    worst = 0.0
    for argument, gaussians in (("covariances", rule.signatures.gaussians), ("background covariances", rule.background)):
        if gaussians is None:
            continue
        k = int(np.argmax(gaussians.accuracies))
        if gaussians.accuracies[k] > LEAST_ACCURACY:
            raise InputError(
                f"{argument}[{k}]",
                f"is so ill-conditioned that rounding may change its distances by {gaussians.accuracies[k]:.1g} of themselves, and no "
                "bound could be relied on; shrink it, or project to fewer dimensions",
            )
        worst = max(worst, float(gaussians.accuracies[k]))
    return worst


def outwards(log_p: Float[np.ndarray, "*n"] | float, known: Float[np.ndarray, "*n"] | float, dimension: int) -> Float[np.ndarray, "*n"]:
    """Logs of upper bounds, raised by what rounding in the factors of the covariances may have done to them.

    Distances that are known to a relative error move an exponent by as much of itself, and by as much of the degrees of freedom. From 0 on
    a bound says nothing, and stays.
    """
    log_p = np.asarray(log_p, dtype=np.float64)
    return np.where(log_p < 0, log_p + 4 * known * (np.abs(log_p) + dimension), log_p)


def law_views(rule: Rule, law: QueryLaw) -> Int[np.ndarray, "m V"]:
    """The spaces of a law that each task sees (`Rule.views`).

    Raises
    ------
    InputError
        If they do not fit the signatures.
    """
    try:
        return rule.views(*law.means.shape[1:])
    except InputError as error:
        raise InputError("query law", f"{error.argument} {error.problem}") from None


def stacked_rows(spaces: Int[np.ndarray, " V"], d: int) -> Int[np.ndarray, " Vd"]:
    """Where the coordinates of some spaces of dimension d lie among those of all spaces, stacked."""
    return (spaces[:, None] * d + np.arange(d)).ravel()


def form_rounding(forms: Forms, known: Float[np.ndarray, " n"] | float) -> Float[np.ndarray, " n"]:
    """How far rounding may move forms where z is likely to lie, whose coefficients are known to a relative error."""
    A, b, c = forms
    trace = np.abs(np.einsum("nii->ni", A)).sum(axis=1)
    return 4 * known * (trace + np.abs(c) + np.sqrt(2 * (A**2).sum(axis=(1, 2)) + (b**2).sum(axis=1)))


def score_rounding(
    rule: Rule,
    known: Float[np.ndarray, " n"] | float,
    forms: Forms,
    components: np.ndarray,
    space: int | None = None,
    mean: np.ndarray | None = None,
) -> Float[np.ndarray, " n"]:
    """How far rounding may move scores where a query is likely to lie: so much of the largest terms that they are sums of.

    Parameters
    ----------
    rule : Rule
    known : float or (n,) array
        Relative error of the squared distances (`accuracy`).
    forms : tuple
        The scores, from `score_forms`.
    components : (n,) int array
    space : int, optional
        The space whose background was taken off them, if there is one.
    mean : (d,) array, optional
        The query's mean in that space.
    """
    out = form_rounding(forms, known) + 8 * known * np.abs(rule.offsets[components])
    if rule.background is not None and space is not None and mean is not None:
        # Distances to the background are of the order of those to a component, and were taken off them.
        apart = rule.background.whiteners[space] @ (mean - rule.background.means[space])
        out = out + 8 * known * (apart @ apart + abs(rule.background.log_dets[space]) + 2 * rule.signatures.dimension)
    return out


Forms = tuple[Float[np.ndarray, "n D D"], Float[np.ndarray, "n D"], Float[np.ndarray, " n"]]


def score_forms(
    rule: Rule,
    components: np.ndarray,
    space: int | None,
    mean: np.ndarray,
    factor: np.ndarray,
    whiteners: Float[np.ndarray, "n d d"] | None = None,
) -> Forms:
    """Scores of some components as quadratic forms ``z'Az + b'z + c``, for a query ``mean + factor z``, factor (d, D).

    The query is seen in the embedding space of one task, whose background counts; None stands for one shared space. Where the
    whiteners of all components would be too much to hold, those of the given ones can be handed in.
    """
    signatures = rule.signatures
    held, rows = (signatures.gaussians.whiteners, components) if whiteners is None else (whiteners, np.arange(len(components)))
    a, pulled, A = _grams(held, rows, mean - signatures.means[components], factor)
    b = 2 * pulled
    c = np.einsum("ni,ni->n", a, a)
    if rule.kind == "angular":
        scales = rule.scales[components]
        A, b, c = scales[:, None, None] * A, scales[:, None] * b, scales * c
    c = c + rule.offsets[components]
    if rule.background is not None and space is not None:
        whitener = rule.background.whiteners[space]
        F0 = whitener @ factor
        a0 = whitener @ (mean - rule.background.means[space])
        A = A - F0.T @ F0
        b = b - 2 * F0.T @ a0
        c = c - a0 @ a0 - rule.background.log_dets[space]
    return A, b, c


def _grams(
    whiteners: Float[np.ndarray, "K d d"], components: np.ndarray, apart: Float[np.ndarray, "n d"], factor: Float[np.ndarray, "d D"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n D"], Float[np.ndarray, "n D D"]]:
    """``a = L_s^-1 apart``, ``F'a`` and ``F'F`` with ``F = L_s^-1 factor``, for some components s.

    Triangular products where that saves time (a sixth of the flops); there no more than two matrices are in work at once, because
    fetching fresh memory would take as long as the products.
    """
    n, d = apart.shape
    if factor.shape[1] != d or d < _TRIANGULAR_FROM or np.triu(factor, 1).any():
        chosen = whiteners[components]
        F, a = chosen @ factor, (chosen @ apart[:, :, None])[:, :, 0]
        return a, (a[:, None, :] @ F)[:, 0], np.swapaxes(F, -1, -2) @ F
    a, pulled, A = np.empty((n, d)), np.empty((n, d)), np.empty((n, d, d))
    for s, k in enumerate(components):
        a[s] = whiteners[k] @ apart[s]
        # Fortran routines read the transpose: (L_s^-1 factor)' = factor' L_s^-T, upper triangular throughout.
        product = dtrmm(1.0, whiteners[k].T, factor.T, side=1, lower=0)
        pulled[s] = product @ a[s]
        gram, _ = dlauum(product, lower=0, overwrite_c=1)
        # Below the diagonal it is zero, so that both halves are one sum, which counts the diagonal twice.
        np.add(gram.T, gram, out=A[s])
        A[s].flat[:: d + 1] /= 2
    return a, pulled, A


def _mean(forms: Forms) -> np.ndarray:
    return forms[2] + np.trace(forms[0], axis1=-2, axis2=-1)


def _laws(forms: Forms) -> QuadraticLaw:
    A, b, c = forms
    rows = max(1, _CHUNK_BYTES // (8 * A.shape[-1] ** 2))
    parts = [QuadraticLaw.of_forms(A[j : j + rows], b[j : j + rows], c[j : j + rows]) for j in range(0, A.shape[0], rows)]
    return parts[0] if len(parts) == 1 else _join(parts)


def _join(laws: list[QuadraticLaw]) -> QuadraticLaw:
    return QuadraticLaw(*(np.concatenate([getattr(law, name) for law in laws]) for name in ("w", "g", "s", "c")))
