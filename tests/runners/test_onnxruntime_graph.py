"""CUDA graphs: fixed memory for each set of shapes, by the runner's own code on ONNX Runtime's CPU provider.

What this cannot show: that CUDA records and replays, and what that is worth.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from mlopt.errors import UnsupportedModel
from mlopt.runners.onnxruntime_cuda import CPU, CUDA, TENSORRT, OnnxRuntimeCudaRunner
from mlopt.runners.onnxruntime_graph import OnnxRuntimeCudaGraphRunner, OnnxRuntimeTensorrtGraphRunner


class Plain(OnnxRuntimeCudaRunner):
    chain: ClassVar[tuple[str, ...]] = (CPU,)
    memory: ClassVar[str] = "cpu"


class Recorded(OnnxRuntimeCudaGraphRunner):
    chain: ClassVar[tuple[str, ...]] = (CPU,)
    memory: ClassVar[str] = "cpu"


def image(seed: int, batch: int = 1) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((batch, 3, 32, 32)).astype(np.float32)}


def test_each_query_is_answered_whatever_came_before_it(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    expected = ort.InferenceSession(str(file), providers=[CPU])
    queries = [image(0), image(1), image(2, batch=4), image(3), image(4, batch=4)]
    queries.append({"image": np.asfortranarray(image(5)["image"])})
    with Recorded(file, threads=1) as runner:
        # What comes from a GPU's memory is a copy; on the CPU it is that memory itself.
        answers = [runner.infer(query)[0].copy() for query in queries]
        assert runner.ran_on.cuda_graph
        assert runner.ran_on.nodes[CPU] == sum(runner.ran_on.on_cpu.values()) > 0
    for query, answer in zip(queries, answers, strict=True):
        np.testing.assert_allclose(answer, expected.run(None, query)[0], rtol=1e-5, atol=1e-6)
    assert not list(tmp_path.glob("*.json"))


def test_each_set_of_shapes_has_memory_and_a_session_of_its_own(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    with Recorded(file, threads=1) as runner:
        for query in (image(0), image(1, batch=4), image(2)):
            runner.infer(query)
        one, four = runner._recorded.values()
        assert one.session is not four.session
        assert one.given["image"].data_ptr() != four.given["image"].data_ptr()
        before = one.given["image"].data_ptr(), one.made[0].data_ptr()
        runner.infer(image(3))
        assert (one.given["image"].data_ptr(), one.made[0].data_ptr()) == before


@pytest.mark.parametrize("kind", [Plain, Recorded])
def test_a_query_without_copies_computes_and_leaves_its_outputs_there(
    kind: type[OnnxRuntimeCudaRunner], tmp_path: Path
) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    with kind(file, threads=1) as runner:
        runner.infer(image(0))
        once = runner.resident(image(1))
        assert once() is None
        assert once() is None
        assert len(runner.infer(image(0))[0]) == 1


def test_an_output_whose_shape_is_not_known_beforehand_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["x"], ["where"])
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4]), helper.make_tensor_value_info("where", 7, None)
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    file = nets.save(model, tmp_path / "model.onnx")
    with Recorded(file, threads=1) as runner, pytest.raises(UnsupportedModel, match=r"'where' does not follow") as told:
        runner.infer({"x": np.ones(4, np.float32)})
    assert "without graphs" in told.value.next


def test_a_query_that_does_not_run_is_said_as_such(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    with Recorded(file, threads=1) as runner, pytest.raises(UnsupportedModel, match="as a CUDA graph"):
        runner.infer({"image": np.zeros((1, 3, 32, 32), np.float64)})


def test_after_a_query_that_did_not_run_another_shape_does(tmp_path: Path) -> None:
    table = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")
    info = helper.make_tensor_value_info
    node = helper.make_node("Gather", ["table", "at"], ["y"])
    graph = helper.make_graph([node], "g", [info("at", 7, ["N"])], [info("y", 1, ["N"])], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = nets.save(model, tmp_path / "model.onnx")
    with Recorded(file, threads=1) as runner:
        with pytest.raises(UnsupportedModel, match="as a CUDA graph"):
            runner.infer({"at": np.array([9])})
        assert runner.infer({"at": np.array([1, 2])})[0].tolist() == [1, 2]
        assert runner.infer({"at": np.array([3])})[0].tolist() == [3]


def test_each_provider_is_told_by_the_option_that_it_has() -> None:
    assert OnnxRuntimeCudaGraphRunner.settings == {CUDA: {"use_tf32": "0", "enable_cuda_graph": "1"}}
    # The first of the chain records: with both, CUDA would be asked for what TensorRT has.
    assert OnnxRuntimeTensorrtGraphRunner.settings == {
        TENSORRT: {"trt_cuda_graph_enable": "True"},
        CUDA: {"use_tf32": "0"},
    }
    assert OnnxRuntimeTensorrtGraphRunner.chain == (TENSORRT, CUDA, CPU)


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="needs an NVIDIA GPU and onnxruntime-gpu")
def test_on_a_gpu_it_answers_as_without_graphs(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    queries = [image(0), image(1), image(2, batch=4), image(3)]
    with OnnxRuntimeCudaRunner(file, threads=1) as runner:
        expected = [runner.infer(query)[0] for query in queries]
    with OnnxRuntimeCudaGraphRunner(file, threads=1) as runner:
        for query, answer in zip(queries, expected, strict=True):
            np.testing.assert_allclose(runner.infer(query)[0], answer, rtol=1e-3, atol=1e-4)
