"""A certificate made again from its settings, samples and adapters, by the project's own code: it repeats to the bit."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from empirics.audit.certificates.opened import CertificateFiles
from empirics.audit.repeated import made_again
from empirics.audit.result import Check, Tally
from empirics.config import CertifyConfig


def check_repeated(files: CertificateFiles, samples: pd.DataFrame, *, quiet: bool) -> tuple[Check, bool]:
    """Certify again in a temporary folder; returns the check, and whether it settles what it looked at."""
    from empirics.encoders.loading import load_backbone
    from empirics.routing.certificate import SCHEMA
    from empirics.routing.certify import certify
    from empirics.runs.origin import computing_environment, origin_differences

    tally = Tally("repeated", "the certificate made again from samples, adapters and settings: every file to the byte", "repeated")
    if files.about["schema_version"] != SCHEMA:
        tally.skip(f"the whole made again, which a certificate of schema {files.about['schema_version']} cannot be: this version says more")
        return tally.check(), False
    config = CertifyConfig.model_validate(files.settings)
    backbone = load_backbone(config.backbone.model_copy(update={"adapted_layers": 1}))
    there, here = files.about["environment"], computing_environment(backbone)
    folders = {task["name"]: Path(task["folder"]) for task in files.about["tasks"]}
    return made_again(
        tally,
        files.folder,
        "certificate.json",
        origin_differences({"environment": there}, {"environment": here}),
        lambda made: certify(folders, samples, config, backbone=backbone, out=made, quiet=quiet),
        unnoted="" if "threads" in there else "the number of threads, which certificates of earlier versions do not note",
    )
