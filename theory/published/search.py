"""Seeded searches for settings in which a cluster passes and errs more often than it may."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import cast

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import Bounds, differential_evolution

from theory.errors import InputError, check_whole
from theory.exact import tail_probability
from theory.mixture import QueryLaw
from theory.published.criterion import LARGEST, Inputs, Reading, check_inside_unit, first_term, second
from theory.quadratic import QuadraticLaw
from theory.signatures import Signatures
from theory.tails import exponent

# Search ranges, as natural logarithms: a wrong component's variances, and the spread of queries, both relative to the own cluster's.
_WRONG_RANGE = (math.log(1e-4), math.log(1e4))
_SPREAD_RANGE = (math.log(0.1), math.log(1e3))
# A counterexample that is reported must fail by more than rounding: its error exceeds eps by this factor at least.
_CLEAR = 1.05
# What a search minimises where nothing passes or the error is zero: worse than any value that can occur.
_HOPELESS = 1e6


class Family(StrEnum):
    """Which settings a search ranges over: two tasks of one component each, one shared embedding, Gaussian (A4).

    The own component is standard normal (per-coordinate variance 1). `TIED`: the wrong component has the same covariance.
    `FREE`: its variances are free in up to two coordinates. `WIDER`: queries have the own component's mean and a multiple
    of its covariance; otherwise they follow it exactly (well-specified).
    """

    TIED = "equal covariances, well-specified"
    FREE = "any diagonal covariance, well-specified"
    TIED_WIDER = "equal covariances, queries spread by a factor"
    FREE_WIDER = "any diagonal covariance, queries spread by a factor"

    @classmethod
    def _missing_(cls, value: object) -> Family:
        raise InputError("family", f"{value!r} is unknown; choose one of: {'; '.join(cls)}")

    @property
    def wider(self) -> bool:
        """Whether the query law differs from the signature."""
        return self in (Family.TIED_WIDER, Family.FREE_WIDER)

    @property
    def tied(self) -> bool:
        """Whether both components have one covariance."""
        return self in (Family.TIED, Family.TIED_WIDER)


@dataclass(frozen=True)
class Example:
    """Two tasks of one component each in one shared embedding, where a cluster passes at eps and errs more often.

    The own component is standard normal; queries have its mean and `spread` times its covariance. The wrong component differs from it
    in the first coordinates only.

    Attributes
    ----------
    reading : Reading
    d : int
    eps : float
    offsets, variances : tuple of float
        Mean and variance of the wrong component in its first coordinates; 0 and 1 in the others.
    spread : float
        Query variance over signature variance; 1 if well-specified.
    log_error : float
        Log of the exact error of the first task's queries, its lower side.
    """

    reading: Reading
    d: int
    eps: float
    offsets: tuple[float, ...]
    variances: tuple[float, ...]
    spread: float
    log_error: float

    def signatures(self) -> Signatures:
        """The two components, as signatures."""
        means, variances = np.zeros((2, self.d)), np.ones((2, self.d))
        means[1, : len(self.offsets)] = self.offsets
        variances[1, : len(self.variances)] = self.variances
        return Signatures(means, variances[:, :, None] * np.eye(self.d), np.array([0, 1]))

    def law(self) -> QueryLaw:
        """The law of the first task's queries."""
        return QueryLaw(np.zeros((1, 1, self.d)), self.spread * np.eye(self.d)[None], np.array([0]), np.array([0]), np.ones(1))

    def inputs(self) -> Inputs:
        """What the criterion sees of the first task's cluster."""
        statistics = _Settings.of(self.d, self.offsets, self.variances, self.spread)
        return Inputs(
            d=self.d,
            tasks=2,
            components=2,
            kappa=float(statistics.kappa()[0]),
            sigma2=self.spread,
            eps=self.eps,
            delta=float(statistics.gap()[0]) / self.d,
            variance=float(statistics.wrong_variance()[0]),
        )

    def __str__(self) -> str:
        """One line for a table."""
        wrong = ", ".join(f"N({a:.6g}, {v:.6g})" for a, v in zip(self.offsets, self.variances, strict=True))
        rest = f" in {len(self.offsets)} of {self.d} coordinates" if self.d > len(self.offsets) else ""
        queries = "" if self.spread == 1 else f", queries N(0, {self.spread:.6g})"
        return f"d = {self.d}: own N(0, 1){queries}, wrong {wrong}{rest}: passes at eps = {self.eps:g}, errs {math.exp(self.log_error):.3g}"


