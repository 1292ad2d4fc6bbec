"""Weights of few bits in the form that TensorRT reads: DequantizeLinear of blocks along K, before MatMul."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.finish import converted
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import drop_unread, save
from mlopt.precision.rewrites import gemm_to_matmul
from mlopt.steps.quantizer import prepared, saved

if TYPE_CHECKING:
    import numpy as np

_BLOCKED_SINCE: Final = 21  # the opset in which DequantizeLinear got blocks
_SHRINKS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)  # of the extreme that a block's scale keeps: what clipping may gain
# E2M1's magnitudes, twice: whole numbers, so that a runtime without E2M1 reads them as int8 with half the scale.
_FP4_TWICE: Final = (0, 1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True)
class QuantizeWeightBlocks:
    """Symmetric, one scale for `block_size` weights of a column, the one of least squared error among a few. A weight
    whose K is no multiple of that stays as it is: TensorRT takes whole blocks. Activations stay in floating point.

    `fp4` is written as int8 with the values of E2M1 times two and half the scale: the same numbers, in a type that
    ONNX Runtime reads. `build-tensorrt-rtx` with `fp4` hands them to the compiler as what they are.
    """

    name: ClassVar[str] = "quantize-weight-blocks"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    precision: Literal["int4", "fp4"] = "int4"
    block_size: int = 128

    def __post_init__(self) -> None:
        """Raises `ValueError` for another precision, and for blocks that TensorRT does not take."""
        if self.precision not in ("int4", "fp4"):
            raise ValueError(f"precision is {self.precision!r}, and there are 'int4' and 'fp4'")
        if self.block_size < 16 or self.block_size % 16:
            raise ValueError(f"block-size is {self.block_size}, and must be a multiple of 16")

    def run(self, source: Artifact, into: Path) -> None:
        with prepared(source, optimize=False) as model:
            gemm_to_matmul(model.graph)
            opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
            raised = model if opset >= _BLOCKED_SINCE else converted(model, _BLOCKED_SINCE)
            raised.ir_version = max(raised.ir_version, 10)
            if not self._quantize(raised.graph):
                raise UnsupportedModel(
                    f"No matrix product has a constant weight of whole blocks of {self.block_size}, so nothing can be "
                    f"stored in {self.precision}.",
                    where=str(source.main),
                )
            del raised.graph.value_info[:]
            save(raised, into)
            saved(into / "model.onnx")

    def _quantize(self, graph: Any) -> bool:
        """Whether anything was."""
        import numpy as np
        from onnx import helper, numpy_helper

        weights = {tensor.name: tensor for tensor in graph.initializer}
        done: dict[str, str] = {}
        for position, node in reversed(list(enumerate(graph.node))):
            name = node.input[1] if node.op_type == "MatMul" else ""
            tensor = weights.get(name)
            if tensor is None or len(tensor.dims) != 2 or tensor.dims[0] % self.block_size:
                continue
            if name not in done:
                codes, scale = self._blocks(numpy_helper.to_array(tensor).astype(np.float32))
                done[name] = f"{name}_{self.precision}"
                graph.initializer.append(self._stored(codes, done[name]))
                graph.initializer.append(numpy_helper.from_array(scale, f"{done[name]}_scale"))
            wide = f"{done[name]}_for_{node.output[0]}"
            node.input[1] = wide
            read = [done[name], f"{done[name]}_scale"]
            pair = helper.make_node("DequantizeLinear", read, [wide], name=wide, axis=0, block_size=self.block_size)
            graph.node.insert(position, pair)
        drop_unread(graph)
        return bool(done)

    def _blocks(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whole numbers of the weight's shape [K, N], and scales [K / block, N]."""
        import numpy as np

        blocks = weight.reshape(-1, self.block_size, weight.shape[1])
        extreme = np.abs(blocks).max(axis=1, keepdims=True)
        extreme[extreme == 0] = 1
        best = np.full_like(extreme, np.inf)
        codes, scale = np.zeros_like(blocks), extreme / self._largest
        for shrink in _SHRINKS:
            tried = extreme * np.float32(shrink / self._largest)
            rounded = self._nearest(blocks / tried)
            error = ((rounded * tried - blocks) ** 2).sum(axis=1, keepdims=True)
            better = error < best
            codes, scale, best = (
                np.where(better, rounded, codes),
                np.where(better, tried, scale),
                np.where(better, error, best),
            )
        return codes.reshape(weight.shape).astype(np.int8), scale[:, 0, :].astype(np.float32)

    @property
    def _largest(self) -> int:
        return 7 if self.precision == "int4" else _FP4_TWICE[-1]

    def _nearest(self, values: np.ndarray) -> np.ndarray:
        import numpy as np

        if self.precision == "int4":
            return np.clip(np.round(values), -7, 7)
        grid = np.array(_FP4_TWICE, np.float32)
        between = (grid[1:] + grid[:-1]) / 2
        nearest: np.ndarray = np.sign(values) * grid[np.searchsorted(between, np.abs(values))]
        return nearest

    def _stored(self, codes: np.ndarray, name: str) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        if self.precision == "fp4":
            return numpy_helper.from_array(codes, name)
        return helper.make_tensor(name, TensorProto.INT4, list(codes.shape), codes.flatten())
