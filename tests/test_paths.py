"""Declarations are found in a checkout, in a wheel, and in the person's own folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlopt import paths
from mlopt.errors import UnknownName
from mlopt.profile import find_profile


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "mlopt" / "profiles"
    folder.mkdir(parents=True)
    return folder


def test_a_checkout_has_all_folders(root: Path) -> None:
    for name in ("targets", "profiles", "optimize", "docker"):
        assert paths.folder(name) == root / name  # type: ignore[arg-type]
    assert paths.folder("reports") == root / "reports" / "templates"


def test_own_declarations_are_found_and_hide_built_in_ones(own: Path) -> None:
    (own / "mine.toml").write_text('summary = "mine"\n')
    (own / "tiny.toml").write_text('summary = "my own tiny"\n')
    assert find_profile("mine").summary == "mine"
    assert find_profile("tiny").summary == "my own tiny"
    assert {"mine", "tiny", "balanced"} <= set(paths.declarations("profiles"))


def test_a_path_is_a_file_whatever_is_declared(own: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text('summary = "here"\n')
    assert find_profile(str(tmp_path / "tiny.toml")).summary == "here"
    with pytest.raises(UnknownName) as caught:
        find_profile(str(tmp_path / "absent.toml"))
    assert "mlopt profiles list" in caught.value.next


def _run_elsewhere(site: Path) -> str:
    """What `paths.folder` says when the package lies in `site`, as pip would put it."""
    code = "from mlopt import paths; print(paths.folder('targets'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        capture_output=True,
        text=True,
        cwd=site,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.fixture
def site(tmp_path: Path, root: Path) -> Path:
    package = tmp_path / "site-packages" / "mlopt"
    package.mkdir(parents=True)
    for name in ("__init__.py", "paths.py", "errors.py"):
        (package / name).write_text((root / "mlopt" / name).read_text())
    return package.parent


def test_a_wheel_finds_its_own_data(site: Path) -> None:
    (site / "mlopt" / "_data" / "targets").mkdir(parents=True)
    assert _run_elsewhere(site) == str(site / "mlopt" / "_data" / "targets")


def test_somebody_elses_folder_in_site_packages_is_not_ours(site: Path) -> None:
    (site / "targets").mkdir()
    assert "install mlopt anew" in _run_elsewhere(site)


def test_the_wheel_is_told_to_hold_every_folder(root: Path) -> None:
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    expected = {"targets", "profiles", "optimize", "docker", "reports"}
    assert expected == {inside.removeprefix("mlopt/_data/").split("/")[0] for inside in included.values()}
    assert all((root / source).exists() for source in included)
    docker = {source for source in included if source.startswith("docker/")}
    assert docker == {f"docker/{path.name}" for path in (root / "docker").iterdir()} - {"docker/ci"}
