"""What is generated in docs/ is what its sources say today."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mlopt.cli import VERBS
from mlopt.errors import kinds


@pytest.fixture(scope="module")
def generate(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", root / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current(root: Path) -> None:
    """In a process of its own: click keeps a command's help option as it was first shown, and other tests show some
    of them without their parent."""
    done = subprocess.run(
        [sys.executable, str(root / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout} run: make generate"


def test_the_terminal_does_not_change_the_pages(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = generate.command_line()
    monkeypatch.setenv("COLUMNS", "40")
    assert generate.command_line() == wide


def test_check_tells_a_stale_page(generate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generate, "HERE", tmp_path)
    assert generate.main(["--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "cli.md").write_text("old")
    assert generate.main(["--check"]) == 1


def test_every_code_and_every_verb_is_there(root: Path) -> None:
    codes = (root / "docs" / "exit-codes.md").read_text()
    for code in (0, 2, 130, *(kind.exit_code for kind in kinds())):
        assert f"\n| {code} | " in codes
    verbs = (root / "docs" / "cli.md").read_text()
    for verb in VERBS:
        assert f"\n## mlopt {verb}\n" in verbs
    assert "\n## mlopt cache gc\n" in verbs


def test_no_two_kinds_of_error_share_a_code() -> None:
    codes = [kind.exit_code for kind in kinds()]
    assert len(codes) == len(set(codes))
