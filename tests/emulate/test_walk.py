"""What a compile does with a model that may answer differently on other processors, and what `mlopt parity` prints."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import walks
from saturating import full

from mlopt.commands import parity
from mlopt.emulate import sets
from mlopt.errors import MissingDependency
from mlopt.image.fetch import Inputs
from mlopt.image.layout import manifests_of
from mlopt.repair.pairs import overflowing

PLAIN = """schema = 1
summary = "eight bits, whatever the processor"
precision = "int8"
needs-samples = true

[[step]]
name = "quantize-static"
scheme = "u8s8"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = nets.save(nets.conv_net(width=32), tmp_path / "net.onnx")
    walks.labelled(tmp_path / "samples.npz", model)
    walks.profile(tmp_path, name="fast")
    (tmp_path / "plain.toml").write_text(PLAIN)
    return tmp_path


@pytest.mark.slow
def test_a_candidate_that_may_differ_is_out_by_name_and_the_one_that_cannot_ships(place: Path) -> None:
    asked = ("--samples", "samples.npz", "-p", "./fast.toml", "-t", "x86-64-avx512-vnni", "--no-image", "--json")
    recipes = ("--recipe", "./plain.toml", "--recipe", "int8-static", "--ship", "int8-static")
    ended = walks.mlopt("compile", "net.onnx", *asked, *recipes, cwd=place)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    found = {one["name"]: one["failure"] for one in report["candidates"]}
    assert "processors without VNNI" in found["plain"]
    assert "need not fit" in found["plain"]
    assert found["int8-static"] == ""
    shipped = place / "out" / "net" / "x86-64-avx512-vnni" / "model" / "model.onnx"
    assert not overflowing(onnx.load(str(shipped)).graph)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "platforms"), [("rpi5", 1), ("x86-64-avx2", 2)])
def test_an_image_holds_the_other_architecture_only_where_the_answers_are_the_same(
    place: Path, image_inputs: Inputs, target: str, platforms: int
) -> None:
    store = place / "store"
    store.mkdir()
    walks.borrow_inputs(image_inputs, store)
    asked = ("--samples", "samples.npz", "-p", "./fast.toml", "-t", target, "--cache-dir", store)
    ended = walks.mlopt("compile", "net.onnx", *asked, "--ship", "int8-static", cwd=place, limit=300)
    assert ended.returncode == 0, ended.stderr
    assert len(manifests_of(place / "out" / "net" / target / "image")) == platforms


@pytest.mark.usefixtures("hides")
def test_parity_prints_how_far_answers_are_apart_and_fails_where_they_are(place: Path) -> None:
    random = np.random.default_rng(0)
    model, bright = full(place / "overflows.onnx", 127), random.uniform(2.4, 2.55, (80, 64)).astype(np.float32)
    # Class 0 has the largest sum; where its pairs are cut at 16 bits, class 1 has, none of whose pairs is.
    given = onnx.load(str(model))
    codes = np.zeros((16, 64), np.int8)
    codes[0, :32], codes[1] = 127, 40
    stored = next(one for one in given.graph.initializer if one.name == "w")
    stored.CopyFrom(onnx.numpy_helper.from_array(codes, "w"))
    onnx.save(given, str(model))
    np.savez(place / "bright.npz", x=bright, y=np.zeros(80, np.int64))
    asked = ("--samples", "bright.npz", "--calibration", "16", "--on", "avx2,avx512-vnni")
    ended = walks.mlopt("parity", model.name, *asked, cwd=place)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "more than 0.2% apart on avx2." in ended.stderr
    rows = {line.split()[0]: line for line in ended.stdout.splitlines()}
    assert " apart " in rows["avx2"]
    assert " same " in rows["avx512-vnni"]
    assert rows["emulated;"].startswith("emulated; 64 samples")
    told = walks.mlopt("parity", "net.onnx", "--on", "avx3", cwd=place)
    assert told.returncode == 18
    assert "Did you mean" in told.stderr
    assert walks.mlopt("parity", "none.onnx", cwd=place).returncode == 10


def test_where_no_set_can_be_run_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nets.save(nets.matmul_net(), tmp_path / "net.onnx")
    (tmp_path / "cpuinfo").write_text("flags\t\t: avx2\n")
    monkeypatch.setattr(sets, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("AARCH64", "X86_64"):
        monkeypatch.delenv(f"MLOPT_QEMU_{name}", raising=False)
    with pytest.raises(MissingDependency, match="No other instruction set can be run here") as told:
        parity.command.main([str(model)], standalone_mode=False)
    assert "apt install qemu-user" in told.value.next
