"""HardSwish as one operator again, for runtimes that compute it inside the product before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import attributes_of, readers_of, rewrite

_OPSET: Final = 14  # where HardSwish comes from
_GATE: Final = {"alpha": 1 / 6, "beta": 0.5}  # of HardSigmoid; other slopes are no HardSwish


@dataclass(frozen=True, slots=True)
class FuseHardSwish:
    """Put HardSwish where a tensor is multiplied by its own HardSigmoid.

    Quantizing starts from a graph in which ONNX Runtime has taken HardSwish apart, and OpenVINO then computes a gate
    and a product over whole pictures instead of an activation in the convolution's own kernel. A model without any
    comes out as it went in.
    """

    name: ClassVar[str] = "fuse-hard-swish"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    def run(self, source: Artifact, into: Path) -> None:
        rewrite(source.main, into / "model.onnx", _fuse_if_known)


def _fuse_if_known(model: Any) -> bool:
    """Whether there was any to fuse, in an opset that has HardSwish."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return opset >= _OPSET and _fuse(model.graph)


def _fuse(graph: Any) -> bool:
    from onnx import helper

    readers = readers_of(graph)
    gates: dict[str, str] = {}  # by what a gate makes, what it reads
    for node in graph.node:
        said = {"alpha": 0.2, "beta": 0.5} | attributes_of(node)
        if node.op_type != "HardSigmoid" or any(abs(said[name] - value) > 1e-6 for name, value in _GATE.items()):
            continue
        factors = sorted((node.input[0], node.output[0]))
        following = [reader and (reader.op_type, sorted(reader.input)) for reader in readers.get(node.output[0], [])]
        if following == [("Mul", factors)]:
            gates[node.output[0]] = node.input[0]
    if not gates:
        return False
    nodes = []
    for node in graph.node:
        gate = next((name for name in node.input if name in gates), None)
        if gate is not None:
            nodes.append(helper.make_node("HardSwish", [gates[gate]], node.output, name=node.name))
        elif node.output[0] not in gates:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return True
