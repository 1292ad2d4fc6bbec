"""Rewrites that change no answer and let more of a graph run in int8."""

from __future__ import annotations

from typing import Any

from mlopt.onnx_file import attributes_of


def pool_means(graph: Any) -> bool:
    """Turn means over a picture (ReduceMean over axes 2 and 3 of four) into GlobalAveragePool, which runs on integers.

    `graph` is an onnx.GraphProto with shapes inferred; it is changed in place. True when anything was.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }
    nodes, changed = [], False
    for node in graph.node:
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4:
            nodes.append(node)
            continue
        said = attributes_of(node)
        axes = said.get("axes", [])
        if len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if sorted(axis % 4 for axis in axes) != [2, 3]:
            nodes.append(node)
            continue
        changed = True
        kept = said.get("keepdims", 1)
        pooled = node.output[0] if kept else f"{node.output[0]}_pooled"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name))
        if not kept:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], name=f"{node.name}_flatten", axis=1))
    if changed:
        del graph.node[:]
        graph.node.extend(nodes)
    return changed
