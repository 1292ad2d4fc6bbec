"""Small graphs in which channels depend on one another in every way that pruning knows, with seeded weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from nets import CLASSES, weights
from onnx import TensorProto, helper, numpy_helper

WIDTH = 16


class Net:
    """Nodes and weights added one after the other; `h` is the tensor that the last one wrote."""

    def __init__(self, *, channels: int = 3, side: int = 8) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.source = ("image", ["N", channels, side, side])
        self.h = "image"

    def add(self, op: str, *inputs: str, name: str, outputs: tuple[str, ...] = (), **attributes: object) -> str:
        made = outputs or (f"{name}_out",)
        self.nodes.append(helper.make_node(op, list(inputs), list(made), name=name, **attributes))
        self.h = made[0]
        return made[0]

    def constant(self, name: str, values: object) -> str:
        self.initializers.append(numpy_helper.from_array(np.array(values), name))
        return name

    def conv(
        self, source: str, read: int, made: int, *, name: str, kernel: int = 3, group: int = 1, stride: int = 1
    ) -> str:
        fan = read // group * kernel**2
        self.initializers += [
            weights(f"{name}_w", made, read // group, kernel, kernel, scale=(2 / fan) ** 0.5),
            weights(f"{name}_b", made, scale=0.1),
        ]
        pads, strides = [kernel // 2] * 4, [stride] * 2
        return self.add("Conv", source, f"{name}_w", f"{name}_b", name=name, pads=pads, group=group, strides=strides)

    def relu(self, source: str, name: str) -> str:
        return self.add("Relu", source, name=name)

    def head(self, source: str, width: int) -> onnx.ModelProto:
        self.add("GlobalAveragePool", source, name="pool")
        self.add("Flatten", self.h, name="flatten")
        return self.classify(self.h, width)

    def classify(self, source: str, width: int) -> onnx.ModelProto:
        self.initializers += [weights("head_w", width, CLASSES, scale=width**-0.5), weights("head_b", CLASSES)]
        self.add("Gemm", source, "head_w", "head_b", name="head", outputs=("logits",))
        return self.model()

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(self.source[0], TensorProto.FLOAT, self.source[1])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        return model


def plain() -> onnx.ModelProto:
    net = Net()
    h = net.relu(net.conv("image", 3, WIDTH, name="a"), "ra")
    h = net.relu(net.conv(h, WIDTH, WIDTH, name="b", stride=2), "rb")
    return net.head(h, WIDTH)


def residual() -> onnx.ModelProto:
    net = Net()
    stem = net.relu(net.conv("image", 3, WIDTH, name="stem"), "r0")
    h = net.relu(net.conv(stem, WIDTH, 2 * WIDTH, name="wide"), "r1")
    h = net.conv(h, 2 * WIDTH, WIDTH, name="narrow")
    return net.head(net.relu(net.add("Add", h, stem, name="sum"), "r2"), WIDTH)


def padded_residual() -> onnx.ModelProto:
    """The shortcut of CIFAR ResNets: every second pixel, and channels of zeros on either side."""
    net = Net()
    stem = net.relu(net.conv("image", 3, WIDTH, name="stem"), "r0")
    h = net.relu(net.conv(stem, WIDTH, WIDTH, name="down", stride=2), "r1")
    h = net.conv(h, WIDTH, 2 * WIDTH, name="wide")
    half = [np.int64(WIDTH // 2)]
    sliced = net.add(
        "Slice",
        stem,
        net.constant("starts", np.array([0, 0])),
        net.constant("ends", np.array([100, 100])),
        net.constant("axes", np.array([2, 3])),
        net.constant("steps", np.array([2, 2])),
        name="slice",
    )
    pads = net.constant("pads", np.array([0, *half, 0, 0, 0, *half, 0, 0]))
    short = net.add("Pad", sliced, pads, name="pad")
    return net.head(net.relu(net.add("Add", h, short, name="sum"), "r2"), 2 * WIDTH)


def depthwise() -> onnx.ModelProto:
    net = Net()
    h = net.conv("image", 3, WIDTH, name="stem")
    h = net.add("Clip", h, net.constant("low", np.float32(0)), net.constant("high", np.float32(6)), name="clip")
    h = net.relu(net.conv(h, WIDTH, 2 * WIDTH, name="expand", kernel=1), "r1")
    h = net.relu(net.conv(h, 2 * WIDTH, 2 * WIDTH, name="depth", group=2 * WIDTH), "r2")
    return net.head(net.conv(h, 2 * WIDTH, WIDTH, name="project", kernel=1), WIDTH)


def grouped() -> onnx.ModelProto:
    net = Net()
    h = net.relu(net.conv("image", 3, WIDTH, name="a"), "ra")
    h = net.relu(net.conv(h, WIDTH, WIDTH, name="b", group=2), "rb")
    return net.head(net.conv(h, WIDTH, WIDTH, name="c", kernel=1), WIDTH)


def concatenated() -> onnx.ModelProto:
    net = Net()
    stem = net.relu(net.conv("image", 3, WIDTH, name="stem"), "r0")
    one = net.relu(net.conv(stem, WIDTH, WIDTH, name="one", kernel=1), "r1")
    two = net.relu(net.conv(stem, WIDTH, WIDTH // 2, name="two"), "r2")
    joined = net.add("Concat", one, two, "image", name="join", axis=1)
    return net.head(net.conv(joined, WIDTH + WIDTH // 2 + 3, WIDTH, name="last"), WIDTH)


def squeeze_excite() -> onnx.ModelProto:
    net = Net()
    h = net.relu(net.conv("image", 3, WIDTH, name="a"), "ra")
    gate = net.add("ReduceMean", h, name="mean", axes=[2, 3], keepdims=1)
    gate = net.relu(net.conv(gate, WIDTH, WIDTH // 2, name="squeeze", kernel=1), "rs")
    gate = net.add("Sigmoid", net.conv(gate, WIDTH // 2, WIDTH, name="excite", kernel=1), name="gate")
    return net.head(net.conv(net.add("Mul", h, gate, name="scale"), WIDTH, WIDTH, name="b"), WIDTH)


def flattened() -> onnx.ModelProto:
    net = Net()
    h = net.relu(net.conv("image", 3, WIDTH, name="a", stride=2), "ra")
    h = net.add("MaxPool", h, name="max", kernel_shape=[2, 2], strides=[2, 2])
    h = net.add("Reshape", h, net.constant("to", np.array([-1, WIDTH * 4])), name="reshape")
    net.initializers += [weights("hidden_w", WIDTH * 4, WIDTH, scale=0.2), weights("hidden_b", WIDTH)]
    h = net.relu(net.add("Gemm", h, "hidden_w", "hidden_b", name="hidden"), "rh")
    return net.classify(h, WIDTH)


def split() -> onnx.ModelProto:
    net = Net()
    h = net.conv("image", 3, 2 * WIDTH, name="a")
    sizes = net.constant("sizes", np.array([WIDTH, WIDTH]))
    net.add("Split", h, sizes, name="halves", outputs=("left", "right"), axis=1)
    h = net.add("Mul", "left", net.add("Sigmoid", "right", name="gate"), name="gated")
    h = net.add("PRelu", h, net.constant("slope", np.full((WIDTH, 1, 1), 0.1, np.float32)), name="prelu")
    return net.head(net.conv(h, WIDTH, WIDTH, name="b"), WIDTH)


def mlp() -> onnx.ModelProto:
    """As in a transformer: a product, its bias, GELU, a product back, LayerNormalization around; [N, 4, WIDTH]."""
    net = Net()
    net.source = ("image", ["N", 4, WIDTH])
    net.initializers += [
        weights("up", WIDTH, 4 * WIDTH, scale=0.3),
        weights("up_b", 4 * WIDTH),
        weights("down", 4 * WIDTH, WIDTH, scale=0.2),
        weights("scale", WIDTH),
        weights("shift", WIDTH),
    ]
    h = net.add("Add", net.add("MatMul", "image", "up", name="up_product"), "up_b", name="up_bias")
    h = net.add("Mul", h, net.add("Sigmoid", h, name="sigmoid"), name="swish")
    h = net.add("Add", net.add("MatMul", h, "down", name="down_product"), "image", name="sum")
    h = net.add("LayerNormalization", h, "scale", "shift", name="norm", axis=-1)
    h = net.add("ReduceMean", h, name="mean", axes=[1], keepdims=0)
    return net.classify(h, WIDTH)


def attention() -> onnx.ModelProto:
    """Four heads of eight over six tokens, as exporters write them, with the input added back."""
    net, wide = Net(), 32
    net.source = ("image", ["N", 6, WIDTH])
    net.constant("apart", np.array([0, 6, 4, 8]))
    net.constant("together", np.array([0, 6, wide]))
    heads = {}
    for name, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        net.initializers += [weights(f"{name}_w", WIDTH, wide, scale=0.3), weights(f"{name}_b", wide)]
        h = net.add("MatMul", "image", f"{name}_w", name=name)
        h = net.add("Reshape", net.add("Add", h, f"{name}_b", name=f"{name}_bias"), "apart", name=f"{name}_heads")
        heads[name] = net.add("Transpose", h, name=f"{name}_turned", perm=order)
    h = net.add("Softmax", net.add("MatMul", heads["query"], heads["key"], name="scores"), name="softmax", axis=-1)
    h = net.add("MatMul", h, heads["value"], name="mixed")
    h = net.add("Reshape", net.add("Transpose", h, name="back", perm=[0, 2, 1, 3]), "together", name="joined")
    net.initializers += [weights("out_w", wide, WIDTH, scale=0.3), weights("out_b", WIDTH)]
    h = net.add("Add", net.add("MatMul", h, "out_w", name="out"), "out_b", name="out_bias")
    h = net.add("ReduceMean", net.add("Add", h, "image", name="sum"), name="mean", axes=[1], keepdims=0)
    return net.classify(h, WIDTH)


def fused_attention() -> onnx.ModelProto:
    """Query, key and value of two heads from one product, told apart by an axis of three that vanishes."""
    net, wide = Net(), 16
    net.source = ("image", ["N", 6, WIDTH])
    net.initializers += [weights("all_w", WIDTH, 3 * wide, scale=0.3), weights("out_w", wide, WIDTH, scale=0.3)]
    h = net.add("MatMul", "image", "all_w", name="all")
    h = net.add("Reshape", h, net.constant("apart", np.array([0, 6, 3, 2, 8])), name="parts")
    h = net.add("Transpose", h, name="turned", perm=[2, 0, 3, 1, 4])
    names = ("query", "key", "value")
    net.add("Split", h, net.constant("each", np.array([1, 1, 1])), name="split", axis=0, outputs=names)
    first = net.constant("first", np.array([0]))
    query, key, value = (net.add("Squeeze", name, first, name=f"{name}_squeezed") for name in names)
    key = net.add("Transpose", key, name="key_turned", perm=[0, 1, 3, 2])
    h = net.add("Softmax", net.add("MatMul", query, key, name="scores"), name="softmax", axis=-1)
    h = net.add("Transpose", net.add("MatMul", h, value, name="mixed"), name="back", perm=[0, 2, 1, 3])
    h = net.add("Reshape", h, net.constant("together", np.array([0, 6, wide])), name="joined")
    h = net.add("ReduceMean", net.add("MatMul", h, "out_w", name="out"), name="mean", axes=[1], keepdims=0)
    return net.classify(h, WIDTH)


def unknown() -> onnx.ModelProto:
    """A cumulative sum over channels: nothing here knows what that needs."""
    net = Net()
    h = net.relu(net.conv("image", 3, WIDTH, name="a"), "ra")
    h = net.add("CumSum", h, net.constant("axis", np.int64(1)), name="sums")
    h = net.relu(net.conv(h, WIDTH, WIDTH, name="b"), "rb")
    return net.head(net.conv(h, WIDTH, WIDTH, name="c"), WIDTH)


GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    made.__name__: made
    for made in (
        *(plain, residual, padded_residual, depthwise, grouped, concatenated, squeeze_excite, flattened, split),
        *(mlp, attention, unknown),
    )
}
