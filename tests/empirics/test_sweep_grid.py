"""The cells of a sweep: combinations of settings, what is refused before any work, the hash of a cell, and which cells share a job."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from empirics.config import load_config
from empirics.sweep import identity
from empirics.sweep.grid import grid_path, read_grid, shipped_grids
from empirics.sweep.identity import cell_key
from empirics.sweep.run import jobs_of
from empirics.sweep.store import places
from theory.errors import InputError


@pytest.fixture
def grid(tmp_path):
    def write(**table):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump(table, sort_keys=False), "utf-8")
        return path

    return write


def keys(cells, folder):
    return [place.key for place in places(cells, folder)]


def test_a_product_takes_all_combinations_the_last_setting_fastest(grid):
    cells = read_grid(grid(preset="small", product={"seed": [3, 4], "signature.dimension": [2, 3, 4]}))
    assert [(c.config.seed, c.config.signature.dimension) for c in cells] == [(s, d) for s in (3, 4) for d in (2, 3, 4)]
    assert str(cells[1]) == "seed=3, signature.dimension=3"
    # All else is the preset's, and a thread.
    for cell in cells:
        wanted = load_config(preset="small", overrides=[f"{path}={value}" for path, value in cell.changes.items()])
        assert cell.config == wanted.model_copy(update={"threads": 1})


def test_settings_zipped_change_together(grid):
    together = [{"signature.dimension": [2, 3], "training.epochs": [5, 6]}]
    cells = read_grid(grid(product={"seed": [0, 1]}, zip=together))
    found = [(c.config.seed, c.config.signature.dimension, c.config.training.epochs) for c in cells]
    assert found == [(0, 2, 5), (0, 3, 6), (1, 2, 5), (1, 3, 6)]


def test_several_products_follow_one_another_and_a_cell_stands_once(grid):
    cells = read_grid(grid(product=[{"seed": [0, 1]}, {"signature.dimension": [32, 16]}]))
    # Dimension 32 is the default, so that the third is the first again.
    assert [(c.config.seed, c.config.signature.dimension) for c in cells] == [(0, 32), (1, 32), (0, 16)]


def test_presets_may_be_a_list_or_an_axis(grid):
    for table in ({"preset": ["small", "news-4t"]}, {"product": {"preset": ["small", "news-4t"]}}):
        cells = read_grid(grid(settings={"training": {"epochs": 2}}, **table))
        assert [c.config.stream.name for c in cells] == ["text-5t", "news-4t"]
        assert [c.config.stream.classes_per_task for c in cells] == [3, None]
        assert {c.config.training.epochs for c in cells} == {2}


def test_values_may_be_groups_and_lists(grid):
    adapters = [{"compose": False, "orthogonality": 0.0}, {"rank": 4}]
    cells = read_grid(grid(product={"adapter": adapters, "stream.tasks": [["a", "b"], ["b", "a"]]}))
    assert [(c.config.adapter.compose, c.config.adapter.rank) for c in cells[::2]] == [(False, 8), (True, 4)]
    assert [c.config.stream.tasks for c in cells[:2]] == [("a", "b"), ("b", "a")]


def test_a_comparison_is_one_seed_and_one_order_of_it(grid):
    cells = read_grid(grid(kind="compare", product={"seed": [2], "order": [0, 3]}, settings={"compare": {"reference": "ridge"}}))
    assert [(c.order, c.config.compare.seeds, c.config.compare.orders) for c in cells] == [(0, 1, 1), (3, 1, 4)]
    assert [c.order for c in read_grid(grid(kind="compare"))] == [0]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"product": {"training.epoch": [1]}}, r"cell training\.epoch=1: unknown key training\.epoch \(did you mean training\.epochs\?\)"),
        ({"product": {"seed": [0], "training.epochs": [1, 0]}}, r"cell seed=0, training\.epochs=0: training\.epochs: .*greater than"),
        ({"product": {"seed": [0, True]}}, "cell seed=True: seed: .*true and false"),
        ({"settings": {"training": {"epoch": 1}}}, r"settings: unknown key training\.epoch"),
        ({"preset": "smal"}, "preset 'smal' is unknown; choose from .*small"),
        ({"product": {"preset": [["small"]]}}, r"preset \['small'\] is unknown"),
        ({"produce": {"seed": [0]}}, r"unknown key produce \(did you mean product\?\)"),
        ({"kind": "ablate"}, "kind: .*'run' or 'compare'"),
        ({"product": {"seed": 3}}, "product.*valid list"),
        ({"product": {"seed": []}}, "seed has no values"),
        ({"product": []}, "has no cells"),
        ({"zip": [{"seed": [0, 1], "training.epochs": [1]}]}, r"as many values each: seed has 2, training\.epochs has 1"),
        ({"product": {"seed": [0]}, "zip": [{"seed": [1]}]}, "seed is given more than once"),
        ({"product": {"adapter": [{"rank": 2}], "adapter.rank": [3]}}, r"gives adapter\.rank twice"),
        ({"product": {"adapter.rank": [3], "adapter": [{"rank": 2}]}}, "gives adapter twice"),
        ({"product": {"adapter": [None], "adapter.rank": [3]}}, "a value for adapter as a whole"),
        ({"product": {"order": [1]}}, r"order is of comparisons; .*stream\.tasks"),
        ({"kind": "compare", "product": {"order": [-1]}}, "order is a number from 0 on, got -1"),
        ({"kind": "compare", "product": {"compare.seeds": [2]}}, r"compare\.seeds has no say in a sweep; give seed"),
        ({"kind": "compare", "settings": {"compare": {"orders": 2}}}, r"compare\.orders has no say in a sweep; give order"),
    ],
)
def test_what_is_no_grid_is_refused_naming_the_cell(grid, table, told):
    path = grid(**table)
    with pytest.raises(InputError, match=told) as error:
        read_grid(path)
    assert error.value.argument.startswith(str(path))


def test_shipped_grids_are_found_by_name_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"seeds", "orders"} <= set(shipped_grids())
    assert {name: len(read_grid(grid_path(name))) for name in ("seeds", "orders")} == {"seeds": 12, "orders": 8}
    (tmp_path / "seeds").write_text("preset: small")
    assert len(read_grid(grid_path("seeds"))) == 1


def test_the_key_is_the_hash_of_all_that_matters_and_of_nothing_else(grid, tmp_path, monkeypatch):
    table = tmp_path / "own.csv"
    table.write_text("text,label,task\n")
    own = {"settings": {"stream": {"path": str(table)}}}
    [first] = keys(read_grid(grid(**own)), tmp_path)
    assert re.fullmatch("[0-9a-f]{64}", first)
    # Spelled out, in another way, or with settings of comparisons: the same run.
    same = {"stream": {"path": str(table)}, "training": {"epochs": 3}, "threads": 1, "compare": {"keys": 9}}
    assert keys(read_grid(grid(settings=same)), tmp_path) == [first]
    assert keys(read_grid(grid(**own, product={"seed": [0]})), tmp_path) == [first]
    others = [keys(read_grid(grid(**own, **more)), tmp_path)[0] for more in ({"product": {"seed": [1]}}, {"kind": "compare"})]
    others += keys(read_grid(grid(settings=own["settings"] | {"threads": 2})), tmp_path)
    # The same settings on other data, and with another version.
    table.write_text("text,label,task\na,b,c\n")
    identity._digest.cache_clear()
    others += keys(read_grid(grid(**own)), tmp_path)
    newer = {**identity.versions(), "torch": "99"}
    monkeypatch.setattr(identity, "versions", lambda: newer)
    others += keys(read_grid(grid(**own)), tmp_path)
    assert len({first, *others}) == 6


def test_a_key_can_be_computed_by_anybody(grid, tmp_path):
    [place] = places(read_grid(grid(preset="small")), tmp_path)
    assert cell_key(json.loads(json.dumps(dict(reversed(place.about.items()))))) == place.key
    assert place.about["config"] == place.cell.config.model_dump(mode="json")
    assert {"numpy", "torch", "proteus-bounds", "python"} <= set(place.about["versions"])


def test_files_that_are_missing_are_told_with_their_cell(grid, tmp_path):
    path = grid(product={"stream.path": [str(tmp_path / "none.csv")]})
    with pytest.raises(InputError, match=r"cell stream\.path=.*none\.csv cannot be read"):
        places(read_grid(path), tmp_path)


def test_a_key_depends_on_every_module_that_computes_and_on_no_other():
    root = Path(identity.__file__).parents[2]
    for package, names in identity._SHOWING.items():
        assert all((root / package / name).exists() for name in names)
    found = {path.relative_to(root).as_posix() for path in identity.computing(root)}
    assert {"theory/ladder.py", "empirics/runs/pipeline.py", "empirics/retrieval/signatures.py", "empirics/sweep/rows.py"} <= found
    assert not [path for path in found if path.startswith(("empirics/figures", "empirics/page", "empirics/cli"))]


def test_what_trains_alike_stays_together_unless_a_worker_would_be_idle(grid, tmp_path):
    found = places(read_grid(grid(product={"signature.dimension": [2, 3, 4, 5], "seed": [0, 1]})), tmp_path)
    for workers, sizes in ((1, [4, 4]), (2, [4, 4]), (3, [2, 2, 4]), (4, [2, 2, 2, 2]), (20, [1] * 8)):
        groups = jobs_of(found, workers)
        assert [len(group) for group in groups] == sizes
        assert sorted(place.key for group in groups for place in group) == sorted(place.key for place in found)
        assert all(len({place.cell.config.seed for place in group}) == 1 for group in groups)
    # Trainings that share a frozen pass are beside each other.
    mixed = places(read_grid(grid(product={"adapter.rank": [2, 3], "seed": [0, 1]})), tmp_path)
    assert [group[0].cell.config.seed for group in jobs_of(mixed, 1)] == [0, 0, 1, 1]


def test_orders_of_one_comparison_share_a_job(grid, tmp_path):
    cells = read_grid(grid(kind="compare", product={"order": [0, 1, 2], "seed": [0, 1]}))
    assert [[place.cell.order for place in group] for group in jobs_of(places(cells, tmp_path), 2)] == [[0, 1, 2]] * 2


def test_an_empty_grid_starts_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# product:\n")
    with pytest.raises(InputError, match=r"empty\.yaml.*is empty; name a preset"):
        read_grid(tmp_path / "empty.yaml")
