"""A .tflite file in the making: tensors, operators, and their bytes. The schema comes with LiteRT."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

_SCHEMA: Final = 3
_ALIGNED: Final = 16  # bytes: kernels read weights where they lie
# The version of an operator from which it takes 8-bit integers, where that is not 2.
_INTEGER: Final = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 12, "HARD_SWISH": 1, "QUANTIZE": 1, "RESHAPE": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """The 8-bit integers of a tensor, signed: value = scale · (integer - zero)."""

    scale: float
    zero: int


class TfliteFile:
    """Tensors and operators are known by their number."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated

        self._schema: Any = schema_py_generated
        self._graph = self._schema.SubGraphT()
        self._graph.tensors, self._graph.operators, self._graph.name = [], [], "main"
        self._buffers = [self._schema.BufferT()]  # number 0 is that of all that have no bytes
        self._codes: dict[tuple[str, int], int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str,
        *,
        free: Collection[int] = (),
        grid: Grid | None = None,
    ) -> int:
        """One that an operator writes or a user gives; `kind` as the schema says it, FLOAT32 or INT8. Dimensions in
        `free` may have other sizes too."""
        scales = ([grid.scale], [grid.zero]) if grid else None
        return self._add(name, shape, kind, free=free, grid=scales)

    def constant(
        self,
        name: str,
        array: np.ndarray,
        *,
        scale: Sequence[float] = (),
        zero: Sequence[int] = (),
        axis: int = 0,
    ) -> int:
        """One whose values are known; integers with a scale for all of it, or for each place along `axis`."""
        import numpy as np

        kind = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32"}[array.dtype.name]
        number = self._add(name, array.shape, kind, grid=(scale, zero) if len(scale) else None, axis=axis)
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._graph.tensors[number].buffer = len(self._buffers)
        self._buffers.append(_aligned(self._schema)(data=data))
        return number

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **said: Any
    ) -> None:
        """`kind` as the schema calls it, CONV_2D; `options` names its table there, Conv2DOptions, `said` the fields."""
        made = self._schema.OperatorT()
        made.opcodeIndex = self._code(kind, inputs, outputs)
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self._schema, f"{options}T")()
            for key, value in said.items():
                assert hasattr(made.builtinOptions, key), f"{options} has no {key}"
                setattr(made.builtinOptions, key, value)
        self._graph.operators.append(made)

    def rename(self, number: int, name: str) -> None:
        self._graph.tensors[number].name = name

    def integer_products(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Of convolutions and matrix products of integers: the shape of the weights, and how many rows of them are
        made for a batch of one."""
        products = {self._schema.BuiltinOperator.CONV_2D, self._schema.BuiltinOperator.FULLY_CONNECTED}
        kinds = [getattr(self._schema.BuiltinOperator, kind) for kind, _ in self._codes]
        for one in self._graph.operators:
            weights = self._graph.tensors[one.inputs[1]] if kinds[one.opcodeIndex] in products else None
            if weights and weights.type == self._schema.TensorType.INT8:
                yield tuple(weights.shape), math.prod(self._graph.tensors[one.outputs[0]].shape[:-1])

    def packed(self, inputs: Sequence[int], outputs: Sequence[int], *, about: str) -> bytes:
        """The file. The same calls in the same order make the same bytes."""
        import flatbuffers

        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        model = self._schema.ModelT()
        model.version, model.description = _SCHEMA, about
        model.operatorCodes = [self._packed_code(*known) for known in self._codes]
        model.subgraphs, model.buffers = [self._graph], self._buffers
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _add(
        self,
        name: str,
        shape: Sequence[int],
        kind: str,
        *,
        free: Collection[int] = (),
        grid: tuple[Sequence[float], Sequence[int]] | None = None,
        axis: int = 0,
    ) -> int:
        made = self._schema.TensorT()
        made.name, made.shape, made.hasRank = name, list(shape), True
        made.type = getattr(self._schema.TensorType, kind)
        if free:
            made.shapeSignature = [-1 if axis in free else size for axis, size in enumerate(shape)]
        if grid:
            made.quantization = self._schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = list(grid[0]), list(grid[1])
            made.quantization.quantizedDimension = axis
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def _code(self, kind: str, inputs: Sequence[int], outputs: Sequence[int]) -> int:
        integer = self._schema.TensorType.INT8
        touched = (self._graph.tensors[number].type for number in (*inputs, *outputs) if number >= 0)
        version = _INTEGER.get(kind, 2) if integer in touched else 1
        return self._codes.setdefault((kind, version), len(self._codes))

    def _packed_code(self, kind: str, version: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        return code


def _aligned(schema: Any) -> Any:
    """The schema's table of bytes, which its Python puts anywhere."""

    class Aligned(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802
            builder.Prep(_ALIGNED, len(self.data))
            return super().Pack(builder)

    return Aligned
