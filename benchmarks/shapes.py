"""Graphs of the shape of well-known nets, with seeded random weights: for latency, never for accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class Builder:
    """A graph of convolutions with seeded weights; batch normalisation is folded already."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, h: str, read: int, made: int, kernel: int, *, stride: int = 1, group: int = 1) -> str:
        name = f"w{len(self.weights)}"
        scale = (2 / (read // group * kernel**2)) ** 0.5
        w = self._random.standard_normal((made, read // group, kernel, kernel)) * scale
        self.weights += [
            numpy_helper.from_array(w.astype(np.float32), name),
            numpy_helper.from_array(np.zeros(made, np.float32), f"{name}b"),
        ]
        return self.add(
            *("Conv", h, name, f"{name}b"), strides=[stride] * 2, pads=[kernel // 2] * 4, group=group,
        )  # fmt: skip

    def clip(self, h: str) -> str:
        if not any(tensor.name == "six" for tensor in self.weights):
            self.weights += [numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "zero"), (6, "six"))]
        return self.add("Clip", h, "zero", "six")

    def head(self, h: str, read: int) -> onnx.ModelProto:
        h = self.add("Flatten", self.add("GlobalAveragePool", h))
        w = self._random.standard_normal((read, 1000)).astype(np.float32) * read**-0.5
        self.weights.append(numpy_helper.from_array(w, "head"))
        h = self.add("Gemm", h, "head")
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes, "net", [info("image", 1, [1, 3, 224, 224])], [info(h, 1, [1, 1000])], self.weights
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def resnet50() -> onnx.ModelProto:
    net = Builder()
    h = net.add("Relu", net.conv("image", 3, 64, 7, stride=2))
    h = net.add("MaxPool", h, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    read = 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for number in range(count):
            stride = 2 if number == 0 and stage else 1
            short = h if number else net.conv(h, read, 4 * width, 1, stride=stride)
            h = net.add("Relu", net.conv(h, read, width, 1))
            h = net.add("Relu", net.conv(h, width, width, 3, stride=stride))
            h = net.add("Relu", net.add("Add", net.conv(h, width, 4 * width, 1), short))
            read = 4 * width
    return net.head(h, read)


def mobilenet_v2() -> onnx.ModelProto:
    net = Builder()
    h, read = net.clip(net.conv("image", 3, 32, 3, stride=2)), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, made, count, first in stages:
        for number in range(count):
            stride, hidden = first if number == 0 else 1, read * expand
            inner = h if expand == 1 else net.clip(net.conv(h, read, hidden, 1))
            inner = net.clip(net.conv(inner, hidden, hidden, 3, stride=stride, group=hidden))
            inner = net.conv(inner, hidden, made, 1)
            h = net.add("Add", h, inner) if stride == 1 and read == made else inner
            read = made
    return net.head(net.clip(net.conv(h, read, 1280, 1)), 1280)


def vision_transformer(*, depth: int = 4, width: int = 384, heads: int = 6, batch: int | str = "N") -> onnx.ModelProto:
    """The first blocks of a small vision transformer: patches of 16, attention, products twice four times as wide."""
    net, tokens = Builder(), 196
    random = np.random.default_rng(1)

    def held(name: str, array: np.ndarray) -> str:
        net.weights.append(numpy_helper.from_array(array, name))
        return name

    def product(h: str, read: int, made: int) -> str:
        name = f"p{len(net.weights)}"
        w = (random.standard_normal((read, made)) * read**-0.5).astype(np.float32)
        return net.add("Add", net.add("MatMul", h, held(name, w)), held(f"{name}b", np.zeros(made, np.float32)))

    def norm(h: str) -> str:
        name = f"n{len(net.weights)}"
        scale, bias = held(name, np.ones(width, np.float32)), held(f"{name}b", np.zeros(width, np.float32))
        return net.add("LayerNormalization", h, scale, bias)

    apart = held("apart", np.array([0, tokens, heads, width // heads], np.int64))
    together = held("together", np.array([0, tokens, width], np.int64))
    small = held("small", np.float32((width // heads) ** -0.5))
    patches = held("patches", (random.standard_normal((width, 3, 16, 16)) * 768**-0.5).astype(np.float32))
    h = net.add("Conv", "image", patches, strides=[16, 16])
    flat = held("flat", np.array([0, width, tokens], np.int64))
    h = net.add("Transpose", net.add("Reshape", h, flat), perm=[0, 2, 1])
    for _ in range(depth):
        read = norm(h)
        query, key, value = (net.add("Reshape", product(read, width, width), apart) for _ in range(3))
        query = net.add("Mul", net.add("Transpose", query, perm=[0, 2, 1, 3]), small)
        scores = net.add("MatMul", query, net.add("Transpose", key, perm=[0, 2, 3, 1]))
        mixed = net.add("MatMul", net.add("Softmax", scores), net.add("Transpose", value, perm=[0, 2, 1, 3]))
        mixed = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), together)
        h = net.add("Add", h, product(mixed, width, width))
        h = net.add("Add", h, product(net.add("Relu", product(norm(h), width, 4 * width)), 4 * width, width))
    h = net.add("ReduceMean", norm(h), axes=[1], keepdims=0)
    h = product(h, width, 1000)
    info = onnx.helper.make_tensor_value_info
    ends = [info("image", 1, [batch, 3, 224, 224])], [info(h, 1, [batch, 1000])]
    graph = onnx.helper.make_graph(net.nodes, "net", *ends, net.weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
