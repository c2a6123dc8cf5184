"""The report, and several runs on one page, in headless Chromium: no errors, no requests, sorting,
filtering and switching, every image, and axe-core's accessibility checks, at three widths, light,
dark and on paper.

    make test-page                               # the digits run of the tests
    REPORT_PAGES=a.html,b.html make test-page    # any reports
"""

import os
import shutil
from pathlib import Path

import pytest
from helpers import read_csv

import report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (390, 1280, 2560)
SCHEMES = ("light", "dark")
sync = pytest.importorskip("playwright.sync_api", reason="needs playwright (requirements-page.txt)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, a package of the distribution"),
]


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(request, tmp_path_factory):
    """The pages under test: those that REPORT_PAGES names, else one of the tests' digits run."""
    if named := os.environ.get("REPORT_PAGES"):
        return [Path(name).resolve() for name in named.split(",")]
    import neural_collapse
    import ood_methods

    run = request.getfixturevalue("digits_run")
    place = tmp_path_factory.mktemp("page") / "results"
    shutil.copytree(run.output_dir, place)
    words = ["--checkpoint", str(place / run.checkpoint.name), "--output-dir", str(place)]
    ood_methods.main(words)
    neural_collapse.main(words)
    report.main(words)
    return [place / run.folder.name / "report.html"]


@pytest.fixture(scope="module")
def comparison(pages):
    """compare.html of the first report's run and a copy of it under another name."""
    folder = pages[0].parent
    other = folder.with_name(f"{folder.name}_again")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    place = folder.parent / "compared"
    report.main(["--checkpoint", str(folder), str(other), "--output-dir", str(place)])
    return place / "compare.html"


@pytest.fixture(scope="module")
def all_pages(pages, comparison):
    return [*pages, comparison]


class Watched:
    """A page that is open, with all that the browser complained of or asked for."""

    def __init__(self, browser, path, width=1280, scheme="light", scripts=True):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def column(self, head):
        """The cells in sight of a column of the table of methods, as texts."""
        return self.page.evaluate(
            """head => {
                const table = document.querySelector("table.matrix");
                const place = [...table.tHead.rows[0].cells].findIndex(
                    cell => cell.textContent.trim().startsWith(head));
                return [...table.tBodies[0].rows].filter(row => !row.hidden)
                    .map(row => row.cells[place].dataset.auroc ?? row.cells[place].textContent);
            }""",
            head,
        )


def set_head(watched, place):
    """The name of the column at a place of the table of methods."""
    button = watched.page.locator("table.matrix thead button").nth(place)
    return button.evaluate("button => button.firstChild.textContent.trim()")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_errors_requests_or_broken_images(browser, all_pages, width, scheme):
    for path in all_pages:
        with Watched(browser, path, width, scheme) as watched:
            page = watched.page
            page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
            page.wait_for_function("[...document.images].every(image => image.complete)")
            broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert watched.complaints == []
            assert watched.requests == [path.as_uri()], "nothing but the page itself"
            assert broken == 0
            assert wide <= width, "the page as a whole never scrolls sideways"


