"""ONNX Runtime on an NVIDIA GPU with CUDA graphs: all kernels of a query are recorded once, and launched as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import inferred, load_graph, shapes_in
from mlopt.runners.onnxruntime import first_line
from mlopt.runners.onnxruntime_cuda import CUDA, TENSORRT, OnnxRuntimeCudaRunner, OnnxRuntimeTensorrtRunner, why

if TYPE_CHECKING:
    import numpy as np

_Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def _shapes(feeds: Mapping[str, np.ndarray]) -> _Shapes:
    return tuple((name, value.shape) for name, value in feeds.items())


@dataclass(slots=True)
class _Recorded:
    """A graph reads and writes the memory that it was recorded with, so that memory belongs to its shapes."""

    session: Any
    binding: Any
    given: dict[str, Any]
    made: list[Any]

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)
        self.binding.synchronize_outputs()


@dataclass(slots=True)
class OnnxRuntimeCudaGraphRunner(OnnxRuntimeCudaRunner):
    """As `OnnxRuntimeCudaRunner`, copies in and out included; the first query of each shape records, the others replay.

    ONNX Runtime takes a model only if CUDA runs all that computes in it, and the shapes of its outputs must follow from
    those of its inputs: otherwise it raises `UnsupportedModel`.
    """

    name: ClassVar[str] = "onnxruntime-cuda-graph"
    settings: ClassVar[Mapping[str, Mapping[str, str]]] = {CUDA: {"use_tf32": "0", "enable_cuda_graph": "1"}}
    cuda_graph: ClassVar[bool] = True

    _recorded: dict[_Shapes, _Recorded] = field(default_factory=dict, init=False, repr=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorded.clear()
        OnnxRuntimeCudaRunner.__exit__(self, kind, error, trace)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        import numpy as np

        shapes = _shapes(feeds)
        recorded = self._recorded.get(shapes) or self._bound(feeds)
        try:
            for name, value in feeds.items():
                recorded.given[name].update_inplace(np.asarray(value, order="C"))
            recorded.run()
            outputs = [value.numpy() for value in recorded.made]
        except Exception as error:
            raise UnsupportedModel(
                f"ONNX Runtime failed while running the model as a CUDA graph: {why(first_line(error))}",
                where=str(self.model),
            ) from error
        self._recorded[shapes] = recorded
        self._count()
        return outputs

    def resident(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        self.infer(feeds)
        return self._recorded[_shapes(feeds)].run

    def _bound(self, feeds: Mapping[str, np.ndarray]) -> _Recorded:
        import onnxruntime as ort

        # A session of its own for each set of shapes. Two graphs in one session of CUDA's provider died of
        # illegal instructions and accesses on an H200, as if the second freed work space that the first writes to;
        # TensorRT's provider replays its only graph whatever the shapes are.
        session = self._loaded(self._options()) if self._recorded else self._session
        graph = inferred(load_graph(self.model), {name: value.shape for name, value in feeds.items()})
        known = shapes_in(graph)
        if missing := [name for name in self.outputs if name not in known]:
            raise UnsupportedModel(
                f"A CUDA graph writes to memory that is there before it runs, and the shape of the output "
                f"{missing[0]!r} does not follow from those of the inputs.",
                where=str(self.model),
                next="take the runtime without graphs",
            )
        binding = session.io_binding()
        given = {name: self._copied(value) for name, value in feeds.items()}
        made = [
            ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, self.memory, 0)
            for kind, shape in (known[name] for name in self.outputs)
        ]
        for name, value in given.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(self.outputs, made, strict=True):
            binding.bind_ortvalue_output(name, value)
        return _Recorded(session, binding, given, made)


@dataclass(slots=True)
class OnnxRuntimeTensorrtGraphRunner(OnnxRuntimeCudaGraphRunner):
    """The same by TensorRT, which must take the whole model."""

    name: ClassVar[str] = "onnxruntime-tensorrt-graph"
    chain: ClassVar[tuple[str, ...]] = OnnxRuntimeTensorrtRunner.chain
    settings: ClassVar[Mapping[str, Mapping[str, str]]] = {
        TENSORRT: {"trt_cuda_graph_enable": "True"},
        CUDA: {"use_tf32": "0"},
    }
