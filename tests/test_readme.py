"""The README's Python runs exactly as printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parent.parent / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    np.savez("signatures.npz", means=np.array([[0.0, 0], [4, 0], [0, 4]]), covariances=np.stack([np.eye(2)] * 3), task=np.array([0, 1, 2]))
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "L5" in capsys.readouterr().out