@pytest.mark.parametrize(
    "width, scheme",
    [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark"), (2560, "dark")],
)
def test_axe_finds_no_serious_fault(browser, all_pages, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")
    for path in all_pages:
        with Watched(browser, path, width, scheme) as watched:
            watched.page.evaluate(
                "document.querySelectorAll('details').forEach(f => f.open = true)"
            )
            found = axe.Axe().run(watched.page).response["violations"]
            grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
            assert not grave, [(one["id"], one["nodes"][0]["html"][:200]) for one in grave]


def test_any_column_sorts_both_ways_and_says_so(browser, pages):
    for path in pages:
        with Watched(browser, path) as watched:
            page = watched.page
            page.locator("#all-rows").click()
            head = page.locator("table.matrix thead th").nth(2)
            name = set_head(watched, 2)
            falling = [float(cell) for cell in numeric(sorted_column(watched, head, name))]
            assert falling == sorted(falling, reverse=True)
            assert head.get_attribute("aria-sort") == "descending"
            rising = [float(cell) for cell in numeric(sorted_column(watched, head, name))]
            assert rising == sorted(rising) and head.get_attribute("aria-sort") == "ascending"
            assert name in page.locator("#sorted").text_content()
            methods = page.locator("table.matrix thead th").first
            methods.locator("button").click()
            names = watched.column("Method")
            assert [one.lower() for one in names] == sorted(one.lower() for one in names)


def sorted_column(watched, head, name):
    head.locator("button").click()
    return watched.column(name)


def numeric(cells):
    """Cells that hold a number; those without stand last, whichever way it is sorted."""
    defined = [cell for cell in cells if cell.replace(".", "", 1).replace("e-", "", 1).isdigit()]
    assert cells[: len(defined)] == defined
    return defined


def test_a_family_filters_the_table_and_the_keyboard_reaches_it(browser, pages):
    for path in pages:
        with Watched(browser, path) as watched:
            page = watched.page
            family = page.locator("#family option").nth(1).text_content()
            page.locator("#family").focus()
            page.keyboard.press("ArrowDown")
            shown = page.locator("table.matrix tbody tr:not([hidden])")
            families = shown.evaluate_all("rows => rows.map(row => row.dataset.family)")
            assert families and set(families) == {family}
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == "measure"
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className").startswith(("sort", "scroll"))


def test_one_control_switches_line_curves_and_images(browser, pages):
    for path in pages:
        with Watched(browser, path) as watched:
            page = watched.page
            state = """() => [document.querySelector("#line").textContent,
                document.querySelector("#histogram").innerHTML,
                document.querySelector("#roc").innerHTML,
                document.querySelector("#scatter").innerHTML,
                document.querySelector("#taken").textContent,
                [...document.querySelectorAll("ul[data-wall] span")]
                    .map(one => one.textContent).join()]"""
            before = page.evaluate(state)
            page.locator("#method").select_option("MSP")
            after = page.evaluate(state)
            assert all(one != other for one, other in zip(before, after, strict=True))
            assert after[0].startswith("MSP: the confidence of the predicted class")
            assert page.locator("#line").get_attribute("aria-live") == "polite"
            linear = page.locator("#roc").inner_html()
            page.locator("#logarithmic").check()
            assert page.locator("#roc").inner_html() != linear
            against = page.locator("#scatter").inner_html()
            page.locator("#against").select_option("Energy")
            assert page.locator("#scatter").inner_html() != against
            assert "Energy's alone" in page.locator("#scatter-caption").text_content()
            rows = page.locator("#taken tbody tr").all_text_contents()
            assert rows and all(row.strip() for row in rows)
            assert watched.complaints == []


def test_a_method_of_the_table_is_shown_by_its_name(browser, pages):
    for path in pages:
        with Watched(browser, path) as watched:
            button = watched.page.locator("table.matrix tbody button.show").nth(3)
            name = button.text_content()
            button.click()
            assert watched.page.locator("#method").input_value() == name


def test_without_scripts_all_methods_and_the_best_ones_images_are_there(browser, pages):
    for path in pages:
        with Watched(browser, path, scripts=False) as watched:
            page = watched.page
            rows = page.locator("table.matrix tbody tr")
            assert rows.count() == read_csv(path.parent / "ood_metrics.csv")["method"].nunique()
            assert rows.last.is_visible() and not page.locator("#switch").is_visible()
            assert page.locator("ul[data-wall] img").first.is_visible()


def test_on_paper_all_is_unfolded_and_shaded(browser, pages):
    for path in pages:
        with Watched(browser, path) as watched:
            page = watched.page
            printed = page.pdf()
            assert printed.startswith(b"%PDF")
            page.evaluate("dispatchEvent(new Event('beforeprint'))")
            assert page.locator("details:not([open])").count() == 0
            assert page.locator("table.matrix tbody tr[hidden]").count() == 0
            page.emulate_media(media="print")
            cell = page.locator("td.best").first
            assert cell.evaluate("one => getComputedStyle(one).printColorAdjust") == "exact"
            page.set_viewport_size({"width": 681, "height": 900})  # A4 within its margins
            assert page.evaluate("document.documentElement.scrollWidth") <= 681
            assert watched.complaints == []


def test_a_comparison_needs_no_script_and_unfolds_on_paper(browser, comparison):
    with Watched(browser, comparison, width=390, scripts=False) as watched:
        page = watched.page
        assert page.locator("p.answer").first.is_visible()
        assert page.locator("table.matrix").first.is_visible()
        assert page.locator("img").count() >= 1
        page.emulate_media(media="print")
        assert page.locator("details table").first.is_visible()
        page.set_viewport_size({"width": 681, "height": 900})  # A4 within its margins
        assert page.evaluate("document.documentElement.scrollWidth") <= 681
        assert watched.complaints == []
