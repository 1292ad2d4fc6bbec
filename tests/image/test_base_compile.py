"""`compile --base` and `--compression`: what a person types, what the bundle says of it, and what ends it early."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nets
import pytest
import walks

sys.path.insert(0, str(Path(__file__).parent))

from bases import write_base

from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, host_platform
from mlopt.image.load import manifest_of

pytestmark = pytest.mark.skipif(host_platform() not in PLATFORMS, reason="images are not made for this machine")
ASKED = ("compile", "net.onnx", "-p", "./fast.toml", "--recipe", "fp32", "-q")


@pytest.fixture
def place(tmp_path: Path, inputs: Inputs) -> Path:
    nets.save(nets.conv_net(), tmp_path / "net.onnx")
    walks.profile(tmp_path)
    walks.borrow_inputs(inputs, tmp_path / "store")
    (tmp_path / "store" / "layers").symlink_to(inputs.root / "layers")
    return tmp_path


@pytest.mark.slow
def test_the_bundle_stands_on_the_base(place: Path, inputs: Inputs) -> None:
    """Named in mlopt.toml, of this machine's architecture alone: the image is of that one too."""
    write_base(place / "python-base", inputs, platforms=(host_platform(),))
    (place / "mlopt.toml").write_text('schema = 1\n[compile]\nbase = "python-base:1"\n')
    ended = walks.mlopt(*ASKED[:-1], cwd=place, env={"MLOPT_CACHE_DIR": str(place / "store")}, limit=400)
    assert ended.returncode == 0, ended.stderr
    assert "the base has no image for linux/" in ended.stderr
    bundle = place / "out" / "net" / "host"
    layers = manifest_of(bundle / "image", host_platform())["layers"]
    assert [one["annotations"]["io.mlopt.layer"] for one in layers][:4] == ["base", "base-2", "base-3", "runtime"]
    sbom = walks.mlopt("image", "sbom", str(bundle), cwd=place)
    purls = [
        one["externalRefs"][0]["referenceLocator"]
        for one in json.loads(sbom.stdout)["packages"]
        if "externalRefs" in one
    ]
    assert [purl for purl in purls if purl.startswith("pkg:oci/base@sha256:")]
    assert [purl.partition("@")[0] for purl in purls if purl.startswith("pkg:deb/")] == ["pkg:deb/debian/libblas64-3"]
    assert walks.mlopt("verify", str(bundle), cwd=place).returncode == 0


def test_a_base_that_cannot_be_used_ends_it_before_anything_is_done(place: Path, inputs: Inputs) -> None:
    write_base(place / "empty-base", inputs, below=False)
    asked = (*ASKED, "--base", "empty-base")
    ended = walks.mlopt(*asked, cwd=place, env={"MLOPT_CACHE_DIR": str(place / "store")}, limit=100)
    assert ended.returncode == 35
    assert ended.stderr.splitlines() == [
        "error: The base has no python3.11, for which the wheels of the image are built.",
        "  where: empty-base",
        "  next:  choose an image with CPython 3.11 of a distribution with glibc, or leave out --base",
    ]
    assert not (place / "out").exists()
    assert not (place / "store" / "results").exists()


def test_zstd_without_its_package_ends_it_before_anything_is_done(place: Path) -> None:
    (place / "modules").mkdir()
    (place / "modules" / "zstandard.py").write_text("raise ImportError")
    environment = {"MLOPT_CACHE_DIR": str(place / "store"), "PYTHONPATH": str(place / "modules")}
    ended = walks.mlopt(*ASKED, "--compression", "zstd", cwd=place, env=environment, limit=100)
    assert ended.returncode == 3
    assert "pip install 'mlopt[zstd]'" in ended.stderr
    assert not (place / "out").exists()
