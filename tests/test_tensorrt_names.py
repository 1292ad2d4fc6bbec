"""Every name of TensorRT that mlopt touches exists in its API, written down here: no wheel is needed."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from mlopt.step import installed

API = json.loads((Path(__file__).parent / "tensorrt_rtx_api.json").read_bytes())
# Of the Python bindings of each version, as far as they matter here; what TensorRT 8.2 and 8.5 have nobody wrote down.
DEVICES = json.loads((Path(__file__).parent / "tensorrt_api.json").read_bytes())
PROGRAM = Path(__file__).parents[1] / "mlopt" / "convert" / "tensorrt_rtx.py"
BUILDER = Path(__file__).parents[1] / "mlopt" / "device" / "builder.py"
SERVING = Path(__file__).parents[1] / "mlopt" / "serve" / "tensorrt_program.py"
# What each variable of the program holds.
VARIABLES = {
    "builder": "Builder",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "error": "ParserError",
    "timing": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
# Removed in TensorRT 11, or never to be used: calibrators, weak typing, host code inside engines.
FORBIDDEN = ("engine_host_code_allowed", "int8_calibrator", "IInt8EntropyCalibrator2", "EXPLICIT_BATCH", "FP16")


def touched(tree: ast.AST) -> set[tuple[str, str]]:
    """(class, member) of every attribute that a program reads of the module and of what it makes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "trt":
                found.add(("module", node.attr))
            elif node.value.id in VARIABLES:
                found.add((VARIABLES[node.value.id], node.attr))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):  # trt.Enum.MEMBER
            holder = node.value.value
            found |= {(node.value.attr, node.attr)} if isinstance(holder, ast.Name) and holder.id == "trt" else set()
    return found


def test_every_name_exists_in_the_api() -> None:
    names = touched(ast.parse(PROGRAM.read_text()))
    assert ("Builder", "build_serialized_network") in names
    assert len(names) > 12
    missing = [f"{where}.{name}" for where, name in sorted(names) if name not in API[where]]
    assert not missing


def test_nothing_forbidden_is_touched() -> None:
    sources = {path: path.read_text() for path in PROGRAM.parents[1].rglob("*.py")}
    on_device = sources.pop(BUILDER)
    assert not [name for name in FORBIDDEN for source in sources.values() if f".{name}" in source]
    flagged = {"EXPLICIT_BATCH", "FP16"}  # all that TensorRT 8 has; where, the test below says
    assert not [name for name in FORBIDDEN if name in on_device and name not in flagged]


def function(name: str) -> ast.FunctionDef:
    tree = ast.parse(BUILDER.read_text())
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("release", sorted(DEVICES["versions"]))
def test_every_name_that_the_program_on_the_device_touches_exists_in_that_version(release: str) -> None:
    api = DEVICES["versions"][release]
    branch = "typed_network" if version(release) >= (10,) else "flagged_network"
    names = touched(function("build_with_module")) | touched(function(branch))
    assert {("Builder", "build_serialized_network"), ("IBuilderConfig", "set_memory_pool_limit")} <= names
    assert len(names) > 20
    missing = [f"{where}.{name}" for where, name in sorted(names) if name not in api.get(where, ())]
    assert not missing


@pytest.mark.parametrize("release", sorted(DEVICES["versions"]))
def test_every_name_that_the_program_that_serves_touches_exists_in_that_version(release: str) -> None:
    api = DEVICES["versions"][release]
    names = touched(ast.parse(SERVING.read_text())) - {("module", "__version__")}
    assert {("Runtime", "deserialize_cuda_engine"), ("IExecutionContext", "execute_async_v3")} <= names
    assert len(names) > 12
    missing = [f"{where}.{name}" for where, name in sorted(names) if name not in api.get(where, ())]
    assert not missing


def test_strong_typing_is_not_asked_of_versions_without_it_and_flags_not_of_those_with_it() -> None:
    assert ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") in touched(function("typed_network"))
    assert ("BuilderFlag", "FP16") in touched(function("flagged_network"))
    for release, api in DEVICES["versions"].items():
        assert ("STRONGLY_TYPED" in api["NetworkDefinitionCreationFlag"]) == (version(release) >= (10,))


@pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")
def test_what_is_written_down_is_what_is_installed() -> None:
    import tensorrt_rtx as trt

    assert trt.__version__ == API["version"]
    for where, names in API.items():
        if where != "version":
            holder = trt if where == "module" else getattr(trt, where)
            assert not [name for name in names if not hasattr(holder, name)], where
