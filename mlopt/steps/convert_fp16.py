"""fp16: half-precision weights and arithmetic, with the nodes that would overflow kept in fp32."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.serve.session import AS_WRITTEN
from mlopt.steps.quantizer import saved, third_party

if TYPE_CHECKING:
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples

_LARGEST: Final = 65504.0  # the largest finite half-precision number, IEEE 754-2019
_OBSERVED: Final = 8


@dataclass(frozen=True, slots=True)
class ConvertFp16:
    """Convert with onnxconverter-common; a node stays in fp32 when a value at its input or output, seen on
    the first few of `probe`, comes within `margin` of half precision's limit.

    Where it is quantized already ONNX Runtime is told to run it as it is written, for its optimisations would round
    biases in half precision. Operators that lose most in half precision (`keep`) stay in fp32 by type. Inputs and
    outputs keep their dtype when `keep_io`, so that callers do not change.
    """

    name: ClassVar[str] = "convert-fp16"
    version: ClassVar[int] = 6
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxconverter-common", "onnxruntime")

    probe: Samples | GeneratedSamples
    keep_io: bool = True
    keep: tuple[str, ...] = ("LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "Pow", "Exp")
    margin: float = 4.0

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        with third_party("onnxconverter-common", source):
            model = onnx.load(str(source.main))
            _name_nodes(model)
            outputs = {output.name: output.type.tensor_type.elem_type for output in model.graph.output}
            converted = self._converted(model, self._overflowing(model))
            if self.keep_io:
                _restore_outputs(converted.graph, outputs)
            del converted.graph.value_info[:]
            onnx.save(converted, str(into / "model.onnx"))
            quantized = any(node.op_type == "QuantizeLinear" for node in converted.graph.node)
            saved(into / "model.onnx", properties={AS_WRITTEN: "halves between integers"} if quantized else {})

    def _converted(self, model: Any, overflowing: list[str]) -> Any:
        from onnx import TensorProto
        from onnxconverter_common import float16

        # Weights below half precision's smallest number become that number; the tool warns of each.
        warnings.filterwarnings("ignore", message="the float32 number", module="onnxconverter_common")
        casts = _casts_to_float(model.graph).keys() - set(overflowing)
        converted = float16.convert_float_to_float16(
            model,
            keep_io_types=self.keep_io,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *self.keep],
            node_block_list=overflowing,
            min_positive_val=5.96e-08,
            max_finite_val=_LARGEST,
        )
        for name, cast in _casts_to_float(converted.graph).items():
            if name in casts:  # of a mask, say: the tool takes what it makes for half precision, and leaves it as it is
                cast.i = TensorProto.FLOAT16
        return converted

    def _overflowing(self, model: Any) -> list[str]:
        """Names of the nodes with a value beyond limit / margin, from weights and from real activations."""
        limit = _LARGEST / self.margin
        feeds = list(itertools.islice(self.probe.feeds(batch=1), _OBSERVED))
        large = {name for name, peak in _peaks(model, feeds).items() if not peak < limit}
        return [node.name for node in model.graph.node if large.intersection([*node.input, *node.output])]


def _casts_to_float(graph: Any) -> dict[str, Any]:
    """The attribute `to` of each, by the node's name."""
    from onnx import TensorProto

    casts = [(node.name, entry) for node in graph.node if node.op_type == "Cast" for entry in node.attribute]
    return {name: entry for name, entry in casts if entry.name == "to" and entry.i == TensorProto.FLOAT}


def _name_nodes(model: Any) -> None:
    for number, node in enumerate(model.graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{number}"


def _restore_outputs(graph: Any, dtypes: dict[str, int]) -> None:
    """onnxconverter-common 1.16 leaves a half-precision output where the node that makes it stays in fp32:
    it casts down, past the range that the node was kept for. Give that output its dtype and range back."""
    from onnx import TensorProto, helper

    made_by = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        kind = output.type.tensor_type
        cast = made_by.get(output.name)
        if kind.elem_type != TensorProto.FLOAT16 or dtypes[output.name] != TensorProto.FLOAT or cast is None:
            continue
        half = f"{output.name}_half"
        wide = cast.input[0] if cast.op_type == "Cast" else half
        for node in graph.node:
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name == output.name:
                        names[position] = half
        graph.node.append(helper.make_node("Cast", [wide], [output.name], name=half, to=TensorProto.FLOAT))
        kind.elem_type = TensorProto.FLOAT


def _peaks(model: Any, feeds: list[dict[str, Any]]) -> dict[str, float]:
    """Largest magnitude of every weight and of every intermediate value over the feeds."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import numpy as np
    import onnx
    import onnxruntime as ort

    peaks: dict[str, float] = {}
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(weight)
            peaks[weight.name] = float(np.abs(array).max()) if array.size else 0.0
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in present:
                watched.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory(prefix="mlopt-fp16-") as scratch:
        path = Path(scratch) / "watched.onnx"
        onnx.save(watched, str(path))
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        for feed in feeds:
            for name, value in zip(names, session.run(None, feed), strict=True):
                if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
                    peaks[name] = max(peaks.get(name, 0.0), float(np.abs(value).max()))
    return peaks
