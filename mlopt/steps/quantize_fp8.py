"""fp8 (E4M3) pairs where TensorRT fuses them: where int8's would stand, with ranges of eight-bit floating point."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.finish import converted
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import drop_unread, first_few
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.qdq import Scheme
from mlopt.steps.quantizer import prepared, saved

_LARGEST: Final = 448.0  # the largest finite E4M3 number
_INT8: Final = 127.0
_TYPES: Final = ("Conv", "Gemm", "MatMul")
_NARROW, _WINDOW = 16, 32
_OPSET: Final = 21  # fp8 came with 19; since 21 Transpose moves it, which ONNX Runtime makes use of


@dataclass(frozen=True, slots=True)
class QuantizeFp8(Calibrated):
    """Inputs and weights of products and wide convolutions in E4M3, one scale for a tensor or for each channel of a
    weight. Everything else, normalisations and Softmax among it, stays in floating point. So do products of two
    activations: ONNX Runtime takes their fp8 for int8 and cannot load the model, so that nobody could compare it (1.31,
    asked)."""

    name: ClassVar[str] = "quantize-fp8"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime", "ml_dtypes")

    scheme: Scheme = "s8s8-tensorrt"
    op_types: tuple[str, ...] = _TYPES

    def __post_init__(self) -> None:
        """Raises `ValueError` for a value that no calibrator takes, or another scheme than TensorRT's."""
        _ = self.how
        if self.scheme != "s8s8-tensorrt":
            raise ValueError(f"scheme is {self.scheme!r}, and fp8 pairs stand where those of 's8s8-tensorrt' do")

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        with prepared(source, optimize=True) as model:
            opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
            model = model if opset >= _OPSET else converted(model, _OPSET)
            keep = [node.name for node in _kept(model.graph)]
            if all(node.name in keep for node in model.graph.node if node.op_type in _TYPES):
                raise UnsupportedModel(
                    f"Nothing gains by fp8: no product has constant weights, and no convolution more than {_NARROW} "
                    f"channels in and out and a window of at most {_WINDOW}.",
                    where=str(source.main),
                )
            ranges = self.qdq.observe(model, self.calibration, into, self.how)
            result = into / "model.onnx"
            self.qdq.write(model, ranges, result, keep=keep, weights=False)
            paired = onnx.load(str(result))
            _to_fp8(paired.graph)
            onnx.save(paired, str(result))
            saved(result, notes=_notes(model.graph))


def _kept(graph: Any) -> list[Any]:
    """The nodes that get no pairs: products of two activations, and convolutions that have no kernel of fp8, or none
    that is faster than half precision's."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type in _TYPES and not _pays(node, weights)]


def _pays(node: Any, weights: Mapping[str, Sequence[int]]) -> bool:
    """As nvidia-modelopt 0.47 draws the line for convolutions: more than sixteen channels in (of a group) and out, a
    window of at most 32 numbers. Depthwise ones so stay, whose few terms fp8 is too coarse for: MobileNet 0.25 lost 13
    points of top-1 with them in it."""
    if not _weighted(node, weights):
        return False
    if node.op_type != "Conv":
        return True
    out, of, *window = weights[node.input[1]]
    return min(out, of) > _NARROW and math.prod(window) <= _WINDOW


def _weighted(node: Any, weights: Container[str]) -> bool:
    return any(name in weights for name in (node.input[1:2] if node.op_type == "Conv" else node.input[:2]))


def _notes(graph: Any) -> Iterator[str]:
    kept, weights = _kept(graph), {tensor.name for tensor in graph.initializer}
    if names := [node.name for node in kept if _weighted(node, weights)]:
        why = "depthwise, narrow or large, with no kernel of fp8 that is faster"
        yield f"{len(names)} convolutions stay in floating point ({why}): {first_few(names)}"
    if names := [node.name for node in kept if not _weighted(node, weights)]:
        yield f"{len(names)} products of two activations stay in floating point: {first_few(names)}"


def _to_fp8(graph: Any) -> None:
    """Every int8 pair becomes one of E4M3, whose scale takes the same extreme to 448 instead of 127. Weights are
    written as they are quantized to."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for name in sorted({node.input[1] for node in pairs}):
        scale = numpy_helper.to_array(constants[name])
        constants[name].CopyFrom(numpy_helper.from_array((scale * np.float32(_INT8 / _LARGEST)), name))
    for name in sorted({node.input[2] for node in pairs}):
        dims = list(constants[name].dims)
        zeros = bytes(int(np.prod(dims)))
        constants[name].CopyFrom(helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, dims, zeros, raw=True))
    for node in [node for node in pairs if node.op_type == "QuantizeLinear" and node.input[0] in constants]:
        weight, scale = constants[node.input[0]], numpy_helper.to_array(constants[node.input[1]])
        said = {entry.name: entry.i for entry in node.attribute}
        graph.initializer.append(_rounded(numpy_helper.to_array(weight), scale, said.get("axis", 1), node.output[0]))
        graph.node.remove(node)
    drop_unread(graph)


def _rounded(weight: Any, scale: Any, axis: int, name: str) -> Any:
    """A weight as E4M3, one scale for all of it or for each index of an axis."""
    import ml_dtypes
    import numpy as np
    from onnx import TensorProto, helper

    shape = [-1 if position == axis % weight.ndim else 1 for position in range(weight.ndim)] if scale.ndim else []
    codes = np.clip(weight / scale.reshape(shape), -_LARGEST, _LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, list(weight.shape), codes.tobytes(), raw=True)
