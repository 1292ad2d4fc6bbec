"""The pages that people wrote: complete where completeness can be checked, without dead links, naming no machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from mlopt.cli import VERBS
from mlopt.project import CompileTable, HistoryTable, ModelSpec, PreprocessSpec, ProjectFile, SamplesTable
from mlopt.schema import keys_of
from mlopt.serving import ServeSpec
from mlopt.signature import InputSpec

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TABLES = {
    "model": ModelSpec,
    "inputs": InputSpec,
    "preprocess": PreprocessSpec,
    "samples": SamplesTable,
    "serve": ServeSpec,
    "history": HistoryTable,
}
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


def of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_the_pages_are_found() -> None:
    assert {"README.md", "AGENTS.md", "CHANGELOG.md", "docs/tutorial.md", "docs/decisions/README.md"} <= set(
        map(of, PAGES)
    )


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        aim = (page.parent / name).resolve() if name else page
        assert aim.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(aim), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_no_page_names_a_machine_or_a_place_of_it(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(?<![\w.])/(work|opt|root|home/\w+)/", text)
    assert not re.search(r"\b(pypi\.org|docker\.io/|ghcr\.io|quay\.io|nvcr\.io|deb\.debian\.org)", text)


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_code_blocks_are_closed_and_lines_are_readable(page: Path) -> None:
    text = page.read_text()
    assert text.count("\n```") % 2 == 0
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    long = [line for line in outside.splitlines() if len(line) > 130 and not line.startswith(("|", "-", "*"))]
    assert not long


def section(text: str, title: str) -> str:
    """From a heading to the next of its level."""
    found = re.search(rf"^## `\[{title}\]`$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"project-file.md has no section [{title}]"
    return found[1]


@pytest.mark.parametrize(("table", "cls"), [*TABLES.items(), ("compile", CompileTable)])
def test_every_key_of_the_project_file_is_explained(table: str, cls: type) -> None:
    text = section((ROOT / "docs" / "project-file.md").read_text(), table)
    keys = set(keys_of(cls))
    rows = {key for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for key in re.findall(r"`([\w-]+)`", row)}
    assert rows == keys
    for hint in get_type_hints(cls).values():
        assert all(str(choice) in text for choice in choices(hint))


def choices(hint: object) -> list[object]:
    """What a `Literal` somewhere in a type allows."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [choice for part in get_args(hint) for choice in choices(part)]


def test_choices_are_found() -> None:
    assert "keras-tf" in choices(get_type_hints(PreprocessSpec)["preset"])


def test_every_table_of_the_project_file_is_explained() -> None:
    assert set(keys_of(ProjectFile)) == {*TABLES, "compile"}


@pytest.mark.parametrize(
    "block", re.findall(r"```toml\n(.*?)```", (ROOT / "docs/project-file.md").read_text(), re.DOTALL)
)
def test_examples_of_the_project_file_are_read(block: str, tmp_path: Path) -> None:
    from mlopt.project import read_project

    (tmp_path / "mlopt.toml").write_text(block)
    assert read_project(tmp_path / "mlopt.toml").file


def test_the_readme_names_every_verb_extra_and_folder() -> None:
    text = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert re.search(rf"^\| .*`{verb}`", text, re.MULTILINE), verb
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in extras:
        assert re.search(rf"^\| .*`{extra}`", text, re.MULTILINE), extra
    folders = re.findall(r"^(\w+)/ ", text.partition("## The map")[2], re.MULTILINE)
    assert len(folders) >= 8
    for folder in folders:
        assert (ROOT / folder).is_dir(), folder


def test_the_changelog_tells_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()


def test_every_decision_is_listed_and_says_three_things() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\]\((\d\d-[\w-]+\.md)\)", (folder / "README.md").read_text()))
    written = {path.name for path in folder.glob("[0-9]*.md")}
    assert listed == written
    for name in written:
        for part in ("**Context.**", "**Decision.**", "**Consequence.**"):
            assert part in (folder / name).read_text(), name
