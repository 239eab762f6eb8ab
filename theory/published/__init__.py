"""The published separation criterion as testable claims, beside the ladder's L1 (theory/README.md, The published criterion).

The paper's text was not available: the criterion is restated from a public script that verifies it on trained models, and
that script and the derivation suggest two readings of one term. Both are computed, and tested as claims rather than
trusted. A counterexample found here is one to the criterion *as restated*; the paper may make assumptions that the
restatement does not carry. ``python -m theory.published`` prints every table of this package.

With ``N' = (m - 1) sum_i tau_i + 1``, ``t = log(N'/eps)``, ``kappa`` the least log-determinant ratio, ``sigma2`` the
largest per-coordinate variance of any ``h_i`` on the cluster and ``M = 3 d sigma2 - kappa``, a cluster passes if
``delta > (2/d) max(first, second)``, where ``first = (M + sqrt(M^2 - 24 d sigma2 kappa)) / 4 - kappa`` and ``second`` is

* (a) as coded: ``log((N'/eps) (sqrt(1 + 4 d / t) + 1)) = t + log(sqrt(1 + 4 d / t) + 1)``;
* (b) as the inversion of a tail bound would give: ``t (sqrt(1 + 4 d / t) + 1) = t + sqrt(t^2 + 4 d t)``.

What can be said without a search, each proved where it is computed:

* `first` is measured in the embedding's units and `second` is not, so a change of units, which changes no retrieval, can
  change the verdict.
* Reading (b) of the tail claim is true in a stated region (`tail_proved`) and false beyond `first_failure`.
* With equal covariances and queries that follow the signature, passing does imply the error in a stated range (`tied_proved`).
* The criterion measures the spread of queries in the embedding's units (`sigma2`), and nowhere in a wrong component's, which
  decide how much its score varies. L1 carries that as ``sqrt(2 V t)``.
"""

from theory.published.criterion import Inputs, Reading, Verdict, criterion, criterion_of, second
from theory.published.search import Example, Family, Search, counterexample
from theory.published.table import claims_table, main, report
from theory.published.tails import (
    DIMENSIONS,
    LOG_RATIOS,
    TailClaim,
    failure_table,
    first_failure,
    log_chi_square_tail,
    tail_claim,
    tail_proved,
    tail_table,
    tied_proved,
)

__all__ = [
    "DIMENSIONS",
    "LOG_RATIOS",
    "Example",
    "Family",
    "Inputs",
    "Reading",
    "Search",
    "TailClaim",
    "Verdict",
    "claims_table",
    "counterexample",
    "criterion",
    "criterion_of",
    "failure_table",
    "first_failure",
    "log_chi_square_tail",
    "main",
    "report",
    "second",
    "tail_claim",
    "tail_proved",
    "tail_table",
    "tied_proved",
]
