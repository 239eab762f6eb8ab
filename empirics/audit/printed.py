"""What people read, against the files that it is printed from: the text and the page.

Both are printed again by the project's own code, which says what belongs on which line; that the numbers of the tables are the right ones,
and rounded to the safe side, is read without it.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, Tally
from empirics.reports.report import Report, markdown
from empirics.runs.machine import environment
from theory.errors import InputError

_MARKS = re.compile(r"\[x\]|!|vacuous|not rejected|rejected|-?\d+\.?\d*(?:e[-+]?\d+)?")
# What a page holds besides its text.
_UNREAD = ("script", "style")


def check_text(files: RunFiles) -> Check:
    """`report.md` line by line against what `report.json` says."""
    tally = Tally("report.md", "every number and mark of the text, and that bounds are rounded up", "printed again")
    told = (files.folder / "report.md").read_text("utf-8")
    expected = markdown(Report.model_validate(files.report))
    ours, its = expected.splitlines(), told.splitlines()
    tally.count += len(_MARKS.findall(told))
    if ours != its:
        tally.same("report.md: lines", len(its), len(ours))
        for number, (a, b) in enumerate(zip(its, ours, strict=False), start=1):
            if _MARKS.findall(a) != _MARKS.findall(b):
                tally.find(f"report.md, line {number}", f"is {a[:200]!r}, which is not what report.json says")
        if not tally.findings:
            tally.skip("the wording of report.md: it is not this version's, though every number and mark is right")
    _rounded_up(files, told, tally)
    return tally.check()


def _rounded_up(files: RunFiles, told: str, tally: Tally) -> None:
    """No bound of a table is below the one that it stands for; read without the code that wrote the table."""
    units = {(arm["arm"], arm["law"]): {u["name"]: u for u in [*arm["tasks"], arm["overall"]]} for arm in files.report["arms"]}
    order = iter(units)
    here, header = None, []
    for number, line in enumerate(told.splitlines(), start=1):
        if line.startswith("## "):
            here = next(order, None) if ", query law: " in line and not line.startswith("## Every") else None
            header = []
        elif here is not None and line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if "interval" in cells:
                header = cells
            elif header and len(cells) == len(header) and cells[0] in units[here]:
                rungs = units[here][cells[0]]["rungs"]
                for rung, cell in zip(header, cells, strict=True):
                    if rung in rungs and cell != "vacuous":
                        shown, value = float(cell.split()[-1]), rungs[rung]["value"]
                        tally.true(
                            f"report.md, line {number}, {rung}", value <= shown <= value * 1.0101 + 1e-300, f"shows {shown} for {value!r}"
                        )
            else:
                header = []


def check_page(files: RunFiles) -> Check:
    """`report.html` to the byte against what this version prints; numbers and marks of its text where another version wrote it."""
    tally = Tally("report.html", "the page, printed again from the report and the pieces of its slack", "printed again")
    path = files.folder / "report.html"
    if not path.is_file():
        tally.skip("report.html: the folder holds none")
        return tally.check()
    from empirics.page.html import need_report_extra

    try:
        need_report_extra()
    except InputError as error:
        tally.skip(f"report.html: {error.problem}")
        return tally.check()
    from empirics.page.write import printed_run_page

    told, expected = path.read_bytes(), printed_run_page(files.folder)
    tally.count += 1
    if told == expected:
        return tally.check()
    if _same_code(files):
        tally.find("report.html", "is not what this version prints from the run's files; proteus-bounds report RUN --html prints it anew")
    elif _marks_of_page(told) != _marks_of_page(expected):
        tally.find("report.html", "shows other numbers or marks than this version prints from the run's files")
    else:
        tally.skip("figures and wording of report.html: it is not this version's, though every number and mark of its text is right")
    return tally.check()


def _same_code(files: RunFiles) -> bool:
    """Whether the run was made by this version of the project, of this commit where it is a checkout."""
    there, here = files.about["environment"], environment()
    versions = [(about["packages"].get("proteus-bounds"), about["commit"]) for about in (there, here)]
    return versions[0] == versions[1]


class _Text(HTMLParser):
    """Gathers the text of a page that people read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self._inside = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._inside += tag in _UNREAD

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag in _UNREAD

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.read.append(data)


def _marks_of_page(page: bytes) -> list[str]:
    text = _Text()
    text.feed(page.decode("utf-8", "replace"))
    return _MARKS.findall(" ".join(text.read))
