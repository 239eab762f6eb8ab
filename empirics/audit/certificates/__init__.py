"""The checks of a certificate, one after the other.

The folder keeps scores and signatures, and no embedding: what follows from embeddings takes samples and adapters, which lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from empirics.audit import record
from empirics.audit.certificates import bounds, facts, measured
from empirics.audit.certificates.cascade import check_cascade
from empirics.audit.certificates.opened import SAMPLES, CertificateFiles
from empirics.audit.result import Check, guarded, less
from empirics.files.record import read_json
from theory.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from empirics.audit.certificates.data import Dealt, Embedded


def certificate_checks(
    folder: Path,
    *,
    samples: Path | None,
    thorough: bool,
    repeat: bool,
    cascade: Path | None,
    advance: Callable[[str], None] | None,
) -> tuple[Check, ...]:
    """All of them; the arguments are those of `empirics.audit.audit`.

    Raises
    ------
    InputError
        If the folder holds no finished certificate of this version's schema.
    """
    from empirics.files.record import MARKER
    from empirics.routing.certificate import read_certificate

    read_certificate(folder / "certificate.json")
    if (folder / MARKER).exists():
        raise InputError(str(folder), "holds a certificate that is not finished")
    files = CertificateFiles(folder)
    if not any(":score:" in column for column in files.samples):
        raise InputError(str(folder / SAMPLES), "holds no scores, as in certificates of earlier versions; certify again")
    # What an option names is read before all work: whoever misspells it has found nothing.
    table = None if samples is None else _opened(files, samples)
    told = None if cascade is None else read_json(cascade)
    plain: list[tuple[str, Callable[[], Check]]] = [
        ("files", lambda: record.check_files(folder)),
        ("certificate", lambda: facts.check_certificate(files)),
        ("statement", lambda: facts.check_statement(files)),
        ("parts", lambda: facts.check_parts(files)),
        ("signatures", lambda: facts.check_signatures(files)),
        ("scores", lambda: measured.check_scores(files, cascade is not None)),
        ("errors", lambda: measured.check_errors(files)),
        ("limits", lambda: measured.check_limits(files)),
        ("sets", lambda: measured.check_sets(files)),
        ("bounds", lambda: bounds.check_bounds(files)),
    ]
    if cascade is not None:
        plain.append(("cascade", lambda: check_cascade(files, told, str(cascade))))
    checks = [guarded(name, check, advance) for name, check in plain]
    settled = []
    if table is not None:
        checks += _with_samples(files, table, thorough, advance)
        settled += ["--data", *(["--thorough"] if thorough else [])]
    if table is not None and repeat:
        from empirics.audit.certificates.repeated import check_repeated
        from empirics.audit.repeated import settling

        checks.append(guarded("repeated", settling(lambda: check_repeated(files, table, quiet=advance is None), settled), advance))
    return tuple(less(check, settled) for check in checks)


def _opened(files: CertificateFiles, samples: Path) -> pd.DataFrame:
    """The table of samples, if the adapters are there, too."""
    from empirics.data.samples import read_samples

    for task in files.about["tasks"]:
        if not Path(task["folder"]).is_dir():
            raise InputError(
                task["folder"],
                f"is no folder, and the adapter of {task['name']} lay there; put it back, or call from where certify was called",
            )
    return read_samples(samples)


def _with_samples(files: CertificateFiles, table: pd.DataFrame, thorough: bool, advance: Callable[[str], None] | None) -> list[Check]:
    # torch takes seconds to import.
    from empirics.audit.certificates import data, refitted

    dealt: list[Dealt] = []
    anew: list[Embedded] = []

    def dealing() -> Check:
        check, found = data.check_dealing(files, table)
        dealt.append(found)
        return check

    def embedding() -> Check:
        check, found = data.check_embeddings(files, dealt[0], thorough)
        anew.append(found)
        return check

    checks = [guarded("samples", dealing, advance)]
    if not checks[0].passed:
        # Of other samples scores tell nothing.
        why = "scores and what was fitted: the samples are not those that were certified, or not dealt so"
        return [replace(checks[0], not_checked=(why,))]
    checks.append(guarded("embeddings", embedding, advance))
    if anew and thorough:
        for name, check in (("projections", refitted.check_projections), ("fit", refitted.check_fit), ("laws", refitted.check_laws)):
            checks.append(guarded(name, lambda check=check: check(files, anew[0]), advance))
    return checks
