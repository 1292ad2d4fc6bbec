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
