"""Proofs of the rungs L1 to L12 and of the floor that inverts L12."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Eq, Expr, Interval, Rational, Symbol, erfc, exp, log, oo, pi, sqrt

from theory.symbolic.formulas import expression, formula, greatest_t
from theory.symbolic.lemmas import (
    DIAGONAL,
    MARKOV,
    best_shift,
    cumulants,
    inverse,
    legendre,
    log_expectation,
    positive_root,
    smaller_weight,
)
from theory.symbolic.prover import Derivation, Step, identity, inequality, limit, manifest, positive
from theory.symbolic.symbols import (
    B_,
    HALF,
    N_,
    RIGHT,
    TO_HALF,
    V_,
    Delta_,
    a_,
    b_,
    beta_,
    c_,
    d_,
    delta_,
    eps_,
    g_,
    kappa_,
    l_,
    mean_,
    n_,
    nu_,
    p_,
    q_,
    r_,
    shift_,
    sigma_,
    t_,
    w_,
    w_minus_,
    x_,
    y_,
    z_,
)

_SLOPE = Symbol("b", positive=True)


def _prove_l1() -> Derivation:
    a = 2 * sqrt(d_) + sqrt(2 * V_)
    gap = d_ * delta_ + kappa_
    # On the scale of energies: the wrong score's T2 threshold less the own score's T1 threshold.
    between = expression("T2", mean=d_ * (1 + delta_)) + kappa_ - expression("T1")
    steps = [
        identity("T2's threshold lies above T1's by the gap less a sqrt(t) + 2t", between, gap - a * sqrt(t_) - 2 * t_),
        *inverse(expression("L1-exponent"), Delta_, a_, sympy.Integer(2)),
        identity("L1 is log N less this exponent", expression("L1"), log(N_) - expression("L1-exponent", a=a, Delta=gap)),
    ]
    return steps, "T1 and T2; the union bound over the own and N - 1 wrong scores, split at one threshold"


def _prove_l1_measured() -> Derivation:
    own_mean, own_V, own_w, wrong_mean, wrong_V, _ = formula("L1-measured").symbols.values()
    above, below = expression("T3", mean=own_mean, V=own_V, w=own_w), expression("T2", mean=wrong_mean, V=wrong_V)
    gap, a = wrong_mean - own_mean, sqrt(2 * own_V) + sqrt(2 * wrong_V)
    exponent = greatest_t(Delta_, a_, _SLOPE)
    solved = exponent.xreplace({Delta_: gap, a_: a, _SLOPE: 2 * own_w})
    steps = [
        identity("T2's threshold lies above T3's by the gap less a sqrt(t) + 2 w_k t", below - above, gap - a * sqrt(t_) - 2 * own_w * t_),
        *inverse(exponent, Delta_, a_, _SLOPE),
        identity("log N less this exponent", expression("L1-measured"), log(N_) - solved),
    ]
    return steps, "T2 and T3; the union bound over the own and N - 1 wrong scores, split at one threshold"


def _prove_l1_exponent() -> Derivation:
    grows = sympy.diff((sqrt(a_**2 + 8 * y_) - a_) / 4, y_)
    solved = inverse(expression("L1-exponent"), Delta_, a_, sympy.Integer(2))
    return [*solved, inequality("the exponent's root grows with the gap", grows, 0, y_, RIGHT)], ""


def _prove_l1_delta() -> Derivation:
    condition = Eq(d_ * delta_ + kappa_, 2 * sqrt(d_ * t_) + 2 * t_ + sqrt(2 * V_ * t_))
    (needed,) = sympy.solve(condition, delta_)
    (level,) = sympy.solve(Eq(N_ * exp(-t_), eps_), t_)
    steps = [
        identity("L1's condition at equality, solved for delta", needed, expression("L1-delta")),
        identity("N exp(-t) is eps at t = log(N/eps)", level, log(N_ / eps_)),
    ]
    return steps, "L1"


def _prove_l1_delta_isotropic() -> Derivation:
    e = Symbol("epsilon", positive=True)
    root = Symbol("y", real=True)
    square = d_ * delta_
    found_V = expression("V", squared=d_, pulled=square)
    condition = expression("L1-delta", V=found_V, kappa=0, t=e**2 * d_)
    # In y = sqrt(1 + 2 delta) the condition is a quadratic.
    quadratic = (root**2 - 1) / 2 - 2 * e - 2 * e**2 - 2 * e * root
    step, y = positive_root("whose roots have a negative product, so that it holds from the greater on", quadratic, root)
    closed = expression("L1-delta-isotropic", t=e**2 * d_)
    steps = [
        identity(
            "with one covariance, delta is the squared Mahalanobis distance per dimension",
            expression("delta", trace=d_, distance=square),
            delta_,
        ),
        identity("and V = 2d + 4d delta", found_V, 2 * d_ + 4 * d_ * delta_),
        identity(
            "with t = e^2 d and delta = (y^2 - 1)/2 the condition is that a quadratic in y is not negative",
            condition,
            2 * e + 2 * e**2 + 2 * e * sqrt(1 + 2 * delta_),
        ),
        step,
        identity("the separation there", sympy.expand((y**2 - 1) / 2), sympy.expand(closed)),
    ]
    return steps, "L1-delta; kappa = 0 with equal covariances and no weights"


def _prove_l1b() -> Derivation:
    up = log_expectation(-l_ * (y_ * z_**2 + g_ * z_)) + l_ * y_
    down = log_expectation(x_ * z_**2 + b_ * z_) - x_
    solved, threshold = legendre(V_, w_)
    slope = sqrt(2 * V_)
    exponent = -expression("L1b")
    steps = [
        inequality(
            "an eigenvalue w >= 0, T2: log E exp(-l(M - E M)) <= l^2 (2 w^2 + g^2)/2", l_**2 * (2 * y_**2 + g_**2) / 2, up, y_, RIGHT
        ),
        # With x = l |w| and b = -l g.
        inequality("an eigenvalue below 0, T3: <= the same over 1 - 2 l |w|", (2 * x_**2 + b_**2) / 2 / (1 - 2 * x_), down, x_, TO_HALF),
        smaller_weight(),
        inequality("T2's form is below T3's", 1 / (1 - 2 * x_), 1, x_, TO_HALF),
        *solved,
        identity("the margin bound's condition", threshold, slope * sqrt(t_) + 2 * w_ * t_),
        *inverse(exponent.subs(w_minus_, w_), r_, slope, 2 * w_),
        limit("as w vanishes it becomes E M^2/(2V)", ((sqrt(a_**2 + 8 * w_ * r_) - a_) / (4 * w_)) ** 2, w_, 0, r_**2 / a_**2),
        identity("as the form that does not cancel has it at w = 0", exponent.subs(w_minus_, 0), r_**2 / (2 * V_)),
    ]
    return steps, MARKOV


def _prove_l1b_tilt() -> Derivation:
    log_bound = l_**2 * V_ / 2 / (1 - 2 * l_ * w_) - l_ * (sqrt(2 * V_ * t_) + 2 * w_ * t_)
    tilt = expression("L1b-tilt").subs(w_minus_, w_)
    steps = [
        identity("l0 is stationary", sympy.diff(log_bound, l_).subs(l_, tilt), 0),
        identity("and attains -t", log_bound.subs(l_, tilt), -t_),
        manifest("l0 is below 1/(2w)", 1 / (2 * w_) - q_ / (1 + 2 * w_ * q_), 0),
    ]
    return steps, "L1b"


def _prove_l2() -> Derivation:
    (t,) = sympy.solve(Eq(mean_ - c_, sqrt(2 * V_ * t_)), t_)
    gap = Symbol("x", positive=True)
    _, own_mean, own_V, own_w, wrong_mean, wrong_V = formula("L2").symbols.values()
    exponent = greatest_t(Delta_, a_, _SLOPE)
    above = exponent.xreplace({Delta_: c_ - own_mean, a_: sqrt(2 * own_V), _SLOPE: 2 * own_w})
    below = t.xreplace({mean_: wrong_mean, V_: wrong_V})
    steps = [
        *inverse(exponent, Delta_, a_, _SLOPE),
        identity("T2's threshold at c, solved and substituted back", sqrt(2 * V_ * t.subs(mean_, c_ + gap)), gap),
        identity("the sum of both tails", expression("L2"), exp(-above) + exp(-below)),
    ]
    return steps, "T2 and T3; an error needs the own score at or above c, or the wrong one at or below"


def _prove_l3() -> Derivation:
    _, _, v_own, v_wrong = formula("L3").symbols.values()
    ratio = -((shift_ + sqrt(v_own) * z_) ** 2) / (2 * v_wrong) - log(v_wrong) / 2 + z_**2 / 2 + log(v_own) / 2
    constant = shift_**2 / v_wrong + log(v_wrong) - log(v_own)
    margin = expression("T4", l=l_ / 2, w=v_own / v_wrong - 1, g=2 * sqrt(v_own) * shift_ / v_wrong, s=0, c=constant)
    inside = (1 - l_) * v_wrong + l_ * v_own
    steps = [
        identity("log of E (p_wrong/p_own)^l, from the Gaussian integral", log_expectation(l_ * ratio), expression("L3")),
        identity("T4 of the energy margin at l/2 is the same", margin, expression("L3")),
        Step("it is finite for 0 <= l < 1, where l = y/(1 + y)", sympy.Gt(inside, 0), positive(inside.subs(l_, y_ / (1 + y_)))),
    ]
    return steps, f"{MARKOV}; {DIAGONAL}"


def _prove_bhattacharyya() -> Derivation:
    ours = expression("L3-bhattacharyya")
    _, v_own, v_wrong = formula("L3-bhattacharyya").symbols.values()
    both = exp(-(z_**2) / (4 * v_own) - (z_ + shift_) ** 2 / (4 * v_wrong)) / sqrt(2 * pi * sqrt(v_own * v_wrong))
    integral = log(sympy.simplify(sympy.integrate(sympy.expand(both), (z_, -oo, oo))))
    along, across = (expression("L3-bhattacharyya", shift=shift) for shift in (r_, 0))
    isotropic = -(r_**2) / (4 * (v_own + v_wrong)) - d_ * log((v_own + v_wrong) / (2 * sqrt(v_own * v_wrong))) / 2
    variances = sympy.symbols("u1 u2 v1 v2", positive=True)
    shifts = sympy.Matrix(sympy.symbols("D1 D2", real=True))
    own, wrong = sympy.diag(*variances[:2]), sympy.diag(*variances[2:])
    middle = (own + wrong) / 2
    dense = -(shifts.T * middle.inv() * shifts)[0] / 8 - log(middle.det() / sqrt(own.det() * wrong.det())) / 2
    coordinates = [expression("L3-bhattacharyya", shift=shifts[k], v_own=own[k, k], v_wrong=wrong[k, k]) for k in range(2)]
    T = sympy.Matrix(2, 2, sympy.symbols("T11 T12 T21 T22", real=True))
    first, cross, last = sympy.symbols("S11 S12 S22", real=True)
    S = sympy.Matrix([[first, cross], [cross, last]])
    mapped = T * S * T.T
    quadratic = ((T * shifts).T * mapped.adjugate() * (T * shifts))[0] / mapped.det()
    steps = [
        identity("the pairwise Chernoff bound at l = 1/2", expression("L3", l=HALF), ours),
        identity("log of the integral of sqrt(p_own p_wrong), taken by the machine", integral, ours),
        identity("isotropic, any d: one coordinate along D, d - 1 across", along + (d_ - 1) * across, isotropic),
        identity("diagonal, every variance its own (d = 2): the dense formula is the sum", dense, sum(coordinates)),
        identity("determinants under an invertible map (d = 2)", mapped.det(), T.det() ** 2 * S.det()),
        identity("and squared distances do not change", sympy.cancel(quadratic), (shifts.T * S.adjugate() * shifts)[0] / S.det()),
    ]
    return steps, DIAGONAL


def _prove_l4() -> Derivation:
    isotropic = sympy.simplify(sympy.expand_log(expression("L3", v_own=sigma_**2, v_wrong=sigma_**2, shift=r_)))
    (best,) = sympy.solve(sympy.diff(isotropic, l_), l_)
    bound = expression("L4")
    steps = [
        identity("the coordinate along D", isotropic, -l_ * (1 - l_) * r_**2 / (2 * sigma_**2)),
        identity("those across contribute nothing", isotropic.subs(r_, 0), 0),
        inequality("convex in l", sympy.diff(isotropic, l_, 2), 0, l_, Interval.Ropen(0, 1)),
        identity("its infimum is at l = 1/2", best, HALF),
        identity("B independent copies add up", B_ * isotropic.subs(l_, best), bound),
        identity("the exponent is linear in B", sympy.diff(bound, B_) * B_, bound),
    ]
    return steps, MARKOV


def _prove_l5() -> Derivation:
    x = Symbol("x", positive=True)
    # Along D the wrong mean lies r from the query's, and the wrong energy exceeds the own by this.
    margin = ((r_ + sigma_ * z_) ** 2 - (sigma_ * z_) ** 2) / sigma_**2
    log_mgf = log_expectation(l_ * margin)
    below = sympy.simplify(sympy.integrate(exp(-(z_**2) / 2) / sqrt(2 * pi), (z_, -oo, -x)))
    square = r_**2 / sigma_**2
    logdet = Symbol("L", real=True)
    kappa = expression("kappa", log_det_own=logdet, log_det_wrong=logdet, pi_own=p_, pi_wrong=p_)
    steps = [
        identity("the margin is linear in z", sympy.diff(margin, z_, 2), 0),
        *cumulants("the margin", log_mgf, l_, square, 4 * square),
        identity("Phi(-x), integrated by the machine", below, erfc(x / sqrt(2)) / 2),
        identity("at x = mean/deviation it is the error", below.subs(x, sympy.simplify(square / sqrt(4 * square))), expression("L5")),
        identity("here d delta = r^2/sigma^2", d_ * expression("delta", trace=d_, distance=square), square),
        identity("kappa = 0", kappa, 0),
        identity("and V = 2d + 4 r^2/sigma^2", expression("V", squared=d_, pulled=square), 2 * d_ + 4 * square),
    ]
    return steps, "the law of an isotropic Gaussian does not change under rotation"


def _prove_l7() -> Derivation:
    steps, least = best_shift()
    return [*steps, identity("which is L7", least, expression("L7"))], "Markov's inequality for (M - E M - u)^2, u >= 0"


def _prove_l8() -> Derivation:
    rate = Symbol("p", positive=True)
    (limit,) = sympy.solve(Eq(n_ * log(1 - rate), log(beta_)), rate)
    none = sympy.binomial(n_, 0) * rate**0 * (1 - rate) ** n_
    steps = [
        identity("the binomial chance of no error in n", none, (1 - rate) ** n_),
        identity("is beta at the limit, solved by the machine", limit, expression("L8")),
        inequality("and its logarithm falls with the rate", -sympy.diff(log(1 - rate), rate), 0, rate, Interval.Ropen(0, 1)),
    ]
    return steps, "Clopper and Pearson 1934: the limit is the rate at which so few errors have probability beta"


def _prove_l9() -> Derivation:
    steps, least = best_shift()
    (far, _), (near, _) = expression("L9").args
    x = Symbol("x", positive=True)
    (equal,) = sympy.solve(Eq(4 * x / 9, 4 * x / 3 - Rational(1, 3)), x)
    (square,) = sympy.solve(Eq(least, equal).subs(r_, sqrt(x)), x)
    cantelli = expression("L7")
    beyond, short = (expression("L7", mean=mean) for mean in (sqrt(5 * V_ / 3 + y_), sqrt(5 * V_ / 3 / (1 + y_))))
    steps += [
        identity("the far branch is 4/9 of the ratio", far, 4 * least / 9),
        identity("the near branch is 4/3 of it less 1/3", near, 4 * least / 3 - Rational(1, 3)),
        identity("they meet at a ratio of 3/8", equal, Rational(3, 8)),
        identity("which is r^2 = 5V/3", square, 5 * V_ / 3),
        manifest("the ratio is at most 3/8 from there on", equal, beyond),
        manifest("and at least 3/8 before", short, equal),
        manifest("the far branch is at most L7", cantelli, far),
        manifest("the near branch is at most L7", cantelli, near),
    ]
    given = "Vysochanskii and Petunin 1980, about any point a, for unimodal X: with R = E(X - a)^2/k^2, P(|X - a| >= k) is at most "
    return steps, given + "4R/9 if R <= 3/8, else 4R/3 - 1/3"


def _prove_l10() -> Derivation:
    # The variable whose mean the bound is, where M - E M = -(r + y).
    below = expression("L10", moment=(r_ + y_) ** p_)
    steps = [
        identity("|M - E M|^p/(E M)^p is 1 at M = 0", below.subs(y_, 0), 1),
        inequality("and at least 1 below", below, 1, y_, RIGHT),
        manifest("at p = 2 it is at least L7", expression("L10", p=2, moment=V_), expression("L7")),
    ]
    return steps, "Markov's inequality for |M - E M|^p: M <= 0 needs |M - E M| >= E M"


def _prove_l11() -> Derivation:
    v, x = sympy.symbols("v x", positive=True)
    # v = 1/W is chi-square over nu, and sqrt(W) z has density sqrt(v) phi(x sqrt(v)) given v.
    weight = (nu_ / 2) ** (nu_ / 2) * v ** (nu_ / 2 - 1) * exp(-nu_ * v / 2) / sympy.gamma(nu_ / 2)
    density = sympy.integrate(sympy.powsimp(sqrt(v) * exp(-(x**2) * v / 2) / sqrt(2 * pi) * weight), (v, 0, oo))
    tail = expression("L11", distance=2 * sigma_ * x)
    slope = sympy.diff(tail, x).rewrite(sympy.gamma)
    steps = [
        identity("minus the tail's slope in x = r/(2 sigma) over the density of sqrt(W) z", sympy.powsimp(-slope / density), 1),
        identity("and the tail is 1/2 at 0", tail.subs(x, 0).rewrite(sympy.Integral), HALF),
    ]
    return steps, "given W the error is L5 at sigma sqrt(W), the chance that sqrt(W) z is at most -r/(2 sigma)"


def _prove_l12_chi2() -> Derivation:
    one = formula("L12-chi2")
    chi2 = one.symbols["chi2"]
    F, G = sympy.symbols("F G", positive=True)
    C, q, s = sympy.symbols("C q s", real=True)
    parabola = F - 2 * s * C + s**2 * G
    (best,) = sympy.solve(sympy.diff(parabola, s), s)
    spread = p_ * (1 - p_) ** 2 + (1 - p_) * p_**2
    two_valued = p_ * (q / p_ - 1) * (1 - p_) + (1 - p_) * ((1 - q) / (1 - p_) - 1) * (-p_)
    attained = p_ * (q / p_ - 1) ** 2 + (1 - p_) * ((1 - q) / (1 - p_) - 1) ** 2
    steps = [
        identity("Cauchy-Schwarz: E(f - s g)^2 >= 0 is least at s = C/G, so that C^2 <= F G", parabola.subs(s, best), F - C**2 / G),
        identity("with g = 1_A - p, G = p(1 - p)", spread, p_ * (1 - p_)),
        identity("with f = dQ/dP - 1, C = q - p", two_valued, q - p_),
        identity("so q is at most L12", p_ + sqrt(chi2 * sympy.factor(spread)), one.expression),
        identity("a ratio dQ/dP of two values attains it", attained * spread, (q - p_) ** 2),
    ]
    return steps, "chi2 = E_P(dQ/dP - 1)^2; averaging dQ/dP over A and over its complement changes neither q nor C"


def _logs(whole: Expr) -> Expr:
    """Logarithms of products expanded; arguments here are probabilities in (0, 1) and their complements."""
    return sympy.expand(sympy.expand_log(whole, force=True))


def _prove_l12_kl() -> Derivation:
    kl = expression("L12-kl")
    q = formula("L12-kl").symbols["q"]
    share = Symbol("k", positive=True)
    above = Interval.Ropen(1 / (1 + share), 1)
    ours = kl.subs(p_, 1 / (1 + share))
    part = x_ * log(x_) - x_ + 1
    # Two outcomes inside the event and two outside, with their conditional probabilities under both laws.
    a, b, c, e = sympy.symbols("a b c e", positive=True)
    inside = q * a * (log(q * a) - log(p_ * b)) + q * (1 - a) * (log(q * (1 - a)) - log(p_ * (1 - b)))
    rest = (1 - q) * c * (log((1 - q) * c) - log((1 - p_) * e))
    rest += (1 - q) * (1 - c) * (log((1 - q) * (1 - c)) - log((1 - p_) * (1 - e)))
    within = [u * (log(u) - log(v)) + (1 - u) * (log(1 - u) - log(1 - v)) for u, v in ((a, b), (c, e))]
    split = kl + q * within[0] + (1 - q) * within[1]
    steps = [
        inequality("x log x - x + 1 >= 0 for x >= 1", part, 0, x_, Interval(1, oo)),
        inequality("and below 1, where x = 1/y", y_ - 1 - log(y_), 0, y_, Interval(1, oo)),
        identity(
            "chain rule, two outcomes inside the event and two outside: kl(q, p) and the divergences within",
            _logs(inside + rest),
            _logs(split),
        ),
        identity("kl(p, p) = 0", kl.subs(q, p_), 0),
        inequality("kl(q, p) grows with q above p", sympy.diff(ours, q), 0, q, above),
        inequality("so that it is nonnegative there", ours, 0, q, above),
    ]
    return steps, "a divergence is the mean of x log x - x + 1 under P with x = dQ/dP"


def _prove_floor_chi2() -> Derivation:
    q, _ = formula("floor-chi2").symbols.values()
    chi2, rise = formula("L12-chi2").symbols["chi2"], Symbol("k", positive=True)
    (least,) = sympy.solve(Eq(rise**2, chi2 * p_ * (1 - p_)), chi2)
    steps = [identity("L12-chi2 at equality, solved for chi2", least.subs(rise, q - p_), expression("floor-chi2"))]
    return steps, "L12-chi2, and for q below p the same for the complement"


PROOFS: dict[str, Callable[[], Derivation]] = {
    "L1": _prove_l1,
    "L1-measured": _prove_l1_measured,
    "L1-exponent": _prove_l1_exponent,
    "L1-delta": _prove_l1_delta,
    "L1-delta-isotropic": _prove_l1_delta_isotropic,
    "L1b": _prove_l1b,
    "L1b-tilt": _prove_l1b_tilt,
    "L2": _prove_l2,
    "L3": _prove_l3,
    "L3-bhattacharyya": _prove_bhattacharyya,
    "L4": _prove_l4,
    "L5": _prove_l5,
    "L7": _prove_l7,
    "L8": _prove_l8,
    "L9": _prove_l9,
    "L10": _prove_l10,
    "L11": _prove_l11,
    "L12-chi2": _prove_l12_chi2,
    "L12-kl": _prove_l12_kl,
    "floor-chi2": _prove_floor_chi2,
}
