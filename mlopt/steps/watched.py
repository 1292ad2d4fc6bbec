"""A model run so that the tensors inside it can be seen, one query at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from mlopt.parallel import mapped
from mlopt.steps.histogram import Range

if TYPE_CHECKING:
    import numpy as np
    import onnx


class Keeper(Protocol):
    """Takes every value of one tensor, one after the other, with its extremes."""

    def add(self, value: np.ndarray, extremes: Range) -> None: ...


_Kept = TypeVar("_Kept", bound=Keeper)
_Seen: TypeAlias = "tuple[np.ndarray, Range | None]"


class NotFinite(FloatingPointError):
    """A tensor held NaN or infinity. `tensor` is where it began, `maker` the node that wrote it from finite values
    (or the input of that name), `query` the number of the feed, from 0."""

    def __init__(self, tensor: str, maker: str, query: int) -> None:
        super().__init__(f"{maker}, whose output is {tensor!r}" if maker else f"input {tensor!r}")
        self.tensor, self.maker, self.query = tensor, maker, query


class Watched:
    """The model at a path with the named tensors (activations, or inputs of the graph) as its outputs.

    The model stays as it is; for a moment a file `watched.onnx` lies beside it.
    """

    def __init__(self, model: Path, names: Iterable[str]) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnx

        self._model = model
        self._proto = onnx.load(str(model), load_external_data=False)
        wanted = set(names)
        self._names = [name for name in self._tensors() if name in wanted]
        self._session = self._open(self._names)

    def collect(self, feeds: Iterable[Mapping[str, np.ndarray]], keeper: Callable[[str], _Kept]) -> dict[str, _Kept]:
        """One pass over all feeds: a keeper per tensor, given every value of it that is not empty.

        Raises `NotFinite`.
        """
        kept = {name: keeper(name) for name in self._names}
        for query, (feed, seen) in enumerate(mapped(self._seen, feeds)):
            for name, (value, extremes) in zip(self._names, seen, strict=True):
                if extremes is None:
                    continue
                if not (math.isfinite(extremes.low) and math.isfinite(extremes.high)):
                    raise self._traced(name, feed, query)
                kept[name].add(value, extremes)
            seen.clear()  # while the next is waited for, nothing of this one is held
        return kept

    def _seen(self, feed: Mapping[str, np.ndarray]) -> tuple[Mapping[str, np.ndarray], list[_Seen]]:
        """The feed, and every watched tensor with its extremes, or None where it is empty."""
        values = self._session.run(None, dict(feed))
        return feed, [
            (value, Range(float(value.min()), float(value.max())) if value.size else None) for value in values
        ]

    def _tensors(self) -> list[str]:
        graph = self._proto.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value.name for value in graph.input if value.name not in constants]
        return inputs + [name for node in graph.node for name in node.output if name]

    def _open(self, names: list[str]) -> Any:
        """A session whose outputs are `names`, in that order."""
        import onnx
        import onnxruntime as ort

        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        inputs = {value.name for value in proto.graph.input}
        del proto.graph.output[:]
        for name in names:
            if name in inputs:  # an input can only be watched through a node
                proto.graph.node.append(onnx.helper.make_node("Identity", [name], [f"{name}__watched"]))
            proto.graph.output.append(onnx.ValueInfoProto(name=f"{name}__watched" if name in inputs else name))
        path = self._model.with_name("watched.onnx")
        onnx.save(proto, str(path))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # several queries run at a time
        # Fusion would hide the tensors between fused nodes.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        finally:
            path.unlink()

    def _traced(self, tensor: str, feed: Mapping[str, np.ndarray], query: int) -> NotFinite:
        """From a tensor that is not finite back to the node that made it so: that node need not be a watched one."""
        makers: dict[str, onnx.NodeProto] = {name: node for node in self._proto.graph.node for name in node.output}
        names = self._tensors()
        values = dict(zip(names, self._open(names).run(None, dict(feed)), strict=True))
        while (node := makers.get(tensor)) is not None:
            origin = next((name for name in node.input if not _finite(values.get(name))), None)
            if origin is None:
                return NotFinite(tensor, f"node {node.name or node.op_type!r} ({node.op_type})", query)
            tensor = origin
        return NotFinite(tensor, "", query)


def _finite(value: object) -> bool:
    import numpy as np

    return not (isinstance(value, np.ndarray) and value.dtype.kind == "f") or bool(np.isfinite(value).all())
