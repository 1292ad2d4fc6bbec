"""The step that writes a .tflite file: what it leaves, how that is known and moved, and what a report says of it."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from trials import answers, calibration, run, source

from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import external_tensors, load_graph, notes_in, work_of
from mlopt.runners.litert import LiteRtRunner
from mlopt.runners.trial import survive
from mlopt.signature import signature
from mlopt.source import open_model
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.to_tflite import ToTflite
from mlopt.store import Store

pytestmark = pytest.mark.litert

FILES = ("model.onnx", "model.tflite")
FEED = {"image": np.random.default_rng(1).standard_normal((3, 3, 32, 32)).astype(np.float32)}


def test_the_model_beside_the_file_says_what_goes_in_and_out(tmp_path: Path) -> None:
    before = source(tmp_path / "m", nets.conv_net())
    made = run(ToTflite(), before, tmp_path / "t", files=FILES)
    one, other = signature(before), signature(made)
    assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
    (weights,) = external_tensors(load_graph(made.main))
    assert (weights.location, weights.end) == ("model.tflite", (made.path / "model.tflite").stat().st_size)
    onnx.checker.check_model(str(made.main))
    with LiteRtRunner(made.main, threads=1) as runner:
        np.testing.assert_allclose(runner.infer(FEED)[0], answers(before, FEED), atol=1e-4)
    survive("litert", made.main, FEED)


def test_the_same_model_makes_the_same_bytes(tmp_path: Path) -> None:
    before = source(tmp_path / "m", nets.fire_net())
    one, other = (run(ToTflite(), before, tmp_path / name, files=FILES) for name in ("a", "b"))
    assert one.digest == other.digest


def test_another_folder_takes_both_files_along(tmp_path: Path) -> None:
    made = run(ToTflite(), source(tmp_path / "m", nets.conv_net()), tmp_path / "t", files=FILES)
    taken = open_model(made.main, store=Store(tmp_path / "store"))
    assert taken.bytes == made.bytes
    with LiteRtRunner(taken.main, threads=1) as runner:
        assert runner.infer(FEED)[0].shape == (3, 10)


def test_two_files_of_one_shape_are_not_taken_for_the_same_work(tmp_path: Path) -> None:
    made = [
        run(ToTflite(), source(tmp_path / name, nets.conv_net(width=width)), tmp_path / f"{name}t", files=FILES)
        for name, width in (("a", 16), ("b", 24))
    ]
    assert len({work_of(one.main) for one in made}) == 2


def test_a_report_says_which_products_are_not_of_integers(tmp_path: Path) -> None:
    model = nets.mobile_net()
    step = QuantizeStatic(calibration(tmp_path, model), shortest_dot=32)
    made = run(ToTflite(), run(step, source(tmp_path / "m", model), tmp_path / "q"), tmp_path / "t", files=FILES)
    (said,) = notes_in(made.main)
    assert said.startswith("6 of 8 products with weights compute in float32 in LiteRT: conv0, conv1")


def test_what_litert_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    before = source(tmp_path / "m", nets.branching_net())
    (tmp_path / "t").mkdir()
    with pytest.raises(UnsupportedModel, match=r"node 'sum' \(ReduceSum\)"):
        ToTflite().run(before, tmp_path / "t")
    assert not list((tmp_path / "t").iterdir())


def test_a_query_that_does_not_fit_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    made = run(ToTflite(), source(tmp_path / "m", nets.conv_net()), tmp_path / "t", files=FILES)
    with LiteRtRunner(made.main, threads=1) as runner:
        for wrong in ({"image": np.zeros((1, 3, 30, 32), np.float32)}, {"image": np.zeros((1, 3, 32, 32), np.float64)}):
            with pytest.raises(UnsupportedModel, match="LiteRT 2"):
                runner.infer(wrong)
            assert runner.infer(FEED)[0].shape == (3, 10)
        with pytest.raises(UnsupportedModel, match="LiteRT 2"):
            runner.infer({"other": FEED["image"]})


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    made = run(ToTflite(), source(tmp_path / "m", nets.conv_net()), tmp_path / "t", files=FILES)
    file = made.path / "model.tflite"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UnsupportedModel, match="cannot load the model"), LiteRtRunner(made.main, threads=1):
        pass
