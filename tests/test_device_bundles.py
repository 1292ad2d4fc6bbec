"""`mlopt compile` for a Jetson that is not there: the bundle holds what that one needs, and it builds from it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import jetsons
import nets
import walks


def compiled(tmp_path: Path, *recipes: str) -> tuple[Path, str]:
    """The bundle of a small net for a Jetson, and what was printed, in one line."""
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    walks.labelled(tmp_path / "samples.npz", model)
    walks.profile(tmp_path)
    ended = walks.mlopt(
        *("compile", "net.onnx", "-p", "./fast.toml", "--no-image", "--target", "jetson", "--samples", "samples.npz"),
        *(word for recipe in recipes for word in ("-r", recipe)),
        *("--cache-dir", "store"),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    return tmp_path / "out/net/jetson-orin-nano-8gb", " ".join(ended.stdout.split())


def build(folder: Path, tmp_path: Path) -> None:
    """As a person does on the device, whose TensorRT is a stand-in."""
    env, command = jetsons.jetson(tmp_path / "jetson").env, [sys.executable, "build.py"]
    built = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert built.returncode == 0, built.stdout + built.stderr


def test_the_bundle_builds_on_the_device_by_what_its_readme_says(tmp_path: Path) -> None:
    bundle, said = compiled(tmp_path, "tensorrt-fp32", "tensorrt-int8")
    assert "device/ there and type python3 build.py" in said
    assert "Preflight of tensorrt-fp32, tensorrt-int8: held against TensorRT 10.3.0 of JetPack 6.2" in said
    for name in ("tensorrt-fp32", "tensorrt-int8"):
        assert f"Preflight of {name}: memory: weights" in said
    assert "jetson alone means jetson-orin-nano-8gb." in said
    assert "NVIDIA's licence of TensorRT applies to its engines, and to every image that holds one" in said
    assert "that of deploy/first-start" in said
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["status"] == "needs-device-build"
    assert manifest["device-builds"] == ["tensorrt-fp32", "tensorrt-int8"]
    assert manifest["engines"] == {}
    folder = bundle / "device"
    for file in folder.rglob("*"):
        if file.is_file():
            listed = manifest["files"][file.relative_to(bundle).as_posix()]
            assert listed["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "python3 build.py" in (folder / "README.txt").read_text()

    build(folder, tmp_path)
    for name in manifest["device-builds"]:
        facts = json.loads((folder / "engines" / name / "engine.json").read_text())
        assert facts["parity"]["cosine"] > 0.999
        assert facts["parity"]["same-largest-answer"] == 4
        assert facts["key"]["types"] == (["int8"] if "int8" in name else [])


def test_sparse_weights_are_told_from_the_plan_to_the_engine(tmp_path: Path) -> None:
    bundle, _ = compiled(tmp_path, "tensorrt-sparse-int8", "tensorrt-sparse-fp16")
    facts = json.loads((bundle / "report.json").read_text())
    for name in ("tensorrt-sparse-int8", "tensorrt-sparse-fp16"):
        (notes,) = (one["notes"] for one in facts["candidates"] if one["name"] == name)
        assert "two of each four weights are zero in 2 of 3 layers" in notes  # though a later step wrote the model anew
        assert any("(3 inputs are no multiple of 16)" in note for note in notes)
        assert any("Nothing was measured of its sparse kernels" in note for note in notes)
    folder = bundle / "device"
    build(folder, tmp_path)
    made = json.loads((folder / "engines/tensorrt-sparse-int8/engine.json").read_text())
    assert made["sparse-layers"] == {"able": 3, "chosen": 1}
    assert made["parity"]["cosine"] > 0.999
