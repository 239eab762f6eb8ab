"""The table of licences in docs/reference/licences.md, of every package that the locks hold: `make licences`.

Licences are what the installed packages state of themselves, as pip-licenses reads it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

from lock import ROOT, SUPPLY, blocks, pins

PAGE = ROOT / "docs" / "reference" / "licences.md"
_BLOCK = re.compile(r"(<!-- packages -->\n)(.*?)(<!-- end -->)", flags=re.S)
_LAYERS = {"run": "set-up", "materials": "set-up", "torch": "set-up", "notebooks": "notebooks", "docs": "documentation", "tools": "tools"}


def locked() -> dict[str, tuple[str, str]]:
    """Version and first user of every package of the locks, by name."""
    found: dict[str, tuple[str, str]] = {}
    for layer, user in _LAYERS.items():
        for pin in pins((SUPPLY / f"{layer}.txt").read_text("utf-8")):
            name, _, version = pin.partition("==")
            found.setdefault(name, (version, user))
    return found


def elsewhere() -> set[str]:
    """Packages that some platforms alone install."""
    texts = [path.read_text("utf-8") for path in SUPPLY.glob("*.txt")]
    return {name for text in texts for name, block in blocks(text).items() if ";" in block.split("\\")[0]}


def table() -> str:
    """The table, a row for each package."""
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--format=json", "--with-system"]
    stated = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    licences = {re.sub(r"[-_.]+", "-", row["Name"]).lower(): row["License"] for row in stated}
    rows = ["| package | version | used by | licence |", "| --- | --- | --- | --- |"]
    missing = []
    for name, (version, user) in sorted(locked().items()):
        if name in licences:
            licence = "not in its metadata; see above" if licences[name] == "UNKNOWN" else licences[name]
            rows.append(f"| {name} | {version} | {user} | {licence} |")
        elif name in elsewhere():
            missing.append(name)
        else:
            raise SystemExit(f"{name} is not installed: run make licences")
    return "\n".join([*rows, "", f"Other platforms or Pythons also install {', '.join(missing)}.", ""])


def main() -> None:
    """Write the table into the page."""
    made = table()
    PAGE.write_text(_BLOCK.sub(lambda block: f"{block[1]}{made}{block[3]}", PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
