"""The audit: sound runs pass, whatever their settings, and planted alterations are found, with and without a manifest that fits them.

All alterations of a real run: `make audit-test`, which names the folder in PROTEUS_AUDIT_RUN.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from alterations import ALTERATIONS
from oracle import by_circles, log_probability
from synthetic_run import write_run
from typer.testing import CliRunner

from empirics.audit import audit
from empirics.audit.intervals import interval, kolmogorov_smirnov, upper_limit
from empirics.audit.laws import ledoit_wolf
from empirics.audit.opened import RunFiles
from empirics.audit.record import check_files
from empirics.audit.rungs import kl_ball
from empirics.audit.tails import Laws, log_chernoff, log_moments
from empirics.audit.tails import log_probability as log_tail
from empirics.cli import app
from empirics.files.manifest import write_manifest
from theory import QuadraticLaw
from theory.errors import InputError

REAL = os.environ.get("PROTEUS_AUDIT_RUN")
# Own data, so that the stream's name is not one of the shipped ones.
OWN = "stream.path=drawn.csv"
# A few of each kind; the others are planted in a real run.
EVERYDAY = (
    "swapped_labels",
    "overlapped_split",
    "lowered_everywhere_L5",
    "fewer_simulated_errors",
    "verdict_turned",
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "run"
    write_run(folder, settings=(OWN,), surprise=1.5)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"settings": ("retrieval.rule=mixture", "signature.clusters=dp-mixture", "bounds.batch=3", "bounds.kl=0.05")},
        {"settings": ("signature.clusters=task", "signature.covariance=diagonal", "query_law.covariance=auto", "signature.held_out=0.4")},
        {
            "gap": 9.0,
            "exchangeable": False,
            "settings": ("signature.covariance=low-rank", "signature.rank=1", "query_law.covariance=low-rank", "bounds.intersections=2"),
        },
    ],
    ids=["mixtures", "tasks", "far"],
)
def test_a_sound_run_passes_whatever_its_settings(options, tmp_path):
    write_run(tmp_path / "run", **{**options, "settings": (OWN, *options.get("settings", ()))})
    found = audit(tmp_path / "run")
    assert found.passed, found.findings[:5]


@pytest.mark.parametrize("alteration", [a for a in ALTERATIONS if REAL or a.name in EVERYDAY], ids=lambda a: a.name)
def test_an_alteration_is_found_though_the_manifest_fits_it(alteration, sound, tmp_path):
    """But for those of which nothing else on file tells: these are found by a manifest that does not fit, and by it alone."""
    folder = tmp_path / "run"
    shutil.copytree(REAL or sound, folder)
    assert not check_files(RunFiles(folder)).findings
    before = (folder / "manifest.json").read_bytes()
    alteration.apply(folder)
    # Whoever makes the report again makes the manifest again: this is that of the sound run.
    (folder / "manifest.json").write_bytes(before)
    assert check_files(RunFiles(folder)).findings
    write_manifest(folder)
    found = audit(folder)
    assert found.checks[0].passed
    assert found.passed != alteration.told, found.findings[:5]


@pytest.mark.skipif(REAL is None, reason="make audit-test")
def test_the_real_run_passes():
    found = audit(Path(REAL))
    assert found.passed, found.findings[:5]


def test_the_command_says_what_it_found_and_fails(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "run")
    path = tmp_path / "run" / "report.md"
    path.write_text(path.read_text("utf-8").replace("n = 120", "n = 1200"), "utf-8")
    write_manifest(tmp_path / "run")
    shown = CliRunner().invoke(app, ["audit", str(tmp_path / "run")])
    assert shown.exit_code == 1
    assert "! report.md: report.md, line 3: is 'Measured" in shown.stdout
    assert "learning rate" in shown.stdout.partition("Not checked:")[2]


def test_a_sound_run_says_what_it_looked_at(sound):
    found = audit(sound)
    assert found.passed, found.findings[:5]
    assert {check.name for check in found.checks} >= {"files", "split", "energies", "query laws", "pairs", "bounds", "report", "report.md"}
    assert all(check.count for check in found.checks if check.name != "adapters")
    assert {check.how for check in found.checks} == {"recomputed", "reproduced", "compared"}
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["passed"] and len(told["checks"]) == len(found.checks)


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        audit(tmp_path)


# --- the slow paths themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, 3.0, 9.0])
@pytest.mark.parametrize("w", [(1.5, 1.5, -0.5, -0.5), (2.0, 2.0, 0.3, 0.3), (3.0, 3.0, 1.0, 1.0, -0.1, -0.1)])
def test_tails_are_those_of_multiprecision(w, shift):
    w = np.array([w])
    g = np.where(np.arange(w.size) % 2, 0.7, -0.2)[None]
    c = np.array([-w.sum() + shift * np.sqrt((2 * w**2 + g**2).sum())])
    if (w > 0).all():
        c = np.minimum(c, (g**2 / (4 * w)).sum() - 0.1)
    value, error = log_tail(Laws(w, g, c))
    assert value[0] == pytest.approx(float(log_probability(QuadraticLaw(w, g, np.zeros(1), c), by_circles)), rel=1e-10)
    assert error[0] < 1e-8
    assert value[0] <= log_chernoff(Laws(w, g, c))[0] + 1e-12


def test_moments_are_those_of_a_chi_square():
    # M = chi2_4 + 6: central moments of a gamma law of shape 2, by its integral.
    from scipy import integrate, stats

    law = Laws(np.ones((1, 4)), np.zeros((1, 4)), np.array([6.0]))
    orders = np.arange(2, 41, 2)
    moments = [integrate.quad(lambda x, p=p: (x - 4) ** p * stats.chi2.pdf(x, 4), 0, 600, points=[4, 40, 80], limit=400)[0] for p in orders]
    assert log_moments(law)[0] == pytest.approx(np.min(np.log(moments) - orders * np.log(10.0)), rel=1e-8)


def test_intervals_tests_and_estimates_are_those_of_other_libraries():
    from scipy import stats
    from sklearn.covariance import LedoitWolf

    rng = np.random.default_rng(0)
    for errors, n in ((0, 40), (3, 40), (40, 40), (85, 1206)):
        told = stats.binomtest(errors, n).proportion_ci(0.95, "exact")
        assert interval(errors, n, 0.95) == pytest.approx((told.low, told.high), rel=1e-9)
    assert upper_limit(39, 40, 0.05) == 1 - 0.05 / 40
    x, y = rng.normal(size=50), rng.normal(size=4000) + 0.3
    assert kolmogorov_smirnov(x, y) == pytest.approx(stats.ks_2samp(x, y, method="asymp").pvalue, rel=1e-9)
    z = rng.normal(size=(30, 5)) * np.arange(1, 6)
    assert np.allclose(ledoit_wolf(z), LedoitWolf().fit(z).covariance_, rtol=1e-12)
    q = np.exp(kl_ball(np.log(0.1), 0.05))
    assert q * np.log(q / 0.1) + (1 - q) * np.log((1 - q) / 0.9) == pytest.approx(0.05)
