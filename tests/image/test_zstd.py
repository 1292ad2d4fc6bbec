"""Layers of zstd: the same files in fewer bytes, the same bytes every time, read by others; and what needs saying."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from mlopt.errors import ImageFailed
from mlopt.image.assemble import Image, ImageSpec, assemble
from mlopt.image.compression import LEVELS, decompressed
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, host_platform
from mlopt.image.layout import blob_path, read_blob, verify
from mlopt.image.load import manifest_of, write_docker_archive
from mlopt.image.run import serve_image
from mlopt.image.tree import Entry, Tree, pack

pytest.importorskip("zstandard", reason="zstandard is not installed: pip install 'mlopt[zstd]'")
TREE: Tree = {"a/b": Entry("file", 0o644, b"text " * 10_000), "a/c": Entry("link", target="b")}
ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"


def packed(kind: str) -> bytes:
    sink = io.BytesIO()
    pack(TREE, sink, mtime=0, level=3, compression=kind)  # type: ignore[arg-type]
    return sink.getvalue()


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    once = packed("zstd")
    assert once == packed("zstd")
    inner = set()
    for kind in ("gzip", "zstd"):
        (tmp_path / kind).write_bytes(packed(kind))
        with decompressed(tmp_path / kind) as stream:
            inner.add(stream.read())
    assert len(inner) == 1
    assert inner.pop().startswith(b"a/\0")


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damage_is_an_error_of_reading(tmp_path: Path, kind: str) -> None:
    whole = packed(kind)
    (tmp_path / "blob").write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    with decompressed(tmp_path / "blob") as stream, pytest.raises((OSError, EOFError)):
        stream.read()


@pytest.fixture
def image(
    inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Image:
    """At a low level: the usual one takes a minute for each platform, once."""
    monkeypatch.setitem(LEVELS, "zstd", 3)
    spec = dataclasses.replace(make_spec(seed=8), compression="zstd")
    return assemble(spec, tmp_path / "zstd-image", inputs=inputs)


def test_an_image_of_zstd_is_the_same_image(
    image: Image, inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path
) -> None:
    assert verify(image.path) == PLATFORMS
    plain = assemble(make_spec(seed=8), tmp_path / "image", inputs=inputs)
    for small, large in zip(image.platforms, plain.platforms, strict=True):
        assert [one.diff_id for one in small.layers] == [one.diff_id for one in large.layers]
        assert small.compressed < large.compressed
        assert small.unpacked == large.unpacked
        manifest = manifest_of(image.path, small.platform)
        assert {layer["mediaType"] for layer in manifest["layers"]} == {ZSTD}
    archives = []
    for one in (image, plain):
        write_docker_archive(one.path, sink := io.BytesIO(), platform="linux/arm64", reference="localhost/x:1")
        archives.append(sink.getvalue())
    assert len(archives[0]) == len(archives[1])


@pytest.mark.skipif(host_platform() not in PLATFORMS, reason="images are not made for this machine")
def test_it_is_served(image: Image, tmp_path: Path) -> None:
    with (
        serve_image(image.path, engine="none", root=tmp_path / "cache") as served,
        urllib.request.urlopen(f"{served.url}/v2/models/colours", timeout=30) as reply,
    ):
        assert json.load(reply)["name"] == "colours"


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed: no independent reader")
def test_an_independent_reader_unpacks_it(image: Image, tmp_path: Path) -> None:
    """Into a folder, decompressed by somebody else: what it holds are the tars that the config names."""
    command = ["skopeo", "--insecure-policy", "--override-arch", "arm64", "copy", "--dest-decompress"]
    done = subprocess.run(
        [*command, f"oci:{image.path}:1", f"dir:{tmp_path / 'read'}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    config = json.loads(read_blob(image.path, manifest_of(image.path, "linux/arm64")["config"]))
    for diff_id in config["rootfs"]["diff_ids"]:
        name = diff_id.removeprefix("sha256:")
        assert hashlib.sha256((tmp_path / "read" / name).read_bytes()).hexdigest() == name


def test_a_damaged_layer_is_found(image: Image) -> None:
    manifest = manifest_of(image.path, "linux/amd64")
    blob = blob_path(image.path, manifest["layers"][-1])
    data = bytearray(read_blob(image.path, manifest["layers"][-1]))
    data[len(data) // 2] ^= 1
    blob.write_bytes(bytes(data))
    with pytest.raises(ImageFailed, match="damaged"):
        verify(image.path)


def test_without_the_package_it_is_named() -> None:
    program = "import sys; sys.modules['zstandard'] = None\nfrom mlopt.image.compression import decides_bytes\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}decides_bytes('zstd')"], capture_output=True, text=True, check=False
    )
    assert "MissingDependency: Layers of zstd need the package zstandard" in done.stderr
    assert "pip install 'mlopt[zstd]'" in done.stderr
