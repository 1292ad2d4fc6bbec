"""Rewrites that change no answer and let more of a graph run in few bits."""

from __future__ import annotations

from typing import Any

from mlopt.onnx_file import attributes_of, drop_unread


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


def gemm_to_matmul(graph: Any) -> None:
    """Blocks of few bits are MatMul's: Gemm(x, W, b) with a constant W becomes MatMul(x, W') and Add(b)."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    for position, node in reversed(list(enumerate(graph.node))):
        scalars = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        plain = scalars.get("alpha", 1.0) == scalars.get("beta", 1.0) == 1.0 and not scalars.get("transA", 0)
        if node.op_type != "Gemm" or node.input[1] not in weights or not plain:
            continue
        array = numpy_helper.to_array(weights[node.input[1]])
        turned = bool(scalars.get("transB", 0))
        # Which way it lies is in the name: two Gemms may read one weight, each in its own way.
        name = f"{node.input[1]}_{'turned' if turned else 'plain'}_as_matmul"
        if name not in weights:
            weights[name] = numpy_helper.from_array(np.ascontiguousarray(array.T if turned else array), name)
            graph.initializer.append(weights[name])
        biased = len(node.input) == 3 and node.input[2]
        product = f"{node.output[0]}_product" if biased else node.output[0]
        parts = [helper.make_node("MatMul", [node.input[0], name], [product], name=node.name)]
        if biased:
            parts.append(helper.make_node("Add", [product, node.input[2]], list(node.output), name=f"{node.name}_bias"))
        graph.node.remove(node)
        for offset, part in enumerate(parts):
            graph.node.insert(position + offset, part)
    drop_unread(graph)
