"""ONNX Runtime on an NVIDIA GPU, by a chain of its providers: what each of them ran is counted, never hidden."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.errors import UnsupportedModel
from mlopt.nvml import NvmlError, card_of, cuda_identity
from mlopt.onnx_file import context_files, load_graph
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.runners.runner import RanOn
from mlopt.serve.session import opened

if TYPE_CHECKING:
    import numpy as np

    from mlopt.insight import Profile

TENSORRT: Final = "TensorrtExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
_CALLED: Final[Mapping[str, str]] = {TENSORRT: "TensorRT", CUDA: "CUDA", CPU: "the CPU"}
_FAILURE: Final = re.compile(r"(?P<kind>[A-Z]+ failure \d+): (?P<what>[^;]+)")
_FATAL: Final = 4  # ONNX Runtime logs in red what it raises besides, and what its fallbacks to other kernels mend
_SHOWN: Final = 3  # operators that are named of those on the CPU


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the nodes ran that ONNX Runtime made of a model: how many by each provider, and which operators by the CPU.
    What TensorRT runs as one is one."""

    by_provider: Mapping[str, int]
    on_cpu: Mapping[str, int]

    def text(self, chain: tuple[str, ...]) -> str:
        """One sentence, with every provider of the chain that was to be tried.

        >>> Placement({CUDA: 40, CPU: 2}, {"NonZero": 2}).text((TENSORRT, CUDA, CPU))
        '0 of 42 nodes by TensorRT, 40 by CUDA, 2 by the CPU (NonZero × 2)'
        """
        total = sum(self.by_provider.values())
        counts = [f"{self.by_provider.get(name, 0)} by {_CALLED[name]}" for name in chain]
        said = ", ".join(counts).replace(" by", f" of {total} nodes by", 1)
        if not self.on_cpu:
            return said
        kinds = Counter(self.on_cpu).most_common()
        named = ", ".join(f"{name} × {count}" for name, count in kinds[:_SHOWN])
        return f"{said} ({named}{', …' if len(kinds) > _SHOWN else ''})"


