"""A model run over all samples piece by piece, each node once: what a layer reads is there before it is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlopt.onnx_file import read_by
from mlopt.parallel import mapped
from mlopt.repair.shelf import Shelf

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Walk:
    """`constants` are the graph's initializers by name; who changes one changes what later pieces compute.

    Between two pieces the values that a later node reads wait on `shelf`; of quantized ones the integers wait, and
    each piece dequantizes them anew. Dequantized constants are constants.
    """

    model: Any
    shelf: Shelf
    samples: int
    constants: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    _left: list[Any] = field(init=False)
    _makers: dict[str, Any] = field(init=False)
    _cheap: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from onnx import numpy_helper

        graph = self.model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._cheap, self._left = {}, []
        for node in graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self._dequantized(node, self.constants[node.input[0]])
            elif node.op_type == "DequantizeLinear":
                self._cheap[node.output[0]] = node
            else:
                self._left.append(node)
        self._makers = {name: node for node in self._left for name in node.output if name}

    def start(self, sample: int, feeds: Mapping[str, np.ndarray]) -> None:
        """The inputs of one sample."""
        for name, value in feeds.items():
            self.shelf.put(name, sample, value)

    def reach(self, name: str) -> Iterator[np.ndarray]:
        """The value of a tensor for every sample, in order. Nodes that it needs, and did not run yet, run."""
        cheap = self._cheap.get(name)
        stored = cheap.input[0] if cheap is not None else name
        self._advance(stored)
        for sample in range(self.samples):
            value = self.shelf.get(stored, sample)
            yield self._dequantized(cheap, value) if cheap is not None else value

    def _advance(self, target: str) -> None:
        piece = self._needed(target)
        if not piece:
            return
        made = {name for node in piece for name in node.output if name}
        ids = {id(node) for node in piece}
        self._left = [node for node in self._left if id(node) not in ids]
        for node in piece:
            for name in node.output:
                self._makers.pop(name, None)
        wanted = self._awaited() | {target}
        given = sorted(self._sources(piece) - made - set(self.constants))
        outputs = sorted(made & wanted)
        session = self._session(piece, given, outputs)

        def run(sample: int) -> list[np.ndarray]:
            made: list[np.ndarray] = session.run(outputs, {name: self.shelf.get(name, sample) for name in given})
            return made

        for sample, values in enumerate(mapped(run, range(self.samples))):
            for name, value in zip(outputs, values, strict=True):
                self.shelf.put(name, sample, value)
        for name in given:
            if name not in wanted:
                self.shelf.drop(name, self.samples)

    def _needed(self, target: str) -> list[Any]:
        """The nodes still to run for a tensor, in order."""
        needed: set[int] = set()
        open_ = [target]
        while open_:
            name = open_.pop()
            if name in self._cheap:
                open_.append(self._cheap[name].input[0])
            elif (node := self._makers.get(name)) is not None and id(node) not in needed:
                needed.add(id(node))
                open_.extend(read_by(node))
        return [node for node in self._left if id(node) in needed]

    def _awaited(self) -> set[str]:
        return self._sources(self._left)

    def _sources(self, nodes: list[Any]) -> set[str]:
        """What nodes read, with quantized values instead of what is dequantized from them."""
        read = {name for node in nodes for name in read_by(node)}
        return {self._cheap[name].input[0] if name in self._cheap else name for name in read}

    def _dequantized(self, node: Any, codes: np.ndarray) -> np.ndarray:
        import numpy as np

        scale = self.constants[node.input[1]]
        zero = self.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(scale)
        if scale.size == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        else:
            axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
            sides = [1] * codes.ndim
            sides[axis] = -1
            scale, zero = scale.reshape(sides), zero.reshape(sides)
        result: np.ndarray = (codes.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale
        return result

    def _session(self, piece: list[Any], given: list[str], outputs: list[str]) -> Any:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnx
        import onnxruntime as ort
        from onnx import numpy_helper

        read = {name for node in piece for name in read_by(node)}
        cheap = [self._cheap[name] for name in sorted(read) if name in self._cheap]
        # In the order of the graph; what is dequantized comes first unless this piece makes its integers.
        made = {name for node in piece for name in node.output}
        nodes = [node for node in cheap if node.input[0] not in made]
        late = {node.input[0]: node for node in cheap if node.input[0] in made}
        for node in piece:
            nodes.append(node)
            nodes += [late[name] for name in node.output if name in late]
        names = {name for node in nodes for name in read_by(node)} & set(self.constants)
        graph = onnx.helper.make_graph(
            nodes,
            "piece",
            [self._described(name) for name in given],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(self.constants[name], name) for name in sorted(names)],
        )
        model = onnx.helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # several samples run at a time
        # Any level would quantize weights that it finds in floating point between quantized values.
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if self._cheap else levels.ORT_ENABLE_ALL
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _described(self, name: str) -> Any:
        import onnx

        value = self.shelf.get(name, 0)
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, [None] * value.ndim)
