"""The page: well-formed, self-contained, escaped, and complete, for every kind of report."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report import made_reports

from mlopt.paths import folder
from mlopt.report.html import page_of, to_html
from mlopt.report.report import Report

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "formaction"}


class Page(HTMLParser):
    """Reads a page strictly: every tag that opens must close, in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} repeats an attribute: {attrs}"
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
        elif data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def said(self) -> str:
        return " ".join(self.words)


@pytest.fixture(params=made_reports.ALL)
def report(request: pytest.FixtureRequest) -> Report:
    made: Report = made_reports.ALL[request.param]()
    return made


def test_every_tag_closes_and_every_id_is_unique(report: Report) -> None:
    page = Page(to_html(report))
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_and_nothing_runs(report: Report) -> None:
    page = Page(to_html(report))
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in LOADS:
                assert value == "data:,", (tag, name, value)
    styles = "".join(page.styles) + "".join(attributes.get("style") or "" for _, attributes in page.tags)
    assert "url(" not in styles
    assert "@import" not in styles
    policy = next(attributes for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in str(policy["content"])


def test_the_only_addresses_are_names_of_xml(report: Report) -> None:
    addresses = set(re.findall(r"https?://[^\"'\s<]+", to_html(report)))
    assert addresses <= {"http://www.w3.org/2000/svg"}


def test_every_candidate_is_there_with_its_reason(report: Report) -> None:
    page = page_of(report)
    assert {row.candidate.name for row in page.table.rows} == {candidate.name for candidate in report.candidates}
    said = Page(to_html(report)).said
    for candidate in report.candidates:
        if candidate.name.isprintable():
            assert candidate.name in said
        if candidate.failure:
            assert candidate.failure in said


def test_every_number_in_the_table_has_its_grade_and_source(report: Report) -> None:
    cells = [cell for row in page_of(report).table.rows for cell in row.cells.values()]
    assert all(cell.source for cell in cells)
    assert all((cell.grade == "unmeasured") == (cell.text == "–") for cell in cells)


def test_markup_in_names_stays_text() -> None:
    html = to_html(made_reports.nasty())
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert '<script>alert("x")</script>' in Page(html).said


def test_columns_have_scopes_and_rows_have_names() -> None:
    page = Page(to_html(made_reports.labelled()))
    scopes = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert scopes
    assert set(scopes) == {"col", "row"}
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == 5
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set(str(attributes["aria-labelledby"]).split()) <= set(page.ids)


def test_the_verdict_comes_first_and_names_what_ships() -> None:
    words = Page(to_html(made_reports.labelled())).words
    first = next(i for i, word in enumerate(words) if "ships for this machine" in word)
    assert words[first].startswith("int8-static ships for this machine: 2.74× the speed of fp32, 3.84× smaller")
    assert first < words.index("Candidates")


def test_another_machine_shows_no_time_at_all() -> None:
    report = made_reports.elsewhere()
    said = Page(to_html(report)).said.partition("Steps")[0]
    assert "Nothing was timed: this machine is not jetson-orin-nano-8gb" in said
    # What is left of times are the budgets and how long the run took.
    assert set(re.findall(r"\d[\d.]* (?:ms|µs)", said)) == {"33.0 ms"}


def test_assumed_preprocessing_is_loud() -> None:
    assert page_of(made_reports.unlabelled()).warnings[0].startswith("Nobody declared the preprocessing")
    assert not page_of(made_reports.labelled()).warnings
    assert 'class="loud"' in to_html(made_reports.unlabelled())
    assert 'class="loud"' not in to_html(made_reports.labelled())


def test_what_ships_outside_a_budget_is_shown_as_bad() -> None:
    report = made_reports.labelled()
    page = page_of(replace(report, winner="int4-weights"))
    assert page.tone == "bad"
    assert "missed: top-1 drop" in page.in_short
    assert page.warnings[0].startswith("What ships misses its budget: top-1 drop (upper 95 % bound) +11.7 pt")
    assert page_of(report).tone == "good"
    assert page_of(made_reports.elsewhere()).tone == "warn"
    assert page_of(made_reports.all_failed()).tone == "bad"


def test_an_emulated_number_never_looks_measured() -> None:
    report = made_reports.labelled()
    candidates = tuple(
        replace(one, measurement=replace(one.measurement, grade="emulated", device="qemu cortex-a76"))
        for one in report.candidates
        if one.measurement
    )
    report = replace(report, candidates=candidates)
    for row in page_of(report).table.rows:
        assert row.cells["p50"].grade == "emulated"
        assert "qemu cortex-a76" in row.cells["p50"].source
    assert any("emulated, not measured" in warning for warning in page_of(report).warnings)


def test_the_page_is_the_same_for_the_same_report() -> None:
    assert to_html(made_reports.labelled()) == to_html(made_reports.labelled())


def test_the_layers_of_a_platform_add_up() -> None:
    for _, total, layers in page_of(made_reports.labelled()).images:
        assert sum(layer.compressed for layer in layers) == total
        assert sum(layer.share for layer in layers) == pytest.approx(100)


def test_budgets_of_the_profile_have_units_and_unset_ones_are_not_shown() -> None:
    shown = dict(page_of(made_reports.labelled()).profile)
    assert shown["latency p99"] == "≤ 33.0 ms"
    assert shown["top-1 drop (upper 95 % bound)"] == "≤ +2.0 pt"
    assert "latency p50" not in shown


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_has_contrast_enough_to_be_read(scheme: str) -> None:
    """4.5 to 1, as WCAG 2.2 AA asks of text."""
    roots = re.findall(r":root \{([^}]*)\}", (folder("reports") / "report.css").read_text(encoding="utf-8"))
    block = roots[["light", "dark", "print"].index(scheme)]
    colors = {name: _luminance(value) for name, value in re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})\b", block)}
    for words, ground in (
        ("ink", "page"), ("ink", "card"), ("ink", "faint"), ("ink", "warn-soft"), ("soft", "page"), ("soft", "card"),
        ("soft", "faint"), ("soft", "out-soft"), ("good", "card"), ("good", "good-soft"), ("warn", "warn-soft"),
        ("bad", "card"), ("bad", "bad-soft"), ("base", "base-soft"), ("card", "good"), ("soft", "good-soft"),
    ):  # fmt: skip
        lighter, darker = sorted((colors[words], colors[ground]), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (words, ground)


def _luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(digit * 2 for digit in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
