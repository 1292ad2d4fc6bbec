"""Repaired quantization: nearer to the original than plain, in every scheme, without leaving the scheme."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from digits import trained_depthwise_net
from nets import conv_net, depthwise_net, matmul_net, transformer_net, unbalanced
from trials import answers, calibration, run, source, sqnr

from mlopt.repair.pairs import overflowing
from mlopt.steps.equalize import Equalize
from mlopt.steps.qdq import Scheme
from mlopt.steps.quantize_static import QuantizeStatic

SCHEMES: tuple[Scheme, ...] = ("u8s8", "u8s8-paired", "s8s8", "u8u8")


def picture(side: int, seed: int = 7) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((32, 3, side, side)).astype(np.float32)}


def quantized_weights(model: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(str(model)).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {
        name: array for name, array in arrays.items() if array.dtype in (np.int8, np.uint8) and array.ndim in (2, 4)
    }


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nearer_to_the_original_and_inside_the_scheme(tmp_path: Path, scheme: Scheme, per_channel: bool) -> None:
    model = depthwise_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = {
        repair: run(
            QuantizeStatic(samples, scheme=scheme, per_channel=per_channel, repair=repair), base, tmp_path / str(repair)
        )
        for repair in (False, True)
    }
    exact = answers(base, picture(16))
    plain, better = (sqnr(exact, answers(made[repair], picture(16))) for repair in (False, True))
    assert better > plain + 1
    for name, array in quantized_weights(made[True].main).items():
        assert array.dtype == (np.int8 if scheme[2] == "s" else np.uint8), name
    if scheme == "u8s8-paired":
        assert not overflowing(onnx.load(str(made[True].main)).graph)
    ops = [[node.op_type for node in onnx.load(str(each.main)).graph.node] for each in made.values()]
    assert sorted(set(ops[0])) == sorted(set(ops[1])), "the same kernels run"


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    model = depthwise_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    step = QuantizeStatic(samples, repair=True)
    assert run(step, base, tmp_path / "1").digest == run(step, base, tmp_path / "2").digest


def test_a_mean_that_rounding_shifts_comes_back(tmp_path: Path) -> None:
    """Each weight of a row is a quarter of a step above the grid: rounding takes the same from every one of them, and
    inputs with a mean far from zero turn that into a shift."""
    model = conv_net()
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    step = np.float32(1 / 127)
    arrays["w2"] = (np.round(arrays["w2"] / step) + 0.25).astype(np.float32) * step
    arrays["w2"][:, 0, 0, 0] = 1
    arrays["w2"] = np.clip(arrays["w2"], -0.99, 1)
    arrays["b1"] += 3
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(arrays[tensor.name], tensor.name))
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    exact = answers(base, picture(32))
    plain = answers(run(QuantizeStatic(samples), base, tmp_path / "q"), picture(32)) - exact
    better = answers(run(QuantizeStatic(samples, repair=True), base, tmp_path / "r"), picture(32)) - exact
    assert np.abs(better.mean(axis=0)).mean() < 0.2 * np.abs(plain.mean(axis=0)).mean()


def test_a_transformer_with_outliers_equalised_and_repaired(tmp_path: Path) -> None:
    model = transformer_net(outliers=64)
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    feed = {"x": np.random.default_rng(4).standard_normal((8, 8, 32)).astype(np.float32)}
    exact = answers(base, feed)
    plain = run(QuantizeStatic(samples), base, tmp_path / "q")
    equal = run(Equalize(samples), base, tmp_path / "e")
    repaired = run(QuantizeStatic(samples, repair=True), equal, tmp_path / "r")
    assert sqnr(exact, answers(plain, feed)) < 10
    assert sqnr(exact, answers(repaired, feed)) > 25


def test_products_without_a_bias_are_repaired_too(tmp_path: Path) -> None:
    model = matmul_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    feed = {"x": np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)}
    plain, better = (
        run(
            QuantizeStatic(samples, scheme="u8s8-paired", per_channel=False, repair=repair),
            base,
            tmp_path / str(repair),
        )
        for repair in (False, True)
    )
    exact = answers(base, feed)
    assert sqnr(exact, answers(better, feed)) > sqnr(exact, answers(plain, feed)) - 0.5


@pytest.mark.slow
@pytest.mark.torch
def test_digits_with_seeded_channel_imbalance_lose_at_most_a_third_of_a_point(tmp_path: Path) -> None:
    """Half of scikit-learn's digits judge; plain int8 loses tens of points on the same net."""
    model, images, labels = trained_depthwise_net()
    model = unbalanced(model)
    base = source(tmp_path / "m", model)
    samples = calibration(tmp_path, model, of=images[:128])
    judges = {"image": images[-len(labels) :]}

    def right(outputs: np.ndarray) -> float:
        return 100 * float((outputs.argmax(axis=1) == labels).mean())

    exact = right(answers(base, judges))
    assert exact > 94
    for per_channel in (True, False):
        equal = run(Equalize(samples, per_channel=per_channel), base, tmp_path / f"e{per_channel}")
        plain = run(QuantizeStatic(samples, per_channel=per_channel), base, tmp_path / f"q{per_channel}")
        step = QuantizeStatic(samples, per_channel=per_channel, repair=True)
        repaired = run(step, equal, tmp_path / f"r{per_channel}")
        assert right(answers(plain, judges)) < exact - 10
        assert right(answers(repaired, judges)) >= exact - 0.3


def test_what_needs_no_repair_stays_the_static_model(tmp_path: Path) -> None:
    """All weights are zero: there is no error to make good."""
    model = conv_net()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(array), tensor.name))
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    plain = run(QuantizeStatic(samples), base, tmp_path / "q")
    assert run(QuantizeStatic(samples, repair=True), base, tmp_path / "r").digest == plain.digest
