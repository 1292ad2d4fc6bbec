"""ONNX Runtime on a GPU: never silently on the CPU; where nodes ran is counted."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnxruntime as ort
import pytest

from mlopt.errors import UnsupportedModel
from mlopt.runners.onnxruntime_cuda import (
    CPU,
    OnnxRuntimeCudaRunner,
    OnnxRuntimeTensorrtRunner,
    Placement,
    placement,
    why,
)
from mlopt.runners.onnxruntime_graph import OnnxRuntimeCudaGraphRunner

CUDA = "CUDAExecutionProvider" in ort.get_available_providers()


@pytest.mark.skipif(CUDA, reason="this ONNX Runtime has a CUDA provider")
def test_without_a_cuda_provider_it_says_so_and_does_not_run_on_the_cpu(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    with (
        pytest.raises(UnsupportedModel, match=r"no CUDA provider \(onnxruntime-gpu has\)"),
        OnnxRuntimeCudaRunner(file, threads=1),
    ):
        pass


def test_nodes_are_counted_by_provider_from_a_real_profile_which_is_removed(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    for _ in range(2):  # a node that ran twice is one node
        session.run(None, {"image": np.zeros((1, 3, 32, 32), np.float32)})
    profile = Path(session.end_profiling())
    found = placement(profile)
    assert found.by_provider == {"CPUExecutionProvider": 7}
    assert sum(found.on_cpu.values()) == 7
    assert found.on_cpu["Conv"] == 2
    assert not profile.exists()


def test_nodes_that_were_left_to_the_cpu_are_said_with_their_operators() -> None:
    chain = OnnxRuntimeTensorrtRunner.chain
    found = Placement({chain[0]: 2, chain[1]: 5, chain[2]: 6}, {"NonZero": 3, "TopK": 1, "Loop": 1, "If": 1})
    assert found.text(chain) == (
        "2 of 13 nodes by TensorRT, 5 by CUDA, 6 by the CPU (NonZero × 3, TopK × 1, Loop × 1, …)"
    )
    # A provider that could not be loaded did nothing, and is said to have.
    assert Placement({chain[1]: 7}, {}).text(chain) == "0 of 7 nodes by TensorRT, 7 by CUDA, 0 by the CPU"


@pytest.mark.skipif(CUDA, reason="this ONNX Runtime has a CUDA provider")
def test_without_a_tensorrt_provider_it_says_so_too(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    with (
        pytest.raises(UnsupportedModel, match=r"no TensorRT provider"),
        OnnxRuntimeTensorrtRunner(file, threads=1),
    ):
        pass


def test_a_driver_that_is_too_old_is_said_in_cudas_words_without_the_source_around_them() -> None:
    """What onnxruntime-gpu 1.26 says where CUDA's libraries are and no driver is."""
    said = (
        "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:122 std::conditional_t<THRW, void, Status> "
        "onnxruntime::CudaCall(ERRTYPE, int) [with ERRTYPE = cudaError; bool THRW = true] CUDA failure 35: "
        "CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; "
        "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=336 ; expr=cuda"
    )
    assert why(said) == "CUDA driver version is insufficient for CUDA runtime version (CUDA failure 35)"
    refused = "This session cannot use the graph capture feature as requested by the user as all compute graph nodes …"
    assert why(refused) == refused


@pytest.mark.parametrize("runner", [OnnxRuntimeCudaRunner, OnnxRuntimeCudaGraphRunner])
def test_a_provider_that_fails_is_no_reason_to_run_on_the_cpu(
    runner: type[OnnxRuntimeCudaRunner], tmp_path: Path
) -> None:
    """ONNX Runtime's session would print that it falls back, and do so, when it is made and in any query after."""

    class OnCpu(runner):  # type: ignore[misc, valid-type]
        chain, memory = (CPU,), "cpu"

    with OnCpu(nets.save(nets.conv_net(), tmp_path / "model.onnx"), threads=1) as loaded:
        assert not loaded._session._enable_fallback


def test_a_profile_without_nodes_is_no_proof_of_anything(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('[{"cat": "Session", "name": "model_loading", "args": {}}]')
    with pytest.raises(UnsupportedModel, match="names no node"):
        placement(profile)


@pytest.mark.skipif(not CUDA, reason="needs an NVIDIA GPU and onnxruntime-gpu")
def test_on_a_gpu_it_answers_as_the_cpu_does_and_names_the_card(tmp_path: Path) -> None:
    file = nets.save(nets.conv_net(), tmp_path / "model.onnx")
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    expected = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]
    with OnnxRuntimeCudaRunner(file, threads=1) as runner:
        np.testing.assert_allclose(runner.infer({"image": image})[0], expected, rtol=1e-3, atol=1e-4)
        assert "driver" in runner.device
