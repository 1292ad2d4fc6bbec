"""ONNX Runtime on an NVIDIA GPU, by its CUDA provider: nodes that it leaves to the CPU are counted, not hidden."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.errors import UnsupportedModel
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    import numpy as np

    from mlopt.insight import Profile

_PROVIDER: Final = "CUDAExecutionProvider"


@dataclass(slots=True)
class OnnxRuntimeCudaRunner(OnnxRuntimeRunner):
    """`infer` copies its inputs to the GPU and the outputs back, and returns when they are there: so it is timed.

    TF32 is off, so that fp32 means fp32. Raises `UnsupportedModel` where the provider or its libraries cannot be
    loaded: ONNX Runtime by itself would run on the CPU and say nothing.
    """

    name: ClassVar[str] = "onnxruntime-cuda"
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu",)
    concurrent: ClassVar[bool] = False

    placed: Mapping[str, int] = field(default_factory=dict, init=False)
    """How many nodes ran on each provider, known after the first query."""
    _folder: Any = field(default=None, init=False, repr=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        OnnxRuntimeRunner.__exit__(self, kind, error, trace)
        self._folder.cleanup()

    def _opened(self, options: Any) -> Any:
        import onnxruntime as ort

        if _PROVIDER not in ort.get_available_providers():
            raise RuntimeError("this build of it has no CUDA provider (onnxruntime-gpu has)")
        ort.preload_dlls()  # CUDA and cuDNN of the nvidia-* packages, where they are installed
        options.enable_profiling = True  # of the first query alone: it says which node ran where
        self._folder = tempfile.TemporaryDirectory(prefix="mlopt-placement-")  # two runs may start in one second
        options.profile_file_prefix = str(Path(self._folder.name) / "nodes")
        providers = [(_PROVIDER, {"use_tf32": "0"}), "CPUExecutionProvider"]
        session = ort.InferenceSession(str(self.model), options, providers=providers)
        if session.get_providers()[0] != _PROVIDER:
            raise RuntimeError("its CUDA provider could not be loaded: driver, CUDA 13 or cuDNN 9 is missing")
        return session

    def profile(self, feeds: Sequence[Mapping[str, np.ndarray]], *, count: int) -> Profile:
        raise UnsupportedModel("ONNX Runtime's profiler times when the GPU is given work, not how long it takes.")

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs = OnnxRuntimeRunner.infer(self, feeds)
        if not self.placed:
            self.placed = placement(Path(self._session.end_profiling()))
        return outputs

    @property
    def device(self) -> str:
        """The GPU, its driver, and how much of the model did not run on it; after the first query."""
        total = sum(self.placed.values())
        beside = total - self.placed.get(_PROVIDER, 0)
        return f"{_gpu()}, {beside} of {total} nodes on the CPU, copies in and out included"


def placement(profile: Path) -> Mapping[str, int]:
    """Nodes by provider, from a profile that ONNX Runtime wrote, which is removed."""
    events: list[dict[str, Any]] = json.loads(profile.read_text())
    profile.unlink()
    ran = {event["name"]: event["args"]["provider"] for event in events if "provider" in event.get("args", ())}
    if not ran:
        raise UnsupportedModel("ONNX Runtime's profile of the first query names no node.", where=str(profile))
    return Counter(ran.values())


def _gpu() -> str:
    """Name and driver of the GPU that CUDA calls the first, asked through NVML, which sets nothing."""
    try:
        import pynvml as nvml
    except ImportError:
        return "an NVIDIA GPU (nvidia-ml-py is not installed)"
    nvml.nvmlInit()
    try:
        return (
            f"{nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))}, driver {nvml.nvmlSystemGetDriverVersion()}"
        )
    finally:
        nvml.nvmlShutdown()