@dataclass(frozen=True)
class Search:
    """The outcome of one seeded search for a counterexample; not finding one proves nothing.

    Attributes
    ----------
    reading : Reading
    family : Family
    d : int
    eps : float
    evaluations : int
        Settings whose exact error was computed.
    log_ratio : float
        Largest ``log(exact error / eps)`` among those that pass; ``-inf`` if none passed.
    example : Example or None
        The simplest counterexample reached by rounding the worst setting; None if none was found.
    """

    reading: Reading
    family: Family
    d: int
    eps: float
    evaluations: int
    log_ratio: float
    example: Example | None

    @property
    def exhaustive(self) -> bool:
        """Whether the one setting tried is the worst: with equal covariances only the distance is left, and error falls with it."""
        return self.family is Family.TIED

    def __str__(self) -> str:
        """The counterexample, or how far its absence may be trusted."""
        if self.example is not None:
            return str(self.example)
        if self.log_ratio > 0:
            return "one found, none that is simple and clear"
        return "none exists in this family" if self.exhaustive else f"none found in {self.evaluations}"


def counterexample(
    reading: Reading | str, family: Family, d: int, eps: float, rng: np.random.Generator, generations: int = 10, population: int = 8
) -> Search:
    """Search a family for a setting that passes at eps and whose exact error exceeds eps, then simplify it.

    Differential evolution over the family's free parameters, maximising ``log(exact error) - log(eps)``; the distance between the means is
    not free but the least with which the setting passes, so that every candidate passes. The exact error of such a setting is
    `tail_probability` of its one margin: with two tasks of one component each both sides of L5 coincide.

    Parameters
    ----------
    reading : Reading or str
        "a", "b", or "L1", for which a counterexample would refute a theorem.
    family : Family
    d : int
    eps : float
    rng : numpy.random.Generator
    generations, population : int
        Of differential evolution; the population is per free parameter.

    Raises
    ------
    InputError
        If d, eps or a size is out of range.
    """
    reading, family = Reading(reading), Family(family)
    check_whole("d", d, 1, "an embedding dimension", LARGEST)
    check_inside_unit("eps", eps)
    check_whole("generations", generations, 1, "one generation at least")
    check_whole("population", population, 1, "one candidate per parameter at least")
    d = int(d)
    ranges = _ranges(family, d)
    evaluations = 0

    def objective(parameters: Float[np.ndarray, "p n"], /) -> Float[np.ndarray, " n"]:
        nonlocal evaluations
        settings, passes = _least_passing(reading, _settings(family, d, parameters), eps)
        evaluations += int(passes.sum())
        value = np.full(passes.size, _HOPELESS)
        if passes.any():
            tail = tail_probability(settings[passes].margin())
            # Rounded so as never to overstate a failure of the criterion, nor understate one of ours.
            value[passes] = math.log(eps) - (tail.log_high if reading is Reading.LADDER else tail.log_low)
        return np.minimum(value, _HOPELESS)

    if ranges:
        # SciPy's stubs know of no objective that is vectorized, which gets a column for each candidate.
        found = differential_evolution(
            cast(Callable[..., float], objective),
            Bounds(*np.transpose(ranges)),
            maxiter=generations,
            popsize=population,
            tol=0,
            seed=rng,
            polish=False,
            vectorized=True,
            updating="deferred",
        )
        best, worst = found.x[:, None], float(found.fun)
    else:
        best = np.empty((0, 1))
        worst = float(objective(best)[0])
    log_ratio = -worst if worst < _HOPELESS else -math.inf
    example = _simplest(reading, family, d, eps, best) if log_ratio > math.log(_CLEAR) else None
    return Search(reading, family, d, eps, evaluations, log_ratio, example)


@dataclass(frozen=True)
class _Settings:
    """A batch of two-component settings, as in `Example`: offsets a, wrong variances v in r coordinates, query spread c."""

    d: int
    a: Float[np.ndarray, "n r"]
    v: Float[np.ndarray, "n r"]
    c: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, d: int, a: Sequence[float] | np.ndarray, v: Sequence[float], c: float) -> _Settings:
        return cls(d, np.array([a], dtype=np.float64), np.array([v], dtype=np.float64), np.array([c], dtype=np.float64))

    def __getitem__(self, rows: np.ndarray) -> _Settings:
        return _Settings(self.d, self.a[rows], self.v[rows], self.c[rows])

    def scaled(self, by: Float[np.ndarray, " n"]) -> _Settings:
        return dataclasses.replace(self, a=self.a * by[:, None])

    @property
    def same(self) -> int:
        """Coordinates in which the components agree."""
        return self.d - self.a.shape[1]

    def kappa(self) -> np.ndarray:
        return np.log(self.v).sum(axis=1)

    def gap(self) -> np.ndarray:
        """``d delta``."""
        return ((self.c[:, None] + self.a**2) / self.v - 1).sum(axis=1) + self.same * (self.c - 1)

    def wrong_variance(self) -> np.ndarray:
        c = self.c[:, None]
        return 2 * ((c / self.v) ** 2).sum(axis=1) + 2 * self.same * self.c**2 + 4 * (self.a**2 * c / self.v**2).sum(axis=1)

    def margin(self) -> QuadraticLaw:
        """``Q_wrong - Q_own + kappa`` for queries ``sqrt(c) z``; the coordinates that agree cancel."""
        c = self.c[:, None]
        constant = (self.a**2 / self.v).sum(axis=1) + self.kappa()
        return QuadraticLaw(c / self.v - c, -2 * self.a * np.sqrt(c) / self.v, np.zeros(len(self.c)), constant)

    def passes(self, reading: Reading, eps: float) -> Bool[np.ndarray, " n"]:
        if reading is Reading.LADDER:
            # The ladder's L1 with the query's own moments (T3), which reduces to T1 for spread 1.
            own = self.d * self.c
            a = np.sqrt(2 * 2 * own * self.c) + np.sqrt(2 * self.wrong_variance())
            t = exponent(self.gap() + self.d + self.kappa() - own, a, 2 * self.c)
            return math.log(2) - t <= math.log(eps)
        first, real = first_term(self.d, self.kappa(), self.c)
        required = 2 / self.d * np.maximum(first, second(self.d, math.log(3) - math.log(eps), reading))
        return real & (self.gap() / self.d > required)


