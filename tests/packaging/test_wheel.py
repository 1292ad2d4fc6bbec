"""The sdist and the wheel: built from what is tracked, whole, and working where nothing else of the checkout is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import nets
import numpy as np
import pytest

pytestmark = pytest.mark.slow

DECLARED = {"targets": "targets", "profiles": "profiles", "optimize": "optimize", "reports/templates": "reports"}


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only what is tracked: whatever else lies in the folder must not be needed, and must not be shipped."""
    if not (root / ".git").exists():
        pytest.skip("this is no git checkout, so what is tracked is not known")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    clean = tmp_path_factory.mktemp("checkout")
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, clean / name)
    return clean


@pytest.fixture(scope="module")
def dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sdist from the checkout, then the wheel from that sdist, as `make dist` does."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment of its own with the wheel in it. Its dependencies are those of this Python,
    put behind its own packages on the path, so that nothing is downloaded."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (site,) = home.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def run(program: Path, *arguments: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=environment | {"XDG_CONFIG_HOME": str(folder / "config"), "MLOPT_CACHE_DIR": str(folder / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{program.name} {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_wheel_holds_all_that_runs_and_nothing_else(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in DECLARED.items():
        ours = {path.relative_to(checkout / folder).as_posix() for path in (checkout / folder).rglob("*.*")}
        assert ours, folder
        assert {f"mlopt/_data/{inside}/{name}" for name in ours} <= names, folder
    docker = {path.relative_to(checkout).as_posix() for path in (checkout / "docker").rglob("*") if path.is_file()}
    ready_made = {name for name in docker if name.startswith("docker/ci/")}
    assert len(ready_made) == 3, "what people take from a checkout, and no code reads"
    inside = {name.removeprefix("mlopt/_data/") for name in names if name.startswith("mlopt/_data/docker/")}
    assert inside == docker - ready_made
    code = {f"mlopt/{path.relative_to(checkout / 'mlopt').as_posix()}" for path in (checkout / "mlopt").rglob("*.*")}
    assert len(code) > 100
    generators = {name for name in code if name.endswith("/json_schema.py")}
    assert code - generators <= names
    assert not generators & names, "they write files of a checkout, and nothing that runs imports them"
    for name in ("report/schemas/report.schema.json", "schemas/target.schema.json", "serve/page.html", "py.typed"):
        assert f"mlopt/{name}" in names
    assert {name.split("/")[0] for name in names} == {"mlopt", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    assert not [name for name in names if Path(name).name.startswith("test") or "__pycache__" in name]
    assert "mlopt/_data/docker/__init__.py" not in names


def test_the_wheel_says_whose_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = wheel.name.rsplit("-", 3)[0] + ".dist-info"
        assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "\nLicense-Expression: Apache-2.0\n" in metadata
        assert "\nRequires-Python: >=3.11\n" in metadata
        for extra in ("torch", "tensorflow", "tensorrt", "openvino", "docker", "serve"):
            assert f"\nProvides-Extra: {extra}\n" in metadata
        assert "mlopt = mlopt.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert "# mlopt" in metadata  # the README is the long description


def test_the_core_stays_small(wheel: Path) -> None:
    """What every CI job installs: no framework comes in without an extra, and the wheel itself is light."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(wheel.name.rsplit("-", 3)[0] + ".dist-info/METADATA").decode()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = {line.split()[1].split(">")[0].split("<")[0] for line in needed}
    small = {"click", "jinja2", "numpy", "onnx", "onnxconverter-common", "onnxruntime", "packaging", "pillow"}
    assert names == small
    assert wheel.stat().st_size < 1_250_000


def test_the_sdist_holds_what_builds_and_tests_it(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "LICENSE", "README.md", "Makefile", "constraints.txt", "tests/conftest.py"}
    assert wanted | {"targets/rpi5.toml", "docker/runtime.lock.json", "docs/tutorial.md", "demo/run.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "out/", "dist/")) or name.endswith(".pyc")]


def test_the_wheel_works_where_it_is_installed(bin: Path, root: Path, tmp_path: Path) -> None:
    where = run(bin / "python", "-c", "import mlopt; print(mlopt.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(bin.parent)
    assert run(bin / "mlopt", "--version", folder=tmp_path).startswith("mlopt ")
    shown = run(bin / "mlopt", "targets", "list", folder=tmp_path)
    assert all(f"\n{path.stem} " in shown for path in (root / "targets").glob("*.toml"))
    shown = run(bin / "mlopt", "recipes", "list", folder=tmp_path)
    assert all(f"\n{path.stem} " in shown for path in (root / "optimize").glob("*.toml"))
    assert "balanced" in run(bin / "mlopt", "profiles", "list", folder=tmp_path)


def test_a_model_is_compiled_by_the_installed_wheel(bin: Path, tmp_path: Path) -> None:
    nets.save(nets.conv_net(), tmp_path / "tiny.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", x=rng.standard_normal((24, 3, 32, 32), dtype=np.float32))
    (tmp_path / "quick.toml").write_text(
        'schema = 1\nsummary = "quick"\n[budgets]\nmin-agreement = "1%"\n[method]\nrounds = 3\nseconds = "1s"\n'
    )
    asked = ("--samples", "samples.npz", "--profile", "./quick.toml", "--no-image", "--json")
    report = json.loads(run(bin / "mlopt", "compile", "tiny.onnx", *asked, folder=tmp_path))
    names = {candidate["name"] for candidate in report["candidates"]}
    assert {"baseline", "fp32", "int8-static"} <= names
    bundle = tmp_path / "out" / "tiny" / "host"
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["winner"]["recipe"] == report["winner"]
    assert manifest["status"] == "measured"
    assert (bundle / "report.html").stat().st_size > 10_000
    assert (bundle / "model" / "model.onnx").is_file()
