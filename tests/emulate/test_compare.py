"""ONNX Runtime and OpenVINO on instruction sets that are hidden or emulated: what overflows differs, what fits does
not. No fake kernels: the libraries themselves run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, save
from saturating import full
from trials import calibration, run, source

from mlopt.emulate.compare import Answers, _outcomes, _own, _write_queries, judged, on_each
from mlopt.emulate.sets import SETS, find_sets, way_for
from mlopt.errors import MissingDependency, UnknownName, WorkerFailed
from mlopt.image.fetch import Inputs
from mlopt.measurement import Accuracy, Interval
from mlopt.repair.pairs import overflowing
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature_of
from mlopt.steps.qdq import Scheme
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.tflite.wrapper import save_wrapped

X86 = ("avx2", "avx512", "avx-vnni", "avx512-vnni")
ARM = ("armv8.0", "armv8.2-dotprod", "armv8.4-i8mm")


class Bright:
    """Samples that are all at the top of their range."""

    def __init__(self, model: Path) -> None:
        (tensor,) = signature_of(model).inputs
        self.name, self.shape = tensor.name, [1, *(int(side) for side in tensor.shape[1:])]

    def feeds(self, *, batch: int):  # type: ignore[no-untyped-def]
        for seed in range(4):
            random = np.random.default_rng(seed)
            yield {self.name: random.uniform(2.4, 2.55, self.shape).astype(np.float32)}


def each(model: Path, names: Sequence[str], inputs: Inputs | None = None, **said: object) -> dict[str, Answers]:
    found = on_each(
        model,
        find_sets(names),
        Bright(model),  # type: ignore[arg-type]
        runtime=str(said.pop("runtime", "onnxruntime")),
        count=4,
        limit=0.002,
        inputs=inputs or Inputs(),
        **said,  # type: ignore[arg-type]
    )
    return {one.instructions: one for one in found}


@pytest.mark.usefixtures("hides")
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
def test_what_overflows_differs_where_products_are_added_in_16_bits(tmp_path: Path, runtime: str) -> None:
    model = full(tmp_path / "model.onnx", 127)
    assert overflowing(onnx.load(str(model)).graph) == ("product",)
    found = each(model, X86 if runtime == "onnxruntime" else ("avx2", "avx512-vnni"), runtime=runtime)
    for name, one in found.items():
        assert one.accuracy.grade == "emulated"
        if name.endswith("vnni"):
            assert one.largest == 0, name
        elif runtime == "onnxruntime":
            assert one.largest > 0.4, "65535 of 2 * 255 * 127 is lost"


@pytest.mark.usefixtures("hides")
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
def test_what_fits_is_the_same_everywhere(tmp_path: Path, runtime: str) -> None:
    model = full(tmp_path / "model.onnx", 64)
    assert not overflowing(onnx.load(str(model)).graph)
    assert {name: one.largest for name, one in each(model, X86, runtime=runtime).items()} == dict.fromkeys(X86, 0)


@pytest.mark.usefixtures("hides")
@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
def test_a_channel_by_itself_may_have_all_eight_bits(tmp_path: Path, runtime: str) -> None:
    model = full(tmp_path / "model.onnx", 127, depthwise=True)
    assert not overflowing(onnx.load(str(model)).graph)
    assert each(model, ["avx2"], runtime=runtime)["avx2"].largest == 0


@pytest.mark.slow
@pytest.mark.usefixtures("hides")
@pytest.mark.parametrize("repair", [False, True])
def test_the_scheme_for_x86_answers_the_same_and_the_plain_one_does_not(tmp_path: Path, repair: bool) -> None:
    """Bright pictures through a trained-like net: the plain scheme loses answers on AVX2, the paired one no bit."""
    model = conv_net(width=32)
    for tensor in model.graph.initializer:  # weights of one sign, as layers that look for brightness have
        array = np.abs(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    pictures = np.random.default_rng(0).uniform(0.0, 2.55, (40, 3, 32, 32)).astype(np.float32)
    base, seen = source(tmp_path / "m", model), calibration(tmp_path, model, of=pictures)
    largest = {}
    schemes: tuple[Scheme, ...] = ("u8s8", "u8s8-paired")
    for scheme in schemes:
        made = run(QuantizeStatic(seen, scheme=scheme, repair=repair), base, tmp_path / scheme)
        largest[scheme] = each(made.main, ["avx2"])["avx2"].largest
    assert largest["u8s8"] > 0.01
    assert largest["u8s8-paired"] == 0


def needs(name: str, *, qemu: bool = False) -> None:
    try:
        way_for(SETS[name], qemu=qemu)
    except MissingDependency as error:
        pytest.skip(f"tier emulation: {error.what}")


@pytest.mark.emulation
@pytest.mark.slow
def test_qemu_agrees_with_the_processor_that_it_stands_for(tmp_path: Path) -> None:
    needs("avx2", qemu=True)
    for heaviest in (64, 127):
        found = each(full(tmp_path / f"{heaviest}.onnx", heaviest), ["avx2"], qemu=True)
        assert (found["avx2"].largest > 0.4) == (heaviest == 127)
        assert "Haswell" in found["avx2"].way


@pytest.mark.emulation
@pytest.mark.slow
def test_arm_is_exact_whatever_the_weights(tmp_path: Path, image_inputs: Inputs) -> None:
    needs("armv8.0")
    found = each(full(tmp_path / "model.onnx", 127), ARM, image_inputs)
    assert {name: one.outcome for name, one in found.items()} == dict.fromkeys(ARM, "same")
    assert all(one.largest == 0 for one in found.values())


@pytest.mark.emulation
@pytest.mark.litert
@pytest.mark.slow
def test_integers_in_litert_are_the_same_on_arm(tmp_path: Path, image_inputs: Inputs) -> None:
    """In its image's own files: weights that overflow on AVX2 in ONNX Runtime among them."""
    needs("armv8.0")
    (tmp_path / "made").mkdir()
    save_wrapped(full(tmp_path / "model.onnx", 127), tmp_path / "made")
    found = each(tmp_path / "made" / "model.onnx", ARM, image_inputs, runtime="litert")
    assert {name: one.largest for name, one in found.items()} == dict.fromkeys(ARM, 0)


