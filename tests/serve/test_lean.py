"""Libraries imported without some of their modules: those come when they are asked for, and at once where they must."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlopt.serve.lean import imported


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that takes a name from a module of its own."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "__init__.py").write_text("from big.heavy import kind\n")
    (tmp_path / "big" / "heavy.py").write_text("kind = 'real'\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("big", "big.heavy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "big"


def test_a_stand_in_is_there_for_as_long_as_the_import(library: str) -> None:
    imported(library, without=("big.heavy",), kind="stand-in")
    assert sys.modules["big"].kind == "stand-in"
    assert "big.heavy" not in sys.modules
    from big import heavy

    assert heavy.kind == "real"


def test_a_version_that_wants_more_is_imported_whole(library: str) -> None:
    imported(library, without=("big.heavy",))
    import big

    assert big.kind == "real"


def test_what_is_imported_already_stays(library: str) -> None:
    import big

    imported(library, without=("big.heavy",), kind="stand-in")
    assert big.kind == "real"
    assert "big.heavy" in sys.modules


def test_numpy_without_them_computes_and_annotates() -> None:
    """And where it wanted more of them than it is given, it is imported after all."""
    lean = "from mlopt.serve.lean import imported; imported('numpy', without=('numpy._typing',){}); import numpy as np;"
    does = " import numpy.typing; print(np.linalg.norm([3.0, 4.0]), numpy.typing.NDArray[np.int8])"
    for given in (", NDArray=list", ""):
        ask = [sys.executable, "-c", lean.format(given) + does]
        done = subprocess.run(ask, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["5.0", "numpy.ndarray[tuple[typing.Any,", "...],", "numpy.dtype[numpy.int8]]"]
