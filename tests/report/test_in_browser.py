"""The pages in a real browser: nothing scrolls sideways but what may, nothing is complained of, colours follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Browser, find_chromium
from report import made_reports

from mlopt.history.compare import read_result
from mlopt.history.compare_page import Given, report_in
from mlopt.history.compare_page import to_html as compared
from mlopt.report.files import write_report

PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed: the reports are not opened in a browser"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name in ("labelled", "nasty"):
        (folder / name).mkdir()
        write_report(made_reports.ALL[name](), folder / name)
        found[name] = folder / name / "report.html"
    sides = [Given(name, read_result(folder / name), report_in(folder / name)) for name in ("labelled", "nasty")]
    found["compared"] = folder / "compared.html"
    found["compared"].write_text(compared(*sides), encoding="utf-8")
    return found


@pytest.mark.parametrize("name", ["labelled", "nasty", "compared"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (360, True)])
def test_a_page_fits_the_screen(pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    assert PROGRAM
    browser = Browser(PROGRAM, width=width, height=800, dark=dark)
    try:
        browser.open(pages[name].as_uri())
        assert browser.value("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        assert browser.problems == []
        ground = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(14, 18, 17)") is dark
        small = """[...document.querySelectorAll('svg text')].filter((one) => {
            const drawing = one.closest('svg');
            return parseFloat(getComputedStyle(one).fontSize) * drawing.clientWidth / drawing.viewBox.baseVal.width < 9;
        }).length"""
        assert browser.value(small) == 0, "words in a plot are too small to be read"
        assert browser.value("[...document.querySelectorAll('svg')].every((one) => one.clientWidth > 0)")
        if name != "compared":
            longest = "document.querySelector('.layers .fill').getBoundingClientRect().width"
            assert browser.value(longest) > 40
    finally:
        browser.close()