def test_what_cannot_be_run_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MLOPT_QEMU_AARCH64", raising=False)
    with pytest.raises(MissingDependency, match="no qemu-aarch64 on the path") as told:
        way_for(SETS["armv8.0"])
    assert "MLOPT_QEMU_AARCH64=" in (told.value.next or "")
    with pytest.raises(MissingDependency, match="qemu-user computes no avx512-vnni"):
        way_for(SETS["avx512-vnni"], qemu=True)
    old = tmp_path / "qemu-aarch64"
    old.write_text("#!/bin/sh\necho qemu-aarch64 version 7.2.18\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(MissingDependency, match="is older"):
        way_for(SETS["armv8.0"])
    with pytest.raises(UnknownName, match="Did you mean avx2"):
        find_sets(["avx-2"])


@pytest.mark.usefixtures("hides")
def test_a_model_that_does_not_run_is_named(tmp_path: Path) -> None:
    model = full(tmp_path / "model.onnx", 64)
    broken = onnx.load(str(model))
    broken.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(broken, str(model))
    with pytest.raises(WorkerFailed, match="does not run on here"):
        each(model, ["avx2"])


def accuracy(agreement: Interval | None) -> Accuracy:
    return Accuracy("avx2", "emulated", 64, False, False, None, None, None, agreement, 0.29, 0.0)


def test_what_has_no_classes_is_judged_by_its_largest_difference() -> None:
    found = [judged(accuracy(None), largest, 0.002) for largest in (0.0, 0.002, 0.0021, 0.9)]
    assert found == ["same", "within", "apart", "apart"]
    assert judged(accuracy(Interval(1.0, 0.95, 1.0, "wilson")), 0.9, 0.002) == "same", "no class changed"


def test_tensors_may_have_any_name(tmp_path: Path) -> None:
    """Those of np.savez's own parameters among them; queries and answers go through files."""
    node = onnx.helper.make_node("Add", ["args/0", "allow_pickle"], ["file"], name="sum")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2, 3])
        for name in ("args/0", "allow_pickle", "file")
    ]
    graph = onnx.helper.make_graph([node], "names", values[:2], values[2:])
    given = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = save(given, tmp_path / "model.onnx")
    samples = GeneratedSamples(signature_of(model), 3, 0)
    taken = _write_queries(tmp_path / "queries.npz", model, samples, 3)
    assert taken == 3
    found = _outcomes(tmp_path / "here", _own(()), model, "onnxruntime")
    wanted = np.stack([feeds["args/0"] + feeds["allow_pickle"] for feeds in samples.feeds(batch=1)])[:, 0]
    np.testing.assert_array_equal(np.load(found.path / "0.npy"), wanted)
    assert json.loads((found.path / "outcomes.json").read_text()) == {"outputs": ["file"]}
    with np.load(tmp_path / "queries.npz") as arrays:
        assert len(arrays.files) == 2 + 3 * 2, "nothing but names and queries"
