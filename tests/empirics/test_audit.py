"""The audit: sound runs pass, whatever their settings, and planted alterations are found, with and without a manifest that fits them.

All alterations of a real run: `make audit-test`, which names the folder in PROTEUS_AUDIT_RUN.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import letters
import numpy as np
import pytest
from alterations import ALTERATIONS, other_commit, other_version, set_data_digest
from oracle import by_circles, log_probability
from synthetic_run import write_run
from typer.testing import CliRunner

from empirics.audit import Audit, audit
from empirics.audit.intervals import interval, kolmogorov_smirnov, upper_limit
from empirics.audit.laws import ledoit_wolf
from empirics.audit.opened import RunFiles
from empirics.audit.printed import check_page
from empirics.audit.record import check_files
from empirics.audit.rungs import kl_ball
from empirics.audit.tails import Laws, log_chernoff, log_moments
from empirics.audit.tails import log_probability as log_tail
from empirics.cli import app
from empirics.config import load_config
from empirics.files.manifest import write_manifest
from empirics.page.write import write_run_page
from empirics.runs import embedding
from empirics.runs.pipeline import run
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
    """By the option that it takes: of some no other file tells, and without it these are found by the manifest alone."""
    folder = tmp_path / "run"
    shutil.copytree(REAL or sound, folder)
    assert not check_files(folder).findings
    before = (folder / "manifest.json").read_bytes()
    alteration.apply(folder)
    # Whoever makes the report again makes the manifest again: this is that of the sound run.
    (folder / "manifest.json").write_bytes(before)
    assert check_files(folder).findings
    _make_good(folder, page=alteration.name != "page")
    found = audit(folder)
    assert found.checks[0].passed
    assert found.passed == bool(alteration.option), found.findings[:5]
    if alteration.option:
        assert any(alteration.option in what for check in found.checks for what in check.not_checked)
        assert not _audited(folder, alteration.option).passed


def _make_good(folder: Path, *, page: bool = True) -> None:
    """Make manifest and page fit the other files, as far as these can still be read."""
    write_manifest(folder)
    if page and (folder / "report.html").is_file():
        with suppress(InputError):
            write_run_page(folder)


def _audited(folder: Path, option: str) -> Audit:
    return audit(folder, with_data=option == "--data", thorough=option == "--thorough", repeat=option == "--repeat")


@pytest.mark.skipif(REAL is None, reason="make audit-test")
@pytest.mark.parametrize("option", ["--data", "--thorough", "--repeat"])
def test_the_real_run_passes(option):
    found = _audited(Path(REAL), option)
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
    # Drawn embeddings are of no adapters, and it has no page.
    assert all(check.count for check in found.checks if check.name not in ("adapters", "report.html"))
    assert {check.how for check in found.checks} == {"recomputed", "reproduced", "compared", "printed again"}
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["passed"] and len(told["checks"]) == len(found.checks)


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        audit(tmp_path)


# --- with the data at hand -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a tiny encoder on random letters, with its page; returns its folder and that of its material."""
    home = tmp_path_factory.mktemp("letters")
    letters.write_home(home)
    own = {**letters.SETTINGS, "stream.path": home / "letters.csv", "backbone.path": home / "encoder"}
    run(load_config(overrides=[f"{key}={value}" for key, value in own.items()]), home / "run", quiet=True, then=write_run_page)
    return home / "run", home


def test_a_run_made_again_settles_all_but_its_times(trained, monkeypatch):
    opened = []
    monkeypatch.setattr(embedding, "open_stream", lambda config, do=embedding.open_stream: opened.append(config) or do(config))
    found = audit(trained[0], thorough=True, repeat=True)
    assert found.passed, found.findings[:5]
    # The same data tell where they come from, and make the run.
    assert len(opened) == 1
    assert {check.how for check in found.checks} == {"recomputed", "reproduced", "compared", "printed again", "repeated"}
    assert [what for check in found.checks for what in check.not_checked] == [
        "seconds, memory, versions and machine in run.json: nothing on file says them twice"
    ]


@pytest.mark.parametrize("name", ["moved_documents", "other_learning_rate"])
def test_what_no_file_tells_is_found_with_the_data(name, trained, tmp_path):
    test_an_alteration_is_found_though_the_manifest_fits_it(next(a for a in ALTERATIONS if a.name == name), trained[0], tmp_path)


def test_a_changed_text_is_found_whatever_the_digest_says(trained, tmp_path):
    folder, home = trained
    before = (home / "letters.csv").read_text("utf-8")
    try:
        (home / "letters.csv").write_text(before.replace("v", "q"), "utf-8")
        shutil.copytree(folder, tmp_path / "run")
        found = audit(tmp_path / "run", with_data=True)
        assert "run.json: sha256.data" in {finding.where for finding in found.findings}
        digest = next(f.problem for f in found.findings if f.where == "run.json: sha256.data").split("'")[-2]
        set_data_digest(tmp_path / "run", digest)
        _make_good(tmp_path / "run")
        assert audit(tmp_path / "run").passed
        assert not audit(tmp_path / "run", with_data=True).passed
    finally:
        (home / "letters.csv").write_text(before, "utf-8")


def test_a_run_from_elsewhere_is_not_made_again(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    other_version(tmp_path / "run")
    _make_good(tmp_path / "run")
    found = audit(tmp_path / "run", repeat=True)
    assert found.passed, found.findings[:5]
    skipped = "\n".join(what for check in found.checks for what in check.not_checked)
    assert "environment.packages.torch is 1.0 there" in skipped
    assert "settings of training" in skipped


def test_a_page_of_another_version_may_differ_in_words_but_in_no_number(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    other_commit(tmp_path / "run")
    _make_good(tmp_path / "run")
    page = tmp_path / "run" / "report.html"
    before = page.read_text("utf-8")
    page.write_text(before.replace("<main", "<!-- by another version --><main", 1), "utf-8")
    check = check_page(RunFiles(tmp_path / "run"))
    assert check.passed and "wording of report.html" in check.not_checked[0]
    page.write_text(before.replace("</main>", "<p>error 0.001</p></main>", 1), "utf-8")
    assert "other numbers" in check_page(RunFiles(tmp_path / "run")).findings[0].problem


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
