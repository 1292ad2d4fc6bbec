"""A real image: valid by the specification, the same anywhere, complete for both architectures, never half there."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlopt.errors import ImageFailed
from mlopt.image import layers as layers_module
from mlopt.image.assemble import Image, ImageSpec, assemble, unpacked_sizes
from mlopt.image.fetch import Inputs
from mlopt.image.layers import LayerCache, model_layer
from mlopt.image.layout import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Writer,
    blob_path,
    index_of,
    manifests_of,
    read_blob,
    verify,
)
from mlopt.image.load import manifest_of, write_docker_archive

Make = Callable[..., ImageSpec]


def files(layout: Path, platform: str) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for layer in manifest_of(layout, platform)["layers"]:
        with tarfile.open(blob_path(layout, layer), "r:gz") as tar:
            found |= {member.name: member for member in tar}
    return found


def test_the_size_is_known_before_the_model_is_packed(inputs: Inputs, make_spec: Make, tmp_path: Path) -> None:
    spec = make_spec()
    before = unpacked_sizes(spec, inputs=inputs)
    assert before == {one.platform: one.unpacked for one in assemble(spec, tmp_path / "image", inputs=inputs).platforms}


def test_the_layout_is_what_the_specification_says(image: Image) -> None:
    assert json.loads((image.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    entry = index_of(image.path)
    assert entry["digest"] == image.digest
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "1"
    index = json.loads(read_blob(image.path, entry))
    assert (index["schemaVersion"], index["mediaType"]) == (2, INDEX)
    assert verify(image.path) == ("linux/amd64", "linux/arm64")
    used = {entry["digest"]}
    for descriptor in index["manifests"]:
        manifest = json.loads(read_blob(image.path, descriptor))
        assert (manifest["schemaVersion"], manifest["mediaType"], descriptor["mediaType"]) == (2, MANIFEST, MANIFEST)
        assert manifest["config"]["mediaType"] == CONFIG
        assert {layer["mediaType"] for layer in manifest["layers"]} == {LAYER}
        config = json.loads(read_blob(image.path, manifest["config"]))
        assert (config["os"], config["architecture"]) == (
            descriptor["platform"]["os"],
            descriptor["platform"]["architecture"],
        )
        assert len(config["history"]) == len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 4
        used |= {descriptor["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    assert {f"sha256:{path.name}" for path in (image.path / "blobs" / "sha256").iterdir()} == used


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed: no independent reader")
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_an_independent_reader_reads_it(image: Image, architecture: str, tmp_path: Path) -> None:
    command = [
        "skopeo",
        "--insecure-policy",
        "--override-arch",
        architecture,
        "copy",
        f"oci:{image.path}:1",
        f"dir:{tmp_path / architecture}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / architecture / "manifest.json").read_bytes())
    assert manifest == manifest_of(image.path, f"linux/{architecture}")


def test_it_runs_as_nobody_without_telemetry_or_shell(image: Image) -> None:
    for platform in ("linux/amd64", "linux/arm64"):
        config = json.loads(read_blob(image.path, manifest_of(image.path, platform)["config"]))["config"]
        assert config["User"] == "65532:65532"
        assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]
        assert config["Labels"]["io.mlopt.target"] == "host"
        found = files(image.path, platform)
        names = {Path(name).name for name in found}
        assert not names & {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "pip3"}
        assert not [name for name, member in found.items() if member.mode & 0o6000]
        assert not [
            name for name, member in found.items() if not member.issym() and member.mode & 0o022 and name != "tmp"
        ]
        assert {member.uid for member in found.values()} == {0}


def test_every_licence_is_in_it(image: Image, inputs: Inputs) -> None:
    found = files(image.path, "linux/arm64")
    for name in ("libc6", "libssl3", "libpython3.11-stdlib", "zlib1g", "gcc-12-base"):
        assert f"usr/share/doc/{name}/copyright" in found or f"usr/share/doc/{name}" in found, name
    for name in ("numpy", "pillow", "starlette", "uvicorn", "h11", "httptools", "anyio", "click", "idna", "orjson"):
        licences = [path for path in found if f"/{name}-" in path and ".dist-info/" in path and "licen" in path.lower()]
        assert licences, name


@pytest.mark.parametrize(
    "made", ["image", "openvino_image", pytest.param("litert_image", marks=pytest.mark.litert), "native_image"]
)
def test_every_shared_library_finds_what_it_needs(made: str, request: pytest.FixtureRequest) -> None:
    """For both architectures, without running either: each NEEDED name is a file of the image."""
    image: Image = request.getfixturevalue(made)
    for platform in ("linux/amd64", "linux/arm64"):
        have, needed = set[str](), dict[str, str]()
        for layer in manifest_of(image.path, platform)["layers"]:
            with tarfile.open(blob_path(image.path, layer), "r:gz") as tar:
                for member in tar:
                    have.add(Path(member.name).name)
                    stream = tar.extractfile(member) if member.isfile() and member.size > 64 else None
                    if stream and stream.read(4) == b"\x7fELF":
                        stream.seek(0)
                        needed |= dict.fromkeys(needed_by(stream.read()), member.name)
        assert needed
        assert {name: by for name, by in needed.items() if name not in have} == {}


def needed_by(elf: bytes) -> list[str]:
    """The DT_NEEDED names of a 64-bit little-endian ELF file."""
    from struct import unpack_from

    offset, size, count = unpack_from("<Q", elf, 32)[0], *unpack_from("<HH", elf, 54)
    segments = [unpack_from("<IIQQQQQQ", elf, offset + number * size) for number in range(count)]
    dynamic = next((segment for segment in segments if segment[0] == 2), None)
    if dynamic is None:
        return []
    entries = [unpack_from("<qQ", elf, dynamic[2] + place) for place in range(0, dynamic[5], 16)]
    table = next(value for tag, value in entries if tag == 5)
    place = next(table - s[3] + s[2] for s in segments if s[0] == 1 and s[3] <= table < s[3] + s[5])
    return [elf[place + value : elf.index(b"\0", place + value)].decode() for tag, value in entries if tag == 1]


def test_a_model_update_ships_only_its_layer_and_is_quick(inputs: Inputs, make_spec: Make, tmp_path: Path) -> None:
    first = assemble(make_spec(seed=1), tmp_path / "image", inputs=inputs)
    began = time.monotonic()
    second = assemble(make_spec(seed=2), tmp_path / "image", inputs=inputs)
    assert time.monotonic() - began < 2
    for before, after in zip(first.platforms, second.platforms, strict=True):
        same = [a.digest == b.digest for a, b in zip(before.layers, after.layers, strict=True)]
        assert same == [True, True, True, False]
    assert first.digest != second.digest
    assert verify(tmp_path / "image")


_PROGRAM = """
import json, sys
from pathlib import Path
from mlopt.image.assemble import ImageSpec, assemble
from mlopt.image.fetch import Inputs
model, into, root = sys.argv[1:]
serving = json.loads((Path(model).parent / "serving.json").read_bytes())
spec = ImageSpec("colours", Path(model), serving, annotations={"io.mlopt.target": "host"})
print(assemble(spec, Path(into), inputs=Inputs(root=Path(root))).digest)
"""


@pytest.mark.slow
def test_the_digest_is_the_same_anywhere(inputs: Inputs, fresh_inputs: Inputs, make_spec: Make, tmp_path: Path) -> None:
    """Another folder, cache, umask, time zone, locale and hash seed; every layer packed anew."""
    spec = make_spec(seed=3)
    here = assemble(spec, tmp_path / "here", inputs=inputs)
    (spec.model.parent / "serving.json").write_text(json.dumps(spec.serving))
    away = tmp_path / "elsewhere" / "deeper"
    away.mkdir(parents=True)
    shutil.copytree(spec.model.parent, away / "other-name")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _PROGRAM,
            str(away / "other-name" / "model.onnx"),
            str(away / "out"),
            str(fresh_inputs.root),
        ],
        env={**os.environ, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "77", "LC_ALL": "C"},
        cwd=away,
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == here.digest
    assert verify(away / "out")


def test_a_wrong_source_date_is_refused(
    inputs: Inputs, make_spec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ImageFailed, match="SOURCE_DATE_EPOCH"):
        assemble(make_spec(), tmp_path / "image", inputs=inputs)
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize("trouble", ["platform", "lock", "model", "full"])
def test_the_last_good_image_stays(
    inputs: Inputs, make_spec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    into = tmp_path / "image"
    good = assemble(make_spec(), into, inputs=inputs)
    spec: Any = make_spec()
    if trouble == "platform":
        spec = dataclasses.replace(spec, platforms=("linux/riscv64",))
    elif trouble == "model":
        spec = dataclasses.replace(spec, model=tmp_path / "empty")
        (tmp_path / "empty").mkdir()
    elif trouble == "lock":
        monkeypatch.setattr("mlopt.image.assemble.docker_folder", lambda: tmp_path / "nowhere")
    else:

        def full(*arguments: Any, **options: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(layers_module, "pack", full)
    with pytest.raises(Exception, match=r".") as caught:
        assemble(spec, into, inputs=inputs)
    assert type(caught.value).__name__ == ("NoSpaceLeft" if trouble == "full" else "ImageFailed")
    assert index_of(into)["digest"] == good.digest
    assert verify(into)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".image")] == []


def test_damage_is_found(image: Image) -> None:
    manifest = manifest_of(image.path, "linux/arm64")
    for descriptor in (manifest["layers"][3], manifest["config"], manifests_of(image.path)["linux/arm64"]):
        path = blob_path(image.path, descriptor)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ImageFailed, match="damaged"):
            verify(image.path)
        path.unlink()
        with pytest.raises(ImageFailed, match="damaged"):
            verify(image.path)
        path.write_bytes(whole)
    assert verify(image.path)
    (image.path / "index.json").write_text("{}")
    with pytest.raises(ImageFailed, match="not an OCI layout"):
        verify(image.path)


def test_a_damaged_cached_layer_never_gets_into_an_image(make_spec: Make, tmp_path: Path) -> None:
    spec, cache = make_spec(), LayerCache(tmp_path / "cache")
    layer = model_layer(spec.model, b"{}", cache=cache)
    data = bytearray(layer.blob.read_bytes())
    data[-1] ^= 1
    layer.blob.write_bytes(bytes(data))
    with pytest.raises(ImageFailed, match="cached layer is damaged"):
        Writer(tmp_path / "out").add_file(layer.blob, digest=layer.digest, size=layer.size, media_type=LAYER)
    layer.blob.write_bytes(data[:-1])
    assert model_layer(spec.model, b"{}", cache=cache) == layer
    assert layer.blob.stat().st_size == layer.size


def test_archives_hold_the_image(image: Image) -> None:
    sink = io.BytesIO()
    write_docker_archive(image.path, sink, platform="linux/arm64", reference="localhost/mlopt/colours:1")
    sink.seek(0)
    with tarfile.open(fileobj=sink) as tar:
        stream = tar.extractfile("manifest.json")
        assert stream
        (listing,) = json.loads(stream.read())
        assert listing["RepoTags"] == ["localhost/mlopt/colours:1"]
        layer = tar.extractfile(listing["Layers"][3])
        assert layer
        blob = blob_path(image.path, manifest_of(image.path, "linux/arm64")["layers"][3])
        assert layer.read() == gzip.decompress(blob.read_bytes())
    with pytest.raises(ImageFailed, match="not made for"):
        write_docker_archive(image.path, sink, platform="linux/s390x", reference="x")
