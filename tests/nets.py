"""Small ONNX models for tests, built here, with seeded weights: quick to run, real all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlopt.serve.session import AS_WRITTEN

CLASSES = 10


def weights(name: str, *shape: int, scale: float = 1.0, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng([seed, *name.encode()]).standard_normal(shape) * scale
    return numpy_helper.from_array(values.astype(np.float32), name)


def conv_net(*, channels: int = 3, side: int = 32, width: int = 16, batch: str | int = "N") -> onnx.ModelProto:
    """Conv, ReLU, Conv, ReLU, mean over the picture, Gemm: [N, channels, side, side] to [N, 10]."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], name="head", transB=1),
    ]
    fan = channels * 9
    initializers = [
        weights("w1", width, channels, 3, 3, scale=(2 / fan) ** 0.5),
        weights("b1", width, scale=0.1),
        weights("w2", width, width, 3, 3, scale=(2 / (9 * width)) ** 0.5),
        weights("b2", width, scale=0.1),
        weights("w3", CLASSES, width),
        weights("b3", CLASSES),
    ]
    return _model(nodes, initializers, ("image", [batch, channels, side, side]), ("logits", [batch, CLASSES]))


def halves_between_integers() -> onnx.ModelProto:
    """A quantized convolution whose scales are half precision: [N, 3, 32, 32] to [N, 4, 30, 30].

    A bias is more of its steps than half precision counts, so that whoever quantizes it there answers something else.
    """
    half = {"scale": 0.03125, "fine": 2e-5, "out": 0.0078125, "bias": [0.25, 0.5, -0.5, 0.75]}
    initializers = [numpy_helper.from_array(np.asarray(value, np.float16), name) for name, value in half.items()]
    codes = np.random.default_rng(0).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    initializers += [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(np.int8(0), "zero")]
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("QuantizeLinear", ["half", "scale", "zero"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "fine", "zero"], ["w"]),
        helper.make_node("Conv", ["x", "w", "bias"], ["c"], name="conv"),
        helper.make_node("QuantizeLinear", ["c", "out", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "out", "zero"], ["d"]),
        helper.make_node("Cast", ["d"], ["result"], to=TensorProto.FLOAT),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
        for name, shape in (("image", (3, 32, 32)), ("result", (4, 30, 30)))
    ]
    graph = helper.make_graph(nodes, "halves", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    model.metadata_props.add(key=AS_WRITTEN, value="halves between integers")
    return model


def gated_net(*, side: int = 16, width: int = 16) -> onnx.ModelProto:
    """HardSwish twice, a squeeze-and-excite gate, and a ReduceMean over the picture: [N, 3, side, side] to [N, 10]."""
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("HardSwish", ["c1"], ["h1"], name="swish1"),
        helper.make_node("Conv", ["h1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1], group=width),
        helper.make_node("ReduceMean", ["c2"], ["m"], name="squeeze", axes=[-2, -1], keepdims=1),
        helper.make_node("Conv", ["m", "w3"], ["e"], name="excite"),
        helper.make_node("HardSigmoid", ["e"], ["gate"], name="gate", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["c2", "gate"], ["g"], name="gated"),
        helper.make_node("HardSwish", ["g"], ["h2"], name="swish2"),
        helper.make_node("ReduceMean", ["h2"], ["p"], name="pool", axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["p", "w4"], ["logits"], name="head", transB=1),
    ]
    initializers = [
        weights("w1", width, 3, 3, 3, scale=0.5),
        weights("w2", width, 1, 3, 3, scale=0.5),
        weights("w3", width, width, 1, 1, scale=1.0),
        weights("w4", CLASSES, width),
    ]
    return _model(nodes, initializers, ("image", ["N", 3, side, side]), ("logits", ["N", CLASSES]))


def mobile_net(*, side: int = 16) -> onnx.ModelProto:
    """A stem and depthwise-separable convolutions, as mobile nets begin: [N, 3, side, side] to [N, 10]."""
    nodes: list[onnx.NodeProto] = []
    initializers = []
    name, channels = "image", 3
    for number, (width, kernel, group) in enumerate(
        ((8, 3, 1), (8, 3, 8), (16, 1, 1), (16, 3, 16), (64, 1, 1), (64, 3, 64), (32, 1, 1))
    ):
        fan = channels // group * kernel**2
        initializers.append(weights(f"w{number}", width, channels // group, kernel, kernel, scale=(2 / fan) ** 0.5))
        pads = [kernel // 2] * 4
        nodes.append(
            helper.make_node("Conv", [name, f"w{number}"], [f"c{number}"], name=f"conv{number}", pads=pads, group=group)
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"))
        name, channels = f"r{number}", width
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["g"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["g"], ["f"], name="flatten"))
    nodes.append(helper.make_node("Gemm", ["f", "w"], ["logits"], name="head", transB=1))
    initializers.append(weights("w", CLASSES, channels))
    return _model(nodes, initializers, ("image", ["N", 3, side, side]), ("logits", ["N", CLASSES]))


def matmul_net(*, width: int = 64) -> onnx.ModelProto:
    """Two matrix products with a ReLU between: [N, width] to [N, 10]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    initializers = [weights("w1", width, width, scale=width**-0.5), weights("w2", width, CLASSES, scale=width**-0.5)]
    return _model(nodes, initializers, ("x", ["N", width]), ("y", ["N", CLASSES]))


def branching_net(*, width: int = 64) -> onnx.ModelProto:
    """MatMul, Gemm, and an If whose branches alone read two of the weights; a third is an output of the graph."""
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["g", name], [f"{name}_added"], name=f"add_{name}")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_added", TensorProto.FLOAT, ["N", 10])],
        )
        for name in ("up", "down")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Gemm", ["h", "w2", "b2"], ["g"], name="second", transB=1),
        helper.make_node("ReduceSum", ["g"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"], name="positive"),
        helper.make_node("If", ["positive"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1]),
    ]
    held = [weights("w1", width, width, scale=width**-0.5), weights("w2", 10, width, scale=width**-0.5)]
    held += [weights(name, 10) for name in ("b2", "up", "down")] + [weights("told", 3)]
    held.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    graph = helper.make_graph(
        nodes,
        "branching",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10]),
            helper.make_tensor_value_info("told", TensorProto.FLOAT, [3]),
        ],
        held,
    )
    return _checked(graph)


def two_sided_net(*, width: int = 8) -> onnx.ModelProto:
    """Two inputs, one of them whole numbers, to three outputs of three types: [N, width] and [N] in."""
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["row"], name="lookup"),
        helper.make_node("Add", ["x", "row"], ["sum"], name="add"),
        helper.make_node("Gemm", ["sum", "w", "b"], ["scores"], name="head", transB=1),
        helper.make_node("ArgMax", ["scores"], ["best"], name="best", axis=1, keepdims=0),
        helper.make_node("Greater", ["sum", "row"], ["above"], name="above"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, ["N", width]), value("index", TensorProto.INT64, ["N"])],
        [
            value("best", TensorProto.INT64, ["N"]),
            value("scores", TensorProto.FLOAT, ["N", CLASSES]),
            value("above", TensorProto.BOOL, ["N", width]),
        ],
        [weights("table", 5, width), weights("w", CLASSES, width), weights("b", CLASSES)],
    )
    return _checked(graph)


def depthwise_net(*, width: int = 16, side: int = 16) -> onnx.ModelProto:
    """Separable convolutions with one addition around two of them: [N, 3, side, side] to [N, 10]."""
    nodes = [helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], name="stem", pads=[1, 1, 1, 1])]
    nodes.append(helper.make_node("Relu", ["c0"], ["r0"], name="relu0"))
    initializers = [weights("w0", width, 3, 3, 3, scale=(2 / 27) ** 0.5), weights("b0", width, scale=0.1)]
    for number in (1, 2, 3):
        read = "sum" if number == 3 else f"r{number - 1}"
        nodes += [
            helper.make_node(
                "Conv", [read, f"d{number}", f"e{number}"], [f"a{number}"], name=f"depth{number}", group=width,
                pads=[1, 1, 1, 1],
            ),
            helper.make_node("Relu", [f"a{number}"], [f"s{number}"], name=f"relu_depth{number}"),
            helper.make_node("Conv", [f"s{number}", f"w{number}", f"b{number}"], [f"c{number}"], name=f"point{number}"),
            helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"relu{number}"),
        ]  # fmt: skip
        if number == 2:
            nodes.append(helper.make_node("Add", ["r0", "r2"], ["sum"], name="add"))
        initializers += [
            weights(f"d{number}", width, 1, 3, 3, scale=(2 / 9) ** 0.5),
            weights(f"e{number}", width, scale=0.1),
            weights(f"w{number}", width, width, 1, 1, scale=(2 / width) ** 0.5),
            weights(f"b{number}", width, scale=0.1),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", ["r3"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["logits"], name="head", transB=1),
    ]
    initializers += [weights("w4", CLASSES, width), weights("b4", CLASSES)]
    return _model(nodes, initializers, ("image", ["N", 3, side, side]), ("logits", ["N", CLASSES]))


def transformer_net(*, width: int = 32, tokens: int = 8, outliers: float = 1.0, fused: bool = True) -> onnx.ModelProto:
    """One block of a transformer, [N, tokens, width] to [N, tokens, width]. Two channels behind each normalisation are
    `outliers` times as large as the others, and what reads them undoes that. Not `fused`: the normalisations end in
    their own multiplication and addition."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    size = np.where(np.isin(np.arange(width), (3, width - 5)), np.float32(outliers), np.float32(1))

    def constant(name: str, array: np.ndarray) -> str:
        initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def norm(read: str, made: str) -> str:
        scale, bias = (numpy_helper.to_array(weights(f"{made}_{part}", width, scale=0.2)) for part in ("g", "b"))
        own = [constant(f"{made}_gamma", (1 + scale) * size), constant(f"{made}_beta", bias * size)]
        if fused:
            nodes.append(helper.make_node("LayerNormalization", [read, *own], [made], name=made))
            return made
        plain = constant(f"{made}_one", np.ones(width))
        nodes.append(helper.make_node("LayerNormalization", [read, plain], [f"{made}_n"], name=f"{made}_n"))
        nodes.append(helper.make_node("Mul", [f"{made}_n", own[0]], [f"{made}_m"], name=f"{made}_m"))
        nodes.append(helper.make_node("Add", [f"{made}_m", own[1]], [made], name=made))
        return made

    def product(read: str, made: str, rows: int, columns: int, undone: bool = False) -> str:
        array = numpy_helper.to_array(weights(f"{made}_w", rows, columns, scale=rows**-0.5))
        weight = constant(f"{made}_weight", array / size[:, None] if undone else array)
        nodes.append(helper.make_node("MatMul", [read, weight], [made], name=made))
        return made

    first = norm("x", "norm1")
    query, key, value = (product(first, made, width, width, undone=True) for made in ("query", "key", "value"))
    nodes.append(helper.make_node("Transpose", [key], ["turned"], name="turned", perm=[0, 2, 1]))
    nodes.append(helper.make_node("MatMul", [query, "turned"], ["scores"], name="scores"))
    nodes.append(helper.make_node("Softmax", ["scores"], ["attention"], name="attention", axis=-1))
    nodes.append(helper.make_node("MatMul", ["attention", value], ["mixed"], name="mixed"))
    nodes.append(helper.make_node("Add", ["x", product("mixed", "out", width, width)], ["added"], name="added"))
    wide = product(norm("added", "norm2"), "wide", width, 2 * width, undone=True)
    nodes.append(helper.make_node("Relu", [wide], ["relu"], name="relu"))
    nodes.append(helper.make_node("Add", ["added", product("relu", "narrow", 2 * width, width)], ["y"], name="last"))
    return _model(nodes, initializers, ("x", ["N", tokens, width]), ("y", ["N", tokens, width]))


def fire_net(*, side: int = 16, width: int = 8) -> onnx.ModelProto:
    """MaxPool, a squeeze, two convolutions of unlike scales side by side, Concat, MaxPool and a convolution: as in
    SqueezeNet (Iandola et al., 2016); [N, 3, side, side] to [N, 10]."""

    def conv(name: str, read: str, *, pad: int = 0) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Conv", [read, f"{name}_w", f"{name}_b"], [f"{name}_c"], name=name, pads=[pad] * 4),
            helper.make_node("Relu", [f"{name}_c"], [name], name=f"{name}_relu"),
        ]

    nodes = [
        *conv("stem", "image", pad=1),
        helper.make_node("MaxPool", ["stem"], ["p1"], name="pool1", kernel_shape=[3, 3], strides=[2, 2]),
        *conv("squeeze", "p1"),
        *conv("one", "squeeze"),
        *conv("three", "squeeze", pad=1),
        helper.make_node("Concat", ["one", "three"], ["joined"], name="join", axis=1),
        helper.make_node("MaxPool", ["joined"], ["p2"], name="pool2", kernel_shape=[2, 2], strides=[2, 2]),
        *conv("last", "p2"),
        helper.make_node("GlobalAveragePool", ["last"], ["g"], name="mean"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head_w", "head_b"], ["logits"], name="head", transB=1),
    ]
    shapes = {
        "stem": (2 * width, 3, 3, 3),
        "squeeze": (width, 2 * width, 1, 1),
        "one": (width, width, 1, 1),
        "three": (width, width, 3, 3),
        "last": (2 * width, 2 * width, 1, 1),
    }
    initializers = [weights("head_w", CLASSES, 2 * width), weights("head_b", CLASSES)]
    for name, shape in shapes.items():
        wider = 3 if name == "three" else 1
        initializers += [
            weights(f"{name}_w", *shape, scale=wider * (2 / np.prod(shape[1:])) ** 0.5),
            weights(f"{name}_b", shape[0], scale=0.1),
        ]
    return _model(nodes, initializers, ("image", ["N", 3, side, side]), ("logits", ["N", CLASSES]))


def unbalanced(model: onnx.ModelProto, *, seed: int = 0, octaves: float = 4) -> onnx.ModelProto:
    """The same function with the channels between layers scaled by 2^U(-octaves, octaves): only a quantizer minds."""
    from mlopt.repair.chains import pairs_of, scale

    random = np.random.default_rng(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    for pair in pairs_of(copy.graph):
        scale(pair, constants, 2 ** random.uniform(-octaves, octaves, pair.first.channels_out))
    for tensor in copy.graph.initializer:
        array = constants[tensor.name]
        tensor.CopyFrom(numpy_helper.from_array(array.astype(numpy_helper.to_array(tensor).dtype), tensor.name))
    return copy


def two_of_four(model: onnx.ModelProto) -> onnx.ModelProto:
    """The first two of each four inputs of every convolution gone, where they can be counted in fours."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim == 4 and values.shape[1] % 4 == 0:
            values[:, 0::4] = values[:, 1::4] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def words_net() -> onnx.ModelProto:
    """Four words looked up and summed, and a vector added: ids [N, 4] of 64 bits and "x:0" [N, 8] to [N, 8]."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"], name="lookup", axis=0),
        helper.make_node("ReduceSum", ["found", "axes"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Add", ["sum", "x:0"], ["y"], name="add"),
    ]
    initializers = [weights("table", 16, 8), numpy_helper.from_array(np.array([1]), "axes")]
    return _model(nodes, initializers, ("x:0", ["N", 8]), ("y", ["N", 8]), integers=("ids", ["N", 4]))


def masked_net() -> onnx.ModelProto:
    """Numbers from which fifty is taken where a mask of integers is 0, as attention does: mask [N, 4] of 64 bits
    and x [N, 4] to [N, 4]."""
    nodes = [
        helper.make_node("Cast", ["mask"], ["kept"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "kept"], ["left"], name="left"),
        helper.make_node("Mul", ["left", "far"], ["away"], name="away"),
        helper.make_node("Add", ["x", "away"], ["y"], name="add"),
    ]
    initializers = [numpy_helper.from_array(np.float32(1), "one"), numpy_helper.from_array(np.float32(-50), "far")]
    return _model(nodes, initializers, ("x", ["N", 4]), ("y", ["N", 4]), integers=("mask", ["N", 4]))


def _model(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    source: tuple[str, list[str | int]],
    result: tuple[str, list[str | int]],
    *,
    integers: tuple[str, list[str | int]] | None = None,
) -> onnx.ModelProto:
    """`integers` are the name and the shape of an input of 64 bits before the other one."""
    sources = [(integers, TensorProto.INT64)] if integers else []
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(one[0], kind, one[1]) for one, kind in [*sources, (source, TensorProto.FLOAT)]],
        [helper.make_tensor_value_info(result[0], TensorProto.FLOAT, result[1])],
        initializers,
    )
    return _checked(graph)


def _checked(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
