"""The page in a real browser: what is seen, by keyboard, in both colour schemes, on a narrow screen, by a screen reader, and offline."""

from __future__ import annotations

import re
import shutil
import time

import pytest
from synthetic_run import HOSTILE, write_run

from empirics.comparisons.run_comparison import compare_runs
from empirics.page.fields import document
from empirics.page.model import plain
from empirics.page.phrases import verdict
from empirics.page.write import write_comparison_page, write_run_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome on the path"),
    # Of the browser's driver, not of ours.
    pytest.mark.filterwarnings("default::ResourceWarning"),
]
_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# WCAG 2.2, relative luminance and contrast.
_CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const luminance = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, j) => sum + v * [0.2126, 0.7152, 0.0722][j], 0);
  const ground = (element) => { for (; element; element = element.parentElement) {
    const colour = rgb(getComputedStyle(element).backgroundColor); if (colour[3] === 255) return colour; } return [255, 255, 255, 255]; };
  const out = {};
  for (const element of document.querySelectorAll("body *:not(script):not(style)")) {
    const worded = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!worded || element.closest("svg") || !element.checkVisibility()) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(ground(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = element.tagName + "." + element.className + " in " + element.parentElement.className;
    out[name] = Math.min(out[name] ?? 99, ratio);
  }
  return out;
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=_QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    report = write_run(folder, gap=0.8, surprise=1.5)
    return report, write_run_page(folder)


@pytest.fixture(scope="module")
def side(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    write_run(folder / "b", gap=0.8, seed=1)
    write_comparison_page(compare_runs([run[1].parent, folder / "b"]), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def visit(browser):
    """Open a page offline; whatever it asks for, says on the console or throws is a failure."""
    opened = []

    def visit(path, **options):
        context = browser.new_context(offline=True, **options)
        page = context.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        opened.append((context, page, asked, said, path.as_uri()))
        return page

    yield visit
    for context, page, asked, said, uri in opened:
        page.wait_for_timeout(50)
        assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {uri}
        assert said == []
        context.close()


def _drawn(page):
    page.wait_for_selector("figure.drawn .chart svg", timeout=30_000)


def test_it_opens_with_the_verdict_and_every_rung(run, visit):
    report, path = run
    page = visit(path)
    assert page.inner_text(".verdict") == plain(verdict(document(report.model_dump(mode="json"), "report.json")))
    rows = page.locator("#ladder table").first.locator("tbody tr")
    assert [row.locator("th").inner_text() for row in rows.all()] == list(report.overall.rungs)
    for row, rung in zip(rows.all(), report.overall.rungs.values(), strict=True):
        cell = row.locator("td").first
        style = cell.evaluate("c => getComputedStyle(c.querySelector('s') || c).textDecorationLine")
        assert (style == "line-through") == (not rung.guarantee and not rung.vacuous)
        assert ("vacuous" in cell.inner_text()) == rung.vacuous


def test_values_are_shown_when_pointed_at(run, visit):
    report, path = run
    page = visit(path, viewport={"width": 1200, "height": 900})
    _drawn(page)
    assert not page.locator("figure.drawn > .scroll").is_visible()
    marks = page.locator("#figure-rungs .chart .mark-symbol path")
    assert marks.count() >= len(report.overall.rungs) * (len(report.tasks) + 1)
    page.locator("#figure-rungs .chart .mark-symbol.role-mark path").first.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "at most" in page.inner_text("#vg-tooltip-element")
    # No menu that leads elsewhere.
    assert page.locator("summary, .vega-actions").count() == 0


def test_without_scripts_all_of_it_stands(run, visit):
    page = visit(run[1], java_script_enabled=False)
    assert page.locator("figure > .scroll > svg").count() == 3
    assert page.locator("figure > .scroll > svg").first.is_visible()
    assert not page.locator("#scheme").is_visible()
    assert page.locator("tbody tr").count() > 40


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_it_never_scrolls_sideways(run, side, visit, width):
    for path in (run[1], side):
        page = visit(path, viewport={"width": width, "height": 800})
        if width >= 768 and path == run[1]:
            _drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Tables scroll inside their own container, and only there.
        wide = page.evaluate("[...document.querySelectorAll('table')].every(t => t.closest('.scroll').clientWidth <= innerWidth)")
        assert wide


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_easily_in_both_schemes(run, side, visit, scheme):
    for path in (run[1], side):
        page = visit(path, color_scheme=scheme, viewport={"width": 1200, "height": 900})
        faint = {name: round(ratio, 2) for name, ratio in page.evaluate(_CONTRASTS).items() if ratio < 4.5}
        assert faint == {}
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 384) == (scheme == "light")
        # Text of a drawing takes the colour of the page.
        if path == run[1]:
            colours = page.evaluate(
                "[[document.querySelector('figure svg text'), 'fill'], [document.body, 'color']].map(([e, p]) => getComputedStyle(e)[p])"
            )
            assert colours[0] == colours[1]


def test_it_is_used_by_keyboard_alone(run, visit):
    page = visit(run[1], color_scheme="light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(run[1].as_uri())
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "scheme"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("Space")
    assert page.get_attribute("#scheme", "aria-pressed") == "true"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#tasks")
    # A wide table is reached and scrolled.
    page.set_viewport_size({"width": 360, "height": 800})
    page.focus("#tasks .scroll")
    page.keyboard.press("ArrowRight")
    deadline = time.monotonic() + 20
    while page.evaluate("document.querySelector('#tasks .scroll').scrollLeft") == 0:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def test_a_screen_reader_finds_its_way(run, visit):
    page = visit(run[1], viewport={"width": 1200, "height": 900})
    _drawn(page)
    session = page.context.new_cdp_session(page)
    nodes = [n for n in session.send("Accessibility.getFullAXTree")["nodes"] if not n.get("ignored")]
    of = {}
    for node in nodes:
        of.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert of["heading"][0] == "Verified run: drawn, seed 0"
    assert len(of["main"]) == len(of["banner"]) == len(of["navigation"]) == 1
    assert of["navigation"] == ["Contents"]
    assert {"The ladder", "Where the slack goes", "Settings and provenance"} <= set(of["region"])
    # Every table and figure has a name, and a figure's is its message.
    assert all(of["table"]) and len(of["table"]) >= 7
    images = of.get("image", []) + of.get("img", [])
    assert any(name.startswith("Measured error with its interval against every rung") for name in images)
    assert not [role for role in of if role.startswith("graphics")]
    assert len(images) == 3 and all(len(name) > 60 for name in images)
    assert all(of["link"]) and all(of["button"]) and all(of["columnheader"])
    # What is struck through is said in words where it stands.
    cells = " ".join(of["cell"])
    assert all(word in cells for word in ("(no guarantee)", "(contradicted)", "(guarantee)", "vacuous"))


def test_hostile_names_do_nothing(tmp_path, visit):
    write_run(tmp_path, tasks=HOSTILE)
    page = visit(write_run_page(tmp_path), viewport={"width": 1200, "height": 900})
    _drawn(page)
    page.locator("#figure-rungs .chart .mark-symbol.role-mark path").first.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert page.evaluate("window.hostile") is None
    assert page.locator("img, iframe, object, embed").count() == 0
    assert next(iter(HOSTILE)) in page.inner_text("#tasks")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200


def test_it_prints_whole_and_in_light_colours(run, visit, tmp_path):
    page = visit(run[1], color_scheme="dark", viewport={"width": 1050, "height": 700})
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    clipped = page.evaluate("[...document.querySelectorAll('.scroll')].filter(s => getComputedStyle(s).overflowX !== 'visible').length")
    assert clipped == 0
    # Nor does any table reach beyond the paper, A4 across.
    page.set_viewport_size({"width": 1017, "height": 700})
    assert page.evaluate("[...document.querySelectorAll('table')].filter(t => t.offsetWidth > t.parentElement.offsetWidth).length") == 0
    # The drawing prints, not the chart that takes its place on screen.
    assert page.locator("#figure-rungs > .scroll").is_visible()
    assert not page.locator("nav").is_visible()
    assert len(page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)) > 10_000


def test_downloads_are_files(run, visit):
    page = visit(run[1])
    with page.expect_download() as waited:
        page.click("a[download='bounds.csv']")
    assert waited.value.path().read_bytes().startswith(b"\xef\xbb\xbfarm,dimension,law")


def test_the_side_by_side_page_opens(side, visit):
    page = visit(side)
    assert page.inner_text("h1") == "Runs side by side: A, B"
    assert page.locator("#differences table").count() == 2
