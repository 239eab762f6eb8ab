"""`empirics.config`: YAML and TOML files, and overrides."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from hypothesis import strategies as st
from mutator import Files
from target import Target, only

from empirics.config import RunConfig, load_certify_config, load_config

_GROUPS = {name: list(info.default.model_fields) for name, info in RunConfig.model_fields.items() if hasattr(info.default, "model_fields")}
_YAML = b"""# settings
seed: 3
stream: {name: news-4t, tasks: [comp, rec], train_per_class: 12}
training:
  epochs: 2
  learning_rate: 1.0e-3
backbone: {device: cpu, layers: null}
retrieval: {batches: [2, 8]}
"""
_TOML = b'seed = 3\n[stream]\npath = "own.csv"\ncolumns = {text = "body"}\nignore = ["id"]\n[bounds]\nconfidence = 0.9\nstudent = 5.0\n'
_SET = b"training.epochs=2\nstream.tasks=[a, b]\nbounds.kl=0.5\nadapter.alpha=0.25\nbackbone.path=model\n"
_CERTIFY = b"signature.dimension=4\nrule=all\n"

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["max", "auto", "1:60:60", "2020-13-45", "0x_", ".inf", "1_000", "yes", "~"]),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """Known and unknown keys with values of every kind."""
    data: dict[str, object] = {}
    for _ in range(draw(st.integers(0, 4))):
        group = draw(st.sampled_from([*_GROUPS, "seed", "threads", "x"]))
        if group in _GROUPS and draw(st.integers(0, 5)):
            inside = data.setdefault(group, {})
            if isinstance(inside, dict):
                inside[draw(st.sampled_from([*_GROUPS[group], "x"]))] = draw(_VALUES)
        else:
            data[group] = draw(_VALUES)
    kind = draw(st.sampled_from(["yaml", "json", "set"]))
    if kind == "set":
        lines = [
            f"{group}.{key}={json.dumps(value)}"
            for group, inside in data.items()
            if isinstance(inside, dict)
            for key, value in inside.items()
        ]
        return {"overrides.set": "\n".join(lines).encode("utf-8", "surrogatepass")}
    text = json.dumps(data) if kind == "json" else yaml.safe_dump(data, allow_unicode=draw(st.booleans()))
    return {"settings.yaml": text.encode("utf-8", "surrogatepass")}


def _read(folder: Path) -> object:
    path = only(folder)
    if path.suffix not in (".set", ".certify"):
        return load_config(path)
    lines = path.read_bytes()[: 2**20].decode("utf-8", "surrogateescape").split("\n") if path.is_file() and not path.is_symlink() else []
    lines = [line for line in lines if line]
    return load_config(overrides=lines) if path.suffix == ".set" else load_certify_config({}, lines)


TARGET = Target(
    "settings",
    lambda: [{"settings.yaml": _YAML}, {"settings.toml": _TOML}, {"overrides.set": _SET}, {"overrides.certify": _CERTIFY}],
    _read,
    _structured(),
    tokens=(
        *(
            b"&a",
            b"*a",
            b"<<: *a",
            b"<<: [*a, *a, *a]",
            b"&a [*a, *a]",
            b"!!python/name:os.system",
            b"!!binary x",
            b"!!timestamp x",
            b"!!float x",
            b"!!int '_'",
        ),
        *(
            b"---\n",
            b"...\n",
            b"%YAML 9.9\n",
            b"? ",
            b"|",
            b">",
            b"[[a]]\n",
            b"[a.b.c]\n",
            b"'''",
            b'"""',
            b"1979-05-27T07:32:00Z",
            b"0x" + b"f" * 5000,
        ),
        *(
            b"." * 2000,
            b"=",
            b"stream.",
            b"{a: " * 500,
            b"- " * 500,
            b"[" * 500,
            b"1:" * 3000 + b"1",
            b"a: &a {x: 1}\nb: &b {<<: [*a,*a]}\n",
            b"stream",
            b"tasks",
        ),
    ),
)