def _ranges(family: Family, d: int) -> list[tuple[float, float]]:
    """Ranges of the free parameters: log wrong variances, the direction of the wrong mean, log spread."""
    r = min(d, 2)
    ranges = [] if family.tied else [_WRONG_RANGE] * r + [(0.0, math.pi / 2)] * (r - 1)
    return ranges + ([_SPREAD_RANGE] if family.wider else [])


def _settings(family: Family, d: int, parameters: Float[np.ndarray, "p n"]) -> _Settings:
    """Settings with the wrong mean at distance 1."""
    n = parameters.shape[1]
    c = np.exp(parameters[-1]) if family.wider else np.ones(n)
    if family.tied or d == 1:
        variances = np.ones((n, 1)) if family.tied else np.exp(parameters[:1].T)
        return _Settings(d, np.ones((n, 1)), variances, c)
    angle = parameters[2]
    return _Settings(d, np.stack([np.cos(angle), np.sin(angle)], axis=1), np.exp(parameters[:2].T), c)


def _least_passing(reading: Reading, settings: _Settings, eps: float) -> tuple[_Settings, Bool[np.ndarray, " n"]]:
    """Move the wrong mean along its direction to the least distance that passes; tells which pass at all."""
    n = len(settings.c)
    at_zero = settings.scaled(np.zeros(n)).passes(reading, eps)
    low, high = np.zeros(n), np.where(at_zero, 0.0, 1.0)
    for _ in range(40):
        short = ~settings.scaled(high).passes(reading, eps)
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        enough = settings.scaled(middle).passes(reading, eps)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    final = settings.scaled(high)
    return final, final.passes(reading, eps)


def _simplest(reading: Reading, family: Family, d: int, eps: float, best: Float[np.ndarray, "p 1"]) -> Example | None:
    """Round the worst setting found as far as it stays a clear counterexample: fewest coordinates, then fewest digits."""
    settings, _ = _least_passing(reading, _settings(family, d, best), eps)
    # The coordinates with the most unusual variance carry the example.
    order = np.argsort(-np.abs(np.log(settings.v[0])))
    for keep, digits, still in product(range(1, order.size + 1), (1, 2, 3, 4), (True, False)):
        variances = [_rounded(v, digits) for v in settings.v[0, order[:keep]]]
        spread = _rounded(float(settings.c[0]), digits)
        direction = np.zeros(keep) if still else settings.a[0, order[:keep]]
        if not still and not direction.any():
            direction = np.ones(keep)
        trial, passes = _least_passing(reading, _Settings.of(d, direction, variances, spread), eps)
        if not passes[0]:
            continue
        offsets = [_rounded(a, digits, up=True) for a in trial.a[0]]
        trial = _Settings.of(d, offsets, variances, spread)
        if not trial.passes(reading, eps)[0]:
            continue
        low = float(tail_probability(trial.margin()).log_low[0])
        if low > math.log(eps) + math.log(_CLEAR):
            return Example(reading, d, eps, tuple(offsets), tuple(variances), spread, low)
    return None


def _rounded(value: float, digits: int, up: bool = False) -> float:
    """Round to some significant digits, away from zero if `up`."""
    if value == 0:
        return 0.0
    unit = digits - 1 - math.floor(math.log10(abs(value)))
    scaled = abs(value) * 10.0**unit
    # Dividing by a positive power of ten, not multiplying by a negative one, gives the float nearest the decimal.
    whole = math.ceil(scaled - 1e-9) if up else round(scaled)
    return math.copysign(whole / 10.0**unit if unit >= 0 else whole * 10.0**-unit, value)
