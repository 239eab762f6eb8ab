"""Figures from finished folders: the same bytes twice, data beside them, nothing from folders of the wrong kind, and no training."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import Bbox
from PIL import Image

from empirics.comparisons.ablation import ablate, read_variants
from empirics.comparisons.comparison import compare
from empirics.config import load_config
from empirics.figures.finished_run import open_run
from empirics.figures.folders import open_ablation, open_comparison
from empirics.files.record import read_json, write_json
from paper_figures.__main__ import NAMES, figure_of
from paper_figures.__main__ import main as draw_all
from paper_figures.command import draw, main, numbers
from paper_figures.style import STYLE, WIDTH, figure_bytes, style
from theory import InputError

ROOT = Path(__file__).parent.parent
# Small enough to draw in a moment; what is drawn is tested with the plotting modules.
QUICK = {
    "separation": {"dimensions": "8,16", "simulations": 200},
    "required_tasks": {"tasks": "2,5", "dimensions": "8"},
    "required_dimension": {"dimensions": "8,16", "tasks": "5"},
    "finite_sample": {"dimension": 3, "draws": 20},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A run, a comparison and an ablation of one tiny encoder and one table of short texts."""
    base = tmp_path_factory.mktemp("finished")
    (base / "encoder").mkdir()
    tiny.save_bert(base / "encoder", layers=2, positions=32)
    rng = np.random.default_rng(0)
    rows = [
        {"text": "".join(rng.choice(list(letters[:6] if c else letters[4:]), 12)), "label": str(c), "task": f"task-{k}"}
        for k, letters in enumerate(("abcdefghij", "fghijklmno", "pqrstuvwxyz"))
        for c in range(2)
        for _ in range(34)
    ]
    pd.DataFrame(rows).drop_duplicates("text").to_csv(base / "own.csv", index=False)
    settings = [
        f"stream.path={json.dumps(str(base / 'own.csv'))}",
        f"backbone.path={json.dumps(str(base / 'encoder'))}",
        "stream.train_per_class=12",
        "stream.query_per_class=8",
        "stream.test_per_class=8",
        "stream.reservoir_per_class=4",
        "backbone.max_length=16",
        "backbone.adapted_layers=1",
        "adapter.rank=2",
        "training.epochs=1",
        "signature.dimension=4",
        "bounds.simulations=1000",
        "compare.seeds=1",
        "compare.methods=[proteus-both, sequential, told]",
        "compare.reference=proteus-both",
    ]
    config = load_config(overrides=settings)
    (base / "variants.yaml").write_text("dimension: {3: {signature: {dimension: 3}}}\nother: {same: {seed: 0}}")
    ablate(config, read_variants(config, base / "variants.yaml"), base / "ablation", quiet=True)
    compare(config, base / "comparison", quiet=True)
    return {"run": base / "ablation/runs/base", "comparison": base / "comparison", "ablation": base / "ablation"}


def drawing(name, folders, suffixes=(".pdf", ".svg", ".png")):
    source = figure_of(name).source
    return draw(figure_of(name), [folders[source]] if source else [], QUICK.get(name, {}), suffixes)


@pytest.fixture(scope="session")
def words() -> dict[str, tuple[Bbox, list[tuple[str, Bbox]]]]:
    """The extent of every figure that was drawn, and of every word of its axes and legends."""
    return {}


@pytest.fixture(scope="session")
def drawn(folders, words) -> dict[str, dict[str, bytes]]:
    """Every figure in every format, with its data."""
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:

            def measured(canvas, suffix, name=name):
                words[name] = canvas.bbox, _words(canvas)
                return figure_bytes(canvas, suffix)

            patch.setattr("paper_figures.command.figure_bytes", measured)
            out[name] = drawing(name, folders)
    return out


