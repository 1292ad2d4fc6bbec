"""The command line as a whole: what it loads, what it says to a slip of the pen, how a shell completes it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlopt.cli import VERBS

# What `mlopt --help` must never wait for; each of these alone costs most of its 150 ms, or all of it.
HEAVY = (
    "numpy", "onnx", "onnxruntime", "onnxconverter_common", "torch", "tensorflow", "keras", "tf2onnx", "jinja2", "PIL",
    "ai_edge_litert", "flatbuffers",
    "docker", "starlette", "uvicorn", "orjson", "prometheus_client", "sklearn", "scipy", "safetensors", "onnxscript",
)  # fmt: skip

# Programs that run in a process of their own, the server of the images, and what pytest loads import at the top what
# they need.
OWN_PROCESS = ("mlopt/serve/", "mlopt/convert/", "mlopt/pytest_plugin.py")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def mlopt(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlopt", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages in memory once the command line has answered."""
    done = python(
        "import json, sys\n"
        f"sys.argv = ['mlopt', *{list(arguments)!r}]\n"
        "from mlopt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('LOADED' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("LOADED")[2]))


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), *((verb, "--help") for verb in VERBS)], ids=" ".join
)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    loaded = loaded_by(*arguments)
    assert "click" in loaded  # so that an empty answer cannot pass
    assert not loaded & set(HEAVY)


def test_every_heavy_name_here_can_be_loaded_somewhere() -> None:
    """A misspelt name in HEAVY would never be found loaded; the core's own must all exist."""
    from importlib.util import find_spec

    core = {"numpy", "onnx", "onnxruntime", "onnxconverter_common", "jinja2", "PIL"}
    assert core <= set(HEAVY)
    assert all(find_spec(name) for name in core)


def top_imports(file: Path) -> set[str]:
    """What a module imports when it is loaded: not inside functions, not for type checkers alone."""
    found: set[str] = set()
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            found.add((statement.module or "").partition(".")[0])
    return found


def test_modules_import_heavy_libraries_only_inside_functions(root: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"mlopt", "click"}
    files = sorted((root / "mlopt").rglob("*.py"))
    assert len(files) > 100
    for file in files:
        name = file.relative_to(root).as_posix()
        if not name.startswith(OWN_PROCESS):
            assert not top_imports(file) - allowed, name


def test_the_scan_of_imports_sees_them(root: Path) -> None:
    assert "numpy" in top_imports(root / "mlopt" / "serve" / "openvino.py")


@pytest.mark.parametrize(
    ("typed", "meant"), [("complie", "compile"), ("quantise", "quantize"), ("target", "targets"), ("serv", "serve")]
)
def test_an_unknown_verb_says_what_was_meant(typed: str, meant: str) -> None:
    done = mlopt(typed, "model.onnx")
    assert done.returncode == 2
    assert f"Did you mean {meant!r}?" in done.stderr


def test_a_verb_like_no_other_gets_no_guess() -> None:
    done = mlopt("xyzzy")
    assert done.returncode == 2
    assert "xyzzy" in done.stderr
    assert "Did you mean" not in done.stderr


def test_an_unknown_option_is_a_usage_error_with_the_nearest() -> None:
    done = mlopt("compile", "model.onnx", "--targt", "host")
    assert done.returncode == 2
    assert "--target" in done.stderr


def test_an_expected_error_has_its_exit_code_and_no_traceback(tmp_path: Path) -> None:
    done = mlopt("compile", str(tmp_path / "absent.onnx"))
    assert done.returncode == 10
    assert "where:" in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_the_one_of_the_project_file(root: Path) -> None:
    import tomllib

    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert mlopt("--version").stdout == f"mlopt {declared}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_produced_and_documented(shell: str, root: Path) -> None:
    program = shutil.which("mlopt", path=str(Path(sys.executable).parent))
    assert program, "the script mlopt is not beside this Python: pip install -e ."
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("bash is not installed, and click asks it for its version")
    done = subprocess.run(
        [program], capture_output=True, text=True, check=False, env={**os.environ, "_MLOPT_COMPLETE": f"{shell}_source"}
    )
    assert done.returncode == 0, done.stderr
    assert f"_MLOPT_COMPLETE={shell}_complete" in done.stdout
    assert f"_MLOPT_COMPLETE={shell}_source mlopt" in (root / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(("words", "expected"), [("mlopt comp", "compile"), ("mlopt compile --tar", "--target")])
def test_completion_completes(words: str, expected: str) -> None:
    program = shutil.which("mlopt", path=str(Path(sys.executable).parent))
    assert program
    asked = {"_MLOPT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([program], capture_output=True, text=True, check=False, env={**os.environ, **asked})
    assert f"plain,{expected}" in done.stdout.splitlines()
