"""QuantizeLinear/DequantizeLinear pairs put into a graph: by which scheme, around which nodes, with which ranges."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mlopt.errors import SamplesInvalid
from mlopt.onnx_file import first_few
from mlopt.precision.activations import (
    convolved,
    idle_joints,
    inputs,
    normalised,
    scores,
    summed,
    unrounded,
    unweighted,
)
from mlopt.precision.depthwise import gated
from mlopt.precision.groups import PRODUCTS
from mlopt.precision.head import short_head
from mlopt.repair.repair import WeightGrid, paired_grids
from mlopt.steps.histogram import Range
from mlopt.steps.ranges import Calibration, joined, observe
from mlopt.steps.watched import NotFinite

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples

Scheme = Literal["u8s8", "u8s8-paired", "s8s8", "u8u8", "s8s8-tensorrt"]
# What TensorRT computes in int8, sums of residual connections among it. It fuses what follows, so that nothing but the
# inputs of these is quantized; zero-points are 0, and biases stay in floating point.
_TENSORRT: Final = ("Add", "Conv", "Gemm", "MatMul")

# Where the shorter side of zero is at least that part of the longer, 128 steps for each make a step at most a seventh
# longer, and zero-point 0, which OpenVINO's kernels need not make good for.
_EVEN: Final = 0.75
# What ONNX Runtime computes on integers, and what hands integers on unchanged (a test asks it). Its quantizer's own
# list is another: it leaves out sums, products and means, and holds normalisations and transposed convolutions, which
# then run in float32 between two conversions. Softmax has a kernel and is left out: its small values need the bits.
KERNELS: Final = frozenset({
    "Add", "AveragePool", "Clip", "Concat", "Conv", "DepthToSpace", "Flatten", "Gather", "Gemm", "GlobalAveragePool",
    "LeakyRelu", "MatMul", "MaxPool", "Mul", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Qdq:
    """How to quantize. `scheme` is activation type, weight type: `u8s8` is right where the CPU multiplies u8 by s8
    without saturating (VNNI, AMX, Arm), `u8s8-paired` also where it saturates (vpmaddubsw of AVX2 and AVX-512): two
    neighbouring weights never pass what 16 bits hold (`repair/pairs.py`).
    `op_types` empty means `KERNELS`. The convolutions that an input meets before one of `shortest_dot` terms stay in
    floating point (`precision/head.py`); 0 quantizes them too. Without `outputs`, products have pairs where they read
    and none where they write: runtimes that compute activations and sums inside a product's kernel (OpenVINO) then need
    not stop in between, and ONNX Runtime would not find the integer product. There products of two activations, and
    joints that feed no product, stay in floating point, and sums read what a normalisation wrote before it is rounded
    (`precision/activations.py`); and inputs of the graph that reach about as far to both sides of zero are signed, with
    `signed` all that convolutions read and does so. Inside, OpenVINO then takes other kernels where there is no AMX,
    whose float arithmetic rounds otherwise.
    With `beside_bf16`, where OpenVINO computes what is left in that type, so do depthwise convolutions before gates.
    `s8s8-tensorrt` is symmetric, and puts the pairs where TensorRT fuses them.
    """

    scheme: Scheme
    per_channel: bool
    op_types: tuple[str, ...] = ()
    shortest_dot: int = 0
    outputs: bool = True
    signed: bool = False
    beside_bf16: bool = False

    def floating(self, graph: Any) -> tuple[str, ...]:
        """The nodes that stay in floating point because integers would only cost time there."""
        head = short_head(graph, self.shortest_dot) if self.shortest_dot else ()
        head = (*head, *self._apart(graph))
        return head if self.outputs else (*head, *unweighted(graph), *idle_joints(graph))

    def notes(self, graph: Any) -> tuple[str, ...]:
        """What a report says of that."""
        head = set(short_head(graph, self.shortest_dot)) if self.shortest_dot else set()
        kept = [node.name for node in graph.node if node.name in head and node.op_type == "Conv"]
        products = () if self.outputs else unweighted(graph)
        apart, said = self._apart(graph), []
        if kept:
            said.append(
                f"{len(kept)} convolutions at the input stay in floating point, where int8 is slower (dot products of "
                f"less than {self.shortest_dot} terms): {first_few(kept)}"
            )
        if apart:
            said.append(
                f"{len(apart)} depthwise convolutions before gates or sums stay in bf16, where int8 is no faster: "
                f"{first_few(apart)}"
            )
        if products:
            said.append(f"{len(products)} products of two activations stay in floating point: {first_few(products)}")
        return tuple(said)

    def _apart(self, graph: Any) -> tuple[str, ...]:
        return gated(graph, self.operators) if self.beside_bf16 else ()

    @property
    def paired(self) -> bool:
        """Whether sums of two products must fit into 16 bits."""
        return self.scheme.endswith("paired")

    @property
    def for_tensorrt(self) -> bool:
        return self.scheme == "s8s8-tensorrt"

    @property
    def operators(self) -> frozenset[str]:
        """The operators that get pairs around them."""
        if self.for_tensorrt and not self.op_types:
            return frozenset(_TENSORRT)
        return frozenset(self.op_types) or KERNELS

    @property
    def _reading_alone(self) -> list[str]:
        """The operators that get pairs where they read and none where they write."""
        if self.for_tensorrt:
            return sorted(self.operators)
        return [] if self.outputs else sorted(PRODUCTS)

    def write(
        self,
        model: Any,
        ranges: Mapping[str, Range],
        into: Path,
        *,
        keep: Iterable[str] = (),
        grids: Mapping[str, WeightGrid] | None = None,
        weights: bool = True,
    ) -> None:
        """Quantize a copy of `model` (an onnx.ModelProto with shapes inferred) and write it.

        The nodes named in `keep` stay in floating point, and `floating` ones. `grids` are the scales of weights that
        are not to be found anew from their extremes. Without `weights` these stay as they are, before a pair.
        """
        import numpy as np
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

        floating = {*keep, *self.floating(model.graph)}
        added = () if self.outputs else summed(model.graph, but=floating)
        fitting = paired_grids(model.graph, per_channel=self.per_channel, but=floating) if self.paired else {}
        types = {"u": QuantType.QUInt8, "s": QuantType.QInt8}
        pairs = {name: (np.float32(seen.low), np.float32(seen.high)) for name, seen in ranges.items()}
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        quantizer = QDQQuantizer(
            copy,
            per_channel=self.per_channel,
            reduce_range=self.paired,  # of weights without a grid: seven bits fit beside any neighbour
            weight_qType=types[self.scheme[2]],
            activation_qType=types[self.scheme[0]],
            tensors_range=TensorsData(CalibrationMethod.MinMax, pairs),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(floating),
            op_types_to_quantize=sorted(self.operators),
            extra_options={
                "ActivationSymmetric": self.scheme[0] == "s",
                "WeightSymmetric": self.scheme[2] == "s",
                "QuantizeBias": not self.for_tensorrt,
                "AddQDQPairToWeight": not weights,
                "OpTypesToExcludeOutputQuantization": self._reading_alone,
                "TensorQuantOverrides": {
                    **overrides({**fitting, **(grids or {})}),
                    **self._signed(model.graph, ranges, added),
                },
            },
        )
        for name in added:
            quantizer.quantize_activation_tensor(name)
        quantizer.quantize_model()
        if not self.outputs:
            rounding = {node.name for node in model.graph.node if node.op_type in self.operators} - floating
            unrounded(quantizer.model.model.graph, normalised(model.graph), rounding)
        quantizer.model.save_model_to_file(str(into))

    def _signed(
        self, graph: Any, ranges: Mapping[str, Range], added: Collection[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """The activations that get a signed type although the scheme's is unsigned, as ONNX Runtime's quantizers take
        them: those that reach about as far to both sides of zero, and those that are `added` to a product."""
        from onnxruntime.quantization import QuantType

        if self.outputs:
            return {}
        even = inputs(graph) | (convolved(graph) if self.signed else frozenset())
        return {
            name: [{"quant_type": QuantType.QInt8, "symmetric": True}]
            for name, seen in ranges.items()
            if name in added or (name in even and min(-seen.low, seen.high) >= _EVEN * max(-seen.low, seen.high) > 0)
        }

    def observe(
        self, model: Any, samples: Samples, scratch: Path, how: Calibration, *, first: int | None = None
    ) -> dict[str, Range]:
        """Ranges of every floating-point tensor that an operator to be quantized reads or writes, over all samples
        or the `first` few; those of scores reach from extreme to extreme, and without `outputs` all that one Concat
        joins has one.

        Raises `SamplesInvalid` when a sample leads to NaN or infinity.
        """
        import onnx

        ready = scratch / "prepared.onnx"
        onnx.save(model, str(ready))
        try:
            with blamed(samples):
                ranges = observe(
                    ready,
                    self.activations(model.graph),
                    lambda: itertools.islice(samples.feeds(batch=1), first),
                    how,
                    symmetric=self.scheme[0] == "s",
                    whole=scores(model.graph),
                )
        finally:
            ready.unlink()
        return ranges if self.outputs else joined(model.graph, ranges, but=self.floating(model.graph))

    def activations(self, graph: Any) -> set[str]:
        """The names of those tensors; `graph` is an onnx.GraphProto with shapes inferred."""
        import onnx

        constants = {tensor.name for tensor in graph.initializer}
        kinds = {
            value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
        }
        touched = {
            name
            for node in graph.node
            if node.op_type in self.operators
            for name in (*node.input, *node.output)
            if name and name not in constants
        }
        return {name for name in touched if kinds.get(name) == onnx.TensorProto.FLOAT}


@contextmanager
def blamed(samples: Samples) -> Iterator[None]:
    """`NotFinite` from a query as `SamplesInvalid` that names the sample."""
    try:
        yield
    except NotFinite as error:
        sample = samples.source.describe(samples.indices[error.query])
        raise SamplesInvalid(
            f"Calibration sample {sample} leads to NaN or infinity at {error}; no range can hold them.",
            where=samples.source.where,
            next="remove the broken samples, or look at the model with mlopt inspect",
        ) from error


def overrides(grids: Mapping[str, WeightGrid]) -> dict[str, list[dict[str, Any]]]:
    """Grids by the names of weights as ONNX Runtime's quantizers take them."""
    return {name: _entries(grid) for name, grid in grids.items()}


def _entries(grid: WeightGrid) -> list[dict[str, Any]]:
    """One entry for the tensor, or one for each channel."""
    import numpy as np

    axis = {} if grid.axis is None else {"axis": grid.axis}
    return [
        {"scale": np.float32(scale), "zero_point": zero, **axis}
        for scale, zero in zip(grid.scale, grid.zero_point, strict=True)
    ]
