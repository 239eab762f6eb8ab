"""Retrieval in two stages: all tasks are scored in a cheap shared space, and only the candidates that are left get their adapters run.

What is lost against the full search is certified: `theory.pruning`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from empirics.retrieval.signatures import Projection
from theory.errors import InputError
from theory.mixture import Rule
from theory.product import ProductSignatures
from theory.pruning import Kind, Pruning

if TYPE_CHECKING:
    from empirics.adapters.stack import AdapterStack
    from empirics.encoders.backbone import Backbone
    from empirics.encoders.prefix import PrefixSource
    from empirics.routing.router import Router

# Pairs whose embeddings are in memory at once, and by how many candidates a round of the adaptive rule may be longer than all before.
_PAIRS, _MORE = 16384, 3

Screen = Callable[[Any], Float[np.ndarray, "n m"]]
Score = Callable[[Any, Int[np.ndarray, " p"], Int[np.ndarray, " p"]], Float[np.ndarray, " p"]]


@dataclass(frozen=True)
class Found:
    """Where some inputs were sent.

    Attributes
    ----------
    task : (n,) int array
    score : (n,) array
        Final score of that task.
    passes : (n,) int array
        Final scores that were computed for each input; with adapters, forward passes.
    """

    task: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    passes: Int[np.ndarray, " n"]


class Cascade(BaseEstimator):
    """A full search over all tasks, made cheaper by a screen before it, with a certified loss.

    Fitting searches held-out inputs in full and chooses how many candidates are kept, so that the answer of the full search is
    lost for a share of at most `alpha` of inputs. An input is then routed by itself: no other changes its answer.

    Parameters
    ----------
    screen : callable
        From inputs to stage-1 scores of all tasks (n, m), the least the best.
    score : callable
        From inputs, rows (p,) and tasks (p,) to the final scores (p,) of these pairs.
    opened : callable, optional
        Makes of inputs what both stages are given, such as an encoded prefix, once; the inputs themselves by default.
    kind : {"threshold", "best", "adaptive", "absolute"}
        How candidates are chosen (`theory.pruning`), fixed before the inputs of `fit` are seen. "adaptive" and "absolute" presume that a
        final score contains the stage-1 score, or is on its scale.
    alpha : float
        The loss that may be.
    confidence : float or None
        Of the certificate, over the inputs of `fit`; None for the marginal statement.

    Attributes
    ----------
    pruning_ : theory.Pruning
        The rule in force; its `loss` is the certificate.

    Notes
    -----
    Bad settings and inputs raise `theory.InputError`, a ValueError. A rule that was chosen otherwise (`Pruning.given`,
    `Pruning.lossless`) is put in force by `with_pruning`.
    """

    def __init__(
        self,
        screen: Screen,
        score: Score,
        *,
        opened: Callable[[Any], Any] | None = None,
        kind: Kind = "threshold",
        alpha: float = 0.01,
        confidence: float | None = 0.95,
    ) -> None:
        self.screen = screen
        self.score = score
        self.opened = opened
        self.kind = kind
        self.alpha = alpha
        self.confidence = confidence

    def fit(self, X: Any, y: Any = None) -> Self:
        """Search held-out inputs in full, and choose the candidates to be kept.

        Parameters
        ----------
        X : inputs
            Draws from the traffic that the certificate is about, which had no part in either stage.
        y : (n,) array-like of int, optional
            Their true tasks. If given, only right answers can be lost, which is less; without, any answer of the full search.

        Raises
        ------
        InputError
            If they are too few for the certificate (the message says how many are needed), a level is out of range, or a score is NaN or
            infinite.
        """
        return self.fit_scores(*self.full_search(X), y)

    def fit_scores(self, stage_one: Float[np.ndarray, "n m"], full: Float[np.ndarray, "n m"], y: Any = None) -> Self:
        """The same from the scores of a full search that was made before.

        Raises
        ------
        InputError
            As `fit`.
        """
        task = None if y is None else np.asarray(y)
        return self.with_pruning(Pruning.calibrate(self.kind, stage_one, full, self.alpha, self.confidence, task))

    def with_pruning(self, pruning: Pruning) -> Self:
        """Put a rule in force; `alpha` and `confidence` have no say in it."""
        self.pruning_ = pruning
        return self

    def full_search(self, X: Any) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
        """Stage-1 and final scores of all tasks.

        Raises
        ------
        InputError
            If there are no inputs or tasks, or a score is NaN or infinite.
        """
        opened = self.open(X)
        stage_one = self._screened(opened)
        n, m = stage_one.shape
        rows, tasks = np.divmod(np.arange(n * m), m)
        return stage_one, self._scored(opened, rows, tasks).reshape(n, m)

    def search(self, X: Any) -> Found:
        """Route inputs, and tell what it took.

        Raises
        ------
        InputError
            As `full_search`.
        """
        return self.search_opened(self.open(X))

    def open(self, X: Any) -> Any:
        """What both stages are given, made of inputs by `opened`."""
        return X if self.opened is None else self.opened(X)

    def search_opened(self, opened: Any) -> Found:
        """As `search`, of what `open` gave, for whoever has a use for that besides.

        Raises
        ------
        InputError
            As `full_search`.
        """
        check_is_fitted(self, "pruning_")
        stage_one = self._screened(opened)
        n, m = stage_one.shape
        final, order = np.full((n, m), np.inf), np.argsort(stage_one, axis=1, kind="stable")
        if self.pruning_.kind in ("threshold", "best"):
            rows, tasks = np.nonzero(self.pruning_.kept(stage_one))
            final[rows, tasks] = self._scored(opened, rows, tasks)
            return _found(final)
        # In rounds, each one pass for all inputs that are not settled, and longer than those before together.
        live, start, stop, best, added = np.arange(n), 0, 1, np.full(n, np.inf), np.zeros(n)
        while live.size and start < m:
            tasks = order[live, start:stop]
            # A better task may be found within the round, where the rule would stop: to look at more than needed loses nothing.
            row, column = np.nonzero(~self.pruning_.settled(stage_one[live[:, None], tasks], best[live, None], added[live, None]))
            rows, chosen = live[row], tasks[row, column]
            final[rows, chosen] = self._scored(opened, rows, chosen)
            start, stop = stop, min(m, 2 * stop + _MORE)
            if start == 1:
                added = final[live, order[:, 0]] - stage_one[live, order[:, 0]]
            best[live] = final[live].min(axis=1)
            if start < m:
                live = live[~self.pruning_.settled(stage_one[live, order[live, start]], best[live], added[live])]
        return _found(final)

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """The task of each input.

        Raises
        ------
        InputError
            As `full_search`.
        """
        return self.search(X).task

    def _screened(self, opened: Any) -> Float[np.ndarray, "n m"]:
        stage_one = np.asarray(self.screen(opened), dtype=np.float64)
        if stage_one.ndim != 2 or 0 in stage_one.shape:
            raise InputError("screen", f"gave scores of shape {stage_one.shape}; needs (n, m), with at least one input and one task")
        if not np.isfinite(stage_one).all():
            raise InputError("screen", f"gave {int((~np.isfinite(stage_one)).sum())} scores that are NaN or infinite")
        return stage_one

    def _scored(self, opened: Any, rows: Int[np.ndarray, " p"], tasks: Int[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        out = np.asarray(self.score(opened, rows, tasks), dtype=np.float64)
        if out.shape != rows.shape:
            raise InputError("score", f"gave scores of shape {out.shape} for {rows.size} pairs")
        if not np.isfinite(out).all():
            raise InputError("score", f"gave {int((~np.isfinite(out)).sum())} scores that are NaN or infinite")
        return out


def _found(final: Float[np.ndarray, "n m"]) -> Found:
    task = final.argmin(axis=1)
    return Found(task, final[np.arange(len(final)), task], np.isfinite(final).sum(axis=1))


@dataclass(frozen=True)
class AdapterStages:
    """The two stages of an encoder with adapters: frozen embeddings, then those under chosen adapters, in batches of pairs.

    Attributes
    ----------
    backbone : Backbone
    stack : AdapterStack
        Adapters of all tasks.
    frozen : Rule
        Of stage 1, in the shared space of embeddings without any adapter.
    frozen_projection : Projection
    rule : Rule
        Of the full search. It sees a query in each task's own space; or, if its dimension says so, in the frozen space and its own, stacked
        (energies added: `theory.mixture.Rule.views`).
    projections : sequence of Projection
        One for each task's space.
    """

    backbone: Backbone
    stack: AdapterStack
    frozen: Rule
    frozen_projection: Projection
    rule: Rule
    projections: Sequence[Projection]

    def __post_init__(self) -> None:
        m = len(self.stack)
        for name, found in (
            ("frozen", self.frozen.signatures.tasks),
            ("rule", self.rule.signatures.tasks),
            ("projections", len(self.projections)),
        ):
            if found != m:
                raise InputError(name, f"speaks of {found} tasks, and there are {m} adapters")
        own, common = len(self.projections[0].axes), len(self.frozen_projection.axes)
        if self.frozen.signatures.dimension != common:
            raise InputError("frozen", f"has dimension {self.frozen.signatures.dimension}, and its projection {common}")
        if self.rule.signatures.dimension not in (own, own + common):
            raise InputError(
                "rule", f"has dimension {self.rule.signatures.dimension}; needs {own}, or {own + common} with the frozen space"
            )

    @classmethod
    def of(cls, full: Router, screen: Router) -> AdapterStages:
        """Those of two loaded rules: of the full search, and the frozen one that screens.

        Raises
        ------
        InputError
            If the full search runs no adapters in the layers.
        """
        if full.stack is None:
            behind = [n for x in full.adapters for n in x.folded if not n.startswith(f"{full.backbone.layers}.")]
            why = (
                f"adapts {behind[0]}, behind the layers, and cannot have a cascade" if behind else "runs no adapters, and needs no cascade"
            )
            raise InputError("rule", f"{full.name!r} {why}")
        own = full.projections[-len(full.adapters) :]
        return cls(full.backbone, full.stack, screen.rule, screen.projections[0], full.rule, own)

    @property
    def _added(self) -> bool:
        return self.rule.signatures.dimension != len(self.projections[0].axes)

    def opened(self, inputs: Sequence[Any]) -> tuple[PrefixSource, Float[np.ndarray, "n d"]]:
        """The encoded prefix and the projected frozen embedding.

        Raises
        ------
        InputError
            If there is no input or one that cannot be used (its number is named), or an embedding is not finite.
        """
        from empirics.data.documents import check_inputs
        from empirics.encoders.prefix import encode_prefix

        prefix = encode_prefix(self.backbone, check_inputs(inputs, self.backbone.modality))
        return prefix, self.frozen_projection(prefix.frozen)

    def screen(self, opened: tuple[PrefixSource, Float[np.ndarray, "n d"]]) -> Float[np.ndarray, "n m"]:
        """Stage-1 scores."""
        return self.frozen.task_scores(self.frozen.scores(opened[1][:, None]))

    def score(
        self, opened: tuple[PrefixSource, Float[np.ndarray, "n d"]], rows: Int[np.ndarray, " p"], tasks: Int[np.ndarray, " p"]
    ) -> Float[np.ndarray, " p"]:
        """Final scores of chosen pairs: as many forward passes through the adapted layers."""
        from empirics.adapters.pairs import embed_pairs

        prefix, z = opened
        out = np.empty(rows.size)
        for start in range(0, rows.size, _PAIRS):
            some = slice(start, start + _PAIRS)
            x = embed_pairs(self.backbone, prefix, rows[some], tasks[some], self.stack)
            order = np.argsort(tasks[some], kind="stable")
            # Pairs of one task are projected and scored together.
            for chosen in np.split(order, np.flatnonzero(np.diff(tasks[some][order])) + 1):
                k = int(tasks[some][chosen[0]])
                seen = self.projections[k](x[chosen])
                if self._added:
                    seen = np.concatenate([z[rows[some][chosen]], seen], axis=1)
                out[start + chosen] = self.rule.task_score(k, seen)
        return out

    def lossless(self) -> Pruning:
        """The rule that loses nothing, for any input, where the full search adds an energy to just the stage-1 score.

        A final score exceeds its stage-1 score by the log-determinant in the own space or more (`theory.pruning.Pruning.lossless`).

        Raises
        ------
        InputError
            If the full search does not see the frozen space, sees it with other signatures than stage 1, or is no sum of energies.
        """
        first, both = self.frozen.signatures, self.rule.signatures
        if not self._added or not isinstance(both, ProductSignatures) or self.rule.kind == "angular" or self.rule.background is not None:
            raise InputError("rule", "does not add an energy to that of the frozen space; fit the cascade to held-out inputs instead")
        common = both.gaussians.common
        alike = [(first.task, both.task), (first.means, common.means), (first.covariances, common.covariances)]
        weights = [np.zeros(0) if x.weights is None else x.weights for x in (first, both)]
        if self.frozen.kind != self.rule.kind or not all(np.array_equal(a, b) for a, b in [*alike, weights]):
            raise InputError(
                "frozen", "has other signatures than the rule has of the frozen space; fit the cascade to held-out inputs instead"
            )
        return Pruning.lossless(float(both.gaussians.own.log_dets.min()))

    def cascade(self, *, kind: Kind = "threshold", alpha: float = 0.01, confidence: float | None = 0.95) -> Cascade:
        """A cascade of these stages, still to be fitted."""
        return Cascade(self.screen, self.score, opened=self.opened, kind=kind, alpha=alpha, confidence=confidence)
