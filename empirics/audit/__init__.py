"""An independent audit of a run or a certificate: every number recomputed from the raw files of its folder, by other code.

What is checked, and what cannot be: `docs/how-to/audit.md`. Nothing of `theory`, and of `empirics` only what reads files and names random
generators, is called to recompute a number: Cholesky factors there are inverses here, saddlepoint lines are hyperbolas, Newton's method is
bisection. What is printed again, embedded anew or repeated by the project's own code is said to be so (`Check.how`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from empirics.audit.certificates import certificate_checks
from empirics.audit.result import Audit, Check, Finding
from empirics.audit.runs import run_checks
from theory.errors import InputError

__all__ = ["Audit", "Check", "Finding", "audit"]


def audit(
    folder: Path,
    *,
    with_data: bool = False,
    thorough: bool = False,
    repeat: bool = False,
    samples: Path | None = None,
    cascade: Path | None = None,
    advance: Callable[[str], None] | None = None,
) -> Audit:
    """Audit a finished run, or a certificate.

    Parameters
    ----------
    folder : Path
        That of a run, or that `proteus-bounds certify` wrote.
    with_data : bool
        Read the data and run the encoder: deal them anew, and embed some documents or samples anew under the adapters.
    thorough : bool
        With the data: embed all of them anew, and fit signatures anew; of a run also heads, of a certificate projections and query laws.
    repeat : bool
        Make the whole run or certificate again from its settings, which takes as long as it did, and compare every file to the bit.
    samples : Path, optional
        The table that was certified, which a certificate does not name: what `with_data`, `thorough` and `repeat` need of one. By itself it
        asks for `with_data`.
    cascade : Path, optional
        Of a certificate: what `proteus-bounds cascade --json` printed of the folder, which is held against its scores.
    advance : callable, optional
        Told the name of each check as it begins. Without it, what is made again shows no progress either.

    Raises
    ------
    InputError
        If the folder holds no finished run or certificate of this version's schema, or an option does not fit what it holds.
    """
    from empirics.runs.run_folder import kind_of

    start = time.perf_counter()
    if kind_of(folder) == "certificate":
        if samples is None and (with_data or thorough or repeat):
            raise InputError("--samples", "is needed for that: a certificate does not say where the table of its samples lies")
        checks = certificate_checks(folder, samples=samples, thorough=thorough, repeat=repeat, cascade=cascade, advance=advance)
    else:
        for option, value in (("--samples", samples), ("--cascade", cascade)):
            if value is not None:
                raise InputError(option, f"is for certificates, and {folder} holds none")
        checks = run_checks(folder, with_data=with_data, thorough=thorough, repeat=repeat, advance=advance)
    return Audit(str(folder), checks, time.perf_counter() - start)