def _words(canvas):
    texts = [t for ax in canvas.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    for axis in (axis for ax in canvas.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += [t for legend in canvas.legends for t in legend.get_texts()]
    renderer = canvas._get_renderer()
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text().strip()]


@pytest.fixture(scope="session")
def tables(drawn) -> dict[str, pd.DataFrame]:
    """The data beside every figure."""
    return {name: pd.read_csv(io.BytesIO(contents[".csv"]), keep_default_na=name != "rungs") for name, contents in drawn.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_folder_gives_the_same_bytes(name, folders, drawn):
    again = drawing(name, folders, (".png", ".svg", ".pdf"))
    assert set(again) == {".pdf", ".svg", ".png", ".csv"}
    for suffix, content in again.items():
        assert content == drawn[name][suffix], suffix


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_vectors_one_column_wide_with_their_fonts(name, drawn):
    svg = drawn[name][".svg"].decode()
    assert "<image" not in svg and not re.search(r"20\d\d-\d\d", svg)
    assert float(re.search(r'<svg [^>]*width="([\d.]+)pt"', svg)[1]) / 72 == pytest.approx(WIDTH)
    pdf = drawn[name][".pdf"]
    assert b"/CreationDate" not in pdf and b"/Subtype /Image" not in pdf
    # TrueType: journals refuse Type 3.
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    with Image.open(io.BytesIO(drawn[name][".png"])) as image:
        assert image.width == round(WIDTH * 300) and "Software" not in image.info


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off_and_no_words_hide_each_other(name, drawn, words):
    whole, found = words[name]
    room = 1
    for text, box in found:
        assert box.x0 >= -room and box.y0 >= -room and box.x1 <= whole.x1 + room and box.y1 <= whole.y1 + room, text
    # Boxes of slanted labels overlap where their words do not; a box is taller than what it holds; and a label of two lines may begin
    # with an empty one.
    cores = [(text, box.shrunk(0.9, 0.35 if text[0] == "\n" else 0.7).anchored("S", box)) for text, box in found]
    for j, (text, box) in enumerate([] if name == "retrieval_matrix" else cores):
        for other, own in cores[:j]:
            assert not box.overlaps(own), (text, other)


def test_the_data_beside_a_figure_are_what_it_shows(folders, tables):
    run, comparison = open_run(folders["run"]), open_comparison(folders["comparison"])
    rungs = tables["rungs"]
    units = [*run.report.tasks, run.report.overall]
    assert len(rungs) == sum(len(unit.rungs) for unit in units)
    for row in rungs.itertuples():
        unit = next(unit for unit in units if unit.name == row.unit)
        assert float(row.value) == unit.rungs[row.rung].value and bool(row.guarantee) == unit.rungs[row.rung].guarantee
        assert float(row.measured) == unit.measured.error
    methods = tables["decomposition"]
    assert methods["accuracy"].tolist() == [row["accuracy"] for row in comparison.summary["methods"]]
    slack = tables["slack"]
    expected = pd.read_parquet(folders["run"] / "slack.parquet")
    head = run.report.headline
    rows = expected[(expected["arm"] == head.arm) & (expected["law"] == head.law) & (expected["level_of"] == "overall")]
    assert slack["total"].to_numpy() == pytest.approx(rows["total"].to_numpy(), nan_ok=True)
    leak = tables["batch_leak"]
    own = next(row for row in comparison.summary["methods"] if row["name"] == "proteus-both")
    assert leak.loc[leak["method"] == "proteus-both", "error"].tolist() == [
        own["macro_retrieval_error"],
        *own["batch_retrieval_error"].values(),
    ]
    phases = tables["phases"]
    assert dict(zip(phases["phase"], phases["seconds"], strict=True)) == run.report.run["phases_seconds"]


def test_own_distances_are_those_of_the_documents_against_the_law_of_their_samples(folders, tables):
    run = open_run(folders["run"])
    test = pd.read_parquet(folders["run"] / "predictions.parquet")
    table = tables["own_distance"]
    assert table["distance"].tolist() == pytest.approx(sorted(test["paper-4:distance"]))
    assert table["f"].notna().all()
    found = run.own_distances(run.arm("paper"))
    counts = run.rule(run.arm("paper")).signatures.counts
    assert found.counts.tolist() == counts[test["cluster"]].tolist() and found.left_out == 0
    # Two spaces are stacked, each with samples of its own: their sum is no F.
    both = run.own_distances(run.arm("both"))
    assert both.dimension == 8 and both.counts is None
    one = run.own_distances(run.arm("paper"), "task-1")
    assert sorted(one.measured) == sorted(test.loc[test["task"] == 1, "paper-4:distance"])


def test_predictions_are_those_of_the_runs_of_the_ablation(folders, tables):
    ablation = open_ablation(folders["ablation"])
    table = tables["prediction"]
    assert table["dimension"].unique().tolist() == [3, 4] and set(table["law"]) == {"mixture", "gaussian"}
    for report in ablation.reports("dimension"):
        arm = next(arm for arm in report.arms if (arm.arm, arm.law) == (report.headline.arm, "gaussian"))
        row = table[(table["dimension"] == arm.dimension) & (table["law"] == "gaussian")].iloc[0]
        assert row["measured"] == arm.overall.measured.error and row["predicted"] == arm.overall.law.predicted


def test_embeddings_are_those_that_the_run_scored(folders, tables):
    run = open_run(folders["run"])
    arm = run.arm("frozen")
    z, task = run.embeddings(arm)
    test = pd.read_parquet(folders["run"] / "predictions.parquet")
    rule = run.rule(arm)
    assert rule.retrieve(z.astype(np.float64)).tolist() == test["frozen-4:retrieved"].tolist()
    table = tables["embedding"]
    assert table.loc[table["kind"] == "document", "task"].tolist() == [run.names[k] for k in task]
    assert (table["kind"] == "signature").sum() == len(rule.signatures)


def test_the_figure_that_a_page_adds_draws_what_the_comparison_says(folders):
    page = (ROOT / "docs" / "how-to" / "add-a-figure.md").read_text("utf-8")
    scope = {}
    exec(re.search(r"```python\n(.*?)```", page, flags=re.S)[1], scope)
    made = draw(scope["FIGURE"], [folders["comparison"]], {}, [".png"])
    rows = open_comparison(folders["comparison"]).summary["methods"]
    table = pd.read_csv(io.BytesIO(made[".csv"]))
    assert table["method"].tolist() == [row["name"] for row in rows]
    assert table["accuracy"].tolist() == pytest.approx([row["accuracy"] for row in rows])
    assert made[".png"].startswith(b"\x89PNG")


def test_matrices_are_those_of_the_cells(folders):
    comparison = open_comparison(folders["comparison"])
    cell = read_json(folders["comparison"] / "cells/seed0-order0/cell.json")
    assert comparison.contrast()[0] == "proteus-both"
    given = {"methods": "sequential,proteus-both"}
    content = draw(figure_of("retrieval_matrix"), [folders["comparison"]], given, [])[".csv"]
    table = pd.read_csv(io.BytesIO(content))
    assert table["panel"].unique().tolist() == ["sequential", "proteus-both"]
    for name, rows in table.groupby("panel"):
        assert rows["share"].tolist() == [v for row in cell["methods"][name]["retrieval_matrix"] for v in row]
    with pytest.raises(InputError, match="choose from proteus-both, sequential, told"):
        comparison.retrieval_matrix("none")
    with pytest.raises(InputError, match="order"):
        comparison.retrieval_matrix("told", 3)


def test_options_and_several_folders(folders, tmp_path):
    out = tmp_path / "two.svg"
    run = str(folders["run"])
    other = str(folders["ablation"] / "runs/dimension/3")
    main(figure_of("rungs"), "rungs", [run, other, "--units", "clusters", "--arm", "frozen", "--law", "well-specified", "-o", str(out)])
    table = pd.read_csv(out.with_suffix(".csv"))
    assert table["folder"].unique().tolist() == ["base", "3"] and table["unit"].unique().tolist() == [0, 1]
    assert table["panel"].nunique() == 6


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("rungs", "comparison", "holds a comparison of methods"),
        ("rungs", "ablation", "holds an ablation, whose runs lie in its folder runs"),
        ("decomposition", "run", "is a run; give the folder of a comparison, which proteus-bounds compare makes"),
        ("prediction", "comparison", "is a comparison; give the folder of an ablation, which proteus-bounds ablate makes"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_line(name, kind, said, folders, tmp_path, capsys):
    refused(name, [str(folders[kind])], said, tmp_path, capsys)


def refused(name, given, said, tmp_path, capsys, out="out.pdf"):
    place = tmp_path / "figures"
    place.mkdir()
    with pytest.raises(SystemExit) as stopped:
        main(figure_of(name), name, [*given, "-o", str(place / out)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error
    assert error.startswith("error: ") and error.count("\n") == 1 and not list(place.iterdir())


@pytest.fixture
def copied(folders, tmp_path):
    return shutil.copytree(folders["run"], tmp_path / "copied")


def test_an_unfinished_run_is_refused(copied, tmp_path, capsys):
    about = read_json(copied / "run.json")
    del about["phases_seconds"]
    write_json(copied / "run.json", about)
    refused("phases", [str(copied)], "holds a run that did not finish", tmp_path, capsys)


def test_a_run_of_an_older_schema_is_refused(copied, tmp_path, capsys):
    write_json(copied / "report.json", read_json(copied / "report.json") | {"schema_version": 0})
    refused("rungs", [str(copied)], "has schema 0", tmp_path, capsys)


def test_a_run_of_an_older_schema_that_is_known_is_drawn(copied, drawn):
    report = read_json(copied / "report.json")
    config = report["run"]["config"]
    config["compare"]["batches"] = config.pop("retrieval")["batches"]
    report["retrieval"] = [{key: value for key, value in row.items() if key != "batch_error"} for row in report["retrieval"]]
    write_json(copied / "report.json", report | {"schema_version": 1})
    (copied / "manifest.json").unlink(missing_ok=True)
    assert draw(figure_of("rungs"), [copied], {}, [".svg"])[".svg"] == drawn["rungs"][".svg"]


@pytest.mark.parametrize(("name", "kind"), [("decomposition", "comparison"), ("prediction", "ablation")])
def test_an_unfinished_or_older_comparison_or_ablation_is_refused(name, kind, folders, tmp_path, capsys):
    copy = shutil.copytree(folders[kind], tmp_path / "copy")
    file = copy / f"{kind}.json"
    write_json(file, read_json(file) | {"schema_version": 0})
    refused(name, [str(copy)], "has schema 0; this version reads", tmp_path, capsys)
    file.unlink()
    shutil.rmtree(tmp_path / "figures")
    refused(name, [str(copy)], f"that did not finish: {kind}.json is missing", tmp_path, capsys)


def test_a_damaged_report_is_refused(copied, tmp_path, capsys):
    report = read_json(copied / "report.json")
    report["overall"]["measured"]["error"] = 7
    write_json(copied / "report.json", report)
    refused("rungs", [str(copied)], "is no report of a run (overall.measured.error", tmp_path, capsys)


def test_a_run_without_embeddings_is_refused(copied, tmp_path, capsys):
    shutil.rmtree(copied / "embeddings")
    refused("embedding", [str(copied)], "kept no embeddings", tmp_path, capsys)


def test_no_folder_and_an_empty_one_are_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    refused("rungs", [str(tmp_path / "empty")], "holds no run", tmp_path, capsys)
    shutil.rmtree(tmp_path / "figures")
    refused("rungs", [str(tmp_path / "none")], "is no folder", tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("rungs", ["--arm", "none"], "none/mixture is not in the report"),
        ("rungs", ["--units", "all"], "choose tasks or clusters"),
        ("slack", ["--task", "none"], "choose from task-0, task-1, task-2"),
        ("embedding", ["--space", "9"], "is none of the tasks, 0 to 2"),
    ],
)
def test_options_that_do_not_fit_a_run_are_refused(name, options, said, folders, tmp_path, capsys):
    refused(name, [str(folders["run"]), *options], said, tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "options", "out", "said"),
    [
        ("separation", [], "out.jpeg", "ends in .jpeg; choose .pdf, .svg, .png"),
        ("separation", ["--dimensions", "8,x"], "out.pdf", "is no list of whole numbers"),
        ("separation", ["--dimensions", "2"], "out.pdf", "dimension: 2 has no room for 5 tasks"),
    ],
)
def test_options_of_synthetic_figures_are_checked(name, options, out, said, tmp_path, capsys):
    refused(name, options, said, tmp_path, capsys, out)


def test_a_number_may_not_be_given_twice():
    assert numbers("tasks", "2, 5") == [2, 5]
    with pytest.raises(InputError, match="twice"):
        numbers("tasks", "2,2")


def test_all_figures_at_once(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("paper_figures.__main__.NAMES", ("rungs", "decomposition", "prediction"))
    given = [part for kind, folder in folders.items() for part in (f"--{kind}", str(folder))]
    draw_all([*given, "-o", str(tmp_path / "build")])
    made = sorted(path.name for path in (tmp_path / "build").iterdir())
    assert made == sorted(f"{name}{suffix}" for name in ("rungs", "decomposition", "prediction") for suffix in (".pdf", ".png", ".csv"))
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_every_script_is_listed_shown_in_the_table_and_run_as_a_module():
    scripts = {path.stem for path in (ROOT / "paper_figures").glob("*.py")} - {"__init__", "__main__", "command", "style"}
    assert scripts == set(NAMES)
    page = (ROOT / "paper_figures/README.md").read_text("utf-8")
    for name in NAMES:
        assert f"| `{name}` |" in page
        source = (ROOT / "paper_figures" / f"{name}.py").read_text("utf-8")
        assert f'main(FIGURE, "{name}")' in source and source.count("def ") == 1
    code = subprocess.run([sys.executable, "-m", "paper_figures.rungs", "-h"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m paper_figures.rungs" in code.stdout


def test_fonts_can_be_read_and_a_script_without_glyphs_is_drawn_all_the_same():
    assert all(size >= 7 for key, size in STYLE.items() if key.endswith(("fontsize", "labelsize", "titlesize", "font.size")))
    with style():
        canvas = Canvas(figsize=(1, 1))
        canvas.text(0.5, 0.5, "\U00012000")
        assert Image.open(io.BytesIO(figure_bytes(canvas, ".png"))).size == (300, 300)


def test_scripts_hold_no_logic():
    for name in NAMES:
        tree = ast.parse((ROOT / "paper_figures" / f"{name}.py").read_text("utf-8"))
        kinds = [type(node) for node in ast.walk(tree)]
        assert ast.While not in kinds and ast.ClassDef not in kinds and ast.Try not in kinds, name


def test_pdf_streams_hold_no_time(drawn):
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", drawn["rungs"][".pdf"], flags=re.S):
        try:
            text = zlib.decompress(stream)
        except zlib.error:
            continue
        assert b"D:20" not in text
