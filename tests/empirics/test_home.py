"""The command for users without a home folder: nothing is said of it, and nothing is left anywhere but where the user said."""

from __future__ import annotations

import os
import subprocess
import sys

from synthetic_run import write_run

_CACHES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME")
# As for a number that no user bears, in a container.
_NAMELESS = "import pwd\ndef unknown(_): raise KeyError\npwd.getpwuid = unknown\n"
_COMMAND = "import sys; sys.argv[0] = 'proteus-bounds'; from empirics.entry import main; main()"
_CACHE = "from empirics.files.home import do_without_a_home; do_without_a_home(); import matplotlib; print(matplotlib.get_cachedir())"


def _said(code, tmp_path, *arguments, **environment):
    """Run code in a process of its own; returns what it wrote on standard output and error."""
    (tmp_path / "temporary").mkdir()
    # A folder in a file can be made by nobody, whoever runs the tests.
    (tmp_path / "file").write_text("no folder")
    kept = {name: value for name, value in os.environ.items() if name not in _CACHES}
    environment = {**kept, "TMPDIR": str(tmp_path / "temporary"), **{name: str(value) for name, value in environment.items()}}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    # Matplotlib says on a slow machine why it takes long.
    return done.stdout, "".join(line for line in done.stderr.splitlines() if "building the font cache" not in line)


def test_a_page_is_made_for_a_user_without_name_and_home(tmp_path):
    write_run(tmp_path / "run")
    told, warned = _said(_NAMELESS + _COMMAND, tmp_path, "report", tmp_path / "run", "--html", "--quiet")
    assert "The page is" in told and (tmp_path / "run" / "report.html").is_file() and warned == ""
    # PyTorch makes an empty folder for compiled code when it is imported.
    assert [path for path in (tmp_path / "temporary").iterdir() if not path.name.startswith("torchinductor") or any(path.iterdir())] == []


def test_a_home_that_cannot_be_written_is_done_without(tmp_path):
    cache, warned = _said(_CACHE, tmp_path, HOME=tmp_path / "file" / "home")
    assert str(tmp_path / "temporary") in cache and warned == ""
    assert not list((tmp_path / "temporary").iterdir())


def test_a_cache_lies_where_the_user_says(tmp_path):
    cache, warned = _said(_CACHE, tmp_path, HOME=tmp_path, MPLCONFIGDIR=tmp_path / "mine")
    assert cache.strip() == str(tmp_path / "mine") and warned == ""
    assert {path.name for path in tmp_path.iterdir()} == {"temporary", "file", "mine"}


def test_a_cache_that_cannot_lie_where_the_user_says_is_told(tmp_path):
    _, warned = _said(_CACHE, tmp_path, HOME=tmp_path, MPLCONFIGDIR=tmp_path / "file" / "mine")
    assert f"an issue with MPLCONFIGDIR ({tmp_path}" in warned
