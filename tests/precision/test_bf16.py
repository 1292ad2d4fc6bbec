"""bfloat16 seen with float32's kernels: as near to the original as eight bits are, and integers left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from nets import matmul_net, mobile_net
from trials import answers, calibration, run, source, sqnr

from mlopt.artifact import ONNX, Artifact
from mlopt.precision.bf16 import rounded
from mlopt.steps.quantize_static import QuantizeStatic


def test_products_read_and_give_eight_bits(tmp_path: Path) -> None:
    model = mobile_net()
    picture = {"image": np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)}
    narrow = source(tmp_path / "n", rounded(model))
    near = sqnr(answers(source(tmp_path / "m", model), picture), answers(narrow, picture))
    assert 25 < near < 60, "eight bits have an error of 2^-9 in each number: 54 dB, and less after several layers"
    (given,) = answers(narrow, picture)[:1]
    assert not (np.asarray(given, np.float32).view(np.uint32) & 0xFFFF).any(), "what is given has no more bits"


def test_what_runs_on_integers_is_left_alone(tmp_path: Path) -> None:
    model = matmul_net()
    made: Artifact = run(QuantizeStatic(calibration(tmp_path, model)), source(tmp_path / "m", model), tmp_path / "q")
    assert made.format == ONNX
    quantized = onnx.load(str(made.main))
    assert rounded(quantized).SerializeToString(deterministic=True) == quantized.SerializeToString(deterministic=True)


def test_a_product_that_only_reads_an_integer_tensor_is_rounded_too(tmp_path: Path) -> None:
    """One that stays in floating point behind a pooling or a join that has its pair."""
    model = matmul_net()
    pair = [("QuantizeLinear", "h", "codes"), ("DequantizeLinear", "codes", "wide")]
    for name, value in (("scale", np.float32(0.01)), ("zero", np.uint8(128))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value), name))
    for place, (kind, reads, gives) in enumerate(pair):
        model.graph.node.insert(1 + place, onnx.helper.make_node(kind, [reads, "scale", "zero"], [gives]))
    model.graph.node[4].input[0] = "wide"
    narrowed = [node.input[0] for node in rounded(model).graph.node if node.op_type == "MatMul"]
    assert narrowed == ["x_narrow", "wide_narrow"]
