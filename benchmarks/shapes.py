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
