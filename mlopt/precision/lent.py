"""A model without its large weights, which sessions are lent instead: variants of it are written and opened quickly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from mlopt.onnx_file import read_by

_LARGE: Final = 1 << 12  # bytes; what is smaller may decide how a graph is optimised, and costs nothing


@dataclass(slots=True)
class Lent:
    """`model` is an onnx.ModelProto that stays as it is."""

    model: Any
    _weights: dict[str, Any] = field(init=False)
    _light: Any = field(init=False)

    def __post_init__(self) -> None:
        import onnx
        import onnxruntime as ort
        from onnx import numpy_helper

        self._weights, self._light = {}, onnx.ModelProto()
        self._light.CopyFrom(self.model)
        for tensor in self._light.graph.initializer:
            if len(tensor.raw_data) < _LARGE:
                continue
            self._weights[tensor.name] = ort.OrtValue.ortvalue_from_numpy(numpy_helper.to_array(tensor))
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="lent")

    def holding(self, nodes: Collection[str]) -> tuple[Any, dict[str, Any]]:
        """A copy of the model that holds what these nodes read, and the rest by name, for a session of it."""
        import onnx

        read = {name for node in self._light.graph.node if node.name in nodes for name in read_by(node)}
        given = {tensor.name: tensor for tensor in self.model.graph.initializer if tensor.name in read}
        copy = onnx.ModelProto()
        copy.CopyFrom(self._light)
        for tensor in copy.graph.initializer:
            if tensor.name in given:
                tensor.CopyFrom(given[tensor.name])
        return copy, {name: value for name, value in self._weights.items() if name not in given}
