"""What the code imports is what the project declares: in the core, in the extra that promises it, in the image."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, TypeGuard

import pytest

from mlopt.image.inputs import read_wanted

ROOT = Path(__file__).resolve().parents[2]

# Which extra each room of the code may lean on, besides the core.
ROOMS = {
    "mlopt/serve": ("serve", "grpc", "openvino", "litert"),
    "mlopt/tflite": ("litert",),
    "mlopt/convert": ("torch", "tensorflow", "tensorrt"),
    "mlopt/steps": ("torch",),
    "mlopt/image": (),
    "mlopt/supply": ("signing", "keyless"),
    "mlopt/measure": ("loadgen",),
}
# These come with one that is declared, by its own promise: keras and h5py with tensorflow, protobuf with onnx, …
BROUGHT = {"keras", "h5py", "flatbuffers", "protobuf", "ml-dtypes", "onnx-ir", "tensorrt-rtx-cu13"}
# The programs that build and serve on a device use what that one has: they are never imported here.
ON_THE_DEVICE = {"tensorrt"}
# Loads mlopt/pytest_plugin.py itself: who has no pytest never imports that.
LOADS_US = {"pytest"}
# No released wheel for every platform, or only with a card: never part of the tested set.
UNPINNED = {"onnxruntime-gpu", "nvidia-ml-py"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    declared: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return declared


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    """Distribution names, normalised, of requirement lines."""
    return {plain(re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0]) for line in requirements}


def imported(folder: Path) -> set[str]:
    """Top-level names of third parties that any file below imports anywhere, also inside functions.

    An import that is ready for its absence (`except ImportError`) asks for nothing.
    """
    found: set[str] = set()
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text())
        ready = {part for node in ast.walk(tree) if forgives(node) for line in node.body for part in ast.walk(line)}
        for node in set(ast.walk(tree)) - ready:
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"mlopt"}


def forgives(node: ast.AST) -> TypeGuard[ast.Try]:
    """Whether it is a `try` that does without what it imports."""
    return isinstance(node, ast.Try) and any(
        isinstance(handler.type, ast.Name) and handler.type.id == "ImportError" for handler in node.handlers
    )


def undeclared(modules: set[str], allowed: set[str]) -> set[str]:
    """Modules none of whose distributions is allowed. One that is not installed counts by its own name."""
    known = packages_distributions()
    return {name for name in modules if not {plain(one) for one in known.get(name, [name])} & allowed}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_its_extra_brings(room: str, project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    allowed = named(project["project"]["dependencies"])
    for extra in ROOMS[room]:
        allowed |= named(extras[extra])
    assert not undeclared(imported(ROOT / room), allowed | BROUGHT | ON_THE_DEVICE)


def test_nothing_anywhere_is_imported_that_nobody_declares(project: dict[str, Any]) -> None:
    allowed = named(project["project"]["dependencies"]) | BROUGHT | ON_THE_DEVICE | LOADS_US
    for extra in project["project"]["optional-dependencies"].values():
        allowed |= named(extra)
    found = imported(ROOT / "mlopt")
    assert {"numpy", "onnx", "torch", "starlette", "orjson"} <= found
    assert not undeclared(found, allowed)


def test_the_image_holds_all_that_its_server_imports() -> None:
    """All but the runtimes that its model does not need: those are imported by name, from serving.json."""
    wanted = read_wanted(ROOT / "docker")
    runtimes = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
    assert set(wanted.runtimes) == set(runtimes)
    modules = set(runtimes.values())
    needed = imported(ROOT / "mlopt" / "serve")
    assert modules <= needed
    for runtime, module in runtimes.items():
        held = {plain(name) for name in wanted.running(runtime).packages}
        needed_here = needed - modules - ON_THE_DEVICE | {module}
        assert undeclared(needed_here, held) == {"google"}, "protobuf, for gRPC alone"
        with_grpc = {plain(name) for name in wanted.running(runtime, ("grpc",)).packages}
        assert not undeclared(needed_here | {"grpc"}, with_grpc)
        others = {plain(name) for name in modules - {module}}
        assert not held & others, "an image holds one runtime"
        assert plain(wanted.distribution(runtime)) == plain(module)


def test_an_undeclared_import_is_seen(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "def f():\n    import numpy, json\n    from pytest import mark\n"
        "try:\n    import rich\nexcept ImportError:\n    pass\n"
    )
    assert imported(tmp_path) == {"numpy", "pytest"}
    assert undeclared({"numpy", "pytest"}, {"numpy"}) == {"pytest"}


def test_every_requirement_is_pinned_for_make(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in pins)
    needed = named(project["project"]["dependencies"]) | named(project["dependency-groups"]["dev"])
    for extra in project["project"]["optional-dependencies"].values():
        needed |= named(extra)
    assert needed - UNPINNED <= named(pins)
