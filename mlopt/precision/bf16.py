"""What bfloat16 does to a model's answers, seen with the kernels of float32: operands and results rounded to it."""

from __future__ import annotations

from typing import Any

from mlopt.precision.groups import PRODUCTS


def rounded(model: Any) -> Any:
    """A copy of an onnx.ModelProto whose products that are not on integers read and give bfloat16's eight bits.

    Those on integers read two dequantized values. Sums inside a product stay in float32, as processors that multiply
    bfloat16 keep them.
    """
    import onnx
    from onnx import TensorProto, helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    integer = {output for node in copy.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    nodes: list[Any] = []
    known: dict[str, str] = {}

    def narrow(name: str, into: str) -> None:
        nodes.append(helper.make_node("Cast", [name], [f"{into}_bf16"], to=TensorProto.BFLOAT16))
        nodes.append(helper.make_node("Cast", [f"{into}_bf16"], [into], to=TensorProto.FLOAT))

    for node in copy.graph.node:
        if node.op_type not in PRODUCTS or integer.issuperset(node.input[:2]):
            nodes.append(node)
            continue
        for place, name in enumerate(node.input[:2]):
            if name not in known:
                known[name] = f"{name}_narrow"
                narrow(name, known[name])
            node.input[place] = known[name]
        given, node.output[0] = node.output[0], f"{node.output[0]}_wide"
        nodes.append(node)
        narrow(node.output[0], given)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy
