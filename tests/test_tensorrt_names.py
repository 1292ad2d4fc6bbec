"""Every name of TensorRT for RTX that mlopt touches exists in its API, written down here: no wheel is needed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from mlopt.step import installed

API = json.loads((Path(__file__).parent / "tensorrt_rtx_api.json").read_bytes())
PROGRAM = Path(__file__).parents[1] / "mlopt" / "convert" / "tensorrt_rtx.py"
# What each variable of the program holds.
VARIABLES = {
    "builder": "Builder",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "error": "ParserError",
}
# Removed in TensorRT 11, or never to be used: calibrators, weak typing, host code inside engines.
FORBIDDEN = ("engine_host_code_allowed", "int8_calibrator", "IInt8EntropyCalibrator2", "EXPLICIT_BATCH", "FP16")


def touched() -> set[tuple[str, str]]:
    """(class, member) of every attribute that the program reads of the module and of what it makes."""
    found = set()
    for node in ast.walk(ast.parse(PROGRAM.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "trt":
                found.add(("module", node.attr))
            elif node.value.id in VARIABLES:
                found.add((VARIABLES[node.value.id], node.attr))
    return found


def test_every_name_exists_in_the_api() -> None:
    names = touched()
    assert ("Builder", "build_serialized_network") in names
    assert len(names) > 12
    missing = [f"{where}.{name}" for where, name in sorted(names) if name not in API[where]]
    assert not missing


def test_nothing_forbidden_is_touched() -> None:
    sources = [path.read_text() for path in PROGRAM.parents[1].rglob("*.py")]
    assert not [name for name in FORBIDDEN[:4] for source in sources if name in source]


@pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")
def test_what_is_written_down_is_what_is_installed() -> None:
    import tensorrt_rtx as trt

    assert trt.__version__ == API["version"]
    for where, names in API.items():
        if where != "version":
            holder = trt if where == "module" else getattr(trt, where)
            assert not [name for name in names if not hasattr(holder, name)], where