@dataclass(slots=True)
class OnnxRuntimeCudaRunner(OnnxRuntimeRunner):
    """`infer` copies its inputs to the GPU and the outputs back, and returns when they are there: so it is timed.

    TF32 is off, so that fp32 means fp32. Raises `UnsupportedModel` where the provider or its libraries cannot be
    loaded: ONNX Runtime by itself would run on the CPU and say nothing.
    """

    name: ClassVar[str] = "onnxruntime-cuda"
    distributions: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu",)
    extra: ClassVar[str] = "onnxruntime-cuda"
    concurrent: ClassVar[bool] = False
    on_gpu: ClassVar[bool] = True
    chain: ClassVar[tuple[str, ...]] = (CUDA, CPU)
    """The providers, each of which takes what those before it left."""
    settings: ClassVar[Mapping[str, Mapping[str, str]]] = {CUDA: {"use_tf32": "0"}}
    memory: ClassVar[str] = "cuda"
    cuda_graph: ClassVar[bool] = False

    placed: Placement | None = field(default=None, init=False)
    """Known after the first query."""
    _folder: Any = field(default=None, init=False, repr=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        OnnxRuntimeRunner.__exit__(self, kind, error, trace)
        self._folder.cleanup()

    def _opened(self, options: Any) -> Any:
        import onnxruntime as ort

        context_files(load_graph(self.model), self.model)
        first = self.chain[0]
        if first not in ort.get_available_providers():
            raise RuntimeError(f"this build of it has no {_CALLED[first]} provider (onnxruntime-gpu has)")
        ort.set_default_logger_severity(_FATAL)
        options.log_severity_level = _FATAL
        ort.preload_dlls()  # CUDA and cuDNN of the nvidia-* packages, where they are installed
        if self.placed is None:
            options.enable_profiling = True  # of the first query alone: it says which node ran where
            self._folder = tempfile.TemporaryDirectory(prefix="mlopt-placement-")  # two runs may start in one second
            options.profile_file_prefix = str(Path(self._folder.name) / "nodes")
        providers = [(name, dict(self.settings.get(name, {}))) for name in self.chain]
        try:  # without its fallback, by which a provider that fails, now or in any query, becomes the CPU
            session = opened(self.model, options, providers=providers, enable_fallback=0)
        except Exception as error:
            raise RuntimeError(why(str(error))) from error
        if session.get_providers()[0] != first:
            raise RuntimeError(f"its {_CALLED[first]} provider could not be loaded: {_missing(first)} is missing")
        return session

    def profile(self, feeds: Sequence[Mapping[str, np.ndarray]], *, count: int) -> Profile:
        raise UnsupportedModel("ONNX Runtime's profiler times when the GPU is given work, not how long it takes.")

    def arena_peak(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> int | None:
        """Not told: most of it is the GPU's, and the C interface would run the model on the CPU."""
        return None

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs = OnnxRuntimeRunner.infer(self, feeds)
        self._count()
        return outputs

    def resident(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, self._copied(value))
        for name in self.outputs:
            binding.bind_output(name, self.memory, 0)

        def run() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    @property
    def device(self) -> str:
        """The GPU, its driver, and how much of the model did not run on it; after the first query."""
        where = self.placed.text(self.chain) if self.placed else "nothing ran yet"
        return f"{_gpu()}, {where}, copies in and out included"

    @property
    def ran_on(self) -> RanOn:
        assert self.placed, "what ran is known after the first query"
        nodes = {name: self.placed.by_provider.get(name, 0) for name in self.chain}
        return RanOn(cuda_identity(), nodes, dict(self.placed.on_cpu), self.cuda_graph)

    def _copied(self, value: np.ndarray) -> Any:
        """In the memory that the model computes in."""
        import numpy as np
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(np.array(value, order="C"), self.memory, 0)

    def _count(self) -> None:
        if self.placed is None:
            self.placed = placement(Path(self._session.end_profiling()))


@dataclass(slots=True)
class OnnxRuntimeTensorrtRunner(OnnxRuntimeCudaRunner):
    """By the TensorRT that the system has, which builds its engines when the model is loaded; CUDA takes the nodes that
    it refuses, and the CPU those that CUDA refuses."""

    name: ClassVar[str] = "onnxruntime-tensorrt"
    chain: ClassVar[tuple[str, ...]] = (TENSORRT, CUDA, CPU)


def placement(profile: Path) -> Placement:
    """Nodes by provider, from a profile that ONNX Runtime wrote, which is removed."""
    events: list[dict[str, Any]] = json.loads(profile.read_text())
    profile.unlink()
    ran = {event["name"]: event["args"] for event in events if "provider" in event.get("args", ())}
    if not ran:
        raise UnsupportedModel("ONNX Runtime's profile of the first query names no node.", where=str(profile))
    on_cpu = (said.get("op_name", "?") for said in ran.values() if said["provider"] == CPU)
    return Placement(Counter(said["provider"] for said in ran.values()), Counter(on_cpu))


def why(said: str) -> str:
    """ONNX Runtime's reason without the lines of its source, the host's name and the call that are in it.

    >>> why("/src/cuda_call.cc:122 void CudaCall() CUDA failure 35: the driver is too old ; GPU=-1 ; hostname=vm")
    'the driver is too old (CUDA failure 35)'
    """
    if found := _FAILURE.search(said):
        return f"{found['what'].strip()} ({found['kind']})"
    if "Please install TensorRT libraries" in said:
        return f"its TensorRT provider could not be loaded: {_missing(TENSORRT)} is missing"
    return said


def _missing(provider: str) -> str:
    if provider == TENSORRT:
        return "the system's TensorRT (libnvinfer), of the major version that it was made for, or driver, CUDA or cuDNN"
    return "the driver, or CUDA or cuDNN of the major version that it was made for,"


def _gpu() -> str:
    """Name and driver of the GPU that CUDA calls the first."""
    try:
        card = card_of(cuda_identity())
        return f"{card.name}, driver {card.driver}"
    except NvmlError as error:
        return f"an NVIDIA GPU ({error})"
