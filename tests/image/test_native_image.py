"""The native image: small, the same bytes from anywhere, nothing in it but the library, the server and the model."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlopt.errors import ImageFailed
from mlopt.image import native
from mlopt.image.assemble import Image, ImageSpec, assemble, kitchen_of
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS
from mlopt.image.layout import blob_path, read_blob
from mlopt.image.load import manifest_of
from mlopt.image.run import serve_image

Make = Callable[..., ImageSpec]
_NOTICES = (
    "gcc-12-base/copyright",
    "libc6/copyright",
    "onnxruntime/LICENSE",
    "onnxruntime/ThirdPartyNotices.txt",
    "mlopt-serve/LICENSE.picohttpparser",
    "mlopt-serve/LICENSE.yyjson",
)
_LARGEST = {"compressed": 13_500_000, "unpacked": 35_000_000}


def content(layout: Path, platform: str) -> dict[str, bytes]:
    """Files by path, links and folders left out."""
    found: dict[str, bytes] = {}
    for layer in manifest_of(layout, platform)["layers"]:
        with tarfile.open(blob_path(layout, layer), "r:gz") as tar:
            for member in tar:
                if member.isfile() and (stream := tar.extractfile(member)):
                    found[member.name] = stream.read()
    return found


def test_it_is_as_small_as_promised(native_image: Image) -> None:
    """Weights are not counted."""
    for one in native_image.platforms:
        below = [layer for layer in one.layers if layer.name != "model"]
        assert sum(layer.size for layer in below) <= _LARGEST["compressed"], one.platform
        assert sum(layer.unpacked for layer in below) <= _LARGEST["unpacked"], one.platform


def test_it_holds_the_library_the_server_and_the_model_alone(native_image: Image) -> None:
    for platform in PLATFORMS:
        files = content(native_image.path, platform)
        libraries = {Path(name).name.split(".so")[0].partition("-2")[0] for name in files if ".so" in name}
        loader = {name for name in libraries if name.startswith("ld-linux")}
        assert libraries - loader == {
            *("libc", "libdl", "libgcc_s", "libm", "libonnxruntime", "libpthread", "librt", "libstdc++")
        }
        programs = {name for name in files if "/bin/" in name}
        assert programs == {"usr/bin/mlopt-serve"}
        config = json.loads(read_blob(native_image.path, manifest_of(native_image.path, platform)["config"]))["config"]
        assert config["User"] == "65532:65532"
        assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]
        assert config["Entrypoint"][0] == "/usr/bin/mlopt-serve"
        assert config["Labels"]["io.mlopt.server"] == "native"


def test_whose_work_is_in_it_is_said_in_it(native_image: Image) -> None:
    files = content(native_image.path, "linux/arm64")
    texts = {name: lzma.decompress(files[f"usr/share/doc/{name}.xz"]).decode() for name in _NOTICES}
    assert "GNU" in texts["gcc-12-base/copyright"]
    assert "Apache License" in texts["onnxruntime/ThirdPartyNotices.txt"]
    assert "YaoYuan" in texts["mlopt-serve/LICENSE.yyjson"]


@pytest.mark.slow
def test_the_server_is_the_same_bytes_from_another_folder(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = [tmp_path / "one", tmp_path / "another folder"]
    for root, zone in zip(roots, ("UTC", "Asia/Tokyo"), strict=True):
        root.mkdir()
        (root / "inputs").symlink_to(inputs.root / "inputs")
        monkeypatch.setenv("TZ", zone)
        native.build_server(kitchen_of(Inputs(root=root)), "linux/amd64")
    first, second = ({path.name: path.read_bytes() for path in (root / "servers").glob("*/*")} for root in roots)
    assert first == second
    assert sorted(first) == ["linux-amd64", "linux-arm64"]
    assert not [data for data in first.values() if str(tmp_path).encode() in data]


def test_it_serves_from_its_own_files(native_image: Image, tmp_path: Path) -> None:
    with serve_image(native_image.path, engine="none", root=tmp_path) as served:
        assert served.pid
        assert served.start_seconds < 5


def test_a_model_of_another_runtime_is_refused(make_spec: Make, inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match="in onnxruntime, and this one is for openvino") as refused:
        assemble(make_spec(runtime="openvino", server="native"), tmp_path / "image", inputs=inputs)
    assert refused.value.next == "--server python"


def test_sources_that_do_not_build_are_an_error_and_leave_nothing(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inputs").symlink_to(inputs.root / "inputs")
    broken = {"main.c": b"int main(void) { return nothing; }\n"}
    monkeypatch.setattr(native, "sources", lambda: broken)
    with pytest.raises(ImageFailed, match=r"could not be built.*nothing"):
        native.build_server(kitchen_of(Inputs(root=tmp_path)), "linux/amd64")
    assert not list((tmp_path / "scratch").iterdir())
    assert not list(tmp_path.glob("servers/*"))


def test_it_is_built_on_linux_alone(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.sys, "platform", "darwin")
    with pytest.raises(ImageFailed, match="darwin"):
        native.build_server(kitchen_of(inputs), "linux/amd64")


@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not here: the program's guards are not looked at")
def test_the_program_is_built_with_its_guards(inputs: Inputs) -> None:
    for platform in PLATFORMS:
        program = native.build_server(kitchen_of(inputs), platform)
        said = subprocess.run(["readelf", "-Wdl", str(program)], capture_output=True, text=True, check=True).stdout
        assert "DYN" in said or "PIE" in said
        assert "GNU_RELRO" in said
        assert "NOW" in said
        assert b"__stack_chk_fail" in program.read_bytes()
        assert b"memcpy" in program.read_bytes(), "the compiler's own copies byte by byte"
        needed = {line.split("[")[1].rstrip("]") for line in said.splitlines() if "NEEDED" in line}
        assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"} | {
            name for name in needed if name.startswith("ld-linux")
        }
